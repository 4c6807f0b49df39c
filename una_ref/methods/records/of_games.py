"""Records of methods that look for the Nash equilibrium of a preference."""

from __future__ import annotations

from una_ref.methods import games, papers, rewards
from una_ref.methods.method import Method

NASH_MD = Method(
    name="nash-md",
    title="Nash learning by mirror descent",
    reward=rewards.IMPLICIT,
    comparison="one response and a win rate",
    shape="score function",
    source="policy",
    reuse="none",
    rivals="mixture",
    losses={"scores": games.nash_md},
    shift_invariant=False,
    invariant_in_expectation=True,
    papers=(papers.NASH_MD, papers.SURVEY),
    equation="survey Eq. 58 and 59, by policy gradient",
    errata=("ES32",),
    reductions="reinforce with win rates as scores and the baseline ½",
    printed=games.nash_md_printed,
    meanings={"beta": "price of a nat of KL(π ‖ π_ref), in win rate"},
    optimum={
        "scores": "on fresh samples of π: π ∝ π_ref·exp(P(y ≻ mixture)/β), the Nash policy of β where the mixture "
        "is π alone"
    },
    notebook="10_tokens_games_and_merging",
)

SPPO = Method(
    name="sppo",
    title="self-play preference optimisation",
    reward=rewards.STEP,
    comparison="one response and a win rate",
    shape="squared over β²",
    source="policy",
    reuse="passes",
    rivals="samples",
    losses={"scores": games.sppo},
    shift_invariant=False,
    invariant_in_expectation=True,
    papers=(papers.SPPO, papers.SURVEY),
    equation="survey Eq. 61 with log Z = 1/(2β)",
    errata=("ES33",),
    reductions="at π = π_t its gradient is reinforce's on win rates minus ½ without a KL term, times 2/β",
    printed=games.sppo_printed,
    meanings={"beta": "1/η: the inverse of the learning rate of one round; π_ref plays no part"},
    note="sppo: the loss is divided by β², so it starts at (win rate − ½)²/β²: up to 250,000 at the paper's β = 0.001. "
    "max_grad_norm limits the step; follow eval_reward, and not the loss",
    optimum={
        "scores": "near π_t·exp(P(y ≻ π_t)/β), a step of multiplicative weights; exactly that where its log Z is 1/(2β)"
    },
    notebook="10_tokens_games_and_merging",
)

DNO = Method(
    name="dno",
    title="direct Nash optimisation",
    reward=rewards.STEP,
    comparison="two responses of a prompt",
    shape="logistic",
    source="policy",
    keep="best_and_worst",
    reuse="passes",
    rivals="samples",
    losses={"pairs": games.dno},
    shift_invariant=True,
    papers=(papers.DNO, papers.SURVEY),
    equation="survey Eq. 62",
    reductions="in the first rollout of a run, whose π_t is π_ref: iterative-dpo",
    meanings={"beta": "inverse size of one round's step; π_ref plays no part"},
    optimum={
        "pairs": "π_t·exp(r/β) for winners sampled from P, r its best Bradley–Terry fit; not finite where one "
        "order decides all pairs"
    },
    notebook="10_tokens_games_and_merging",
)

RECORDS: tuple[Method, ...] = (NASH_MD, SPPO, DNO)
"""In the order of the tables."""
