"""Losses on two responses of one prompt, (P,) -> (P,).

A number that a prompt adds to both rewards cancels, such as β·log Z(x). Log-probabilities are in nats. Every loss
raises ValueError for tensors of different shapes and for a β that is not positive.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.pair_margins import check_pair
from una_ref.methods.ranges import at_least_zero
from una_ref.methods.rewards import (
    f_reward,
    f_slope,
    implicit_reward,
    length_normalised,
    log_ratio,
    margin,
    per_example,
)
from una_ref.methods.shapes import linear, logistic, smoothed_logistic, squared
from una_ref.theory.divergences import Divergence


def una_pair(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−log σ(r_θ(y_w) − r_θ(y_l)), which is DPO (UNA Eq. 8 and the line below it; survey Eq. 10).

    Its population optimum under Bradley–Terry preferences is π* on the responses that were compared. UNA's Eq. 8 prints
    no −log σ (EU7, `una_pair_printed`). The line below it prints −log[r_φ(y_w) − r_φ(y_l)], without σ and with φ for θ:
    a pair in the wrong order then asks for the logarithm of a negative number (EU8).

    Rafailov et al. 2023, Eq. 7, https://arxiv.org/abs/2305.18290; UNA, https://arxiv.org/abs/2408.15339
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
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
    """−(r_θ(y_w) − r_θ(y_l)): UNA Eq. 8 as printed, https://arxiv.org/abs/2408.15339.

    It is unbounded below, and its gradient is the same for every pair (EU7).
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    return linear(margin(chosen, rejected))  # UNA Eq. 8


def cdpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> Tensor:
    """−(1 − ε)·log σ(m) − ε·log σ(−m) with m = r_θ(y_w) − r_θ(y_l) and ε = `label_smoothing` (survey Eq. 12, ES4).

    Its minimiser has the margin m = logit((1 − ε)·p + ε·(1 − p)), where p is the probability that y_w wins. The margin
    of a certain preference is therefore finite, log((1 − ε)/ε), where DPO's is ∞. Where the labels are right,
    p = σ(Δr), the margin is smaller than Δr and not a difference of rewards: π* is not the optimum.
    Raises ValueError unless 0 ≤ ε < 0.5.

    Mitchell 2023, https://ericmitchell.ai/cdpo.pdf
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    # The printed log(1 − σ(m)) is log 0 from m = 38 on (ES38); log σ(−m) is the same number and stays finite.
    return smoothed_logistic(margin(chosen, rejected), label_smoothing)  # survey Eq. 12


def f_dpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    divergence: str | Divergence = "reverse_kl",
    alpha: float = 0.5,
) -> Tensor:
    """−log σ(β·f′(π(y_w)/π_ref(y_w)) − β·f′(π(y_l)/π_ref(y_l))) (UPO Eq. 5 and 21; survey Eq. 67).

    For the reverse KL it is DPO. Its population optimum under Bradley–Terry preferences maximises
    E r − β·D_f(π ‖ π_ref), if that policy gives no response probability zero (EP4; only chi2 and tv can).
    `divergence` is a name in `theory.DIVERGENCES` or a `Divergence`. `alpha` is the parameter of the divergence
    "alpha". Total variation has no gradient. Raises ValueError for an unknown name.

    Wang et al. 2023, https://arxiv.org/abs/2309.16240
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = f_reward(chosen_logps, ref_chosen_logps, beta, divergence, alpha)
    rejected = f_reward(rejected_logps, ref_rejected_logps, beta, divergence, alpha)
    return logistic(margin(chosen, rejected))  # UPO Eq. 5


def una_centred_pairs(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.03,
) -> Tensor:
    """`una_pair` with the β of centred UNA's other losses, so that mixed feedback is about one reward.

    UNA Eq. 8, https://arxiv.org/abs/2408.15339
    """
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
    """[(r_θ(y_w) − r_θ(y_l)) − (s_w − s_l)]²: centred UNA on two scored responses, where V(x) cancels.

    Summed over a prompt's pairs, its gradient is K − 1 times that of `una_centred` with leave-one-out baselines, summed
    over the K responses. For K = 2 the two are equal. The order of the two responses does not matter.

    After UNA Eq. 10, https://arxiv.org/abs/2408.15339
    """
    scores = {"chosen_scores": chosen_scores, "rejected_scores": rejected_scores}
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, **scores)
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    return squared(margin(chosen, rejected) - margin(chosen_scores, rejected_scores))  # UNA Eq. 10, of differences


