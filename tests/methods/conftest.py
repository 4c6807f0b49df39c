"""Random arguments for any loss, by the names in its signature."""

import inspect

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.pairs import una_centred_pairwise
from una_ref.methods.probe import example_arguments

# Every loss of the package by name, with its feedback kind or form as suffix -> the loss and its kind of feedback.
LOSSES_OF_KIND = {
    f"{method.name}{suffix}": (loss, kind)
    for method in METHODS.values()
    for suffix, loss, kind in (
        *((f":{kind}" if kind != method.kinds[0] else "", loss, kind) for kind, loss in method.losses.items()),
        (".printed", method.printed, method.kinds[0]),
        (".released", method.released, method.kinds[0]),
        (".auxiliary", method.auxiliary and method.auxiliary.loss, "demos"),
    )
    if loss is not None
} | {"una-centred-pairwise": (una_centred_pairwise, "pairs")}
LOSSES = {name: loss for name, (loss, _) in LOSSES_OF_KIND.items()}
KIND_OF = dict(LOSSES_OF_KIND.values())


@pytest.fixture(params=list(LOSSES))
def loss(request):
    """Each loss in turn."""
    return LOSSES[request.param]


@pytest.fixture
def random_arguments():
    """random_arguments(loss, size): arguments by name, with β = 0.7 where the loss has one.

    Neighbours share a prompt, labels are in [0, 1]. With groups=False a baseline is given in place of groups, if the
    loss takes one.
    """

    def make(loss, size=6, *, dtype=torch.float64, seed=0, groups=True):
        arguments = example_arguments(loss, KIND_OF[loss], size, dtype=dtype, seed=seed)
        defaults = {name: parameter.default for name, parameter in inspect.signature(loss).parameters.items()}
        if not groups and "baseline" in arguments:
            arguments.pop("groups", None)
        if groups and "baseline" in arguments and defaults["baseline"] is not inspect.Parameter.empty:
            arguments.pop("baseline")
        if "beta" in defaults:
            arguments["beta"] = 0.7
        return arguments

    return make
