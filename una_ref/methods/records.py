"""The records of the methods: one `Method` each."""

from __future__ import annotations

from dataclasses import replace

from una_ref.methods import pairs, policy_gradient, singles
from una_ref.methods.method import AXES, Method

UNA = "Wang et al. 2024, UNA"
UPO = "Sun et al. 2024, UPO"
SURVEY = "Wang et al. 2024, survey"


def _axes(row: str) -> dict[str, str]:
    """A row of the survey's Table 1, its 13 cells separated by spaces, in the order of `AXES`."""
    return dict(zip(AXES, row.split(), strict=True))


SFT = Method(
    name="sft",
    title="supervised fine-tuning",
    reward="log π",
    comparison="a demonstration",
    shape="linear",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"demos": singles.sft},
    needs_reference=False,
    shift_invariant=True,
    paper="maximum likelihood",
    equation="−log π(y|x)",
    reductions="una-score while r_θ ≈ 0, if all scores are equal and positive",
    notebook="07_gradients",
)

UNA_PAIR = Method(
    name="una-pair",
    aliases=("dpo",),
    title="UNA on pairs, which is DPO",
    reward="β·log(π/π_ref)",
    comparison="two responses of a prompt",
    shape="logistic",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"pairs": pairs.una_pair},
    needs_reference=True,
    shift_invariant=True,
    paper=f"{UNA}; Rafailov et al. 2023, DPO",
    equation="UNA Eq. 8 after f = log σ (its Eq. 5); survey Eq. 10",
    errata=("EU7", "EU8"),
    reductions="DPO",
    printed=pairs.una_pair_printed,
    axes=_axes("Implicit Point Response Positive Preference Human Pair Reference Uncontrol KL Off Offline Separate"),
    notebook="04_una_losses",
)

UNA_BINARY_MSE = Method(
    name="una-binary-mse",
    title="UNA on thumbs, squared error",
    reward="β·log(π/π_ref) + c",
    comparison="one response and a label",
    shape="MSE of σ",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"labels": singles.una_binary_mse},
    needs_reference=True,
    shift_invariant=False,
    paper=UNA,
    equation="UNA Eq. 9, g = MSE",
    errata=("EU9", "EU10", "EU11"),
    reductions="una-score.released with the labels as scores",
    printed=singles.una_binary_mse_printed,
    notebook="04_una_losses",
)

UNA_BINARY_BCE = Method(
    name="una-binary-bce",
    title="UNA on thumbs, cross-entropy",
    reward="β·log(π/π_ref) + c",
    comparison="one response and a label",
    shape="BCE",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"labels": singles.una_binary_bce},
    needs_reference=True,
    shift_invariant=False,
    paper=UNA,
    equation="UNA Eq. 9, g = BCE",
    errata=("EU9", "EU10", "EU11", "EU17"),
    reductions="summed over a pair, labels 1 and 0: TRL's bco_pair",
    printed=singles.una_binary_bce_printed,
    notebook="04_una_losses",
)

UNA_SCORE = Method(
    name="una-score",
    title="UNA on scores",
    reward="β·log(π/π_ref) + c",
    comparison="one response and a score",
    shape="squared",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"scores": singles.una_score},
    needs_reference=True,
    shift_invariant=False,
    paper=UNA,
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
    reward="β·log(π/π_ref) + V(x)",
    comparison="one response and a score",
    shape="squared",
    regulariser="none",
    samples_from="a fixed data set",
    # One β for the three likelihoods, so that feedback of several kinds speaks of one reward.
    losses={
        "scores": singles.una_centred,
        "labels": singles.una_centred_labels,
        "pairs": pairs.una_centred_pairs,
    },
    needs_reference=True,
    shift_invariant=True,
    paper="una_ref, after " + UNA,
    equation="UNA Eq. 10 with the f(x) + c of its Eq. 23 read as V(x)",
    errata=("EU3", "EU5", "EU14"),
    reductions="sampled from π, leave-one-out: RLOO; K = 2: regression of differences; V(x) learned: DRO",
    notebook="04_una_losses",
)

KTO = Method(
    name="kto",
    title="Kahneman–Tversky optimisation",
    reward="β·log(π/π_ref)",
    comparison="one response and a label",
    shape="Kahneman–Tversky σ",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"labels": singles.kto},
    needs_reference=True,
    shift_invariant=False,
    paper=f"Ethayarajh et al. 2024, KTO; {SURVEY}",
    equation="survey Eq. 32 with Eq. 34",
    errata=("ES16", "ES17", "EU15"),
    reductions="kl = 0 and equal weights: APO-zero's terms, whose squares are una-binary-mse",
    axes=_axes("- - - - Binary Human - Reference Uncontrol KL Off Offline Separate"),
    notebook="07_gradients",
)

IPO = Method(
    name="ipo",
    title="identity preference optimisation",
    reward="log(π/π_ref)",
    comparison="two responses of a prompt",
    shape="squared at 1/(2β)",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"pairs": pairs.ipo},
    needs_reference=True,
    shift_invariant=True,
    paper=f"Azar et al. 2024, IPO; {SURVEY}",
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
    reward="β·log(π/π_ref)",
    comparison="two responses of a prompt",
    shape="smoothed logistic",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"pairs": pairs.cdpo},
    needs_reference=True,
    shift_invariant=True,
    paper=f"Mitchell 2023, cDPO; {SURVEY}",
    equation="survey Eq. 12",
    errata=("ES4", "ES38"),
    reductions="label_smoothing = 0: dpo",
    notebook="06_upo_and_iupo",
)

