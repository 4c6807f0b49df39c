"""The records: one `Method` for each method."""

from __future__ import annotations

from dataclasses import replace

from una_ref.methods import pairs, papers, policy_gradient, rewards, singles
from una_ref.methods.method import AXES, Auxiliary, Method


def _axes(row: str) -> dict[str, str]:
    """A row of the survey's Table 1, its 13 cells separated by spaces, in the order of `AXES`."""
    return dict(zip(AXES, row.split(), strict=True))


SFT = Method(
    name="sft",
    title="supervised fine-tuning",
    reward=rewards.LOG_LIKELIHOOD,
    comparison="a demonstration",
    shape="linear",
    losses={"demos": singles.sft},
    shift_invariant=True,
    papers=(papers.INSTRUCT_GPT,),
    equation="−log π(y|x)",
    reductions="una-score while r_θ ≈ 0, if all scores are equal and positive",
    notebook="07_gradients",
)

UNA_PAIR = Method(
    name="una-pair",
    aliases=("dpo",),
    title="UNA on pairs, which is DPO",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": pairs.una_pair},
    shift_invariant=True,
    papers=(papers.UNA, papers.DPO),
    equation="UNA Eq. 8 after f = log σ (its Eq. 5); survey Eq. 10",
    errata=("EU7", "EU8"),
    reductions="DPO",
    printed=pairs.una_pair_printed,
    axes=_axes("Implicit Point Response Positive Preference Human Pair Reference Uncontrol KL Off Offline Separate"),
    notebook="04_una_losses",
)

UNA_BINARY_MSE = Method(
    name="una-binary-mse",
    title="UNA on binary labels, squared error",
    reward=rewards.IMPLICIT,
    baseline="constant",
    comparison="one response and a label",
    shape="MSE of σ",
    losses={"labels": singles.una_binary_mse},
    shift_invariant=False,
    papers=(papers.UNA,),
    equation="UNA Eq. 9, g = MSE",
    errata=("EU9", "EU10", "EU11"),
    reductions="una-score.released with the labels as scores",
    printed=singles.una_binary_mse_printed,
    notebook="04_una_losses",
)

UNA_BINARY_BCE = Method(
    name="una-binary-bce",
    title="UNA on binary labels, cross-entropy",
    reward=rewards.IMPLICIT,
    baseline="constant",
    comparison="one response and a label",
    shape="BCE",
    losses={"labels": singles.una_binary_bce},
    shift_invariant=False,
    papers=(papers.UNA,),
    equation="UNA Eq. 9, g = BCE",
    errata=("EU9", "EU10", "EU11", "EU17"),
    reductions="summed over a pair, labels 1 and 0: TRL's bco_pair",
    printed=singles.una_binary_bce_printed,
    notebook="04_una_losses",
)

UNA_SCORE = Method(
    name="una-score",
    title="UNA on scores",
    reward=rewards.IMPLICIT,
    baseline="constant",
    comparison="one response and a score",
    shape="squared",
    losses={"scores": singles.una_score},
    shift_invariant=False,
    papers=(papers.UNA,),
    equation="UNA Eq. 10",
    errata=("EU2", "EU11", "EU12", "EU13", "EU14"),
    reductions="sampled from π without its gradient: REINFORCE on J without a baseline, times −2β",
    printed=singles.una_score_printed,
    released=singles.una_score_released,
    notebook="04_una_losses",
)

UNA_CENTRED = Method(
    name="una-centred",
    title="UNA with a baseline for each prompt",
    reward=rewards.IMPLICIT,
    baseline="prompt",
    comparison="one response and a score",
    shape="squared",
    # One β for the three likelihoods, so that feedback of several kinds is about one reward.
    losses={
        "scores": singles.una_centred,
        "labels": singles.una_centred_labels,
        "pairs": pairs.una_centred_pairs,
    },
    shift_invariant=True,
    papers=(papers.UNA,),
    equation="this project's own: UNA Eq. 10 with the f(x) + c of its Eq. 23 read as V(x)",
    errata=("EU3", "EU5", "EU14"),
    reductions="sampled from π, leave-one-out: RLOO; K = 2: regression of differences; V(x) learned: DRO",
    notebook="04_una_losses",
)

