"""Leaderboard tasks of the offline study on a real language model: the adapters of UltraFeedback, paired with the base.

Each task has fixed items, the same for all models, and no examples in the prompt. All items of a model's task are one
run, and each finished item is kept, so both resume. Greedy answers need no seed: the base has one run a task.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from una_ref import figures
from una_ref.evaluation import harness
from una_ref.evaluation.store import Results
from una_ref.evaluation.subject import subject
from una_ref.evaluation.tasks import TASKS
from una_ref.studies import markdown_tables as cells
from una_ref.studies.engine import Chosen
from una_ref.studies.real_data import data_folder
from una_ref.studies.real_report import over_items, retrained
from una_ref.studies.real_runs import Training, runs_of, trained_folder
from una_ref.studies.real_settings import BASE, ENTRIES, RealSettings
from una_ref.studies.real_work import weights_name, work_folder
from una_ref.studies.run_store import RunStore

PART = "scores"
"""The part of the data whose adapters are evaluated."""
BATCH, ANSWERS = 8, 25
"""Sequences in a forward pass, and answers that are generated at a time; 24 at a time took 0.55 of the time of 8."""


@dataclass(frozen=True)
class Task:
    """A run's policy on the fixed items of a leaderboard task."""

    run: Training
    task: str
    items: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return self.run.key.replace("train/", f"task/{self.task}-{self.items}/", 1)

    def measured(self, settings: RealSettings, base: Path) -> dict[str, Any]:
        """The run's line: the headline metric of each item, in the order of the data."""
        folder = base if self.run.entry == BASE else trained_folder(self.run, settings, base)
        loaded = harness.load_task(TASKS[self.task], str(data_folder() / "eval"), 0)
        results = Results(work_folder(settings, base) / self.key)
        batch = ANSWERS if loaded.task.answers else BATCH
        options: dict[str, Any] = {"limit": self.items, "batch": batch, "max_new": settings.task_tokens}
        record = harness.evaluate(subject(str(folder)), loaded, results, **options)
        metric = record["scores"][0]["metric"]
        values = results.items(self.task)
        names = sorted(values)
        return {
            "weights": weights_name(folder) if self.run.entry != BASE else "",
            "metric": metric,
            "shots": loaded.shots,
            "chat": record["chat"],
            "settings": record["settings"],
            "items_by_name": names,
            "values": [float(values[name][metric]) for name in names],
        }


def results(store: RunStore, settings: RealSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """Evaluate the trained policies task by task, seed by seed, and sum up what is finished."""
    runs = runs_of(PART, settings, chosen)
    done: dict[str, dict[str, list[Mapping[str, Any]]]] = {name: {} for name in runs}
    others = 0  # evaluations of an adapter that was trained again, to other bytes
    for seed in settings.task_seeds:
        of_seed = {name: run for name, same in runs.items() for run in same if run.seed == seed}
        if seed != settings.task_seeds[0]:
            del of_seed[BASE]
        store.results([*of_seed.values()], f"{PART}, seed {seed}")
        for task, items in settings.tasks.items():
            wanted = {name: Task(run, task, items) for name, run in of_seed.items()}
            store.results([*wanted.values()], f"{task}, seed {seed}")
            for name, run in wanted.items():
                if line := store.finished.get(run.key):
                    done[name].setdefault(task, []).append(line)
                    others += line["weights"] != store.finished[run.run.key].get("weights")
    titles = {BASE: "base (π_ref)"} | {entry.name: entry.title for entry in ENTRIES[PART]}
    rows = [{"name": name, "title": title, **_row(done.get(name, {}), done[BASE])} for name, title in titles.items()]
    return {"part": "tasks", "rows": rows, "retrained": others}


def _row(
    lines: Mapping[str, Sequence[Mapping[str, Any]]], base: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """A row from its lines by task, one a seed: the score, and the difference from the base on the same items."""
    scores, differences = {}, {}
    for task, of_task in lines.items():
        scores[task] = over_items([line["values"] for line in of_task])
        if (start := base.get(task)) and of_task is not start:
            by_name = dict(zip(start[0]["items_by_name"], start[0]["values"], strict=True))
            differences[task] = over_items(
                [
                    [value - by_name[name] for name, value in zip(line["items_by_name"], line["values"], strict=True)]
                    for line in of_task
                ]
            )
    return {"scores": scores, "differences": differences}


def mean_difference(differences: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The plain mean over tasks of the differences from the base, with its interval; tasks are independent."""
    every = [*differences.values()]
    half = math.sqrt(sum(each["ci95"] ** 2 for each in every)) / len(every)
    return {"mean": statistics.fmean(each["mean"] for each in every), "ci95": half}


def table(results: Mapping[str, Any]) -> list[str]:
    """The tasks as Markdown: scores, and in brackets the paired difference from the base."""
    s = results["settings"]
    tasks = s["tasks"]
    lines = ["### Leaderboard tasks, after UltraFeedback", ""]
    lines += cells.rows(
        ["method", *tasks, "mean difference"],
        (
            [
                row["title"],
                *(_cell(row, task) for task in tasks),
                cells.mean(mean_difference(row["differences"])) if row["differences"].keys() == tasks.keys() else "",
            ]
            for row in results["rows"]
        ),
    )
    finished = sum(len(score["seeds"]) for row in results["rows"] for score in row["scores"].values())
    of = (1 + (len(results["rows"]) - 1) * len(s["task_seeds"])) * len(tasks)
    counts = ", ".join(f"{task} {items}" for task, items in tasks.items())
    return [
        *lines,
        "",
        f"{finished} of {of} evaluations are finished. Score ± 95 % interval over items; in brackets the difference "
        f"from the base on the same items. Items: {counts}. No examples in the prompt. arc and hellaswag: "
        "length-normalised accuracy; truthfulqa: MC2; ifeval: prompt-level strict, greedy, at most "
        f"{s['task_tokens']} new tokens, with the chat template.",
        *retrained("evaluations", results["retrained"]),
    ]


def _cell(row: Mapping[str, Any], task: str) -> str:
    if task not in row["scores"]:
        return "not run"
    difference = row["differences"].get(task)
    signed = f" ({difference['mean']:+.3f} ± {difference['ci95']:.3f})" if difference else ""
    return cells.mean(row["scores"][task]) + signed


def panels(fig: Any, results: Mapping[str, Any]) -> None:
    """The paired differences from the base, a panel a task; in a figure or a part of one."""
    tasks = results["settings"]["tasks"]
    rows = [row for row in reversed(results["rows"]) if row["differences"]]
    looks = figures.looks({row["name"]: row["title"] for row in results["rows"]})
    (every,) = fig.subplots(1, len(tasks), sharey=True, squeeze=False)
    for axes, task in zip(every, tasks, strict=True):
        axes.axvline(0, color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
        for y, row in enumerate(rows):
            if difference := row["differences"].get(task):
                colour = looks[row["name"]]["color"]
                axes.errorbar(difference["mean"], y, xerr=difference["ci95"], fmt="D", color=colour)
        axes.set_title(task)
    every[0].set_yticks(range(len(rows)), [looks[row["name"]]["label"] for row in rows])
    every[0].set_ylim(-0.6, max(len(rows), 1) - 0.4)
    every[len(tasks) // 2].set_xlabel("score minus the base's, on the same items; interval over items")