F_DPO = Method(
    name="f-dpo",
    title="DPO with an f-divergence",
    reward="β·f′(π/π_ref)",
    comparison="two responses of a prompt",
    shape="logistic",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"pairs": pairs.f_dpo},
    needs_reference=True,
    shift_invariant=True,
    paper=f"Wang et al. 2023, f-DPO; {UPO}; {SURVEY}",
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
    reward="f′(π/π_ref)",
    comparison="two responses of a prompt",
    shape="squared at 1/(2β)",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"pairs": pairs.iupo},
    needs_reference=True,
    shift_invariant=True,
    paper=UPO,
    equation="UPO Eq. 17 with Ψ the identity; printed: Eq. 23, 24, 26",
    errata=("EP1", "EP2", "EP6", "EP7", "EP8", "EP9", "EP10"),
    reductions="reverse_kl: ipo, as corrected and as printed (Proposition 4.1)",
    printed=pairs.iupo_printed,
    notebook="06_upo_and_iupo",
)

DRO = Method(
    name="dro",
    title="direct reward optimisation",
    reward="β·log(π/π_ref) + V(x)",
    comparison="one response and a score",
    shape="half squared",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"scores": singles.dro, "labels": singles.dro_labels},
    needs_reference=True,
    shift_invariant=True,
    paper=f"Richemond et al. 2024, DRO; {SURVEY}",
    equation="survey Eq. 37; its gradients: Eq. 38 and 39",
    errata=("ES18", "ES19"),
    reductions="twice it: una-centred with a learned V(x), at the same β",
    printed=singles.dro_printed,
    axes=_axes("- - - - Binary Human - Reference Uncontrol KL Off Offline Separate"),
    notebook="07_gradients",
)

UNA_ONLINE = replace(
    UNA_SCORE,
    name="una-online",
    title="online UNA",
    samples_from="the current π",
    equation="UNA Eq. 7 with g the MSE, Eq. 10",
    reductions="its gradient is reinforce's times 2β, sample by sample",
    released=singles.una_online_released,
    notebook="13_online_alignment",
)

REINFORCE = Method(
    name="reinforce",
    title="REINFORCE on the regularised reward",
    reward="β·log(π/π_ref) + c",
    comparison="one response and a score",
    shape="score function",
    regulariser="none",
    samples_from="the current π",
    losses={"scores": policy_gradient.reinforce},
    needs_reference=True,
    shift_invariant=False,
    paper=f"Williams 1992; {SURVEY}",
    equation="survey Eq. 48 without its baseline",
    errata=("ES24", "EU13"),
    reductions="times 2β: una-online",
    notebook="04_una_losses",
)

RLOO = Method(
    name="rloo",
    title="REINFORCE, leave-one-out",
    reward="β·log(π/π_ref) + V(x)",
    comparison="one response and a score",
    shape="score function",
    regulariser="none",
    samples_from="the current π",
    losses={"scores": policy_gradient.rloo},
    needs_reference=True,
    shift_invariant=True,
    paper=f"Ahmadian et al. 2024, RLOO; {SURVEY}",
    equation="survey Eq. 48",
    errata=("ES24",),
    reductions="times 2β: una-centred sampled from π",
    axes=_axes("Explicit Point Response Positive Preference Human Pair Free Uncontrol KL On Offline Separate"),
    notebook="04_una_losses",
)

PPO = Method(
    name="ppo",
    title="proximal policy optimisation (RLHF)",
    reward="s − β·log(π/π_ref) by token",
    comparison="one response and a score",
    shape="clipped ratio",
    regulariser="none",
    samples_from="the current π",
    losses={"scores": policy_gradient.ppo, "demos": policy_gradient.ptx},
    advantages=policy_gradient.ppo_advantages,
    needs_reference=True,
    shift_invariant=True,
    paper=f"Schulman et al. 2017, PPO; Ouyang et al. 2022, InstructGPT; {SURVEY}",
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
    title="iterative DPO: the best and the worst drawn are a pair",
    samples_from="the best and the worst of K",
    paper=f"{SURVEY}; Xiong et al. 2023",
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
    reward="a scalar head",
    comparison="two responses of a prompt",
    shape="logistic",
    regulariser="none",
    samples_from="a fixed data set",
    losses={"pairs": pairs.reward_model},
    needs_reference=False,
    shift_invariant=True,
    paper=f"Bradley & Terry 1952; {UNA}; {SURVEY}",
    equation="UNA Eq. 2 with Eq. 1; survey Eq. 1",
    errata=("ES1",),
    reductions="with β·log(π/π_ref) in the head's place: una-pair",
)

RECORDS = (
    *(SFT, UNA_PAIR, UNA_BINARY_MSE, UNA_BINARY_BCE, UNA_SCORE, UNA_CENTRED),
    *(KTO, IPO, CDPO, F_DPO, IUPO, DRO),
    *(UNA_ONLINE, REINFORCE, RLOO, PPO, ITERATIVE_DPO),
    REWARD_MODEL,
)
"""Every method, in the order of the tables."""
