"""The regret that unlimited labels or scores leave where V(x) is not fitted (notebook 04)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from una_ref.claims.ledger import UNA, Evidence, claim
from una_ref.claims.pairs import dpo_error
from una_ref.claims.worlds import SMALL, distance, raw_regret, shifted, slope
from una_ref.methods import METHODS
from una_ref.theory import TableWorld, fixed_point, kl, una_regression
from una_ref.theory.populations import thumbs

NOTEBOOK = "04_una_losses"

LABELLED = TableWorld.random(0, prompts=8, responses=6, beta=0.5)
"""The world of the thumbs: P(up) = σ(r + offset), responses from π_ref."""


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
        worst = max(worst, distance(by_hand, slope(thumbs(METHODS["kto"].loss, world, sampler, up, kl=z), logps)))
    return worst


@cache
def label_floors(offset: float) -> dict[str, float]:
    """With unlimited labels, the regret of BCE and KTO over that of π_ref, and `told`.

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
    return floors | {"told": float(excess)}


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
            "centred: none": distance(fixed_point(centred, SMALL.ref_logps).exp(), SMALL.optimum.exp()) < 1e-8
            and max(abs(half["told"]), abs(most["told"])) < 1e-12,
            "DPO: none": dpo_error() < 1e-8,
        },
    )


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
