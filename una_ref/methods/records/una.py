"""Records of the methods of UNA, and of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from una_ref.methods import pairs, papers, rewards, singles
from una_ref.methods.method import Method

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
    optimum={"demos": "the distribution of the demonstrations"},
    notebook="07_gradients",
    trl="SFTTrainer, loss_type=nll; DPOTrainer, loss_type=sft; both take the mean over all tokens",
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
    optimum={"pairs": "π*"},
    notebook="04_una_losses",
    trl="DPOTrainer, loss_type=sigmoid",
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
    optimum={
        "labels": "with a learned V(x): π*; with one c for all prompts: another policy, which depends on the sampler"
    },
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
    optimum={
        "labels": "with a learned V(x): π*; with one c for all prompts: another policy, which depends on the sampler"
    },
    notebook="04_una_losses",
    trl="DPOTrainer, loss_type=bco_pair, on a pair as labels 1 and 0",
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
    optimum={
        "scores": "with a learned V(x), or on samples of π itself: π*; otherwise another policy, which depends on "
        "the sampler"
    },
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
    optimum={"scores": "π*", "labels": "π*", "pairs": "π*"},
    notebook="04_una_losses",
    trl="A2POTrainer, whose V(x) is β·log of the mean of exp(s/β) over samples of π_ref",
)

UNA_ONLINE = replace(
    UNA_SCORE,
    name="una-online",
    title="online UNA",
    invariant_in_expectation=True,
    source="policy",
    equation="UNA Eq. 7 with g the MSE, Eq. 10",
    reductions="its gradient is reinforce's times 2β, sample by sample",
    released=singles.una_online_released,
    optimum={"scores": "on fresh samples of π: π*"},
    notebook="13_online_alignment",
)

RECORDS = (SFT, UNA_PAIR, UNA_BINARY_MSE, UNA_BINARY_BCE, UNA_SCORE, UNA_CENTRED, UNA_ONLINE)
"""In the order of the tables."""
