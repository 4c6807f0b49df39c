"""UNA on the optimum, Z(x) and the implicit reward (notebooks 01–03), and its own tables counted again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.claims.ledger import FAILS, HOLDS, UNA, Evidence, claim
from una_ref.theory import (
    TableWorld,
    expected_reward,
    fixed_point,
    kl,
    log_partition,
    objective,
    sampled_log_partition,
    una_regression,
)

F64 = torch.float64

E2 = TableWorld(torch.tensor([[0.5, 0.5]], dtype=F64).log(), torch.tensor([[1.0, 0.0]], dtype=F64), 1.0)
"""The smallest example: two responses, π_ref = (½, ½), r = (1, 0), β = 1."""


@claim(
    "EU1",
    paper=UNA,
    place="Eq. 3, 12, 17, 20",
    says="π* = max_π J(π)",
    verdict=FAILS,
    instead="π* = arg max_π J(π); as printed a policy is set equal to a number",
    shows="max J = {best:.4f}, arg max J = ({first:.4f}, {second:.4f})",
    notebook="02_partition_function",
)
def _eu1() -> Evidence:
    best, optimum = float(E2.log_partition), E2.optimum.exp()[0]
    numbers = {"best": best, "first": float(optimum[0]), "second": float(optimum[1])}
    return Evidence(numbers, {"the maximum is not the maximiser": abs(best - numbers["first"]) > 0.1})


TWO = TableWorld(torch.full((2, 2), 0.5, dtype=F64).log(), torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64), 1.0)
"""Two prompts, π_ref = (½, ½) for both, r = (1, 0) and (2, 0), β = 1: Z = 1.859 and 4.195."""

WORLD = TableWorld.random(0, prompts=6, responses=5, beta=0.4, offset=0.7)
"""A world with nothing special about it."""


def _policies(world: TableWorld, count: int) -> list[Tensor]:
    """Random policies (X, Y), from nearly uniform to nearly one response."""
    generator = torch.Generator().manual_seed(0)
    return [
        (width * torch.randn(world.rewards.shape, generator=generator, dtype=F64)).log_softmax(-1)
        for width in torch.linspace(0.1, 6.0, count, dtype=F64)
    ]


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


@claim(
    "EU2",
    paper=UNA,
    place="Sec. 1 and 3, Eq. 6, conclusion",
    says="r = β·log(π/π_ref) “will maximize the objective in Equation 3”, proven rigorously",
    verdict=FAILS,
    instead="defined so, J(π) = 0 for every π; for a given r the maximiser has r = β·log(π*/π_ref) + β·log Z(x)",
    shows="r = (1, 0), but β·log(π*/π_ref) = ({first:.3f}, {second:.3f}); sum of π_ref·exp(r/β) = {mass:.3f}",
    notebook="03_implicit_reward",
)
def _eu2() -> Evidence:
    implicit = E2.beta * (E2.optimum - E2.ref_logps)[0]
    own = [objective(p, WORLD.ref_logps, WORLD.beta * (p - WORLD.ref_logps), WORLD.beta) for p in _policies(WORLD, 50)]
    right = WORLD.beta * (WORLD.optimum - WORLD.ref_logps + WORLD.log_partition[:, None])
    numbers = {
        "first": float(implicit[0]),
        "second": float(implicit[1]),
        "mass": float((E2.ref_logps + E2.rewards / E2.beta).exp().sum()),
    }
    stands = {
        "the reward is not the implicit reward of its optimum": _largest(implicit - E2.rewards[0]) > 0.1,
        "π_ref·exp(r/β) is no distribution": abs(numbers["mass"] - 1) > 0.1,
        "with its own implicit reward every policy has J = 0": max(map(_largest, own)) < 1e-12,
        "with β·log Z(x) added it is the reward": _largest(right - WORLD.rewards) < 1e-12,
    }
    return Evidence(numbers, stands)


@claim(
    "EU3",
    paper=UNA,
    place="Eq. 14, 15, 22, 23, “+ c”",
    says="at the optimum π/(π_ref·exp(r/β)) = 1/λ “where λ is a constant”",
    verdict=FAILS,
    instead="equality in Eq. 11 holds for each prompt: λ = λ(x) = Z(x)·exp(−f(x)/β); one constant needs a free f(x)",
    shows="two prompts: λ = {first:.3f} and {second:.3f}; with the first for both, the second row sums to {row:.3f}",
    notebook="01_log_sum_inequality",
)
def _eu3() -> Evidence:
    weights = TWO.ref_logps + TWO.rewards / TWO.beta
    lam = (weights - TWO.optimum).exp()  # (X, Y), 1 over the ratio
    sums = (weights.exp() / lam[0, 0]).sum(-1)
    f = TWO.beta * (TWO.log_partition - math.log(3.0))
    harmless = (TWO.ref_logps + (TWO.rewards - f[:, None]) / TWO.beta).exp() / 3.0
    stands = {
        "within a prompt the ratio is one number": _largest(lam - lam[:, :1]) < 1e-12,
        "which is Z(x)": _largest(lam[:, 0] - TWO.log_partition.exp()) < 1e-12,
        "it differs between prompts": float(lam[1, 0] / lam[0, 0]) > 2,
        "one λ for both makes no policy": abs(float(sums[1]) - 1) > 1,
        "with f(x) = β·log(Z(x)/λ) any one λ does": _largest(harmless - TWO.optimum.exp()) < 1e-12,
    }
    return Evidence({"first": float(lam[0, 0]), "second": float(lam[1, 0]), "row": float(sums[1])}, stands)


@claim(
    "EU4",
    paper=UNA,
    place="Eq. 16, 24, summary of Sec. 3",
    says="the upper bound of the objective is β·log λ with one λ, and 0 as λ = 1",
    verdict=FAILS,
    instead="it is the mean over prompts of β·log Z(x); not the log of the mean, and not 0",
    shows="two prompts: mean of β·log Z = {mean:.4f}, β·log of mean Z = {outside:.4f}, best J = {best:.4f}",
    notebook="03_implicit_reward",
)
def _eu4() -> Evidence:
    def loss(logps: Tensor) -> Tensor:
        return -objective(logps, TWO.ref_logps, TWO.rewards, TWO.beta).mean()

    best = -float(loss(fixed_point(loss, TWO.ref_logps)))
    mean = TWO.beta * float(TWO.log_partition.mean())
    outside = TWO.beta * math.log(float(TWO.log_partition.exp().mean()))
    stands = {
        "the best J, found by ascent, is the mean of β·log Z": abs(best - mean) < 1e-9,
        "it is not β·log of the mean Z": outside - best > 0.05,
        "it is not 0": best > 0.5,
    }
    return Evidence({"mean": mean, "outside": outside, "best": best}, stands)


@claim(
    "EU5",
    paper=UNA,
    place="Eq. 23–25, “+ f(x) + c”",
    says="the reward has two further parts, f(x) and c = β·log λ",
    verdict="holds if only their sum is meant",
    instead="f(x) + β·log λ = β·log Z(x) is determined, the parts are not: (f + a, λ·exp(−a/β)) is the same policy",
    shows="(f, λ) = (0, {a:.3f}), ({f:.3f}, 1) and (1.5, {b:.3f}) are one policy, all with sum {f:.3f}",
    notebook="03_implicit_reward",
)
def _eu5() -> Evidence:
    def policy(f: float, lam: float) -> Tensor:
        return (E2.ref_logps + (E2.rewards - f) / E2.beta).exp() / lam

    log_z = float(E2.log_partition)
    pairs = [(0.0, math.exp(log_z)), (E2.beta * log_z, 1.0), (1.5, math.exp(log_z - 1.5 / E2.beta))]
    stands = {
        "three choices of (f, λ) are one policy, the optimum": max(
            _largest(policy(*pair) - E2.optimum.exp()) for pair in pairs
        )
        < 1e-12,
        "f + β·log λ is the same for all": all(
            abs(f + E2.beta * math.log(lam) - E2.beta * log_z) < 1e-12 for f, lam in pairs
        ),
        "another sum makes no policy": abs(float(policy(0.0, 1.0).sum()) - 1) > 0.1,
    }
    return Evidence({"a": pairs[0][1], "f": pairs[1][0], "b": pairs[2][1]}, stands)


@claim(
    "EU6",
    paper=UNA,
    place="App. C, “infinite dimension”",
    says="with infinitely many responses f(x) > max r(x, y) is needed for a finite Σ π_ref·exp((r − f)/β)",
    verdict=FAILS,
    instead="f multiplies the sum by exp(−f/β) and changes no finiteness: E_ref exp(r/β) has to be finite, as it is "
    "for every r that is bounded above; and with λ = 1, f = β·log Z(x) lies below max r",
    shows="π_ref = 2^−y, r = y: the sum grows {grows:.3f}-fold a term at β = 1 for every f, is {finite:.3f} at β = 2",
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
        "a reward without bound: the sum diverges whatever f is": all(bool((g > 1.3).all()) for g in growth),
        "or converges without any f": abs(finite - (q := math.exp(0.5) / 2) / (1 - q)) < 1e-9,
        "with a bounded one it converges at f = 0 < max r too": float(bounded.sum()) < math.e
        and float(bounded[-1]) < 1e-100,
        "with λ = 1, f = β·log Z(x) is below max r": min(float(gap.min()) for gap in gaps) > 0,
    }
    return Evidence(numbers, stands)


@claim(
    "EU15",
    paper=UNA,
    place="App. A",
    says="“KTO estimates Z(x) by averaging over multiple samples”",
    verdict=FAILS,
    instead="KTO's reference point is β·KL(π ‖ π_ref) of the present policy; Z(x) depends on π_ref and r only",
    shows="at π*: KL = {kl:.4f}, log Z = {log_z:.4f}; at π_ref: KL = {at_ref:.4f}, log Z the same",
    notebook="02_partition_function",
)
def _eu15() -> Evidence:
    at_optimum, at_ref = float(kl(E2.optimum, E2.ref_logps)), float(kl(E2.ref_logps, E2.ref_logps))
    log_z = float(E2.log_partition)
    shifted = TableWorld(E2.ref_logps, E2.rewards + 10.0, E2.beta)
    again = float(kl(shifted.optimum, shifted.ref_logps))
    stands = {
        "at π* the KL is not log Z": log_z - at_optimum > 0.1,
        "at π_ref the KL is 0 and log Z is not": at_ref == 0 and log_z > 0.1,
        "rewards + 10: the KL stays, log Z moves by 10/β": abs(again - at_optimum) < 1e-12
        and abs(float(shifted.log_partition) - log_z - 10 / E2.beta) < 1e-12,
        "they are tied by KL(π* ‖ π_ref) = E_π* r/β − log Z": abs(
            at_optimum - float(expected_reward(E2.optimum, E2.rewards)) / E2.beta + log_z
        )
        < 1e-12,
    }
    return Evidence({"kl": at_optimum, "log_z": log_z, "at_ref": at_ref}, stands)


@claim(
    "EU18",
    paper=UNA,
    place="Eq. 2, 5, 11, 12, 17; references in Sec. 3 and 4.1",
    says="L_RM(π_θ); r_φ in the first line of Eq. 5; r_θ in Eq. 12 and 17; Eq. 11 for all non-negative numbers; "
    "Sec. 3 cites Eq. 20–24, Sec. 4.1 Eq. 7",
    verdict=FAILS,
    instead="L_RM(r_φ); r_θ in Eq. 5; r_φ in Eq. 12 and 17; a_i = 0 where b_i = 0; Sec. 3 means Eq. 12–16, which are "
    "Eq. 20–24 with f = 0; Sec. 4.1 means Eq. 6",
    shows="Eq. 5 at π_ref: first line as printed {printed:.4f} for any policy, second line {right:.4f}",
    notebook="02_partition_function",
)
def _eu18() -> Evidence:
    def line(margin: Tensor) -> float:
        return -float(torch.nn.functional.logsigmoid(margin))

    def implicit(logps: Tensor, with_z: bool) -> Tensor:
        return E2.beta * (logps - E2.ref_logps)[0] + (E2.beta * float(E2.log_partition) if with_z else 0.0)

    explicit, moved = E2.rewards[0], torch.tensor([[0.9, 0.1]], dtype=F64).log()
    printed = line(explicit[0] - explicit[1])  # no policy in it
    right = {name: implicit(p, False) for name, p in (("ref", E2.ref_logps), ("moved", moved))}
    second = {name: line(r[0] - r[1]) for name, r in right.items()}
    first = {name: implicit(p, True) for name, p in (("ref", E2.ref_logps), ("moved", moved))}

    # Eq. 21 at f: β·(log E_ref exp((r − f)/β) + f/β); Eq. 13 is without f.
    def eq21(f: float) -> Tensor:
        return WORLD.beta * log_partition(WORLD.ref_logps, WORLD.rewards - f, WORLD.beta) + f

    own = [objective(p, WORLD.ref_logps, WORLD.beta * (p - WORLD.ref_logps), WORLD.beta) for p in _policies(WORLD, 10)]
    stands = {
        "Eq. 5: its two lines differ with r_φ": abs(printed - second["ref"]) > 0.1,
        "Eq. 5: they agree with r_θ of Eq. 4": all(
            abs(line(first[name][0] - first[name][1]) - second[name]) < 1e-12 for name in second
        ),
        "Eq. 5: the second line depends on the policy": abs(second["ref"] - second["moved"]) > 0.1,
        "Eq. 21 with f = 0 is Eq. 13, with any f equal to it": _largest(eq21(0.0) - eq21(2.0)) < 1e-12,
        "Eq. 12 with r_θ: nothing is maximised, J = 0 for all": max(map(_largest, own)) < 1e-12,
        "Eq. 11 with b_i = 0 < a_i: the sum is infinite": float(
            kl(torch.tensor([[0.5, 0.5]], dtype=F64).log(), torch.tensor([[1.0, 0.0]], dtype=F64).log())
        )
        == math.inf,
    }
    return Evidence({"printed": printed, "right": second["ref"]}, stands)


def _scored(beta: float) -> TableWorld:
    """200 prompts of eight responses, scores uniform on [0, 1] as UNA uses them, log π_ref from N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    ref = torch.randn(200, 8, generator=generator, dtype=F64).log_softmax(-1)
    return TableWorld(ref, torch.rand(200, 8, generator=generator, dtype=F64), beta)


