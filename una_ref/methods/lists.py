"""Losses on a ranked list of responses of one prompt, (G, K) -> (G,).

`scores` rank the responses, the best the highest, and `mask` is True at the responses of a list. What stands outside
the mask changes neither loss nor gradient. Log-probabilities are in nats. A loss is a sum over a list's comparisons.
Every loss raises ValueError for tensors of different shapes, for a list of one response and for a β that is not
positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from una_ref.errors import InputError
from una_ref.methods.ranges import at_least_zero, one_of
from una_ref.methods.ranking import ahead, best, check_lists, filled, from_here, plackett_luce, rank_by
from una_ref.methods.rewards import implicit_reward, mean_log_likelihood
from una_ref.methods.shapes import bce, linear, logistic, squared


def lipo(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    scores: Tensor,
    mask: Tensor,
    beta: float = 0.1,
    ranking: str = "lambda",
) -> Tensor:
    """A ranking loss on implicit rewards s_i = β·log π(y_i)/π_ref(y_i), with the scores ψ as labels (survey Eq. 49).

    `ranking` is a name in `RANKINGS`. The default is the λ-loss, Σ_{ψ_i > ψ_j} Δ_ij·log(1 + e^{−(s_i − s_j)}). The
    survey prints a minus in front, which rewards inverted rankings (ES25, `lipo_printed`). The weight is
    Δ_ij = |2^{ψ_i} − 2^{ψ_j}|·|1/D(τ_i) − 1/D(τ_j)| with D(τ) = ln(1 + τ), where τ is the rank by s, without gradient
    (ES26). It doubles with each unit of score, so that scores should be of the order of 1.

    For two responses, pair_logistic is DPO, list_mle as well, and the λ-loss is DPO times Δ. Responses with equal
    scores are not compared; in list_mle they keep their order. Raises ValueError for an unknown name.

    Liu et al. 2024, https://arxiv.org/abs/2402.01878
    """
    check_lists("lipo", beta, logps=logps, ref_logps=ref_logps, scores=scores, mask=mask)
    one_of(RANKINGS, ranking=ranking)
    rewards = implicit_reward(filled(mask, logps), filled(mask, ref_logps), beta)
    return RANKINGS[ranking](rewards, filled(mask, scores), mask)


def lipo_printed(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    scores: Tensor,
    mask: Tensor,
    beta: float = 0.1,
    ranking: str = "lambda",
) -> Tensor:
    """Minus `lipo`: the sign of the survey's Eq. 49 as printed (ES25), https://arxiv.org/abs/2407.16216.

    Its minimum is the ranking in the wrong order, with a margin of ∞.
    """
    return -lipo(logps=logps, ref_logps=ref_logps, scores=scores, mask=mask, beta=beta, ranking=ranking)


def rrhf(*, logps: Tensor, lengths: Tensor, scores: Tensor, mask: Tensor, alpha: float = 1.0) -> Tensor:
    """α·Σ_{ψ_i < ψ_j} max(0, p_i − p_j) − log π(y_best), without a reference (survey Eq. 50).

    p is the mean of log π over a response's tokens, and the second term is the sum: SFT on the best response. ψ are the
    scores and p the model's ranking; the survey's text has the two the other way round (ES27). The paper has α = 1. The
    authors' code has α = 100 with a mean over tokens in the SFT term as well.

    A pair in the right order has no gradient, however small its margin. Responses with equal scores are not compared,
    and the first of equally good ones is imitated. Raises ValueError for a negative α.

    Yuan et al. 2023, https://arxiv.org/abs/2304.05302
    """
    _check_free("rrhf", alpha, logps, lengths, scores, mask)
    p, labels = _mean_logps(logps, lengths, mask), filled(mask, scores)
    inverted = (p[:, None, :] - p[:, :, None]).relu()  # [i, j] is p_j − p_i, where i should be ahead of j
    compared = torch.where(ahead(labels, mask), inverted, 0.0).sum((-2, -1))
    return alpha * compared + _imitated(logps, labels, mask)  # survey Eq. 50


def pro(
    *,
    logps: Tensor,
    lengths: Tensor,
    scores: Tensor,
    mask: Tensor,
    alpha: float = 1.0,
    distances: str = "scores",
) -> Tensor:
    """−log π(y_1) − α·Σ_k log [e^{p_k/T_k^k} / Σ_{i≥k} e^{p_i/T_i^k}] of a list y_1 ≻ y_2 ≻ … (survey Eq. 52).

    p is the mean of log π over a response's tokens, as in the PRO paper, which has no reference. With
    `distances="scores"`, 1/T_i^k = ψ_k − ψ_i is the distance of two scores, and 1/T_k^k is the largest of them. The
    survey computes T from the policy and calls T_k^k = min T the minimum distance (ES28, `pro_printed`). A distance of
    0 is a logit of 0. With `distances="none"` every T is 1: Eq. 51, the Plackett–Luce likelihood of the ranking.

    For two responses Eq. 51 is −log σ(p_1 − p_2), SimPO at β = 1 and γ = 0. With β·log(π/π_ref) in place of p it is
    DPO, and for longer lists LiPO's list_mle. The authors' code has α = 1 and a weight for the SFT term, which grows
    with (K − 1)². Equal scores keep their order. Raises ValueError for a negative α or an unknown name.

    Song et al. 2023, https://arxiv.org/abs/2306.17492
    """
    _check_free("pro", alpha, logps, lengths, scores, mask)
    one_of(("scores", "none"), distances=distances)
    p, labels = _mean_logps(logps, lengths, mask), filled(mask, scores)
    remaining = from_here(labels, mask)
    inverse = torch.ones_like(remaining, dtype=p.dtype)
    if distances == "scores":
        inverse = torch.where(remaining, labels[:, :, None] - labels[:, None, :], 0.0)
        inverse = _with_diagonal(inverse, inverse.amax(-1))  # the distance to the last one
    return alpha * plackett_luce(p[:, None, :] * inverse, remaining) + _imitated(logps, labels, mask)  # survey Eq. 52


def pro_printed(
    *,
    logps: Tensor,
    lengths: Tensor,
    scores: Tensor,
    mask: Tensor,
    alpha: float = 1.0,
    distances: str = "scores",
) -> Tensor:
    """`pro` with T_i^k = 1/(p_k − p_i) from the policy, T_k^k = min_{i>k} T_i^k: the survey's Eq. 52 as printed (ES28).

    Where the policy has a pair in the wrong order, T is negative and e^{p_i/T} grows as p_i falls. The minimum of T is
    then the negative one with the smallest gap. https://arxiv.org/abs/2407.16216
    """
    _check_free("pro", alpha, logps, lengths, scores, mask)
    one_of(("scores", "none"), distances=distances)
    p, labels = _mean_logps(logps, lengths, mask), filled(mask, scores)
    remaining = from_here(labels, mask)
    inverse = torch.ones_like(remaining, dtype=p.dtype)
    if distances == "scores":
        gap = torch.where(remaining, p[:, :, None] - p[:, None, :], 0.0)
        # min T over the others is 1/gap with the negative gap nearest to 0, or else the largest gap; T is ∞ at 0.
        negative = torch.where(gap < 0, gap, -torch.inf).amax(-1)
        inverse = _with_diagonal(gap, torch.where(negative > -torch.inf, negative, gap.amax(-1)))
    return alpha * plackett_luce(p[:, None, :] * inverse, remaining) + _imitated(logps, labels, mask)  # survey Eq. 52


def _check_free(method: str, alpha: float, logps: Tensor, lengths: Tensor, scores: Tensor, mask: Tensor) -> None:
    """The checks of a loss without a reference."""
    check_lists(method, logps=logps, lengths=lengths, scores=scores, mask=mask)
    at_least_zero(alpha=alpha)


def _mean_logps(logps: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    """(G, K) the mean of log π over a response's tokens, 0 outside the mask."""
    return mean_log_likelihood(filled(mask, logps), torch.where(mask, lengths, 1))


