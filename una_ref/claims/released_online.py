"""The online loss of the authors' code: its anchor, and where training with it ends (notebook 13)."""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.claims.online_learning import world_of
from una_ref.claims.online_noise import response_gradients
from una_ref.methods.singles import una_online_released
from una_ref.theory import TableWorld, kl

NOTEBOOK = "13_online_alignment"


def released_descent(
    world: TableWorld, rollouts: int, rate: float, *, beta: float = 1.0, passes: int = 1
) -> list[Tensor]:
    """[log π (X, Y)] before training and after each rollout of the authors' loss with unlimited samples.

    A rollout takes `passes` steps of descent on Σ_y π_rollout·loss, π_rollout fixed, at the rate `rate`/`beta`.
    """
    logits, path = world.ref_logps, [world.ref_logps]
    for _ in range(rollouts):
        old = logits.log_softmax(-1)
        for _ in range(passes):
            logits = logits.detach().requires_grad_()
            now = logits.log_softmax(-1)
            losses = una_online_released(
                logps=now.flatten(), old_logps=old.flatten(), scores=world.rewards.flatten(), beta=beta
            )
            (slope,) = torch.autograd.grad((old.exp().flatten() * losses).sum(), logits)
            logits = (logits - rate / beta * slope).detach()
        path.append(logits.log_softmax(-1))
    return path


@claim(
    "CU23",
    paper=UNA,
    place="Sec. 4.2, the authors' una_peft.py, l. 350–352",
    says="the released online code trains Eq. 10 with the implicit reward β·log π/π_ref",
    verdict=FAILS,
    instead="its anchor is the rollout's policy: REINFORCE on σ(s) − ½ in the first pass, steps of bounded length in "
    "later passes. π_ref is not in the loss, so the KL grows beyond that of π* until one response is left, and β is a "
    "step size",
    shows="unlimited samples: KL(π ‖ π_ref) {kl10:.2f}, {kl100:.2f}, {kl:.2f} after 10, 100, 1,000 rollouts (π* "
    "{best:.2f}); at the end one response has probability {top:.3f}, the best one in {argmax:.0%} of prompts; regret "
    "falls to {lowest:.2f} and ends at {regret:.2f} (π_ref {ref:.2f}); with four passes and β = 30 the KL is "
    "{thirty:.2f}",
    notebook=NOTEBOOK,
)
def _cu23() -> Evidence:
    world = world_of(0)
    path = released_descent(world, 1000, 4.0)
    end = path[-1]
    kls = [float(kl(policy, world.ref_logps).mean()) for policy in path]
    best = float(kl(world.optimum, world.ref_logps).mean())
    four = released_descent(world, 600, 2.0, beta=30.0, passes=4)[-1]
    twin = released_descent(world, 20, 4.0, beta=30.0)[-1]
    # The gradient of the first pass by hand: −(β/2)·∇E_π[σ(s) − ½].
    policy = world.optimum.flip(-1)
    p, value = policy.exp(), world.rewards.sigmoid() - 0.5
    by_hand = -0.5 * world.beta * p * (value - (p * value).sum(-1, keepdim=True))
    each = response_gradients(una_online_released, world, policy, old_logps=policy, scores=world.rewards)
    numbers = {
        "kl10": kls[10],
        "kl100": kls[100],
        "kl": kls[-1],
        "best": best,
        "top": float(end.exp().amax(-1).mean()),
        "argmax": float((end.argmax(-1) == world.rewards.argmax(-1)).double().mean()),
        "lowest": min(float(world.regret(policy).mean()) for policy in path),
        "regret": float(world.regret(end).mean()),
        "ref": float(world.regret(world.ref_logps).mean()),
        "thirty": float(kl(four, world.ref_logps).mean()),
    }
    return Evidence(
        numbers,
        {
            "the first pass is REINFORCE on σ(s) − ½": float(((p[..., None] * each).sum(1) - by_hand).abs().max())
            < 1e-15,
            "the KL grows with every rollout": all(a < b for a, b in zip(kls, kls[1:], strict=False)),
            "the KL grows beyond that of π*": kls[-1] > 1.3 * best,
            "one response is left": numbers["top"] > 0.99,
            "the regret at the end is more than twice the lowest": numbers["regret"] > 2 * numbers["lowest"],
            "with one pass β is a step size, exactly": float((twin - path[20]).abs().max()) < 1e-12,
            "with four passes the KL grows beyond that of π* too": numbers["thirty"] > 1.3 * best,
        },
    )
