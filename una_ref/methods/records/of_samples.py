"""Records of methods that sample their responses from the policy."""

from __future__ import annotations

from dataclasses import replace

from una_ref.methods import papers, policy_gradient, rewards
from una_ref.methods.method import Auxiliary, Method
from una_ref.methods.records.una import UNA_PAIR

REINFORCE = Method(
    name="reinforce",
    title="REINFORCE on the regularised reward",
    reward=rewards.IMPLICIT,
    baseline="constant",
    comparison="one response and a score",
    shape="score function",
    source="policy",
    reuse="none",
    losses={"scores": policy_gradient.reinforce},
    shift_invariant=False,
    invariant_in_expectation=True,
    papers=(papers.REINFORCE, papers.SURVEY),
    equation="survey Eq. 48 without its baseline",
    errata=("ES24", "EU13"),
    reductions="times 2β: una-online",
    notebook="04_una_losses",
)

RLOO = Method(
    name="rloo",
    title="REINFORCE, leave-one-out",
    reward=rewards.IMPLICIT,
    baseline="prompt",
    comparison="one response and a score",
    shape="score function",
    source="policy",
    reuse="none",
    losses={"scores": policy_gradient.rloo},
    shift_invariant=True,
    papers=(papers.RLOO, papers.SURVEY),
    equation="survey Eq. 48",
    errata=("ES24",),
    reductions="times 2β: una-centred sampled from π",
    notebook="04_una_losses",
)

PPO = Method(
    name="ppo",
    title="proximal policy optimisation (RLHF)",
    reward=rewards.PER_TOKEN,
    comparison="one response and a score",
    shape="clipped ratio",
    source="policy",
    reuse="passes",
    losses={"scores": policy_gradient.ppo},
    auxiliary=Auxiliary("demos", policy_gradient.ptx, weight="ptx"),
    advantages=policy_gradient.ppo_advantages,
    shift_invariant=False,
    papers=(papers.PPO, papers.INSTRUCT_GPT, papers.SURVEY),
    equation="survey Eq. 2",
    errata=("ES2", "EU1"),
    reductions="ratio 1, λ = 1, no critic, not whitened: reinforce, in expectation",
    composes=False,
    notebook="13_online_alignment",
)

ITERATIVE_DPO = replace(
    UNA_PAIR,
    name="iterative-dpo",
    aliases=(),
    title="iterative DPO on the best and the worst sample",
    source="policy",
    keep="best_and_worst",
    papers=(papers.SURVEY, papers.ITERATIVE_DPO),
    equation="survey Sec. 3.1.3 with Eq. 10",
    errata=(),
    reductions="dpo on its own rollouts; `replay` keeps earlier stages",
    printed=None,
    notebook="13_online_alignment",
)

RECORDS = (REINFORCE, RLOO, PPO, ITERATIVE_DPO)
"""In the order of the tables."""
