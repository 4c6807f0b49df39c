"""Online UNA beside PPO: its noise, its stability, the authors' script, models and hours (notebook 13)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.claims.worlds import WORLD, shifted
from una_ref.evaluation.report import interval
from una_ref.methods import METHODS
from una_ref.methods.singles import una_online_released
from una_ref.theory import Knobs, TableWorld, kl

F64 = torch.float64
NOTEBOOK = "13_online_alignment"


# Gradients, response by response --------------------------------------------------------------------------------------


def response_gradients(loss: Callable[..., Tensor], world: TableWorld, logps: Tensor, **given: Tensor) -> Tensor:
    """(X, Y, Y) gradient, in the prompt's logits, of the loss of each response alone; the last axis is the logits'.

    `given` are arguments of the loss that broadcast to (X, Y), the scores or another anchor than π_ref among them.
    """
    prompts, responses = world.rewards.shape
    logits = logps.detach()[:, None, :].expand(-1, responses, -1).clone().requires_grad_()
    own = logits.log_softmax(-1).diagonal(dim1=1, dim2=2)
    given = {name: value.expand(prompts, responses).reshape(-1) for name, value in given.items()}
    losses = loss(logps=own.reshape(-1), beta=world.beta, **given)
    return torch.autograd.grad(losses.sum(), logits)[0]


def noise_to_signal(gradients: Tensor, logps: Tensor) -> float:
    """Variance of the gradient of one response of each prompt, y ~ π, over the square of its mean; both summed.

    It is the number of responses of each prompt at which the noise of their mean is as large as the signal.
    """
    p = logps.exp()
    mean = (p[..., None] * gradients).sum(1)
    square = (p * (gradients**2).sum(-1)).sum()
    return float((square - (mean**2).sum()) / (mean**2).sum())


def noise(world: TableWorld, how: str, logps: Tensor | None = None) -> float:
    """`noise_to_signal` at a policy, π_ref by default, of what an online method makes of one response.

    how
        "eq10": UNA Eq. 10. "whitened": less one number for all prompts, the mean over the rollout, which is what PPO's
        whitening takes off before its critic has learned anything. "v": less V(x), the mean of each prompt.
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
    says="the supervised step is stable where the RL step is not",
    verdict=FAILS,
    instead="one response of Eq. 10 is as noisy as REINFORCE without a baseline: noise over signal grows with the "
    "square of the rewards' offset, and in the authors' script, where σ saturates, exponentially; with V(x) not at all",
    shows="variance over squared mean of the gradient at π_ref, offsets 0, 2, 4, 8: Eq. 10 {raw0:.1f}, {raw2:.0f}, "
    "{raw4:.0f}, {raw8:.0f}; released {released0:.1f}, {released2:.0f}, {released4:.0f}, {released8:.1e}; with V(x) "
    "{v:.1f} at each",
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
            "Eq. 10: it grows with the square of the offset": abs(growth - 3) < 0.5 and down["eq10"] > 300,
            "the authors' script: with its exponential": numbers["released8"] > 1000 * numbers["released4"]
            and down["released"] > 1e5,
            "with V(x): not at all": max(with_v) - min(with_v) < 1e-9,
            "and it is less than either": numbers["v"] < min(numbers["raw0"], numbers["released0"]),
        },
    )


# Runs -----------------------------------------------------------------------------------------------------------------

RUNS: dict[str, dict[str, Any]] = {
    "eq10": {"method": "una-online"},
    "released": {"method": "una-online", "form": "released"},
    "centred": {"method": "una-centred", "online": True},
    "ppo": {"method": "ppo", "passes": 1},
    "ppo4": {"method": "ppo"},
    "rloo": {"method": "rloo"},
    "replay": {"method": "una-centred", "online": True, "replay": 20, "passes": 4},
    "eq10 replay": {"method": "una-online", "replay": 20, "passes": 4},
}
"""What `run` may be asked for: PPO with as many updates as the others, and with its own four passes."""


def world_of(seed: int, offset: float = 0.0, spread: float = 0.0) -> TableWorld:
    """8 prompts × 6 responses at β = ½: `offset` is added to all rewards, a number of sd `spread` to each prompt's."""
    return TableWorld.random(
        seed, prompts=8, responses=6, beta=0.5, offset=offset, knobs=Knobs(offset=spread) if spread else None
    )


