"""Losses on one response, alone or with a binary label or a score, (B,) -> (B,).

A number that a prompt adds to all its rewards does not cancel here, such as β·log Z(x): `baseline` takes it up.
Log-probabilities are in nats, scores and baselines in reward units. Every loss raises ValueError for tensors of
different shapes and for a β that is not positive.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.measures import measured
from una_ref.methods.rewards import centred_reward, implicit_reward, log_likelihood, per_example
from una_ref.methods.shapes import bce, kahneman_tversky, linear, mse, squared


def sft(*, logps: Tensor) -> Tensor:
    """−log π(y|x), summed over the tokens of a demonstration: maximum likelihood.

    Ouyang et al. 2022, step 1, https://arxiv.org/abs/2203.02155
    """
    per_example(logps=logps)
    return linear(log_likelihood(logps))


def una_binary_mse(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.01
) -> Tensor:
    """[σ(r_θ + baseline) − y]² for a label y in [0, 1] (UNA Eq. 9, g = MSE; EU9, EU11).

    Its minimiser has σ(r_θ + baseline) = P(y = 1). That is π* for labels with P(y = 1) = σ(r), if the baseline is
    β·log Z(x).

    https://arxiv.org/abs/2408.15339
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline)
    return mse(implicit_reward(logps, ref_logps, beta) + baseline, labels)  # UNA Eq. 9, first line, sign corrected


def una_binary_bce(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.01
) -> Tensor:
    """Cross-entropy of σ(r_θ + baseline) with a label y in [0, 1] (UNA Eq. 9, g = BCE; EU9, EU11, EU17).

    It has the fixed point of `una_binary_mse`, and a gradient that does not vanish on a wrong label. On the two
    responses of a pair, labelled 1 and 0, the sum is TRL's `bco_pair`.

    https://arxiv.org/abs/2408.15339
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline)
    return bce(implicit_reward(logps, ref_logps, beta) + baseline, labels)  # UNA Eq. 9, first line, sign corrected


def una_binary_mse_printed(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.01
) -> Tensor:
    """−g² with g = [σ(r_θ + baseline) − y]²: UNA Eq. 9, second line, as printed (EU9).

    https://arxiv.org/abs/2408.15339
    """
    return -squared(una_binary_mse(logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline, beta=beta))


def una_binary_bce_printed(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.01
) -> Tensor:
    """−g² with g the cross-entropy: UNA Eq. 9, second line, as printed; unbounded below (EU9).

    https://arxiv.org/abs/2408.15339
    """
    return -squared(una_binary_bce(logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline, beta=beta))


def una_score(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """(r_θ + baseline − s)² (UNA Eq. 10 with the sign corrected, EU12).

    Its minimiser is π* only if the baseline is β·log Z(x). UNA has no baseline. The fixed point then moves with any
    constant in the scores: towards the sampler if the constant is large and positive (EU14).

    https://arxiv.org/abs/2408.15339
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return squared(implicit_reward(logps, ref_logps, beta) + baseline - scores)  # UNA Eq. 10


