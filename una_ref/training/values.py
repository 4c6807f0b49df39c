"""V(x) without a learning rate: for each prompt the running mean of score minus reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from una_ref.data.batch import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator


class RunningValues:
    """One number for each prompt, which only batches with the prompt move: baseline=mean.

    A visit moves V(x) by a share of its distance to the mean residual s − r_θ of the visit. A squared loss is smallest
    in V at that mean, so no step is too long, whatever the unit of the rewards. The share is 1/(n + 1) at the n-th
    visit: the start value counts as one visit. It does not fall below 1 − decay, because r_θ moves while the policy
    learns.

    Args:
        values: (prompts,) start values, in reward units; they are updated in place.
        decay: share of the old value that many visits leave.

    Attributes:
        visits: (prompts,) int64, training batches with a scored response of the prompt.
    """

    def __init__(self, values: Tensor, *, decay: float) -> None:
        self.values, self.decay = values, decay
        self.visits = torch.zeros(len(values), dtype=torch.int64, device=values.device)
        self._sums = torch.zeros(len(values), 2, dtype=torch.float64, device=values.device)

    @torch.no_grad()
    def note(self, batch: Batch, rewards: Tensor) -> None:
        """Take note of the scored responses of a training micro-batch, with (B,) rewards."""
        residuals = batch.scores[batch.scored] - rewards[batch.scored].double()
        prompts = batch.prompts[batch.groups[batch.scored]]
        self._sums.index_add_(0, prompts, torch.stack([residuals, torch.ones_like(residuals)], dim=1))

    @torch.no_grad()
    def keep(self, team: Accelerator) -> None:
        """Move the values of the prompts that were noted, once the step is done."""
        total, count = team.reduce(self._sums).unbind(1)
        seen = count > 0
        self.visits[seen] += 1
        share = (1 / (self.visits[seen] + 1).double()).clamp(min=1 - self.decay).to(self.values)
        means = (total[seen] / count[seen]).to(self.values)
        self.values[seen] += share * (means - self.values[seen])
        self._sums.zero_()
