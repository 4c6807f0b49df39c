"""Losses on two responses of one prompt, (P,) -> (P,).

What a prompt adds to both rewards cancels, β·log Z(x) for one.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.rewards import implicit_reward, log_ratio, margin, per_example
from una_ref.methods.shapes import linear, logistic, squared


def una_pair(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−log σ(r_θ(y_w) − r_θ(y_l)), which is DPO (UNA Eq. 8 and the line below it; Eq. 5).

    Printed otherwise: Eq. 8 has no −log σ at all (EU7, `una_pair_printed`), and the line below it, which adds
    the log, writes −log[r_φ(y_w) − r_φ(y_l)]: σ is missing and φ should be θ, so a wrong order asks for the
    log of a negative number (EU8). Its population optimum under Bradley–Terry preferences is π* on the
    responses that were compared.
    """
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    return logistic(margin(chosen, rejected))  # UNA Eq. 8 after f = log σ; DPO, survey Eq. 10


def una_pair_printed(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−(r_θ(y_w) − r_θ(y_l)): UNA Eq. 8 as printed. Unbounded below, the same push on every pair (EU7)."""
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    return linear(margin(chosen, rejected))  # UNA Eq. 8


def una_centred_pairs(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.03,
) -> Tensor:
    """`una_pair` at the β of centred UNA's other likelihoods, so that mixed feedback speaks of one reward."""
    return una_pair(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        beta=beta,
    )


def una_centred_pairwise(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    beta: float = 0.03,
) -> Tensor:
    """[(r_θ(y_w) − r_θ(y_l)) − (s_w − s_l)]²: centred UNA on two scored responses, and V(x) is gone.

    Summed over a prompt's pairs its gradient is K − 1 times that of `una_centred` with leave-one-out
    baselines summed over the prompt's K responses: the very same for K = 2. The order of the two responses
    does not matter.
    """
    scores = {"chosen_scores": chosen_scores, "rejected_scores": rejected_scores}
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, **scores)
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    return squared(
        margin(chosen, rejected) - margin(chosen_scores, rejected_scores)
    )  # UNA Eq. 10, of differences


def ipo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """[u(y_w) − u(y_l) − 1/(2β)]² with u = log π/π_ref summed over tokens (Azar et al. 2024, Eq. 17).

    The survey's Eq. 17 prints a minus in front (ES9, `ipo_printed`). β is the paper's τ, per nat: TRL,
    LLaMA-Factory and HALOs take the *mean* over tokens instead, where the same β asks for a gap that grows
    with length. Where the two responses are independent draws from π_ref, its optimum is π ∝
    π_ref·exp(E_{y'~π_ref} P(y ≻ y')/β).
    """
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    gap = margin(log_ratio(chosen_logps, ref_chosen_logps), log_ratio(rejected_logps, ref_rejected_logps))
    return squared(gap, target=1 / (2 * beta))  # survey Eq. 17 with its sign mended


def ipo_printed(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−[u(y_w) − u(y_l) − 1/(2β)]²: the survey's Eq. 17 as printed, unbounded below (ES9)."""
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    gap = margin(log_ratio(chosen_logps, ref_chosen_logps), log_ratio(rejected_logps, ref_rejected_logps))
    return -squared(gap, target=1 / (2 * beta))  # survey Eq. 17


def _check_pair(
    beta: float, chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, **more: Tensor
) -> None:
    per_example(
        beta,
        chosen_logps=chosen,
        rejected_logps=rejected,
        ref_chosen_logps=ref_chosen,
        ref_rejected_logps=ref_rejected,
        **more,
    )
