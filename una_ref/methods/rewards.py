"""What a method calls the reward of a response, and what a response is measured against.

Everything here takes and returns one number per example, in the dtype it is given. Log-probabilities are sums
over the response's tokens, in nats; β carries the unit of the rewards.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
