"""The optimum and Z(x): the maximum of the objective, its bound, and estimates of Z(x) (notebook 02)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.claims.example_worlds import F64, GENERIC, TINY, largest, random_policies, shifted
from una_ref.claims.ledger import FAILS, HOLDS, UNA, Evidence, claim
from una_ref.theory import TableWorld, expected_reward, kl, log_partition, objective, sampled_log_partition


@claim(
    "EU1",
    paper=UNA,
    place="Eq. 3, 12, 17, 20",
    says="π* = max_π J(π)",
    verdict=FAILS,
    instead="π* = arg max_π J(π); the printed equation sets a policy equal to a number",
    shows="max J = {best:.4f}, arg max J = ({first:.4f}, {second:.4f})",
    notebook="02_partition_function",
    misprint=True,
)
def _eu1() -> Evidence:
    best, optimum = float(TINY.log_partition), TINY.optimum.exp()[0]
    numbers = {"best": best, "first": float(optimum[0]), "second": float(optimum[1])}
    return Evidence(numbers, {"the maximum is not the maximiser": abs(best - numbers["first"]) > 0.1})


@claim(
    "EU15",
    paper=UNA,
    place="App. A",
    says="“KTO estimates Z(x) by averaging over multiple samples”",
    verdict=FAILS,
    instead="KTO's reference point is β·KL(π ‖ π_ref) of the current policy; Z(x) depends on π_ref and r only",
    shows="at π* the KL is {kl:.4f}, at π_ref {at_ref:.4f}; log Z = {log_z:.4f} at both",
    notebook="02_partition_function",
)
def _eu15() -> Evidence:
    at_optimum, at_ref = (float(kl(policy, TINY.ref_logps)) for policy in (TINY.optimum, TINY.ref_logps))
    log_z = float(TINY.log_partition)
    higher = shifted(TINY, 10.0)
    again = float(kl(higher.optimum, higher.ref_logps))
    stands = {
        "at π* the KL is not log Z": log_z - at_optimum > 0.1,
        "at π_ref the KL is 0 and log Z is not": at_ref == 0 and log_z > 0.1,
        "with 10 added to the rewards the KL stays and log Z grows by 10/β": abs(again - at_optimum) < 1e-12
        and abs(float(higher.log_partition) - log_z - 10 / TINY.beta) < 1e-12,
        "KL(π* ‖ π_ref) = E_π* r/β − log Z": abs(
            at_optimum - float(expected_reward(TINY.optimum, TINY.rewards)) / TINY.beta + log_z
        )
        < 1e-12,
    }
    return Evidence({"kl": at_optimum, "log_z": log_z, "at_ref": at_ref}, stands)


@claim(
    "EU18",
    paper=UNA,
    place="Eq. 2, 5, 11, 12, 17; references in Sec. 3 and 4.1",
    says="L_RM(π_θ); r_φ in the first line of Eq. 5; r_θ in Eq. 12 and 17; Eq. 11 holds for all non-negative numbers; "
    "Sec. 3 cites Eq. 20–24; Sec. 4.1 cites Eq. 7",
    verdict=FAILS,
    instead="L_RM(r_φ); r_θ in Eq. 5; r_φ in Eq. 12 and 17; Eq. 11 needs a_i = 0 where b_i = 0; Sec. 3 means Eq. "
    "12–16, which are Eq. 20–24 with f = 0; Sec. 4.1 means Eq. 6",
    shows="Eq. 5: the first line as printed is {printed:.4f} for every policy, the second line at π_ref {right:.4f}",
    notebook="02_partition_function",
    misprint=True,
)
def _eu18() -> Evidence:
    def line(margin: Tensor) -> float:
        return -float(torch.nn.functional.logsigmoid(margin))

    def implicit(logps: Tensor, with_z: bool) -> Tensor:
        return TINY.beta * (logps - TINY.ref_logps)[0] + (TINY.beta * float(TINY.log_partition) if with_z else 0.0)

    explicit, moved = TINY.rewards[0], torch.tensor([[0.9, 0.1]], dtype=F64).log()
    printed = line(explicit[0] - explicit[1])  # depends on no policy
    right = {name: implicit(p, False) for name, p in (("ref", TINY.ref_logps), ("moved", moved))}
    second = {name: line(r[0] - r[1]) for name, r in right.items()}
    first = {name: implicit(p, True) for name, p in (("ref", TINY.ref_logps), ("moved", moved))}

    # Eq. 21 with f is β·(log E_ref exp((r − f)/β) + f/β); Eq. 13 has no f.
    def eq21(f: float) -> Tensor:
        return GENERIC.beta * log_partition(GENERIC.ref_logps, GENERIC.rewards - f, GENERIC.beta) + f

    objectives = [
        objective(p, GENERIC.ref_logps, GENERIC.beta * (p - GENERIC.ref_logps), GENERIC.beta)
        for p in random_policies(GENERIC, 10)
    ]
    stands = {
        "Eq. 5: with r_φ its two lines differ": abs(printed - second["ref"]) > 0.1,
        "Eq. 5: with r_θ of Eq. 4 its two lines agree": all(
            abs(line(first[name][0] - first[name][1]) - second[name]) < 1e-12 for name in second
        ),
        "Eq. 5: the second line depends on the policy": abs(second["ref"] - second["moved"]) > 0.1,
        "Eq. 21 has the value of Eq. 13 for every f": largest(eq21(0.0) - eq21(2.0)) < 1e-12,
        "Eq. 12 with r_θ: J = 0 for every policy": max(map(largest, objectives)) < 1e-12,
        "Eq. 11 with b_i = 0 < a_i: the sum is infinite": float(
            kl(torch.tensor([[0.5, 0.5]], dtype=F64).log(), torch.tensor([[1.0, 0.0]], dtype=F64).log())
        )
        == math.inf,
    }
    return Evidence({"printed": printed, "right": second["ref"]}, stands)


@claim(
    "CU4",
    paper=UNA,
    place="Eq. 13, 14, 21, 22",
    says="the upper bound is attained, and only where all ratios in Eq. 13 are equal",
    verdict=HOLDS,
    shows="500 random policies: J is at least {least:.4f} below β·log Z; regret/(2β·TV²) is at least {quotient:.3f}",
    notebook="02_partition_function",
)
def _cu4() -> Evidence:
    policies = random_policies(GENERIC, 500)
    gaps = torch.stack(
        [
            GENERIC.beta * GENERIC.log_partition - objective(p, GENERIC.ref_logps, GENERIC.rewards, GENERIC.beta)
            for p in policies
        ]
    )
    kls = torch.stack([kl(p, GENERIC.optimum) for p in policies])
    distance = torch.stack([(p.exp() - GENERIC.optimum.exp()).abs().sum(-1) / 2 for p in policies])
    quotient = float((gaps / (2 * GENERIC.beta * distance**2)).min())
    attained = (
        objective(GENERIC.optimum, GENERIC.ref_logps, GENERIC.rewards, GENERIC.beta)
        - GENERIC.beta * GENERIC.log_partition
    )
    stands = {
        "no policy is above the bound": float(gaps.min()) > 0,
        "the gap to the bound is β·KL(π ‖ π*)": largest(gaps - GENERIC.beta * kls) < 1e-12,
        "π* attains the bound": largest(attained) < 1e-12,
        "no other policy attains it: regret ≥ 2β·TV(π, π*)²": quotient >= 1,
    }
    return Evidence({"least": float(gaps.min()), "quotient": quotient}, stands)


@claim(
    "CU28",
    paper=UNA,
    place="Sec. 2.2, App. A",
    says="Z(x) cannot be estimated, because all responses would have to be summed",
    verdict=FAILS,
    instead="Z(x) is the mean of exp(r/β) under π_ref, so K samples estimate it without bias; where KL(π* ‖ π_ref) is "
    "large, as at small β, K has to be of the order of its exponential, which is too many",
    shows="mean error of β·log Ẑ with 64 samples, r of sd 1, β = 0.03, 0.1, 0.3, 1: {a:.2f}, {b:.2f}, {c:.2f}, {d:.3f}",
    notebook="02_partition_function",
)
def _cu28() -> Evidence:
    numbers = {}
    for name, beta in zip("abcd", (0.03, 0.1, 0.3, 1.0), strict=True):
        world = TableWorld.random(0, prompts=16, responses=1000, beta=beta)
        mean, _ = sampled_log_partition(world.ref_logps, world.rewards, beta, 64)
        numbers[name] = beta * float((mean - world.log_partition).mean())
    # The exact mean of Ẑ over all pairs of samples.
    value = (GENERIC.rewards / GENERIC.beta).exp()
    both = GENERIC.ref_logps[:, :, None] + GENERIC.ref_logps[:, None, :]
    mean = (both.exp() * (value[:, :, None] + value[:, None, :]) / 2).sum((1, 2))
    stands = {
        "Ẑ has no bias": largest(mean / GENERIC.log_partition.exp() - 1) < 1e-12,
        "at β = 1 64 samples are enough": abs(numbers["d"]) < 0.02,
        "at β = 0.03 the error is more than half a sd of the reward": numbers["a"] < -0.5,
        "the error grows as β falls": numbers["a"] < numbers["b"] < numbers["c"] < numbers["d"] < 0,
    }
    return Evidence(numbers, stands)
