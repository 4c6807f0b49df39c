"""The worlds that claims about UNA share, and quantities measured on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.theory import TableWorld, una_end

F64 = torch.float64

TINY = TableWorld(torch.tensor([[0.5, 0.5]], dtype=F64).log(), torch.tensor([[1.0, 0.0]], dtype=F64), 1.0)
"""The smallest example: two responses, π_ref = (½, ½), r = (1, 0), β = 1."""

TWO_PROMPTS = TableWorld(
    torch.full((2, 2), 0.5, dtype=F64).log(), torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64), 1.0
)
"""Two prompts, π_ref = (½, ½) for both, r = (1, 0) and (2, 0), β = 1: Z = 1.859 and 4.195."""

GENERIC = TableWorld.random(0, prompts=6, responses=5, beta=0.4, offset=0.7)
"""A world without special structure, for identities."""

WORLD = TableWorld.random(0, prompts=40, responses=8, beta=0.5)
"""40 prompts × 8 responses, rewards of mean 0 and sd 1 in each prompt, β = ½; used with offsets."""

SMALL = TableWorld.random(0, prompts=4, responses=5, beta=0.5)
"""The same, small enough to list all groups of responses."""


def random_policies(world: TableWorld, count: int) -> list[Tensor]:
    """Random policies (X, Y), from nearly uniform to nearly deterministic."""
    generator = torch.Generator().manual_seed(0)
    return [
        (width * torch.randn(world.rewards.shape, generator=generator, dtype=F64)).log_softmax(-1)
        for width in torch.linspace(0.1, 6.0, count, dtype=F64)
    ]


def shifted(world: TableWorld, offset: float | Tensor) -> TableWorld:
    """The world with a constant added to all rewards, or one for each prompt (X, 1). π* and the regret stay."""
    return TableWorld(world.ref_logps, world.rewards + offset, world.beta)


def slope(population: Callable[[Tensor], Tensor], logps: Tensor) -> Tensor:
    """∂L/∂logits (X, Y) at log π."""
    logits = logps.detach().requires_grad_()
    return torch.autograd.grad(population(logits.log_softmax(-1)), logits)[0]


def raw_regret(world: TableWorld, offset: float | Tensor = 0.0, **options: object) -> float:
    """Mean regret where UNA's Eq. 10, with the corrected sign, ends when `offset` is added to the rewards."""
    ends = una_end(world.ref_logps, world.rewards + offset, world.beta, **options)  # type: ignore[arg-type]
    return float(world.regret(ends).mean())


def largest(x: Tensor) -> float:
    """The largest absolute value of a tensor."""
    return float(x.abs().max())


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors."""
    return largest(a - b)
