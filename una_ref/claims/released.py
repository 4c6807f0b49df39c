"""Scores in [0, 1], and the σ that the authors' code applies to r_θ (notebook 04)."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from una_ref.claims.example_worlds import SMALL, distance
from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory import TableWorld, fixed_point
from una_ref.theory.populations import singles

F64 = torch.float64
NOTEBOOK = "04_una_losses"


@claim(
    "EU11",
    paper=UNA,
    place="Sec. 2.3, Eq. 9 and 10",
    says="rewards are compared after “some normalization function”, whatever it is",
    verdict="holds if the function is named: each gives another loss",
    instead="with the identity the target of β·log(π/π_ref) is the score s, with σ (the authors' code) it is logit s; "
    "BCE needs σ",
    shows="β = {beta:.1f}, scores in (0, 1), y ~ π_ref: the total variation between the two minimisers is {tv:.3f}",
    notebook=NOTEBOOK,
)
def _eu11() -> Evidence:
    scores = TableWorld(SMALL.ref_logps, SMALL.rewards.sigmoid(), 0.1)
    mu = SMALL.ref_logps.exp()
    method = METHODS["una-score"]
    assert method.released is not None
    identity, sigma = (
        fixed_point(singles(loss, scores, mu, scores=scores.rewards), SMALL.ref_logps, tolerance=1e-10)
        for loss in (method.loss, method.released)
    )
    r = torch.linspace(-2, 2, 401, dtype=F64)
    score = torch.full_like(r, 0.8)
    one = {"logps": r, "ref_logps": torch.zeros_like(r), "scores": score, "beta": 1.0}
    targets = [float(r[loss(**one).argmin()]) for loss in (method.loss, method.released)]
    tv = float((identity.exp() - sigma.exp()).abs().sum(-1).mean() / 2)
    return Evidence(
        {"beta": 0.1, "tv": tv},
        {
            "for s = 0.8 the target is 0.8 with the identity, logit 0.8 = 1.39 with σ": abs(targets[0] - 0.8) < 0.01
            and abs(targets[1] - math.log(4)) < 0.01,
            "the two minimisers differ": tv > 0.05,
        },
    )


@claim(
    "EU16",
    paper=UNA,
    place="Sec. 4.1",
    says="0.65·helpfulness + 0.8·correctness + 0.45·coherence of ratings in [0, 1] is a score in [0, 1]",
    verdict=FAILS,
    instead="the weights sum to 1.9, so the score is in [0, 1.9] unless it is divided by 1.9",
    shows="with all ratings 4 of 4 the score is {largest:.2f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _eu16() -> Evidence:
    weights = torch.tensor([0.65, 0.8, 0.45], dtype=F64)
    largest = float(weights @ (torch.full((3,), 4.0, dtype=F64) / 4))
    return Evidence(
        {"largest": largest},
        {"the score exceeds 1": largest > 1.5, "divided by 1.9 it is 1": abs(largest / 1.9 - 1) < 1e-12},
    )


def released_world(beta: float) -> TableWorld:
    """A world whose rewards are scores σ(1.3 + 0.8·r) in (0, 1); their mean is 0.76, few are below ½."""
    world = TableWorld.random(0, prompts=8, responses=6, beta=beta)
    return TableWorld(world.ref_logps, (1.3 + 0.8 * world.rewards).sigmoid(), beta)


@claim(
    "CU14",
    paper=UNA,
    place="Sec. 4.1, the authors' code (β = 0.01 and 0.03)",
    says="regression of σ(r_θ) on scores keeps the policy near π_ref, as β controls",
    verdict=FAILS,
    instead="its target log-ratio logit(s)/β cannot be reached; for every β ≤ 0.03 it learns π ∝ μ·(s − ½)₊",
    shows="β = 0.03: the target for a score of 0.767 is {target:.0f} nats, for 0.99 {target99:.0f}; total variation "
    "to μ·(s − ½)₊ {tv:.3f} (β = 0.01: {tv_small:.3f}); regret as a fraction of π_ref's {share:.2f}",
    notebook=NOTEBOOK,
)
def _cu14() -> Evidence:
    method = METHODS["una-score"]
    assert method.released is not None
    tv, share, away = {}, {}, {}
    for beta in (0.01, 0.03):
        world = released_world(beta)
        mu = world.ref_logps.exp()
        population = singles(method.released, world, mu, scores=world.rewards)
        end = fixed_point(population, world.ref_logps, tolerance=1e-9)
        closed = mu * (world.rewards - 0.5).clamp(min=0)
        tv[beta] = float((end.exp() - closed / closed.sum(-1, keepdim=True)).abs().sum(-1).mean() / 2)
        away[beta] = float((end.exp() - world.optimum.exp()).abs().sum(-1).mean() / 2)
        share[beta] = world.metrics(end)["regret"] / world.metrics(world.ref_logps)["regret"]
    numbers = {
        "target": math.log(0.767 / 0.233) / 0.03,
        "target99": math.log(99) / 0.03,
        "tv": tv[0.03],
        "tv_small": tv[0.01],
        "share": share[0.03],
    }
    return Evidence(
        numbers,
        {
            "the minimiser is near μ·(s − ½)₊": tv[0.03] < 0.02 and tv[0.01] < 0.5 * tv[0.03],
            "the minimiser is not π*": min(away.values()) > 0.1,
        },
    )


def score_weights(scores: Sequence[float]) -> dict[str, float]:
    """Statistics of the weights s − ½ that scores s have in the first step of the authors' code (CU15)."""
    s = torch.tensor(scores, dtype=F64)
    weight = s - 0.5
    return {
        "scores": float(len(s)),
        "mean": float(s.mean()),
        "constant": float(weight.mean() ** 2 / (weight**2).mean()),
        "below": float((weight < 0).double().mean()),
        "ends": float(((s < 1e-3) | (s > 1 - 1e-3)).double().mean()),
    }


@claim(
    "CU15",
    paper=UNA,
    place="Sec. 4.1, the authors' code, at the first step",
    says="UNA-score learns from scores what pairs and labels cannot tell",
    verdict="holds if the scores are centred",
    instead="the first step is SFT with weights s − ½; the mean of the weights is plain SFT, or its opposite, on all "
    "responses",
    shows="{scores:,.0f} scores of an LLM judge (AlpacaEval), mean {mean:.3f}: the mean weight, which lowers every "
    "response, is {constant:.0%} of the squared weights; {below:.0%} are below ½, {ends:.0%} within 0.001 of 0 or 1",
    notebook=NOTEBOOK,
)
def _cu15() -> Evidence:
    folder = os.environ.get("UNA_REF_DATA")
    if folder and (file := Path(folder) / "alpaca_eval_scores.jsonl.gz").is_file():
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            numbers = score_weights([json.loads(line)["score"] for line in lines])
    else:
        record = Path(__file__).resolve().parents[2] / "figures" / "runs" / "score_weights.json"
        numbers = json.loads(record.read_text(encoding="utf-8"))["numbers"]
    method = METHODS["una-score"]
    assert method.released is not None
    logps = torch.zeros(3, dtype=F64).requires_grad_()
    s = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    loss = method.released(logps=logps, ref_logps=torch.zeros(3, dtype=F64), scores=s, beta=0.03).sum()
    (first,) = torch.autograd.grad(loss, logps)
    return Evidence(
        numbers,
        {
            "the first step is SFT with weights s − ½": distance(first, -0.03 / 2 * (s - 0.5)) < 1e-15,
            "more than 30% of the squared weights is the mean": numbers["constant"] > 0.3,
        },
    )
