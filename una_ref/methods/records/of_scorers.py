"""Records of methods that train a scorer."""

from __future__ import annotations

from una_ref.methods import pairs, papers, rewards
from una_ref.methods.method import Method

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

RECORDS = (REWARD_MODEL,)
"""In the order of the tables."""
