"""The information about rewards in one score, label or pair (notebook 04)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.claims.example_worlds import WORLD
from una_ref.claims.ledger import UNA, Evidence, claim
from una_ref.theory import TableWorld, bradley_terry, kl

F64 = torch.float64
NOTEBOOK = "04_una_losses"


def information(world: TableWorld, kind: str, noise: float = 1.0) -> Tensor:
    """Fisher information (X, Y, Y) about the rewards of a prompt in one item of feedback on responses from π_ref.

    `kind` is "score", "label" or "pair"; `noise` is the sd of a score's noise. A constant added to a prompt's rewards
    is V(x), which is fitted too (scores, labels) or cancels (pairs), so its direction has no information.
    """
    mu = world.ref_logps.exp()
    if kind == "score":
        weights = mu / noise**2
    elif kind == "label":
        positive = world.rewards.sigmoid()
        weights = mu * positive * (1 - positive)
    else:
        p = bradley_terry(world.rewards)
        edges = mu[:, :, None] * mu[:, None, :] * p * (1 - p)
        edges = edges + edges.mT
        edges = edges - torch.diag_embed(edges.diagonal(dim1=-2, dim2=-1))
        return torch.diag_embed(edges.sum(-1)) - edges
    return torch.diag_embed(weights) - weights[:, :, None] * weights[:, None, :] / weights.sum(-1)[:, None, None]


def regret_per_label(world: TableWorld, kind: str, noise: float = 1.0) -> float:
    """n × the mean regret of maximum likelihood after n items of feedback per prompt, n large: tr(Cov_π*·I⁻¹)/(2β)."""
    p = world.optimum.exp()
    covariance = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    inverse = torch.linalg.pinv(information(world, kind, noise), hermitian=True)
    return float((covariance @ inverse).diagonal(dim1=-2, dim2=-1).sum(-1).mean() / (2 * world.beta))


def break_even(world: TableWorld, kind: str) -> float:
    """The noise sd at which a score leaves the same regret as one item of the other kind of feedback."""
    return math.sqrt(regret_per_label(world, kind) / regret_per_label(world, "score"))


def break_even_by_formula(world: TableWorld) -> float:
    """1/√(2·E[p(1 − p)]) over two different responses from π_ref: exact where p is the same for all pairs."""
    mu, p = world.ref_logps.exp(), bradley_terry(world.rewards)
    together = mu[:, :, None] * mu[:, None, :] * (1 - torch.eye(mu.shape[-1], dtype=F64))
    mean = (together * p * (1 - p)).sum((-1, -2)) / together.sum((-1, -2))
    return float(1 / (2 * mean.mean()).sqrt())


RATED = TableWorld(torch.full((1, 8), -math.log(8), dtype=F64), WORLD.rewards[:1], 0.5)
"""One prompt, eight equally likely responses, rewards of sd 1."""


def measured_regret(world: TableWorld, kind: str, count: int, runs: int, noise: float = 1.0) -> float:
    """The mean regret of maximum likelihood after `count` scores or pairs on one prompt, over `runs` simulations."""
    generator = torch.Generator().manual_seed(0)
    y = world.rewards.shape[1]
    mu, r = world.ref_logps.exp()[0], world.rewards[0]
    if kind == "score":
        drawn = torch.multinomial(mu.expand(runs, -1), count, replacement=True, generator=generator)
        scores = r[drawn] + noise * torch.randn(runs, count, generator=generator, dtype=F64)
        sums = torch.zeros(runs, y, dtype=F64).scatter_add_(1, drawn, scores)
        counts = torch.zeros(runs, y, dtype=F64).scatter_add_(1, drawn, torch.ones_like(scores))
        learned = sums / counts
    else:
        p = bradley_terry(world.rewards)[0]
        cells = (mu[:, None] * mu * p).flatten()
        drawn = torch.multinomial(cells.expand(runs, -1), count, replacement=True, generator=generator)
        wins = torch.zeros(runs, y * y, dtype=F64).scatter_add_(1, drawn, torch.ones(runs, count, dtype=F64))
        wins = wins.view(runs, y, y)
        learned = torch.zeros(runs, y, dtype=F64)
        comparisons = wins + wins.mT
        for _ in range(12):  # Newton's method on the Bradley–Terry likelihood
            q = bradley_terry(learned)
            force = wins.sum(-1) - (comparisons * q).sum(-1)
            edges = comparisons * q * (1 - q)
            curvature = torch.diag_embed(edges.sum(-1)) - edges + 1.0 / y  # holds the common constant fixed
            learned = learned + torch.linalg.solve(curvature, force)
    policies = (world.ref_logps + learned / world.beta).log_softmax(-1)
    best = world.optimum.expand(runs, -1)
    return float(world.beta * kl(policies, best).mean())


@claim(
    "CU19",
    paper=UNA,
    place="Sec. 4.1",
    says="scores teach more than labels and pairs, “as more information is provided”",
    verdict="holds if the noise in a score is below the break-even of the Fisher information",
    instead="against pairs the break-even noise is about 1/√(2·E[p(1 − p)]), with p the probability that one response "
    "beats the other",
    shows="rewards of sd 1: a score beats a pair up to a noise sd of {pair:.2f} (formula {formula:.2f}), and a label "
    "up to {label:.2f}; rewards of sd 3: a pair up to {pair3:.2f}",
    notebook=NOTEBOOK,
)
def _cu19() -> Evidence:
    wide = TableWorld(RATED.ref_logps, 3 * RATED.rewards, 0.5)
    numbers = {
        "pair": break_even(RATED, "pair"),
        "formula": break_even_by_formula(RATED),
        "label": break_even(RATED, "label"),
        "pair3": break_even(wide, "pair"),
    }
    count = 4000
    predicted = {kind: regret_per_label(RATED, kind) / count for kind in ("score", "pair")}
    measured = {kind: measured_regret(RATED, kind, count, runs=400) for kind in predicted}
    return Evidence(
        numbers,
        {
            "the simulated regret is the predicted one": all(
                abs(measured[kind] / predicted[kind] - 1) < 0.15 for kind in predicted
            ),
            "below the break-even scores leave less regret": regret_per_label(RATED, "score", 0.5)
            < 0.2 * regret_per_label(RATED, "pair"),
            "above the break-even scores leave more regret": regret_per_label(RATED, "score", 4.0)
            > 2 * regret_per_label(RATED, "pair"),
            "the formula is within 20%": abs(numbers["formula"] / numbers["pair"] - 1) < 0.2,
        },
    )
