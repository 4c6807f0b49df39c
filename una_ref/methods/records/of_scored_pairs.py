"""Records of methods on two responses with a score each."""

from __future__ import annotations

from una_ref.methods import papers, rewards, scored_pairs
from una_ref.methods.method import Method

RPO = Method(
    name="rpo",
    title="reward-aware preference optimisation",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="a distance from η·Δs",
    losses={"pairs": scored_pairs.rpo},
    shift_invariant=True,
    papers=(papers.RPO,),
    equation="Sun et al. 2025: D(β·Δu, η·Δs)",
    reductions="squared, eta = 1: una-centred on the differences of pairs, and rebel at η = 1/β",
    optimum={"pairs": "π ∝ π_ref·exp(η·s/β) for every distance and sampler; eta = 1: π*"},
    meanings={
        "eta": "scale of the scores",
        "distance": f"of the margin of rewards from that of scores: {', '.join(scored_pairs.DISTANCES)}",
    },
    notebook="08_pairs",
)

REBEL = Method(
    name="rebel",
    title="regression of relative rewards",
    reward=rewards.INVERSE_SCALED,
    comparison="two responses of a prompt",
    shape="squared at Δs",
    losses={"pairs": scored_pairs.rebel},
    shift_invariant=True,
    papers=(papers.REBEL,),
    equation="Gao et al. 2024, Algorithm 1, with π_ref for π_t",
    reductions="rpo's squared form, and una-centred on the differences of pairs, at β = 1/η",
    optimum={
        "pairs": "π ∝ π_ref·exp(η·s), which is π* of β = 1/η; T iterations, each around the last policy: π* of β "
        "= 1/(T·η)"
    },
    meanings={"eta": "step size: 1/η is β"},
    notebook="08_pairs",
)

ODPO = Method(
    name="odpo",
    title="DPO with an offset",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="logistic at η·Δs",
    losses={"pairs": scored_pairs.odpo},
    shift_invariant=True,
    papers=(papers.ODPO,),
    equation="Amini et al. 2024, with the offset η·Δs, or η times the column margin",
    reductions="margins of 0: una-pair; rewards of a scorer in the place of β·log(π/π_ref): reward-model-margin",
    optimum={
        "pairs": "margins that are differences of scores s: π ∝ π_ref·exp((r + η·s)/β); positive margins: r exaggerated"
    },
    meanings={"eta": "scale of the margins"},
)

RECORDS = (RPO, REBEL, ODPO)
"""In the order of the tables."""
