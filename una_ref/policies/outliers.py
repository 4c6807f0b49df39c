"""Answers that are unlike those of a data set, by the activations of a model.

Bai et al. 2022, Sec. 5 (https://arxiv.org/abs/2204.05862) reject requests that are out of distribution by the
Mahalanobis distance of a language model's activations on their last token. Here the same distance rejects answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from una_ref.data.batch import Example, collate
from una_ref.policies.anatomy import parts
from una_ref.policies.layouts import hidden_states, layouts

RIDGE = 1e-3
"""Share of the mean variance that is added to each variance, so that the covariance has an inverse."""


@torch.no_grad()
def last_states(model: Any, examples: Sequence[Example], batch: int = 64) -> Tensor:
    """(B, D) float64 last hidden state at the last token of every response."""
    layout, device, states = layouts(model)[0], next(model.parameters()).device, []
    for start in range(0, len(examples), batch):
        some = collate(list(examples[start : start + batch]), layout, include_last_token=True).to(device)
        states.append(hidden_states(parts(model)[0], some)[some.lengths.cumsum(0) - 1].double().cpu())
    return torch.cat(states)


@dataclass(frozen=True)
class Outliers:
    """The distribution of some states, and the distance up to which a share of them lies.

    Attributes:
        mean: (D,).
        precision: (D, D), the inverse of their covariance.
        limit: squared distance above which a state is an outlier.
    """

    mean: Tensor
    precision: Tensor
    limit: float

    @classmethod
    def of(cls, states: Tensor, share: float) -> Outliers:
        """Fitted to (N, D) states; `share` of them are outliers themselves."""
        mean = states.mean(0)
        covariance = (states - mean).T @ (states - mean) / len(states)
        ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(mean), dtype=states.dtype)
        own = cls(mean, torch.linalg.inv(covariance + ridge), 0.0)
        return cls(mean, own.precision, float(own.distances(states).quantile(1 - share)))

    def distances(self, states: Tensor) -> Tensor:
        """(B,) squared Mahalanobis distances (x − μ)ᵀ Σ⁻¹ (x − μ)."""
        gaps = states - self.mean
        return ((gaps @ self.precision) * gaps).sum(-1)

    def __call__(self, states: Tensor) -> Tensor:
        """(B,) bool: whether a state is an outlier."""
        return self.distances(states) > self.limit
