"""Losses on two responses of one prompt that look at their tokens, (P, T) and (P, T, V) -> (P,).

Tensors of tokens have a mask that is True at a response's tokens. What is outside it is ignored, NaN included. Every
loss raises ValueError for tensors of different shapes and for a β that is not positive.

Whole distributions of N response tokens cost 4·N·V bytes in float32: 0.5 GB for 1,024 tokens and a vocabulary of
128,256. At its peak a step holds nine such tensors for `tdpo`, eight for `tdpo2` and four for `wpo`. The dry run counts
them; choose `micro_tokens` accordingly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.methods.credit import (
    credited_reward,
    one_batch,
    tdpo2_reward,
    tdpo_reward,
    token_credits,
)
from una_ref.methods.ranges import at_least_zero, between
from una_ref.methods.rewards import implicit_reward, margin
from una_ref.methods.shapes import logistic


def token_dpo(
    *,
    chosen_token_logps: Tensor,
    rejected_token_logps: Tensor,
    ref_chosen_token_logps: Tensor,
    ref_rejected_token_logps: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−log σ(Σ_t β·log π/π_ref(y_w) − Σ_t β·log π/π_ref(y_l)): DPO with a reward for each token (survey Eq. 24).

    The sums are the implicit rewards, so that value and gradient are DPO's. The interpretation is new: the term of a
    token is its reward, shaped by the soft value (`token_credits`). `policies.token_rewards` reports it. The survey
    sums to T in Eq. 20 and to T − 1 in Eq. 23, which is right with V(s_T) = 0 (ES11). Its optimum is DPO's: π* on the
    responses that were compared.

    Rafailov et al. 2024, "From r to Q*", https://arxiv.org/abs/2404.12358
    """
    one_batch(
        beta,
        chosen_token_logps=chosen_token_logps,
        rejected_token_logps=rejected_token_logps,
        ref_chosen_token_logps=ref_chosen_token_logps,
        ref_rejected_token_logps=ref_rejected_token_logps,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
    )
    chosen = credited_reward(chosen_token_logps, ref_chosen_token_logps, chosen_mask, beta)
    rejected = credited_reward(rejected_token_logps, ref_rejected_token_logps, rejected_mask, beta)
    return logistic(margin(chosen, rejected))  # survey Eq. 24


def tdpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_logits: Tensor,
    rejected_logits: Tensor,
    ref_chosen_logits: Tensor,
    ref_rejected_logits: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−log σ(u − δ): TDPO1 (survey Eq. 28). The logits are log-probabilities of whole distributions.

    u = β·log π/π_ref(y_w) − β·log π/π_ref(y_l), and δ = β·SeqKL(y_l) − β·SeqKL(y_w) with SeqKL = Σ_t KL(π_ref ‖ π).
    Its optimum under Bradley–Terry preferences is the one-step improvement π ∝ π_ref·exp(Q/β) with the Q of π_ref, not
    of π as the survey prints (ES12). It is not π*. At π* the log Z of the RLHF objective cancels without δ, as in DPO.

    Zeng et al. 2024, Eq. 14 and 15, https://arxiv.org/abs/2404.11999
    """
    one_batch(
        beta,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        chosen_logits=chosen_logits,
        rejected_logits=rejected_logits,
        ref_chosen_logits=ref_chosen_logits,
        ref_rejected_logits=ref_rejected_logits,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
    )
    chosen = tdpo_reward(chosen_logps, ref_chosen_logps, chosen_logits, ref_chosen_logits, chosen_mask, beta)
    rejected = tdpo_reward(
        rejected_logps, ref_rejected_logps, rejected_logits, ref_rejected_logits, rejected_mask, beta
    )
    return logistic(margin(chosen, rejected))  # survey Eq. 28


def tdpo2(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_logits: Tensor,
    rejected_logits: Tensor,
    ref_chosen_logits: Tensor,
    ref_rejected_logits: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Tensor:
    """−log σ(u − α·δ₂): TDPO2, where SeqKL(y_w) in δ₂ = β·SeqKL(y_l) − β·SeqKL(y_w) is held constant; u as in `tdpo`.

    For α = 0 it is DPO. The survey has no α, and stops "the gradient of y_w" (ES13, `tdpo2_printed`); log π(y_w) keeps
    its gradient. The gradient is that of no loss. With the rewards of `tdpo2_reward` it is the gradient of their
    Bradley–Terry likelihood, plus α·σ(−m) times that of β·SeqKL(y_w), m = u − α·δ₂: a pull towards π_ref.

    Raises ValueError for a negative α. Zeng et al. 2024, Eq. 17, https://arxiv.org/abs/2404.11999
    """
    one_batch(
        beta,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        chosen_logits=chosen_logits,
        rejected_logits=rejected_logits,
        ref_chosen_logits=ref_chosen_logits,
        ref_rejected_logits=ref_rejected_logits,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
    )
    at_least_zero(alpha=alpha)
    chosen = tdpo2_reward(
        chosen_logps, ref_chosen_logps, chosen_logits.detach(), ref_chosen_logits, chosen_mask, beta, alpha
    )
    rejected = tdpo2_reward(
        rejected_logps, ref_rejected_logps, rejected_logits, ref_rejected_logits, rejected_mask, beta, alpha
    )
    return logistic(margin(chosen, rejected))  # survey Eq. 28 with the paper's α and stop-gradient


def tdpo2_printed(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_logits: Tensor,
    rejected_logits: Tensor,
    ref_chosen_logits: Tensor,
    ref_rejected_logits: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
    beta: float = 0.1,
    alpha: float = 1.0,
) -> Tensor:
    """`tdpo2` with all that belongs to y_w held constant, as the survey says below Eq. 28 (ES13); it prints no α, so 1.

    Nothing raises the probability of a chosen response then. https://arxiv.org/abs/2407.16216
    """
    return tdpo2(
        chosen_logps=chosen_logps.detach(),
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        chosen_logits=chosen_logits,
        rejected_logits=rejected_logits,
        ref_chosen_logits=ref_chosen_logits,
        ref_rejected_logits=ref_rejected_logits,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
        beta=beta,
        alpha=alpha,
    )


def ld_dpo(
    *,
    chosen_token_logps: Tensor,
    rejected_token_logps: Tensor,
    ref_chosen_token_logps: Tensor,
    ref_rejected_token_logps: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Tensor:
    """DPO in which tokens beyond the length of the shorter response of the pair count α: LD-DPO.

    α = 1 is DPO, and so is any α on responses of equal length. α = 0 cuts the longer response to the length of the
    shorter one. A longer response then gains less by its length. What a response is worth depends on the other one, so
    that the rewards of several pairs need not agree with any policy.

    Raises ValueError unless 0 ≤ α ≤ 1. Liu et al. 2024, https://arxiv.org/abs/2409.06411
    """
    one_batch(
        beta,
        chosen_token_logps=chosen_token_logps,
        rejected_token_logps=rejected_token_logps,
        ref_chosen_token_logps=ref_chosen_token_logps,
        ref_rejected_token_logps=ref_rejected_token_logps,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
    )
    between(0, 1, alpha=alpha)
    shared = torch.minimum(chosen_mask.sum(1), rejected_mask.sum(1))[:, None]

    def reward(token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor) -> Tensor:
        credits = token_credits(token_logps, ref_token_logps, mask, beta)
        return credits.where(mask.cumsum(1) <= shared, alpha * credits).sum(1)

    chosen = reward(chosen_token_logps, ref_chosen_token_logps, chosen_mask)
    rejected = reward(rejected_token_logps, ref_rejected_token_logps, rejected_mask)
    return logistic(margin(chosen, rejected))


def wpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_logits: Tensor,
    rejected_logits: Tensor,
    chosen_token_ids: Tensor,
    rejected_token_ids: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """w(y_w)·w(y_l)·(−log σ(r_θ(y_w) − r_θ(y_l))): DPO weighted by how likely the policy is to sample the two: WPO.

    log w(y) is the mean over tokens of log π(y_t) − log Σ_v π(v)², held constant. A token as likely as a sampled one on
    average has weight 1. The weights are positive and the same whichever response wins: π* stays the optimum.

    Zhou et al. 2024, Eq. 2 with its alignment of weights, https://arxiv.org/abs/2406.11827
    """
    one_batch(
        beta,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        chosen_logits=chosen_logits,
        rejected_logits=rejected_logits,
        chosen_token_ids=chosen_token_ids,
        rejected_token_ids=rejected_token_ids,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
    )
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    weights = likelihood_weights(chosen_logits, chosen_token_ids, chosen_mask)
    weights = weights * likelihood_weights(rejected_logits, rejected_token_ids, rejected_mask)
    return weights * logistic(margin(chosen, rejected))


@torch.no_grad()
def likelihood_weights(logits: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
    """(B,) WPO's weight of a response: exp of the mean over its tokens of log π(y_t) − log Σ_v π(v)²."""
    own = logits.gather(-1, token_ids.masked_fill(~mask, 0)[..., None])[..., 0]
    aligned = (own - (2 * logits).logsumexp(-1)).masked_fill(~mask, 0)
    return (aligned.sum(1) / mask.sum(1).clamp(min=1)).exp()
