"""The survey on games: Nash-MD and SPPO (Eq. 55 to 61)."""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.claims.baselines import tuples
from una_ref.claims.example_preferences import PREFERENCES, REF
from una_ref.claims.example_survey import F64, TOKENS_NOTEBOOK, numbers, total_variation
from una_ref.claims.ledger import FAILS, SURVEY, Evidence, claim
from una_ref.theory import nash_logps

NOTEBOOK = TOKENS_NOTEBOOK

CYCLE = torch.tensor([[[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]]], dtype=F64)
"""P(y ≻ y'): the first beats the second, the second the third, the third the first."""


def win_rates(preferences: Tensor, opponent: Tensor) -> Tensor:
    """P(y ≻ π') for each y, (X, Y)."""
    return (preferences @ opponent.exp()[..., None]).squeeze(-1)


def nash_md(preferences: Tensor, ref: Tensor, beta: float, *, step: float, regularised_twice: bool) -> Tensor:
    """The last iterate of Nash-MD (Eq. 58, 59): exact steps from π_ref until nothing moves."""
    logps = ref
    for _ in range(int(60 / step)):
        mixture = ((1 - step * beta) * logps + step * beta * ref).log_softmax(-1)
        rates = win_rates(preferences, mixture)
        if regularised_twice:  # arg max of α·(P − β·KL(π ‖ π_ref)) − KL(π ‖ mixture)
            logps = ((mixture + step * beta * ref + step * rates) / (1 + step * beta)).log_softmax(-1)
        else:
            logps = (mixture + step * rates).log_softmax(-1)
    return logps


@claim(
    "ES32",
    paper=SURVEY,
    place="Eq. 59",
    says="Nash-MD maximises α·P_β(π ≻ mixture) − KL(π ‖ mixture)",
    verdict=FAILS,
    instead="the preference is without β: the mixture of Eq. 58 regularises already; printed, the fixed point is the "
    "Nash policy of 2β",
    shows="β = 0.2: Nash policy ({a:.4f}, {b:.4f}, {c:.4f}), that of 2β ({d:.4f}, {e:.4f}, {f:.4f}); the printed rule "
    "ends {far:.4f} from the first and {near:.4f} from the second in TV",
    notebook=NOTEBOOK,
)
def _es32() -> Evidence:
    nash, twice = (nash_logps(CYCLE, REF, beta) for beta in (0.2, 0.4))
    right = nash_md(CYCLE, REF, 0.2, step=0.01, regularised_twice=False)
    printed = nash_md(CYCLE, REF, 0.2, step=0.01, regularised_twice=True)
    values = (*nash.exp()[0].tolist(), *twice.exp()[0].tolist())
    return Evidence(
        dict(zip("abcdef", values, strict=True))
        | {"far": total_variation(printed, nash), "near": total_variation(printed, twice)},
        {
            "without β it ends at the Nash policy": total_variation(right, nash) < 2e-3,
            "with β at that of 2β": total_variation(printed, twice) < 2e-3 < 0.02 < total_variation(printed, nash),
        },
    )


@claim(
    "ES33",
    paper=SURVEY,
    place="below Eq. 61",
    says="P(y ≻ π̂) = Σ_k P(y ≻ y_k), and log Z is replaced by Ẑ = E e^(ηP)",
    verdict=FAILS,
    instead="the mean over k, and the logarithm of Ẑ, with η = 1/β; the original then takes η/2 for log Z",
    shows="four samples with mean win rates 0.65, 0.45, 0.55, 0.35: sums up to {sums:.1f}; β = 0.5: log Ẑ = {log:.4f}, "
    "Ẑ = {plain:.4f}",
    notebook=NOTEBOOK,
)
def _es33() -> Evidence:
    rates = numbers(0.65, 0.45, 0.55, 0.35)
    plain = (rates / 0.5).exp().mean()
    return Evidence(
        {"sums": float(4 * rates.max()), "log": float(plain.log()), "plain": float(plain)},
        {
            "a sum is no probability": float(4 * rates.max()) > 1,
            "η/2 is near log Ẑ": abs(float(plain.log()) - 1.0) < 0.05,
        },
    )


def exploitability(preferences: Tensor, logps: Tensor) -> float:
    """How much the best response wins over π, beyond ½."""
    return float(win_rates(preferences, logps).max()) - 0.5


