"""UNA Eq. 7: responses from the policy, with the sampling differentiated or not, and from data (notebook 04)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.claims.example_worlds import SMALL, TINY, distance, shifted, slope
from una_ref.claims.ledger import UNA, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory import TableWorld, bradley_terry, fixed_point, objective, una_regression
from una_ref.theory.populations import pairs

F64 = torch.float64
NOTEBOOK = "04_una_losses"


def on_policy(world: TableWorld, logps: Tensor, *, through_sampler: bool) -> Tensor:
    """The gradient in the logits (X, Y) of UNA's Eq. 7 with g = MSE: Σ over prompts of E_{y~π}(r_θ − r)²."""
    logits = logps.detach().requires_grad_()
    now = logits.log_softmax(-1)
    weights = now.exp() if through_sampler else now.exp().detach()
    errors = METHODS["una-score"].loss(
        logps=now.flatten(), ref_logps=world.ref_logps.flatten(), scores=world.rewards.flatten(), beta=world.beta
    )
    return torch.autograd.grad((weights.flatten() * errors).sum(), logits)[0]


def policy_gradient(world: TableWorld, logps: Tensor) -> Tensor:
    """∇J in the logits, (X, Y)."""
    return slope(lambda now: objective(now, world.ref_logps, world.rewards, world.beta).sum(), logps)


def literal(world: TableWorld) -> Callable[[Tensor], Tensor]:
    """log π -> Σ over prompts of E_{y~π}(r_θ − r)² = Var_π(e) + J², with the sampler π differentiated too."""
    return lambda logps: (logps.exp() * (world.beta * (logps - world.ref_logps) - world.rewards) ** 2).sum()


@claim(
    "EU13",
    paper=UNA,
    place="Eq. 7",
    says="L = E_{y~π_θ} g(r_φ, r_θ), without saying whether the sampling is differentiated",
    verdict="holds if the sampler is not differentiated",
    instead="then the gradient is −2β·∇J at every policy; the derivative of the whole expression solves another "
    "problem, in which π* is a local maximum where Z(x) > e",
    shows="π = (0.6, 0.4), gradient: supervised {supervised:.4f}, −2β·∇J {twice:.4f}, whole expression {literal:.4f}; "
    "r = (3, 2), whole expression: {at_best:.3f} at π*, {at_ref:.3f} at π_ref, {at_one:.3f} at one response",
    notebook=NOTEBOOK,
)
def _eu13() -> Evidence:
    logps = torch.tensor([[0.6, 0.4]], dtype=F64).log()
    supervised = on_policy(TINY, logps, through_sampler=False)
    twice = -2 * TINY.beta * policy_gradient(TINY, logps)
    through = on_policy(TINY, logps, through_sampler=True)
    high = shifted(TINY, 2.0)
    loss = literal(high)
    numbers = {
        "supervised": float(supervised[0, 0]),
        "twice": float(twice[0, 0]),
        "literal": float(through[0, 0]),
        "at_best": float(loss(high.optimum)),
        "at_ref": float(loss(high.ref_logps)),
        "at_one": float(loss(torch.tensor([[1.0, 1e-300]], dtype=F64).log())),
    }
    return Evidence(
        numbers,
        {
            "the supervised gradient is −2β·∇J": distance(supervised, twice) < 1e-14,
            "the gradient of the whole expression is not": distance(through, twice) > 0.1,
            "where Z > e, π* is a maximum of the whole expression": float(high.log_partition) > 1
            and numbers["at_best"] > max(numbers["at_ref"], numbers["at_one"]),
        },
    )


