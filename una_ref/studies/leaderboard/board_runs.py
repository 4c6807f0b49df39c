"""A run of the leaderboard: train an entry in a seed's world within its budget, and measure its policy exactly."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from una_ref.data.batch import Example
from una_ref.methods import METHODS
from una_ref.studies.leaderboard import alarms
from una_ref.studies.leaderboard.board_entries import ENTRIES, REFERENCES, BoardEntry
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_worlds import BoardWorld
from una_ref.studies.leaderboard.conditions import CONDITIONS, Conditions, Level
from una_ref.studies.leaderboard.linear_proxies import linear_proxy
from una_ref.studies.leaderboard.monitors import Watch
from una_ref.studies.leaderboard.own_objectives import own_gap
from una_ref.studies.toysteer_policies import failure
from una_ref.theory import optimum
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.optimizer import optimizer_of, rate
from una_ref.training.prefix_runs import prefix_job
from una_ref.training.prepare import first_value

CHECKPOINTS = 4
"""Exact measurements along an online run."""


@dataclass(frozen=True)
class BoardRun:
    """Train an entry and measure its policy; or measure a reference row.

    Attributes:
        entry: its name. budget: labels, or calls of the reward; 0 for a reference that has none. seed: of the world.
        lr: peak learning rate. factors: of the tuned hyper-parameters, in their units; of β for the optimum.
        axis, level: the condition that differs from the board's; empty: none.
        watched: whether monitors are measured along the run, see `alarms`.
    """

    entry: str
    budget: int
    seed: int
    lr: float = 0.0
    factors: tuple[float, ...] = ()
    axis: str = ""
    level: Level = None
    watched: bool = False

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        where = (f"/{self.axis}={self.level}" if self.axis else "") + "/watched" * self.watched
        factors = ",".join(f"{factor:g}" for factor in self.factors)
        return f"{self.entry}/n={self.budget}/lr={self.lr:g}/factors={factors}{where}/seed={self.seed}"

    @property
    def conditions(self) -> Conditions:
        """Of data, labeller and policy."""
        return CONDITIONS[self.axis].at(self.level) if self.axis else Conditions()


@lru_cache(maxsize=64)
def board_world(seed: int, settings: LeaderboardSettings, conditions: Conditions) -> BoardWorld:
    """A seed's world; the last ones are kept, since runs of one world follow each other."""
    return BoardWorld(seed, settings, conditions)


@lru_cache(maxsize=64)
def proxy_rewards(seed: int, settings: LeaderboardSettings, conditions: Conditions, budget: int) -> torch.Tensor:
    """(X, S) the rewards of the reward model that learned from the budget's pairs."""
    world = board_world(seed, settings, conditions)
    drawn = world.drawn(conditions.proxy_pairs or budget)
    return linear_proxy(
        world.world.tree, settings.prompts, drawn, world.first_wins(drawn), tokens=conditions.proxy_tokens
    )


def measure_run(run: BoardRun, settings: LeaderboardSettings, base: Path) -> dict[str, Any]:
    """Do a run; times aside a function of the arguments alone. `base` is not used: each world has its own π_ref."""
    began = time.perf_counter()
    known = run.entry in REFERENCES
    measured = reference_run(run, settings) if known else trained(ENTRIES[run.entry], run, settings)
    return measured | {"seconds": round(time.perf_counter() - began, 2)}


def reference_run(run: BoardRun, settings: LeaderboardSettings) -> dict[str, Any]:
    """What a policy that is known without training is worth. Nothing happens to the second block of prompts."""
    world = board_world(run.seed, settings, run.conditions)
    exact = world.world
    if run.entry == "proxy":
        rewards = proxy_rewards(run.seed, settings, run.conditions, run.budget)
        logps = optimum.optimal_logps(exact.ref_logps, rewards, exact.beta)
    elif run.entry == "optimum":
        logps = optimum.optimal_logps(exact.ref_logps, exact.rewards, exact.beta * math.prod(run.factors))
    elif run.entry == "ascent":
        return exact_ascent(world, settings) | {"failed": ""}
    else:
        logps = exact.ref_logps
    return world.measures(logps) | {"tax": 0.0, "failed": ""}


def exact_ascent(world: BoardWorld, settings: LeaderboardSettings) -> dict[str, float]:
    """The measures of the board's MLP after as many updates on the exact ∇J.

    It has the best learning rate of the grid from `first_lr` on. What it leaves of the regret is due to the number of
    updates and to no data.
    """
    found = []
    for lr in [lr for lr in settings.lrs if lr >= settings.first_lr] or settings.lrs:
        policy = world.policy()
        config = Config(method="sft", lr=lr, steps=settings.steps)
        optimizer = optimizer_of(config, dict(policy.named_parameters()))
        for step in range(settings.steps):
            logps = world.task(policy.next_logps())
            optimum.regret(logps, world.world.ref_logps, world.world.rewards, settings.beta).mean().backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm or math.inf)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(config, step)
            optimizer.step()
            optimizer.zero_grad()
        found.append(world.judged(policy.next_logps()))
    return min(found, key=lambda measured: measured["regret"])


