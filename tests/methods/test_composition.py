"""The five choices of a record describe its loss: composed, shape(comparison(reward)) + regulariser gives the loss."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from una_ref.methods import METHODS, rewards, shapes
from una_ref.methods.arguments import PAIRED
from una_ref.theory import DIVERGENCES

Arguments = Mapping[str, Any]
Reward = Callable[[Arguments], Tensor]


def _named(function: Callable[..., Any], arguments: Arguments, *first: Any) -> Any:
    """`function` called with `first` and those `arguments` that it names."""
    names = list(inspect.signature(function).parameters)[len(first) :]
    return function(*first, **{name: arguments[name] for name in names if name in arguments})


def _side(arguments: Arguments, side: str) -> Arguments:
    """The arguments of one response of a pair, named as a single response's: chosen_logps -> logps."""
    own = {PAIRED[name][0]: value for name, value in arguments.items() if PAIRED.get(name, ("", ""))[1] == side}
    return {**arguments, **own}


def _one_response(reward: Reward, arguments: Arguments) -> Tensor:
    return reward(arguments)


def _one_response_and_its_score(reward: Reward, arguments: Arguments) -> Tensor:
    return reward(arguments) - arguments["scores"]


def _two_responses(reward: Reward, arguments: Arguments) -> Tensor:
    return rewards.margin(reward(_side(arguments, "chosen")), reward(_side(arguments, "rejected")))


REWARDS: Mapping[str, Callable[..., Tensor]] = {
    "a scalar head": rewards.scalar_head,
    "log π": rewards.log_likelihood,
    "log(π/π_ref)": rewards.log_ratio,
    "β·log(π/π_ref)": rewards.implicit_reward,
    "β·log(π/π_ref) + c": lambda logps, ref_logps, beta, baseline=0.0: (
        rewards.implicit_reward(logps, ref_logps, beta) + baseline
    ),
    "β·log(π/π_ref) + V(x)": rewards.centred_reward,
    "f′(π/π_ref)": rewards.f_slope,
    "β·f′(π/π_ref)": rewards.f_reward,
}
COMPARISONS: Mapping[str, Callable[[Reward, Arguments], Tensor]] = {
    "a demonstration": _one_response,
    "one response and a label": _one_response,  # the shape takes the label
    "one response and a score": _one_response_and_its_score,
    "two responses of a prompt": _two_responses,
}
SHAPES: Mapping[str, Callable[..., Tensor]] = {
    "linear": shapes.linear,
    "logistic": shapes.logistic,
    "smoothed logistic": shapes.smoothed_logistic,
    "squared": shapes.squared,
    "half squared": lambda x: shapes.squared(x) / 2,
    "squared at 1/(2β)": lambda x, beta: shapes.squared(x, 1 / (2 * beta)),
    "BCE": shapes.bce,
    "MSE of σ": shapes.mse,
    "Kahneman–Tversky σ": lambda x, labels, kl, beta, desirable_weight=1.0, undesirable_weight=1.0: (
        shapes.kahneman_tversky(x - beta * kl, labels, desirable_weight, undesirable_weight)
    ),
    "score function": shapes.score_function,
}
REGULARISERS = {"none": lambda: 0.0}


def compose(reward: str, comparison: str, shape: str, regulariser: str = "none") -> Callable[..., Tensor]:
    """The loss that the choices make: arguments by name -> one number per example."""
    chosen = REWARDS[reward], COMPARISONS[comparison], SHAPES[shape], REGULARISERS[regulariser]

    def loss(**arguments: Any) -> Tensor:
        reward_of, compare, bend, regularise = chosen
        x = compare(lambda own: _named(reward_of, own), arguments)
        return _named(bend, arguments, x) + _named(regularise, arguments)

    return loss


def composition(method, reward=None):
    """The loss made from a record's choices, with its hyper-parameters."""
    choices = reward or method.formula, method.comparison, method.shape, method.regulariser
    return partial(compose(*choices), **method.hyperparameters)


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.composes], ids=lambda m: m.name)
def test_the_choices_compose_to_the_loss(method, draw):
    for groups in (True, False):
        arguments = draw(method.loss, groups=groups)
        if "desirable_weight" in inspect.signature(method.loss).parameters:
            arguments |= {"desirable_weight": 0.7, "undesirable_weight": 1.3}
        torch.testing.assert_close(composition(method)(**arguments), method.loss(**arguments), rtol=0, atol=1e-14)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", ["f-dpo", "iupo"])
def test_a_divergence_enters_only_in_the_reward(name, divergence, draw):
    method = METHODS[name]
    arguments = draw(method.loss) | {"divergence": divergence, "alpha": 0.3}
    torch.testing.assert_close(composition(method)(**arguments), method.loss(**arguments), rtol=1e-14, atol=1e-14)


def test_another_choice_is_another_loss(draw):
    arguments = draw(METHODS["dpo"].loss)
    other = compose("log(π/π_ref)", "two responses of a prompt", "logistic")
    assert (other(**arguments) - METHODS["dpo"].loss(**arguments)).abs().min() > 1e-3


def test_every_entry_is_used():
    methods = METHODS.values()
    methods = [m for m in methods if m.composes]
    assert {m.formula for m in methods} == set(REWARDS)
    assert {m.comparison for m in methods} == set(COMPARISONS)
    assert {m.shape for m in methods} == set(SHAPES)
    assert {m.regulariser for m in methods} == set(REGULARISERS)


@pytest.mark.parametrize("divergence", sorted(set(DIVERGENCES) - {"reverse_kl"}))
@pytest.mark.parametrize("name", ["f-dpo", "iupo"])
def test_a_number_added_to_both_rewards_cancels_for_every_divergence(name, divergence, draw, monkeypatch):
    method = METHODS[name]
    arguments = draw(method.loss) | {"divergence": divergence}
    offset = torch.randn(6, dtype=torch.float64)
    plain = composition(method)(**arguments)
    reward = REWARDS[method.formula]

    def shifted(logps, ref_logps, beta=1.0, divergence="reverse_kl", alpha=0.5):
        given = {"logps": logps, "ref_logps": ref_logps, "beta": beta, "divergence": divergence, "alpha": alpha}
        return _named(reward, given) + offset

    monkeypatch.setitem(REWARDS, "shifted", shifted)
    moved = composition(method, reward="shifted")
    torch.testing.assert_close(moved(**arguments), plain, rtol=0, atol=1e-12)
    single = _side(arguments, "chosen")
    assert (_named(shifted, single) - _named(reward, single)).abs().min() > 1e-3
