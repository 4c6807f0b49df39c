"""The choices of a method record compose to its loss: shape(comparison(reward)) + regulariser."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from una_ref.methods import METHODS, alphapo, credit, gpo, pair_shapes, rewards, scored_pairs, shapes
from una_ref.methods.arguments import PAIRED
from una_ref.methods.measures import measured
from una_ref.theory import DIVERGENCES

Arguments = Mapping[str, Any]
Reward = Callable[[Arguments], Tensor]


def _call(function: Callable[..., Any], arguments: Arguments, *first: Any) -> Any:
    """`function` called with `first` and the `arguments` in its signature."""
    names = list(inspect.signature(function).parameters)[len(first) :]
    return function(*first, **{name: arguments[name] for name in names if name in arguments})


def _side(arguments: Arguments, side: str) -> Arguments:
    """The arguments of one response of a pair under the names of a single response: chosen_logps -> logps."""
    single = {PAIRED[name][0]: value for name, value in arguments.items() if PAIRED.get(name, ("", ""))[1] == side}
    return {**arguments, **single}


def _single_reward(reward: Reward, arguments: Arguments) -> Tensor:
    return reward(arguments)


def _reward_minus_score(reward: Reward, arguments: Arguments) -> Tensor:
    return reward(arguments) - arguments["scores"]


def _reward_minus_win_rate(reward: Reward, arguments: Arguments) -> Tensor:
    return reward(arguments) - (arguments["scores"] - 0.5)


def _reward_margin(reward: Reward, arguments: Arguments) -> Tensor:
    return rewards.margin(reward(_side(arguments, "chosen")), reward(_side(arguments, "rejected")))


REWARDS: Mapping[str, Callable[..., Tensor]] = {
    "a scalar head": rewards.scalar_head,
    "log π": rewards.log_likelihood,
    "log(π/π_ref)": rewards.log_ratio,
    "β·log(π/π_t)": rewards.step_reward,
    "β·log(π/π_ref)": rewards.implicit_reward,
    "β·log(π/π_ref) + c": lambda logps, ref_logps, beta, baseline=0.0: (
        rewards.implicit_reward(logps, ref_logps, beta) + baseline
    ),
    "β·log(π/π_ref) + V(x)": rewards.centred_reward,
    "f′(π/π_ref)": rewards.f_slope,
    "β·f′(π/π_ref)": rewards.f_reward,
    "β·log π/|y|": rewards.length_normalised,
    "β·log π": lambda logps, beta: beta * logps,
    "β·log(π/π_ref) + α·|y|": lambda logps, ref_logps, lengths, beta, alpha: (
        beta * (logps - ref_logps) + alpha * lengths.to(logps)
    ),
    "log(π/π_ref)/η": lambda logps, ref_logps, eta: (logps - ref_logps) / eta,
    "log(P/(1 − P)), log P = log π/|y|": lambda logps, lengths: torch.logit((logps / lengths).exp()),
    "Σ_t β·log(π/π_ref)": credit.credited_reward,
    "β·log(π/π_ref) + β·SeqKL": lambda logps, ref_logps, logits, ref_logits, mask, beta: (
        beta
        * (
            logps
            - ref_logps
            + torch.nn.functional.kl_div(logits, ref_logits, reduction="none", log_target=True)
            .sum(-1)
            .masked_fill(~mask, 0)
            .sum(-1)
        )
    ),
    "β·log(π/π_ref)/|y|": lambda logps, ref_logps, lengths, beta: beta * (logps - ref_logps) / lengths,
    "β·(1 − p^(−α))/α, log p = log π/|y|": alphapo.power_reward,
}
COMPARISONS: Mapping[str, Callable[[Reward, Arguments], Tensor]] = {
    "a demonstration": _single_reward,
    "one response and a label": _single_reward,  # the shape takes the label
    "one response and a score": _reward_minus_score,
    "one response and a win rate": _reward_minus_win_rate,
    "two responses of a prompt": _reward_margin,
}
SHAPES: Mapping[str, Callable[..., Tensor]] = {
    "linear": shapes.linear,
    "logistic": shapes.logistic,
    "logistic at γ": lambda x, gamma: shapes.logistic(x - gamma),
    "smoothed logistic": shapes.smoothed_logistic,
    "squared": shapes.squared,
    "half squared": lambda x: shapes.squared(x) / 2,
    "squared at 1/(2β)": lambda x, beta: shapes.squared(x, 1 / (2 * beta)),
    "reversed KL from the label": pair_shapes.reversed_divergence,
    "noise-corrected logistic": pair_shapes.noise_corrected_logistic,
    "logistic, then exponential": pair_shapes.modulated,
    "squared over β²": lambda x, beta: shapes.squared(x) / beta**2,
    "BCE": shapes.bce,
    "BCE at δ": lambda x, labels, running_gain, beta: shapes.bce(x - beta * running_gain, labels),
    "MSE of σ": shapes.mse,
    "Kahneman–Tversky σ": lambda x, labels, kl, beta, desirable_weight=1.0, undesirable_weight=1.0: (
        shapes.kahneman_tversky(x - beta * kl, labels, desirable_weight, undesirable_weight)
    ),
    "Kahneman–Tversky σ at 0": shapes.kahneman_tversky,
    "a measure g": lambda x, measure, width: measured(x, torch.zeros_like(x), measure, width),
    "softplus of the rejected": shapes.rejected_softplus,
    "linear in the rejected": shapes.rejected_linear,
    "score function": shapes.score_function,
    "any falling f": lambda x, function: gpo.margin_shape(function)(x),
    "hinge or logistic": lambda x, function: {"hinge_norm": shapes.hinge, "sigmoid_norm": shapes.logistic}[function](x),
    "hinge at δ": lambda x, delta: (delta - x).relu(),
    "λ·logistic": lambda x, lam: lam * shapes.logistic(x),
    "a distance from η·Δs": lambda x, margins, eta, distance: scored_pairs.DISTANCES[distance](x, eta * margins),
    "squared at Δs": lambda x, margins: shapes.squared(x - margins),
    "logistic at Δs": lambda x, margins: shapes.logistic(x - margins),
    "logistic at η·Δs": lambda x, margins, eta: shapes.logistic(x - eta * margins),
}
REGULARISERS: Mapping[str, Callable[..., Tensor | float]] = {
    "none": lambda: 0.0,
    "−λ·log π(y_w)": lambda chosen_logps, lam: -lam * chosen_logps,
    "−log π(y_w)/|y_w|": lambda chosen_logps, chosen_lengths: -chosen_logps / chosen_lengths,
    "c·(sum of both rewards)²": lambda chosen_rewards, rejected_rewards, centring: (
        centring * (chosen_rewards + rejected_rewards) ** 2
    ),
}


def compose(reward: str, comparison: str, shape: str, regulariser: str = "none") -> Callable[..., Tensor]:
    """The loss composed from the choices: arguments by name -> one value per example."""
    reward_of, compare, shape_of, regularise = (
        REWARDS[reward],
        COMPARISONS[comparison],
        SHAPES[shape],
        REGULARISERS[regulariser],
    )

    def loss(**arguments: Any) -> Tensor:
        x = compare(lambda response: _call(reward_of, response), arguments)
        return _call(shape_of, arguments, x) + _call(regularise, arguments)

    return loss


def composition(method, reward=None):
    """The loss composed from a record's choices, with its hyper-parameters."""
    choices = reward or method.formula, method.comparison, method.shape, method.regulariser
    return partial(compose(*choices), **method.hyperparameters)


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.composes], ids=lambda m: m.name)
def test_loss_equals_composition_of_record_choices(method, random_arguments):
    for groups in (True, False):
        arguments = random_arguments(method.loss, groups=groups)
        if "desirable_weight" in inspect.signature(method.loss).parameters:
            arguments |= {"desirable_weight": 0.7, "undesirable_weight": 1.3}
        torch.testing.assert_close(composition(method)(**arguments), method.loss(**arguments), rtol=0, atol=1e-14)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", ["f-dpo", "iupo"])
