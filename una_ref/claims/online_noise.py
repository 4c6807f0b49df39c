"""The noise of online gradients: UNA, PPO and V(x), at π_ref and at π* (notebook 13)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.claims.example_worlds import F64, WORLD, shifted
from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.claims.online_learning import world_of
from una_ref.methods import METHODS
from una_ref.methods.singles import una_online_released
from una_ref.theory import TableWorld

NOTEBOOK = "13_online_alignment"


def response_gradients(loss: Callable[..., Tensor], world: TableWorld, logps: Tensor, **given: Tensor) -> Tensor:
    """(X, Y, Y) the gradient of each response's loss in the logits of its prompt; the last axis is that of the logits.

    `given` are the other arguments of the loss, such as scores and the anchor's log-probs; they broadcast to (X, Y).
    """
    prompts, responses = world.rewards.shape
    logits = logps.detach()[:, None, :].expand(-1, responses, -1).clone().requires_grad_()
    each = logits.log_softmax(-1).diagonal(dim1=1, dim2=2)
    given = {name: value.expand(prompts, responses).reshape(-1) for name, value in given.items()}
    losses = loss(logps=each.reshape(-1), beta=world.beta, **given)
    return torch.autograd.grad(losses.sum(), logits)[0]


def noise_to_signal(gradients: Tensor, logps: Tensor) -> float:
    """Variance of the gradient of one response per prompt, y ~ π, over its squared mean; both summed over all logits.

    With this number of responses per prompt the noise of their mean is as large as the signal.
    """
    p = logps.exp()
    mean = (p[..., None] * gradients).sum(1)
    square = (p * (gradients**2).sum(-1)).sum()
    return float((square - (mean**2).sum()) / (mean**2).sum())


def noise(world: TableWorld, how: str, logps: Tensor | None = None) -> float:
    """`noise_to_signal` of an online method at a policy, π_ref by default.

    how
        "eq10": UNA Eq. 10. "whitened": minus the mean over the rollout, one number for all prompts, which PPO's
        whitening subtracts before its critic has learned anything. "v": minus V(x), the mean of each prompt.
        "released": the authors' script, in the first pass.
    """
    at = world.ref_logps if logps is None else logps
    if how == "released":
        return noise_to_signal(
            response_gradients(una_online_released, world, at, old_logps=at, scores=world.rewards), at
        )
    mean = (at.exp() * (world.rewards - world.beta * (at - world.ref_logps))).sum(-1, keepdim=True)
    baselines = {"eq10": 0 * mean, "whitened": 0 * mean + mean.mean(), "v": mean}
    gradients = response_gradients(
        METHODS["una-online"].loss,
        world,
        at,
        ref_logps=world.ref_logps,
        scores=world.rewards,
        baseline=baselines[how],
    )
    return noise_to_signal(gradients, at)


@claim(
    "CU22a",
    paper=UNA,
    place="Sec. 2.3.2",
    says="the supervised step is stable, the RL step is not",
    verdict=FAILS,
    instead="one response of Eq. 10 is as noisy as REINFORCE without a baseline: its noise-to-signal ratio grows with "
    "the square of the reward offset, in the authors' script exponentially (σ saturates), and with V(x) not at all",
    shows="gradient at π_ref, variance over squared mean, offsets 0, 2, 4, 8: Eq. 10 {raw0:.1f}, {raw2:.0f}, "
    "{raw4:.0f}, {raw8:.0f}; authors' script {released0:.1f}, {released2:.0f}, {released4:.0f}, {released8:.1e}; with "
    "V(x) {v:.1f} at each",
    notebook=NOTEBOOK,
)
def _cu22a() -> Evidence:
    numbers = {
        f"{name}{offset}": noise(shifted(WORLD, float(offset)), how)
        for name, how in (("raw", "eq10"), ("released", "released"))
        for offset in (0, 2, 4, 8)
    }
    with_v = [noise(shifted(WORLD, offset), "v") for offset in (0.0, 2.0, -8.0, 8.0)]
    numbers["v"] = with_v[0]
    down = {how: noise(shifted(WORLD, -8.0), how) for how in ("eq10", "released")}
    growth = (numbers["raw8"] - numbers["raw4"]) / (numbers["raw4"] - numbers["raw0"])
    return Evidence(
        numbers,
        {
            "Eq. 10: the ratio grows with the square of the offset": abs(growth - 3) < 0.5 and down["eq10"] > 300,
            "authors' script: the ratio grows exponentially": numbers["released8"] > 1000 * numbers["released4"]
            and down["released"] > 1e5,
            "with V(x): the ratio does not depend on the offset": max(with_v) - min(with_v) < 1e-9,
            "with V(x) the ratio is the smallest": numbers["v"] < min(numbers["raw0"], numbers["released0"]),
        },
    )


def noise_at_optimum(error: float = 0.01) -> dict[str, float]:
    """Root mean square of the factor of ∇log π at π*, over a rollout sampled from π*, by method.

    The factor is the residual of centred UNA and of Eq. 10, and PPO's advantage, whitened and not, with a critic whose
    errors have sd `error`.
    """
    world = world_of(0)
    generator = torch.Generator().manual_seed(0)
    drawn = world.optimum.exp().multinomial(64, replacement=True, generator=generator)
    logps, ref, scores = (t.gather(1, drawn).flatten() for t in (world.optimum, world.ref_logps, world.rewards))
    groups = torch.arange(len(drawn)).repeat_interleave(64)
    critic = world.beta * world.log_partition + error * torch.randn(len(drawn), generator=generator, dtype=F64)
    one_token = {"ref_token_logps": ref[:, None], "old_token_logps": logps[:, None], "scores": scores}
    ppo = METHODS["ppo"].advantages
    assert ppo is not None
    more = {"old_values": critic[groups][:, None], "mask": torch.ones(len(groups), 1, dtype=torch.bool)}
    common = {"logps": logps, "ref_logps": ref, "scores": scores, "beta": world.beta}
    advantages = {w: ppo(**one_token, **more, beta=world.beta, whiten=w)[0] for w in (0.0, 1.0)}
    factors = {
        "centred": METHODS["una-centred"].loss(**common, groups=groups).sqrt(),
        "eq10": METHODS["una-online"].loss(**common).sqrt(),
        "ppo": advantages[0.0],
        "ppo_whitened": advantages[1.0],
    }
    return {name: float((value**2).mean().sqrt()) for name, value in factors.items()}


@claim(
    "CU22b",
    paper=UNA,
    place="Sec. 2.3.2",
    says="UNA turns an unstable RL problem into a stable supervised one",
    verdict="holds if V(x) is the leave-one-out mean: then the gradient has no noise at the optimum",
    instead="at π* every residual of centred UNA is 0, for any sampled responses; that of Eq. 10 is −β·log Z(x), and "
    "PPO's whitening scales any error of its critic up to 1",
    shows="root mean square of the factor of ∇log π at π*, 64 responses of each of 8 prompts: centred UNA 0, Eq. 10 "
    "{eq10:.2f}, PPO with a critic error of sd 0.01 {ppo:.3f}, whitened {ppo_whitened:.2f}",
    notebook=NOTEBOOK,
)
def _cu22b() -> Evidence:
    numbers = noise_at_optimum()
    centred = numbers.pop("centred")
    return Evidence(
        numbers,
        {
            "centred UNA: 0": centred < 1e-12,
            "Eq. 10: β·log Z(x), not 0": numbers["eq10"] > 0.3,
            "PPO: the critic's error, and 1 when whitened": numbers["ppo"] < 0.02
            and abs(numbers["ppo_whitened"] - 1) < 0.01,
        },
    )
