"""Records of the GRPO family."""

from __future__ import annotations

from una_ref.methods import grpo, papers, rewards
from una_ref.methods.method import Method

GROUP_SCORE = rewards.Reward("(s − mean of the prompt)/sd", None)

GRPO = Method(
    name="grpo",
    title="group-relative policy optimisation and its relatives",
    reward=GROUP_SCORE,
    comparison="one response with the others of its prompt",
    shape="clipped ratio",
    regulariser="k3 estimate of KL by token",
    source="policy",
    reuse="passes",
    losses={"scores": grpo.grpo},
    shift_invariant=True,
    papers=(
        papers.GRPO,
        papers.DR_GRPO,
        papers.DAPO,
        papers.GSPO,
        papers.CISPO,
        papers.SAPO,
    ),
    equation="GRPO Eq. 3; relatives by variant, ratio and scale_rewards",
    composes=False,
    reductions=(
        "ratio 1, dr_grpo, scale_rewards=none, kl_estimate=none: (K − 1)/K of rloo at β = 0; ratio=sequence: GSPO; "
        "dr_grpo with ratio=sequence: TRL's luspo"
    ),
    trl=(
        "GRPOTrainer, loss_type=grpo, dr_grpo, dapo, bnpo, cispo, sapo or luspo; its loss_type is variant, "
        "importance_sampling_level is ratio, use_bias_correction_kl is kl_estimate, epsilon_high of cispo is "
        "1 + ratio_clip_high"
    ),
    optimum={
        "scores": "without the standard deviation, on fresh one-token responses: π* at β·K/(K − 1); with "
        "kl_estimate=plain: that of the other KL, KL(π_ref ‖ π)"
    },
    meanings={
        "variant": "surrogate and divisor of the sum over tokens: grpo, dr_grpo, dapo, bnpo, cispo or sapo",
        "ratio": "probability ratio of each token, or of the response as the geometric mean (sequence: GSPO)",
        "scale_rewards": "standard deviation that divides the advantages: group, batch or none",
        "ratio_clip": "largest distance of the probability ratio below 1",
        "ratio_clip_high": "largest distance of the probability ratio above 1; DAPO takes 0.28",
        "kl_estimate": "k3 times the ratio (weighted), k3 alone (plain: the gradient of KL(π_ref ‖ π)), or none",
        "length_scale": "what dr_grpo divides the sum over tokens by; TRL takes the longest completion allowed",
        "temperature_positive": "sapo: steepness of the gate where the advantage is positive",
        "temperature_negative": "sapo: steepness of the gate where the advantage is not positive",
    },
    notebook="10_tokens_games_and_merging",
)

RECORDS = (GRPO,)
"""In the order of the tables."""
