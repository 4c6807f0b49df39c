"""The constant c and the function f(x) of UNA's Discussion 3 (notebook 04)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.claims.example_worlds import SMALL, distance, raw_regret, slope
from una_ref.claims.ledger import HOLDS, UNA, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory import TableWorld, una_end, una_regression

F64 = torch.float64
NOTEBOOK = "04_una_losses"


@claim(
    "CU7",
    paper=UNA,
    place="Sec. 7, Discussion 3",
    says="the constant c can be estimated in advance or by a moving average",
    verdict="holds if all prompts have the same β·log Z(x), which c then equals",
    instead="one c removes the part of β·log Z(x) that all prompts share; the rest needs one number V(x) for each "
    "prompt",
    shows="offset 3, regret as a fraction of π_ref's: {raw:.2f} with c = 0; with the best c {even:.2f}, {half:.2f}, "
    "{two:.2f} where the prompts' offsets have sd 0, 0.5, 2; with V(x) 0",
    notebook=NOTEBOOK,
)
def _cu7() -> Evidence:
    world = TableWorld.random(0, prompts=16, responses=6, beta=0.5)
    ref = world.metrics(world.ref_logps)["regret"]
    spread = torch.randn(16, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    spread = (spread - spread.mean()) / spread.std(correction=0)

    def best(sd: float) -> float:
        offsets = 3 + sd * spread
        return min(raw_regret(world, offsets, baseline=c / 4) for c in range(11, 19)) / ref

    numbers = {"raw": raw_regret(world, 3.0) / ref, "even": best(0.0), "half": best(0.5), "two": best(2.0)}
    with_v = una_end(
        world.ref_logps,
        world.rewards + 3 + 2 * spread,
        0.5,
        baseline=3 + 2 * spread + 0.5 * world.log_partition[:, None] - 1e-12,
    )
    return Evidence(
        numbers,
        {
            "a constant helps where prompts have the same offset": numbers["even"] < 0.3 * numbers["raw"],
            "it helps less, the more the prompts differ": 0.01 < numbers["even"] < numbers["half"] < numbers["two"],
            "one number for each prompt gives π*": float(world.regret(with_v).mean()) < 1e-10,
        },
    )


def tuples(count: int, k: int) -> Tensor:
    """All ordered samples of k from `count` responses, with replacement: (count^k, k)."""
    return torch.cartesian_prod(*[torch.arange(count)] * k)


def centred_gradients(ref: Tensor, scores: Tensor, beta: float, logps: Tensor, drawn: Tensor, noise: Tensor) -> Tensor:
    """∂/∂logits (N, Y) of una-centred's mean over each of N groups of one prompt; `noise` (N, k) is added to scores."""
    n, k = drawn.shape
    logits = logps.detach().expand(n, -1).clone().requires_grad_()
    sampled = logits.log_softmax(-1).gather(1, drawn)
    losses = METHODS["una-centred"].loss(
        logps=sampled.flatten(),
        ref_logps=ref[drawn].flatten(),
        scores=(scores[drawn] + noise).flatten(),
        groups=torch.arange(n).repeat_interleave(k),
        beta=beta,
    )
    return torch.autograd.grad(losses.sum() / k, logits)[0]


@claim(
    "CU8",
    paper=UNA,
    place="Sec. 7, Discussion 3",
    says="an appropriate f(x) may improve UNA (here: a leave-one-out mean over K responses of the prompt)",
    verdict=HOLDS,
    instead="K = 2 gives the right fixed point; a larger K only lowers the gradient noise, which at π* is K/(K − 1) "
    "times that of the exact V(x)",
    shows="noise per response at π* relative to the exact V(x), noisy scores, K = 2, 3, 4, 8: {k2:.2f}, {k3:.2f}, "
    "{k4:.2f}, {k8:.2f}; with prompts sampled too, the noise at π_ref is least at K = {best:.1f}",
    notebook=NOTEBOOK,
)
def _cu8() -> Evidence:
    world, beta = SMALL, SMALL.beta
    ref, scores, best = world.ref_logps[0], world.rewards[0], world.optimum[0]
    population = una_regression(world.ref_logps[:1], world.rewards[:1], beta, baseline="prompt")
    policy = best.flip(-1)  # not the policy that the responses are sampled from
    expected = slope(population, policy[None])[0]
    bias = 0.0
    for k in (2, 3):
        drawn = tuples(5, k)
        probabilities = ref[drawn].sum(-1).exp()
        gradients = centred_gradients(ref, scores, beta, policy, drawn, torch.zeros(drawn.shape, dtype=F64))
        bias = max(bias, distance((probabilities[:, None] * gradients).sum(0), expected))
    # At π* with scores ± 1, over all groups and signs. With the exact V(x) the residual is the noise alone.
    noise = {}
    for k in (2, 3):
        drawn, signs = tuples(5, k), 2.0 * tuples(2, k).to(F64) - 1
        n, m = len(drawn), len(signs)
        all_drawn, all_signs = drawn.repeat_interleave(m, 0), signs.repeat(n, 1)
        gradients = centred_gradients(ref, scores, beta, best, all_drawn, all_signs)
        probabilities = best[all_drawn].sum(-1).exp() / m
        alone = 4 * beta**2 * (1 - (best.exp() ** 2).sum())  # E‖2β·noise·∇log π‖²
        noise[k] = float(k * (probabilities * (gradients**2).sum(-1)).sum() / alone)
    # At π_ref, a fixed number of responses and random prompts: C + (S + V)/(K − 1) + K·B (U-statistics).
    e, p = world.rewards - 0.0, world.ref_logps.exp()
    mean = (p * e).sum(-1, keepdim=True)
    cov = p * (e - mean)
    s = (cov**2).sum(-1)
    v = (p * (e - mean) ** 2).sum(-1) * (1 - (p**2).sum(-1))
    between = (s.mean() - s.sum() / len(s) ** 2).item()
    return Evidence(
        {
            "k2": noise[2],
            "k3": noise[3],
            "k4": 4 / 3,
            "k8": 8 / 7,
            "best": 1 + math.sqrt(float((s + v).mean()) / between),
        },
        {
            "K = 2 and 3: the expected gradient is that of the fitted V(x)": bias < 1e-14,
            "the noise is K/(K − 1)": abs(noise[2] - 2) < 1e-12 and abs(noise[3] - 1.5) < 1e-12,
        },
    )
