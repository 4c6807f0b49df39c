"""UPO's and IUPO's losses on pairs, printed and derived, and their minimisers (notebook 06)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.claims.example_preferences import MU, PREFERENCES, REF, G, policy, preferences_of, same
from una_ref.claims.f_divergences import STRICT
from una_ref.claims.ledger import FAILS, HOLDS, UPO, Evidence, claim
from una_ref.methods.pairs import f_dpo, ipo, iupo, iupo_printed
from una_ref.theory import DIVERGENCES, TableWorld, fixed_point, optimal_logps, preference_rewards, regret
from una_ref.theory.populations import over_pairs

F64 = torch.float64
NOTEBOOK = "06_upo_and_iupo"


@claim(
    "EP6",
    paper=UPO,
    place="Eq. 8, 22 against 6, 11",
    says="with Ψ the identity, E_{y'~μ} P*(y ≻ y') is P*(π ≻ π_ref)",
    verdict="holds if μ = π_ref",
    instead="it is P*(π ≻ μ): the opponents come from μ, the policy that the data were sampled from",
    shows="g against μ ({first:.4f}, {second:.4f}, {third:.4f}), against π_ref ({ref_first:.4f}, {ref_second:.4f}, "
    "{ref_third:.4f}); where A beats B, B beats C and C beats A, the optimum puts {mu_c:.2f} on C against μ = (0.8, "
    "0.1, 0.1) and {ref_a:.2f} on A against π_ref = (0.1, 0.8, 0.1)",
    notebook=NOTEBOOK,
)
def _ep6() -> Evidence:
    other = preference_rewards(PREFERENCES, REF)
    names = ("first", "second", "third")
    numbers = dict(zip(names, G[0].tolist(), strict=True))
    numbers |= {f"ref_{name}": value for name, value in zip(names, other[0].tolist(), strict=True)}
    cycle, many_a, many_b = preferences_of(3, {(0, 1): 0.9, (1, 2): 0.9, (2, 0): 0.9}), (0.8, 0.1, 0.1), (0.1, 0.8, 0.1)
    against = [optimal_logps(policy(*many_b), preference_rewards(cycle, policy(*o)), 0.1) for o in (many_a, many_b)]
    numbers |= {"mu_c": float(against[0].exp()[0, 2]), "ref_a": float(against[1].exp()[0, 0])}
    minimisers = {
        name: fixed_point(over_pairs(ipo, PREFERENCES, sampler, REF, beta=0.5), REF)
        for name, sampler in (("mu", MU), ("ref", REF))
    }
    return Evidence(
        numbers,
        {
            "g against μ and g against π_ref differ": float((G - other).abs().max()) > 0.05,
            "in the cycle their optima prefer different responses": [int(best.argmax()) for best in against] == [2, 0],
            "IPO on pairs from μ ends at the optimum against μ": same(minimisers["mu"], optimal_logps(REF, G, 0.5)),
            "IPO on pairs from π_ref ends at the optimum against π_ref": same(
                minimisers["ref"], optimal_logps(REF, other, 0.5)
            ),
        },
    )


@claim(
    "EP7",
    paper=UPO,
    place="Eq. 23",
    says="U_h = f′(π_w/π_l) − f′(ref_w/ref_l), by induction from IPO",
    verdict=FAILS,
    instead="Theorem 3.1 gives f′(π_w/ref_w) − f′(π_l/ref_l); the two agree only for f′ = a·log w + b",
    shows="JS, π = (0.6, 0.2), π_ref = (0.3, 0.4): printed {printed:.4f}, correct {right:.4f}; probability of the "
    "best response, β = 0.5: optimum {optimum:.4f}, minimiser of the printed form {minimiser:.4f}; β = 0.1: "
    "{sharp:.4f}, {stuck:.4f}",
    notebook=NOTEBOOK,
)
def _ep7() -> Evidence:
    slope = DIVERGENCES["js"].slope
    won, lost, ref_won, ref_lost = (torch.tensor(p, dtype=F64).log() for p in (0.6, 0.2, 0.3, 0.4))
    numbers = {
        "printed": float(slope(won - lost) - slope(ref_won - ref_lost)),
        "right": float(slope(won - ref_won) - slope(lost - ref_lost)),
    }
    stands = {"printed and correct form differ": abs(numbers["printed"] - numbers["right"]) > 0.1}
    for beta, optimum, minimiser in ((0.5, "optimum", "minimiser"), (0.1, "sharp", "stuck")):
        best = optimal_logps(REF, G, beta, "js")
        corrected, printed = (
            fixed_point(over_pairs(loss, PREFERENCES, MU, REF, beta=beta, divergence="js"), REF)
            for loss in (iupo, iupo_printed)
        )
        numbers |= {optimum: float(best.exp()[0, 0]), minimiser: float(printed.exp()[0, 0])}
        stands[f"β = {beta}: the corrected form ends at UPO's optimum"] = same(corrected, best)
        stands[f"β = {beta}: the printed form does not"] = not same(printed, best, 0.1)
    return Evidence(numbers, stands)


@claim(
    "EP11",
    paper=UPO,
    place="Algorithm 1, Eq. 17",
    says="θ ← θ − ∇L, and two opponents y'_w, y'_l in one expectation",
    verdict=FAILS,
    instead="θ ← θ − lr·∇L: lr is an input of the algorithm that it does not use; the two opponents are harmless, "
    "because each is in a separate term",
    shows="IPO on one pair, error |h − 1/(2β)| after a step relative to before: {growth:.1f} with lr = 1, "
    "{shrinks:.1f} with lr = 0.1",
    notebook=NOTEBOOK,
    misprint=True,
)
def _ep11() -> Evidence:
    def factor(lr: float) -> float:
        logits = torch.zeros(1, 2, dtype=F64, requires_grad=True)
        gaps = []
        for _ in range(3):
            logps = logits.log_softmax(-1)
            gaps.append(float((logps[0, 0] - logps[0, 1]).detach()) - 5)
            zero = torch.zeros(1, dtype=F64)
            loss = ipo(
                chosen_logps=logps[:, 0],
                rejected_logps=logps[:, 1],
                ref_chosen_logps=zero,
                ref_rejected_logps=zero,
                beta=0.1,
            )
            (slope,) = torch.autograd.grad(loss.sum(), logits)
            logits = (logits - lr * slope).detach().requires_grad_()
        return abs(gaps[2] / gaps[1])

    both = (MU.exp()[0][:, None] * MU.exp()[0][None, :])[None, None] * (
        PREFERENCES[0, 0][:, None] - PREFERENCES[0, 1][None, :]
    )
    return Evidence(
        {"growth": factor(1.0), "shrinks": factor(0.1)},
        {
            "steps of size 1 diverge": factor(1.0) > 1,
            "steps of size 0.1 converge": factor(0.1) < 1,
            "with two opponents the expectation is the difference of the g": abs(
                float(both.sum() - (G[0, 0] - G[0, 1]))
            )
            < 1e-12,
        },
    )


@claim(
    "CP3",
    paper=UPO,
    place="Prop. 3.2, Eq. 18–21",
    says="with Ψ = logit and Bradley–Terry preferences, UPO is f-DPO",
    verdict="holds if the optimum has no zero probability",
    instead="where the optimum of χ² has zeros, f-DPO ends elsewhere, because its loss has no η",
    shows="largest difference of a probability: {full:.0e} over six divergences without zeros, {zeros:.4f} for χ² "
    "with a zero",
    notebook=NOTEBOOK,
)
def _cp3() -> Evidence:
    world = TableWorld.random(3, prompts=2, responses=4)
    wins = world.rewards[:, :, None] - world.rewards[:, None, :]
    g = preference_rewards(wins.sigmoid(), world.ref_logps, torch.logit)

    def gap(name: str, beta: float, minimise: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> float:
        population = over_pairs(f_dpo, wins.sigmoid(), world.ref_logps, world.ref_logps, beta=beta, divergence=name)
        minimiser = minimise(population, world.ref_logps)
        return float((minimiser.exp() - optimal_logps(world.ref_logps, g, beta, name).exp()).abs().max())

    full = max([gap(name, 1.0, fixed_point) for name in STRICT if name != "jsd"] + [gap("chi2", 4.0, fixed_point)])
    zeros = gap("chi2", 0.3, descend)
    smallest = {beta: float(optimal_logps(world.ref_logps, g, beta, "chi2").exp().min()) for beta in (4.0, 0.3)}
    return Evidence(
        {"full": full, "zeros": zeros},
        {
            "χ² has zeros at β = 0.3 and none at 4": smallest[0.3] == 0 < smallest[4.0],
            "without zeros the policies agree": full < 1e-6,
            "with zeros they do not": zeros > 1e-2,
        },
    )


def descend(population: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """log π where L-BFGS on the logits ends; probabilities may tend to 0."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=2000, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    optimiser.step(lambda: backward(population(logits.log_softmax(-1)), logits))
    return logits.detach().log_softmax(-1)


