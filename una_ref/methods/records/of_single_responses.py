"""Records of methods on one response with a binary label or a score."""

from __future__ import annotations

from una_ref.methods import negatives, papers, rewards, singles
from una_ref.methods.method import Method

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
    reductions="kl = 0: apo-zero-unpaired",
    trl="KTOTrainer, loss_type=kto",
    optimum={
        "labels": "β up to 1: on the boundary, where only responses with P(y = 1) above ½ keep probability, and "
        "share it"
    },
    notebook="09_single_responses_and_lists",
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
    optimum={
        "scores": "π*, with V(x) = β·log Z(x)",
        "labels": "π ∝ π_ref·exp(2·σ(r)/β), since a positive label is the reward 1 and a negative one −1",
    },
    printed=singles.dro_printed,
    notebook="09_single_responses_and_lists",
)

APO_ZERO_UNPAIRED = Method(
    name="apo-zero-unpaired",
    title="anchored preference optimisation on labels",
    reward=rewards.IMPLICIT,
    comparison="one response and a label",
    shape="Kahneman–Tversky σ at 0",
    losses={"labels": singles.apo_zero_unpaired},
    shift_invariant=False,
    papers=(papers.APO,),
    equation="APO Eq. 7 on single responses",
    reductions="kto at kl = 0; at equal weights the squares of its terms are una-binary-mse",
    trl="KTOTrainer, loss_type=apo_zero_unpaired",
    optimum={"labels": "on the boundary: responses with P(y = 1) above ½ become likely, and those below ½ unlikely"},
    notebook="09_single_responses_and_lists",
)

UNA_MEASURE = Method(
    name="una-measure",
    title="UNA on scores with another measure",
    reward=rewards.IMPLICIT,
    baseline="constant",
    comparison="one response and a score",
    shape="a measure g",
    losses={"scores": singles.una_measure},
    shift_invariant=False,
    papers=(papers.UNA,),
    equation="UNA Eq. 7 with the measures of its Sec. 7.4",
    errata=("EU11", "EU14"),
    reductions="measure=mse: una-score; huber at a large width: una-score",
    optimum={
        "scores": "with the baseline β·log Z(x): π* of the mean (mse) or median (l1) of a response's scores; "
        "without it: another policy"
    },
    meanings={
        "measure": "mse, huber, l1, hinge or kl: how the distance of reward and score is measured",
        "width": "distance at which huber becomes linear, and up to which hinge is 0, in reward units",
    },
    notebook="09_single_responses_and_lists",
)

NPO = Method(
    name="npo",
    title="negative preference optimisation",
    reward=rewards.IMPLICIT,
    comparison="one response and a label",
    shape="softplus of the rejected",
    losses={"labels": negatives.npo},
    shift_invariant=False,
    papers=(papers.NPO, papers.SURVEY),
    equation="NPO Eq. 3; survey Sec. 3.10.2",
    errata=("ES30",),
    reductions="β → 0: gradient-ascent, up to a constant",
    optimum={
        "labels": "rejected samples of π_ref: all probability on one response up to β = 1, most of it on one for "
        "β < 2, where π_ref is a maximum"
    },
    notebook="09_single_responses_and_lists",
)

GRADIENT_ASCENT = Method(
    name="gradient-ascent",
    title="gradient ascent on rejected responses",
    reward=rewards.LOG_LIKELIHOOD,
    comparison="one response and a label",
    shape="linear in the rejected",
    losses={"labels": negatives.gradient_ascent},
    shift_invariant=True,
    papers=(papers.NPO, papers.SURVEY),
    equation="NPO Sec. 2; survey Sec. 3.10.2",
    reductions="minus sft on the negative labels; npo as its β → 0",
    optimum={"labels": "no finite one: the loss falls without bound as a rejected response loses its probability"},
    notebook="09_single_responses_and_lists",
)

RECORDS = (KTO, DRO, APO_ZERO_UNPAIRED, UNA_MEASURE, NPO, GRADIENT_ASCENT)
"""In the order of the tables."""