KTO = Method(
    name="kto",
    title="Kahneman–Tversky optimisation",
    reward=rewards.IMPLICIT,
    comparison="one response and a label",
    shape="Kahneman–Tversky σ",
    losses={"labels": singles.kto},
    shift_invariant=False,
    papers=(papers.KTO, papers.SURVEY),
    equation="survey Eq. 32 with Eq. 34",
    errata=("ES16", "ES17", "EU15"),
    reductions="kl = 0 and equal weights: APO-zero's terms, whose squares are una-binary-mse",
    axes=_axes("- - - - Binary Human - Reference Uncontrol KL Off Offline Separate"),
    notebook="07_gradients",
)

IPO = Method(
    name="ipo",
    title="identity preference optimisation",
    reward=rewards.LOG_RATIO,
    comparison="two responses of a prompt",
    shape="squared at 1/(2β)",
    losses={"pairs": pairs.ipo},
    shift_invariant=True,
    papers=(papers.IPO, papers.SURVEY),
    equation="survey Eq. 17",
    errata=("ES8", "ES9"),
    reductions="una-centred's pairwise form at any β' with scores that differ by β'/(2β), over β'²",
    printed=pairs.ipo_printed,
    axes=_axes(
        "Implicit Preference Response Positive Preference Human Pair Reference Uncontrol KL Off Offline Separate"
    ),
    notebook="06_upo_and_iupo",
)

CDPO = Method(
    name="cdpo",
    title="conservative DPO: label smoothing",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="smoothed logistic",
    losses={"pairs": pairs.cdpo},
    shift_invariant=True,
    papers=(papers.CDPO, papers.SURVEY),
    equation="survey Eq. 12",
    errata=("ES4", "ES38"),
    reductions="label_smoothing = 0: dpo",
    notebook="06_upo_and_iupo",
)

F_DPO = Method(
    name="f-dpo",
    title="DPO with an f-divergence",
    reward=rewards.F_IMPLICIT,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": pairs.f_dpo},
    shift_invariant=True,
    papers=(papers.F_DPO, papers.UPO, papers.SURVEY),
    equation="UPO Eq. 5 and 21; survey Eq. 67",
    errata=("EP2", "EP3", "EP4", "EP10", "ES36", "ES37"),
    reductions="reverse_kl: dpo; alpha → 0: dpo; alpha → 1: forward_kl; jsd: js at half the β",
    axes=_axes(
        "Implicit Point Response Positive Preference Human Pair Reference Uncontrol Multiple Hybrid Offline Separate"
    ),
    notebook="05_f_divergences",
)

IUPO = Method(
    name="iupo",
    title="IPO with an f-divergence",
    reward=rewards.F_SLOPE,
    comparison="two responses of a prompt",
    shape="squared at 1/(2β)",
    losses={"pairs": pairs.iupo},
    shift_invariant=True,
    papers=(papers.UPO,),
    equation="UPO Eq. 17 with Ψ the identity; printed: Eq. 23, 24, 26",
    errata=("EP1", "EP2", "EP6", "EP7", "EP8", "EP9", "EP10"),
    reductions="reverse_kl: ipo, as corrected and as printed (Proposition 4.1)",
    printed=pairs.iupo_printed,
    notebook="06_upo_and_iupo",
)

DRO = Method(
    name="dro",
    title="direct reward optimisation",
    reward=rewards.IMPLICIT,
    baseline="prompt",
    comparison="one response and a score",
    shape="half squared",
    losses={"scores": singles.dro, "labels": singles.dro_labels},
    shift_invariant=True,
    papers=(papers.DRO, papers.SURVEY),
    equation="survey Eq. 37; its gradients: Eq. 38 and 39",
    errata=("ES18", "ES19"),
    reductions="twice it: una-centred with a learned V(x), at the same β",
    printed=singles.dro_printed,
    axes=_axes("- - - - Binary Human - Reference Uncontrol KL Off Offline Separate"),
    notebook="07_gradients",
)

