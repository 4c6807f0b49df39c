"""UNA's losses as one regression: notebooks 04 and 07."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from una_ref.claims.ledger import FAILS, HOLDS, UNA, Evidence, claim
from una_ref.claims.optima import E2
from una_ref.methods import METHODS
from una_ref.methods.rewards import leave_one_out
from una_ref.theory import (
    TableWorld,
    bradley_terry,
    fixed_point,
    kl,
    objective,
    una_end,
    una_fixed_point,
    una_minima,
    una_regression,
)
from una_ref.theory.populations import pairs, singles, thumbs

F64 = torch.float64
NOTEBOOK = "04_una_losses"

WORLD = TableWorld.random(0, prompts=40, responses=8, beta=0.5)
"""40 prompts × 8 responses, rewards of mean 0 and sd 1 in each prompt, β = ½; used with offsets."""

SMALL = TableWorld.random(0, prompts=4, responses=5, beta=0.5)
"""The same at a size at which groups of responses can be listed too."""


def shifted(world: TableWorld, offset: float | Tensor) -> TableWorld:
    """The world with a constant added to its rewards, or one for each prompt (X, 1). π* and the regret stay."""
    return TableWorld(world.ref_logps, world.rewards + offset, world.beta)


def slope(population: Callable[[Tensor], Tensor], logps: Tensor) -> Tensor:
    """∂L/∂logits (X, Y) at log π."""
    logits = logps.detach().requires_grad_()
    return torch.autograd.grad(population(logits.log_softmax(-1)), logits)[0]


def raw_regret(world: TableWorld, offset: float | Tensor = 0.0, **options: object) -> float:
    """Mean regret where UNA's Eq. 10, sign mended, ends when `offset` is added to the rewards."""
    ends = una_end(world.ref_logps, world.rewards + offset, world.beta, **options)  # type: ignore[arg-type]
    return float(world.regret(ends).mean())


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def pair_at(gap: Tensor | float) -> dict[str, Tensor]:
    """A pair whose margin is `gap` at β = 1."""
    chosen = torch.as_tensor(gap, dtype=F64).reshape(-1)
    zero = torch.zeros_like(chosen)
    return {"chosen_logps": chosen, "rejected_logps": zero, "ref_chosen_logps": zero, "ref_rejected_logps": zero}


# Eq. 8: pairs ---------------------------------------------------------------------------------------------------------


@claim(
    "EU7",
    paper=UNA,
    place="Eq. 8",
    says="the loss on pairs is −E(r_θ(y_w) − r_θ(y_l)), “equivalent to DPO”",
    verdict=FAILS,
    instead="−log σ of the difference is DPO; the difference itself has no minimiser and pushes every pair alike",
    shows="at margins 0 and 1000: printed {printed0:.0f} and {printed1000:.0f} with slope {push0:.0f} and "
    "{push1000:.0f}; DPO's slope {dpo0:.2f} and {dpo1000:.2f}",
    notebook=NOTEBOOK,
)
def _eu7() -> Evidence:
    pair = METHODS["una-pair"]
    margins = torch.tensor([0.0, 1000.0], dtype=F64).requires_grad_()
    assert pair.printed is not None
    printed, right = pair.printed(**pair_at(margins), beta=1.0), pair.loss(**pair_at(margins), beta=1.0)
    push, dpo = (torch.autograd.grad(loss.sum(), margins)[0] + 0.0 for loss in (printed, right))
    printed, margins = printed.detach() + 0.0, margins.detach()
    numbers = {
        "printed0": float(printed[0]),
        "printed1000": float(printed[1]),
        "push0": float(push[0]),
        "push1000": float(push[1]),
        "dpo0": float(dpo[0]),
        "dpo1000": float(dpo[1]),
    }
    return Evidence(
        numbers,
        {
            "as printed it falls without end, at one slope": bool((printed + margins).abs().max() < 1e-12)
            and bool((push == -1).all()),
            "with −log σ the push on a pair that is won goes to 0": float(dpo[0]) == -0.5 and float(dpo[1]) == 0,
            "with −log σ its minimiser is π*": _dpo_error() < 1e-8,
        },
    )


def _dpo_error() -> float:
    """max |π − π*| where DPO ends on Bradley–Terry preferences."""
    population = pairs(METHODS["una-pair"].loss, SMALL, SMALL.ref_logps.exp(), bradley_terry(SMALL.rewards))
    return _distance(fixed_point(population, SMALL.ref_logps).exp(), SMALL.optimum.exp())


@claim(
    "EU8",
    paper=UNA,
    place="line below Eq. 8",
    says="L'_UNA-pair = L_DPO = −E log[r_φ(y_w) − r_φ(y_l)]",
    verdict=FAILS,
    instead="−E log σ(r_θ(y_w) − r_θ(y_l)): σ is missing, and φ stands for θ",
    shows="difference 0.5: printed {printed:.4f}, right {right:.4f}; difference −1: the log of a negative number, "
    "right {wrong_order:.4f}",
    notebook=NOTEBOOK,
)
def _eu8() -> Evidence:
    gaps = torch.tensor([0.5, -1.0], dtype=F64)
    printed, right = -gaps.log(), METHODS["una-pair"].loss(**pair_at(gaps), beta=1.0)
    return Evidence(
        {"printed": float(printed[0]), "right": float(right[0]), "wrong_order": float(right[1])},
        {
            "they differ": abs(float(printed[0] - right[0])) > 0.2,
            "as printed a wrong order has no loss": bool(printed[1].isnan()),
            "the right one is −log σ": _distance(right, -gaps.sigmoid().log()) < 1e-12,
        },
    )


@claim(
    "CU10",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 8; Table 1 “DPO (UNA-pairwise)”",
    says="on pairs UNA and DPO are equivalent",
    verdict="holds if −log σ is put around the difference, which is the whole of DPO's shape",
    instead="descent on Eq. 8 as printed goes on for ever; with −log σ the fixed point is π* at any reward offset",
    shows="Eq. 8 after 100 and 1000 steps of descent {short:.1f} and {long:.1f}; with −log σ the distance to π* is 0",
    notebook=NOTEBOOK,
)
def _cu10() -> Evidence:
    method, sampler = METHODS["una-pair"], SMALL.ref_logps.exp()
    preferences = bradley_terry(SMALL.rewards)
    assert method.printed is not None
    printed = pairs(method.printed, SMALL, sampler, preferences)
    logits, at = SMALL.ref_logps, {}
    for step in range(1, 1001):
        logits = logits - slope(printed, logits)
        at[step] = float(printed(logits.log_softmax(-1)))
    moved = fixed_point(pairs(method.loss, SMALL, sampler, bradley_terry(shifted(SMALL, 5.0).rewards)), SMALL.ref_logps)
    return Evidence(
        {"short": at[100], "long": at[1000]},
        {
            "Eq. 8 as printed keeps its pace": at[1000] < 9 * at[100] < 0,
            "with −log σ the minimiser is π*": _dpo_error() < 1e-8,
            "an offset in the rewards changes nothing": _distance(moved.exp(), SMALL.optimum.exp()) < 1e-8,
        },
    )


# Eq. 9: labels --------------------------------------------------------------------------------------------------------

