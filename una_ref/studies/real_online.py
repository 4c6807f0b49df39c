"""The papers' online comparison on a real language model: UNA's Tables 4–6 at 135M parameters.

A method samples responses to HH helpful prompts from its policy, a reward model scores them, and the method learns. All
methods have the same start, prompts, reward model and number of reward calls. Two reward models of human pairs judge:
the training one, which the methods are asked to maximise, and the held-out one, which is the offline study's judge.
They have other pairs and another seed. No prompt is in two parts of the data.

Each method takes the better of two learning rates, by reward minus β·KL after a short run with another seed and other
held-out prompts. Centred UNA takes RLOO's.

Measured along a run, on the same held-out prompts for all: both rewards, KL divergence, length. Measured of an update:
the seconds of generation, scoring and learning, and their peak memory.

Runs are lines of runs.jsonl, computed in the order of `ENTRIES`, one seed after the other. So a study that was stopped
is a table of whole rows. `carry_out(..., report=True)` makes it from the finished runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from una_ref import figures
from una_ref.studies import real_online_report as report
from una_ref.studies.engine import Axis, Candidates, Chosen, Study
from una_ref.studies.real_online_runs import (
    ENTRIES,
    HEADER,
    HeldOutReward,
    OnlineTraining,
    RealOnlineSettings,
    runs_of,
)
from una_ref.studies.real_report import drawn, over_items
from una_ref.studies.real_settings import BASE
from una_ref.studies.real_work import keep_samples, measure, start_policy, work_folder
from una_ref.studies.run_store import Run, RunStore

TUNED = tuple(entry for entry in ENTRIES if not entry.tuned_as)
"""The entries whose learning rate is chosen from the grid."""
SIZE = (9.6, 8.0)
"""Of the figure, in inches."""


def negative_objective(line: Mapping[str, Any]) -> float:
    """β·KL minus the reward at the end of a tuning run; infinite for a run that a non-finite value stopped."""
    return math.inf if line["failed"] else -line["objective"]


def groundwork(settings: RealOnlineSettings) -> list[Run]:
    """The two reward models."""
    return [settings.proxy, settings.judge]


def tuning(entry: str, lr: float, settings: RealOnlineSettings) -> OnlineTraining:
    """The run that a learning rate of an entry is chosen by."""
    return OnlineTraining(entry, settings.tuning_seed, lr, tuning=True)


def candidates(settings: RealOnlineSettings) -> Candidates:
    """The learning rates that each tuned entry may have."""
    return {e.name: [({"lr": lr}, [tuning(e.name, lr, settings)]) for lr in settings.lrs] for e in TUNED}


def results(store: RunStore, settings: RealOnlineSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """Compute the study seed by seed, and sum up what is finished."""
    runs, judge, proxy = runs_of(settings, chosen), settings.judge, settings.proxy
    store.results(groundwork(settings), "reward models")
    for i, seed in enumerate(settings.seeds):
        of_seed = [same[i] for same in runs.values()]
        store.results(of_seed, f"methods, seed {seed}")
        for run in of_seed if store.compute else ():  # the judge reads them there
            keep_samples(work_folder(settings, base) / run.key, store.finished[run.key])
        store.results([HeldOutReward(run, judge) for run in of_seed], f"held-out rewards, seed {seed}")
    titles = {BASE: "base (π_ref)"} | {entry.name: entry.title for entry in ENTRIES}
    lines = {name: [line for run in same if (line := _line(store, run, settings))] for name, same in runs.items()}
    rates = [
        {
            "name": entry.name,
            "title": entry.title,
            "rates": [report.rate(lr, store.finished.get(tuning(entry.name, lr, settings).key)) for lr in settings.lrs],
        }
        for entry in TUNED
    ]
    models = {"training RM": proxy.key, "held-out RM": judge.key}
    accuracies = {
        name: over_items([store.finished[key]["hits"]["hh"]]) for name, key in models.items() if key in store.finished
    }
    return {"rows": report.rows(lines, titles, len(settings.seeds)), "rates": rates, "accuracies": accuracies}


def _line(store: RunStore, run: OnlineTraining, settings: RealOnlineSettings) -> dict[str, Any] | None:
    """The line of a run with the held-out rewards of its points; None if it is not finished."""
    line, judged = store.finished.get(run.key), store.finished.get(HeldOutReward(run, settings.judge).key)
    if line is None:
        return None
    if judged is None:
        return line | {"retrained": False}
    points = [point | {"held_out": judged["rewards"][str(point["update"])]} for point in line["points"]]
    return line | {"points": points, "retrained": judged["weights"] != line["weights"]}


def figure(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "real_online") -> Path:
    """The results as a figure."""
    return drawn(report.panels, SIZE)(results, folder, name)


def summary(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "real_model") -> Path:
    """The results in two panels, for the README."""
    return drawn(report.summary, (9.6, 3.0))(results, folder, name)


REAL_ONLINE: Study[RealOnlineSettings] = Study(
    command="una-ref compare --online",
    settings=RealOnlineSettings(),
    header=HEADER,
    measure=measure,
    axes={"methods": Axis(candidates, results, report.table, drawn(report.panels, SIZE), groundwork)},
    shipped="chosen_real_online.json",
    criterion=negative_objective,
    start=start_policy,
    base_option="--model",
)
"""`una-ref compare --online --model smollm2`: UNA's Tables 4–6 on a real language model."""

if __name__ == "__main__":  # `make docs`: the figure of the committed results
    committed = figures.home() / "runs" / "real_online" / "results.json"
    found = json.loads(committed.read_text("utf-8"))
    print(figure(found), summary(found), sep="\n")
