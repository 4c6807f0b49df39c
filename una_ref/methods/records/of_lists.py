"""Records of methods on a ranked list of responses."""

from __future__ import annotations

from una_ref.methods import lists, negatives, papers, rewards
from una_ref.methods.method import Method

LIPO = Method(
    name="lipo",
    title="listwise preference optimisation",
    reward=rewards.IMPLICIT,
    comparison="the responses of a list",
    shape="a ranking loss",
    losses={"lists": lists.lipo},
    shift_invariant=True,
    papers=(papers.LIPO, papers.SURVEY),
    equation="survey Eq. 49",
    errata=("ES25", "ES26", "ES38"),
    reductions="K = 2, pair_logistic or list_mle: dpo; K = 2, lambda: dpo times Δ; point_mse: una-score",
    optimum={
        "lists": "pair_logistic and list_mle on Plackett–Luce rankings, and softmax on scores: π*; lambda: "
        "another policy"
    },
    printed=lists.lipo_printed,
    composes=False,
    meanings={
        "ranking": "the ranking loss: lambda (scores of the order of 1: weights are differences of 2^s), list_mle, "
        "pair_logistic, pair_hinge, point_mse, point_sigmoid (scores in [0, 1]) or softmax"
    },
    note="lipo: ranking=lambda weighs two responses by |2^s − 2^s′|, so scores should be of the order of 1; divide "
    "larger ones, or take ranking=list_mle",
    notebook="09_single_responses_and_lists",
)

RRHF = Method(
    name="rrhf",
    title="rank responses to align with human feedback",
    reward=rewards.MEAN_LOG_LIKELIHOOD,
    comparison="the responses of a list",
    shape="hinge at 0, and SFT on the best",
    losses={"lists": lists.rrhf},
    shift_invariant=True,
    papers=(papers.RRHF, papers.SURVEY),
    equation="survey Eq. 50",
    errata=("ES27", "ES39"),
    reductions="alpha = 0: sft on the best response of each list",
    optimum={"lists": "where no ranking is inverted: the distribution of the best responses, as SFT"},
    composes=False,
    meanings={"alpha": "weight of the ranking term beside SFT on the best response"},
    notebook="09_single_responses_and_lists",
)

PRO = Method(
    name="pro",
    title="preference ranking optimisation",
    reward=rewards.MEAN_LOG_LIKELIHOOD,
    comparison="the responses of a list",
    shape="Plackett–Luce, and SFT on the best",
    losses={"lists": lists.pro},
    shift_invariant=False,  # each logit is scaled by a distance of its own; with distances=none an offset cancels
    papers=(papers.PRO, papers.SURVEY),
    equation="survey Eq. 52; Eq. 51 with distances=none",
    errata=("ES28", "ES38"),
    reductions="distances=none, K = 2: sft plus alpha times simpo at β = 1, γ = 0",
    printed=lists.pro_printed,
    composes=False,
    meanings={
        "alpha": "weight of the ranking term beside SFT on the best response",
        "distances": "scores: logits are scaled by distances of scores (Eq. 52); none: they are not (Eq. 51)",
    },
    notebook="09_single_responses_and_lists",
)

D2O = Method(
    name="d2o",
    title="Negating Negatives: samples of π_ref against a rejected response",
    reward=rewards.IMPLICIT,
    comparison="a rejected response and K samples",
    shape="logistic",
    losses={"lists": negatives.d2o},
    shift_invariant=True,
    papers=(papers.D2O, papers.SURVEY),
    equation="survey Eq. 53 with π_ref⁻ in its first ratio",
    errata=("ES29",),
    reductions="K = 1, alpha = 1, one reference: dpo with the sample as chosen response",
    optimum={
        "lists": "K = 1 and one reference: π ∝ π_ref·(π_ref/ν)^{1/β}, where ν is the distribution of rejected responses"
    },
    composes=False,
    recipe="d2o",
    meanings={"alpha": "weight of the rejected response beside the mean of the samples"},
    notebook="09_single_responses_and_lists",
)

RECORDS = (LIPO, RRHF, PRO, D2O)
"""In the order of the tables."""
