"""The lists that methods choose from, and how choices make a loss: shape(comparison(reward)) + regulariser.

An entry is a function that takes whichever arguments of the vocabulary it names. A record's strings are the
keys, so that what the tables print about a method is what a test composes and compares with the method's own
loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from una_ref.methods import rewards, shapes

Arguments = Mapping[str, Any]
Reward = Callable[[Arguments], Tensor]


def _named(function: Callable[..., Any], arguments: Arguments, *first: Any) -> Any:
    """`function` called with `first` and those `arguments` that it names."""
    names = list(inspect.signature(function).parameters)[len(first) :]
    return function(*first, **{name: arguments[name] for name in names if name in arguments})


def _side(arguments: Arguments, side: str) -> Arguments:
    """The arguments of one response of a pair, named as a single response's: chosen_logps -> logps."""
    own = {name.replace(f"{side}_", ""): value for name, value in arguments.items() if f"{side}_" in name}
    return {**arguments, **own}


def _one_response(reward: Reward, arguments: Arguments) -> Tensor:
    return reward(arguments)


def _one_response_and_its_score(reward: Reward, arguments: Arguments) -> Tensor:
    return reward(arguments) - arguments["scores"]


def _two_responses(reward: Reward, arguments: Arguments) -> Tensor:
    return rewards.margin(reward(_side(arguments, "chosen")), reward(_side(arguments, "rejected")))


REWARDS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
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
)
COMPARISONS: Mapping[str, Callable[[Reward, Arguments], Tensor]] = MappingProxyType(
    {
        "a demonstration": _one_response,
        "one response and a label": _one_response,  # the shape takes the label
        "one response and a score": _one_response_and_its_score,
        "two responses of a prompt": _two_responses,
    }
)
SHAPES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
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
)
REGULARISERS: Mapping[str, Callable[..., Tensor | float]] = MappingProxyType({"none": lambda: 0.0})


def compose(reward: str, comparison: str, shape: str, regulariser: str = "none") -> Callable[..., Tensor]:
    """The loss that the choices make: the vocabulary's arguments by name -> one number per example."""
    chosen = REWARDS[reward], COMPARISONS[comparison], SHAPES[shape], REGULARISERS[regulariser]

    def loss(**arguments: Any) -> Tensor:
        reward_of, compare, bend, regularise = chosen
        x = compare(lambda own: _named(reward_of, own), arguments)
        return _named(bend, arguments, x) + _named(regularise, arguments)

    return loss