LEARNED = torch.tensor([0.9, 0.8, 0.7, 0.6], dtype=F64)
"""σ(r_θ) of four responses with the labels 1, 1, 1, 0."""
LABELS = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=F64)


def _four(loss: Callable[..., Tensor]) -> Tensor:
    return loss(logps=LEARNED.logit(), ref_logps=torch.zeros(4, dtype=F64), labels=LABELS, beta=1.0)


@claim(
    "EU9",
    paper=UNA,
    place="Eq. 9",
    says="the loss on labels is −E[g], and that is −[E_w(g²) + E_l(g²)]",
    verdict=FAILS,
    instead="+E[g]: g is the error already, so the minus maximises it and the second square is one too many",
    shows="four labels: E g = {right:.4f}, E g² = {squared:.4f}, as printed {printed:.4f}",
    notebook=NOTEBOOK,
)
def _eu9() -> Evidence:
    method = METHODS["una-binary-mse"]
    assert method.printed is not None
    g, printed = _four(method.loss), _four(method.printed)
    up = LABELS == 1
    numbers = {
        "right": float(g.mean()),
        "squared": float((g**2).mean()),
        "printed": float(printed[up].mean() + printed[~up].mean()),
    }
    return Evidence(
        numbers,
        {
            "the two lines are not equal": abs(numbers["printed"] + numbers["right"]) > 1e-3,
            "the printed loss is least where the error is greatest": bool((printed.argsort() == (-g).argsort()).all()),
            "g is the squared error": _distance(g, (LEARNED - LABELS) ** 2) < 1e-15,
        },
    )


@claim(
    "EU10",
    paper=UNA,
    place="Eq. 9, second line",
    says="E_D[g] = E_{y_w}[g] + E_{y_l}[g]",
    verdict="holds if both terms are sums over all of D",
    instead="read as two class means it is P(up)·E_{y_w}[g] + P(down)·E_{y_l}[g]: without the shares rare labels weigh "
    "more",
    shows="the same four labels: pooled {pooled:.4f}, by class {by_class:.4f}",
    notebook=NOTEBOOK,
)
def _eu10() -> Evidence:
    g, up = _four(METHODS["una-binary-mse"].loss), LABELS == 1
    pooled, by_class = float(g.mean()), float(g[up].mean() + g[~up].mean())
    weighted = float(up.double().mean() * g[up].mean() + (~up).double().mean() * g[~up].mean())
    return Evidence(
        {"pooled": pooled, "by_class": by_class},
        {"they differ": abs(pooled - by_class) > 0.1, "with the shares they agree": abs(pooled - weighted) < 1e-15},
    )


@claim(
    "EU11",
    paper=UNA,
    place="Sec. 2.3, Eq. 9 and 10",
    says="rewards are compared after “some normalization function”, whichever it is",
    verdict="holds if the function is named, for another one is another loss",
    instead="with the identity the target of β·u is s, with σ (the authors' code) it is logit s; BCE needs σ",
    shows="β = {beta:.1f}, scores in (0, 1), y ~ π_ref: the two minimisers are {tv:.3f} apart in total variation",
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
            "for s = 0.8 the identity asks for 0.8, σ for logit 0.8 = 1.39": abs(targets[0] - 0.8) < 0.01
            and abs(targets[1] - math.log(4)) < 0.01,
            "the two learn different policies": tv > 0.05,
        },
    )


@claim(
    "EU17",
    paper=UNA,
    place="Sec. 2.3.1, on scores",
    says="for scores that are not binary MSE can be used, “excluding BCE”",
    verdict=FAILS,
    instead="BCE is proper for any label in [0, 1]: its minimiser is σ(r_θ) = s",
    shows="s = 0.7: BCE is least at r_θ = {best:.4f}, logit 0.7 = {logit:.4f}",
    notebook=NOTEBOOK,
)
def _eu17() -> Evidence:
    score = torch.tensor(0.7, dtype=F64)
    r = torch.linspace(0.7, 1.0, 300_001, dtype=F64)
    losses = METHODS["una-binary-bce"].loss(logps=r, ref_logps=torch.zeros_like(r), labels=score.expand_as(r), beta=1.0)
    best = float(r[losses.argmin()])
    least = torch.special.entr(score) + torch.special.entr(1 - score)
    return Evidence(
        {"best": best, "logit": float(score.logit())},
        {
            "the minimiser is logit s": abs(best - float(score.logit())) < 2e-6,
            "and the least value the entropy of s": abs(float(losses.min() - least)) < 1e-9,
        },
    )


@claim(
    "CU11",
    paper=UNA,
    place="Eq. 9 and 10",
    says="UNA minimises −E[g], the negative of the error",
    verdict=FAILS,
    instead="+E[g]; descent on the printed sign maximises the error, and the authors' code has the plus",
    shows="error of Eq. 10 at π_ref {start:.2f}, after 20 steps down the printed loss {printed:.2f}, the mended one "
    "{mended:.2f}",
    notebook=NOTEBOOK,
)
def _cu11() -> Evidence:
    method, mu = METHODS["una-score"], SMALL.ref_logps.exp()
    assert method.printed is not None
    error = singles(method.loss, SMALL, mu, scores=SMALL.rewards)
    after = []
    for loss in (method.printed, method.loss):
        population, logits = singles(loss, SMALL, mu, scores=SMALL.rewards), SMALL.ref_logps
        for _ in range(20):
            logits = logits - 0.2 * slope(population, logits)
        after.append(float(error(logits.log_softmax(-1))))
    start = float(error(SMALL.ref_logps))
    both = [METHODS[name] for name in ("una-binary-mse", "una-binary-bce")]
    up = SMALL.rewards.sigmoid()
    push = []
    for m in both:
        assert m.printed is not None
        right, printed = (slope(thumbs(f, SMALL, mu, up), SMALL.ref_logps) for f in (m.loss, m.printed))
        push.append(float((right * printed).sum()))
    return Evidence(
        {"start": start, "printed": after[0], "mended": after[1]},
        {
            "as printed the error grows": after[0] > start > after[1],
            "Eq. 9 as printed pushes the other way too": max(push) < 0,
        },
    )


@claim(
    "CU12",
    paper=UNA,
    place="Sec. 2.3.1 and 4.1, Eq. 9",
    says="on labels the difference of implicit and explicit reward can be MSE or BCE",
    verdict=HOLDS,
    instead="both are proper scores: their target is logit P(up). KTO's target is ±∞, whichever side of ½ P(up) is on",
    shows="P(up) = 0.3: MSE {mse:.3f}, BCE {bce:.3f}, logit {logit:.3f}; KTO's slope has one sign on [−20, 20]",
    notebook=NOTEBOOK,
)
def _cu12() -> Evidence:
    r = torch.linspace(-20, 20, 400_001, dtype=F64)
    zero = torch.zeros_like(r)

    def expected(name: str, p: float, **more: float) -> Tensor:
        loss, one = METHODS[name].loss, {"logps": r, "ref_logps": zero, "beta": 1.0, **more}
        return p * loss(**one, labels=zero + 1) + (1 - p) * loss(**one, labels=zero)

    mse, bce = (float(r[expected(name, 0.3).argmin()]) for name in ("una-binary-mse", "una-binary-bce"))
    kto = {p: expected("kto", p, kl=0.0).diff() for p in (0.3, 0.49, 0.51)}
    return Evidence(
        {"mse": mse, "bce": bce, "logit": math.log(0.3 / 0.7)},
        {
            "MSE and BCE: logit P(up)": max(abs(mse - math.log(3 / 7)), abs(bce - math.log(3 / 7))) < 1e-3,
            "KTO below ½: always down": bool((kto[0.3] > 0).all() and (kto[0.49] > 0).all()),
            "KTO above ½: always up": bool((kto[0.51] < 0).all()),
        },
    )


