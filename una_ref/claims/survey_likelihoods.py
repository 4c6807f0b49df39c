"""The survey on losses without a reference: ORPO, PAFT, SimPO, CPO (Eq. 40 to 43, 47, 54)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.claims.example_survey import (
    PAIRS_NOTEBOOK,
    TOKENS_NOTEBOOK,
    minus_log_sigmoid,
    numbers,
    slope_at,
)
from una_ref.claims.example_worlds import SMALL, distance
from una_ref.claims.ledger import FAILS, HOLDS, SURVEY, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory import TableWorld, bradley_terry, fixed_point

NOTEBOOK = PAIRS_NOTEBOOK


def log_odds_ratio(chosen: float, rejected: float) -> float:
    """log OR of two likelihoods (Eq. 40, 41)."""
    p, q = numbers(chosen), numbers(rejected)
    return float((p / (1 - p)).log() - (q / (1 - q)).log())


@claim(
    "ES20",
    paper=SURVEY,
    place="Eq. 42",
    says="ORPO's loss is −log σ(OR)",
    verdict=FAILS,
    instead="−log σ(log OR); P is the likelihood per token, e^(log π/|y|)",
    shows="P = 0.3 and 0.2: OR = {ratio:.3f}, right {right:.5f}, printed {printed:.5f}; P = 0.001 and 0.999: right "
    "{bad:.2f}, printed {flat:.5f}",
    notebook=NOTEBOOK,
)
def _es20() -> Evidence:
    near, far = log_odds_ratio(0.3, 0.2), log_odds_ratio(0.001, 0.999)
    ratios = numbers(near, far).exp()
    return Evidence(
        {
            "ratio": float(ratios[0]),
            "right": minus_log_sigmoid(near),
            "printed": minus_log_sigmoid(ratios[0]),
            "bad": minus_log_sigmoid(far),
            "flat": minus_log_sigmoid(ratios[1]),
        },
        {
            "printed, no pair costs more than log 2": minus_log_sigmoid(ratios[1]) < float(numbers(2).log()),
            "−log σ(log OR) is log(1 + 1/OR)": abs(minus_log_sigmoid(near) - float((1 + 1 / ratios[0]).log())) < 1e-12,
        },
    )


@claim(
    "ES21",
    paper=SURVEY,
    place="Sec. 3.7.2, Eq. 43",
    says="π_δ(y|x) = π_θ(y|x) − π_pre(y|x), and f merges them",
    verdict=FAILS,
    instead="differences of weights (adapters); f is a rule of merging: linear, TIES, DARE",
    shows="π_pre = (0.5, 0.5), π_DPO = (0.95, 0.05), π_SFT = (0.9, 0.1): probabilities add up to ({first:.2f}, "
    "{second:.2f}), logits give ({a:.3f}, {b:.3f})",
    notebook=TOKENS_NOTEBOOK,
)
def _es21() -> Evidence:
    before, dpo, sft = numbers(0.5, 0.5), numbers(0.95, 0.05), numbers(0.9, 0.1)
    added = before + (dpo - before) + (sft - before)
    merged = (before.log() + (dpo.log() - before.log()) + (sft.log() - before.log())).softmax(0)
    return Evidence(
        {"first": float(added[0]), "second": float(added[1]), "a": float(merged[0]), "b": float(merged[1])},
        {
            "a difference of probabilities adds up to 0": abs(float((dpo - before).sum())) < 1e-15,
            "their sum is no distribution": float(added.min()) < 0,
            "a sum of logits gives one": abs(float(merged.sum()) - 1) < 1e-15,
        },
    )


@claim(
    "ES31",
    paper=SURVEY,
    place="Eq. 54",
    says="CPO's loss is −{log σ(·) − log π(y_w)}",
    verdict=FAILS,
    instead="−log σ(·) − log π(y_w): printed, the second term punishes likely chosen responses",
    shows="log π = (−1, −9), β = 0.1: right {right:.4f}, printed {printed:.4f}; with log π(y_w) = −30 {far:.1f} and "
    "{far_printed:.1f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _es31() -> Evidence:
    def both(chosen: float) -> tuple[float, float]:
        preference = minus_log_sigmoid(0.1 * (chosen - -9.0))
        return preference - chosen, preference + chosen

    (right, printed), (far, far_printed) = both(-1.0), both(-30.0)
    return Evidence(
        {"right": right, "printed": printed, "far": far, "far_printed": far_printed},
        {"printed, a chosen response that is destroyed costs less": far_printed < printed and far > right},
    )


def lengths_and_rewards() -> tuple[TableWorld, Tensor]:
    """A world of 4 prompts with 5 responses of 1 to 5 tokens."""
    return SMALL, numbers(1, 2, 3, 4, 5)


@claim(
    "CS15",
    paper=SURVEY,
    place="Sec. 3.8.2",
    says="SimPO states no objective of reinforcement learning",
    verdict=HOLDS,
    instead="its loss implies one all the same: at γ = 0 the minimiser has β·log π/|y| = r − c(x), without π_ref; with "
    "a margin γ no reward fits",
    shows="largest deviation of β·log π/|y| − r from one c(x): {zero:.0f} at γ = 0, {margin:.2f} at γ = 1",
    notebook=NOTEBOOK,
)
def _cs15() -> Evidence:
    world, lengths = lengths_and_rewards()
    beta, preferences = 2.0, bradley_terry(world.rewards)
    w, lost = (~torch.eye(5, dtype=torch.bool)).nonzero(as_tuple=True)
    loss = METHODS["simpo"].loss

    def residual(gamma: float) -> float:
        def population(logps: Tensor) -> Tensor:
            losses = loss(
                chosen_logps=logps[:, w].flatten(),
                rejected_logps=logps[:, lost].flatten(),
                chosen_lengths=lengths[w].repeat(len(logps)),
                rejected_lengths=lengths[lost].repeat(len(logps)),
                beta=beta,
                gamma=gamma,
            )
            return (preferences[:, w, lost].flatten() * losses).sum()

        end = fixed_point(population, world.ref_logps, tolerance=1e-10)
        gap = beta * end / lengths - world.rewards
        return float((gap - gap.mean(-1, keepdim=True)).abs().max())

    zero, margin = residual(0.0), residual(1.0)
    return Evidence(
        {"zero": round(zero, 9), "margin": margin},
        {"at γ = 0 it is one number for each prompt": zero < 1e-7, "with a margin it is not": margin > 0.05},
    )


@claim(
    "CS18",
    paper=SURVEY,
    place="Sec. 3.7.1, Eq. 42",
    says="the odds-ratio term teaches the difference between chosen and rejected responses",
    verdict="holds if σ is taken of log OR",
    instead="as printed a pair in the wrong order gets almost no gradient",
    shows="OR = 0.01: slope in log OR {right:.3f} with log OR, {printed:.4f} as printed",
    notebook=NOTEBOOK,
)
def _cs18() -> Evidence:
    start = float(numbers(0.01).log())
    right = slope_at(lambda z: -logsigmoid(z), start)
    printed = slope_at(lambda z: -logsigmoid(z.exp()), start)
    return Evidence(
        {"right": right, "printed": printed},
        {"the wrong order is pushed hardest with log OR": right < -0.9 < -0.01 < printed < 0},
    )


@claim(
    "CS19",
    paper=SURVEY,
    place="Eq. 54",
    says="a uniform prior cancels π_ref",
    verdict="holds if π_ref is uniform",
    instead="elsewhere the preference term has another optimum, without the pull to π_ref",
    shows="mean regret at the minimiser of the preference term: {other:.3f}; with a uniform π_ref {uniform:.0f}",
    notebook=NOTEBOOK,
)
def _cs19() -> Evidence:
    def regret_of(world: TableWorld) -> float:
        end = (world.rewards / world.beta).log_softmax(-1)  # β·log π = r − c(x)
        return float(world.regret(end).mean())

    flat = TableWorld(torch.full_like(SMALL.ref_logps, 0.2).log(), SMALL.rewards, SMALL.beta)
    w, lost = (~torch.eye(5, dtype=torch.bool)).nonzero(as_tuple=True)
    preferences = bradley_terry(SMALL.rewards)[:, w, lost]

    def population(logps: Tensor) -> Tensor:
        return -(preferences * logsigmoid(SMALL.beta * (logps[:, w] - logps[:, lost]))).sum()

    end = fixed_point(population, SMALL.ref_logps)
    other, uniform = regret_of(SMALL), regret_of(flat)
    return Evidence(
        {"other": other, "uniform": round(abs(uniform), 12)},
        {
            "its minimiser is softmax(r/β)": distance(end.exp(), (SMALL.rewards / SMALL.beta).softmax(-1)) < 1e-8,
            "that is π* for a uniform π_ref only": abs(uniform) < 1e-12 < 0.01 < other,
        },
    )
