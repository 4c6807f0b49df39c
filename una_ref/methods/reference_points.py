"""KTO's reference point z₀/β = KL(π ‖ π_ref), in nats, and what it is estimated by (survey Eq. 33).

The estimators take one table of a batch: log π(y_j|x_i)/π_ref(y_j|x_i) at [i, j], (m, m), of m prompts and their
responses. They have no gradient. `una_ref.theory.kl` has the exact number of a table world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

Estimator = Callable[[Tensor], Tensor]


def next_response(log_ratios: Tensor) -> Tensor:
    """max(0, 1/m·Σ_i u(x_i, y_{i+1})): m mismatched pairs, each prompt with the next response. What KTO runs compute.

    Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306
    """
    return _floored(log_ratios.roll(-1, dims=1).diagonal().mean())


def every_other_response(log_ratios: Tensor) -> Tensor:
    """max(0, 1/(m(m − 1))·Σ_{i≠j} u(x_i, y_j)): the mean over all mismatched pairs (Eq. 33, its factor corrected)."""
    size = len(log_ratios)
    return _floored(_mismatched(log_ratios) / (size * (size - 1)))


def every_other_response_printed(log_ratios: Tensor) -> Tensor:
    """max(0, 1/m·Σ_{i≠j} u(x_i, y_j)): Eq. 33 as printed, m − 1 times the mean (ES16)."""
    return _floored(_mismatched(log_ratios) / len(log_ratios))


def own_response(log_ratios: Tensor) -> Tensor:
    """max(0, 1/m·Σ_i u(x_i, y_i)): the batch's own pairs. Exact in expectation before max if y_i ~ π(·|x_i)."""
    return _floored(log_ratios.diagonal().mean())


def zero(log_ratios: Tensor) -> Tensor:
    """0, which makes KTO `apo_zero_unpaired`."""
    return log_ratios.new_zeros(())


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "next response": next_response,
        "every other response": every_other_response,
        "every other response, printed": every_other_response_printed,
        "own response": own_response,
        "zero": zero,
    }
)
"""Every estimator by name."""


def _mismatched(log_ratios: Tensor) -> Tensor:
    """Σ_{i≠j} u(x_i, y_j). Raises ValueError unless the table is square with two prompts or more."""
    if log_ratios.dim() != 2 or len(log_ratios) != log_ratios.shape[1] or len(log_ratios) < 2:
        raise ValueError(f"log_ratios must be (m, m) with m >= 2, got {tuple(log_ratios.shape)}")
    own = torch.eye(len(log_ratios), dtype=torch.bool, device=log_ratios.device)
    return torch.where(own, 0.0, log_ratios).sum()


def _floored(mean: Tensor) -> Tensor:
    return mean.detach().clamp(min=0)
