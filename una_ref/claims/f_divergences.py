"""UPO's Theorem 3.1: the optimum under an f-divergence, and the responses that get probability 0 (notebook 05)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.claims.example_preferences import REF, G, policy, same
from una_ref.claims.ledger import FAILS, UPO, Evidence, claim
from una_ref.theory import (
    DIVERGENCES,
    TableWorld,
    entropy,
    expected_reward,
    f_divergence,
    multiplier,
    objective,
    optimal_logps,
)

F64 = torch.float64
NOTEBOOK = "05_f_divergences"

STRICT = [name for name, divergence in DIVERGENCES.items() if not divergence.allows_zeros]
"""The divergences with f′(0+) = −∞: all but chi2 and tv."""


@claim(
    "EP1",
    paper=UPO,
    place="Theorem 3.1, Eq. 12, 14–16",
    says="E_{x, y~π, y'~μ} Ψ(p*) = β·f′(π*(y|x)/π_ref(y|x)) + λ",
    verdict=FAILS,
    instead="E_{y'~μ} Ψ(p*(y ≻ y'|x)) = β·f′(π*(y|x)/π_ref(y|x)) + λ(x) for each y; averaged over y the left side is "
    "one number",
    shows="β·f′ + λ = ({first:.4f}, {second:.4f}, {third:.4f}) = g(y); the printed left side is {printed:.4f} for "
    "each y",
    notebook=NOTEBOOK,
    misprint=True,
)
def _ep1() -> Evidence:
    best, level = optimal_logps(REF, G, 0.5, "js"), multiplier(REF, G, 0.5, "js")
    right = 0.5 * DIVERGENCES["js"].slope(best - REF) + level[:, None]
    printed = expected_reward(best, G)
    numbers = dict(zip(("first", "second", "third"), right[0].tolist(), strict=True)) | {"printed": float(printed)}
    return Evidence(
        numbers,
        {
            "the corrected sides agree at every response": torch.allclose(right, G, rtol=0, atol=1e-10),
            "the printed sides agree at no response": bool(((right - printed).abs() > 0.05).all()),
        },
    )


@claim(
    "EP2",
    paper=UPO,
    place="Eq. 12–19, Sec. 2.4",
    says="λ, and the constant in Sec. 2.4, is one number",
    verdict=FAILS,
    instead="there is one λ(x) for each prompt; it cancels only between two responses of one prompt",
    shows="λ = {first:.4f}, and {second:.4f} on a prompt whose g is 1 higher; with the mean λ for both, Σ_y π is "
    "{low:.3f} and {high:.3f}",
    notebook=NOTEBOOK,
)
def _ep2() -> Evidence:
    ref, g = REF.expand(2, 3), torch.cat([G, G + 1])
    best, level = optimal_logps(ref, g, 0.5, "reverse_kl"), multiplier(ref, g, 0.5, "reverse_kl")
    shared = (ref + DIVERGENCES["reverse_kl"].inverse((g - level.mean()) / 0.5)).exp().sum(-1)
    return Evidence(
        {"first": float(level[0]), "second": float(level[1]), "low": float(shared[0]), "high": float(shared[1])},
        {
            "adding 1 to g adds 1 to λ": abs(float(level[1] - level[0]) - 1) < 1e-10,
            "adding 1 to g does not change the policy": torch.allclose(best[0], best[1], rtol=0, atol=1e-10),
            "one λ for both prompts gives no distribution": bool(((shared - 1).abs() > 0.1).all()),
        },
    )


@claim(
    "EP3",
    paper=UPO,
    place="Eq. 13",
    says="the Lagrangian contains E_{y~π} f(π/π_ref)",
    verdict=FAILS,
    instead="it contains D_f = E_{y~π_ref} f(π/π_ref), whose derivative is in Eq. 14",
    shows="π = (0.7, 0.3), π_ref = (0.5, 0.5): D_f = {right:.4f}, printed {printed:.4f}; for r = (1, 0) the maximum "
    "is at π(y1) = {best:.4f}, that of the printed form at {literal:.4f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _ep3() -> Evidence:
    even, tilted = policy(0.5, 0.5), policy(0.7, 0.3)
    u = tilted - even
    printed = float((tilted.exp() * u.exp() * u).sum())  # E_π of the paper's f = w·log w
    first = torch.linspace(0.01, 0.99, 98_001, dtype=F64)
    ratio = 2 * torch.stack([first, 1 - first])
    literal = first - (ratio / 2 * ratio * ratio.log()).sum(0)
    right = first - (ratio / 2 * ratio.log()).sum(0)
    numbers = {
        "right": float(f_divergence(tilted, even, "reverse_kl")),
        "printed": printed,
        "literal": float(first[literal.argmax()]),
        "best": float(optimal_logps(even, torch.tensor([[1.0, 0.0]], dtype=F64), 1.0).exp()[0, 0]),
    }
    return Evidence(
        numbers,
        {
            "the two expectations differ": abs(numbers["right"] - printed) > 0.1,
            "their maxima differ": abs(numbers["literal"] - numbers["best"]) > 0.1,
            "with E_ref the maximum is at π*": abs(float(first[right.argmax()]) - numbers["best"]) < 2e-5,
        },
    )


@claim(
    "EP4",
    paper=UPO,
    place="Theorem 3.1 and below Eq. 15",
    says="π* > 0 wherever 0 ∉ dom f′",
    verdict=FAILS,
    instead="π* > 0 for every reward if and only if f′(0+) = −∞; no f on the positive numbers has 0 in dom f′",
    shows="χ², g = (1, 0, ½), β = 0.1: π* = ({first:.4f}, {second:.4f}, {third:.4f}) with η = {eta:.4f} at the zero; "
    "divergences with f′(0+) = −∞ give that response at least {least:.1e}",
    notebook=NOTEBOOK,
)
def _ep4() -> Evidence:
    ref, g, beta = policy(0.2, 0.3, 0.5), torch.tensor([[1.0, 0.0, 0.5]], dtype=F64), 0.1
    best = optimal_logps(ref, g, beta, "chi2")
    eta = beta * DIVERGENCES["chi2"].slope(best - ref) + multiplier(ref, g, beta, "chi2")[:, None] - g
    smallest = [float(optimal_logps(ref, g, beta, name).amin().exp()) for name in STRICT]
    numbers = dict(zip(("first", "second", "third"), best.exp()[0].tolist(), strict=True))
    # Policies near π*: mass moved from one response to another, also to the one at zero.
    steps = [policy(*(best.exp()[0] + 1e-3 * torch.tensor(d)).tolist()) for d in ([-1, 1, 0], [0, 1, -1], [1, 0, -1])]
    value = objective(best, ref, g, beta, "chi2")
    return Evidence(
        numbers | {"eta": float(eta[0, 1]), "least": min(smallest)},
        {
            "χ²: 0 is not in dom f′, and π* has a zero": bool(best[0, 1] == -math.inf),
            "the KKT conditions hold: η > 0 at the zero, 0 elsewhere": float(eta[0, 1]) > 0.1
            and float(eta[0, [0, 2]].abs().max()) < 1e-9,
            "no policy near π* is better": all(bool(objective(p, ref, g, beta, "chi2") < value) for p in steps),
            "where f′(0+) = −∞ there is no zero": min(smallest) > 0,
        },
    )


@claim(
    "EP5",
    paper=UPO,
    place="KKT conditions 2 and 4",
    says="π(y|x) = 0 or η(y) must hold; ∀y Σ_y π(y|x) = 1",
    verdict=FAILS,
    instead="π(y|x) = 0 or η(y) = 0; ∀x Σ_y π(y|x) = 1 (typing errors; no formula depends on them)",
    shows="π* = ({first:.3f}, {second:.3f}, {third:.3f}), η = ({eta_first:.3f}, {eta_second:.3f}, {eta_third:.3f})",
    notebook=NOTEBOOK,
    misprint=True,
)
def _ep5() -> Evidence:
    ref, g = policy(0.2, 0.3, 0.5), torch.tensor([[1.0, 0.0, 0.5]], dtype=F64)
    best = optimal_logps(ref, g, 0.1, "chi2").exp()[0]
    slope = 0.1 * 2 * (best / ref.exp()[0] - 1)  # β·f′ at π*
    eta = (slope + multiplier(ref, g, 0.1, "chi2") - g[0]).round(decimals=12) + 0.0  # no -0
    names = ("first", "second", "third")
    numbers = dict(zip(names, best.tolist(), strict=True))
    numbers |= {f"eta_{name}": value for name, value in zip(names, eta.tolist(), strict=True)}
    return Evidence(
        numbers,
        {
            "π·η = 0 everywhere": float((best * eta).abs().max()) < 1e-10,
            "“π = 0 or η > 0” is false where π > 0": not bool(((best == 0) | (eta > 0)).all()),
        },
    )


@claim(
    "EP10",
    paper=UPO,
    place="Sec. 5.1",
    says="f(w) = w·log w − (w + 1)·log((w + 1)/2) is the JS-divergence",
    verdict=FAILS,
    instead="it is twice the JS-divergence; its optimum at β is that of the JS-divergence at 2β",
    shows="p = (0.2, 0.8), q = (0.5, 0.5): D_f = {printed:.5f}, JSD = {jsd:.5f}",
    notebook=NOTEBOOK,
)
def _ep10() -> Evidence:
    p, q = policy(0.2, 0.8), policy(0.5, 0.5)
    middle = ((p.exp() + q.exp()) / 2).log()
    jsd = entropy(middle) - (entropy(p) + entropy(q)) / 2  # the definition
    printed = f_divergence(p, q, "js")
    half = optimal_logps(REF, G, 0.25, "js")
    return Evidence(
        {"printed": float(printed), "jsd": float(jsd)},
        {
            "D_f = 2·JSD": abs(float(printed - 2 * jsd)) < 1e-12,
            "the optimum of js at β is that of jsd at 2β": same(half, optimal_logps(REF, G, 0.5, "jsd"), 1e-10),
            "the optimum of js at β is not that of jsd at β": not same(half, optimal_logps(REF, G, 0.25, "jsd"), 0.01),
        },
    )


@claim(
    "CP1",
    paper=UPO,
    place="Theorem 3.1",
    says="at the optimum of UPO the expectation of Ψ is β·f′(π*/π_ref) plus a constant",
    verdict="holds if read per response and per prompt",
    instead="the constant is λ(x), and where π* = 0 the η of Eq. 15 is added",
    shows="J of this optimum against a general solver's on {count:.0f} problems: the largest difference is "
    "{largest:.0e}",
    notebook=NOTEBOOK,
)
def _cp1() -> Evidence:
    import numpy as np
    from scipy.optimize import minimize

    world = TableWorld.random(0, prompts=3, responses=6)
    gaps, distances = [], []
    for name in ("reverse_kl", "forward_kl", "js", "alpha", "chi2", "hellinger"):
        best = optimal_logps(world.ref_logps, world.rewards, 0.5, name)
        for x in range(3):
            ref, r = world.ref_logps[x : x + 1], world.rewards[x : x + 1]

            def loss(p: np.ndarray, ref: Tensor = ref, r: Tensor = r, name: str = name) -> tuple[float, np.ndarray]:
                pi = torch.tensor(p, dtype=F64).clamp(min=1e-15)[None].log()
                u = pi - ref
                value = (pi.exp() * r).sum() - 0.5 * (ref.exp() * DIVERGENCES[name].f(u)).sum()
                return -float(value), (0.5 * DIVERGENCES[name].slope(u) - r)[0].numpy()

            # The solver may stop early and report success, so it starts twice.
            solutions = [
                minimize(
                    loss,
                    start,
                    jac=True,
                    method="SLSQP",
                    bounds=[(1e-12, 1)] * 6,
                    constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": np.ones_like},
                    options={"maxiter": 500, "ftol": 1e-14},
                )
                for start in (ref.exp()[0].numpy(), np.full(6, 1 / 6))
            ]
            solution = min(solutions, key=lambda solution: solution.fun).x
            solved = torch.tensor(solution / solution.sum(), dtype=F64)[None].log()
            exact = best[x : x + 1]
            gaps.append(float(objective(exact, ref, r, 0.5, name) - objective(solved, ref, r, 0.5, name)))
            distances.append(float((exact.exp() - solved.exp()).abs().max()))
    return Evidence(
        {"count": len(gaps), "largest": max(map(abs, gaps))},
        {
            "the solver finds nothing better": min(gaps) > -1e-9,
            "the solver reaches the same J": max(gaps) < 1e-6,
            "the solver reaches the same policy": max(distances) < 1e-3,
        },
    )


@claim(
    "CP2",
    paper=UPO,
    place="Theorem 3.1",
    says="with the allowed divergences no response gets probability 0",
    verdict="holds if f′(0+) = −∞",
    instead="this holds for reverse and forward KL, JS, α and Hellinger, not for χ² and total variation",
    shows="zeros among 12 responses, mean of 8 prompts, at β = 0.1, 0.5, 2: χ² {chi2_tenth:.1f}, {chi2_half:.1f}, "
    "{chi2_two:.1f}; total variation {tv_tenth:.1f}, {tv_half:.1f}, {tv_two:.1f}; the others 0",
    notebook=NOTEBOOK,
)
def _cp2() -> Evidence:
    world = TableWorld.random(0, prompts=8, responses=12)
    spread = world.rewards.amax(-1) - world.rewards.amin(-1)

    def zeros(name: str, beta: float) -> float:
        best = optimal_logps(world.ref_logps, world.rewards, beta, name)
        return float((best == -math.inf).sum(-1).double().mean())

    betas = {"tenth": 0.1, "half": 0.5, "two": 2.0}
    numbers = {f"{name}_{label}": zeros(name, beta) for name in ("chi2", "tv") for label, beta in betas.items()}
    wide = optimal_logps(world.ref_logps, world.rewards, float(spread.max()) + 1e-6, "tv")
    return Evidence(
        numbers,
        {
            "no zeros where f′(0+) = −∞": not any(zeros(name, beta) for name in STRICT for beta in betas.values()),
            "χ²: fewer zeros as β grows": numbers["chi2_tenth"] > numbers["chi2_half"] > numbers["chi2_two"],
            "total variation: fewer zeros as β grows": numbers["tv_tenth"] > numbers["tv_half"] > numbers["tv_two"],
            "total variation: π* = π_ref for β above the range of the rewards": same(wide, world.ref_logps),
        },
    )
