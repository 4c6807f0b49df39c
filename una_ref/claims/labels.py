"""UNA Eq. 9: the loss on labels, its sign and squares, and what MSE, BCE and KTO aim at (notebook 04)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.claims.ledger import FAILS, HOLDS, UNA, Evidence, claim
from una_ref.claims.worlds import SMALL, distance, slope
from una_ref.methods import METHODS
from una_ref.theory.populations import singles, thumbs

F64 = torch.float64
NOTEBOOK = "04_una_losses"

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
            "g is the squared error": distance(g, (LEARNED - LABELS) ** 2) < 1e-15,
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
