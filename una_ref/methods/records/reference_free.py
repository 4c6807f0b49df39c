"""Records of methods on pairs that have no reference."""

from __future__ import annotations

from una_ref.methods import pairs, papers, rewards
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
)

RECORDS = (SIMPO,)
"""In the order of the tables."""