@claim(
    "CU1",
    paper=UNA,
    place="contribution 1, Eq. 6, Eq. 15 with λ = 1",
    says="the optimal policy is induced by r = β·log(π/π_ref)",
    verdict="holds if Z(x) = 1 for every prompt",
    instead="a reward that has Z(x) = 1 is the implicit reward of its optimum; scores in [0, 1] have Z(x) > 1 unless "
    "all are 0",
    shows="β·log Z(x) of scores in [0, 1], mean at β .03/.3/1: {a:.2f}/{b:.2f}/{c:.2f}, least {d:.2f}/{e:.2f}/{f:.2f}",
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
        stands[f"β {beta}: with Z = 1 the implicit reward of the optimum is the reward"] = (
            _largest(centred.log_partition) < 1e-9 and _largest(implicit - centred.rewards) < 1e-9
        )
        stands[f"β {beta}: else it misses it by β·log Z(x), everywhere"] = _largest(missed - best[:, None]) < 1e-9
        stands[f"β {beta}: and scores in [0, 1] have Z > 1"] = float(best.min()) > 0.1
    return Evidence(numbers, stands)


@claim(
    "CU2",
    paper=UNA,
    place="Eq. 22–25",
    says="r = β·log(π/π_ref) + f(x) + β·log λ, with Z(x) = λ·exp(f(x)/β)",
    verdict="holds if f(x) + β·log λ = β·log Z(x)",
    instead="so neither is free: any f goes with λ(x) = Z(x)·exp(−f/β), a constant λ with one f(x) only",
    shows="f drawn at random: with λ = 1 rows sum to {low:.2f} … {high:.2f}, with λ(x) to 1",
    notebook="03_implicit_reward",
)
def _cu2() -> Evidence:
    f = torch.randn(6, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    lam = (WORLD.log_partition[:, None] - f / WORLD.beta).exp()
    weights = (WORLD.ref_logps + (WORLD.rewards - f) / WORLD.beta).exp()
    policy = weights / lam
    again = WORLD.beta * (policy.log() - WORLD.ref_logps) + f + WORLD.beta * lam.log()
    sums = weights.sum(-1)
    stands = {
        "with λ(x) it is the optimum": _largest(policy - WORLD.optimum.exp()) < 1e-12,
        "and Eq. 23 gives the reward back": _largest(again - WORLD.rewards) < 1e-12,
        "a constant λ and a free f make no policy": float(sums.max() / sums.min()) > 1.5,
    }
    return Evidence({"low": float(sums.min()), "high": float(sums.max())}, stands)


@claim(
    "CU3",
    paper=UNA,
    place="App. C, last paragraphs",
    says="f(x) > max r(x, y) is a restriction that f has to satisfy",
    verdict=FAILS,
    instead="no f is excluded while λ(x) goes with it; with λ = 1 it has to be β·log Z(x), which is never above max r",
    shows="λ = 1, f = max r + 0.1, β = 0.5: rows sum to {mass:.3f} at most, a regression on r − f ends at regret "
    "{bad:.3f}; on r − β·log Z at 0",
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
        "f > max r and λ = 1: mass is missing in every prompt": float(mass.max()) < math.exp(-0.1 / world.beta) + 1e-12,
        "the regression with this f does not end at π*": bad > 0.05,
        "with f = β·log Z(x) < max r it does": abs(good) < 1e-9,
        "an f far below max r, with its λ(x), gives π* too": _largest(policy - world.optimum.exp()) < 1e-12,
    }
    return Evidence({"mass": float(mass.max()), "bad": bad}, stands)


@claim(
    "CU4",
    paper=UNA,
    place="Eq. 13, 14, 21, 22",
    says="the upper bound is attained, and only where all ratios are equal",
    verdict=HOLDS,
    shows="500 policies: J ≤ β·log Z by {least:.4f} or more; regret ≥ 2β·TV², least quotient {quotient:.3f}",
    notebook="02_partition_function",
)
def _cu4() -> Evidence:
    policies = _policies(WORLD, 500)
    gaps = torch.stack(
        [WORLD.beta * WORLD.log_partition - objective(p, WORLD.ref_logps, WORLD.rewards, WORLD.beta) for p in policies]
    )
    kls = torch.stack([kl(p, WORLD.optimum) for p in policies])
    distance = torch.stack([(p.exp() - WORLD.optimum.exp()).abs().sum(-1) / 2 for p in policies])
    quotient = float((gaps / (2 * WORLD.beta * distance**2)).min())
    attained = objective(WORLD.optimum, WORLD.ref_logps, WORLD.rewards, WORLD.beta) - WORLD.beta * WORLD.log_partition
    stands = {
        "no policy is above the bound": float(gaps.min()) > 0,
        "what it lacks is β·KL(π ‖ π*)": _largest(gaps - WORLD.beta * kls) < 1e-12,
        "π* attains it": _largest(attained) < 1e-12,
        "and nothing else: regret ≥ 2β·TV(π, π*)²": quotient >= 1,
    }
    return Evidence({"least": float(gaps.min()), "quotient": quotient}, stands)


@claim(
    "CU28",
    paper=UNA,
    place="Sec. 2.2, App. A",
    says="Z(x) cannot be estimated, as all responses would have to be summed",
    verdict=FAILS,
    instead="Z(x) is the mean of exp(r/β) under π_ref, which K draws estimate without bias; true is that K has to be "
    "of the order of exp KL(π* ‖ π_ref), hopeless at small β",
    shows="mean error of β·log Ẑ, 64 draws, at β .03/.1/.3/1: {a:.2f}/{b:.2f}/{c:.2f}/{d:.3f} (r has sd 1)",
    notebook="02_partition_function",
)
def _cu28() -> Evidence:
    numbers = {}
    for name, beta in zip("abcd", (0.03, 0.1, 0.3, 1.0), strict=True):
        world = TableWorld.random(0, prompts=16, responses=1000, beta=beta)
        mean, _ = sampled_log_partition(world.ref_logps, world.rewards, beta, 64)
        numbers[name] = beta * float((mean - world.log_partition).mean())
    # All pairs of draws, in the world of five responses: the mean of Ẑ, exactly.
    worth = (WORLD.rewards / WORLD.beta).exp()
    both = WORLD.ref_logps[:, :, None] + WORLD.ref_logps[:, None, :]
    mean = (both.exp() * (worth[:, :, None] + worth[:, None, :]) / 2).sum((1, 2))
    stands = {
        "Ẑ has no bias": _largest(mean / WORLD.log_partition.exp() - 1) < 1e-12,
        "at β = 1 64 draws are enough": abs(numbers["d"]) < 0.02,
        "at β = .03 they miss by more than half a sd of the reward": numbers["a"] < -0.5,
        "the smaller β, the worse": numbers["a"] < numbers["b"] < numbers["c"] < numbers["d"] < 0,
    }
    return Evidence(numbers, stands)


OFFLINE = {
    "Table 1": {
        "Mistral": (44.11, 29.53, 30.11, 41.79, 23.22, 2.92, 28.61),
        "DPO (UNA-pairwise)": (44.5, 28.48, 30.41, 39.25, 26.3, 2.25, 28.53),
        "KTO": (44.46, 29.51, 30.43, 40.45, 24.18, 2.34, 28.56),
        "UNA-binary (MSE)": (44.32, 29.86, 30.54, 39.11, 26.1, 3.32, 28.88),
        "UNA-binary (BCE)": (44.43, 29.42, 30.73, 39.51, 26.49, 2.99, 28.93),
        "UNA-score (MSE)": (43.53, 30.25, 29.72, 42.01, 37.25, 2.77, 30.92),
    },
    "Table 2": {
        "Mistral": (38.02, 42.58, 77.58, 61.43, 83.44, 62.51, 60.93),
        "DPO (UNA-pairwise)": (40.22, 44.75, 79.16, 62.88, 84.42, 62.15, 62.26),
        "KTO": (41.63, 47.72, 78.14, 62.29, 84.21, 62.46, 62.74),
        "UNA-binary (MSE)": (40.87, 48.23, 79.48, 63.23, 84.57, 62.34, 63.12),
        "UNA-binary (BCE)": (40.41, 48.33, 79.4, 63.14, 84.6, 62.48, 63.06),
        "UNA-score (MSE)": (40.41, 55.09, 80.27, 63.23, 84.52, 62.56, 64.35),
    },
}
"""The offline tables as UNA prints them: six tasks and the average. Table 1: bbh, gpqa, mmlu-pro, musr, ifeval,
math-hard; Table 2: gsm8k, truthful-qa, winograde, arc, hellaswag, mmlu."""

ONLINE = {
    "Table 4": {
        "Mistral-INST": (42.46, 29.05, 24.53, 38.30, 38.46, 2.02, 29.14),
        "RLHF": (42.50, 28.99, 24.60, 38.29, 38.53, 1.79, 29.12),
        "UNA": (42.78, 28.32, 24.87, 38.03, 39.17, 1.75, 29.15),
    },
    "Table 5": {
        "Mistral-INST": (35.14, 55.94, 73.72, 55.29, 75.99, 53.94, 58.34),
        "RLHF": (34.42, 55.88, 73.56, 55.20, 76.03, 54.03, 58.19),
        "UNA": (35.67, 55.88, 74.03, 55.20, 76.61, 54.02, 58.57),
    },
}
"""The online tables: the same tasks and the average."""

TABLE_6 = {"Mistral-INST": (6.83, 10.31), "RLHF": (6.60, 10.15), "UNA": (6.71, 10.54)}
"""UNA's Table 6: MT-Bench, AlpacaEval LC win rate."""


def _averages_are_those_printed() -> bool:
    """Of Tables 1, 2, 4 and 5, to the printed digits."""
    rows = [row for table in (OFFLINE | ONLINE).values() for row in table.values()]
    return all(abs(sum(tasks) / len(tasks) - average) <= 0.005 + 1e-9 for *tasks, average in rows)


@claim(
    "CU26",
    paper=UNA,
    place="Sec. 4.2, Tables 4–6",
    says="online UNA surpasses RLHF in 8 of 14 tasks with 2 ties, which clearly demonstrates its benefit",
    verdict="holds if it is read as a count",
    instead="the count is right; that it demonstrates anything is not: a fair coin is as lopsided with probability p",
    shows="{wins:.0f} to {losses:.0f}, {ties:.0f} ties, p = {p:.2f}; averages +{new:.2f} and +{old:.2f} points; "
    "MT-Bench {mt:.2f} below the model before training",
    notebook=None,
)
def _cu26() -> Evidence:
    una = [*ONLINE["Table 4"]["UNA"][:-1], *ONLINE["Table 5"]["UNA"][:-1], *TABLE_6["UNA"]]
    rlhf = [*ONLINE["Table 4"]["RLHF"][:-1], *ONLINE["Table 5"]["RLHF"][:-1], *TABLE_6["RLHF"]]
    wins = sum(a > b for a, b in zip(una, rlhf, strict=True))
    ties = sum(a == b for a, b in zip(una, rlhf, strict=True))
    decided = len(una) - ties
    tail = sum(math.comb(decided, k) for k in range(max(wins, decided - wins), decided + 1)) / 2**decided
    gains = [ONLINE[table]["UNA"][-1] - ONLINE[table]["RLHF"][-1] for table in ("Table 4", "Table 5")]
    numbers = {
        "wins": wins,
        "ties": ties,
        "losses": decided - wins,
        "p": min(1.0, 2 * tail),
        "new": gains[0],
        "old": gains[1],
        "mt": TABLE_6["Mistral-INST"][0] - TABLE_6["UNA"][0],
    }
    stands = {
        "8 wins and 2 ties of 14": (wins, ties, len(una)) == (8, 2, 14),
        "the sign test is far from significant": numbers["p"] > 0.3,
        "the printed averages are those of their rows": _averages_are_those_printed(),
        "on MT-Bench UNA is below the model it started from": numbers["mt"] > 0,
    }
    return Evidence(numbers, stands)


@claim(
    "CU27",
    paper=UNA,
    place="Sec. 4.1, Tables 1 and 2",
    says="UNA-score is best on both leaderboards, as scores carry more information",
    verdict="holds if ifeval and truthful-qa are counted",
    instead="one task makes each lead: without ifeval the untrained model has the best average of Table 1, and without "
    "truthful-qa UNA-score leads Table 2 by a tenth of a point",
    shows="Table 1: {score:.2f} against {base:.2f} untrained, without ifeval {score_less:.2f} against {base_less:.2f}; "
    "Table 2: +{lead:.2f} over the next, without truthful-qa +{lead_less:.2f}",
    notebook=None,
)
def _cu27() -> Evidence:
    def without(table: str, task: int) -> dict[str, float]:
        return {name: (sum(row[:-1]) - row[task]) / 5 for name, row in OFFLINE[table].items()}

    def lead(averages: dict[str, float]) -> float:
        return averages["UNA-score (MSE)"] - max(v for name, v in averages.items() if name != "UNA-score (MSE)")

    printed = {table: {name: row[-1] for name, row in rows.items()} for table, rows in OFFLINE.items()}
    no_ifeval, no_truthful = without("Table 1", 4), without("Table 2", 1)
    numbers = {
        "score": printed["Table 1"]["UNA-score (MSE)"],
        "base": printed["Table 1"]["Mistral"],
        "score_less": no_ifeval["UNA-score (MSE)"],
        "base_less": no_ifeval["Mistral"],
        "lead": lead(printed["Table 2"]),
        "lead_less": lead(no_truthful),
    }
    stands = {
        "as printed UNA-score leads both tables": lead(printed["Table 1"]) > 1 and numbers["lead"] > 1,
        "without ifeval nothing beats the untrained model": max(no_ifeval, key=lambda name: no_ifeval[name])
        == "Mistral",
        "without truthful-qa the lead is a tenth": 0 < numbers["lead_less"] < 0.15,
        "the printed averages are those of their rows": _averages_are_those_printed(),
    }
    return Evidence(numbers, stands)


@claim(
    "CU29",
    paper=UNA,
    place="Sec. 4 against Sec. 7",
    says="the experiments replacing RLHF are on a 7B policy with a 3B reward model (Sec. 4), on 1B–2B models (Sec. 7); "
    "β is 10 for RLHF and 30 for UNA",
    verdict=FAILS,
    instead="the two sections exclude each other; and if β weighs the KL, the two methods have different optima, both "
    "close to π_ref",
    shows="KL(π* ‖ π_ref) at β 10/30 for a reward of sd 1: {ten:.4f}/{thirty:.4f} nats",
    notebook=None,
)
def _cu29() -> Evidence:
    policy, reward_model = 7.0, 3.0  # Sec. 4: Mistral-7B, GRM-Llama3.2-3B; billions
    low, high = 1.0, 2.0  # Sec. 7, limitation 1
    kls = {}
    for beta in (10.0, 30.0):
        world = TableWorld.random(0, prompts=20, responses=1000, beta=beta)
        kls[beta] = float(kl(world.optimum, world.ref_logps).mean())
    stands = {
        "neither model of Sec. 4 is within the sizes of Sec. 7": not (low <= policy <= high)
        and not (low <= reward_model <= high),
        "the optimum at β = 30 is not the one at β = 10": kls[10.0] / kls[30.0] > 5,
        "at either the optimum is within 0.02 nats of π_ref": kls[10.0] < 0.02,
    }
    return Evidence({"ten": kls[10.0], "thirty": kls[30.0]}, stands)
