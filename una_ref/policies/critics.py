"""A critic: V(x, y_<t), what a token-level method expects of the rest of a response, one number for each position."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from una_ref.data.batch import Batch
from una_ref.policies.anatomy import parts
from una_ref.policies.layouts import hidden_states


class Critic(nn.Module):
    """A linear head on hidden states, either the policy's or those of a separate transformer.

    The head starts at 0, and so do the values. On the policy's hidden states, the gradient of the values reaches the
    policy as well.

    Args:
        model: a causal LM, whose hidden states have the width and dtype that the head reads.
        core: a separate transformer without a head, which takes the layout of the model's batches; None to share.
    """

    def __init__(self, model: Any, core: nn.Module | None = None) -> None:
        super().__init__()
        trunk, _ = parts(model)
        weights = next(trunk.parameters())
        width = getattr(getattr(trunk, "config", trunk), "hidden_size", weights.shape[1])
        dtype = weights.dtype if weights.dtype == torch.float64 else torch.float32
        self.core = core
        self.head = nn.Linear(width, 1, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
        """(N,) values in reward units, fp32 or better, with gradient.

        Args:
            batch: N scored tokens.
            hidden: (N, D) the policy's hidden states; a separate critic does not use them.
        """
        read = hidden if self.core is None else hidden_states(self.core, batch)
        with torch.autocast(read.device.type, enabled=False):  # in bfloat16, a value of 1 has an error of up to 0.4 %
            return self.head(read.to(self.head.weight.dtype))[:, 0]


def copy_core(model: Any) -> nn.Module:
    """A copy of a causal LM's transformer, without its head."""
    return copy.deepcopy(parts(model)[0])
