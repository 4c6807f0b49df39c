"""How the online study's runs are computed: a reward's worth, a training run, gradient noise, the cost of a step."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from una_ref.data import toysteer
from una_ref.data.batch import prefix_tree
from una_ref.data.rows import Row
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.studies.online_runs import BY_NAME, CostRun, NoiseRun, OnlineSettings, RewardRun, TrainingRun
from una_ref.studies.peak_memory import PeakMeter
from una_ref.studies.proxies import TRUTH, ProxyWorld, Shifted, pair_accuracy, proxy_world, source
from una_ref.studies.toysteer_policies import failure, policy_logps, response_tree, training_job
from una_ref.theory import optimum
from una_ref.theory.worlds import SequenceWorld
from una_ref.training.job import Job

OnlineRun = RewardRun | TrainingRun | NoiseRun | CostRun


def measure_run(run: OnlineRun, settings: OnlineSettings, base: Path) -> dict[str, Any]:
    """Do a run; times and memory aside a function of the arguments alone."""
    began = time.perf_counter()
    kinds: dict[type, Callable[..., dict[str, Any]]] = {
        RewardRun: reward_worth,
        TrainingRun: train_and_measure,
        NoiseRun: gradient_noise,
        CostRun: step_cost,
    }
    measured = kinds[type(run)](run, settings, base)
    return measured | {"seconds": round(time.perf_counter() - began, 2)}


# ---- rewards


FRONTIER = (4.0, 2.0, 1.2, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""The βs of the policies that are best by a proxy, from near the base to far from it."""


def reward_worth(run: RewardRun, settings: OnlineSettings, base: Path) -> dict[str, Any]:
    """A proxy's accuracy on its training pairs and on others, and where its best policies are, by both rewards."""
    judge = proxy_world(run.seed, run.reward, settings.beta, base)
    ref, ref_next, table = judge.truth.ref_logps, judge.truth.ref_next_logps, judge.proxy.rewards
    training_pairs = settings.test if run.reward == TRUTH else int(run.reward)
    best = {beta: SequenceWorld(ref_next, table, beta, length=toysteer.LENGTH).optimum for beta in FRONTIER}
    return {
        "train_accuracy": pair_accuracy(table, judge.world, ref, training_pairs, run.seed),
        "test_accuracy": pair_accuracy(table, judge.world, ref, settings.test, 10_000 + run.seed),
        "base": judge.measure(ref),
        "proxy_optimum": judge.measure(judge.proxy.optimum),
        "optimum": judge.measure(judge.truth.optimum),
        "frontier": [{"beta": beta} | judge.measure(logps) for beta, logps in best.items()],
    }


# ---- training


def online_job(
    run: TrainingRun | NoiseRun | CostRun, settings: OnlineSettings, base: Path, *, steps: int | None = None
) -> Job:
    """A run up to its first step, with the reward shifted to mean 0 under the base policy and then offset.

    `steps` takes the place of the settings' number of steps.
    """
    offset = 0.0 if isinstance(run, CostRun) else run.offset
    judge = proxy_world(run.seed, run.reward, settings.beta, base)
    config = BY_NAME[run.entry].run_config(
        {"beta": settings.beta},
        held_out=0.0,
        steps=settings.steps if steps is None else steps,
        batch=settings.batch,
        samples=settings.draws,
        lr=1e-3 if isinstance(run, NoiseRun) else run.lr,
        seed=run.seed,
        log_every=settings.steps,
    )
    prompts = [Row(prompt, ("",)) for prompt in judge.world.prompts]
    return training_job(config, prompts, base, Shifted(source(run.seed, run.reward, base), judge.shift + offset))


def train_and_measure(run: TrainingRun, settings: OnlineSettings, base: Path) -> dict[str, Any]:
    """Train, and measure the policy exactly: at the end, and every few steps (`curve`).

    A run that is stopped by a non-finite value is measured as it stood, and `failed` says why.
    """
    judge, job = proxy_world(run.seed, run.reward, settings.beta, base), online_job(run, settings, base)
    curve = [{"step": 0} | judge.measure(policy_logps(job, judge.world))]
    failed = ""
    for step in range(settings.steps):
        done = step + 1
        reason = failure(partial(job.step, step, record=False))
        failed = f"step {done}: {reason}" if reason else ""
        if failed or done % settings.every == 0 or done == settings.steps:
            curve.append({"step": done} | judge.measure(policy_logps(job, judge.world)))
        if failed:
            break
    final = {name: value for name, value in curve[-1].items() if name != "step"}
    return final | {"base_regret": curve[0]["regret"], "failed": failed, "curve": curve}


# ---- gradient noise


GRADIENT_SCALE: Mapping[str, Callable[[float], float]] = {
    "una-online": lambda beta: 2 * beta,
    "una-centred": lambda beta: 2 * beta,
    "una-centred.replay": lambda beta: 2 * beta,
    "rloo": lambda beta: 1.0,
}
"""For entries whose expected gradient is a multiple of −∇J: that multiple, from β."""


