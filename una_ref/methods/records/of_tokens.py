"""Records of methods whose reward or loss is one of tokens."""

from __future__ import annotations

from una_ref.methods import credit, cringe, papers, rewards, tokens
from una_ref.methods.method import Method

TOKEN_DPO = Method(
    name="token-dpo",
    title="DPO with a reward for each token",
    reward=credit.CREDITED,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": tokens.token_dpo},
    shift_invariant=True,
    papers=(papers.FROM_R_TO_Q, papers.SURVEY),
    equation="survey Eq. 24 with Eq. 20–23",
    errata=("ES11",),
    reductions="dpo, in value and gradient",
    optimum={"pairs": "π*; a token's reward is then V(s_{t+1}) − V(s_t) plus its true reward"},
    notebook="10_tokens_games_and_merging",
)

TDPO = Method(
    name="tdpo",
    title="token-level DPO with a sequential KL (TDPO1)",
    reward=credit.WITH_SEQUENTIAL_KL,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": tokens.tdpo},
    shift_invariant=True,
    papers=(papers.TDPO, papers.SURVEY),
    equation="survey Eq. 28 with Eq. 25–27",
    errata=("ES12",),
    reductions="responses of one token: dpo, since both have the same KL",
    optimum={"pairs": "π_ref·exp(Q/β) token by token, with π_ref's own Q; not π*"},
    notebook="10_tokens_games_and_merging",
)

TDPO2 = Method(
    name="tdpo2",
    title="TDPO with a weight and a stopped gradient (TDPO2)",
    reward=credit.WITH_WEIGHTED_SEQUENTIAL_KL,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": tokens.tdpo2},
    shift_invariant=True,
    papers=(papers.TDPO, papers.SURVEY),
    equation="survey Eq. 28 and the paragraph below it",
    errata=("ES12", "ES13"),
    reductions="alpha = 0: dpo",
    printed=tokens.tdpo2_printed,
    composes=False,  # one of its two rewards is held constant in part
    meanings={"alpha": "weight of the sequential KL divergences; 0: none"},
    optimum={
        "pairs": "no loss has its gradient; where its rewards fit the preferences, it still lowers both responses' KL"
    },
    notebook="10_tokens_games_and_merging",
)

CRINGE = Method(
    name="cringe",
    title="contrastive loss on the tokens of bad responses (CRINGE)",
    reward=rewards.LOG_LIKELIHOOD,
    comparison="one response and a label",
    shape="contrast with rivals",
    losses={"labels": cringe.cringe, "pairs": cringe.cringe_pairs},
    shift_invariant=True,
    papers=(papers.CRINGE, papers.PAIRWISE_CRINGE, papers.SURVEY),
    equation="survey Eq. 29 (labels) and Eq. 30 (pairs)",
    errata=("ES14", "ES15"),
    reductions="good responses alone, or alpha = 0: sft on the good responses",
    composes=False,
    meanings={
        "alpha": "weight of the contrast on the tokens of bad responses",
        "top_k": "number of rivals of a token: the other tokens with the highest scores",
        "margin": "gap of log-probabilities at which the gate of a pair is half open, in nats",
        "tau": "width of the gate of a pair, in nats",
    },
    optimum={
        "labels": "alpha = 0: samples weighted by P(good); a larger alpha: bad responses are less likely still",
    },
    notebook="10_tokens_games_and_merging",
)

LD_DPO = Method(
    name="ld-dpo",
    title="length-desensitised DPO",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": tokens.ld_dpo},
    shift_invariant=True,
    papers=(papers.LD_DPO,),
    equation="Liu et al. 2024, the likelihood with α",
    reductions="alpha = 1, or responses of equal length: dpo",
    composes=False,  # a response's reward depends on the length of the other
    meanings={"alpha": "weight of tokens beyond the length of the shorter response of the pair, from 0 to 1"},
    trl="DPOTrainer, ld_alpha",
    optimum={"pairs": "responses of one length, or alpha = 1: π*; otherwise another policy"},
    notebook="10_tokens_games_and_merging",
)

WPO = Method(
    name="wpo",
    title="weighted preference optimisation",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="weighted logistic",
    losses={"pairs": tokens.wpo},
    shift_invariant=True,
    papers=(papers.WPO,),
    equation="Zhou et al. 2024, Eq. 2",
    reductions="all weights 1: dpo",
    composes=False,  # the weights are of whole distributions
    trl="DPOTrainer, use_weighting=True",
    optimum={"pairs": "π*: the weights only say which pairs count more"},
    notebook="10_tokens_games_and_merging",
)

RECORDS = (TOKEN_DPO, TDPO, TDPO2, CRINGE, LD_DPO, WPO)
"""In the order of the tables."""
