"""DPO with another shape of the margin, or with the mean of a token's log-ratio as the reward, (P,) -> (P,).

All compare two responses of a prompt, so a number that the prompt adds to both rewards cancels. In `sigmoid_norm` one
that it adds to both u does not, such as log Z(x): it is divided by two different lengths. The margin is
m = β·(u(y_w) − u(y_l)) with u = log π/π_ref, in nats. Every loss raises ValueError for tensors of different shapes, for
a β that is not positive, and for a hyper-parameter outside its range.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.methods.pair_margins import check_pair, implicit_margin
from una_ref.methods.rewards import length_normalised, log_ratio, margin
from una_ref.methods.shapes import logistic


def reversed_divergence(x: Tensor, label_smoothing: float = 1e-3) -> Tensor:
    """KL of (σ(x), σ(−x)) from the label (1 − ε, ε): `smoothed_logistic` is the divergence the other way round.

    It is bounded, and its gradient vanishes where the pair is ranked wrong with certainty. Raises ValueError unless
    0 < ε < 0.5: the divergence from a certain label is infinite.
    """
    if not 0 < label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be above 0 and below 0.5, got {label_smoothing}")
    certain, wrong = math.log1p(-label_smoothing), math.log(label_smoothing)
    return x.sigmoid() * (logsigmoid(x) - certain) + (-x).sigmoid() * (logsigmoid(-x) - wrong)


def noise_corrected_logistic(x: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """`logistic` without the bias of a share ε of wrong labels: its mean over that noise is `logistic`.

    [(1 − ε)·(−log σ(x)) − ε·(−log σ(−x))]/(1 − 2ε) = −log σ(x) − ε·x/(1 − 2ε), since −log σ(−x) = x − log σ(x).
    It is unbounded below as x grows. Raises ValueError unless 0 ≤ ε < 0.5.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be at least 0 and below 0.5, got {label_smoothing}")
    return logistic(x) - label_smoothing / (1 - 2 * label_smoothing) * x


def modulated(x: Tensor, tau: float = 0.05) -> Tensor:
    """(1 − σ(x/τ))·(−log σ(x)) + σ(x/τ)·exp(−x): logistic for negative x, exponential for positive x.

    For τ below about 0.1 it rises between them, so that it is not monotone. Raises ValueError unless 0 < τ ≤ 1: for a
    larger τ the exponential part overflows for x → −∞.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau must be above 0 and at most 1, got {tau}")
    return (-x / tau).sigmoid() * logistic(x) + (logsigmoid(x / tau) - x).exp()  # σ(x/τ)·e^(−x) without overflow


def exo_pair(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 1e-3,
) -> Tensor:
    """KL of (σ(m), σ(−m)) from (1 − ε, ε), the reverse of cDPO's divergence (EXO-pref with two responses, Eq. 16).

    Its minimiser has m = (2p − 1)·log((1 − ε)/ε), where p is the probability that y_w wins. For p = σ(Δr) that is
    log((1 − ε)/ε)·tanh(Δr/2) and no difference of rewards: π* is not the optimum. Raises ValueError unless 0 < ε < 0.5.

    Ji et al. 2024, https://arxiv.org/abs/2402.00856
    """
    x = implicit_margin(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return reversed_divergence(x, label_smoothing)


def robust_dpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> Tensor:
    """[−(1 − ε)·log σ(m) + ε·log σ(−m)]/(1 − 2ε) = −log σ(m) − ε·m/(1 − 2ε) (rDPO).

    If a share ε of the pairs is labelled the wrong way round, its mean over that noise is DPO's loss on the right
    labels, so π* is its optimum. cDPO adds ε·m instead. A pair that always wins has no finite minimiser: the loss is
    unbounded below. Raises ValueError unless 0 ≤ ε < 0.5.

    Ray Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409
    """
    x = implicit_margin(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return noise_corrected_logistic(x, label_smoothing)


def discopop(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    tau: float = 0.05,
) -> Tensor:
    """(1 − σ(m/τ))·(−log σ(m)) + σ(m/τ)·exp(−m), found by a language model that wrote losses (LRML, Eq. 5).

    For τ below about 0.1 it has a local minimum at a negative margin. For τ below 0.4, m = 0 is a local maximum of the
    mean loss on two responses that win equally often: the policy moves away from a tie. Raises ValueError unless
    0 < τ ≤ 1.

    Lu et al. 2024, https://arxiv.org/abs/2406.08414
    """
    x = implicit_margin(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return modulated(x, tau)


def sigmoid_norm(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float = 5.0,
) -> Tensor:
    """−log σ(β·u(y_w)/|y_w| − β·u(y_l)/|y_l|): DPO with the mean log-ratio of a token in place of the sum.

    Under Bradley–Terry preferences u(y)/|y| becomes r(y)/β up to a number of the prompt. The optimum is therefore
    π ∝ π_ref·exp(|y|·(r − λ(x))/β), where λ(x) makes the probabilities sum to 1: long responses above λ gain most.
    With responses of one length L it is DPO at β/L.

    Tülu 3, Lambert et al. 2024, https://arxiv.org/abs/2411.15124
    """
    lengths = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, **lengths)
    chosen = mean_log_ratio(chosen_logps, ref_chosen_logps, chosen_lengths, beta)
    rejected = mean_log_ratio(rejected_logps, ref_rejected_logps, rejected_lengths, beta)
    return logistic(margin(chosen, rejected))


def mean_log_ratio(logps: Tensor, ref_logps: Tensor, lengths: Tensor, beta: float) -> Tensor:
    """β/|y|·log π(y|x)/π_ref(y|x), with |y| tokens: the reward of `sigmoid_norm`."""
    return length_normalised(log_ratio(logps, ref_logps), lengths, beta)
