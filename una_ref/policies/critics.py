"""What a token-level method expects of the rest of a response: V(x, y_<t), one number a position."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from una_ref.data.batch import Batch
from una_ref.policies.anatomy import parts
from una_ref.policies.layouts import hidden_states


class Critic(nn.Module):
    """A linear head on hidden states: the policy's own, or those of a transformer of its own.

    The head begins at 0, and so do the values. Calling it gives (N,) values of a batch, fp32 or better, with gradient;
    on the policy's hidden states the gradient reaches the policy as well.

    Args:
        model: a causal LM; its hidden states are what the head will see.
        core: the critic's own transformer without a head, in the layout of the model's batches; None to share.
    """

    def __init__(self, model: Any, core: nn.Module | None = None) -> None:
        super().__init__()
        trunk, _ = parts(model)
        weights = next(trunk.parameters())
        width = trunk.config.hidden_size if hasattr(trunk, "config") else weights.shape[1]
        dtype = weights.dtype if weights.dtype == torch.float64 else torch.float32
        self.core = core
        self.head = nn.Linear(width, 1, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
        """(N,) values from (N, D) the policy's hidden states, which a separate critic does not look at."""
        seen = hidden if self.core is None else hidden_states(self.core, batch)
        with torch.autocast(seen.device.type, enabled=False):  # in bfloat16 values of order 1 would be off by 1 %
            return self.head(seen.to(self.head.weight.dtype))[:, 0]


def own_core(model: Any) -> nn.Module:
    """A copy of the transformer in a causal LM, its head left out."""
    return copy.deepcopy(parts(model)[0])
