"""The survey on DPO and its variants on pairs: Eq. 9 to 19."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.claims.example_preferences import PREFERENCES, REF, G
from una_ref.claims.example_survey import (
    F64,
    PAIRS_NOTEBOOK,
    descended,
    minus_log_sigmoid,
    numbers,
    slope_at,
)
from una_ref.claims.example_worlds import GENERIC, distance
from una_ref.claims.ledger import FAILS, HOLDS, SURVEY, Evidence, claim
from una_ref.claims.pair_loss import pair_at
from una_ref.methods import METHODS
from una_ref.theory import bradley_terry, nash_logps, optimal_logps, preference_rewards

NOTEBOOK = PAIRS_NOTEBOOK


@claim(
    "ES4",
    paper=SURVEY,
    place="above Eq. 10 and Eq. 12",
    says="P'(y_w ≻ y_l) = 1 and P'(y_w ≻ y_l) = 0; with noise 1 − ε and ε",
    verdict=FAILS,
    instead="the second probability is that of y_l ≻ y_w",
    shows="ε = 0.1: as printed one probability is {one:.1f} and {other:.1f}; with the second for y_l ≻ y_w, Eq. 12 is "
    "the registry's cdpo to {gap:.0f}",
    notebook="06_upo_and_iupo",
    misprint=True,
)
def _es4() -> Evidence:
    epsilon, margins = 0.1, numbers(-2, 0.5, 3)
    wins = margins.sigmoid()
    right = -(1 - epsilon) * wins.log() - epsilon * (1 - wins).log()
    registry = METHODS["cdpo"].loss(**pair_at(margins), beta=1.0, label_smoothing=epsilon)
    return Evidence(
        {"one": 1 - epsilon, "other": epsilon, "gap": distance(right, registry)},
        {"Eq. 12 needs the probability of y_l ≻ y_w": distance(right, registry) < 1e-12},
    )


@claim(
    "ES5",
    paper=SURVEY,
    place="Eq. 13",
    says="DPOP subtracts its penalty λ·max(0, log π_ref/π) from log σ(β·h)",
    verdict=FAILS,
    instead="in its paper the penalty is inside: −log σ(β·(h − λ·max(0, log π_ref(y_w)/π(y_w))))",
    shows="log π(y_w) = −3, log π_ref(y_w) = −2, h = −1, β = 0.3, λ = 5: original {original:.5f}, printed "
    "{printed:.5f}",
    notebook=NOTEBOOK,
)
def _es5() -> Evidence:
    h, beta, weight, gap = -1.0, 0.3, 5.0, max(0.0, -2.0 - -3.0)
    original = minus_log_sigmoid(beta * (h - weight * gap))
    printed = minus_log_sigmoid(beta * h) + weight * gap
    # Slope in log π(y_w), where h and the gap both contain it.
    inside = slope_at(lambda d: -logsigmoid(beta * (h + d - weight * (gap - d))), 0.0)
    outside = slope_at(lambda d: -logsigmoid(beta * (h + d)) + weight * (gap - d), 0.0)
    return Evidence(
        {"original": original, "printed": printed},
        {
            "without a gap the forms agree": minus_log_sigmoid(beta * h)
            == minus_log_sigmoid(beta * (h - weight * 0.0)),
            "both push the chosen response up": inside < 0 and outside < 0,
            "outside, β does not scale the push": abs(outside) > weight > abs(inside),
        },
    )


@claim(
    "ES6",
    paper=SURVEY,
    place="Eq. 14",
    says="β-DPO uses β = [1 + α·(E M − M₀)]·β₀",
    verdict="holds if E M > M₀ − 1/α",
    instead="β must stay positive: the authors' code clamps it at 0.001; M₀ is a moving average, and β has no gradient",
    shows="α = 0.6, β₀ = 0.1, M₀ = 0, E M = −2: β = {beta:.2f}, and the loss of a pair grows with its margin, slope "
    "{slope:.4f}",
    notebook=NOTEBOOK,
)
def _es6() -> Evidence:
    def beta_of(mean: float) -> float:
        return (1 + 0.6 * (mean - 0.0)) * 0.1

    slope = slope_at(lambda h: -logsigmoid(beta_of(-2.0) * h), 1.0)
    usual = slope_at(lambda h: -logsigmoid(beta_of(1.0) * h), 1.0)
    return Evidence(
        {"beta": beta_of(-2.0), "slope": slope},
        {
            "a negative β turns the loss round": beta_of(-2.0) < 0 < slope and usual < 0,
            "at α = 0 it is β₀": (1 + 0.0 * -2.0) * 0.1 == 0.1,
        },
    )


@claim(
    "ES7",
    paper=SURVEY,
    place="Eq. 15, 16",
    says="y' is drawn from a policy π'_θ, and P_θ is the preference",
    verdict=FAILS,
    instead="y' comes from a fixed μ, and P is the true preference; with the policy itself as opponent the solution is "
    "a Nash equilibrium",
    shows="β = 0.5: with μ fixed ({a:.4f}, {b:.4f}, {c:.4f}), against itself ({d:.4f}, {e:.4f}, {f:.4f})",
    notebook="06_upo_and_iupo",
)
def _es7() -> Evidence:
    fixed = optimal_logps(REF, G, 0.5)
    itself = nash_logps(PREFERENCES, REF, 0.5)
    again = optimal_logps(REF, preference_rewards(PREFERENCES, itself), 0.5)
    values = (*fixed.exp()[0].tolist(), *itself.exp()[0].tolist())
    return Evidence(
        dict(zip("abcdef", values, strict=True)),
        {
            "against itself it is the Nash policy": distance(again.exp(), itself.exp()) < 1e-10,
            "it differs from the optimum against μ": distance(fixed.exp(), itself.exp()) > 1e-4,
        },
    )


@claim(
    "ES8",
    paper=SURVEY,
    place="below Eq. 15",
    says="Ψ(x) = log(q(x)/(1 − q(x)))",
    verdict=FAILS,
    instead="Ψ(q) = log(q/(1 − q)), a function of a probability; Eq. 15 then has the optimum of DPO",
    shows="Ψ(0.9) = {psi:.4f}; with it g and the rewards differ by one number for each prompt, to {spread:.0f}",
    notebook="06_upo_and_iupo",
    misprint=True,
)
def _es8() -> Evidence:
    g = preference_rewards(bradley_terry(GENERIC.rewards), GENERIC.ref_logps, torch.logit)
    gap = g - GENERIC.rewards
    spread = float((gap.max(-1).values - gap.min(-1).values).max())
    return Evidence(
        {"psi": float(torch.logit(numbers(0.9))), "spread": round(spread, 12)},
        {"the optimum is DPO's": spread < 1e-12},
    )


@claim(
    "ES9",
    paper=SURVEY,
    place="Eq. 17",
    says="IPO's loss is −E[h − 1/(2β)]²",
    verdict=FAILS,
    instead="+E[h − 1/(2β)]²; with the minus it has no minimum",
    shows="h = 2, β = 0.1: correct {right:.0f}, printed {printed:.0f}; printed at h = 1000: {far:.0f}",
    notebook="06_upo_and_iupo",
    misprint=True,
)
def _es9() -> Evidence:
    ipo = METHODS["ipo"]
    assert ipo.printed is not None
    right, printed, far = (
        float(form(**pair_at(h), beta=0.1)) for form, h in ((ipo.loss, 2.0), (ipo.printed, 2.0), (ipo.printed, 1000.0))
    )
    return Evidence(
        {"right": right, "printed": printed, "far": far},
        {
            "the registry has the square with a plus": abs(right - (2 - 5) ** 2) < 1e-12,
            "printed, it falls without end": far < -9e5 and printed == -right,
        },
    )


@claim(
    "ES10",
    paper=SURVEY,
    place="Eq. 18, 19",
    says="GPO takes any f, and its second-order term keeps the policy near the reference like a KL divergence",
    verdict="holds if f is convex with f'(0) < 0, and only for responses in the data",
    instead="f(m) = m prefers the worse response; the hinge has no second-order term; a policy may leave π_ref on "
    "responses outside the data at no cost",
    shows="f(0), f'(0), f''(0): logistic {l0:.4f}, {l1:.2f}, {l2:.2f}; hinge {h0:.0f}, {h1:.0f}, {h2:.0f}; term "
    "{term:.0f} for a policy with KL {kl:.3f} from π_ref",
    notebook=NOTEBOOK,
)
def _es10() -> Evidence:
    def derivatives(f: object) -> list[float]:
        x = torch.zeros(1, dtype=F64, requires_grad=True)
        value = f(x)  # type: ignore[operator]
        (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        second = torch.autograd.grad(first.sum(), x)[0] if first.requires_grad else torch.zeros(1)
        return [float(value.detach()), float(first.detach()), float(second)]

    logistic = derivatives(lambda m: -logsigmoid(m))
    hinge = derivatives(lambda m: (1 - m).clamp(min=0) + 0 * m**2)
    ref, policy = numbers(0.2, 0.2, 0.6), numbers(0.45, 0.45, 0.1)  # the third response is not in the data
    u = (policy / ref).log()
    margins, beta = numbers(-2, 0.5, 3), 0.2
    halved = METHODS["ipo"].loss(**pair_at(margins), beta=beta / 2)
    gpo_squared = (beta * margins - 1) ** 2
    names = ("l0", "l1", "l2", "h0", "h1", "h2")
    return Evidence(
        dict(zip(names, logistic + hinge, strict=True))
        | {"term": float((u[0] - u[1]) ** 2), "kl": float((policy * u).sum())},
        {
            "GPO with squares is β²·IPO at β/2": distance(gpo_squared, beta**2 * halved) < 1e-12,
            "the term can be 0 far from π_ref": float((u[0] - u[1]) ** 2) < 1e-20,
        },
    )


@claim(
    "ES38",
    paper=SURVEY,
    place="Eq. 12, 49–51",
    says="the losses contain log(1 − P), log(1 + e^z) and the logarithm of a product",
    verdict="holds if numbers have infinitely many digits",
    instead="compute log σ(−z), softplus and a sum of log-sum-exps: the same numbers, finite for all margins",
    shows="z = 50: 1 − σ(z) = {rest:.0f} and its logarithm is −∞; log σ(−z) = {right:.0f}",
    notebook=NOTEBOOK,
)
def _es38() -> Evidence:
    z = numbers(50)
    rest = 1 - z.sigmoid()
    cdpo = METHODS["cdpo"].loss(**pair_at(numbers(1e4)), beta=1.0, label_smoothing=0.1)
    return Evidence(
        {"rest": float(rest), "right": float(logsigmoid(-z))},
        {
            "the literal form is infinite": bool(rest.log().isinf()),
            "the registry's is finite": bool(cdpo.isfinite().all()) and abs(float(cdpo) - 1e3) < 1e-6,
        },
    )


@claim(
    "ES39",
    paper=SURVEY,
    place="Sec. 1, Eq. 50, below Eq. 56, Sec. 3.8.2",
    says="SimPO's scale is called α; Eq. 57 generalises Eq. 55; y_it in Eq. 50 is the best response; a list has items "
    "1 and 3",
    verdict=FAILS,
    instead="the scale is SimPO's β; Eq. 57 generalises the game of Eq. 56; y_i't is meant; the items are 1 and 2",
    shows="Eq. 47 with α = 2, γ = 0.5 is the registry's simpo with β = 2, γ = 0.5, to {gap:.0f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _es39() -> Evidence:
    chosen, rejected, lengths = numbers(-4, -9), numbers(-6, -3), (numbers(2, 3), numbers(3, 1))
    eq47 = -logsigmoid(2 * chosen / lengths[0] - 2 * rejected / lengths[1] - 0.5)
    registry = METHODS["simpo"].loss(
        chosen_logps=chosen,
        rejected_logps=rejected,
        chosen_lengths=lengths[0],
        rejected_lengths=lengths[1],
        beta=2.0,
        gamma=0.5,
    )
    return Evidence({"gap": distance(eq47, registry)}, {"α is β": distance(eq47, registry) < 1e-12})


@claim(
    "CS1",
    paper=SURVEY,
    place="Sec. 3.3.6",
    says="IPO overfits less than DPO where preferences are deterministic, and label smoothing would do as well",
    verdict=HOLDS,
    shows="two responses, β = 0.5, after 500 and 2,000 steps: log-ratio of DPO {dpo:.1f} and {dpo_long:.1f}, cDPO "
    "{cdpo:.2f} and {cdpo_long:.2f}, IPO {ipo:.2f} and {ipo_long:.2f}",
    notebook="06_upo_and_iupo",
)
def _cs1() -> Evidence:
    beta = 0.5

    def margin(name: str, steps: int, **more: float) -> float:
        def loss(logits: Tensor) -> Tensor:
            return METHODS[name].loss(**pair_at(logits[0] - logits[1]), beta=beta, **more).sum()

        end = descended(loss, torch.zeros(2, dtype=F64), steps=steps, lr=0.2)
        return float(end[0] - end[1])

    numbers_ = {
        f"{name}{'_long' if steps > 500 else ''}": margin(name, steps, **more)
        for name, more in (("dpo", {}), ("cdpo", {"label_smoothing": 0.1}), ("ipo", {}))
        for steps in (500, 2000)
    }
    return Evidence(
        numbers_,
        {
            "DPO's log-ratio keeps growing": numbers_["dpo_long"] > numbers_["dpo"] + 1.5,
            "IPO stops at 1/(2β)": abs(numbers_["ipo_long"] - 1.0) < 1e-9,
            "cDPO stops at log((1 − ε)/ε)/β": abs(numbers_["cdpo_long"] - 2 * float(numbers(9).log())) < 1e-6,
        },
    )


@claim(
    "CS22",
    paper=SURVEY,
    place="Eq. 19",
    says="the loss is its Taylor expansion around a margin of 0",
    verdict="holds if margins stay below about 1",
    instead="the expansion of the logistic loss has its minimum at a margin of 2 and grows beyond it",
    shows="logistic loss, error at a margin of 1, 2, 4: {one:.3f}, {two:.3f}, {four:.2f}",
    notebook=NOTEBOOK,
)
def _cs22() -> Evidence:
    def expansion(m: Tensor) -> Tensor:
        return numbers(2).log() - m / 2 + m**2 / 8

    margins = numbers(1, 2, 4)
    errors = (expansion(margins) + logsigmoid(margins)).abs().tolist()
    return Evidence(
        dict(zip(("one", "two", "four"), errors, strict=True)),
        {
            "small at 1, large at 4": errors[0] < 0.01 < 0.5 < errors[2],
            "the expansion turns at 2": abs(slope_at(expansion, 2.0)) < 1e-12 < slope_at(expansion, 3.0),
        },
    )
