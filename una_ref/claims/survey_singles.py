"""The survey on single responses: KTO, DRO, negative preferences (Eq. 31 to 39, 53; Sec. 3.10)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from una_ref.claims.example_survey import (
    F64,
    SINGLES_NOTEBOOK,
    descended,
    minus_log_sigmoid,
    numbers,
    slope_at,
    total_variation,
)
from una_ref.claims.example_worlds import GENERIC, SMALL, distance
from una_ref.claims.ledger import FAILS, HOLDS, SURVEY, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory import fixed_point, kl
from una_ref.theory.populations import singles

NOTEBOOK = SINGLES_NOTEBOOK


@claim(
    "ES16",
    paper=SURVEY,
    place="Eq. 33",
    says="KTO's z₀ is 1/m times a sum over all i ≠ j, and equals β·KL",
    verdict=FAILS,
    instead="the mean over mismatched pairs, such as y_{i+1} with x_i: m terms; it is an estimate, without gradient",
    shows="m = 4, all log-ratios 1, β = 0.1: printed {printed:.1f}, mean {right:.1f}",
    notebook=NOTEBOOK,
)
def _es16() -> Evidence:
    ratios, beta = torch.ones(4, 4, dtype=F64), 0.1
    off = ~torch.eye(4, dtype=torch.bool)
    printed = float((beta * ratios[off]).sum() / 4)
    shifted = beta * ratios[torch.arange(4), torch.arange(1, 5) % 4]
    return Evidence(
        {"printed": printed, "right": float(shifted.mean())},
        {
            "printed it grows with m": abs(printed - 3 * beta) < 1e-12,
            "the mean over all i ≠ j agrees with that over m pairs here": abs(
                float((beta * ratios[off]).mean() - shifted.mean())
            )
            < 1e-12,
        },
    )


@claim(
    "ES17",
    paper=SURVEY,
    place="Sec. 3.6.1",
    says="SLiC is a human-aware loss (HALO)",
    verdict=FAILS,
    instead="the KTO paper's definition needs a reward proportional to log(π/π_ref); SLiC's loss contains no π_ref",
    shows="log π_ref lower by 1 for y_w: DPO's loss changes by {dpo:.3f}, KTO's by {kto:.3f}, SLiC's by {slic:.0f}",
    notebook=NOTEBOOK,
)
def _es17() -> Evidence:
    def dpo(ref: float) -> float:
        return minus_log_sigmoid(-3.0 - ref - (-4.0 + 4.0))

    def kto(ref: float) -> float:
        return float(1 - torch.sigmoid(numbers(-3.0 - ref)))

    def slic(ref: float) -> float:
        return max(0.0, 1.0 + 3.0 - 4.0) + 0.1 * 3.0

    changes = {f.__name__: f(-4.0) - f(-3.0) for f in (dpo, kto, slic)}
    return Evidence(
        changes, {"only SLiC's loss knows no reference": changes["slic"] == 0 > max(changes["dpo"], changes["kto"])}
    )


@claim(
    "ES18",
    paper=SURVEY,
    place="Eq. 38",
    says="∇L = −E[∇log π·(r − V) − (β/2)·∇(log(π/π_ref))²]",
    verdict=FAILS,
    instead="β times that; the rescaling by 1/β that the survey lists afterwards is in it already",
    shows="β = 0.1, log-ratio 1, r = 1, V = 0.2: slope of Eq. 37 in log π {right:.2f}, printed {printed:.2f}",
    notebook="07_gradients",
    misprint=True,
)
def _es18() -> Evidence:
    logps = numbers(1).requires_grad_()
    loss = METHODS["dro"].loss(logps=logps, ref_logps=numbers(0), scores=numbers(1), baseline=numbers(0.2), beta=0.1)
    right = float(torch.autograd.grad(loss.sum(), logps)[0])
    printed = -((1 - 0.2) - 0.1 * 1)
    return Evidence({"right": right, "printed": printed}, {"they differ by β": abs(right - 0.1 * printed) < 1e-12})


@claim(
    "ES19",
    paper=SURVEY,
    place="Sec. 3.6.2",
    says="DRO's loss has a unique global optimum (π*, V*)",
    verdict="holds if the data contain every response",
    instead="with fewer responses other policies have loss 0",
    shows="π_ref = ⅓ each, r = (1, 0, −1), β = 1, data with the first two: π = (0.5, {second:.4f}, {third:.4f}) has "
    "loss {loss:.0f}; π* = ({a:.4f}, {b:.4f}, {c:.4f})",
    notebook=NOTEBOOK,
)
def _es19() -> Evidence:
    rewards, ref = numbers(1, 0, -1), torch.full((3,), 1 / 3, dtype=F64).log()
    best = (ref + rewards).log_softmax(0)
    first = numbers(0.5).log()
    value = rewards[0] - (first - ref[0])
    second = ref[1] + rewards[1] - value
    logps = torch.stack([first[0], second[0], (1 - first.exp() - second.exp()).log()[0]])
    losses = METHODS["dro"].loss(
        logps=logps[:2], ref_logps=ref[:2], scores=rewards[:2], baseline=value.expand(2), beta=1.0
    )
    a, b, c = best.exp().tolist()
    return Evidence(
        {
            "second": float(logps[1].exp()),
            "third": float(logps[2].exp()),
            "loss": float(losses.sum()),
            "a": a,
            "b": b,
            "c": c,
        },
        {
            "its loss is 0": float(losses.abs().max()) < 1e-20,
            "it is another policy": total_variation(logps[None], best[None]) > 0.1,
        },
    )


@claim(
    "ES29",
    paper=SURVEY,
    place="Eq. 53",
    says="the K samples are compared with π_ref; π_ref⁻ is defined and not used",
    verdict="holds if π_ref in the first ratio stands for π_ref⁻",
    instead="D2O compares its samples with π_ref⁻, the harmful reference, and y_l with π_ref⁺",
    shows="samples 1 nat likelier under π_ref⁻ than under π_ref: loss {ref:.4f} with π_ref, {minus:.4f} with π_ref⁻",
    notebook=NOTEBOOK,
)
def _es29() -> Evidence:
    sampled, ref, harmful = numbers(-2, -3), numbers(-2.5, -3.5), numbers(-1.5, -2.5)
    gamma, alpha, rejected = 0.4, 0.1, -1.0
    values = [minus_log_sigmoid(gamma * (sampled - other).mean() - alpha * rejected) for other in (ref, harmful)]
    return Evidence(
        {"ref": values[0], "minus": values[1]},
        {"the choice of the reference changes the loss": abs(values[0] - values[1]) > 0.1},
    )


@claim(
    "ES30",
    paper=SURVEY,
    place="Sec. 3.10.2",
    says="NPO is the negative part of DPO's loss (there is no equation)",
    verdict="holds if it is multiplied by 2/β",
    instead="(2/β)·log(1 + (π/π_ref)^β): it tends to gradient ascent as β → 0, which the plain part does not",
    shows="log-ratio 1, β = 0.1: {right:.3f} with the factor, {plain:.4f} without; slope at β = 0.001 {limit:.3f} and "
    "{vanishes:.4f}",
    notebook=NOTEBOOK,
)
def _es30() -> Evidence:
    def plain(u: Tensor, beta: float) -> Tensor:
        return softplus(beta * u)

    right, bare = 2 / 0.1 * float(plain(numbers(1), 0.1)), float(plain(numbers(1), 0.1))
    limit, vanishes = (factor * slope_at(lambda u: plain(u, 1e-3), 1.0) for factor in (2 / 1e-3, 1.0))
    return Evidence(
        {"right": right, "plain": bare, "limit": limit, "vanishes": vanishes},
        {"its limit is gradient ascent": abs(limit - 1) < 1e-3, "the plain part vanishes": vanishes < 1e-3},
    )


@claim(
    "CS5",
    paper=SURVEY,
    place="Sec. 3.6.2",
    says="DRO has a unique global optimum, where π and V can be optimised independently",
    verdict="holds if the data contain every response",
    instead="where some responses are missing, the end depends on the start, and its regret stays",
    shows="largest TV between the ends of 4 starts: {full:.0f} with all responses, {part:.2f} with two of five "
    "missing; mean regret there {regret:.2f}",
    notebook=NOTEBOOK,
)
def _cs5() -> Evidence:
    def ends(sampler: Tensor) -> list[Tensor]:
        def population(logps: Tensor) -> Tensor:
            gap = SMALL.rewards - SMALL.beta * (logps - SMALL.ref_logps)
            value = (sampler * gap).sum(-1, keepdim=True) / sampler.sum(-1, keepdim=True)  # V(x) at its best
            loss = METHODS["dro"].loss
            return singles(loss, SMALL, sampler, scores=SMALL.rewards, baseline=value)(logps)

        generator = torch.Generator().manual_seed(0)
        starts = [torch.randn(SMALL.rewards.shape, generator=generator, dtype=F64).log_softmax(-1) for _ in range(4)]
        if bool((sampler > 0).all()):
            return [fixed_point(population, start) for start in starts]
        return [
            descended(lambda logits: population(logits.log_softmax(-1)), start, steps=300, lr=10.0).log_softmax(-1)
            for start in starts
        ]

    full = SMALL.ref_logps.exp()
    part = full.clone()
    part[:, 3:] = 0
    widths = {}
    for name, sampler in (("full", full), ("part", part / part.sum(-1, keepdim=True))):
        found = ends(sampler)
        widths[name] = max(total_variation(found[0], other) for other in found[1:])
        lost = float(torch.stack([SMALL.regret(logps).mean() for logps in found]).mean())
    return Evidence(
        {**widths, "regret": lost},
        {
            "unique with all responses": widths["full"] < 1e-8,
            "not without": widths["part"] > 0.05 and lost > 0.01,
        },
    )


@claim(
    "CS6",
    paper=SURVEY,
    place="Eq. 38, 39",
    says="these are the gradients of Eq. 37",
    verdict="holds if Eq. 38 is multiplied by β",
    instead="Eq. 39 holds as it stands",
    shows="random batch, β = 0.3: Eq. 38 over the gradient {ratio:.4f}; Eq. 39 differs by {gap:.0f}",
    notebook=NOTEBOOK,
)
def _cs6() -> Evidence:
    generator = torch.Generator().manual_seed(0)
    beta = 0.3
    logps, values, ref, scores = torch.randn(4, 16, generator=generator, dtype=F64).unbind()
    logps, values = logps.requires_grad_(), values.requires_grad_()
    loss = METHODS["dro"].loss(logps=logps, ref_logps=ref, scores=scores, baseline=values, beta=beta)
    of_policy, of_value = torch.autograd.grad(loss.sum(), [logps, values])
    with torch.no_grad():
        printed = -((scores - values) - beta * (logps - ref))
        eq39 = values - scores + beta * (logps - ref)
    ratio = printed / of_policy
    return Evidence(
        {"ratio": float(ratio.mean()), "gap": distance(eq39, of_value)},
        {
            "Eq. 38 is 1/β times it": distance(ratio, torch.full_like(ratio, 1 / beta)) < 1e-9,
            "Eq. 39": distance(eq39, of_value) < 1e-14,
        },
    )


@claim(
    "CS9",
    paper=SURVEY,
    place="Eq. 33",
    says="z₀ is β·KL(π ‖ π_ref)",
    verdict=FAILS,
    instead="responses to other prompts are unlikely under π: their log-ratios are negative, and the mean is clamped "
    "to about 0",
    shows="β·KL at π* {true:.2f}; mean of the clamped estimate from batches of 2, 8, 32: {b2:.3f}, {b8:.3f}, {b32:.3f} "
    "(the mean without clamp is {raw:.2f})",
    notebook=NOTEBOOK,
)
def _cs9() -> Evidence:
    prompts, beta = len(GENERIC.rewards), GENERIC.beta
    ratios = beta * (GENERIC.optimum - GENERIC.ref_logps)
    true = float(beta * kl(GENERIC.optimum, GENERIC.ref_logps).mean())
    generator = torch.Generator().manual_seed(0)

    def clamped(size: int) -> float:
        x = torch.randint(prompts, (20_000, size), generator=generator)
        other = torch.randint(prompts - 1, (20_000, size), generator=generator)
        other = other + (other >= x).long()  # the prompt that the response was written for
        y = torch.multinomial(GENERIC.ref_logps.exp()[other.flatten()], 1, generator=generator).view_as(x)
        return float(ratios[x, y].mean(1).clamp(min=0).mean())

    found = {f"b{size}": clamped(size) for size in (2, 8, 32)}
    written = (GENERIC.ref_logps.exp().sum(0) - GENERIC.ref_logps.exp()) / (prompts - 1)
    raw = float((written * ratios).sum(-1).mean())
    return Evidence(
        {"true": true, **found, "raw": raw},
        {
            "the estimate without clamp is negative": raw < 0 < true,
            "larger batches are nearer to 0": found["b2"] > found["b8"] > found["b32"],
            "all are far below β·KL": found["b2"] < 0.5 * true,
        },
    )


@claim(
    "CS16",
    paper=SURVEY,
    place="Sec. 3.10.2",
    says="NPO collapses much more slowly than gradient ascent",
    verdict=HOLDS,
    instead="gradient ascent lowers log π by a constant in each step, NPO by less and less: linear against logarithmic",
    shows="2,000 steps, log π of the response to forget falls by {npo:.1f} nats (NPO) and {ascent:.0f} (ascent); KL "
    "from π_ref {npo_kl:.1f} and {ascent_kl:.0f}",
    notebook=NOTEBOOK,
)
def _cs16() -> Evidence:
    ref, beta = SMALL.ref_logps[0], 0.1

    def end(loss: object) -> Tensor:
        logits = descended(
            lambda x: loss(x.log_softmax(0)[0] - ref[0]),  # type: ignore[operator]
            ref,
            steps=2000,
            lr=0.2,
        )
        return logits.log_softmax(0)

    found = {"npo": end(lambda u: 2 / beta * softplus(beta * u)), "ascent": end(lambda u: u)}
    falls = {name: float(ref[0] - logps[0]) for name, logps in found.items()}
    divergences = {f"{name}_kl": float(kl(ref[None], logps[None])) for name, logps in found.items()}
    return Evidence(
        falls | divergences,
        {
            "NPO falls less": falls["npo"] < 0.2 * falls["ascent"],
            "and leaves π_ref less": divergences["npo_kl"] < 0.2 * divergences["ascent_kl"],
        },
    )
