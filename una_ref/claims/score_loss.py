"""UNA Eq. 10: the loss on scores, and how its minimiser depends on a reward offset (notebook 04)."""

from __future__ import annotations

import math

import torch

from una_ref.claims.example_worlds import SMALL, TINY, WORLD, distance, raw_regret, shifted, slope
from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory import fixed_point, kl, una_end, una_fixed_point, una_minima, una_regression
from una_ref.theory.populations import singles

F64 = torch.float64
NOTEBOOK = "04_una_losses"


@claim(
    "EU12",
    paper=UNA,
    place="Eq. 10",
    says="the loss on scores is −E(r_θ − r_φ)²",
    verdict=FAILS,
    instead="+E(r_θ − r_φ)²; descent on the printed loss moves r_θ away from the score",
    shows="r_θ = 0.2, score 0.9: the printed loss is {printed:.2f} with slope {printed_slope:+.1f}, the corrected "
    "slope {corrected_slope:+.1f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _eu12() -> Evidence:
    method = METHODS["una-score"]
    assert method.printed is not None
    logps = torch.tensor([0.2], dtype=F64).requires_grad_()
    one = {
        "logps": logps,
        "ref_logps": torch.zeros(1, dtype=F64),
        "scores": torch.tensor([0.9], dtype=F64),
        "beta": 1.0,
    }
    printed, corrected = method.printed(**one), method.loss(**one)
    slopes = [float(torch.autograd.grad(loss.sum(), logps)[0]) for loss in (printed, corrected)]
    return Evidence(
        {"printed": float(printed.detach()), "corrected_slope": slopes[1], "printed_slope": slopes[0]},
        {
            "descent on the printed loss lowers r_θ": slopes[0] > 0,
            "descent on the corrected loss raises r_θ": slopes[1] < 0,
        },
    )


@claim(
    "EU14",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 10, f(x) = c = 0",
    says="the minimiser of the regression on offline scores is the RLHF optimum",
    verdict="holds if c, or f(x), is β·log Z(x)",
    instead="with c = f = 0 the minimiser is another policy, and the loss is not 0 there",
    shows="two responses, r = (1, 0): c = 0 gives ({first:.4f}, {second:.4f}), loss {loss:.4f}; c = {c:.4f} gives π* "
    "= ({best:.4f}, {worst:.4f}), loss 0",
    notebook=NOTEBOOK,
)
def _eu14() -> Evidence:
    mu, c = TINY.ref_logps.exp(), float(TINY.log_partition)
    loss = METHODS["una-score"].loss
    raw = singles(loss, TINY, mu, scores=TINY.rewards)
    with_baseline = singles(loss, TINY, mu, scores=TINY.rewards, baseline=torch.full_like(TINY.rewards, c))
    without_c, with_c = fixed_point(raw, TINY.ref_logps), fixed_point(with_baseline, TINY.ref_logps)
    numbers = {
        "first": float(without_c.exp()[0, 0]),
        "second": float(without_c.exp()[0, 1]),
        "loss": float(raw(without_c)),
        "c": c,
        "best": float(TINY.optimum.exp()[0, 0]),
        "worst": float(TINY.optimum.exp()[0, 1]),
    }
    return Evidence(
        numbers,
        {
            "without c the minimiser is not π*": distance(without_c.exp(), TINY.optimum.exp()) > 0.05
            and numbers["loss"] > 0.3,
            "with c = β·log Z the minimiser is π*": distance(with_c.exp(), TINY.optimum.exp()) < 1e-9
            and float(with_baseline(with_c)) < 1e-20,
            "the closed form agrees": distance(
                una_fixed_point(TINY.ref_logps, TINY.rewards, 1.0).exp(), without_c.exp()
            )
            < 1e-9,
        },
    )


@claim(
    "CU5",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 10",
    says="regression of β·log(π/π_ref) on scores recovers the RLHF optimum from offline data",
    verdict="holds if β·log Z(x) = 0 for every prompt, or V(x) is fitted",
    instead="a constant added to all scores does not change π*, but changes what is learned; with V(x) it does not",
    shows="regret at offsets −8, −2, 0, 2, 8, 16: {m8:.2f}, {m2:.2f}, {p0:.2f}, {p2:.2f}, {p8:.2f}, {p16:.2f}, with "
    "V(x) 0 at each; π_ref has {ref:.2f}; uniformly sampled responses at offset −8 give {uniform:.2f}",
    notebook=NOTEBOOK,
)
def _cu5() -> Evidence:
    names = {"m8": -8.0, "m2": -2.0, "p0": 0.0, "p2": 2.0, "p8": 8.0, "p16": 16.0}
    raw = {name: raw_regret(WORLD, offset) for name, offset in names.items()}
    uniform = torch.full_like(WORLD.ref_logps, -math.log(8))
    ref = WORLD.metrics(WORLD.ref_logps)["regret"]
    moved = shifted(SMALL, 8.0)
    centred = una_regression(moved.ref_logps, moved.rewards, 0.5, baseline="prompt")
    numbers = raw | {"ref": ref, "uniform": raw_regret(WORLD, -8.0, sampler_logps=uniform)}
    zero = una_end(WORLD.ref_logps, WORLD.rewards, 0.5, baseline=0.5 * WORLD.log_partition[:, None] - 1e-12)
    return Evidence(
        numbers,
        {
            "the regret depends on the offset": raw["p0"] < 0.2 * ref
            and raw["p16"] > 0.8 * ref
            and raw["m8"] > 0.5 * ref,
            "no offset gives π*": min(raw.values()) > 0.01,
            "at a large offset it can be worse than no training": numbers["uniform"] > 1.3 * ref,
            "with β·log Z(x) the minimiser is π*": float(WORLD.regret(zero).mean()) < 1e-10,
            "with a fitted V(x) the minimiser is π* at any offset": distance(
                fixed_point(centred, moved.ref_logps).exp(), moved.optimum.exp()
            )
            < 1e-8,
        },
    )


@claim(
    "CU5a",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 10",
    says="regression on scores finds the RLHF optimum (case of high scores, none negative)",
    verdict=FAILS,
    instead="the minimiser is log π/π_ref = r/β − W(κ·e^(r/β)) with Lambert's W and one κ for each prompt; as scores "
    "grow it tends to the sampler",
    shows="KL(π ‖ π_ref) at offsets 0, 4, 16: {kl0:.3f}, {kl4:.3f}, {kl16:.4f}; π* has {best:.3f}",
    notebook=NOTEBOOK,
)
def _cu5a() -> Evidence:
    ends = {o: una_end(WORLD.ref_logps, WORLD.rewards + o, 0.5) for o in (0.0, 4.0, 16.0, 64.0)}
    kls = {o: float(kl(end, WORLD.ref_logps).mean()) for o, end in ends.items()}
    best = float(kl(WORLD.optimum, WORLD.ref_logps).mean())
    moved = shifted(SMALL, 4.0)
    minimiser = fixed_point(una_regression(moved.ref_logps, moved.rewards, 0.5), moved.ref_logps)
    sampler = SMALL.optimum.flip(-1)
    far = una_fixed_point(SMALL.ref_logps, SMALL.rewards + 1e4, 0.5, sampler_logps=sampler)
    return Evidence(
        {"kl0": kls[0.0], "kl4": kls[4.0], "kl16": kls[16.0], "best": best},
        {
            "the closed form is the minimiser": distance(
                una_fixed_point(moved.ref_logps, moved.rewards, 0.5).exp(), minimiser.exp()
            )
            < 1e-8,
            "sampled from π_ref it tends to π_ref": kls[0.0] > kls[4.0] > kls[16.0] > kls[64.0]
            and kls[16.0] < 0.01 * best,
            "sampled from another policy it tends to that policy": distance(far.exp(), sampler.exp()) < 1e-3,
        },
    )


@claim(
    "CU5b",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 10",
    says="regression on scores finds the RLHF optimum (case of low scores, all negative)",
    verdict=FAILS,
    instead="the loss is not convex: its global minimum is a single response, usually the rarest; descent from π_ref "
    "stops at another minimum",
    shows="offset −8: the global minimum has regret {lowest:.2f} (π_ref {ref:.2f}, descent {descent:.2f}) and "
    "probability {top:.4f} on one response, the rarest in {rarest:.0%} of prompts, the best in {best:.0%}",
    notebook=NOTEBOOK,
)
def _cu5b() -> Evidence:
    rewards = WORLD.rewards - 8
    lowest = una_end(WORLD.ref_logps, rewards, 0.5, which="global")
    descent = una_end(WORLD.ref_logps, rewards, 0.5)
    population = una_regression(WORLD.ref_logps, rewards, 0.5)
    chosen = lowest.argmax(-1)
    numbers = {
        "lowest": float(WORLD.regret(lowest).mean()),
        "ref": WORLD.metrics(WORLD.ref_logps)["regret"],
        "top": float(lowest.exp().amax(-1).mean()),
        "rarest": float((chosen == WORLD.ref_logps.argmin(-1)).double().mean()),
        "best": float((chosen == WORLD.rewards.argmax(-1)).double().mean()),
        "descent": float(WORLD.regret(descent).mean()),
    }
    minima = una_minima(WORLD.ref_logps, rewards, 0.5)
    return Evidence(
        numbers,
        {
            "every response has a minimum": not bool(minima[:, :8].isnan().any()),
            "their gradients are 0": distance(slope(population, minima[:, 0]), torch.zeros_like(rewards)) < 1e-10
            and distance(slope(population, minima[:, 7]), torch.zeros_like(rewards)) < 1e-10,
            "the global minimum is one response": numbers["top"] > 0.999 and numbers["rarest"] > 0.6,
            "the global minimum is worse than no training": numbers["lowest"] > 2 * numbers["ref"],
            "descent from π_ref stops elsewhere": float(population(descent)) > float(population(lowest)) + 1e-3
            and numbers["descent"] < numbers["lowest"] / 2,
        },
    )