@cache
def run(
    name: str, lr: float, seed: int, offset: float = 0.0, *, spread: float = 0.0, steps: int = 100, draws: int = 4
) -> float:
    """The exact regret, mean over prompts, that a run of the package's own loop ends with.

    A step draws `draws` responses of each prompt of `world_of(seed, …)`; Adam, constant rate, β the world's.
    """
    from una_ref.training.config import Config
    from una_ref.training.fit import fit
    from una_ref.training.tables import table_job

    world = world_of(seed, offset, spread)
    config = Config(
        **RUNS[name],
        steps=steps,
        batch=len(world.rewards),
        samples=draws,
        lr=lr,
        seed=seed,
        schedule="constant",
        lora_r=0,
        log_every=steps,
        loss_kwargs={"beta": world.beta},
    )
    job = table_job(world, config)
    fit(job)
    return float(world.regret(job.trainer.policy.model.logps.detach()).mean())


def regrets(name: str, lr: float, seeds: Sequence[int], offset: float = 0.0, **more: Any) -> tuple[float, float]:
    """Mean and half width of the 95 % interval over seeds of where `run` ends."""
    return interval([run(name, lr, seed, offset, **more) for seed in seeds])


SEEDS = range(5)
BEST = {"eq10": 0.1, "centred": 0.2, "ppo": 0.1}
"""Learning rates: the best of .05, .1, .2 and .5 on worlds 10 and 11, at offsets 0 and 4 together."""


@claim(
    "CU22",
    paper=UNA,
    place="Sec. 2.3.2 and 4.2",
    says="online UNA is more stable than PPO",
    verdict=FAILS,
    instead="where rewards are off 0 it is less stable: PPO's critic and whitening take an offset out, and Eq. 10 has "
    "nothing that does; centred UNA, which is RLOO, is as steady as PPO and needs no critic",
    shows="regret after 100 steps of 32 responses at offsets 0, 4, −4, each at its best rate, 5 worlds: Eq. 10 "
    "{eq10_0:.3f} ± {eq10_0_ci:.3f}, {eq10_p4:.3f} ± {eq10_p4_ci:.3f}, {eq10_m4:.3f} ± {eq10_m4_ci:.3f}; PPO, one "
    "pass, {ppo_0:.4f} ± {ppo_0_ci:.4f}, {ppo_p4:.4f} ± {ppo_p4_ci:.4f}, {ppo_m4:.4f} ± {ppo_m4_ci:.4f}; centred "
    "{centred_0:.4f} ± {centred_0_ci:.4f} at each, {lead:.4f} ± {lead_ci:.4f} less than PPO at 0",
    notebook=NOTEBOOK,
)
def _cu22() -> Evidence:
    numbers = {}
    for name in ("eq10", "ppo"):
        for key, offset in (("0", 0.0), ("p4", 4.0), ("m4", -4.0)):
            numbers[f"{name}_{key}"], numbers[f"{name}_{key}_ci"] = regrets(name, BEST[name], SEEDS, offset)
    numbers["centred_0"], numbers["centred_0_ci"] = regrets("centred", BEST["centred"], SEEDS)
    centred = [run("centred", BEST["centred"], 0, offset) for offset in (0.0, 4.0)]
    numbers["lead"], numbers["lead_ci"] = interval(
        [run("ppo", BEST["ppo"], seed) - run("centred", BEST["centred"], seed) for seed in SEEDS]
    )

    def apart(low: str, high: str) -> bool:
        return numbers[low] + numbers[f"{low}_ci"] < numbers[high] - numbers[f"{high}_ci"]

    return Evidence(
        numbers,
        {
            "offset ±4: Eq. 10 is behind PPO": apart("ppo_p4", "eq10_p4") and apart("ppo_m4", "eq10_m4"),
            "by a factor of ten": min(numbers["eq10_p4"] / numbers["ppo_p4"], numbers["eq10_m4"] / numbers["ppo_m4"])
            > 10,
            "offset 0: not ahead of it": numbers["eq10_0"] > numbers["ppo_0"],
            "PPO does not mind the offset": max(numbers["ppo_p4"], numbers["ppo_m4"]) < 2 * numbers["ppo_0"],
            "nor does the centred form, digit by digit": abs(centred[0] - centred[1]) < 1e-9,
            "which is at most 0.002 behind PPO, paired by world": numbers["lead"] - numbers["lead_ci"] > -0.002,
        },
    )