def una_score_printed(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """−(r_θ + baseline − s)²: UNA Eq. 10 as printed, unbounded below (EU12), https://arxiv.org/abs/2408.15339."""
    return -una_score(logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline, beta=beta)


def una_score_released(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """[σ(r_θ + baseline) − s]²: what the authors' scripts train, for scores in [0, 1] (EU11).

    The σ is in no equation of the paper. No policy can then reach a score of 0 or 1, and at a small β almost no score
    other than 0.5.

    https://github.com/ZhichaoWang970201/UNA-UFT
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return mse(implicit_reward(logps, ref_logps, beta) + baseline, scores)  # the authors' released code


def una_measure(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    scores: Tensor,
    baseline: Tensor | float = 0.0,
    beta: float = 0.03,
    measure: str = "huber",
    width: float = 0.1,
) -> Tensor:
    """g(r_θ + baseline, s): UNA on scores with any measure g (UNA Eq. 7; its Sec. 7.4 proposes other measures).

    `measure` is a name in `measures.MEASURES`: mse (then it is `una_score`), huber, l1, hinge or kl. `width` is the
    distance at which huber becomes linear, and within which hinge is 0, in reward units.

    With one score for each response and the baseline β·log Z(x), the minimiser is π* for every g except hinge. With
    noisy scores it is π* of their mean (mse), of their median (l1), of a number between (huber), or of the logit of the
    mean of σ(s) (kl). Raises ValueError for an unknown name and a `width` that is not positive.

    https://arxiv.org/abs/2408.15339
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return measured(implicit_reward(logps, ref_logps, beta) + baseline, scores, measure, width)  # UNA Eq. 7


def una_online_released(*, logps: Tensor, old_logps: Tensor, scores: Tensor, beta: float = 0.03) -> Tensor:
    """[σ(β·log π/π_old) − σ(s)]²: what the authors' online script trains. `old_logps` are those of the rollout.

    The ratio is to the policy that sampled the response; π_ref is not in this loss. In the first pass r is 0 and the
    gradient is REINFORCE's on σ(s) − 0.5. No term limits the total distance from π_ref. β acts as a step size.

    https://github.com/ZhichaoWang970201/UNA-UFT
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
    """(r_θ + V(x) − s)²: `una_score` with a baseline for each prompt, which removes the bias of Z(x).

    V(x) is `baseline` where it is given, (B,). Otherwise it is the leave-one-out mean of s − r_θ over the other
    responses of the group, without gradient. The minimiser is π* for any sampler that gives every response, and for any
    offset g(x) in the scores. With samples from π and leave-one-out its gradient is 2β times RLOO's, sample by sample.

    After UNA Eq. 10 and 23, https://arxiv.org/abs/2408.15339
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, groups=groups, baseline=baseline)
    return squared(centred_reward(logps, ref_logps, scores, groups, baseline, beta) - scores)  # UNA Eq. 10 and 23


def una_centred_labels(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float, beta: float = 0.03
) -> Tensor:
    """`una_binary_bce` with V(x), which must be given: one label does not determine the baseline of its prompt.

    UNA Eq. 9, https://arxiv.org/abs/2408.15339
    """
    return una_binary_bce(logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline, beta=beta)


def dro(*, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float, beta: float = 1.0) -> Tensor:
    """½·(s − V(x) − r_θ)², where V(x) = `baseline` is learned together with the policy (survey Eq. 37).

    One loss trains both. Its gradient in V(x) is the survey's Eq. 39; its gradient in log π is β times the one printed
    in Eq. 38 (ES18, `dro_printed`). The optimum is π* with V(x) = β·log Z(x), unique where the data have every response
    (ES19). It is half of `una_centred` with that baseline.

    Richemond et al. 2024, https://arxiv.org/abs/2405.19107
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return squared(implicit_reward(logps, ref_logps, beta) + baseline - scores) / 2  # survey Eq. 37


def dro_labels(
    *, logps: Tensor, ref_logps: Tensor, labels: Tensor, baseline: Tensor | float, beta: float = 1.0
) -> Tensor:
    """`dro` on binary labels: the reward of a positive label is 1, that of a negative label −1 (survey Eq. 35).

    Richemond et al. 2024, https://arxiv.org/abs/2405.19107
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels, baseline=baseline)
    scores = 2 * labels.to(logps.dtype) - 1
    return dro(logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline, beta=beta)


def dro_printed(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float, beta: float = 1.0
) -> Tensor:
    """½·(s − V(x) − r_θ)²/β: the loss whose gradient in log π is the survey's Eq. 38 as printed (ES18).

    That gradient is −(s − V(x) − r_θ). It already contains the rescaling by 1/β that the survey recommends later.

    https://arxiv.org/abs/2407.16216
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
    """λ_y − v: v = λ_D·σ(r_θ − β·kl) for a positive label, λ_U·σ(β·kl − r_θ) for a negative one (survey Eq. 32, 34).

    `kl` is z₀/β: the estimate of KL(π ‖ π_ref) in nats, clamped at 0 and without gradient. The survey's Eq. 33 is not
    that estimate (ES16), and neither is log Z(x) (EU15).

    Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels, kl=kl)
    gain = implicit_reward(logps, ref_logps, beta) - beta * kl
    return kahneman_tversky(gain, labels, desirable_weight, undesirable_weight)  # survey Eq. 32 with Eq. 34


def apo_zero_unpaired(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    labels: Tensor,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """λ_D·(1 − σ(r_θ)) for a positive label, λ_U·σ(r_θ) for a negative one: APO-zero on single responses.

    It is `kto` with the reference point 0, so that no pass over mismatched responses is needed. It raises the
    probability of positive responses, where DPO may lower both.

    D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels)
    return kahneman_tversky(implicit_reward(logps, ref_logps, beta), labels, desirable_weight, undesirable_weight)