def backward(loss: Tensor, leaf: Tensor) -> float:
    """Store the gradient of the loss in `leaf.grad` and return the loss."""
    (leaf.grad,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach())


@claim(
    "CP4",
    paper=UPO,
    place="Prop. 4.1, Eq. 25",
    says="for the reverse KL, IUPO is IPO",
    verdict=HOLDS,
    shows="largest difference of the losses on {pairs:.0f} random pairs: {printed:.1g} in the printed form, "
    "{right:.1g} in the corrected form",
    notebook=NOTEBOOK,
)
def _cp4() -> Evidence:
    drawn = torch.randn(4, 100, generator=torch.Generator().manual_seed(0), dtype=F64) * 10 - 40
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    pairs = dict(zip(names, drawn, strict=True))
    plain = ipo(**pairs, beta=0.1)
    differences = {
        "printed": iupo_printed(**pairs, beta=0.1, divergence="reverse_kl") - plain,
        "right": iupo(**pairs, beta=0.1, divergence="reverse_kl") - plain,
        "js": iupo_printed(**pairs, beta=0.1, divergence="js") - plain,
    }
    largest = {name: float(difference.abs().max()) for name, difference in differences.items()}
    return Evidence(
        {"pairs": 100, "printed": largest["printed"], "right": largest["right"]},
        {
            "the printed form is IPO": largest["printed"] < 1e-9,
            "the corrected form is IPO": largest["right"] < 1e-9,
            "with JS it is not": largest["js"] > 1,
        },
    )


