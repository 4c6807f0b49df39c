"""UNA Eq. 9: the loss on binary labels, its sign and squares, and the targets of MSE, BCE and KTO (notebook 04)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.claims.example_worlds import SMALL, distance, slope
from una_ref.claims.ledger import FAILS, HOLDS, UNA, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory.populations import binary_labels, singles

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
    says="the loss on labels is −E[g] = −[E_w(g²) + E_l(g²)]",
    verdict=FAILS,
    instead="+E[g]: g is a squared error already; the minus sign maximises it, and g² squares it twice",
    shows="four labels: E g = {right:.4f}, E g² = {squared:.4f}, the printed loss {printed:.4f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _eu9() -> Evidence:
    method = METHODS["una-binary-mse"]
    assert method.printed is not None
    g, printed = _four(method.loss), _four(method.printed)
    positive = LABELS == 1
    numbers = {
        "right": float(g.mean()),
        "squared": float((g**2).mean()),
        "printed": float(printed[positive].mean() + printed[~positive].mean()),
    }
    return Evidence(
        numbers,
        {
            "the two sides are not equal": abs(numbers["printed"] + numbers["right"]) > 1e-3,
            "the printed loss is least where the error is largest": bool((printed.argsort() == (-g).argsort()).all()),
            "g is the squared error": distance(g, (LEARNED - LABELS) ** 2) < 1e-15,
        },
    )


@claim(
    "EU10",
    paper=UNA,
    place="Eq. 9, second line",
    says="E_D[g] = E_{y_w}[g] + E_{y_l}[g]",
    verdict="holds if both terms are sums over all of D",
    instead="with class means it is P(1)·E_{y_w}[g] + P(0)·E_{y_l}[g]; without these weights the rarer label counts "
    "for more",
    shows="four labels: mean {pooled:.4f}, sum of the class means {by_class:.4f}",
    notebook=NOTEBOOK,
)
def _eu10() -> Evidence:
    g, positive = _four(METHODS["una-binary-mse"].loss), LABELS == 1
    ones, zeros, share = g[positive].mean(), g[~positive].mean(), positive.double().mean()
    pooled, by_class = float(g.mean()), float(ones + zeros)
    weighted = float(share * ones + (1 - share) * zeros)
    return Evidence(
        {"pooled": pooled, "by_class": by_class},
        {
            "without the weights they differ": abs(pooled - by_class) > 0.1,
            "with the weights they agree": abs(pooled - weighted) < 1e-15,
        },
    )


@claim(
    "EU17",
    paper=UNA,
    place="Sec. 2.3.1, on scores",
    says="for scores that are not binary, MSE can be used “excluding BCE”",
    verdict=FAILS,
    instead="BCE is proper for any score in [0, 1]: at its minimiser σ(r_θ) = s",
    shows="s = 0.7: BCE is least at r_θ = {best:.4f}; logit 0.7 = {logit:.4f}",
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
            "the least value is the entropy of s": abs(float(losses.min() - least)) < 1e-9,
        },
    )


@claim(
    "CU11",
    paper=UNA,
    place="Eq. 9 and 10",
    says="UNA minimises −E[g], the negative of the error",
    verdict=FAILS,
    instead="UNA minimises +E[g]; descent on the printed sign maximises the error, and the authors' code has the plus",
    shows="error of Eq. 10: {start:.2f} at π_ref, {printed:.2f} after 20 steps of descent on the printed loss, "
    "{corrected:.2f} on the corrected one",
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
    products = []
    for name in ("una-binary-mse", "una-binary-bce"):
        losses = (METHODS[name].loss, METHODS[name].printed)
        assert losses[1] is not None
        correct, printed = (
            slope(binary_labels(f, SMALL, mu, SMALL.rewards.sigmoid()), SMALL.ref_logps) for f in losses if f
        )
        products.append(float((correct * printed).sum()))
    return Evidence(
        {"start": start, "printed": after[0], "corrected": after[1]},
        {
            "descent on the printed loss increases the error": after[0] > start > after[1],
            "the gradient of Eq. 9 as printed has the opposite direction too": max(products) < 0,
        },
    )


@claim(
    "CU12",
    paper=UNA,
    place="Sec. 2.3.1 and 4.1, Eq. 9",
    says="on labels the difference of implicit and explicit reward can be measured by MSE or BCE",
    verdict=HOLDS,
    instead="the target of both is logit P(1); KTO's target is +∞ for P(1) > ½ and −∞ for P(1) < ½",
    shows="P(1) = 0.3: MSE is least at {mse:.3f}, BCE at {bce:.3f}; logit 0.3 = {logit:.3f}. KTO's slope has one sign "
    "on [−20, 20]",
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
            "MSE and BCE are least at logit P(1)": max(abs(mse - math.log(3 / 7)), abs(bce - math.log(3 / 7))) < 1e-3,
            "KTO: for P(1) < ½ lower r_θ is always better": bool((kto[0.3] > 0).all() and (kto[0.49] > 0).all()),
            "KTO: for P(1) > ½ higher r_θ is always better": bool((kto[0.51] < 0).all()),
        },
    )
