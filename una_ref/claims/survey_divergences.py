"""The survey on f-divergences: Eq. 63 to 67."""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.claims.example_survey import F64, numbers
from una_ref.claims.example_worlds import TWO_PROMPTS, WORLD, distance
from una_ref.claims.ledger import FAILS, SURVEY, Evidence, claim
from una_ref.theory import (
    DIVERGENCES,
    TableWorld,
    divergences,
    entropy,
    expected_reward,
    fixed_point,
    multiplier,
    optimal_logps,
)

NOTEBOOK = "05_f_divergences"


@claim(
    "ES34",
    paper=SURVEY,
    place="Eq. 64",
    says="the objective is E_{(x,y)~D}[r − β·f(π/π_ref)], with Σ π = 1 for all y",
    verdict=FAILS,
    instead="E_{y~π} r − β·E_{y~π_ref} f(π/π_ref), with Σ_y π = 1 for all x; over a fixed D the reward term does not "
    "depend on π",
    shows="π_ref = (0.5, 0.3, 0.2), D = (0.2, 0.5, 0.3), β = 0.5: literal optimum ({a:.4f}, {b:.4f}, {c:.4f}) for "
    "every r, right one for r = (1, 0, −1) ({d:.4f}, {e:.4f}, {f:.4f})",
    notebook=NOTEBOOK,
)
def _es34() -> Evidence:
    ref, data, rewards, beta = numbers(0.5, 0.3, 0.2)[None], numbers(0.2, 0.5, 0.3)[None], numbers(1, 0, -1)[None], 0.5

    def literal(scale: float) -> Tensor:
        def loss(logps: Tensor) -> Tensor:
            w = logps.exp() / ref
            return -(data * (scale * rewards - beta * w * w.log())).sum()

        return fixed_point(loss, ref.log())

    once, thrice = literal(1.0), literal(3.0)
    right = optimal_logps(ref.log(), rewards, beta)
    return Evidence(
        dict(zip("abcdef", (*once.exp()[0].tolist(), *right.exp()[0].tolist()), strict=True)),
        {
            "the literal optimum ignores r": distance(once.exp(), thrice.exp()) < 1e-9,
            "it is not the right one": distance(once.exp(), right.exp()) > 0.1,
        },
    )