def kto_end(world: TableWorld, sampler: Tensor, up: Tensor, steps: int = 3000) -> Tensor:
    """log π after so many steps of descent on KTO, z₀ = β·KL of the policy as it is, exact and without gradient."""
    beta, rate = world.beta, 2.0
    logps = world.ref_logps
    logits = logps.clone()
    for _ in range(steps):
        z = kl(logps, world.ref_logps)[:, None]
        value = (beta * (logps - world.ref_logps - z)).sigmoid()
        g = sampler * (1 - 2 * up) * beta * value * (1 - value)
        logits = logits - rate * (g - logps.exp() * g.sum(-1, keepdim=True))
        logps = logits.log_softmax(-1)
    return logps


def _kto_slope_error(world: TableWorld, sampler: Tensor, up: Tensor) -> float:
    """How far `kto_end`'s derivative is from that of the method's own loss, at π_ref and at π*."""
    worst = 0.0
    for logps in (world.ref_logps, world.optimum):
        z = kl(logps, world.ref_logps)[:, None]
        value = (world.beta * (logps - world.ref_logps - z)).sigmoid()
        g = sampler * (1 - 2 * up) * world.beta * value * (1 - value)
        by_hand = g - logps.exp() * g.sum(-1, keepdim=True)
        worst = max(worst, _distance(by_hand, slope(thumbs(METHODS["kto"].loss, world, sampler, up, kl=z), logps)))
    return worst


LABELLED = TableWorld.random(0, prompts=8, responses=6, beta=0.5)
"""The world of the thumbs: P(up) = σ(r + offset), responses from π_ref."""


@cache
def label_floors(offset: float) -> dict[str, float]:
    """With unlimited labels, the regret of BCE and KTO over that of π_ref, the share of thumbs up, and `told`.

    `told` is by how much BCE with V(x) = β·log Z(x) exceeds, at π*, the entropy of the labels, its least value.
    """
    world = shifted(LABELLED, offset)
    mu, up = world.ref_logps.exp(), world.rewards.sigmoid()
    bce = METHODS["una-binary-bce"].loss
    told = world.beta * world.log_partition[:, None]
    ends = {
        "bce": fixed_point(thumbs(bce, world, mu, up), world.ref_logps, tolerance=1e-10),
        "kto": kto_end(world, mu, up),
    }
    of_ref = world.metrics(world.ref_logps)["regret"]
    floors = {name: world.metrics(end)["regret"] / of_ref for name, end in ends.items()}
    least = (mu * torch.special.entr(up) + mu * torch.special.entr(1 - up)).sum()
    excess = thumbs(bce, world, mu, up, baseline=told)(world.optimum) - least
    return floors | {"told": float(excess), "ups": float((mu * up).sum(-1).mean())}


@claim(
    "CU13",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 9",
    says="with f(x) = c = 0 the loss on labels aligns the policy",
    verdict="holds if V(x) = β·log Z(x) is added to r_θ",
    instead="thumbs with P(up) = σ(r): without V(x) the fixed point moves with the share of thumbs up",
    shows="regret over that of π_ref at mean logits −1.5, 0, 1.5: BCE {bce_low:.2f}, {bce_even:.2f}, {bce_high:.2f}; "
    "with V(x) 0; KTO, 3,000 steps, {kto_low:.2f}, {kto_even:.2f}, {kto_high:.2f}",
    notebook=NOTEBOOK,
)
def _cu13() -> Evidence:
    found = {name: label_floors(offset) for name, offset in (("low", -1.5), ("even", 0.0), ("high", 1.5))}
    numbers = {f"{method}_{name}": floors[method] for method in ("bce", "kto") for name, floors in found.items()}
    return Evidence(
        numbers,
        {
            "with V(x) it is π*": max(abs(floors["told"]) for floors in found.values()) < 1e-12,
            "without it is not, least of all far from even": min(numbers["bce_low"], numbers["bce_high"])
            > numbers["bce_even"]
            > 0.05,
            "nor is KTO": min(floors["kto"] for floors in found.values()) > 0.05,
            "the descent follows the method's own loss": _kto_slope_error(
                LABELLED, LABELLED.ref_logps.exp(), LABELLED.rewards.sigmoid()
            )
            < 1e-12,
        },
    )


# Eq. 10: scores -------------------------------------------------------------------------------------------------------


@claim(
    "EU12",
    paper=UNA,
    place="Eq. 10",
    says="the loss on scores is −E(r_θ − r_φ)²",
    verdict=FAILS,
    instead="+E(r_θ − r_φ)²; descent on the printed one pushes r_θ away from the score",
    shows="r_θ = 0.2, score 0.9: printed {printed:.2f}; slope of the mended loss {mended_slope:.1f}, of the printed "
    "one {printed_slope:+.1f}",
    notebook=NOTEBOOK,
)
def _eu12() -> Evidence:
    method = METHODS["una-score"]
    assert method.printed is not None
    logps = torch.tensor([0.2], dtype=F64).requires_grad_()
    one = {
        "logps": logps,
        "ref_logps": torch.zeros(1, dtype=F64),
        "scores": torch.tensor([0.9], dtype=F64),
        "beta": 1.0,
    }
    printed, mended = method.printed(**one), method.loss(**one)
    slopes = [float(torch.autograd.grad(loss.sum(), logps)[0]) for loss in (printed, mended)]
    return Evidence(
        {"printed": float(printed.detach()), "mended_slope": slopes[1], "printed_slope": slopes[0]},
        {"descent as printed lowers r_θ": slopes[0] > 0, "mended it raises it": slopes[1] < 0},
    )


@claim(
    "EU14",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 10, f(x) = c = 0",
    says="the minimiser of the regression on offline scores is the RLHF optimum",
    verdict="holds if c, or f(x), is β·log Z(x)",
    instead="with c = f = 0 the minimiser is another policy and the residual does not vanish",
    shows="two responses, r = (1, 0): c = 0 gives ({first:.4f}, {second:.4f}), loss {loss:.4f}; c = {c:.4f} gives π* = "
    "({best:.4f}, {worst:.4f}), loss 0",
    notebook=NOTEBOOK,
)
def _eu14() -> Evidence:
    mu, c = E2.ref_logps.exp(), float(E2.log_partition)
    loss = METHODS["una-score"].loss
    raw = singles(loss, E2, mu, scores=E2.rewards)
    told = singles(loss, E2, mu, scores=E2.rewards, baseline=torch.full_like(E2.rewards, c))
    found, with_c = fixed_point(raw, E2.ref_logps), fixed_point(told, E2.ref_logps)
    numbers = {
        "first": float(found.exp()[0, 0]),
        "second": float(found.exp()[0, 1]),
        "loss": float(raw(found)),
        "c": c,
        "best": float(E2.optimum.exp()[0, 0]),
        "worst": float(E2.optimum.exp()[0, 1]),
    }
    return Evidence(
        numbers,
        {
            "without c it is not π*": _distance(found.exp(), E2.optimum.exp()) > 0.05 and numbers["loss"] > 0.3,
            "with c = β·log Z it is": _distance(with_c.exp(), E2.optimum.exp()) < 1e-9 and float(told(with_c)) < 1e-20,
            "the closed form agrees": _distance(una_fixed_point(E2.ref_logps, E2.rewards, 1.0).exp(), found.exp())
            < 1e-9,
        },
    )