def gradient_noise(run: NoiseRun, settings: OnlineSettings, base: Path) -> dict[str, Any]:
    """The noise of the gradient of a step's first update in the adapter's weights, at the base policy: see `noise_of`.

    The gradient's direction is that of the exact gradient of the objective J. `expected` is the signal where it is
    known, 2β‖∇J‖ for UNA's forms and ‖∇J‖ for RLOO, and NaN elsewhere.
    """
    judge, job = proxy_world(run.seed, run.reward, settings.beta, base), online_job(run, settings, base)
    trainer = job.trainer
    trainer.optimizer.zero_grad()
    (-objective(job, judge)).backward()
    exact = policy_gradient(job)
    gradients = []
    for step in range(settings.rollouts):
        rows, _ = job.answered(job.examples, step, record=False)
        trainer.optimizer.zero_grad()
        trainer.accumulate(rows, record=False)
        gradients.append(policy_gradient(job))
    scale = GRADIENT_SCALE[run.entry](settings.beta) if run.entry in GRADIENT_SCALE else math.nan
    return noise_of(torch.stack(gradients), exact, scale * float(exact.norm()))


def noise_of(gradients: torch.Tensor, direction: torch.Tensor, expected: float = math.nan) -> dict[str, float]:
    """E‖g − E g‖² / (E g · u)² of a random gradient g, where u is a direction of length 1.

    The part of E g that points elsewhere moves the policy but not towards the goal, so it is no signal.

    Args:
        gradients: (R, W) independent samples of g.
        direction: (W,) any multiple of u.
        expected: E g · u where it is known; NaN: it is estimated.

    Returns:
        noise: NaN where the signal is estimated and below three standard errors.
        signal: the mean of g · u. signal_error: its standard error.
        expected: as given.
    """
    variance = float((gradients - gradients.mean(0)).square().sum() / (len(gradients) - 1))
    along = gradients @ direction / direction.norm()
    signal, error = float(along.mean()), float(along.std() / math.sqrt(len(along)))
    if not math.isnan(expected):
        squared = expected**2
    else:
        squared = signal**2 - error**2 if signal > 3 * error else math.nan  # unbiased: E signal² = (E g·u)² + error²
    return {"noise": variance / squared, "signal": signal, "signal_error": error, "expected": expected}


def objective(job: Job, judge: ProxyWorld) -> torch.Tensor:
    """J of a job's policy as it is by the proxy, exact and differentiable in its weights: the mean over prompts."""
    prompts, tree = toysteer.encoded_prompts(judge.world, job.tokenizer), response_tree()
    batch = prefix_tree(prompts, tree.prefixes, toysteer.VOCABULARY)
    next_logps = sequence_logprobs(job.trainer.policy.model, batch).double().view(len(prompts), len(tree.prefixes), -1)
    logps, proxy = tree.sequence_logps(next_logps), judge.proxy
    return optimum.objective(logps, proxy.ref_logps, proxy.rewards, proxy.beta).mean()


def policy_gradient(job: Job) -> torch.Tensor:
    """What the last backward pass left on the policy's weights (not a critic's), as one vector in float64."""
    weights = [p for p in job.trainer.policy.model.parameters() if p.requires_grad]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double() for p in weights])


# ---- cost


def step_cost(run: CostRun, settings: OnlineSettings, base: Path) -> dict[str, Any]:
    """Seconds and peak memory of a step by its phases, and the models held.

    Seconds are medians over steps. Memory is a phase's peak in MiB above a process that has only the libraries loaded;
    None where the system does not report it.
    """
    warm_up = max(1, settings.timed // 4)
    job = online_job(run, settings, base, steps=warm_up + settings.timed)
    elapsed = []
    for step in range(job.config.steps):
        elapsed.append(dict(job.seconds))
        job.step(step, record=False)
    elapsed = [*elapsed[warm_up:], dict(job.seconds)]
    seconds = {
        phase: statistics.median(after[phase] - before[phase] for before, after in pairwise(elapsed))
        for phase in elapsed[0]
    }
    held, updates = models_held(job), math.prod(job.config.updates)
    del job
    meter = PeakMeter()
    job = online_job(run, settings, base, steps=warm_up)
    meter.attach(job)
    for step in range(warm_up):
        with meter.phase("learning"):
            job.step(step, record=False)
    return {"seconds_a_step": seconds, "memory": meter.peaks, "models": held, "updates": updates}


def models_held(job: Job) -> dict[str, int]:
    """Parameters of each model that a job holds; 0 for a reference that is the policy with its adapter off."""
    policy = job.trainer.policy
    held = {"policy": _size(policy.model)}
    if policy.has_reference:
        held["reference"] = sum(map(_size, (*policy.copy, *policy.second_copy)))
    if policy.critic:
        held["critic"] = _size(policy.critic)
    shifted = job.rollouts.reward if job.rollouts else None
    scorer = getattr(getattr(shifted, "source", None), "model", None)
    if scorer is not None:
        held["reward model"] = _size(scorer)
    return held


def _size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
