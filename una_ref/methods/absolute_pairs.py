"""Losses on a pair that judge each response by itself, and BCO, which does so on labels, (P,) or (B,) -> the same.

r_θ = β·log π/π_ref of one response is compared with a number, not with the other response. A number that a prompt adds
to both rewards does not cancel, such as β·log Z(x). Log-probabilities are in nats. Every loss raises ValueError for
tensors of different shapes and for a β that is not positive.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.pair_margins import check_pair
from una_ref.methods.rewards import implicit_reward, log_ratio, margin, per_example
from una_ref.methods.shapes import bce, logistic, squared


def nca_pair(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−log σ(r_θ(y_w)) − ½·log σ(−r_θ(y_w)) − ½·log σ(−r_θ(y_l)): noise-contrastive alignment, two responses.

    Each win of a response raises r_θ; each appearance lowers it, with half the weight. Without the constraint that π
    sums to 1, σ(r_θ) = P/(P + ½), so r_θ = log 2P with P the probability that y beats another sample. At β = 1 with
    samples from π_ref that policy is normalised: π = 2·π_ref·P is the optimum. At another β, π_ref·(2P)^(1/β) does not
    sum to 1, and the optimum is another policy.

    Chen et al. 2024, https://arxiv.org/abs/2402.05369
    """
    chosen, rejected = _rewards(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)
    return logistic(chosen) + (logistic(-chosen) + logistic(-rejected)) / 2


def sppo_hard(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """[u(y_w) − 1/(2β)]² + [u(y_l) + 1/(2β)]² with u = log π/π_ref: SPPO's regression with win rates 1 and 0.

    On pairs of two independent samples it is 2/β² times `una_score` on the scores P(y beats another sample) − ½, up to
    a constant. As there, no baseline takes up log Z(x), so the optimum is not IPO's. β is 1/η of the paper.

    Wu et al. 2024, Eq. 4.7, https://arxiv.org/abs/2405.00675
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen, rejected = log_ratio(chosen_logps, ref_chosen_logps), log_ratio(rejected_logps, ref_rejected_logps)
    return squared(chosen, 1 / (2 * beta)) + squared(rejected, -1 / (2 * beta))


def apo_zero(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """1 − σ(r_θ(y_w)) + σ(r_θ(y_l)): raises the chosen response above π_ref and lowers the rejected one (Eq. 7).

    It is KTO on the two responses, labelled 1 and 0, at kl = 0. The mean loss is linear in σ(r_θ): a response that wins
    less than half of its comparisons loses all its mass, so no policy with π > 0 everywhere is an optimum.

    D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266
    """
    chosen, rejected = _rewards(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)
    return (-chosen).sigmoid() + rejected.sigmoid()


def apo_down(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """σ(r_θ(y_w)) + 1 − σ(r_θ(y_w) − r_θ(y_l)): both responses down, the rejected one more (Eq. 8).

    It is meant for chosen responses that are worse than the policy's own. Its infimum is 0, where all mass has moved to
    responses that are in no pair.

    D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266
    """
    chosen, rejected = _rewards(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)
    return chosen.sigmoid() + (-margin(chosen, rejected)).sigmoid()


def bco(*, logps: Tensor, ref_logps: Tensor, labels: Tensor, running_gain: Tensor, beta: float = 0.1) -> Tensor:
    """Cross-entropy of σ(r_θ − δ) with a label y in [0, 1], where δ = β·`running_gain` is the mean reward (BCO).

    δ is a moving average and has no gradient. It counts all responses alike, so the more frequent label moves it more;
    on pairs both labels count equally. TRL's BCOTrainer (gone in TRL 1.16) counted alike as well, but over all batches
    so far; here old batches fade (`decay`).

    The loss is `una_binary_bce` with the baseline −δ. π* needs −δ = β·log Z(x), one number for each prompt. δ is one
    number for all, and settles there only if the rewards of the data have mean 0. BCO's second part, weights for
    prompts that have labels of one kind, is not in this loss.

    Jung et al. 2024, https://arxiv.org/abs/2404.04656
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels)
    return bce(implicit_reward(logps, ref_logps, beta) - beta * running_gain.detach(), labels)


def bco_pairs(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    running_gain: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """`bco` on the two responses of a pair, labelled 1 and 0, added: −log σ(r_θ(y_w) − δ) − log σ(δ − r_θ(y_l)).

    Jung et al. 2024, https://arxiv.org/abs/2404.04656
    """
    chosen, rejected = _rewards(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)
    shift = beta * running_gain.detach()
    return logistic(chosen - shift) + logistic(shift - rejected)


def _rewards(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """r_θ(y_w) and r_θ(y_l), after the checks that every loss here makes."""
    check_pair(beta, chosen, rejected, ref_chosen, ref_rejected)
    return implicit_reward(chosen, ref_chosen, beta), implicit_reward(rejected, ref_rejected, beta)
