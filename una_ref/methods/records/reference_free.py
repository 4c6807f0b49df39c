"""Records of methods on pairs that have no reference."""

from __future__ import annotations

from una_ref.methods import pairs, papers, rewards, without_reference
from una_ref.methods.method import Method

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
    trl="CPOTrainer, loss_type=simpo",
    optimum={
        "pairs": "γ = 0: π ∝ exp(|y|·(r − λ)/β), where λ(x) makes the probabilities sum to 1; γ above 0: another policy"
    },
    notebook="08_pairs",
)

SLIC = Method(
    name="slic",
    title="sequence likelihood calibration (SLiC-HF)",
    reward=rewards.LOG_LIKELIHOOD,
    comparison="two responses of a prompt",
    shape="hinge at δ",
    regulariser="−λ·log π(y_w)",
    losses={"pairs": without_reference.slic},
    shift_invariant=True,
    papers=(papers.SLIC, papers.SURVEY),
    equation="survey Eq. 3",
    errata=("ES17",),
    reductions="lam = 0: gpo's hinge at δ = 1 with a uniform reference and β = 1",
    trl="CPOTrainer, loss_type=hinge, which divides the imitation by the batch's tokens",
    optimum={"pairs": "on two responses: a margin of ±δ while lam is small, and imitation as it grows; not π*"},
    meanings={
        "delta": "target margin of the log-probabilities, in nats",
        "lam": "weight of imitating the chosen response",
    },
    notebook="08_pairs",
)

ORPO = Method(
    name="orpo",
    title="odds-ratio preference optimisation",
    reward=rewards.MEAN_LOG_ODDS,
    comparison="two responses of a prompt",
    shape="λ·logistic",
    regulariser="−log π(y_w)/|y_w|",
    losses={"pairs": without_reference.orpo},
    shift_invariant=True,
    papers=(papers.ORPO, papers.SURVEY),
    equation="survey Eq. 42 with Eq. 40 and 41",
    errata=("ES20",),
    reductions="lam = 0: sft on the chosen responses, by tokens",
    printed=without_reference.orpo_printed,
    trl="ORPOTrainer, whose imitation includes the prompt",
    optimum={
        "pairs": "lam = 0: the distribution of the chosen responses over their lengths, π ∝ μ·P(y wins)/|y|; "
        "lam above 0: another policy"
    },
    meanings={"lam": "weight of the odds ratio beside imitation"},
    notebook="08_pairs",
)

CPO = Method(
    name="cpo",
    title="contrastive preference optimisation",
    reward=rewards.SCALED_LOG_LIKELIHOOD,
    comparison="two responses of a prompt",
    shape="logistic",
    regulariser="−λ·log π(y_w)",
    losses={"pairs": without_reference.cpo},
    shift_invariant=True,
    papers=(papers.CPO, papers.SURVEY),
    equation="survey Eq. 54",
    errata=("ES31",),
    reductions="lam = 0: dpo with a uniform reference, and simpo at gamma = 0 with lengths of 1",
    printed=without_reference.cpo_printed,
    trl="CPOTrainer, loss_type=sigmoid, which divides the imitation by the batch's tokens",
    optimum={
        "pairs": "lam = 0: π ∝ exp(r/β), which is π* of a uniform π_ref; lam above 0: nearer to the chosen responses"
    },
    meanings={"lam": "weight of imitating the chosen response"},
    notebook="08_pairs",
)

RECORDS = (SIMPO, SLIC, ORPO, CPO)
"""In the order of the tables."""