SIMPO = Method(
    name="simpo",
    title="simple preference optimisation",
    reward=rewards.LENGTH_NORMALISED,
    comparison="two responses of a prompt",
    shape="logistic at γ",
    losses={"pairs": pairs.simpo},
    shift_invariant=True,
    papers=(papers.SIMPO, papers.SURVEY),
    equation="survey Eq. 47",
    errata=("ES39",),
    axes=_axes("- - - - Preference Human Pair Free Control - Off Offline Merge"),
)

UNA_ONLINE = replace(
    UNA_SCORE,
    name="una-online",
    title="online UNA",
    source="policy",
    equation="UNA Eq. 7 with g the MSE, Eq. 10",
    reductions="its gradient is reinforce's times 2β, sample by sample",
    released=singles.una_online_released,
    notebook="13_online_alignment",
)

REINFORCE = Method(
    name="reinforce",
    title="REINFORCE on the regularised reward",
    reward=rewards.IMPLICIT,
    baseline="constant",
    comparison="one response and a score",
    shape="score function",
    source="policy",
    reuse="none",
    losses={"scores": policy_gradient.reinforce},
    shift_invariant=False,
    papers=(papers.REINFORCE, papers.SURVEY),
    equation="survey Eq. 48 without its baseline",
    errata=("ES24", "EU13"),
    reductions="times 2β: una-online",
    notebook="04_una_losses",
)

RLOO = Method(
    name="rloo",
    title="REINFORCE, leave-one-out",
    reward=rewards.IMPLICIT,
    baseline="prompt",
    comparison="one response and a score",
    shape="score function",
    source="policy",
    reuse="none",
    losses={"scores": policy_gradient.rloo},
    shift_invariant=True,
    papers=(papers.RLOO, papers.SURVEY),
    equation="survey Eq. 48",
    errata=("ES24",),
    reductions="times 2β: una-centred sampled from π",
    axes=_axes("Explicit Point Response Positive Preference Human Pair Free Uncontrol KL On Offline Separate"),
    notebook="04_una_losses",
)

PPO = Method(
    name="ppo",
    title="proximal policy optimisation (RLHF)",
    reward=rewards.PER_TOKEN,
    comparison="one response and a score",
    shape="clipped ratio",
    source="policy",
    reuse="passes",
    losses={"scores": policy_gradient.ppo},
    auxiliary=Auxiliary("demos", policy_gradient.ptx, weight="ptx"),
    advantages=policy_gradient.ppo_advantages,
    shift_invariant=True,
    papers=(papers.PPO, papers.INSTRUCT_GPT, papers.SURVEY),
    equation="survey Eq. 2",
    errata=("ES2", "EU1"),
    reductions="ratio 1, λ = 1, no critic, not whitened: reinforce, in expectation",
    composes=False,
    notebook="13_online_alignment",
)

ITERATIVE_DPO = replace(
    UNA_PAIR,
    name="iterative-dpo",
    aliases=(),
    title="iterative DPO on the best and the worst sample",
    source="policy",
    keep="best_and_worst",
    papers=(papers.SURVEY, papers.ITERATIVE_DPO),
    equation="survey Sec. 3.1.3 with Eq. 10",
    errata=(),
    reductions="dpo on its own rollouts; `replay` keeps earlier stages",
    printed=None,
    axes={},
    notebook="13_online_alignment",
)

REWARD_MODEL = Method(
    name="reward-model",
    title="a Bradley–Terry reward model",
    reward=rewards.SCALAR_HEAD,
    trains="scorer",
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": pairs.reward_model},
    shift_invariant=True,
    papers=(papers.BRADLEY_TERRY, papers.UNA, papers.SURVEY),
    equation="UNA Eq. 2 with Eq. 1; survey Eq. 1",
    errata=("ES1",),
    reductions="with β·log(π/π_ref) in the head's place: una-pair",
)

RECORDS = (
    *(SFT, UNA_PAIR, UNA_BINARY_MSE, UNA_BINARY_BCE, UNA_SCORE, UNA_CENTRED),
    *(KTO, IPO, CDPO, F_DPO, IUPO, DRO, SIMPO),
    *(UNA_ONLINE, REINFORCE, RLOO, PPO, ITERATIVE_DPO),
    REWARD_MODEL,
)
"""Every method, in the order of the tables."""
