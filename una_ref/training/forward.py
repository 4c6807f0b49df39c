"""What a micro-batch is after its forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from una_ref.data.batch import Batch


@dataclass(frozen=True, eq=False)
class Forward:
    """A micro-batch after the forward pass.

    Attributes:
        batch: B responses.
        losses: every loss by kind of feedback, with gradient.
        logps, ref_logps: (B,) log π and log π_ref in nats; None for a scorer, and where no loss asks for the reference.
        rewards: (B,) what the method calls the reward, without gradient; None where it has none.
    """

    batch: Batch
    losses: dict[str, Tensor]
    logps: Tensor | None
    ref_logps: Tensor | None
    rewards: Tensor | None

    @property
    def values(self) -> Tensor:
        """(batch.count,) every loss, kind after kind."""
        return torch.cat(list(self.losses.values()))

    def without(self, kind: str) -> Tensor:
        """Every loss but those of one kind of feedback."""
        return torch.cat([loss for name, loss in self.losses.items() if name != kind] or [self.values[:0]])
