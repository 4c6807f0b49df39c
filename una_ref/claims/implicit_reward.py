"""UNA's implicit reward, and the terms f(x), c and λ that UNA adds to it (notebooks 01 and 03)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.claims.example_worlds import F64, GENERIC, TINY, TWO_PROMPTS, largest, random_policies
from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.theory import TableWorld, fixed_point, objective, una_regression


@claim(
    "EU2",
    paper=UNA,
    place="Sec. 1 and 3, Eq. 6, conclusion",
    says="r = β·log(π/π_ref) “will maximize the objective in Equation 3”, proven rigorously",
    verdict=FAILS,
    instead="with this reward J(π) = 0 for every π; for a given r the maximiser has r = β·log(π*/π_ref) + β·log Z(x)",
    shows="r = (1, 0), but β·log(π*/π_ref) = ({first:.3f}, {second:.3f}); the sum of π_ref·exp(r/β) is {mass:.3f}",
    notebook="03_implicit_reward",
)
def _eu2() -> Evidence:
    implicit = TINY.beta * (TINY.optimum - TINY.ref_logps)[0]
    objectives = [
        objective(p, GENERIC.ref_logps, GENERIC.beta * (p - GENERIC.ref_logps), GENERIC.beta)
        for p in random_policies(GENERIC, 50)
    ]
    right = GENERIC.beta * (GENERIC.optimum - GENERIC.ref_logps + GENERIC.log_partition[:, None])
    numbers = {
        "first": float(implicit[0]),
        "second": float(implicit[1]),
        "mass": float((TINY.ref_logps + TINY.rewards / TINY.beta).exp().sum()),
    }
    stands = {
        "the reward is not the implicit reward of its optimum": largest(implicit - TINY.rewards[0]) > 0.1,
        "π_ref·exp(r/β) does not sum to 1": abs(numbers["mass"] - 1) > 0.1,
        "with its own implicit reward every policy has J = 0": max(map(largest, objectives)) < 1e-12,
        "the implicit reward plus β·log Z(x) is the reward": largest(right - GENERIC.rewards) < 1e-12,
    }
    return Evidence(numbers, stands)


@claim(
    "EU3",
    paper=UNA,
    place="Eq. 14, 15, 22, 23, “+ c”",
    says="at the optimum π/(π_ref·exp(r/β)) = 1/λ “where λ is a constant”",
    verdict=FAILS,
    instead="equality in Eq. 11 holds for each prompt: λ(x) = Z(x)·exp(−f(x)/β); one constant λ needs a free f(x)",
    shows="two prompts: λ = {first:.3f} and {second:.3f}; with the first λ for both, the second prompt's "
    "probabilities sum to {row:.3f}",
    notebook="01_log_sum_inequality",
)
def _eu3() -> Evidence:
    weights = TWO_PROMPTS.ref_logps + TWO_PROMPTS.rewards / TWO_PROMPTS.beta
    lam = (weights - TWO_PROMPTS.optimum).exp()  # (X, Y), 1 over the ratio
    sums = (weights.exp() / lam[0, 0]).sum(-1)
    f = TWO_PROMPTS.beta * (TWO_PROMPTS.log_partition - math.log(3.0))
    with_f = (TWO_PROMPTS.ref_logps + (TWO_PROMPTS.rewards - f[:, None]) / TWO_PROMPTS.beta).exp() / 3.0
    stands = {
        "within a prompt λ is one number": largest(lam - lam[:, :1]) < 1e-12,
        "λ is Z(x)": largest(lam[:, 0] - TWO_PROMPTS.log_partition.exp()) < 1e-12,
        "λ differs between prompts": float(lam[1, 0] / lam[0, 0]) > 2,
        "one λ for both prompts gives no distribution": abs(float(sums[1]) - 1) > 1,
        "with f(x) = β·log(Z(x)/λ) one λ gives the optimum": largest(with_f - TWO_PROMPTS.optimum.exp()) < 1e-12,
    }
    return Evidence({"first": float(lam[0, 0]), "second": float(lam[1, 0]), "row": float(sums[1])}, stands)


@claim(
    "EU4",
    paper=UNA,
    place="Eq. 16, 24, summary of Sec. 3",
    says="the upper bound of the objective is β·log λ with one λ, and 0 because λ = 1",
    verdict=FAILS,
    instead="the bound is the mean over prompts of β·log Z(x), not the log of the mean Z, and not 0",
    shows="two prompts: the mean of β·log Z is {mean:.4f}, β·log of the mean Z {outside:.4f}, the best J {best:.4f}",
    notebook="03_implicit_reward",
)
def _eu4() -> Evidence:
    def loss(logps: Tensor) -> Tensor:
        return -objective(logps, TWO_PROMPTS.ref_logps, TWO_PROMPTS.rewards, TWO_PROMPTS.beta).mean()

    best = -float(loss(fixed_point(loss, TWO_PROMPTS.ref_logps)))
    mean = TWO_PROMPTS.beta * float(TWO_PROMPTS.log_partition.mean())
    outside = TWO_PROMPTS.beta * math.log(float(TWO_PROMPTS.log_partition.exp().mean()))
    stands = {
        "the best J, found by optimisation, is the mean of β·log Z": abs(best - mean) < 1e-9,
        "the best J is not β·log of the mean Z": outside - best > 0.05,
        "the best J is not 0": best > 0.5,
    }
    return Evidence({"mean": mean, "outside": outside, "best": best}, stands)


@claim(
    "EU5",
    paper=UNA,
    place="Eq. 23–25, “+ f(x) + c”",
    says="the reward has two more terms, f(x) and c = β·log λ",
    verdict="holds if only the sum of the two is meant",
    instead="the sum f(x) + β·log λ = β·log Z(x) is determined, its terms are not: (f, λ) and (f + a, λ·exp(−a/β)) "
    "give the same policy",
    shows="(f, λ) = (0, {a:.3f}), ({f:.3f}, 1) and (1.5, {b:.3f}) give the same policy, each with the sum {f:.3f}",
    notebook="03_implicit_reward",
)
def _eu5() -> Evidence:
    def policy(f: float, lam: float) -> Tensor:
        return (TINY.ref_logps + (TINY.rewards - f) / TINY.beta).exp() / lam

    log_z = float(TINY.log_partition)
    pairs = [
        (0.0, math.exp(log_z)),
        (TINY.beta * log_z, 1.0),
        (1.5, math.exp(log_z - 1.5 / TINY.beta)),
    ]
    stands = {
        "three choices of (f, λ) give the optimum": max(largest(policy(*pair) - TINY.optimum.exp()) for pair in pairs)
        < 1e-12,
        "the three choices have the same f + β·log λ": all(
            abs(f + TINY.beta * math.log(lam) - TINY.beta * log_z) < 1e-12 for f, lam in pairs
        ),
        "another sum gives no distribution": abs(float(policy(0.0, 1.0).sum()) - 1) > 0.1,
    }
    return Evidence({"a": pairs[0][1], "f": pairs[1][0], "b": pairs[2][1]}, stands)


@claim(
    "EU6",
    paper=UNA,
    place="App. C, “infinite dimension”",
    says="with infinitely many responses Σ π_ref·exp((r − f)/β) is finite only if f(x) > max r(x, y)",
    verdict=FAILS,
    instead="f multiplies the sum by exp(−f/β), so it cannot make it finite. The condition is that E_ref exp(r/β) is "
    "finite, as it is for every r that is bounded above. With λ = 1, f = β·log Z(x) is below max r",
    shows="π_ref = 2^−y, r = y: at β = 1 each term is {grows:.3f} times the last for every f; at β = 2 the sum is "
    "{finite:.3f} with f = 0",
    notebook="03_implicit_reward",
)
def _eu6() -> Evidence:
    def terms(beta: float, f: float) -> Tensor:
        y = torch.arange(1, 400, dtype=F64)
        return (-y * math.log(2) + (y - f) / beta).exp()

    growth = [terms(1.0, f)[1:] / terms(1.0, f)[:-1] for f in (0.0, 5.0, 50.0)]
    finite = float(terms(2.0, 0.0).sum())  # Σ (√e/2)^y
    y = torch.arange(1, 400, dtype=F64)
    bounded = (-y * math.log(2) + y.cos()).exp()  # r = cos y and f = 0, which is below max r
    worlds = [TableWorld.random(0, prompts=50, responses=6, beta=beta) for beta in (0.03, 0.3, 3.0)]
    gaps = [world.rewards.amax(-1) - world.beta * world.log_partition for world in worlds]
    numbers = {"grows": float(growth[0][0]), "finite": finite}
    stands = {
        "r = y, β = 1: the sum diverges for every f": all(bool((g > 1.3).all()) for g in growth),
        "r = y, β = 2: the sum converges with f = 0": abs(finite - (q := math.exp(0.5) / 2) / (1 - q)) < 1e-9,
        "a bounded reward: the sum converges with f = 0 < max r": float(bounded.sum()) < math.e
        and float(bounded[-1]) < 1e-100,
        "with λ = 1, f = β·log Z(x) is below max r": min(float(gap.min()) for gap in gaps) > 0,
    }
    return Evidence(numbers, stands)


def _scored(beta: float) -> TableWorld:
    """200 prompts with eight responses, scores uniform on [0, 1] as in UNA, logits of π_ref from N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    ref = torch.randn(200, 8, generator=generator, dtype=F64).log_softmax(-1)
    return TableWorld(ref, torch.rand(200, 8, generator=generator, dtype=F64), beta)


