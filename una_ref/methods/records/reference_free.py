"""Records of methods on pairs that have no reference."""

from __future__ import annotations

from una_ref.methods import pairs, papers, rewards
from una_ref.methods.method import Method, axes_of

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
    axes=axes_of("- - - - Preference Human Pair Free Control - Off Offline Merge"),
    trl="CPOTrainer, loss_type=simpo",
)

RECORDS = (SIMPO,)
"""In the order of the tables."""