def ipo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """[u(y_w) − u(y_l) − 1/(2β)]² with u = log π/π_ref summed over tokens (Azar et al. 2024, Eq. 17; survey Eq. 17).

    β is the paper's τ, per nat. TRL, LLaMA-Factory and HALOs take the *mean* over tokens: the same β then asks for a
    gap that grows with length. For two independent samples from π_ref the optimum is
    π ∝ π_ref·exp(E_{y'~π_ref} P(y ≻ y')/β). The survey prints a minus in front (ES9, `ipo_printed`).

    https://arxiv.org/abs/2310.12036
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    gap = margin(log_ratio(chosen_logps, ref_chosen_logps), log_ratio(rejected_logps, ref_rejected_logps))
    return squared(gap, target=1 / (2 * beta))  # survey Eq. 17 with the sign corrected


def ipo_printed(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−[u(y_w) − u(y_l) − 1/(2β)]²: the survey's Eq. 17 as printed, https://arxiv.org/abs/2407.16216.

    It is unbounded below (ES9).
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    gap = margin(log_ratio(chosen_logps, ref_chosen_logps), log_ratio(rejected_logps, ref_rejected_logps))
    return -squared(gap, target=1 / (2 * beta))  # survey Eq. 17


def iupo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    divergence: str | Divergence = "js",
    alpha: float = 0.5,
) -> Tensor:
    """[f′(π(y_w)/π_ref(y_w)) − f′(π(y_l)/π_ref(y_l)) − 1/(2β)]²: IPO with an f-divergence (UPO Eq. 17 with Ψ = id).

    For the reverse KL it is IPO. The default is the paper's divergence. The paper derives its loss "by means of
    induction" from IPO's and puts the policy's ratio inside f′ (Eq. 23, `iupo_printed`). Its Theorem 3.1 implies this
    loss instead (EP7). For two independent samples from μ the optimum maximises
    E_y E_{y'~μ} P(y ≻ y') − β·D_f(π ‖ π_ref), if that policy has no zeros (χ² may have). Otherwise as `f_dpo`.

    Sun et al. 2024, "Generalizing Offline Alignment Theoretical Paradigm with Diverse Divergence Constraints", after
    Azar et al. 2024, https://arxiv.org/abs/2310.12036
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = f_slope(chosen_logps, ref_chosen_logps, divergence, alpha)
    rejected = f_slope(rejected_logps, ref_rejected_logps, divergence, alpha)
    return squared(margin(chosen, rejected), target=1 / (2 * beta))  # UPO Eq. 17, 24


def iupo_printed(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    divergence: str | Divergence = "js",
    alpha: float = 0.5,
) -> Tensor:
    """[f′(π(y_w)/π(y_l)) − f′(π_ref(y_w)/π_ref(y_l)) − 1/(2β)]²: UPO Eq. 23, 24 and 26 as printed.

    It equals `iupo` for the reverse KL alone (EP7). With JS the difference is below log(1 + π_ref(y_l)/π_ref(y_w)).
    Where that is below the target 1/(2β), a certain preference has no finite minimiser, which IPO has (EP8). A pair
    that is already ranked right has almost no gradient.

    Sun et al. 2024, "Generalizing Offline Alignment Theoretical Paradigm with Diverse Divergence Constraints", after
    Azar et al. 2024, https://arxiv.org/abs/2310.12036
    """
    check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    policy = f_slope(chosen_logps, rejected_logps, divergence, alpha)
    ref = f_slope(ref_chosen_logps, ref_rejected_logps, divergence, alpha)
    return squared(margin(policy, ref), target=1 / (2 * beta))  # UPO Eq. 23, 24


def simpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> Tensor:
    """−log σ(β/|y_w|·log π(y_w) − β/|y_l|·log π(y_l) − γ), without a reference (survey Eq. 47).

    γ is a target margin, in reward units. Meng et al. 2024, https://arxiv.org/abs/2405.14734
    """
    lengths = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    per_example(beta, chosen_logps=chosen_logps, rejected_logps=rejected_logps, **lengths)
    at_least_zero(gamma=gamma)
    chosen = length_normalised(chosen_logps, chosen_lengths, beta)
    rejected = length_normalised(rejected_logps, rejected_lengths, beta)
    return logistic(margin(chosen, rejected) - gamma)  # survey Eq. 47


def reward_model(*, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """−log σ(r_φ(y_w) − r_φ(y_l)), the Bradley–Terry likelihood of a reward model (UNA Eq. 2; survey Eq. 1).

    r_φ is the output of a scorer. Its population optimum under Bradley–Terry preferences is the reward on the responses
    that were compared, up to one number for each prompt, which pairs cannot determine. The survey's Eq. 1 divides a
    mean over pairs by the number of pairs once more (ES1).

    Bradley & Terry 1952, https://doi.org/10.1093/biomet/39.3-4.324; Ouyang et al. 2022, Eq. 1,
    https://arxiv.org/abs/2203.02155
    """
    per_example(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    return logistic(margin(chosen_rewards, rejected_rewards))  # UNA Eq. 2
