"""Records of methods that sample their responses from the policy."""

from __future__ import annotations

from dataclasses import replace

from una_ref.methods import gpo, papers, policy_gradient, rewards
from una_ref.methods.method import Auxiliary, Method
from una_ref.methods.records.una import SFT, UNA_PAIR

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
    optimum={"scores": "on fresh samples of π: π*"},
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
    optimum={"scores": "on fresh samples of π: π*"},
    notebook="04_una_losses",
    trl="RLOOTrainer, which puts a k1 estimate of KL into the reward",
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
    optimum={"pairs": "the greater score wins every pair: no finite one; Bradley–Terry winners: π*"},
    printed=None,
    notebook="13_online_alignment",
    trl="OnlineDPOTrainer, loss_type=sigmoid, on two samples",
)

SELF_REWARDING = replace(
    ITERATIVE_DPO,
    name="self-rewarding",
    title="iterative DPO on the policy's own verdicts",
    judge="self",
    papers=(papers.SELF_REWARDING, papers.SURVEY),
    equation="survey Sec. 3.5.1 with Eq. 10",
    reductions="iterative-dpo with reward=self, or self:GOOD/BAD for the log-odds of a verdict",
    recipe="self-rewarding",
    optimum={
        "pairs": "the greater score wins every pair: no finite one, and the judge changes with the policy; "
        "Bradley–Terry winners: π*"
    },
    notebook="10_tokens_games_and_merging",
)

BEST_OF_K = replace(
    SFT,
    name="best-of-k",
    aliases=("rft",),
    title="rejection sampling: imitate the best of K samples",
    source="policy",
    keep="best",
    papers=(papers.RFT,),
    equation="−log π(y|x) at the sample of the greatest score",
    reductions="sft on its own best samples",
    optimum={"demos": "the distribution of its data, which are the best of K samples of the sampler π_t"},
    notebook=None,
)

RSO = Method(
    name="rso",
    title="rejection sampling optimisation",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="hinge or logistic",
    source="reference",
    keep="rejection",
    samples_per_prompt=8,  # half are accepted: of 4, one pair, which is often a tie
    losses={"pairs": gpo.rso},
    shift_invariant=True,
    papers=(papers.RSO, papers.SURVEY),
    equation="survey Eq. 4 for the samples; Liu et al., hinge-norm and sigmoid-norm for the loss",
    errata=("ES3",),
    reductions="sigmoid_norm: dpo on pairs of responses that are accepted as samples of π*; hinge_norm: gpo's hinge",
    trl="DPOTrainer, loss_type=hinge (hinge_norm) or sigmoid (sigmoid_norm)",
    optimum={
        "pairs": "Bradley–Terry winners and sigmoid_norm: π*; the greater score wins every pair: any π with "
        "margins of 1 or more (hinge_norm), no finite one (sigmoid_norm)"
    },
    meanings={"function": "hinge_norm, or sigmoid_norm, which is DPO"},
    notebook="08_pairs",
)

RECORDS = (REINFORCE, RLOO, PPO, ITERATIVE_DPO, SELF_REWARDING, BEST_OF_K, RSO)
"""In the order of the tables."""