def test_divergence_changes_only_the_reward(name, divergence, random_arguments):
    method = METHODS[name]
    arguments = random_arguments(method.loss) | {"divergence": divergence, "alpha": 0.3}
    torch.testing.assert_close(composition(method)(**arguments), method.loss(**arguments), rtol=1e-14, atol=1e-14)


def test_different_reward_choice_gives_a_different_loss(random_arguments):
    arguments = random_arguments(METHODS["dpo"].loss)
    other = compose("log(π/π_ref)", "two responses of a prompt", "logistic")
    assert (other(**arguments) - METHODS["dpo"].loss(**arguments)).abs().min() > 1e-3


def test_every_composition_entry_is_used_by_a_method():
    methods = METHODS.values()
    methods = [m for m in methods if m.composes]
    assert {m.formula for m in methods} == set(REWARDS)
    assert {m.comparison for m in methods} == set(COMPARISONS)
    assert {m.shape for m in methods} == set(SHAPES)
    assert {m.regulariser for m in methods} == set(REGULARISERS)


@pytest.mark.parametrize("divergence", sorted(set(DIVERGENCES) - {"reverse_kl"}))
@pytest.mark.parametrize("name", ["f-dpo", "iupo"])
def test_reward_offset_shared_by_a_pair_cancels_for_every_divergence(name, divergence, random_arguments, monkeypatch):
    method = METHODS[name]
    arguments = random_arguments(method.loss) | {"divergence": divergence}
    offset = torch.randn(6, dtype=torch.float64)
    plain = composition(method)(**arguments)
    reward = REWARDS[method.formula]

    def shifted(logps, ref_logps, beta=1.0, divergence="reverse_kl", alpha=0.5):
        given = {"logps": logps, "ref_logps": ref_logps, "beta": beta, "divergence": divergence, "alpha": alpha}
        return _call(reward, given) + offset

    monkeypatch.setitem(REWARDS, "shifted", shifted)
    moved = composition(method, reward="shifted")
    torch.testing.assert_close(moved(**arguments), plain, rtol=0, atol=1e-12)
    single = _side(arguments, "chosen")
    assert (_call(shifted, single) - _call(reward, single)).abs().min() > 1e-3
