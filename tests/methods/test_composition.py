"""The five choices of a record describe its loss: composed, they give the same number."""

import inspect

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.composition import COMPARISONS, REGULARISERS, REWARDS, SHAPES, compose
from una_ref.theory import DIVERGENCES


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.composes], ids=lambda m: m.name)
def test_the_choices_compose_to_the_loss(method, draw):
    for groups in (True, False):
        arguments = draw(method.loss, groups=groups)
        if "desirable_weight" in inspect.signature(method.loss).parameters:
            arguments |= {"desirable_weight": 0.7, "undesirable_weight": 1.3}
        torch.testing.assert_close(method.composition(**arguments), method.loss(**arguments), rtol=0, atol=1e-14)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", ["f-dpo", "iupo"])
def test_a_divergence_enters_only_in_the_reward(name, divergence, draw):
    method = METHODS[name]
    arguments = draw(method.loss) | {"divergence": divergence, "alpha": 0.3}
    torch.testing.assert_close(method.composition(**arguments), method.loss(**arguments), rtol=1e-14, atol=1e-14)


def test_another_choice_is_another_loss(draw):
    arguments = draw(METHODS["dpo"].loss)
    other = compose("log(π/π_ref)", "two responses of a prompt", "logistic")
    assert (other(**arguments) - METHODS["dpo"].loss(**arguments)).abs().min() > 1e-3


def test_every_entry_is_used():
    methods = METHODS.values()
    methods = [m for m in methods if m.composes]
    assert {m.reward for m in methods} == set(REWARDS)
    assert {m.comparison for m in methods} == set(COMPARISONS)
    assert {m.shape for m in methods} == set(SHAPES)
    assert {m.regulariser for m in methods} == set(REGULARISERS)
