"""The papers' online comparison where the optimum is known: one reward model, as many of its calls for all methods.

On ToySteer worlds, one a seed, a method samples responses from its policy, a reward model scores them, and the method
learns: UNA's Tables 4–6 with exact numbers. The reward model is Bradley–Terry's, trained once for each world on pairs
that the base policy wrote. Its score of every response can be listed, too, so a policy is judged twice: by the proxy
objective, which is what its method was asked to maximise, and by the true one.

Three axes, each with a table and a figure:

- methods: each at its best learning rate, with its gradient noise, seconds, memory and the models that it holds.
- offset: one number added to all scores. It does not change which policy is best. Eq. 10 depends on it, the centred
  form does not.
- proxy: reward models of few pairs and of many. True against proxy reward along KL is over-optimisation.

A reward model's own offset says nothing about a response, since pairs cannot see it. So scores are shifted to mean 0
under the base policy before any offset is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from una_ref.studies import online_figures as figures
from una_ref.studies import online_tables as tables
from una_ref.studies.engine import Axis, Candidates, Chosen, Study
from una_ref.studies.online_measures import measure_run
from una_ref.studies.online_runs import BY_NAME, HEADER, CostRun, NoiseRun, OnlineSettings, RewardRun, TrainingRun
from una_ref.studies.run_store import RunStore
from una_ref.studies.summaries import over_worlds, summary, worse_than_base

Measured = Mapping[str, Any]
Tuned = tuple[str, float]
"""An entry and the offset at which its learning rate is chosen."""


def row_name(entry: str, offset: float = 0.0) -> str:
    """The name of an entry at an offset among the chosen settings."""
    return entry if offset == 0 else f"{entry}/offset={offset:+g}"


def candidates(settings: OnlineSettings, tuned: Iterable[Tuned]) -> Candidates:
    """The learning rates of entries at offsets, with the runs on the tuning worlds."""
    return {
        row_name(entry, offset): [
            ({"lr": lr}, [TrainingRun(entry, settings.reward, offset, lr, seed) for seed in settings.tuning_seeds])
            for lr in settings.lrs
        ]
        for entry, offset in tuned
    }


def tuning_rewards(settings: OnlineSettings) -> list[RewardRun]:
    """The reward models of the tuning worlds."""
    return [RewardRun(settings.reward, seed) for seed in settings.tuning_seeds]


def rewards_of(store: RunStore, reward: str, settings: OnlineSettings) -> list[dict[str, Any]]:
    """A reward model for each world of the tables; the base policy's and the optima's measures are there as well."""
    return store.results([RewardRun(reward, seed) for seed in settings.seeds], "reward models")


def summed_up(measured: Sequence[Measured], base: Sequence[Measured]) -> dict[str, Any]:
    """Policies, one a world: each measure, and how many are worse than the base by the proxy and by the truth."""
    truly_worse = worse_than_base(measured, base, "true_regret")
    return summary(measured, base, tables.MEASURES) | {"truly_worse_than_base": truly_worse}


def entry_row(store: RunStore, runs: Sequence[TrainingRun], base: Sequence[Measured]) -> dict[str, Any]:
    """A row of a table from an entry's runs, one a world."""
    entry = BY_NAME[runs[0].entry]
    about = {"name": entry.name, "title": entry.title, "lr": runs[0].lr}
    return about | summed_up([store.finished[run.key] for run in runs], base)


def noise_row(store: RunStore, runs: Sequence[NoiseRun]) -> dict[str, Any]:
    """An entry's gradient noise over worlds."""
    return {"noise": over_worlds(store.finished[run.key]["noise"] for run in runs)}


# ---- methods


def methods_candidates(settings: OnlineSettings) -> Candidates:
    """Every entry, without offset."""
    return candidates(settings, [(entry, 0.0) for entry in settings.entries])


