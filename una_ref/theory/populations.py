"""Population losses: a loss's mean over all responses of a world, by enumeration, as a function of the policy.

A loss is any function that takes its arguments by the package's names, one number per example, and returns one number
per example. `fixed_point` minimises what these functions return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from una_ref.theory.worlds import TableWorld

Loss = Callable[..., Tensor]
Population = Callable[[Tensor], Tensor]


def singles(loss: Loss, world: TableWorld, weights: Tensor, **feedback: Tensor) -> Population:
    """log π (X, Y) -> Σ weights·loss over all responses of all prompts; the feedback broadcasts to (X, Y)."""
    shape = world.rewards.shape
    flat = {name: value.expand(shape).flatten() for name, value in feedback.items()}
    ref = world.ref_logps.flatten()

    def population(logps: Tensor) -> Tensor:
        return (weights.flatten() * loss(logps=logps.flatten(), ref_logps=ref, beta=world.beta, **flat)).sum()

    return population


def binary_labels(loss: Loss, world: TableWorld, sampler: Tensor, positive: Tensor, **more: Tensor) -> Population:
    """The same for a loss on binary labels that are 1 with probability `positive` (X, Y), averaged over the label."""
    ones = singles(loss, world, sampler * positive, labels=torch.ones_like(positive), **more)
    zeros = singles(loss, world, sampler * (1 - positive), labels=torch.zeros_like(positive), **more)
    return lambda logps: ones(logps) + zeros(logps)


def over_pairs(
    loss: Loss, preferences: Tensor, sampler_logps: Tensor, ref_logps: Tensor, **settings: Any
) -> Population:
    """log π (X, Y) -> the loss's mean over independent y, y' ~ μ and over who wins; summed over prompts.

    Pairs of a response with itself are left out: no loss here depends on the policy there. `preferences` (X, Y, Y) as
    in `bradley_terry`, the winner first.
    """
    w, lost = (~torch.eye(ref_logps.shape[-1], dtype=torch.bool)).nonzero(as_tuple=True)
    weights = 2 * sampler_logps.exp()[:, w] * sampler_logps.exp()[:, lost] * preferences[:, w, lost]

    def population(logps: Tensor) -> Tensor:
        losses = loss(
            chosen_logps=logps[:, w].flatten(),
            rejected_logps=logps[:, lost].flatten(),
            ref_chosen_logps=ref_logps[:, w].flatten(),
            ref_rejected_logps=ref_logps[:, lost].flatten(),
            **settings,
        )
        return (weights.flatten() * losses).sum()

    return population


def pairs(loss: Loss, world: TableWorld, sampler: Tensor, preferences: Tensor) -> Population:
    """`over_pairs` on a world at its β, with μ as probabilities (X, Y)."""
    return over_pairs(loss, preferences, sampler.log(), world.ref_logps, beta=world.beta)