@claim(
    "EU16",
    paper=UNA,
    place="Sec. 4.1",
    says="0.65·helpfulness + 0.8·correctness + 0.45·coherence of ratings in [0, 1] is a score in [0, 1]",
    verdict=FAILS,
    instead="the weights sum to 1.9: the score is in [0, 1.9] unless it is divided by 1.9",
    shows="all ratings 4 of 4: {largest:.2f}",
    notebook=NOTEBOOK,
)
def _eu16() -> Evidence:
    weights = torch.tensor([0.65, 0.8, 0.45], dtype=F64)
    largest = float(weights @ (torch.full((3,), 4.0, dtype=F64) / 4))
    return Evidence(
        {"largest": largest},
        {"it exceeds 1": largest > 1.5, "divided by 1.9 it is 1": abs(largest / 1.9 - 1) < 1e-12},
    )


@claim(
    "CU5",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 10",
    says="regression of β·log(π/π_ref) on scores recovers the RLHF optimum from offline data",
    verdict="holds if β·log Z(x) = 0 for every prompt, or V(x) is fitted",
    instead="a constant added to all scores leaves π* where it is, and moves what is learned; with V(x) it does not",
    shows="regret at offsets −8, −2, 0, 2, 8, 16: {m8:.2f}, {m2:.2f}, {p0:.2f}, {p2:.2f}, {p8:.2f}, {p16:.2f} (π_ref "
    "{ref:.2f}; responses drawn uniformly, at −8: {uniform:.2f}); with V(x) 0",
    notebook=NOTEBOOK,
)
def _cu5() -> Evidence:
    names = {"m8": -8.0, "m2": -2.0, "p0": 0.0, "p2": 2.0, "p8": 8.0, "p16": 16.0}
    raw = {name: raw_regret(WORLD, offset) for name, offset in names.items()}
    uniform = torch.full_like(WORLD.ref_logps, -math.log(8))
    ref = WORLD.metrics(WORLD.ref_logps)["regret"]
    moved = shifted(SMALL, 8.0)
    centred = una_regression(moved.ref_logps, moved.rewards, 0.5, baseline="prompt")
    numbers = raw | {"ref": ref, "uniform": raw_regret(WORLD, -8.0, sampler_logps=uniform)}
    zero = una_end(WORLD.ref_logps, WORLD.rewards, 0.5, baseline=0.5 * WORLD.log_partition[:, None] - 1e-12)
    return Evidence(
        numbers,
        {
            "the offset decides": raw["p0"] < 0.2 * ref and raw["p16"] > 0.8 * ref and raw["m8"] > 0.5 * ref,
            "nor is any one offset right": min(raw.values()) > 0.01,
            "far off it can be worse than no training": numbers["uniform"] > 1.3 * ref,
            "with β·log Z(x) it is π*": float(WORLD.regret(zero).mean()) < 1e-10,
            "with a fitted V(x) it is π* at any offset": _distance(
                fixed_point(centred, moved.ref_logps).exp(), moved.optimum.exp()
            )
            < 1e-8,
        },
    )


@claim(
    "CU5a",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 10",
    says="regression on scores finds the RLHF optimum; here where they are high, and none is negative",
    verdict=FAILS,
    instead="in closed form log π/π_ref = r/β − W(κ·e^(r/β)), Lambert's W with one κ a prompt: it tends to the sampler",
    shows="KL(π‖π_ref) at offsets 0, 4, 16: {kl0:.3f}, {kl4:.3f}, {kl16:.4f}; π* has {best:.3f}",
    notebook=NOTEBOOK,
)
def _cu5a() -> Evidence:
    ends = {o: una_end(WORLD.ref_logps, WORLD.rewards + o, 0.5) for o in (0.0, 4.0, 16.0, 64.0)}
    kls = {o: float(kl(end, WORLD.ref_logps).mean()) for o, end in ends.items()}
    best = float(kl(WORLD.optimum, WORLD.ref_logps).mean())
    moved = shifted(SMALL, 4.0)
    found = fixed_point(una_regression(moved.ref_logps, moved.rewards, 0.5), moved.ref_logps)
    sampler = SMALL.optimum.flip(-1)
    far = una_fixed_point(SMALL.ref_logps, SMALL.rewards + 1e4, 0.5, sampler_logps=sampler)
    return Evidence(
        {"kl0": kls[0.0], "kl4": kls[4.0], "kl16": kls[16.0], "best": best},
        {
            "the closed form is the minimiser": _distance(
                una_fixed_point(moved.ref_logps, moved.rewards, 0.5).exp(), found.exp()
            )
            < 1e-8,
            "drawn from π_ref it goes back to π_ref": kls[0.0] > kls[4.0] > kls[16.0] > kls[64.0]
            and kls[16.0] < 0.01 * best,
            "drawn from another sampler it goes there": _distance(far.exp(), sampler.exp()) < 1e-3,
        },
    )


@claim(
    "CU5b",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 10",
    says="regression on scores finds the RLHF optimum; here where all of them are low, and negative",
    verdict=FAILS,
    instead="the loss is not convex: its global minimum is one response alone, as a rule the rarest; descent from "
    "π_ref stops at another minimum",
    shows="offset −8: regret of the global minimum {lowest:.2f} (π_ref {ref:.2f}), its top probability {top:.4f}, the "
    "rarest response in {rarest:.0%} of prompts, the best one in {best:.0%}; descent {descent:.2f}",
    notebook=NOTEBOOK,
)
def _cu5b() -> Evidence:
    rewards = WORLD.rewards - 8
    lowest = una_end(WORLD.ref_logps, rewards, 0.5, which="global")
    descent = una_end(WORLD.ref_logps, rewards, 0.5)
    population = una_regression(WORLD.ref_logps, rewards, 0.5)
    chosen = lowest.argmax(-1)
    numbers = {
        "lowest": float(WORLD.regret(lowest).mean()),
        "ref": WORLD.metrics(WORLD.ref_logps)["regret"],
        "top": float(lowest.exp().amax(-1).mean()),
        "rarest": float((chosen == WORLD.ref_logps.argmin(-1)).double().mean()),
        "best": float((chosen == WORLD.rewards.argmax(-1)).double().mean()),
        "descent": float(WORLD.regret(descent).mean()),
    }
    minima = una_minima(WORLD.ref_logps, rewards, 0.5)
    return Evidence(
        numbers,
        {
            "every response has a minimum of its own": not bool(minima[:, :8].isnan().any()),
            "they are minima": _distance(slope(population, minima[:, 0]), torch.zeros_like(rewards)) < 1e-10
            and _distance(slope(population, minima[:, 7]), torch.zeros_like(rewards)) < 1e-10,
            "the global one is one response": numbers["top"] > 0.999 and numbers["rarest"] > 0.6,
            "it is worse than no training": numbers["lowest"] > 2 * numbers["ref"],
            "descent from π_ref stops elsewhere": float(population(descent)) > float(population(lowest)) + 1e-3
            and numbers["descent"] < numbers["lowest"] / 2,
        },
    )


