"""Losses on pairs that have no reference and imitate the chosen response: (P,) -> (P,).

Nothing but the imitation keeps these policies near the data. Log-probabilities are in nats. Every loss raises
ValueError for tensors of different shapes and for a hyper-parameter out of its range.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.ranges import at_least_zero
from una_ref.methods.rewards import (
    length_normalised,
    log_likelihood,
    margin,
    mean_log_odds,
    per_example,
    scaled_log_likelihood,
)
from una_ref.methods.shapes import hinge, linear, logistic


def slic(*, chosen_logps: Tensor, rejected_logps: Tensor, delta: float = 1.0, lam: float = 0.5) -> Tensor:
    """max(0, δ − log π(y_w) + log π(y_l)) − λ·log π(y_w)   (survey Eq. 3).

    The y_ref of Eq. 3 is the response of the supervised data. Pairs have none, so the chosen response is imitated, as
    TRL's hinge loss of CPO does. The paper's variants "direct" and "sample-rank" differ in where the pairs come from:
    human pairs, or samples of π_SFT that a model ranks. The loss is the same. The hinge alone learns a margin of ±δ,
    however sure the preference is.

    Zhao et al. 2023, https://arxiv.org/abs/2305.10425
    """
    at_least_zero(delta=delta, lam=lam)
    per_example(chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    difference = margin(log_likelihood(chosen_logps), log_likelihood(rejected_logps))
    return hinge(difference, target=delta) + lam * linear(chosen_logps)  # survey Eq. 3


def orpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    lam: float = 0.1,
) -> Tensor:
    """−log P(y_w) − λ·log σ(log odds(y_w) − log odds(y_l)) with odds = P/(1 − P) (survey Eq. 40–42).

    P is length-normalised, log P = log π/|y|, which the survey does not say. σ takes the *logarithm* of the odds ratio
    (ES20, `orpo_printed`). The optimum is a compromise between imitation and a large odds ratio; it depends on neither
    a reward nor a reference. TRL computes its first term on the prompt's tokens as well, and averages it over the
    batch's tokens.

    Hong et al. 2024, https://arxiv.org/abs/2403.07691
    """
    mean_chosen, ratio = _odds_ratio(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, lam)
    return linear(mean_chosen) + lam * logistic(ratio)  # survey Eq. 42 with log OR


def orpo_printed(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    lam: float = 0.1,
) -> Tensor:
    """−log P(y_w) − λ·log σ(OR): the survey's Eq. 42 as printed, https://arxiv.org/abs/2407.16216.

    The factor of λ is never above log 2, and its gradient vanishes for pairs in the wrong order, where OR → 0 (ES20).
    """
    mean_chosen, ratio = _odds_ratio(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, lam)
    # −log σ(OR) is 0 in float64 from log OR = 7 on. The limit keeps ∞·0 out of the gradient.
    return linear(mean_chosen) + lam * logistic(ratio.clamp(max=10).exp())  # survey Eq. 42


def _odds_ratio(
    chosen_logps: Tensor, rejected_logps: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, lam: float
) -> tuple[Tensor, Tensor]:
    """log P(y_w) and the log odds ratio (survey Eq. 40 and 41)."""
    at_least_zero(lam=lam)
    lengths = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    per_example(chosen_logps=chosen_logps, rejected_logps=rejected_logps, **lengths)
    chosen, rejected = (
        mean_log_odds(logps, of) for logps, of in ((chosen_logps, chosen_lengths), (rejected_logps, rejected_lengths))
    )
    return length_normalised(chosen_logps, chosen_lengths, 1.0), margin(chosen, rejected)


def cpo(*, chosen_logps: Tensor, rejected_logps: Tensor, beta: float = 0.1, lam: float = 1.0) -> Tensor:
    """−log σ(β·log π(y_w) − β·log π(y_l)) − λ·log π(y_w)   (survey Eq. 54, sign corrected).

    The first term is DPO with a uniform reference, the second imitates the chosen response. The survey's sign of the
    second term is wrong (ES31, `cpo_printed`). With λ = 0 the optimum under Bradley–Terry preferences is π ∝ exp(r/β).
    That is π* only where π_ref is uniform. TRL takes the mean of the second term over the batch's tokens.

    Xu et al. 2024, https://arxiv.org/abs/2401.08417
    """
    at_least_zero(lam=lam)
    per_example(beta, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    difference = margin(scaled_log_likelihood(chosen_logps, beta), scaled_log_likelihood(rejected_logps, beta))
    return logistic(difference) + lam * linear(chosen_logps)  # survey Eq. 54


def cpo_printed(*, chosen_logps: Tensor, rejected_logps: Tensor, beta: float = 0.1, lam: float = 1.0) -> Tensor:
    """−log σ(β·log π(y_w) − β·log π(y_l)) + λ·log π(y_w): survey Eq. 54 as printed, https://arxiv.org/abs/2407.16216.

    It is unbounded below: it rewards lowering the chosen response (ES31).
    """
    at_least_zero(lam=lam)
    per_example(beta, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    difference = margin(scaled_log_likelihood(chosen_logps, beta), scaled_log_likelihood(rejected_logps, beta))
    return logistic(difference) - lam * linear(chosen_logps)  # survey Eq. 54