def noise_at_optimum(error: float = 0.01) -> dict[str, float]:
    """Root mean square of what multiplies ∇log π at π*, over the responses of a rollout drawn from π*.

    Centred UNA's residual, Eq. 10's, and PPO's advantage whitened and not, where the critic is off by numbers of sd
    `error`.
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
    known = {"logps": logps, "ref_logps": ref, "scores": scores, "beta": world.beta}
    advantages = {w: ppo(**one_token, **more, beta=world.beta, whiten=w)[0] for w in (0.0, 1.0)}
    found = {
        "centred": METHODS["una-centred"].loss(**known, groups=groups).sqrt(),
        "eq10": METHODS["una-online"].loss(**known).sqrt(),
        "ppo": advantages[0.0],
        "ppo_whitened": advantages[1.0],
    }
    return {name: float((value**2).mean().sqrt()) for name, value in found.items()}


@claim(
    "CU22b",
    paper=UNA,
    place="Sec. 2.3.2",
    says="it turns an unstable RL problem into a stable supervised one",
    verdict="holds if V(x) is the leave-one-out mean: then no noise is left at the optimum",
    instead="there every residual of centred UNA is 0, whichever responses are drawn; Eq. 10's is −β·log Z(x), and "
    "PPO's whitening blows any error of its critic up to 1",
    shows="root mean square of what multiplies ∇log π at π*, 64 responses of each of 8 prompts: centred 0, Eq. 10 "
    "{eq10:.2f}, PPO with a critic off by 0.01 {ppo:.3f}, whitened {ppo_whitened:.2f}",
    notebook=NOTEBOOK,
)
def _cu22b() -> Evidence:
    numbers = noise_at_optimum()
    centred = numbers.pop("centred")
    return Evidence(
        numbers,
        {
            "centred: none": centred < 1e-12,
            "Eq. 10: β·log Z(x)": numbers["eq10"] > 0.3,
            "PPO: its critic's error, whitened 1": numbers["ppo"] < 0.02 and abs(numbers["ppo_whitened"] - 1) < 0.01,
        },
    )


# The authors' script --------------------------------------------------------------------------------------------------


def released_descent(
    world: TableWorld, rollouts: int, rate: float, *, beta: float = 1.0, passes: int = 1
) -> list[Tensor]:
    """[log π (X, Y)] after each rollout of the authors' loss with unlimited samples: descent on the table's logits.

    In every rollout `passes` steps are taken on Σ_y π_rollout·loss, π_rollout held; `rate` is in units of 1/`beta`.
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
    says="the released online code trains Eq. 10 of the implicit reward β·log π/π_ref",
    verdict=FAILS,
    instead="it anchors at the rollout: REINFORCE on σ(s) − ½ in the first pass, a step of bounded length in later "
    "ones. π_ref is nowhere in the loss, so KL grows past π*'s to one response alone, and β is a step size",
    shows="unlimited samples: KL(π‖π_ref) {kl10:.2f}, {kl100:.2f}, {kl:.2f} after 10, 100 and 1,000 rollouts (π* "
    "{best:.2f}), top probability {top:.3f}, of the best response in {argmax:.0%} of prompts; regret {lowest:.2f} on "
    "the way, {regret:.2f} at the end (π_ref {ref:.2f}); four passes, β = 30: KL {thirty:.2f}",
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
    # The first pass by hand: ∇ = −(β/2)·∇E_π[σ(s) − ½].
    at = world.optimum.flip(-1)
    p, value = at.exp(), world.rewards.sigmoid() - 0.5
    by_hand = -0.5 * world.beta * p * (value - (p * value).sum(-1, keepdim=True))
    each = response_gradients(una_online_released, world, at, old_logps=at, scores=world.rewards)
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
            "KL grows all the way": all(a < b for a, b in zip(kls, kls[1:], strict=False)),
            "past that of π*": kls[-1] > 1.3 * best,
            "to one response alone": numbers["top"] > 0.99,
            "leaving π* behind": numbers["regret"] > 2 * numbers["lowest"],
            "in one pass β is a step size, exactly": float((twin - path[20]).abs().max()) < 1e-12,
            "in four it bounds the steps, and the end no more": numbers["thirty"] > 1.3 * best,
        },
    )


# Models and hours -----------------------------------------------------------------------------------------------------


def models(name: str, **more: Any) -> dict[str, int]:
    """What a run on a table holds: models by role, and how many numbers it trains."""
    from una_ref.training.config import Config
    from una_ref.training.tables import table_job

    job = table_job(world_of(0), Config(batch=8, lora_r=0, **RUNS[name], **more))
    policy = job.trainer.policy
    return {
        "policy": 1,
        "reference": int(policy.anchored),
        "reward": int(job.rollouts is not None),
        "value": int(policy.critic is not None and policy.critic.core is not None),
        "trained": sum(parameter.numel() for parameter in job.trainer.trained.values()),
    }


