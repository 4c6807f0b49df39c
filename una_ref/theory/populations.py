"""A loss in expectation: its mean over all responses of a world, by enumeration, as a function of the policy.

A loss is any function that takes the vocabulary's arguments by name, one number per example, and returns one number per
example. `fixed_point` minimises what these functions return.
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


def thumbs(loss: Loss, world: TableWorld, sampler: Tensor, up: Tensor, **more: Tensor) -> Population:
    """The same for a loss on labels that are 1 with probability `up` (X, Y): both labels, by their probabilities."""
    yes = singles(loss, world, sampler * up, labels=torch.ones_like(up), **more)
    no = singles(loss, world, sampler * (1 - up), labels=torch.zeros_like(up), **more)
    return lambda logps: yes(logps) + no(logps)


def over_pairs(
    loss: Loss, preferences: Tensor, sampler_logps: Tensor, ref_logps: Tensor, **settings: Any
) -> Population:
    """log π (X, Y) -> the loss's mean over y, y' ~ μ, drawn one by one, of which P says who wins; summed over prompts.

    Draws of the same response twice are left out: no loss here depends on the policy there. `preferences` (X, Y, Y) as
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
