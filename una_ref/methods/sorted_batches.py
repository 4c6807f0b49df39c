"""Losses that compare the sorted numbers of a whole batch: alignment by optimal transport, (P,) -> (P,).

The k-th smallest number of one kind is compared with the k-th smallest of another. The loss
stands in the row of the first number, so that reordering the batch reorders the losses. A batch must stay whole:
micro-batches would be sorted separately.
Log-probabilities are in nats.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.pair_margins import check_pair
from una_ref.methods.rewards import log_ratio, margin
from una_ref.methods.shapes import smoothed_logistic


def aot(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Tensor:
    """`cdpo`'s shape of β·(k-th smallest margin of π − k-th smallest margin of π_ref), margins log π(y_w) − log π(y_l).

    Sorted margins are all that counts: exchanging the margins of two pairs does not change the sum. On one pair it is
    `cdpo`. On two responses it is DPO if π_ref ranks them as most labels do, and another loss if it does not.
    Raises ValueError unless 0 ≤ ε < 0.5.

    Melnyk et al. 2024, https://arxiv.org/abs/2406.05882
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    gaps = quantile_gaps(margin(chosen_logps, rejected_logps), margin(ref_chosen_logps, ref_rejected_logps))
    return smoothed_logistic(beta * gaps, label_smoothing)


def aot_unpaired(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Tensor:
    """`cdpo`'s shape of β·(k-th smallest u of the chosen − k-th smallest u of the rejected), u = log π/π_ref.

    Which responses form a pair does not matter, nor whether they answer one prompt. A number that a prompt adds to its
    rewards therefore does not cancel. A response that is chosen and rejected equally often cancels out. On two
    responses the margin grows without bound, however close to ½ the preference is, if label_smoothing is 0. On one
    pair it is `cdpo`. Raises ValueError unless 0 ≤ ε < 0.5.

    Melnyk et al. 2024, https://arxiv.org/abs/2406.05882
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    gaps = quantile_gaps(log_ratio(chosen_logps, ref_chosen_logps), log_ratio(rejected_logps, ref_rejected_logps))
    return smoothed_logistic(beta * gaps, label_smoothing)


def quantile_gaps(first: Tensor, second: Tensor) -> Tensor:
    """(P,) each number of `first` minus the number of the same rank in `second`."""
    ranks = first.argsort(stable=True).argsort()
    return first - second.sort().values[ranks]
