"""Worlds that the claims about UNA's losses share, and what is measured on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.theory import TableWorld, una_end

WORLD = TableWorld.random(0, prompts=40, responses=8, beta=0.5)
"""40 prompts × 8 responses, rewards of mean 0 and sd 1 in each prompt, β = ½; used with offsets."""

SMALL = TableWorld.random(0, prompts=4, responses=5, beta=0.5)
"""The same at a size at which groups of responses can be listed too."""


def shifted(world: TableWorld, offset: float | Tensor) -> TableWorld:
    """The world with a constant added to its rewards, or one for each prompt (X, 1). π* and the regret stay."""
    return TableWorld(world.ref_logps, world.rewards + offset, world.beta)


def slope(population: Callable[[Tensor], Tensor], logps: Tensor) -> Tensor:
    """∂L/∂logits (X, Y) at log π."""
    logits = logps.detach().requires_grad_()
    return torch.autograd.grad(population(logits.log_softmax(-1)), logits)[0]


def raw_regret(world: TableWorld, offset: float | Tensor = 0.0, **options: object) -> float:
    """Mean regret where UNA's Eq. 10, sign mended, ends when `offset` is added to the rewards."""
    ends = una_end(world.ref_logps, world.rewards + offset, world.beta, **options)  # type: ignore[arg-type]
    return float(world.regret(ends).mean())


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors."""
    return float((a - b).abs().max())