def sppo(eta: float, steps: int) -> tuple[Tensor, Tensor]:
    """The last and the average policy of exact SPPO steps π ← π·e^(η·P(y ≻ π))/Z (Eq. 60)."""
    logps = numbers(0.6, 0.3, 0.1).log()[None]
    total = torch.zeros_like(logps)
    for _ in range(steps):
        total = total + logps.exp()
        logps = (logps + eta * win_rates(CYCLE, logps)).log_softmax(-1)
    return logps, (total / steps).log()


@claim(
    "CS10",
    paper=SURVEY,
    place="Sec. 3.11.2",
    says="SPPO's updates lead to the Nash equilibrium",
    verdict="holds if policies are averaged over iterations",
    instead="the last policy moves away from it in circles",
    shows="intransitive preferences, η = 0.5, after 2,000 steps: exploitability of the average {average:.3f}, of the "
    "last policy {last:.2f}; at the start {start:.2f}",
    notebook=NOTEBOOK,
)
def _cs10() -> Evidence:
    last, average = sppo(0.5, 2000)
    start = numbers(0.6, 0.3, 0.1).log()[None]
    values = {
        "average": exploitability(CYCLE, average),
        "last": exploitability(CYCLE, last),
        "start": exploitability(CYCLE, start),
    }
    return Evidence(
        values,
        {"the average is near it": values["average"] < 0.02, "the last one is not": values["last"] > values["start"]},
    )


@claim(
    "CS11",
    paper=SURVEY,
    place="Eq. 61",
    says="P(y ≻ π) and log Z can be estimated from K samples of π",
    verdict="holds if P is a mean and K is large",
    instead="the mean is unbiased; log Ẑ is too small by about 1/K; with the same samples as opponents it is too large",
    shows="η = 5, bias of log Ẑ in nats: K = 2 {two:.3f}, K = 8 {eight:.3f}; with the same samples as opponents "
    "{same2:.3f}, {same8:.3f}; bias of the mean {mean:.0f}",
    notebook=NOTEBOOK,
)
def _cs11() -> Evidence:
    policy, eta = numbers(0.5, 0.3, 0.2), 5.0
    rates = win_rates(CYCLE, policy.log()[None])[0]
    exact = float((policy * (eta * rates).exp()).sum().log())

    def bias(k: int, same: bool) -> float:
        drawn = tuples(3, k)
        chances = policy[drawn].prod(1)
        wins = CYCLE[0][drawn[:, :, None], drawn[:, None, :]].mean(-1) if same else rates[drawn]
        return float((chances * (eta * wins).exp().mean(1).log()).sum()) - exact

    drawn = tuples(3, 2)
    mean = (policy[drawn].prod(1)[:, None] * CYCLE[0][:, drawn].mean(-1).T).sum(0)
    off = float((mean - rates).abs().max())
    values = {"two": bias(2, False), "eight": bias(8, False), "same2": bias(2, True), "same8": bias(8, True)}
    return Evidence(
        values | {"mean": off},
        {
            "the mean is unbiased": off < 1e-14,
            "log Ẑ is too small, by about 1/K": 0.2 < values["eight"] / values["two"] < 0.3 and values["two"] < 0,
            "too large with the same samples as opponents": values["same2"] > values["same8"] > 0,
        },
    )


@claim(
    "CS12",
    paper=SURVEY,
    place="Sec. 3.11.1",
    says="the last policy of Nash-MD converges to the Nash equilibrium",
    verdict="holds if the preference in Eq. 59 has no β and steps are small",
    instead="a constant step α leaves a distance of order α, since the mixture is not π there",
    shows="β = 0.2, TV to the Nash policy: step 0.01 {small:.4f}, step 0.1 {medium:.4f}, step 1 {large:.3f}",
    notebook=NOTEBOOK,
)
def _cs12() -> Evidence:
    nash = nash_logps(CYCLE, REF, 0.2)
    values = {
        name: total_variation(nash_md(CYCLE, REF, 0.2, step=step, regularised_twice=False), nash)
        for name, step in (("small", 0.01), ("medium", 0.1), ("large", 1.0))
    }
    other = nash_md(PREFERENCES, REF, 0.2, step=0.01, regularised_twice=False)
    return Evidence(
        values,
        {
            "the distance falls with the step": values["small"] < 0.2 * values["medium"] < 0.2 * values["large"],
            "it also converges on other preferences": total_variation(other, nash_logps(PREFERENCES, REF, 0.2)) < 2e-3,
        },
    )
