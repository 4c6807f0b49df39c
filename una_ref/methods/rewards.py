"""What a method calls the reward of a response, and what a response is measured against.

Functions here take and return one number per example, in the dtype they are given. Log-probabilities are sums over the
response's tokens, in nats; β carries the unit of the rewards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from una_ref.errors import InputError
from una_ref.methods.ranges import positive
from una_ref.theory import divergences
from una_ref.theory.divergences import Divergence


@dataclass(frozen=True)
class Reward:
    """What a method calls the reward of a response.

    Attributes:
        formula: as tables print it.
        function: arguments of the vocabulary and hyper-parameters, by name -> (B,) rewards. None where a response has
            no reward of its own: an imitated response, or a reward for each token.
    """

    formula: str
    function: Callable[..., Tensor] | None


SCALAR_OR_PER_EXAMPLE = frozenset({"baseline", "kl"})
"""The arguments that may also be one number for the whole batch."""


def per_example(beta: float = 1.0, /, **tensors: Tensor | float | None) -> None:
    """Raises ValueError unless all `tensors` have the same shape (B,), and β > 0.

    A (B, 1) or (B, T) tensor among (B,) tensors would broadcast without an error. `baseline` and `kl` may also be a
    number or a 0-dimensional tensor. An argument that is None is left out.
    """
    positive(beta=beta)
    shapes = {
        name: tuple(torch.as_tensor(value).shape)
        for name, value in tensors.items()
        if value is not None and not (name in SCALAR_OR_PER_EXAMPLE and torch.as_tensor(value).dim() == 0)
    }
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"per-example tensors must share one shape, got {shapes}")


def boolean_masks(**tensors: Tensor) -> None:
    """Raises InputError for a mask that is not bool, among the arguments of a loss by name."""
    for name, value in tensors.items():
        if name.endswith("mask") and value.dtype != torch.bool:
            got = str(value.dtype).removeprefix("torch.")
            raise InputError(f"{name}: expected bool, True at what counts, got {got}. Fix: {name}.bool()")


def per_token(**tensors: Tensor) -> None:
    """Raises ValueError unless all `tensors` have the same shape (B, T), and a mask is bool."""
    boolean_masks(**tensors)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"per-token tensors must share one shape, got {shapes}")


def scalar_head(rewards: Tensor) -> Tensor:
    """r_φ(x, y): the output of a scorer."""
    return rewards


def log_likelihood(logps: Tensor) -> Tensor:
    """log π(y|x), in nats."""
    return logps


def log_ratio(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """u = log π(y|x)/π_ref(y|x), in nats."""
    return logps - ref_logps


def implicit_reward(logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """r_θ = β·log π(y|x)/π_ref(y|x)   (UNA Eq. 6).

    At the optimum of the RLHF objective this is the explicit reward minus β·log Z(x). UNA says that it is the reward
    itself (EU2). Methods that compare one response with a number therefore need a baseline.
    """
    return beta * log_ratio(logps, ref_logps)


def inverse_scaled(logps: Tensor, ref_logps: Tensor, eta: float) -> Tensor:
    """(1/η)·log π/π_ref: REBEL's reward, the implicit reward at β = 1/η (https://arxiv.org/abs/2404.16767)."""
    return implicit_reward(logps, ref_logps, 1 / eta)


def scaled_log_likelihood(logps: Tensor, beta: float) -> Tensor:
    """β·log π(y|x): CPO's reward, the implicit reward with a uniform reference (https://arxiv.org/abs/2401.08417)."""
    return beta * logps


def step_reward(logps: Tensor, old_logps: Tensor, beta: float) -> Tensor:
    """β·log π(y|x)/π_t(y|x), where π_t is the policy that sampled the response."""
    return implicit_reward(logps, old_logps, beta)


def f_slope(
    logps: Tensor, ref_logps: Tensor, divergence: str | Divergence = "reverse_kl", alpha: float = 0.5
) -> Tensor:
    """f′(π/π_ref), dimensionless, with f′(1) = 0. For the reverse KL it is log π/π_ref (UPO Theorem 3.1).

    `alpha` is that of the divergence "alpha". Raises ValueError as `divergence_of` does.
    """
    slope = divergence_of(divergence, alpha).slope
    u = log_ratio(logps, ref_logps)
    # e^u overflows for ordinary u, and ∞ − ∞ is not a number. f′ is therefore continued as a straight line from the
    # point where w or 1/w is the cube root of the largest float: 29.6 nats in float32, 237 in float64.
    far = math.log(torch.finfo(u.dtype).max) / 3
    near = u.clamp(-far, far)
    rise = (slope(near) - slope(near - near.sign())).detach()
    return slope(near) + rise * (u - near).abs()


def f_reward(
    logps: Tensor,
    ref_logps: Tensor,
    beta: float,
    divergence: str | Divergence = "reverse_kl",
    alpha: float = 0.5,
) -> Tensor:
    """β·f′(π/π_ref): the implicit reward under an f-divergence from π_ref (UPO Eq. 18, survey Eq. 67).

    At the optimum this is the explicit reward minus one λ(x) for each prompt (EP2). For the reverse KL it is r_θ.
    """
    return beta * f_slope(logps, ref_logps, divergence, alpha)