@claim(
    "CU1",
    paper=UNA,
    place="contribution 1, Eq. 6, Eq. 15 with λ = 1",
    says="the optimal policy is induced by r = β·log(π/π_ref)",
    verdict="holds if Z(x) = 1 for every prompt",
    instead="only a reward with Z(x) = 1 is the implicit reward of its optimum; scores in [0, 1] have Z(x) > 1 unless "
    "all are 0",
    shows="scores in [0, 1], β = 0.03, 0.3, 1: β·log Z(x) has the mean {a:.2f}, {b:.2f}, {c:.2f} and the minimum "
    "{d:.2f}, {e:.2f}, {f:.2f}",
    notebook="03_implicit_reward",
)
def _cu1() -> Evidence:
    numbers: dict[str, float] = {}
    stands: dict[str, bool] = {}
    for name, low, beta in zip("abc", "def", (0.03, 0.3, 1.0), strict=True):
        world = _scored(beta)
        best = beta * world.log_partition
        numbers |= {name: float(best.mean()), low: float(best.min())}
        centred = TableWorld(world.ref_logps, world.rewards - best[:, None], beta)
        implicit = beta * (centred.optimum - centred.ref_logps)
        missed = world.rewards - beta * (world.optimum - world.ref_logps)
        stands[f"β = {beta}: where Z = 1, the implicit reward of the optimum is the reward"] = (
            largest(centred.log_partition) < 1e-9 and largest(implicit - centred.rewards) < 1e-9
        )
        stands[f"β = {beta}: elsewhere the two differ by β·log Z(x) at every response"] = (
            largest(missed - best[:, None]) < 1e-9
        )
        stands[f"β = {beta}: scores in [0, 1] have Z > 1"] = float(best.min()) > 0.1
    return Evidence(numbers, stands)


