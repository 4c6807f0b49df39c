"""Triple preference optimisation: a pair without a reference, and a gold response that is imitated."""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.ranges import at_least_zero
from una_ref.methods.rewards import log_likelihood, margin, per_example, scaled_log_likelihood
from una_ref.methods.shapes import linear, logistic


def tpo(*, chosen_logps: Tensor, rejected_logps: Tensor, beta: float = 0.01) -> Tensor:
    """−log σ(β·log π(y_w) − β·log π(y_l)): TPO's term on the pair, which is CPO's preference term.

    There is no reference, so a uniform one would give the same loss: alone it learns π ∝ exp(r/β).

    Saeidi et al. 2024, https://arxiv.org/abs/2405.16681
    """
    per_example(beta, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    chosen, rejected = scaled_log_likelihood(chosen_logps, beta), scaled_log_likelihood(rejected_logps, beta)
    return logistic(margin(chosen, rejected))


def tpo_gold(*, logps: Tensor, gold_weight: float = 1.0) -> Tensor:
    """−gold_weight·log π of the gold response: TPO's term that takes the place of supervised fine-tuning.

    TRL takes the mean over the tokens of all gold responses. Raises ValueError for a negative weight.

    Saeidi et al. 2024, https://arxiv.org/abs/2405.16681
    """
    per_example(logps=logps)
    at_least_zero(gold_weight=gold_weight)
    return gold_weight * linear(log_likelihood(logps))