def trained(entry: BoardEntry, run: BoardRun, settings: LeaderboardSettings) -> dict[str, Any]:
    """Train an entry and measure its policy: at the end, and online at some points along the way.

    A run that is stopped by a non-finite value is measured as it stood, and `failed` says why.
    """
    world = board_world(run.seed, settings, run.conditions)
    job = board_job(entry, run, settings, world)
    steps = job.config.steps
    marks = {round(steps * i / CHECKPOINTS) for i in range(1, CHECKPOINTS)} if entry.online else set()
    watch = Watch(world, run.conditions.proxy_pairs or run.budget) if run.watched else None
    watched_at = {round(steps * i / alarms.CHECKPOINTS) for i in range(1, alarms.CHECKPOINTS + 1)}
    curve, seen, failed = [], [], ""
    for step in range(steps):
        if reason := failure(partial(job.step, step, record=False)):
            failed = f"step {step + 1}: {reason}"
            break
        if step + 1 in marks:
            curve.append(world.judged(_table(job))["regret"])
        if watch and step + 1 in watched_at:
            seen.append(watch(world.task(_table(job))))
    table = _table(job)
    measured: dict[str, Any] = world.judged(table)
    if not math.isfinite(measured["regret"]):
        failed = failed or "the policy is not finite"
    elif (gap := own_gap(entry, run.factors, world.world, world.task(table), settings.beta)) is not None:
        measured["own"] = gap
    best = {"best_regret": min([*curve, measured["regret"]])} if entry.online else {}
    if watch:
        measured["seen"] = seen
    return measured | best | {"updates": steps * math.prod(job.config.updates), "failed": failed}


def _table(job: Job) -> torch.Tensor:
    with torch.no_grad():
        return job.trainer.policy.model.next_logps()


def board_job(entry: BoardEntry, run: BoardRun, settings: LeaderboardSettings, world: BoardWorld) -> Job:
    """A run up to its first step."""
    s = settings
    online: dict[str, Any] = {}
    examples: list[Example] = []
    reward = None
    if entry.online:
        if entry.feedback == "reward model":
            prompts, rollouts = s.prompts, s.steps
            reward = world.calls(proxy_rewards(run.seed, s, run.conditions, run.budget))
        else:
            prompts, rollouts = rollout_sizes(entry, run.budget, s)
            reward = world.calls()
        passes = max(1, min(entry.passes, s.steps // rollouts))
        online = {"steps": rollouts, "batch": prompts, "samples": s.draws}
        if METHODS[entry.method].reuse != "none":  # also where it is 1: PPO's own default is four
            online |= {"passes": passes}
    else:
        examples = world.examples(entry.feedback, run.budget, shuffle=bool(entry.config.get("shuffle")))
    tuned = entry.tuned_to(run.factors, s.beta)
    config = entry.run_config(
        {} if entry.losses else tuned,
        **{
            "steps": s.steps,
            "batch": int(s.batch * ROWS.get(entry.feedback, 1)),
            "lr": run.lr,
            "seed": run.seed,
            "layout": "padded",
            "lora_r": 0,
            "held_out": 0.0,
            "learn_from": entry.feedback if entry.feedback == "labels" and not entry.online else "any",
        }
        | online,
    )
    own = {kind: partial(loss, **tuned) for kind, loss in (entry.losses or {}).items()}
    losses = own or config.losses_by_kind
    return prefix_job(
        world.policy(),
        config,
        examples=examples,
        reward=reward,
        prompts=s.prompts,
        length=s.length,
        losses=losses,
        reference=world.reference(),
        value_start=first_value(losses, *_means(examples)),
    )


def rollout_sizes(entry: BoardEntry, budget: int, settings: LeaderboardSettings) -> tuple[int, int]:
    """The prompts of a rollout, and the rollouts that a budget of calls pays for.

    A small budget has small rollouts, so that it has many: at least two prompts, and as many updates as an offline run
    as soon as the budget allows. Passes over a rollout count as updates, but not where samples are replayed from all
    rollouts.
    """
    calls = settings.draws * entry.calls_a_response
    passes = 1 if entry.config.get("replay") else entry.passes
    prompts = min(settings.prompts, max(2, budget * passes // (settings.steps * calls)))
    return prompts, min(settings.steps, budget // (prompts * calls))


ROWS = {"labels": 1 / 2, "scores": 1 / 2, "scored pairs": 1 / 2, "lists": 1 / 4, "pairs and demos": 2, "mixed": 2 / 3}
"""Rows for a label of each kind; a step has as many labels for all kinds. A pair has a demonstration beside it."""


def _means(examples: list[Example]) -> tuple[float | None, float | None]:
    """The mean score and the mean label, where there are any."""
    scores = [value for e in examples if e.pairs is None for value in e.scores or ()]
    labels = [value for e in examples for value in e.labels or ()]
    return (
        sum(scores) / len(scores) if scores else None,
        sum(labels) / len(labels) if labels else None,
    )
