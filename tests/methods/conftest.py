"""Arguments for any loss, drawn by the names in its signature."""

import inspect

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.pairs import una_centred_pairwise

# Every loss that the package has, by what a table would call it.
LOSSES = {
    f"{method.name}{suffix}": loss
    for method in METHODS.values()
    for suffix, loss in (
        *((f":{kind}" if kind != method.kinds[0] else "", loss) for kind, loss in method.losses.items()),
        (".printed", method.printed),
        (".released", method.released),
        (".auxiliary", method.auxiliary and method.auxiliary.loss),
    )
    if loss is not None
} | {"una-centred-pairwise": una_centred_pairwise}
TOKENS = ("token_logps", "old_token_logps", "advantages", "values", "old_values", "returns")
"""Arguments of shape (B, T)."""


@pytest.fixture(params=list(LOSSES))
def loss(request):
    """Each loss in turn."""
    return LOSSES[request.param]


@pytest.fixture
def draw():
    """draw(loss, size) -> random arguments for it: two neighbours share a prompt, labels are in [0, 1]."""

    def draw(loss, size=6, *, dtype=torch.float64, seed=0, groups=True):
        torch.manual_seed(seed)
        arguments = {}
        for name, parameter in inspect.signature(loss).parameters.items():
            if name in TOKENS:
                arguments[name] = torch.randn(size, 3, dtype=dtype)
            elif name == "mask":
                arguments[name] = torch.arange(3) <= (torch.arange(size) % 3)[:, None]
            elif name.endswith("logps"):
                arguments[name] = -5 * torch.rand(size, dtype=dtype)
            elif name.endswith(("scores", "rewards")):
                arguments[name] = torch.randn(size, dtype=dtype)
            elif name == "labels":
                arguments[name] = torch.rand(size, dtype=dtype)
            elif name == "kl":
                arguments[name] = torch.tensor(0.3, dtype=dtype)
            elif name == "beta":
                arguments[name] = 0.7
            elif name == "groups" and groups:
                arguments[name] = torch.arange(size) // 2
            elif name == "baseline" and (not groups or parameter.default is parameter.empty):
                arguments[name] = torch.randn(size, dtype=dtype)
        return arguments

    return draw
