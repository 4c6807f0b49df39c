"""Random arguments for any loss, by the names in its signature."""

import inspect

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.pairs import una_centred_pairwise

# Every loss of the package by name, with its feedback kind or form as suffix.
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
TOKEN_ARGUMENTS = ("token_logps", "old_token_logps", "advantages", "values", "old_values", "returns")
"""Arguments of shape (B, T)."""


@pytest.fixture(params=list(LOSSES))
def loss(request):
    """Each loss in turn."""
    return LOSSES[request.param]


@pytest.fixture
def random_arguments():
    """random_arguments(loss, size): arguments by name. Neighbours share a prompt, labels are in [0, 1]."""

    def make(loss, size=6, *, dtype=torch.float64, seed=0, groups=True):
        torch.manual_seed(seed)
        arguments = {}
        for name, parameter in inspect.signature(loss).parameters.items():
            if name in TOKEN_ARGUMENTS:
                arguments[name] = torch.randn(size, 3, dtype=dtype)
            elif name == "mask":
                arguments[name] = torch.arange(3) <= (torch.arange(size) % 3)[:, None]
            elif name.endswith("logps"):
                arguments[name] = -5 * torch.rand(size, dtype=dtype)
            elif name.endswith(("scores", "rewards")):
                arguments[name] = torch.randn(size, dtype=dtype)
            elif name.endswith("lengths"):
                arguments[name] = torch.arange(size) % 3 + 1
            elif name == "margins" or name.endswith("win_rates") or name == "labels":
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

    return make