@claim(
    "CU7",
    paper=UNA,
    place="Sec. 7, Discussion 3",
    says="the constant c can be estimated in advance or by a moving average",
    verdict="holds if all prompts have the same β·log Z(x), for that is what one c can be",
    instead="one c removes what is common to all prompts; what differs between them takes one number a prompt",
    shows="offset 3, regret over that of π_ref: raw {raw:.2f}; with the best c {even:.2f}, {half:.2f} and {two:.2f} "
    "where the prompts' offsets have sd 0, ½ and 2; with V(x) 0",
    notebook=NOTEBOOK,
)
def _cu7() -> Evidence:
    world = TableWorld.random(0, prompts=16, responses=6, beta=0.5)
    ref = world.metrics(world.ref_logps)["regret"]
    spread = torch.randn(16, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    spread = (spread - spread.mean()) / spread.std(correction=0)

    def best(sd: float) -> float:
        offsets = 3 + sd * spread
        return min(raw_regret(world, offsets, baseline=c / 4) for c in range(11, 19)) / ref

    numbers = {"raw": raw_regret(world, 3.0) / ref, "even": best(0.0), "half": best(0.5), "two": best(2.0)}
    told = una_end(
        world.ref_logps,
        world.rewards + 3 + 2 * spread,
        0.5,
        baseline=3 + 2 * spread + 0.5 * world.log_partition[:, None] - 1e-12,
    )
    return Evidence(
        numbers,
        {
            "a constant helps": numbers["even"] < 0.3 * numbers["raw"],
            "the less the more the prompts differ": 0.01 < numbers["even"] < numbers["half"] < numbers["two"],
            "one number a prompt does it": float(world.regret(told).mean()) < 1e-10,
        },
    )


def released_world(beta: float) -> TableWorld:
    """Scores σ(1.3 + 0.8·r) in (0, 1) as rewards; their mean is 0.76, few are below ½."""
    world = TableWorld.random(0, prompts=8, responses=6, beta=beta)
    return TableWorld(world.ref_logps, (1.3 + 0.8 * world.rewards).sigmoid(), beta)


@claim(
    "CU14",
    paper=UNA,
    place="Sec. 4.1, the authors' code (β = 0.01 and 0.03)",
    says="regression of σ(r_θ) on scores keeps the policy near π_ref by β",
    verdict=FAILS,
    instead="its target log-ratio logit(s)/β is out of reach; for β ≤ 0.03 it learns π ∝ μ·(s − ½)₊, whatever β is",
    shows="β = 0.03: a score of 0.767 asks for {asked:.0f} nats, 0.99 for {asked99:.0f}; total variation to μ·(s − ½)₊ "
    "{tv:.3f}, at β = 0.01 {tv_small:.3f}; regret over that of π_ref {share:.2f}",
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
        found = fixed_point(population, world.ref_logps, tolerance=1e-9)
        closed = mu * (world.rewards - 0.5).clamp(min=0)
        tv[beta] = float((found.exp() - closed / closed.sum(-1, keepdim=True)).abs().sum(-1).mean() / 2)
        away[beta] = float((found.exp() - world.optimum.exp()).abs().sum(-1).mean() / 2)
        share[beta] = world.metrics(found)["regret"] / world.metrics(world.ref_logps)["regret"]
    numbers = {
        "asked": math.log(0.767 / 0.233) / 0.03,
        "asked99": math.log(99) / 0.03,
        "tv": tv[0.03],
        "tv_small": tv[0.01],
        "share": share[0.03],
    }
    return Evidence(
        numbers,
        {
            "it is μ·(s − ½)₊": tv[0.03] < 0.02 and tv[0.01] < 0.5 * tv[0.03],
            "it is not π*": min(away.values()) > 0.1,
        },
    )


def score_weights(scores: Sequence[float]) -> dict[str, float]:
    """What the weights s − ½ of the first step are made of: see CU15."""
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
    says="UNA-score learns from scores what pairs and labels do not say",
    verdict="holds if the scores are centred",
    instead="the first step is SFT with weights s − ½, and their mean is plain SFT, or its opposite, on all responses",
    shows="{scores:,.0f} scores of an LLM judge (AlpacaEval), mean {mean:.3f}: {constant:.0%} of the squared weight is "
    "the constant, “lower every response”; {below:.0%} are below ½, {ends:.0%} within 0.001 of 0 or 1",
    notebook=NOTEBOOK,
)
def _cu15() -> Evidence:
    folder = os.environ.get("UNA_REF_DATA")
    if folder and (file := Path(folder) / "alpaca_eval_scores.jsonl.gz").is_file():
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            numbers = score_weights([json.loads(line)["score"] for line in lines])
    else:
        kept = Path(__file__).resolve().parents[2] / "figures" / "runs" / "score_weights.json"
        numbers = json.loads(kept.read_text(encoding="utf-8"))["numbers"]
    method = METHODS["una-score"]
    assert method.released is not None
    logps = torch.zeros(3, dtype=F64).requires_grad_()
    s = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    loss = method.released(logps=logps, ref_logps=torch.zeros(3, dtype=F64), scores=s, beta=0.03).sum()
    (first,) = torch.autograd.grad(loss, logps)
    return Evidence(
        numbers,
        {
            "the first step is SFT with weights s − ½": _distance(first, -0.03 / 2 * (s - 0.5)) < 1e-15,
            "a large part of it is the same for every response": numbers["constant"] > 0.3,
        },
    )


# Eq. 7: the sampler ---------------------------------------------------------------------------------------------------


def on_policy(world: TableWorld, logps: Tensor, *, through_sampler: bool) -> Tensor:
    """The gradient in the logits (X, Y) of UNA's Eq. 7 with g = MSE: Σ over prompts of E_{y~π}(r_θ − r)²."""
    logits = logps.detach().requires_grad_()
    now = logits.log_softmax(-1)
    weights = now.exp() if through_sampler else now.exp().detach()
    errors = METHODS["una-score"].loss(
        logps=now.flatten(), ref_logps=world.ref_logps.flatten(), scores=world.rewards.flatten(), beta=world.beta
    )
    return torch.autograd.grad((weights.flatten() * errors).sum(), logits)[0]


def policy_gradient(world: TableWorld, logps: Tensor) -> Tensor:
    """∇J in the logits, (X, Y)."""
    return slope(lambda now: objective(now, world.ref_logps, world.rewards, world.beta).sum(), logps)


def literal(world: TableWorld) -> Callable[[Tensor], Tensor]:
    """log π -> Σ over prompts of E_{y~π}(r_θ − r)², π differentiated wherever it stands: Var_π(e) + J²."""
    return lambda logps: (logps.exp() * (world.beta * (logps - world.ref_logps) - world.rewards) ** 2).sum()


@claim(
    "EU13",
    paper=UNA,
    place="Eq. 7",
    says="L = E_{y~π_θ} g(r_φ, r_θ), with nothing said of the derivative of the sampling",
    verdict="holds if the sampler is not differentiated",
    instead="then the gradient is −2β·∇J at every policy; the literal one is another problem, with π* a local maximum "
    "where Z(x) > e",
    shows="two responses, π = (0.6, 0.4): supervised {supervised:.4f}, −2β·∇J {twice:.4f}, literal {literal:.4f}; r = "
    "(3, 2): literal loss at π* {at_best:.3f}, at π_ref {at_ref:.3f}, at one response {at_one:.3f}",
    notebook=NOTEBOOK,
)
def _eu13() -> Evidence:
    logps = torch.tensor([[0.6, 0.4]], dtype=F64).log()
    supervised = on_policy(E2, logps, through_sampler=False)
    twice = -2 * E2.beta * policy_gradient(E2, logps)
    through = on_policy(E2, logps, through_sampler=True)
    high = shifted(E2, 2.0)
    loss = literal(high)
    numbers = {
        "supervised": float(supervised[0, 0]),
        "twice": float(twice[0, 0]),
        "literal": float(through[0, 0]),
        "at_best": float(loss(high.optimum)),
        "at_ref": float(loss(high.ref_logps)),
        "at_one": float(loss(torch.tensor([[1.0, 1e-300]], dtype=F64).log())),
    }
    return Evidence(
        numbers,
        {
            "supervised: −2β·∇J": _distance(supervised, twice) < 1e-14,
            "literal: not": _distance(through, twice) > 0.1,
            "above Z = e π* is a maximum of the literal loss": float(high.log_partition) > 1
            and numbers["at_best"] > max(numbers["at_ref"], numbers["at_one"]),
        },
    )


@claim(
    "CU6",
    paper=UNA,
    place="Eq. 7, Sec. 2.3.2",
    says="online UNA solves the RLHF problem by supervised learning",
    verdict="holds if the sampler is not differentiated",
    instead="in expectation every step is REINFORCE without a baseline; differentiated, the loss is Var(e) + J²: it "
    "drives J towards 0",
    shows="offset 0 and 4, regret after training (π_ref {ref:.2f}): not differentiated {still0:.4f} and {still4:.4f}, "
    "differentiated {through0:.2f} and {through4:.2f}, where J is {j0:.2f} and {j4:.2f} (at π* {best0:.2f} "
    "and {best4:.2f})",
    notebook=NOTEBOOK,
)
def _cu6() -> Evidence:
    worlds = {offset: shifted(SMALL, offset) for offset in (0.0, 4.0)}
    numbers = {"ref": SMALL.metrics(SMALL.ref_logps)["regret"]}
    for offset, world in worlds.items():
        for name, through in (("still", False), ("through", True)):
            logits = world.ref_logps
            for _ in range(1000):
                logits = logits - 0.4 * on_policy(world, logits.log_softmax(-1), through_sampler=through)
            end = logits.log_softmax(-1)
            numbers[f"{name}{offset:.0f}"] = world.metrics(end)["regret"]
        j = objective(end, world.ref_logps, world.rewards, world.beta)
        numbers |= {
            f"j{offset:.0f}": float(j.mean()),
            f"best{offset:.0f}": float(world.beta * world.log_partition.mean()),
        }
    exact = max(
        _distance(on_policy(w, p, through_sampler=False), -2 * w.beta * policy_gradient(w, p))
        for w in (*worlds.values(), shifted(SMALL, -4.0))
        for p in (SMALL.ref_logps, SMALL.optimum, SMALL.optimum.flip(-1))
    )
    one = TableWorld(SMALL.ref_logps[:1], SMALL.rewards[:1] + 4, SMALL.beta)
    curvature = torch.autograd.functional.hessian(lambda z: literal(one)(z.log_softmax(-1)), one.optimum)[0, :, 0]
    p = one.optimum.exp()[0]
    expected = 2 * one.beta**2 * (1 - one.log_partition) * (p.diag() - p[:, None] * p)
    return Evidence(
        numbers,
        {
            "not differentiated: −2β·∇J at every policy and offset": exact < 1e-13,
            "not differentiated: it ends at π*": max(numbers["still0"], numbers["still4"]) < 1e-3,
            "differentiated: it drives J towards 0": abs(numbers["j0"]) < 0.3 * numbers["best0"]
            and numbers["j4"] < 0.6 * numbers["best4"],
            "differentiated: it ends far from π*, with the offset worse than no training": numbers["through0"]
            > 0.5 * numbers["ref"]
            and numbers["through4"] > 2 * numbers["ref"],
            "differentiated: π* has curvature 2β²·(1 − log Z)·Cov, a maximum where log Z > 1": _distance(
                curvature, expected
            )
            < 1e-10
            and float(one.log_partition) > 1,
        },
    )


# V(x) -----------------------------------------------------------------------------------------------------------------


def tuples(count: int, k: int) -> Tensor:
    """Every way of drawing k of `count` responses, in order: (count^k, k)."""
    return torch.cartesian_prod(*[torch.arange(count)] * k)


def centred_gradients(ref: Tensor, scores: Tensor, beta: float, logps: Tensor, drawn: Tensor, noise: Tensor) -> Tensor:
    """∂/∂logits (N, Y) of una-centred's mean over each of N groups of one prompt; `noise` (N, k) is added to scores."""
    n, k = drawn.shape
    logits = logps.detach().expand(n, -1).clone().requires_grad_()
    own = logits.log_softmax(-1).gather(1, drawn)
    losses = METHODS["una-centred"].loss(
        logps=own.flatten(),
        ref_logps=ref[drawn].flatten(),
        scores=(scores[drawn] + noise).flatten(),
        groups=torch.arange(n).repeat_interleave(k),
        beta=beta,
    )
    return torch.autograd.grad(losses.sum() / k, logits)[0]


def rloo_gradients(ref: Tensor, scores: Tensor, beta: float, logps: Tensor, drawn: Tensor) -> Tensor:
    """The same for RLOO: Σ_k of (R_k − mean of the others' R)·∇log π(y_k) / K, with R = r − β·log(π/π_ref)."""
    n, k = drawn.shape
    total = (scores - beta * (logps - ref))[drawn]
    groups = torch.arange(n).repeat_interleave(k)
    advantage = total - leave_one_out(total.flatten(), groups).view(n, k)
    one_hot = torch.nn.functional.one_hot(drawn, len(ref)).to(F64)
    return (advantage[..., None] * (one_hot - logps.exp())).mean(1)


@claim(
    "CU8",
    paper=UNA,
    place="Sec. 7, Discussion 3",
    says="an appropriate f(x) may improve UNA; as a leave-one-out mean, how many responses of a prompt does it take?",
    verdict=HOLDS,
    instead="two are enough for the right fixed point; more only lower the noise, at π* by K/(K − 1)",
    shows="noise per response at π*, scores with noise, over that of the exact V(x): K = 2 {k2:.2f}, 3 {k3:.2f}, "
    "4 {k4:.2f}, 8 {k8:.2f}; with prompts drawn too, the least noise at π_ref is at K = {best:.1f}",
    notebook=NOTEBOOK,
)
def _cu8() -> Evidence:
    world, beta = SMALL, SMALL.beta
    ref, scores, best = world.ref_logps[0], world.rewards[0], world.optimum[0]
    population = una_regression(world.ref_logps[:1], world.rewards[:1], beta, baseline="prompt")
    policy = best.flip(-1)  # one that the responses were not drawn from
    wanted = slope(population, policy[None])[0]
    unbiased = 0.0
    for k in (2, 3):
        drawn = tuples(5, k)
        probabilities = ref[drawn].sum(-1).exp()
        found = centred_gradients(ref, scores, beta, policy, drawn, torch.zeros(drawn.shape, dtype=F64))
        unbiased = max(unbiased, _distance((probabilities[:, None] * found).sum(0), wanted))
    # At π* with scores ± 1: every group and every noise, listed. Exact V(x): the residual is the noise alone.
    noise = {}
    for k in (2, 3):
        drawn, signs = tuples(5, k), 2.0 * tuples(2, k).to(F64) - 1
        n, m = len(drawn), len(signs)
        all_drawn, all_signs = drawn.repeat_interleave(m, 0), signs.repeat(n, 1)
        gradients = centred_gradients(ref, scores, beta, best, all_drawn, all_signs)
        probabilities = best[all_drawn].sum(-1).exp() / m
        alone = 4 * beta**2 * (1 - (best.exp() ** 2).sum())  # E‖2β·noise·∇log π‖²
        noise[k] = float(k * (probabilities * (gradients**2).sum(-1)).sum() / alone)
    # A fixed number of responses, prompts drawn at random, at π_ref: C + (S + V)/(K − 1) + K·B (U-statistics).
    e, p = world.rewards - 0.0, world.ref_logps.exp()
    mean = (p * e).sum(-1, keepdim=True)
    cov = p * (e - mean)
    s = (cov**2).sum(-1)
    v = (p * (e - mean) ** 2).sum(-1) * (1 - (p**2).sum(-1))
    between = (s.mean() - s.sum() / len(s) ** 2).item()
    return Evidence(
        {
            "k2": noise[2],
            "k3": noise[3],
            "k4": 4 / 3,
            "k8": 8 / 7,
            "best": 1 + math.sqrt(float((s + v).mean()) / between),
        },
        {
            "K = 2 and 3: the expected gradient is that of the fitted V(x)": unbiased < 1e-14,
            "the noise is K/(K − 1)": abs(noise[2] - 2) < 1e-12 and abs(noise[3] - 1.5) < 1e-12,
        },
    )


@claim(
    "CU9",
    paper=UNA,
    place="Sec. 2.3.1, offline",
    says="offline regression and RL find the same policy",
    verdict="holds if the policy class contains π* and V(x) is fitted",
    instead="with shared parameters that cannot express π* only sampling from the policy itself finds its best member; "
    "without V(x) the regression misses π* in any class (CU5)",
    shows="regret above the best member of a 3-parameter class (π_ref {ref:.2f}): Eq. 10 offline {raw:.3f}, centred "
    "offline {centred:.3f}, DPO {dpo:.3f}, centred on-policy 0",
    notebook=NOTEBOOK,
)
def _cu9() -> Evidence:
    world = shifted(TableWorld.random(0, prompts=8, responses=6, beta=0.5), 1.0)
    features = torch.randn(8, 6, 3, generator=torch.Generator().manual_seed(5), dtype=F64)

    def policy(theta: Tensor) -> Tensor:
        return (world.ref_logps + features @ theta).log_softmax(-1)

    def minimise(loss: Callable[[Tensor], Tensor]) -> Tensor:
        theta = torch.zeros(3, dtype=F64).requires_grad_()
        optimiser = torch.optim.LBFGS([theta], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def closure() -> Tensor:
            value = loss(policy(theta))
            (theta.grad,) = torch.autograd.grad(value, theta)
            return value

        optimiser.step(closure)
        return theta.detach()

    def j(logps: Tensor) -> Tensor:
        return objective(logps, world.ref_logps, world.rewards, world.beta).mean()

    mu = world.ref_logps.exp()
    best = float(j(policy(minimise(lambda logps: -j(logps)))))
    theta = torch.zeros(3, dtype=F64)
    for _ in range(1500):
        moving = theta.clone().requires_grad_()
        logps = policy(moving)
        population = una_regression(
            world.ref_logps, world.rewards, 0.5, sampler_logps=logps.detach(), baseline="prompt"
        )
        theta = theta - 0.3 * torch.autograd.grad(population(logps), moving)[0]
    losses = {
        "raw": una_regression(world.ref_logps, world.rewards, 0.5),
        "centred": una_regression(world.ref_logps, world.rewards, 0.5, baseline="prompt"),
        "dpo": pairs(METHODS["dpo"].loss, world, mu, bradley_terry(world.rewards)),
    }
    numbers = {name: best - float(j(policy(minimise(loss)))) for name, loss in losses.items()}
    numbers["ref"] = best - float(j(world.ref_logps))
    return Evidence(
        numbers,
        {
            "π* is not in the class": world.metrics(policy(theta))["regret"] > 0.05,
            "on-policy finds the best member": abs(best - float(j(policy(theta)))) < 1e-8,
            "no offline loss does": min(numbers[name] for name in losses) > 0.02 * numbers["ref"],
            "in the class of all policies the centred one finds π*": _distance(
                fixed_point(losses["centred"], world.ref_logps).exp(), world.optimum.exp()
            )
            < 1e-8,
        },
    )


# Scores, labels, pairs: how much one of them says -----------------------------------------------------------------


def information(world: TableWorld, kind: str, noise: float = 1.0) -> Tensor:
    """Fisher information (X, Y, Y) of the rewards of a prompt in one piece of feedback on responses from π_ref.

    What all rewards of a prompt have in common is V(x), which is fitted along with them (scores, labels) or not seen
    (pairs): its direction carries nothing. `noise` is the sd of a score's noise.
    """
    mu = world.ref_logps.exp()
    if kind == "score":
        weights = mu / noise**2
    elif kind == "label":
        up = world.rewards.sigmoid()
        weights = mu * up * (1 - up)
    else:
        p = bradley_terry(world.rewards)
        edges = mu[:, :, None] * mu[:, None, :] * p * (1 - p)
        edges = edges + edges.mT
        edges = edges - torch.diag_embed(edges.diagonal(dim1=-2, dim2=-1))
        return torch.diag_embed(edges.sum(-1)) - edges
    return torch.diag_embed(weights) - weights[:, :, None] * weights[:, None, :] / weights.sum(-1)[:, None, None]


def regret_per_label(world: TableWorld, kind: str, noise: float = 1.0) -> float:
    """n × the mean regret after n labels on each prompt, n large: tr(Cov_π*·I⁻¹)/(2β), maximum likelihood."""
    p = world.optimum.exp()
    covariance = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    inverse = torch.linalg.pinv(information(world, kind, noise), hermitian=True)
    return float((covariance @ inverse).diagonal(dim1=-2, dim2=-1).sum(-1).mean() / (2 * world.beta))


def break_even(world: TableWorld, kind: str) -> float:
    """The noise sd at which a score says as much as one piece of the other feedback, by the regret that it leaves."""
    return math.sqrt(regret_per_label(world, kind) / regret_per_label(world, "score"))


def break_even_by_formula(world: TableWorld) -> float:
    """1/√(2·E[p(1 − p)]) over two responses from π_ref: exact where all pairs are equally hard."""
    mu, p = world.ref_logps.exp(), bradley_terry(world.rewards)
    together = mu[:, :, None] * mu[:, None, :] * (1 - torch.eye(mu.shape[-1], dtype=F64))
    mean = (together * p * (1 - p)).sum((-1, -2)) / together.sum((-1, -2))
    return float(1 / (2 * mean.mean()).sqrt())


RATED = TableWorld(torch.full((1, 8), -math.log(8), dtype=F64), WORLD.rewards[:1], 0.5)
"""One prompt, eight equally likely responses, rewards of sd 1."""


def measured_regret(world: TableWorld, kind: str, count: int, runs: int, noise: float = 1.0) -> float:
    """The mean regret of maximum likelihood after `count` labels on a prompt, in `runs` simulations."""
    generator = torch.Generator().manual_seed(0)
    y = world.rewards.shape[1]
    mu, r = world.ref_logps.exp()[0], world.rewards[0]
    if kind == "score":
        drawn = torch.multinomial(mu.expand(runs, -1), count, replacement=True, generator=generator)
        scores = r[drawn] + noise * torch.randn(runs, count, generator=generator, dtype=F64)
        sums = torch.zeros(runs, y, dtype=F64).scatter_add_(1, drawn, scores)
        times = torch.zeros(runs, y, dtype=F64).scatter_add_(1, drawn, torch.ones_like(scores))
        learned = sums / times
    else:
        p = bradley_terry(world.rewards)[0]
        cells = (mu[:, None] * mu * p).flatten()
        drawn = torch.multinomial(cells.expand(runs, -1), count, replacement=True, generator=generator)
        wins = torch.zeros(runs, y * y, dtype=F64).scatter_add_(1, drawn, torch.ones(runs, count, dtype=F64))
        wins = wins.view(runs, y, y)
        learned = torch.zeros(runs, y, dtype=F64)
        games = wins + wins.mT
        for _ in range(12):  # Newton's method on the Bradley–Terry likelihood
            q = bradley_terry(learned)
            force = wins.sum(-1) - (games * q).sum(-1)
            edges = games * q * (1 - q)
            curvature = torch.diag_embed(edges.sum(-1)) - edges + 1.0 / y  # the common direction is held fixed
            learned = learned + torch.linalg.solve(curvature, force)
    policies = (world.ref_logps + learned / world.beta).log_softmax(-1)
    best = world.optimum.expand(runs, -1)
    return float(world.beta * kl(policies, best).mean())


@claim(
    "CU19",
    paper=UNA,
    place="Sec. 4.1",
    says="scores teach more than labels and pairs, “as more information is provided”",
    verdict="holds if the noise in a score is below the break-even of Fisher's information",
    instead="against pairs that is near 1/√(2·E[p(1 − p)]), p the probability that one beats the other",
    shows="rewards of sd 1: a score beats a pair up to a noise of sd {pair:.2f} (formula {formula:.2f}), a label up to "
    "{label:.2f}; rewards of sd 3: a pair up to {pair3:.2f}",
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
            "the regret that is left is as predicted": all(
                abs(measured[kind] / predicted[kind] - 1) < 0.15 for kind in predicted
            ),
            "below it scores are worth more": regret_per_label(RATED, "score", 0.5)
            < 0.2 * regret_per_label(RATED, "pair"),
            "above it they are worth less": regret_per_label(RATED, "score", 4.0) > 2 * regret_per_label(RATED, "pair"),
            "the formula is near": abs(numbers["formula"] / numbers["pair"] - 1) < 0.2,
        },
    )


@claim(
    "CU20",
    paper=UNA,
    place="Sec. 4.1",
    says="with more data UNA comes nearer to the RLHF optimum",
    verdict="holds if V(x) is fitted",
    instead="with unlimited feedback Eq. 9 and 10 as they stand stop at a floor; DPO and centred UNA do not",
    shows="regret left with unlimited feedback over that of π_ref, half and 90 % thumbs up: scores {score:.2f} and "
    "{score_up:.2f}, labels {label:.2f} and {label_up:.2f}, KTO (3,000 steps) {kto:.2f} and {kto_up:.2f}; "
    "centred and DPO 0",
    notebook=NOTEBOOK,
)
def _cu20() -> Evidence:
    half, most = label_floors(offset_for(0.5)), label_floors(offset_for(0.9))
    ref = LABELLED.metrics(LABELLED.ref_logps)["regret"]
    numbers = {
        "score": raw_regret(LABELLED, offset_for(0.5)) / ref,
        "score_up": raw_regret(LABELLED, offset_for(0.9)) / ref,
        "label": half["bce"],
        "label_up": most["bce"],
        "kto": half["kto"],
        "kto_up": most["kto"],
    }
    centred = una_regression(SMALL.ref_logps, SMALL.rewards + 2, 0.5, baseline="prompt")
    return Evidence(
        numbers,
        {
            "there is a floor": min(numbers.values()) > 0.05,
            "centred: none": _distance(fixed_point(centred, SMALL.ref_logps).exp(), SMALL.optimum.exp()) < 1e-8
            and max(abs(half["told"]), abs(most["told"])) < 1e-12,
            "DPO: none": _dpo_error() < 1e-8,
        },
    )


def offset_for(share: float) -> float:
    """The offset in the rewards of `LABELLED` at which that share of thumbs, drawn with σ(r), is up."""
    low, high = -10.0, 10.0
    mu = LABELLED.ref_logps.exp()
    for _ in range(60):
        middle = (low + high) / 2
        ups = float((mu * (LABELLED.rewards + middle).sigmoid()).sum(-1).mean())
        low, high = (middle, high) if ups < share else (low, middle)
    return low


@claim(
    "CU21",
    paper=UNA,
    place="Sec. 2.3.1 and 4.1, Tables 1–3",
    says="on labels UNA “consistently outperforms KTO”",
    verdict="holds if thumbs down are the more frequent ones",
    instead="with more thumbs up than down KTO's floor is the lower one; with V(x) UNA has no floor at any share",
    shows="regret left with unlimited labels over that of π_ref: 40 % thumbs up, UNA {una:.2f}, KTO (3,000 steps) "
    "{kto:.2f}; 90 % "
    "up, UNA {una_up:.2f}, KTO {kto_up:.2f}",
    notebook=NOTEBOOK,
)
def _cu21() -> Evidence:
    few, most = label_floors(offset_for(0.4)), label_floors(offset_for(0.9))
    numbers = {"una": few["bce"], "kto": few["kto"], "una_up": most["bce"], "kto_up": most["kto"]}
    return Evidence(
        numbers,
        {
            "40 % up: UNA is ahead": numbers["una"] < 0.5 * numbers["kto"],
            "90 % up: KTO is": numbers["una_up"] > 1.05 * numbers["kto_up"],
            "with V(x) there is nothing left": max(abs(few["told"]), abs(most["told"])) < 1e-12,
        },
    )