def _imitated(logps: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """(G,) −log π of the best response."""
    return linear(filled(best(labels, mask), logps).sum(-1))


def _with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """(G, K, K) the matrix with this diagonal (G, K)."""
    own = torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
    return torch.where(own, diagonal[:, :, None], matrix)


def _pairs(shape: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A ranking loss that sums a shape of s_i − s_j over the pairs with ψ_i > ψ_j."""

    def loss(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        values = shape(rewards[:, :, None] - rewards[:, None, :])
        return torch.where(ahead(labels, mask), values, 0.0).sum((-2, -1))

    return loss


def _lambda(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The λ-loss; the weight of a pair is what swapping the two changes in the discounted cumulative gain."""
    gain = torch.expm1(math.log(2) * labels)
    discount = 1 / rank_by(rewards, labels, mask).to(rewards.dtype).log1p()
    weight = (gain[:, :, None] - gain[:, None, :]).abs() * (discount[:, :, None] - discount[:, None, :]).abs()
    values = weight * logistic(rewards[:, :, None] - rewards[:, None, :])
    return torch.where(ahead(labels, mask), values, 0.0).sum((-2, -1))


def _list_mle(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """−log of the ranking's Plackett–Luce likelihood (survey Eq. 51 with implicit rewards)."""
    remaining = from_here(labels, mask)
    return plackett_luce(rewards[:, None, :].expand(remaining.shape), remaining)


def _point_mse(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Σ_i (ψ_i − s_i)²: `una_score` summed over a list, without a baseline."""
    return torch.where(mask, squared(rewards - labels), 0.0).sum(-1)


def _point_sigmoid(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Σ_i −ψ_i·log σ(s_i) − (1 − ψ_i)·log(1 − σ(s_i)): `una_binary_bce` summed over a list, for scores in [0, 1]."""
    if ((labels < 0) | (labels > 1)).any():
        got = f"{float(labels.min()):g} to {float(labels.max()):g}"
        raise InputError(f"lipo: scores must be in [0, 1] for ranking=point_sigmoid, got {got}")
    return torch.where(mask, bce(rewards, labels), 0.0).sum(-1)


def _softmax(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """−Σ_i softmax(ψ)_i·log softmax(s)_i: the cross-entropy of two distributions over the list."""
    outside = ~mask
    target = labels.masked_fill(outside, -torch.inf).softmax(-1)
    learned = filled(mask, rewards.masked_fill(outside, -torch.inf).log_softmax(-1))
    return -(target * learned).sum(-1)


RANKINGS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "lambda": _lambda,
        "list_mle": _list_mle,
        "pair_logistic": _pairs(logistic),
        "pair_hinge": _pairs(lambda x: (1 - x).relu()),
        "point_mse": _point_mse,
        "point_sigmoid": _point_sigmoid,
        "softmax": _softmax,
    }
)
"""LiPO's ranking losses by name: implicit rewards (G, K), labels (G, K) and mask (G, K) -> (G,)."""
