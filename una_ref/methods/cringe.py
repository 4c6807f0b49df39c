"""The CRINGE loss: imitate good responses, and contrast each token of a bad one with a token the policy prefers.

A rival of a token is one of the k other tokens with the highest scores. The paper samples it from the softmax of their
scores. Here the loss is its expectation over the k rivals, with weights that have no gradient: the expected gradient is
the same, without the noise. `cringe_sampled` is the paper's form.

Whole distributions of N response tokens cost 4·N·V bytes in float32. At its peak a step holds three such tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.methods.credit import one_batch
from una_ref.methods.ranges import at_least_zero, positive
from una_ref.methods.shapes import logistic


def cringe(
    *,
    logps: Tensor,
    logits: Tensor,
    token_ids: Tensor,
    labels: Tensor,
    mask: Tensor,
    alpha: float = 1.0,
    top_k: float = 5,
) -> Tensor:
    """−log π(y|x) of a good response; α·Σ_t E_{s*}[−log σ(s* − s_t)] of a bad one (survey Eq. 29).

    s_t is the score of the response's token, and s* that of a rival: one of the `top_k` best others (ES15). Scores
    may be log-probabilities: only differences count. A label between 0 and 1 mixes the two terms. The survey prints the
    joint probability of prompt and response; the loss is on the response's tokens (ES14). The survey's Table 1 lists a
    reference and a KL, but the loss has neither. ParlAI's defaults are α = 1 and one rival.

    At α = 0 it is SFT on the good responses.
    Raises ValueError for a negative α, and for a `top_k` that is not a whole number of at least 1.

    Adolphs et al. 2022, https://arxiv.org/abs/2211.05826
    """
    one_batch(logps=logps, logits=logits, token_ids=token_ids, labels=labels, mask=mask)
    contrast = _expected(*_rivals(logits, token_ids, mask, alpha, top_k)).sum(1)
    y = labels.to(logps.dtype)
    return y * -logps + (1 - y) * alpha * contrast  # survey Eq. 29 with log P(y|x)


def cringe_pairs(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    rejected_logits: Tensor,
    rejected_token_ids: Tensor,
    rejected_mask: Tensor,
    alpha: float = 1.0,
    top_k: float = 5,
    margin: float = 0.0,
    tau: float = 10.0,
) -> Tensor:
    """g·L_bin with the gate g = σ((b − (log π(y_w) − log π(y_l)))/τ): pairwise CRINGE (survey Eq. 30).

    L_bin is `cringe` of y_w as a good and y_l as a bad response, and b is `margin`, in nats. The gate closes where y_w
    is much likelier than y_l. It has a gradient, as Eq. 30 is written. The defaults of b and τ are this project's.

    Raises ValueError as `cringe` does, and for a τ that is not positive.
    Xu et al. 2023, https://arxiv.org/abs/2312.16682
    """
    one_batch(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        rejected_logits=rejected_logits,
        rejected_token_ids=rejected_token_ids,
        rejected_mask=rejected_mask,
    )
    positive(tau=tau)
    contrast = _expected(*_rivals(rejected_logits, rejected_token_ids, rejected_mask, alpha, top_k)).sum(1)
    gate = ((margin - (chosen_logps - rejected_logps)) / tau).sigmoid()
    return gate * (-chosen_logps + alpha * contrast)  # survey Eq. 30


def cringe_sampled(
    *,
    logps: Tensor,
    logits: Tensor,
    token_ids: Tensor,
    labels: Tensor,
    mask: Tensor,
    alpha: float = 1.0,
    top_k: float = 5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`cringe` with one rival of each token sampled from the softmax of the k best scores, as in the paper.

    Adolphs et al. 2022, https://arxiv.org/abs/2211.05826
    """
    one_batch(logps=logps, logits=logits, token_ids=token_ids, labels=labels, mask=mask)
    gaps, weights = _rivals(logits, token_ids, mask, alpha, top_k)
    shares = weights.masked_fill(~mask[..., None], 1).flatten(0, 1)  # what is sampled outside the mask is not used
    picked = torch.multinomial(shares, 1, generator=generator).view(*mask.shape, 1)
    contrast = logistic(gaps.gather(-1, picked)[..., 0]).masked_fill(~mask, 0).sum(1)
    y = labels.to(logps.dtype)
    return y * -logps + (1 - y) * alpha * contrast


def _rivals(logits: Tensor, token_ids: Tensor, mask: Tensor, alpha: float, top_k: float) -> tuple[Tensor, Tensor]:
    """(B, T, k + 1) s* − s_t of the k + 1 best tokens, and their weights: 0 for all but rivals within the mask."""
    at_least_zero(alpha=alpha)
    if not (top_k >= 1 and top_k % 1 == 0):
        raise ValueError(f"top_k must be a whole number of at least 1, got {top_k}")
    ids = token_ids.masked_fill(~mask, 0)[..., None]
    best, tokens = logits.topk(min(int(top_k) + 1, logits.shape[-1]))
    # Of k + 1 tokens one is left out: the response's own, or the last where its own is not among them.
    is_own = tokens == ids
    is_last = torch.arange(best.shape[-1], device=best.device) == best.shape[-1] - 1
    left_out = is_own | (~is_own.any(-1, keepdim=True) & is_last)
    outside = ~mask[..., None]
    weights = best.detach().masked_fill(left_out, -torch.inf).softmax(-1).masked_fill(outside, 0)
    # 0 before the logistic function, since 0·NaN is NaN in the gradient; a rival of probability 0 may be −∞.
    gaps = (best - logits.gather(-1, ids)).masked_fill(weights == 0, 0)
    return gaps, weights


def _expected(gaps: Tensor, weights: Tensor) -> Tensor:
    """(B, T) E[−log σ(s* − s_t)] over the rivals of each token, 0 where nothing is to be contrasted."""
    return (weights * logistic(gaps)).sum(-1)
