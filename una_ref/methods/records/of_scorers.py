"""Records of methods that train a scorer."""

from __future__ import annotations

from una_ref.methods import pairs, papers, rewards, soft_labels
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

SOFT_REWARD_MODEL = Method(
    name="soft-reward-model",
    title="a reward model of preference probabilities",
    reward=rewards.SCALAR_HEAD,
    trains="scorer",
    comparison="two responses of a prompt",
    shape="logistic against a probability",
    losses={"pairs": soft_labels.soft_reward_model},
    shift_invariant=True,
    papers=(papers.RLAIF, papers.BRADLEY_TERRY),
    equation="Lee et al. 2023, Sec. 2.2",
    reductions="scores that differ by +∞: reward-model",
    optimum="rewards that differ by the log-odds of the preference, whatever the pairs that were compared",
    composes=False,
)

RECORDS = (REWARD_MODEL, SOFT_REWARD_MODEL)
"""In the order of the tables."""