@claim(
    "CU24",
    paper=UNA,
    place="Sec. 2.3.2 and 4.2",
    says="online UNA removes the value model of PPO and its memory",
    verdict="holds if PPO's critic is a model of its own",
    instead="so does every method without a critic (RLOO), and PPO with a value head on the policy; the released "
    "script loads a value model all the same and runs it in every rollout and update (read, not run)",
    shows="models held: PPO {ppo:.0f}, PPO with a value head {head:.0f}, RLOO and online UNA {una:.0f}; numbers "
    "trained on a table of 8 × 6: {ppo_trained:.0f}, {head_trained:.0f}, {una_trained:.0f}",
    notebook=NOTEBOOK,
)
def _cu24() -> Evidence:
    held = {
        "ppo": models("ppo"),
        "head": models("ppo", critic="head"),
        "una": models("eq10"),
        "centred": models("centred"),
    }
    count = {key: sum(n for role, n in of.items() if role != "trained") for key, of in held.items()}
    numbers = {key: float(count[key]) for key in ("ppo", "head", "una")}
    numbers |= {f"{key}_trained": float(held[key]["trained"]) for key in ("ppo", "head", "una")}
    return Evidence(
        numbers,
        {
            "a critic of its own is one model more": count["ppo"] == count["una"] + 1 and held["ppo"]["value"] == 1,
            "a head is none": count["head"] == count["una"] == count["centred"],
            "and the critic's weights are trained": held["ppo"]["trained"] > 2 * held["una"]["trained"],
        },
    )


def work(name: str, **more: Any) -> int:
    """What a step learns with, in forward passes of a model: those of a run on a table, counted, the critic's included.

    A backward pass counts as one more: with LoRA it costs about what a forward pass does, since frozen weights ask for
    no gradient (exactly so in `benchmarks/floor.py`).
    """
    from una_ref.training.config import Config
    from una_ref.training.tables import table_job

    job = table_job(world_of(0), Config(batch=8, lora_r=0, **RUNS[name], **more))
    policy = job.trainer.policy
    passes: list[int] = []
    cores = [policy.model.table, *(reference.table for reference in policy.copy)]
    cores += [policy.critic.core] if policy.critic and policy.critic.core is not None else []
    for core in cores:
        core.register_forward_hook(lambda _, __, out: passes.append(2 if out[0].requires_grad else 1))
    job.step(0, record=False)
    return sum(passes)


@claim(
    "CU25",
    paper=UNA,
    place="Sec. 4.2",
    says="8 hours for RLHF, 6.5 for online UNA: 1.23 times as fast",
    verdict="holds if drawing and scoring, which both do, take five sixths of UNA's time and PPO makes one pass",
    instead="it is one run each, without a spread, and says nothing of the method: the factor is what passes and the "
    "share of decoding make it, between 1 and 6 (the paper's copy beside the released code has 3.5 hours, 2.3 times)",
    shows="forward passes that a step learns with, a backward pass counted as one: UNA {una:.0f}, PPO {ppo:.0f} with "
    "one pass over a rollout and {ppo4:.0f} with four; for 1.23 learning is {share:.0%} of UNA's step, or {share4:.0%}"
    "; for 2.3 it is {other:.0%}, or {other4:.0%}",
    notebook=NOTEBOOK,
)
def _cu25() -> Evidence:
    count = {"una": work("eq10"), "ppo": work("ppo"), "ppo4": work("ppo4")}

    def share(factor: float, name: str) -> float:
        return (factor - 1) / (count[name] / count["una"] - 1)

    numbers = {name: float(n) for name, n in count.items()}
    numbers |= {"share": share(8 / 6.5, "ppo"), "share4": share(8 / 6.5, "ppo4")}
    numbers |= {"other": share(8 / 3.5, "ppo"), "other4": share(8 / 3.5, "ppo4")}
    return Evidence(
        numbers,
        {
            "UNA: a reference pass, and one there and back": count["una"] == 3,
            "PPO: reference, policy and critic, then the two there and back in each pass": count["ppo"] == 7,
            "and again": count["ppo4"] == count["ppo"] + 3 * 4,
            "RLOO does what UNA does": work("rloo") == count["una"],
            "a critic that is a head is no pass of its own": work("ppo", critic="head") == count["ppo"] - 3,
            "one pass: five sixths are shared": abs(numbers["share"] - 1 / 6) < 0.01,
        },
    )
