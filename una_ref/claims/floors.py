"""The regret floor: what unlimited labels or scores leave where V(x) is not fitted (notebook 04)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from una_ref.claims.example_worlds import SMALL, distance, raw_regret, shifted, slope
from una_ref.claims.ledger import UNA, Evidence, claim
from una_ref.claims.pair_loss import dpo_error
from una_ref.methods import METHODS
from una_ref.theory import TableWorld, fixed_point, kl, una_regression
from una_ref.theory.populations import binary_labels

NOTEBOOK = "04_una_losses"

LABELLED = TableWorld.random(0, prompts=8, responses=6, beta=0.5)
"""The world with binary labels: P(1) = σ(r + offset), responses from π_ref."""


def kto_end(world: TableWorld, sampler: Tensor, positive: Tensor, steps: int = 3000) -> Tensor:
    """log π after `steps` of descent on KTO, with the exact z₀ = β·KL of the current policy, not differentiated."""
    beta, rate = world.beta, 2.0
    logps = world.ref_logps
    logits = logps.clone()
    for _ in range(steps):
        z = kl(logps, world.ref_logps)[:, None]
        value = (beta * (logps - world.ref_logps - z)).sigmoid()
        g = sampler * (1 - 2 * positive) * beta * value * (1 - value)
        logits = logits - rate * (g - logps.exp() * g.sum(-1, keepdim=True))
        logps = logits.log_softmax(-1)
    return logps


def _kto_slope_error(world: TableWorld, sampler: Tensor, positive: Tensor) -> float:
    """The largest error of `kto_end`'s gradient, against that of the method's loss, at π_ref and at π*."""
    worst = 0.0
    for logps in (world.ref_logps, world.optimum):
        z = kl(logps, world.ref_logps)[:, None]
        value = (world.beta * (logps - world.ref_logps - z)).sigmoid()
        g = sampler * (1 - 2 * positive) * world.beta * value * (1 - value)
        by_hand = g - logps.exp() * g.sum(-1, keepdim=True)
        worst = max(
            worst, distance(by_hand, slope(binary_labels(METHODS["kto"].loss, world, sampler, positive, kl=z), logps))
        )
    return worst


@cache
def label_floors(offset: float) -> dict[str, float]:
    """With unlimited labels, the regret of BCE ("bce") and KTO ("kto") as a fraction of π_ref's, and "excess".

    "excess" is BCE with V(x) = β·log Z(x) at π* minus its least value, the entropy of the labels: 0 where π* minimises.
    """
    world = shifted(LABELLED, offset)
    mu, positive = world.ref_logps.exp(), world.rewards.sigmoid()
    bce = METHODS["una-binary-bce"].loss
    v = world.beta * world.log_partition[:, None]
    ends = {
        "bce": fixed_point(binary_labels(bce, world, mu, positive), world.ref_logps, tolerance=1e-10),
        "kto": kto_end(world, mu, positive),
    }
    of_ref = world.metrics(world.ref_logps)["regret"]
    floors = {name: world.metrics(end)["regret"] / of_ref for name, end in ends.items()}
    least = (mu * torch.special.entr(positive) + mu * torch.special.entr(1 - positive)).sum()
    excess = binary_labels(bce, world, mu, positive, baseline=v)(world.optimum) - least
    return floors | {"excess": float(excess)}


def offset_for(share: float) -> float:
    """The offset in the rewards of `LABELLED` at which that share of labels, with P(1) = σ(r), is 1."""
    low, high = -10.0, 10.0
    mu = LABELLED.ref_logps.exp()
    for _ in range(60):
        middle = (low + high) / 2
        positive = float((mu * (LABELLED.rewards + middle).sigmoid()).sum(-1).mean())
        low, high = (middle, high) if positive < share else (low, middle)
    return low


@claim(
    "CU13",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 9",
    says="with f(x) = c = 0 the loss on labels aligns the policy",
    verdict="holds if V(x) = β·log Z(x) is added to r_θ",
    instead="without V(x) the fixed point depends on the share of positive labels, P(1) = σ(r)",
    shows="regret as a fraction of π_ref's, mean logits −1.5, 0, 1.5: BCE {bce_low:.2f}, {bce_even:.2f}, "
    "{bce_high:.2f}, with V(x) 0 at each; KTO after 3,000 steps {kto_low:.2f}, {kto_even:.2f}, {kto_high:.2f}",
    notebook=NOTEBOOK,
)
def _cu13() -> Evidence:
    by_offset = {name: label_floors(offset) for name, offset in (("low", -1.5), ("even", 0.0), ("high", 1.5))}
    numbers = {f"{method}_{name}": floors[method] for method in ("bce", "kto") for name, floors in by_offset.items()}
    return Evidence(
        numbers,
        {
            "BCE with V(x): the minimiser is π*": max(abs(floors["excess"]) for floors in by_offset.values()) < 1e-12,
            "BCE without V(x): it is not π*, and farther from it where labels are unbalanced": min(
                numbers["bce_low"], numbers["bce_high"]
            )
            > numbers["bce_even"]
            > 0.05,
            "KTO does not end at π*": min(floors["kto"] for floors in by_offset.values()) > 0.05,
            "the descent on KTO has the gradient of the method's loss": _kto_slope_error(
                LABELLED, LABELLED.ref_logps.exp(), LABELLED.rewards.sigmoid()
            )
            < 1e-12,
        },
    )


@claim(
    "CU20",
    paper=UNA,
    place="Sec. 4.1",
    says="with more data UNA comes closer to the RLHF optimum",
    verdict="holds if V(x) is fitted",
    instead="with unlimited feedback Eq. 9 and 10 stop at a regret floor; DPO and centred UNA have none",
    shows="regret with unlimited feedback as a fraction of π_ref's, 50% and 90% positive labels: Eq. 10 {score:.2f} "
    "and {score_most:.2f}, Eq. 9 {label:.2f} and {label_most:.2f}, KTO (3,000 steps) {kto:.2f} and {kto_most:.2f}; "
    "centred UNA and DPO 0",
    notebook=NOTEBOOK,
)
def _cu20() -> Evidence:
    half, most = label_floors(offset_for(0.5)), label_floors(offset_for(0.9))
    ref = LABELLED.metrics(LABELLED.ref_logps)["regret"]
    numbers = {
        "score": raw_regret(LABELLED, offset_for(0.5)) / ref,
        "score_most": raw_regret(LABELLED, offset_for(0.9)) / ref,
        "label": half["bce"],
        "label_most": most["bce"],
        "kto": half["kto"],
        "kto_most": most["kto"],
    }
    centred = una_regression(SMALL.ref_logps, SMALL.rewards + 2, 0.5, baseline="prompt")
    return Evidence(
        numbers,
        {
            "Eq. 9, Eq. 10 and KTO have a floor": min(numbers.values()) > 0.05,
            "centred UNA has none": distance(fixed_point(centred, SMALL.ref_logps).exp(), SMALL.optimum.exp()) < 1e-8
            and max(abs(half["excess"]), abs(most["excess"])) < 1e-12,
            "DPO has none": dpo_error() < 1e-8,
        },
    )


@claim(
    "CU21",
    paper=UNA,
    place="Sec. 2.3.1 and 4.1, Tables 1–3",
    says="on labels UNA “consistently outperforms KTO”",
    verdict="holds if negative labels are more frequent",
    instead="with more positive than negative labels KTO's floor is lower; with V(x) UNA has no floor at any share",
    shows="regret with unlimited labels as a fraction of π_ref's: 40% positive labels, UNA {una:.2f}, KTO (3,000 "
    "steps) {kto:.2f}; 90%, UNA {una_most:.2f}, KTO {kto_most:.2f}",
    notebook=NOTEBOOK,
)
def _cu21() -> Evidence:
    few, most = label_floors(offset_for(0.4)), label_floors(offset_for(0.9))
    numbers = {"una": few["bce"], "kto": few["kto"], "una_most": most["bce"], "kto_most": most["kto"]}
    return Evidence(
        numbers,
        {
            "40% positive: UNA has the lower floor": numbers["una"] < 0.5 * numbers["kto"],
            "90% positive: KTO has the lower floor": numbers["una_most"] > 1.05 * numbers["kto_most"],
            "with V(x) UNA has none": max(abs(few["excess"]), abs(most["excess"])) < 1e-12,
        },
    )