@claim(
    "ES35",
    paper=SURVEY,
    place="Eq. 65",
    says="the constraint terms stand inside E_{(x,y)~D}, with one λ and multipliers α(y)",
    verdict=FAILS,
    instead="they stand outside, one λ(x) for each prompt; α(y) is not the α of the divergence",
    shows="π_ref = (½, ½), r = (1, 0) and (2, 0), β = 1: λ(x) = {one:.4f} and {two:.4f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _es35() -> Evidence:
    values = multiplier(TWO_PROMPTS.ref_logps, TWO_PROMPTS.rewards, 1.0)
    shared = float(values.mean())
    sums = (TWO_PROMPTS.ref_logps + TWO_PROMPTS.rewards - shared).exp().sum(-1)
    return Evidence(
        {"one": float(values[0]), "two": float(values[1])},
        {"with one λ no policy adds up to 1": bool(((sums - 1).abs() > 0.3).all())},
    )


@claim(
    "ES36",
    paper=SURVEY,
    place="Eq. 66, 67",
    says="0 ∉ dom f' makes r = β·f'(π/π_ref) + C",
    verdict=FAILS,
    instead="what is needed is f'(0+) = −∞; C is C(x)",
    shows="χ², β = 0.3: f'(0+) = {slope:.0f}, and {zeros:.0f} of 320 responses get probability 0; for the reverse KL "
    "C(x) has sd {spread:.2f} over prompts",
    notebook=NOTEBOOK,
)
def _es36() -> Evidence:
    chi2 = DIVERGENCES["chi2"]
    best = optimal_logps(WORLD.ref_logps, WORLD.rewards, 0.3, "chi2")
    constants = multiplier(WORLD.ref_logps, WORLD.rewards, WORLD.beta)
    kept = optimal_logps(WORLD.ref_logps, WORLD.rewards, 0.3, "js")
    return Evidence(
        {
            "slope": chi2.slope_at_zero,
            "zeros": float((best == -torch.inf).sum()),
            "spread": float(constants.std()),
        },
        {
            "a finite f'(0+) gives zeros": bool((best == -torch.inf).any()) and chi2.allows_zeros,
            "an infinite one does not": bool((kept > -torch.inf).all()),
            "C differs between prompts": float(constants.std()) > 0.05,
        },
    )


@claim(
    "ES37",
    paper=SURVEY,
    place="Sec. 3.12",
    says="the α-divergence, without a range of α",
    verdict="holds if 0 < α < 1",
    instead="its limits are the reverse KL at α → 0 and the forward KL at α → 1",
    shows="largest difference of f' on log-ratios from −2 to 2: {low:.0e} from the reverse KL at α = 10⁻⁶, {high:.0e} "
    "from the forward KL at α = 1 − 10⁻⁶",
    notebook=NOTEBOOK,
)
def _es37() -> Evidence:
    u = torch.linspace(-2, 2, 41, dtype=F64)

    def slope(alpha: float) -> Tensor:
        return (1 - (-alpha * u).exp()) / alpha  # f'(e^u) of the printed f times −(α − 1)/(1 − α) = 1

    low = distance(slope(1e-6), DIVERGENCES["reverse_kl"].slope(u))
    high = distance(slope(1 - 1e-6), DIVERGENCES["forward_kl"].slope(u))
    return Evidence(
        {"low": round(low, 7), "high": round(high, 7)},
        {
            "both limits": low < 1e-5 and high < 1e-4,
            "the registry's f' is this one": distance(slope(0.3), divergences.alpha(0.3).slope(u)) < 1e-12,
        },
    )


MANY = TableWorld.random(3, prompts=20, responses=200, beta=0.5)
"""20 prompts with 200 responses each."""


def frontier(divergence: str, beta: float, world: TableWorld = WORLD) -> tuple[float, float]:
    """Mean reward and entropy of the optimum under a divergence."""
    best = optimal_logps(world.ref_logps, world.rewards, beta, divergence)
    return float(expected_reward(best, world.rewards).mean()), float(entropy(best).mean())


@claim(
    "CS13",
    paper=SURVEY,
    place="Sec. 3.12",
    says="JS keeps the reward of the reverse KL and has more diversity",
    verdict="holds if β is chosen so that the rewards are equal",
    instead="at the same β JS has more reward and less entropy",
    shows="reward and entropy (nats) at β = 0.5: reverse KL {r_kl:.3f}, {h_kl:.3f}; JS {r_js:.3f}, {h_js:.3f}; JS at "
    "the reward of the KL: entropy {h_equal:.3f}",
    notebook=NOTEBOOK,
)
def _cs13() -> Evidence:
    reward, diversity = frontier("reverse_kl", 0.5)
    js_reward, js_diversity = frontier("js", 0.5)
    low, high = 0.05, 5.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if frontier("js", middle)[0] > reward else (low, middle)
    equal = frontier("js", low)[1]
    return Evidence(
        {"r_kl": reward, "h_kl": diversity, "r_js": js_reward, "h_js": js_diversity, "h_equal": equal},
        {
            "more diversity at the same reward": equal > diversity,
            "less at the same β": js_diversity < diversity and js_reward > reward,
        },
    )


@claim(
    "CS14",
    paper=SURVEY,
    place="Sec. 3.12",
    says="forward KL and α-divergences have more entropy and less reward than the reverse KL",
    verdict="holds if a prompt has few responses and β is the same",
    instead="with many responses they have less entropy; a divergence moves along the frontier as β does",
    shows="entropy in nats at β = 0.2, reverse KL, α = ½, forward KL: {kl:.2f}, {half:.2f}, {fkl:.2f} with 8 "
    "responses; {kl_many:.2f}, {half_many:.2f}, {fkl_many:.2f} with 200",
    notebook=NOTEBOOK,
)
def _cs14() -> Evidence:
    names = {"kl": "reverse_kl", "half": "alpha", "fkl": "forward_kl"}
    few = {name: frontier(divergence, 0.2) for name, divergence in names.items()}
    many = {name: frontier(divergence, 0.2, MANY) for name, divergence in names.items()}
    return Evidence(
        {name: h for name, (_, h) in few.items()} | {f"{name}_many": h for name, (_, h) in many.items()},
        {
            "few responses: the order is reverse KL, α = ½, forward KL in entropy": few["kl"][1]
            < few["half"][1]
            < few["fkl"][1],
            "and the other way round in reward": few["kl"][0] > few["half"][0] > few["fkl"][0],
            "many responses: the reverse KL has most entropy": many["kl"][1] > max(many["half"][1], many["fkl"][1]),
        },
    )