def divergence_of(divergence: str | Divergence, alpha: float = 0.5) -> Divergence:
    """The divergence of that name, or the one given; `alpha` is read where the name is "alpha".

    Raises ValueError for a name that is not in `DIVERGENCES`, or an alpha outside (0, 1).
    """
    return divergences.alpha(alpha) if divergence == "alpha" else divergences.named(divergence)


def centred_reward(
    logps: Tensor,
    ref_logps: Tensor,
    scores: Tensor,
    groups: Tensor | None = None,
    baseline: Tensor | float | None = None,
    beta: float = 0.03,
) -> Tensor:
    """r_θ + V(x). V(x) is `baseline` if given, else the leave-one-out mean of s − r_θ in the group.

    It is the general form of UNA's App. C, Eq. 23, with f(x) + c read as one number for each prompt: only the sum
    f(x) + β·log λ = β·log Z(x) is determined (EU3, EU5). Raises ValueError without `baseline` and `groups`.
    """
    reward = implicit_reward(logps, ref_logps, beta)
    if baseline is None:
        if groups is None:
            raise ValueError("a centred reward needs `baseline`, one V(x) for each example, or `groups`")
        baseline = leave_one_out(scores - reward, groups)
    return reward + baseline


def margin(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The chosen response's reward minus the rejected one's. A number that a prompt adds to both cancels."""
    return chosen - rejected


def leave_one_out(values: Tensor, groups: Tensor) -> Tensor:
    """(B,) the mean of `values` over the *other* members of each example's group, without gradient.

    `groups` (B,) are integers, equal for responses of one prompt, in any order. Raises ValueError for a group with a
    single member.
    """
    _, member_of, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    if (sizes < 2).any():
        lone = f"{int((sizes < 2).sum())} of {len(sizes)} groups"
        raise ValueError(
            f"a leave-one-out baseline needs two or more responses of each prompt in the batch, but {lone} "
            "have one: give `baseline`, or K >= 2 responses"
        )
    values = values.detach()
    totals = values.new_zeros(len(sizes)).index_add(0, member_of, values)
    return (totals[member_of] - values) / (sizes[member_of] - 1).to(values.dtype)


def length_normalised(logps: Tensor, lengths: Tensor, beta: float) -> Tensor:
    """β/|y|·log π(y|x), with |y| tokens: SimPO's reward (Meng et al. 2024, https://arxiv.org/abs/2405.14734)."""
    return beta * logps / lengths


def mean_log_odds(logps: Tensor, lengths: Tensor) -> Tensor:
    """log P/(1 − P) with log P = log π/|y|: ORPO's reward (Hong et al. 2024, https://arxiv.org/abs/2403.07691).

    P is taken to be below 1 by one rounding error, because the odds of certainty are infinite.
    """
    mean = length_normalised(logps, lengths, 1.0)
    mean = mean.clamp(max=-torch.finfo(mean.dtype).eps)
    return mean - (-torch.expm1(mean)).log()  # log(1 − e^x) would lose its digits for x near 0


def length_corrected(logps: Tensor, ref_logps: Tensor, lengths: Tensor, beta: float, alpha: float) -> Tensor:
    """β·log π/π_ref + α·|y|: the reward of Eq. 44 up to β·log Z(x) (Park et al., https://arxiv.org/abs/2403.19159)."""
    return implicit_reward(logps, ref_logps, beta) + alpha * lengths.to(logps)


def mean_log_likelihood(logps: Tensor, lengths: Tensor) -> Tensor:
    """log π(y|x)/|y|, with |y| tokens, in nats a token: the reward of RRHF and PRO."""
    return logps / lengths


IMPLICIT = Reward("β·log(π/π_ref)", implicit_reward)
F_IMPLICIT = Reward("β·f′(π/π_ref)", f_reward)
STEP = Reward("β·log(π/π_t)", step_reward)
LOG_RATIO = Reward("log(π/π_ref)", log_ratio)
INVERSE_SCALED = Reward("log(π/π_ref)/η", inverse_scaled)
F_SLOPE = Reward("f′(π/π_ref)", f_slope)
LENGTH_NORMALISED = Reward("β·log π/|y|", length_normalised)
SCALAR_HEAD = Reward("a scalar head", scalar_head)
MEAN_LOG_ODDS = Reward("log(P/(1 − P)), log P = log π/|y|", mean_log_odds)
LENGTH_CORRECTED = Reward("β·log(π/π_ref) + α·|y|", length_corrected)
SCALED_LOG_LIKELIHOOD = Reward("β·log π", scaled_log_likelihood)
LOG_LIKELIHOOD = Reward("log π", None)
MEAN_LOG_LIKELIHOOD = Reward("log π/|y|", mean_log_likelihood)
PER_TOKEN = Reward("s − β·log(π/π_ref) by token", None)
