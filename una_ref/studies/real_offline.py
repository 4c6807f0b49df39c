"""The papers' offline comparison on a real language model: UNA's Tables 1–3 at 135M parameters.

Four axes. In the second and the third, all methods have the same responses, steps and size of adapters:

- rates: AlpacaEval. The learning rates that the other axes use, from one grid on rows that they do not have.
- scores: UltraFeedback. Two responses to a prompt with GPT-4 scores in [0, 1]. The one with the higher score is chosen
  and labelled 1, the other is rejected and labelled 0.
- pairs: Anthropic HH helpful. Human pairs and the labels that follow from them.
- tasks: the policies of `scores` on leaderboard tasks, paired with the base (see `una_ref.studies.real_tasks`).

Texts are whole and short (see `una_ref.studies.real_data`). A run is one pass over the training rows.

A learning rate is the one with the lowest log loss of held-out pairs, where the margin of log π/π_ref is read as the
log-odds of the label. It stops a policy that moves further than the pairs are worth. A first rule took the margin times
β = 0.1. It was dropped after six tuning runs and before any other run: in so few steps that loss is almost linear, and
prefers whatever moves most. AdamW's first steps do not depend on the scale of a loss. So methods share a rate by their
kind of feedback: IPO, SimPO and the shuffled pairs take DPO's, the binary forms of UNA take KTO's, and all score losses
take UNA-score's. β is 0.1 for all methods with a reference: β·margin stays far below 1, so β does little here.

Measured of each run: accuracy, margin and log loss of held-out pairs; KL divergence and length of sampled responses;
their win rate against the base, by a reward model that no method saw. The reward model learns from other HH pairs.
Its own accuracy stands beside the win rates.

Runs are lines of runs.jsonl, computed in the order of `ENTRIES`, one seed after the other. So a study that was stopped
is a table of whole rows. `carry_out(..., report=True)` makes it from the finished runs.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from una_ref import figures
from una_ref.studies import real_measures as measures
from una_ref.studies import real_report as report
from una_ref.studies import real_tasks
from una_ref.studies.engine import Axis, Candidates, Chosen, Study
from una_ref.studies.real_rewards import RewardModel
from una_ref.studies.real_runs import Judgement, Training, runs_of
from una_ref.studies.real_settings import BASE, ENTRIES, HEADER, TUNED, RealSettings
from una_ref.studies.real_work import keep_samples, measure, start_policy, work_folder
from una_ref.studies.run_store import RunStore


def log_loss(line: Mapping[str, Any]) -> float:
    """The mean log loss of a run's held-out pairs, in nats."""
    return statistics.fmean(measures.log_losses(line["margins"]))


def candidates(settings: RealSettings) -> Candidates:
    """The learning rates that each tuned entry may have, with its run on the tuning rows."""
    return {
        entry.name: [({"lr": lr}, [Training("tuning", entry.name, 0, lr)]) for lr in settings.lrs] for entry in TUNED
    }


def results(part: str, store: RunStore, settings: RealSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """Compute an axis seed by seed, and sum up what is finished."""
    runs, judge = runs_of(part, settings, chosen), RewardModel(settings.reward_lr)
    for i, seed in enumerate(settings.seeds):
        of_seed = [same[i] for same in runs.values()]
        store.results(of_seed, f"{part}, seed {seed}")
        for run in of_seed if store.compute else ():  # the judge reads them there
            keep_samples(work_folder(settings, base) / run.key, store.finished[run.key])
        store.results([judge], "reward model")
        store.results([Judgement(run, judge) for run in of_seed], f"win rates, seed {seed}")
    titles = {BASE: "base (π_ref)"} | {entry.name: entry.title for entry in ENTRIES[part]}
    rows = [
        report.row(name, title, [_lines(store, run, judge) for run in runs.get(name, ())])
        for name, title in titles.items()
    ]
    report.against_base(rows)
    judged = store.finished.get(judge.key)
    return {"part": part, "rows": rows, "judge": report.judge(judged["hits"]) if judged else None}


def _lines(store: RunStore, run: Training, judge: RewardModel) -> dict[str, Any] | None:
    """The line of a run with the rewards of its samples; None if it is not finished."""
    line, judged = store.finished.get(run.key), store.finished.get(Judgement(run, judge).key)
    if line is None:
        return None
    retrained = judged is not None and judged.get("weights") != line.get("weights")
    return line | {"rewards": judged["rewards"] if judged else None, "retrained": retrained}


def rates(store: RunStore, settings: RealSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """What the tuning runs measured at each learning rate; they were computed for the choice."""
    rows = [
        {
            "name": entry.name,
            "title": entry.title,
            "rates": [
                report.rate(lr, store.finished.get(Training("tuning", entry.name, 0, lr).key)) for lr in settings.lrs
            ],
        }
        for entry in TUNED
    ]
    return {"part": "rates", "rows": rows}


PANELS = {"rates": report.rates_panels, **dict.fromkeys(ENTRIES, report.panels), "tasks": real_tasks.panels}
"""What draws each axis in a figure or a part of one."""


def figure(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "real_offline") -> Path:
    """All axes in results.json as one figure, one below the other; axes of which nothing is finished are left out."""
    from matplotlib.figure import Figure

    shown = {axis: found for axis, found in results.items() if axis == "rates" or report.finished(found)}
    with figures.style():
        fig = Figure(figsize=(9.6, 4.0 * len(shown)))
        for part, (axis, found) in zip(np.ravel(fig.subfigures(len(shown), 1)), shown.items(), strict=True):
            PANELS[axis](part, found)
        return figures.save(fig, name, folder)


REAL_OFFLINE: Study[RealSettings] = Study(
    command="una-ref compare",
    settings=RealSettings(),
    header=HEADER,
    measure=measure,
    axes={
        "rates": Axis(candidates, rates, report.rates_table, report.drawn(PANELS["rates"])),
        **{
            part: Axis(candidates, partial(results, part), report.table, report.drawn(PANELS[part])) for part in ENTRIES
        },
        "tasks": Axis(candidates, real_tasks.results, real_tasks.table, report.drawn(PANELS["tasks"])),
    },
    shipped="chosen_real_offline.json",
    criterion=log_loss,
    start=start_policy,
    base_option="--model",
)
"""`una-ref compare --model smollm2`: UNA's Tables 1–3 on a real language model."""

if __name__ == "__main__":  # `make docs`: the figure of the committed results
    committed = figures.home() / "runs" / "real_offline" / "results.json"
    print(figure(json.loads(committed.read_text("utf-8"))))
