"""What a method calls the reward of a response, and what a response is measured against.

Everything here takes and returns one number per example, in the dtype it is given. Log-probabilities are sums
over the response's tokens, in nats; β carries the unit of the rewards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.theory import divergences
from una_ref.theory.divergences import Divergence

SCALAR_OR_PER_EXAMPLE = frozenset({"baseline", "kl"})
"""The arguments of the vocabulary that may also be one number for the whole batch."""


def per_example(beta: float = 1.0, /, **tensors: Tensor | float | None) -> None:
    """Raises ValueError unless all `tensors` have one and the same shape (B,), and β > 0.

    A (B, 1) or (B, T) tensor among (B,) ones would broadcast in silence, and for B = 1 or B = T even to a
    plausible shape. `baseline` and `kl` may also be a number or a 0-dimensional tensor; an argument that is
    None is left out.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    shapes = {
        name: tuple(torch.as_tensor(value).shape)
        for name, value in tensors.items()
        if value is not None and not (name in SCALAR_OR_PER_EXAMPLE and torch.as_tensor(value).dim() == 0)
    }
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"per-example tensors must share one shape, got {shapes}")


def per_token(**tensors: Tensor) -> None:
    """Raises ValueError unless all `tensors` have one and the same shape (B, T)."""
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"per-token tensors must share one shape, got {shapes}")


def scalar_head(rewards: Tensor) -> Tensor:
    """r_φ(x, y): the number that a scorer gives the response, a reward of its own and no policy's."""
    return rewards


def log_likelihood(logps: Tensor) -> Tensor:
    """log π(y|x): the reward of methods that are anchored at nothing."""
    return logps


def log_ratio(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """u = log π(y|x)/π_ref(y|x), in nats."""
    return logps - ref_logps


def implicit_reward(logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """r_θ = β·log π(y|x)/π_ref(y|x)   (UNA Eq. 6).

    At the optimum of the RLHF objective this is the explicit reward less β·log Z(x), and not the reward
    itself, as UNA says (EU2): hence the baseline of the methods that compare one response with a number.
    """
    return beta * log_ratio(logps, ref_logps)


def f_slope(
    logps: Tensor, ref_logps: Tensor, divergence: str | Divergence = "reverse_kl", alpha: float = 0.5
) -> Tensor:
    """f′(π/π_ref), without unit, f′(1) = 0; u = log π/π_ref itself for the reverse KL (UPO Theorem 3.1).

    `alpha` is that of the divergence "alpha". Raises ValueError as `divergence_of` does.
    """
    slope = divergence_of(divergence, alpha).slope
    u = log_ratio(logps, ref_logps)
    # e^u overflows where u is an everyday number, and ∞ − ∞ is none. So f′ goes on in a straight line from where w
    # or 1/w is the cube root of the largest number: 29.6 nats in float32, 237 in float64. (The identity stays itself.)
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
    """β·f′(π/π_ref): the implicit reward where an f-divergence keeps π near π_ref (UPO Eq. 18, survey Eq. 67).

    At the optimum this is the explicit reward less one λ(x) for each prompt (EP2); r_θ for the reverse KL.
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
    """r_θ + V(x), where V(x) is `baseline` if given, else the leave-one-out mean of s − r_θ in the group.

    The general form of UNA's App. C, Eq. 23, with f(x) + c read as one number for each prompt, since only the
    sum f(x) + β·log λ = β·log Z(x) is determined (EU3, EU5). Raises ValueError where neither of the two is to
    be had.
    """
    reward = implicit_reward(logps, ref_logps, beta)
    if baseline is None:
        if groups is None:
            raise ValueError("a centred reward needs `baseline`, one V(x) for each example, or `groups`")
        baseline = leave_one_out(scores - reward, groups)
    return reward + baseline


def margin(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The chosen response's reward above the rejected one's; whatever a prompt adds to both cancels."""
    return chosen - rejected


def leave_one_out(values: Tensor, groups: Tensor) -> Tensor:
    """For each example the mean of `values` over the *other* members of its group, (B,), without gradient.

    `groups` (B,) are integers, equal for responses of one prompt, in any order. Raises ValueError where a
    group has a single member: give `baseline`, or two or more responses of each prompt.
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
