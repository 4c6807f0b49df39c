"""Records of methods that train a scorer."""

from __future__ import annotations

from una_ref.methods import pairs, papers, reward_models, rewards, soft_labels
from una_ref.methods.method import Method

REWARD_MODEL = Method(
    name="reward-model",
    title="a Bradley–Terry reward model",
    reward=rewards.SCALAR_HEAD,
    trains="scorer",
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": pairs.reward_model, "lists": reward_models.reward_model_lists},
    shift_invariant=True,
    papers=(papers.BRADLEY_TERRY, papers.UNA, papers.SURVEY),
    equation="UNA Eq. 2 with Eq. 1; survey Eq. 1",
    errata=("ES1",),
    reductions="with β·log(π/π_ref) in the head's place: una-pair; lists of 2: pairs",
    trl="RewardTrainer",
    optimum={
        "pairs": "the reward on the responses that were compared, up to a number for each prompt",
        "lists": "the reward on the responses that were compared, up to a number for each prompt",
    },
    notebook="08_pairs",
)

REWARD_MODEL_MARGIN = Method(
    name="reward-model-margin",
    title="a reward model with margins",
    reward=rewards.SCALAR_HEAD,
    trains="scorer",
    comparison="two responses of a prompt",
    shape="logistic at Δs",
    regulariser="c·(sum of both rewards)²",
    losses={"pairs": reward_models.reward_model_margin},
    shift_invariant=True,
    papers=(papers.LLAMA_2, papers.REWARD_CENTRING),
    equation="Llama 2, Eq. 2",
    reductions="margins of 0 and centring = 0: reward-model",
    trl="RewardTrainer with a column margin; center_rewards_coefficient",
    optimum={"pairs": "margins that are differences of scores s: r + s; positive margins: r exaggerated"},
    meanings={"centring": "weight of the squared sum of a pair's rewards; 0: none"},
    notebook="08_pairs",
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
    optimum={"pairs": "rewards that differ by the log-odds of the preference, whatever the pairs that were compared"},
    composes=False,
    notebook="08_pairs",
)

RECORDS = (REWARD_MODEL, REWARD_MODEL_MARGIN, SOFT_REWARD_MODEL)
"""In the order of the tables."""