@claim(
    "CU6",
    paper=UNA,
    place="Eq. 7, Sec. 2.3.2",
    says="online UNA solves the RLHF problem by supervised learning",
    verdict="holds if the sampler is not differentiated",
    instead="in expectation every step is REINFORCE without a baseline; with the sampler differentiated the loss is "
    "Var(e) + J², which drives J towards 0",
    shows="regret after training at offsets 0 and 4 (π_ref {ref:.2f}): not differentiated {fixed0:.4f} and "
    "{fixed4:.4f}, differentiated {through0:.2f} and {through4:.2f}, with J {j0:.2f} and {j4:.2f} (π*: {best0:.2f} "
    "and {best4:.2f})",
    notebook=NOTEBOOK,
)
def _cu6() -> Evidence:
    worlds = {offset: shifted(SMALL, offset) for offset in (0.0, 4.0)}
    numbers = {"ref": SMALL.metrics(SMALL.ref_logps)["regret"]}
    for offset, world in worlds.items():
        for name, through in (("fixed", False), ("through", True)):
            logits = world.ref_logps
            for _ in range(1000):
                logits = logits - 0.4 * on_policy(world, logits.log_softmax(-1), through_sampler=through)
            end = logits.log_softmax(-1)
            numbers[f"{name}{offset:.0f}"] = world.metrics(end)["regret"]
        j = objective(end, world.ref_logps, world.rewards, world.beta)
        numbers |= {
            f"j{offset:.0f}": float(j.mean()),
            f"best{offset:.0f}": float(world.beta * world.log_partition.mean()),
        }
    exact = max(
        distance(on_policy(w, p, through_sampler=False), -2 * w.beta * policy_gradient(w, p))
        for w in (*worlds.values(), shifted(SMALL, -4.0))
        for p in (SMALL.ref_logps, SMALL.optimum, SMALL.optimum.flip(-1))
    )
    one = TableWorld(SMALL.ref_logps[:1], SMALL.rewards[:1] + 4, SMALL.beta)
    curvature = torch.autograd.functional.hessian(lambda z: literal(one)(z.log_softmax(-1)), one.optimum)[0, :, 0]
    p = one.optimum.exp()[0]
    expected = 2 * one.beta**2 * (1 - one.log_partition) * (p.diag() - p[:, None] * p)
    return Evidence(
        numbers,
        {
            "not differentiated: −2β·∇J at every policy and offset": exact < 1e-13,
            "not differentiated: training ends at π*": max(numbers["fixed0"], numbers["fixed4"]) < 1e-3,
            "differentiated: training drives J towards 0": abs(numbers["j0"]) < 0.3 * numbers["best0"]
            and numbers["j4"] < 0.6 * numbers["best4"],
            "differentiated: training ends far from π*, with the offset worse than no training": numbers["through0"]
            > 0.5 * numbers["ref"]
            and numbers["through4"] > 2 * numbers["ref"],
            "differentiated: the curvature at π* is 2β²·(1 − log Z)·Cov, a maximum where log Z > 1": distance(
                curvature, expected
            )
            < 1e-10
            and float(one.log_partition) > 1,
        },
    )


@claim(
    "CU9",
    paper=UNA,
    place="Sec. 2.3.1, offline",
    says="offline regression and RL find the same policy",
    verdict="holds if the policy class contains π* and V(x) is fitted",
    instead="in a class that does not contain π*, only samples from the current policy lead to a point where ∇J = 0, "
    "which need not be the largest J of the class; without V(x) regression misses π* in any class (CU5)",
    shows="a class with 3 parameters, J below the end of ascent on J (π_ref {ref:.2f}): Eq. 10 offline {raw:.3f}, "
    "centred UNA offline {centred:.3f}, DPO {dpo:.3f}, centred UNA on-policy 0",
    notebook=NOTEBOOK,
)
def _cu9() -> Evidence:
    world = shifted(TableWorld.random(0, prompts=8, responses=6, beta=0.5), 1.0)
    features = torch.randn(8, 6, 3, generator=torch.Generator().manual_seed(5), dtype=F64)

    def policy(theta: Tensor) -> Tensor:
        return (world.ref_logps + features @ theta).log_softmax(-1)

    def minimise(loss: Callable[[Tensor], Tensor]) -> Tensor:
        theta = torch.zeros(3, dtype=F64).requires_grad_()
        optimiser = torch.optim.LBFGS([theta], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def closure() -> Tensor:
            value = loss(policy(theta))
            (theta.grad,) = torch.autograd.grad(value, theta)
            return value

        optimiser.step(closure)
        return theta.detach()

    def j(logps: Tensor) -> Tensor:
        return objective(logps, world.ref_logps, world.rewards, world.beta).mean()

    def slope_of_j(theta: Tensor) -> Tensor:
        at = theta.clone().requires_grad_()
        return torch.autograd.grad(j(policy(at)), at)[0]

    mu = world.ref_logps.exp()
    best = float(j(policy(minimise(lambda logps: -j(logps)))))
    theta = torch.zeros(3, dtype=F64)
    for _ in range(1500):
        moving = theta.clone().requires_grad_()
        logps = policy(moving)
        population = una_regression(
            world.ref_logps, world.rewards, 0.5, sampler_logps=logps.detach(), baseline="prompt"
        )
        theta = theta - 0.3 * torch.autograd.grad(population(logps), moving)[0]
    losses = {
        "raw": una_regression(world.ref_logps, world.rewards, 0.5),
        "centred": una_regression(world.ref_logps, world.rewards, 0.5, baseline="prompt"),
        "dpo": pairs(METHODS["dpo"].loss, world, mu, bradley_terry(world.rewards)),
    }
    numbers = {name: best - float(j(policy(minimise(loss)))) for name, loss in losses.items()}
    numbers["ref"] = best - float(j(world.ref_logps))
    return Evidence(
        numbers,
        {
            "π* is not in the class": world.metrics(policy(theta))["regret"] > 0.05,
            "on-policy training ends where ∇J = 0": float(slope_of_j(theta).abs().max()) < 1e-7,
            "it has the J at which ascent on J from π_ref ends": abs(best - float(j(policy(theta)))) < 1e-8,
            "no offline loss ends there": min(numbers[name] for name in losses) > 0.02 * numbers["ref"],
            "in the class of all policies centred UNA finds π*": distance(
                fixed_point(losses["centred"], world.ref_logps).exp(), world.optimum.exp()
            )
            < 1e-8,
        },
    )
