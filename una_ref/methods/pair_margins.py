"""The margin that losses on pairs are a function of: r_θ(y_w) − r_θ(y_l), with the checks of its arguments."""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.rewards import implicit_reward, margin, per_example


def implicit_margin(
    beta: float,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    **more: Tensor,
) -> Tensor:
    """(P,) the margin of the implicit rewards β·log π/π_ref. `more` are arguments that must have the same shape.

    Raises ValueError as `check_pair` does.
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, **more)
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    return margin(chosen, rejected)


def check_pair(
    beta: float, chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, **more: Tensor
) -> None:
    """Raises ValueError for log-probabilities of a pair, or `more`, of different shapes, and for a β of 0 or less."""
    per_example(
        beta,
        chosen_logps=chosen,
        rejected_logps=rejected,
        ref_chosen_logps=ref_chosen,
        ref_rejected_logps=ref_rejected,
        **more,
    )
