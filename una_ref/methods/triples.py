"""Triple preference optimisation: a pair without a reference, and a gold response that is imitated."""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.rewards import log_likelihood, margin, per_example
from una_ref.methods.shapes import linear, logistic


def scaled(logps: Tensor, beta: float) -> Tensor:
    """β·log π(y|x): TPO's reward."""
    return beta * log_likelihood(logps)


def tpo(*, chosen_logps: Tensor, rejected_logps: Tensor, beta: float = 0.01) -> Tensor:
    """−log σ(β·log π(y_w) − β·log π(y_l)): TPO's term on the pair, which is CPO's preference term.

    There is no reference, so a uniform one would give the same loss: alone it learns π ∝ exp(r/β).

    Saeidi et al. 2024, https://arxiv.org/abs/2405.16681
    """
    per_example(beta, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    return logistic(margin(scaled(chosen_logps, beta), scaled(rejected_logps, beta)))


def tpo_gold(*, logps: Tensor, gold_weight: float = 1.0) -> Tensor:
    """−gold_weight·log π of the gold response: TPO's term that takes the place of supervised fine-tuning.

    TRL takes the mean over the tokens of all gold responses. Raises ValueError for a negative weight.

    Saeidi et al. 2024, https://arxiv.org/abs/2405.16681
    """
    per_example(logps=logps)
    if not gold_weight >= 0:
        raise ValueError(f"gold_weight must be at least 0, got {gold_weight}")
    return gold_weight * linear(log_likelihood(logps))
