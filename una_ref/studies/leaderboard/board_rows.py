"""Rows of the leaderboard's tables: which runs they consist of, and what is summed up over worlds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from una_ref.errors import InputError
from una_ref.studies.engine import Candidates, Chosen, Means
from una_ref.studies.leaderboard.board_entries import ENTRIES, REFERENCES
from una_ref.studies.leaderboard.board_runs import BoardRun
from una_ref.studies.leaderboard.board_search import next_settings
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_summaries import difference, summed, worse
from una_ref.studies.leaderboard.conditions import Level
from una_ref.studies.leaderboard.protocol import ABOUT_MEASURES
from una_ref.studies.run_store import RunStore

Measured = Sequence[Mapping[str, Any]]
DPO = "una-pair"


def candidates(settings: LeaderboardSettings, names: Sequence[str] = (), **where: Any) -> Candidates:
    """The settings that the search of every row, or of those named, starts with, and their runs on the tuning worlds.

    `where` is as in `tuning_runs`.
    """
    rows = [ENTRIES[name].tuned_as or name for name in names or settings.entries if name in settings.entries]
    return further(settings, dict.fromkeys(rows, ()), **where)


def further(settings: LeaderboardSettings, means: Means, **where: Any) -> Candidates:
    """The settings that the search of every row goes on with."""
    return {
        name: [
            (setting, tuning_runs(name, setting, settings, **where))
            for setting in next_settings(ENTRIES[name], settings, known)
        ]
        for name, known in means.items()
    }


def tuning_runs(
    name: str,
    setting: Mapping[str, Any],
    settings: LeaderboardSettings,
    budget: int | None = None,
    axis: str = "",
    level: Level = None,
) -> list[BoardRun]:
    """A setting's runs on the tuning worlds, by default at the tuning budget and under the board's conditions."""
    n, lr, factors = budget or settings.tuning_budget, setting["lr"], tuple(setting["factors"])
    return [BoardRun(name, n, seed, lr, factors, axis, level) for seed in settings.tuning_seeds]


def run_of(name: str, chosen: Chosen, budget: int, seed: int, axis: str = "", level: Level = None) -> BoardRun:
    """A run of an entry at its chosen setting."""
    setting = chosen[ENTRIES[name].tuned_as or name]
    return BoardRun(name, budget, seed, setting["lr"], tuple(setting["factors"]), axis, level)


def row(name: str, title: str, budget: int | None, runs: Measured, base: Measured) -> dict[str, Any]:
    """A row of measures, see the first lines of the module; without the differences to other rows."""
    start = [run["regret"] for run in base]
    measured = {measure: summed([run[measure] for run in runs]) for measure in (*ABOUT_MEASURES,) if measure in runs[0]}
    mean = measured["regret"]["mean"]
    return {
        "name": name,
        "title": title,
        "budget": budget,
        "failed": sum(bool(run["failed"]) for run in runs),
        "worse_than_base": worse(runs, start),
        "own": None,
        "best_regret": None,
        **measured,
        "share": None if mean is None else mean / (sum(start) / len(start)),
    }


def compared(rows: Sequence[dict[str, Any]]) -> None:
    """Put the paired differences to the best row and to DPO into the rows of one budget."""
    known = [each for each in rows if each["regret"]["mean"] is not None]
    best = min(known, key=lambda each: each["regret"]["mean"], default=None)
    dpo = next((each for each in known if each["name"] == DPO), None)
    for each in rows:
        for key, other in (("to_best", best), ("to_dpo", dpo)):
            both = other is not None and each["regret"]["mean"] is not None
            each[key] = difference(each["regret"]["values"], other["regret"]["values"]) if both and other else None


def rows_of(store: RunStore, runs: Mapping[Any, Sequence[BoardRun]], base: Measured) -> dict[Any, dict[str, Any]]:
    """The row of every group of runs, by the group's key; without those that a store which computes nothing lacks."""
    store.results([*chain(*runs.values())], "runs")
    found = {}
    for key, each in runs.items():
        if all(run.key in store.finished for run in each):
            first = each[0]
            title = REFERENCES.get(first.entry) or ENTRIES[first.entry].title
            found[key] = row(first.entry, title, first.budget or None, [store.finished[r.key] for r in each], base)
    return found


def references_of(store: RunStore, runs: Sequence[BoardRun]) -> Measured:
    """The measures of a reference in some worlds.

    Raises:
        InputError: a report of runs that are not finished.
    """
    found = store.results(runs, runs[0].entry)
    if len(found) < len(runs):
        raise InputError(
            f"report: expected finished runs of the leaderboard in {store.path.parent}, got none. "
            "Fix: name their folder with --output, or leave --report out"
        )
    return found


def tuned(settings: LeaderboardSettings, chosen: Chosen) -> list[str]:
    """The rows that have a setting; in a report, those whose grid is finished."""
    return [name for name in settings.entries if (ENTRIES[name].tuned_as or name) in chosen]