def _share(logps: Tensor, ref: Tensor, g: Tensor, beta: float, divergence: str) -> float:
    """Regret as a fraction of π_ref's."""
    remaining, at_ref = (regret(p, ref, g, beta, divergence) for p in (logps, ref))
    return float(remaining.sum() / at_ref.sum())


@claim(
    "CP5",
    paper=UPO,
    place="Sec. 4.1, Eq. 22–24",
    says="IUPO with Eq. 23 optimises Eq. 22",
    verdict=FAILS,
    instead="f′(π_w/ref_w) − f′(π_l/ref_l) does, for every f whose optimum has no zeros; the printed form does for "
    "the reverse KL only",
    shows="regret at the minimiser of the printed form as a fraction of π_ref's, β = 0.1, 0.5: JS {js_sharp:.2f}, "
    "{js:.2f}; Hellinger {hellinger_sharp:.2f}, {hellinger:.2f}; forward KL {forward_kl_sharp:.2f}, {forward_kl:.2f}",
    notebook=NOTEBOOK,
)
def _cp5() -> Evidence:
    numbers, corrected = {}, []
    for name in ("js", "hellinger", "forward_kl"):
        for beta, suffix in ((0.1, "_sharp"), (0.5, "")):
            printed = fixed_point(over_pairs(iupo_printed, PREFERENCES, MU, REF, beta=beta, divergence=name), REF)
            numbers[name + suffix] = _share(printed, REF, G, beta, name)
            minimiser = fixed_point(over_pairs(iupo, PREFERENCES, MU, REF, beta=beta, divergence=name), REF)
            corrected.append(_share(minimiser, REF, G, beta, name))
    kl = fixed_point(over_pairs(iupo_printed, PREFERENCES, MU, REF, beta=0.5, divergence="reverse_kl"), REF)
    chi2 = over_pairs(iupo, PREFERENCES, MU, REF, beta=0.05, divergence="chi2")
    with_zeros = optimal_logps(REF, G, 0.05, "chi2").exp().clamp(min=1e-9).log().log_softmax(-1)
    return Evidence(
        numbers,
        {
            "the corrected form has no regret": max(corrected) < 1e-8,
            "the printed form has much": min(numbers.values()) > 0.3,
            "where the optimum of χ² has zeros, the corrected form is lower elsewhere": bool(
                chi2(policy(0.9525, 0.0474, 0.0001)) < chi2(with_zeros) - 0.05
            ),
            "the printed form has none for the reverse KL": _share(kl, REF, G, 0.5, "reverse_kl") < 1e-8,
        },
    )