@claim(
    "CU2",
    paper=UNA,
    place="Eq. 22–25",
    says="r = β·log(π/π_ref) + f(x) + β·log λ, with Z(x) = λ·exp(f(x)/β)",
    verdict="holds if f(x) + β·log λ = β·log Z(x)",
    instead="so f and λ are not both free: an f fixes λ(x) = Z(x)·exp(−f/β), and a constant λ fixes f(x)",
    shows="a random f: probabilities sum to {low:.2f} to {high:.2f} with λ = 1, and to 1 with λ(x)",
    notebook="03_implicit_reward",
)
def _cu2() -> Evidence:
    f = torch.randn(6, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    lam = (GENERIC.log_partition[:, None] - f / GENERIC.beta).exp()
    weights = (GENERIC.ref_logps + (GENERIC.rewards - f) / GENERIC.beta).exp()
    policy = weights / lam
    again = GENERIC.beta * (policy.log() - GENERIC.ref_logps) + f + GENERIC.beta * lam.log()
    sums = weights.sum(-1)
    stands = {
        "with λ(x) the policy is the optimum": largest(policy - GENERIC.optimum.exp()) < 1e-12,
        "Eq. 23 returns the reward": largest(again - GENERIC.rewards) < 1e-12,
        "a constant λ with a free f gives no distribution": float(sums.max() / sums.min()) > 1.5,
    }
    return Evidence({"low": float(sums.min()), "high": float(sums.max())}, stands)


@claim(
    "CU3",
    paper=UNA,
    place="App. C, last paragraphs",
    says="f has to satisfy f(x) > max r(x, y)",
    verdict=FAILS,
    instead="with its λ(x) every f is allowed; with λ = 1, f has to be β·log Z(x), which is never above max r",
    shows="λ = 1, f = max r + 0.1, β = 0.5: probabilities sum to {mass:.3f} at most; regression on r − f ends at "
    "regret {bad:.3f}, on r − β·log Z at 0",
    notebook="03_implicit_reward",
)
def _cu3() -> Evidence:
    world = TableWorld.random(0, prompts=4, responses=6, beta=0.5)
    f = world.rewards.amax(-1, keepdim=True) + 0.1
    mass = (world.ref_logps + (world.rewards - f) / world.beta).exp().sum(-1)

    def ends(baseline: Tensor) -> float:
        loss = una_regression(world.ref_logps, world.rewards, world.beta, baseline=baseline)
        return world.metrics(fixed_point(loss, world.ref_logps))["regret"]

    bad, good = ends(f), ends(world.beta * world.log_partition[:, None])
    below = world.rewards.amin(-1, keepdim=True) - 5.0
    lam = (world.log_partition[:, None] - below / world.beta).exp()
    policy = (world.ref_logps + (world.rewards - below) / world.beta).exp() / lam
    stands = {
        "f > max r and λ = 1: probabilities sum to less than 1 in every prompt": float(mass.max())
        < math.exp(-0.1 / world.beta) + 1e-12,
        "regression with this f does not end at π*": bad > 0.05,
        "regression with f = β·log Z(x) ends at π*": abs(good) < 1e-9,
        "an f far below max r gives π* with its λ(x)": largest(policy - world.optimum.exp()) < 1e-12,
    }
    return Evidence({"mass": float(mass.max()), "bad": bad}, stands)
