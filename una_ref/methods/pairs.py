"""Losses on two responses of one prompt, (P,) -> (P,).

What a prompt adds to both rewards cancels, β·log Z(x) for one.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.rewards import f_reward, f_slope, implicit_reward, log_ratio, margin, per_example
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


def cdpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> Tensor:
    """−(1 − ε)·log σ(m) − ε·log σ(−m) with m = r_θ(y_w) − r_θ(y_l), ε = `label_smoothing`   (survey Eq. 12, ES4).

    It asks of each pair the margin m = logit((1 − ε)·p + ε·(1 − p)), where p is the probability that y_w wins. So
    the margin stays finite where preferences are certain, log((1 − ε)/ε) against DPO's ∞; and for labels that are
    right (p = σ(Δr)) it is smaller than Δr and no longer a difference of rewards, so that π* is not the optimum.
    Raises ValueError unless 0 ≤ ε < ½.
    """
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = implicit_reward(chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(rejected_logps, ref_rejected_logps, beta)
    # log σ(−m) in the place of the printed log(1 − σ(m)), which is log 0 at m = 38 already (ES38).
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
    """−log σ(β·f′(π(y_w)/π_ref(y_w)) − β·f′(π(y_l)/π_ref(y_l)))   (UPO Eq. 5 and 21; survey Eq. 67).

    DPO for the reverse KL. Its population optimum under Bradley–Terry preferences is the policy that maximises
    E r − β·D_f(π ‖ π_ref), if that gives no response probability zero (EP4; only chi2 and tv can). `divergence` is a
    name in `theory.DIVERGENCES` or one's own; `alpha` is read for the name "alpha". Total variation has no
    gradient. Raises ValueError for an unknown name.
    """
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
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
    return squared(margin(chosen, rejected) - margin(chosen_scores, rejected_scores))  # UNA Eq. 10, of differences


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
    """[f′(π(y_w)/π_ref(y_w)) − f′(π(y_l)/π_ref(y_l)) − 1/(2β)]²: IPO with an f-divergence   (UPO Eq. 17 with Ψ = id).

    The paper comes to its loss "by means of induction" from IPO's and puts the policy's ratio inside f′ (Eq. 23,
    `iupo_printed`); its own Theorem 3.1 asks for this one (EP7). Where the two responses are independent draws from
    μ, its optimum is the policy that maximises E_y E_{y'~μ} P(y ≻ y') − β·D_f(π ‖ π_ref), if that has no zeros
    (χ² may have). IPO for the reverse KL; the default is the paper's own divergence. Otherwise as `f_dpo`.
    """
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
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

    The same as `iupo` for the reverse KL alone (EP7). With JS the difference is below log(1 + π_ref(y_l)/π_ref(y_w)),
    as a rule below the target 1/(2β) too: certain preferences then have no finite minimiser, which IPO was made to
    have (EP8), and a pair that is already ranked right has next to no gradient.
    """
    _check_pair(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    own = f_slope(chosen_logps, rejected_logps, divergence, alpha)
    ref = f_slope(ref_chosen_logps, ref_rejected_logps, divergence, alpha)
    return squared(margin(own, ref), target=1 / (2 * beta))  # UPO Eq. 23, 24


def reward_model(*, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """−log σ(r_φ(y_w) − r_φ(y_l)), the Bradley–Terry likelihood of a reward model   (UNA Eq. 2; survey Eq. 1).

    r_φ is what a scorer says, not a policy's log-ratio. The survey's Eq. 1 divides by the number of a prompt's pairs
    what is a mean over pairs already (ES1). Its population optimum under Bradley–Terry preferences is the reward
    itself on the responses that were compared, up to a number for each prompt that no pair can see.
    """
    per_example(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    return logistic(margin(chosen_rewards, rejected_rewards))  # UNA Eq. 2


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
