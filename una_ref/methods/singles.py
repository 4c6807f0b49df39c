"""Losses on one response and what was said of it, (B,) -> (B,): nothing, a thumb or a score.

What a prompt adds to all its rewards, β·log Z(x) for one, does not cancel here: `baseline` is where it goes.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.rewards import centred_reward, implicit_reward, log_likelihood, per_example
from una_ref.methods.shapes import bce, kahneman_tversky, linear, mse, squared


def sft(*, logps: Tensor) -> Tensor:
    """−log π(y|x), summed over the tokens of a demonstration: maximum likelihood."""
    per_example(logps=logps)
    return linear(log_likelihood(logps))


def una_binary_mse(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.01
) -> Tensor:
    """[σ(r_θ + baseline) − y]² for a label y in [0, 1]   (UNA Eq. 9, g = MSE; EU9, EU11).

    Learns σ(r_θ + baseline) = P(up), and π* for labels drawn with P(up) = σ(r) if the baseline is β·log Z(x).
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline)
    return mse(implicit_reward(logps, ref_logps, beta) + baseline, labels)  # UNA Eq. 9, first line, sign mended


def una_binary_bce(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.01
) -> Tensor:
    """Cross-entropy of σ(r_θ + baseline) with a label y in [0, 1]  (UNA Eq. 9, g = BCE; EU9, EU11, EU17).

    The fixed point of `una_binary_mse`, reached with a gradient that never vanishes on a wrong answer. On a
    pair's two responses, labelled 1 and 0, the sum is TRL's `bco_pair`.
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline)
    return bce(implicit_reward(logps, ref_logps, beta) + baseline, labels)  # UNA Eq. 9, first line, sign mended


def una_binary_mse_printed(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.01
) -> Tensor:
    """−g² with g = [σ(r_θ + baseline) − y]²: UNA's Eq. 9, second line, as printed (EU9)."""
    return -squared(una_binary_mse(logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline, beta=beta))


def una_binary_bce_printed(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.01
) -> Tensor:
    """−g² with g the cross-entropy: UNA's Eq. 9, second line, as printed; unbounded below (EU9)."""
    return -squared(una_binary_bce(logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline, beta=beta))


def una_score(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """(r_θ + baseline − s)²   (UNA Eq. 10 with its sign mended, EU12).

    Its minimiser is π* only if the baseline is β·log Z(x). As UNA has it, without one, the fixed point moves
    with any constant in the scores: towards the sampler (π_ref if that is it) if it is large and positive (EU14).
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return squared(implicit_reward(logps, ref_logps, beta) + baseline - scores)  # UNA Eq. 10


def una_score_printed(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """−(r_θ + baseline − s)²: UNA's Eq. 10 as printed, unbounded below (EU12)."""
    return -una_score(logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline, beta=beta)


def una_score_released(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """[σ(r_θ + baseline) − s]²: what the authors' scripts train, for scores in [0, 1] (EU11).

    The σ is in no equation. A score of 0 or 1 can then not be reached by any policy, and at a small β nearly
    none can.
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return mse(implicit_reward(logps, ref_logps, beta) + baseline, scores)  # the authors' released code


def una_online_released(*, logps: Tensor, old_logps: Tensor, scores: Tensor, beta: float = 0.03) -> Tensor:
    """[σ(β·log π/π_rollout) − σ(s)]²: what the authors' online script trains; `old_logps` are those of the rollout.

    The anchor is the policy that drew the response, not π_ref, which is nowhere in this loss: in the first pass r is 0
    and the gradient REINFORCE's on σ(s) − ½, and over many rollouts nothing holds π near π_ref. β is a step size.
    """
    per_example(beta, logps=logps, old_logps=old_logps, scores=scores)
    return mse(implicit_reward(logps, old_logps, beta), scores.sigmoid())  # the authors' una_peft.py, l. 350


def una_centred(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    scores: Tensor,
    groups: Tensor | None = None,
    baseline: Tensor | float | None = None,
    beta: float = 0.03,
) -> Tensor:
    """(r_θ + V(x) − s)²: `una_score` with a baseline for each prompt, so that Z(x) is no bias any more.

    V(x) is `baseline` where it is given, (B,) and as a rule learned, else the leave-one-out mean of s − r_θ
    over the other responses of the same group, without gradient. The minimiser is π* for any sampler that
    gives every response, and for any offset g(x) in the scores; sampled from π itself with leave-one-out it
    is RLOO, sample by sample.
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, groups=groups, baseline=baseline)
    return squared(centred_reward(logps, ref_logps, scores, groups, baseline, beta) - scores)  # UNA Eq. 10 and 23


def una_centred_labels(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float, beta: float = 0.03
) -> Tensor:
    """`una_binary_bce` with V(x), which must be given: a thumb says nothing of the other responses, so V is learned."""
    return una_binary_bce(logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline, beta=beta)


def dro(*, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float, beta: float = 1.0) -> Tensor:
    """½·(s − V(x) − r_θ)², V(x) = `baseline`, learned together with the policy   (survey Eq. 37).

    One loss for both: its gradient in V(x) is the survey's Eq. 39, that in log π is β times the one printed in Eq.
    38 (ES18, `dro_printed`). The optimum is π* with V(x) = β·log Z(x), and the only one where the data have every
    response (ES19). It is half of `una_centred` with that baseline.
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return squared(implicit_reward(logps, ref_logps, beta) + baseline - scores) / 2  # survey Eq. 37


def dro_labels(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float, beta: float = 1.0
) -> Tensor:
    """`dro` on thumbs, as the survey has it: the reward of a thumb up is 1 and that of a thumb down −1 (Eq. 35)."""
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline)
    scores = 2 * labels.to(logps.dtype) - 1
    return dro(logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline, beta=beta)


def dro_printed(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float, beta: float = 1.0
) -> Tensor:
    """½·(s − V(x) − r_θ)²/β: the loss whose gradient in log π is the survey's Eq. 38 as printed (ES18).

    That is −(s − V(x) − r_θ): the "rescaling of the policy gradient by 1/β" that the survey recommends further
    down is in it already.
    """
    return dro(logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline, beta=beta) / beta  # survey Eq. 38


def kto(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    labels: Tensor,
    kl: Tensor | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """λ_y − v, v = λ_D·σ(r_θ − β·kl) for a thumb up, λ_U·σ(β·kl − r_θ) for a thumb down  (survey Eq. 32, 34).

    `kl` is z₀/β: the estimate of KL(π ‖ π_ref) in nats, clamped at 0 and without gradient; survey Eq. 33 is
    not that estimate (ES16), and it is not log Z(x) either (EU15).
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels, kl=kl)
    gain = implicit_reward(logps, ref_logps, beta) - beta * kl
    return kahneman_tversky(gain, labels, desirable_weight, undesirable_weight)  # survey Eq. 32 with Eq. 34