def methods_results(store: RunStore, settings: OnlineSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """UNA's Tables 4–6: each entry's regret, gradient noise, and the cost of its step."""
    s = settings
    rewards = rewards_of(store, s.reward, s)
    trainings = {e: [TrainingRun(e, s.reward, 0.0, chosen[e]["lr"], seed) for seed in s.seeds] for e in s.entries}
    noises = {e: [NoiseRun(e, s.reward, 0.0, seed) for seed in s.seeds] for e in s.entries}
    store.results([*chain(*trainings.values()), *chain(*noises.values())], "comparing")
    costs = {e: [CostRun(e, s.reward, chosen[e]["lr"], seed) for seed in s.timed_seeds] for e in s.entries}
    store.results([*chain(*costs.values())], "timing", alone=True)
    start = [reward["base"] for reward in rewards]
    known = {"base": "base (π_ref)", "proxy_optimum": "π̂\\*, the proxy's optimum", "optimum": "π\\*, the optimum"}
    rows: list[dict[str, Any]] = [
        {"name": name, "title": title} | summed_up([reward[name] for reward in rewards], start)
        for name, title in known.items()
    ]
    for e in s.entries:
        timed = [store.finished[run.key] for run in costs[e]]
        cost = {
            "seconds": _by_phase(timed, "seconds_a_step"),
            "memory": _by_phase(timed, "memory"),
            "models": timed[0]["models"],
            "updates": timed[0]["updates"],
        }
        rows.append(entry_row(store, trainings[e], start) | noise_row(store, noises[e]) | cost)
    return {"rows": rows}


def _by_phase(timed: Sequence[Measured], measure: str) -> dict[str, Any]:
    """A measure of each phase over runs; without the phases that the system does not report."""
    phases = [phase for phase, value in timed[0][measure].items() if value is not None]
    return {phase: over_worlds(run[measure][phase] for run in timed) for phase in phases}


# ---- offset


def offset_candidates(settings: OnlineSettings) -> Candidates:
    """The axis's entries without offset, and those that are tuned at each offset."""
    retuned = [(entry, offset) for entry in settings.retuned for offset in settings.offsets if offset]
    return candidates(settings, [*((entry, 0.0) for entry in settings.offset_entries), *retuned])


def offset_results(store: RunStore, settings: OnlineSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """A number added to all scores: each entry's regret and gradient noise."""
    s = settings
    start = [reward["base"] for reward in rewards_of(store, s.reward, s)]
    trainings = {
        (e, offset, retuned): [
            TrainingRun(e, s.reward, offset, chosen[row_name(e, offset if retuned else 0.0)]["lr"], seed)
            for seed in s.seeds
        ]
        for retuned, entries in ((False, s.offset_entries), (True, s.retuned))
        for e in entries
        for offset in s.offsets
    }
    noises = {
        (e, offset): [NoiseRun(e, s.reward, offset, seed) for seed in s.timed_seeds]
        for e in s.offset_entries
        for offset in s.offsets
    }
    store.results([*chain(*trainings.values()), *chain(*noises.values())], "comparing")
    rows = [
        entry_row(store, runs, start) | {"offset": offset, "retuned": retuned} | noise_row(store, noises[e, offset])
        for (e, offset, retuned), runs in trainings.items()
    ]
    return {"base": summed_up(start, start), "rows": rows}


# ---- proxy


def proxy_candidates(settings: OnlineSettings) -> Candidates:
    """The axis's entries."""
    return candidates(settings, [(entry, 0.0) for entry in settings.proxy_entries])


def proxy_results(store: RunStore, settings: OnlineSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """Reward models from few pairs to many, and the truth: what entries gain, truly and by the proxy, along KL."""
    s = settings
    rewards = {reward: rewards_of(store, reward, s) for reward in s.rewards}
    trainings = {
        (e, reward): [TrainingRun(e, reward, 0.0, chosen[e]["lr"], seed) for seed in s.seeds]
        for reward in s.rewards
        for e in s.proxy_entries
    }
    store.results([*chain(*trainings.values())], "comparing")
    rows = []
    for (_, reward), runs in trainings.items():
        start = [world["base"] for world in rewards[reward]]
        curves = [store.finished[run.key]["curve"] for run in runs]
        steps = sorted({point["step"] for curve in curves for point in curve})
        curve = [{"step": step} | gains([point_at(each, step) for each in curves], start) for step in steps]
        rows.append(entry_row(store, runs, start) | {"reward": reward, "curve": curve})
    about = []
    for reward, worlds in rewards.items():
        start, best = [world["base"] for world in worlds], [world["proxy_optimum"] for world in worlds]
        frontier = [gains(points, start) for points in zip(*(world["frontier"] for world in worlds), strict=True)]
        accuracies = {name: over_worlds(w[name] for w in worlds) for name in ("train_accuracy", "test_accuracy")}
        optimum = summed_up(best, start) | gains(best, start)
        about.append({"reward": reward} | accuracies | {"optimum": optimum, "frontier": frontier})
    return {"rows": rows, "rewards": about}


def gains(points: Sequence[Measured], base: Sequence[Measured]) -> dict[str, Any]:
    """Policies, one a world: KL, and the gain in reward over the base policy, truly and by the proxy."""
    kinds = {"true_gain": "reward", "proxy_gain": "proxy_reward"}
    gained = {
        gain: over_worlds(point[reward] - start[reward] for point, start in zip(points, base, strict=True))
        for gain, reward in kinds.items()
    }
    return {"kl": over_worlds(point["kl"] for point in points)} | gained


def point_at(curve: Sequence[Measured], step: int) -> Measured:
    """Where a run was at a step: its last point until then, since a run that failed has no later one."""
    return [point for point in curve if point["step"] <= step][-1]


ONLINE: Study[OnlineSettings] = Study(
    command="una-ref compare --online",
    settings=OnlineSettings(),
    header=HEADER,
    measure=measure_run,
    axes={
        "methods": Axis(methods_candidates, methods_results, tables.methods, figures.draw_methods, tuning_rewards),
        "offset": Axis(offset_candidates, offset_results, tables.offset, figures.draw_offset, tuning_rewards),
        "proxy": Axis(proxy_candidates, proxy_results, tables.proxy, figures.draw_proxy, tuning_rewards),
    },
    shipped="chosen_online.json",
)
"""`una-ref compare --online`: UNA's Tables 4–6."""
