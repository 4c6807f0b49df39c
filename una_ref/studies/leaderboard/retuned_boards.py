"""Boards whose rows are tuned anew, because the board's own settings were chosen for something else.

One has exact scores and few labels. The other has a small transformer in the place of the MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from una_ref.studies.engine import Candidates, Chosen, Means, choose
from una_ref.studies.leaderboard.board_entries import REFERENCES
from una_ref.studies.leaderboard.board_rows import (
    candidates,
    compared,
    further,
    references_of,
    row,
    rows_of,
    run_of,
    tuned,
)
from una_ref.studies.leaderboard.board_runs import BoardRun
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_summaries import difference, same_order
from una_ref.studies.leaderboard.conditions import Level
from una_ref.studies.run_store import RunStore

REPLAY = "una-centred.replay"


@dataclass(frozen=True)
class RetunedBoard:
    """Rows under a condition that they are tuned for.

    Attributes:
        axis, level: the condition.
        rows: names of entries.
        budget: labels; 0: as many as the axes have.
        worlds: the field of the settings with the worlds that are reported.
    """

    axis: str
    level: Level
    rows: tuple[str, ...]
    budget: int = 0
    worlds: str = "seeds"

    def where(self, settings: LeaderboardSettings) -> dict[str, Any]:
        """Budget and condition, as `tuning_runs` takes them."""
        return {"budget": self.budget or settings.axis_budget, "axis": self.axis, "level": self.level}

    def candidates(self, settings: LeaderboardSettings) -> Candidates:
        """The settings that the search of every row starts with."""
        return candidates(settings, self.rows, **self.where(settings))

    def further(self, settings: LeaderboardSettings, means: Means) -> Candidates:
        """The settings that it goes on with."""
        return further(settings, means, **self.where(settings))

    def results(self, store: RunStore, settings: LeaderboardSettings, chosen: Chosen) -> dict[str, Any]:
        """{rows, base: the row of π_ref, budget}."""
        where, worlds = self.where(settings), getattr(settings, self.worlds)
        start = references_of(store, [BoardRun("base", 0, seed, axis=self.axis, level=self.level) for seed in worlds])
        names = [name for name in self.rows if name in tuned(settings, chosen)]
        runs = {name: [run_of(name, chosen, seed=seed, **where) for seed in worlds] for name in names}
        rows = [*rows_of(store, runs, start).values()]
        compared(rows)
        base = row("base", REFERENCES["base"], None, start, start)
        return {"rows": rows, "base": base, "budget": where["budget"]}


EXACT_SCORES = RetunedBoard(
    "score_noise",
    0.0,
    (
        *("una-pair", "una-pair.large", "una-score", "una-centred", "una-centred.large"),
        *("una-online", "una-centred.online", REPLAY, "reinforce", "rloo", "grpo", "ppo"),
    ),
    budget=1024,
)
"""A score is the reward itself. Labels are few, so that a method gains by using each of them more than once."""

TINY_LM = RetunedBoard(
    "layers",
    2,
    (REPLAY, "ppo", "ppo.rm", "una-score", "una-centred", "una-centred.mixed", "lipo", "una-pair", "rloo", "grpo"),
    worlds="axis_seeds",
)
"""A transformer in the place of the MLP. The rows are the leaders of the board, and two more rivals of replay."""


def exact_results(store: RunStore, settings: LeaderboardSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """The rows of `EXACT_SCORES`, with the paired difference to replay."""
    found = EXACT_SCORES.results(store, settings, chosen)
    replay = next((each for each in found["rows"] if each["name"] == REPLAY), None)
    for each in found["rows"]:
        known = replay is not None and None not in (each["regret"]["mean"], replay["regret"]["mean"])
        each["to_replay"] = (
            difference(each["regret"]["values"], replay["regret"]["values"]) if known and replay else None
        )
    return found


def tiny_lm_results(store: RunStore, settings: LeaderboardSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """The rows of `TINY_LM`, those of the MLP on the same worlds (`mlp`), and Spearman's ρ of both orders (`order`)."""
    found = TINY_LM.results(store, settings, chosen)
    on_board = choose(store, candidates(settings, TINY_LM.rows), further=lambda means: further(settings, means))
    names = [each["name"] for each in found["rows"] if each["name"] in on_board]
    budget, worlds = found["budget"], getattr(settings, TINY_LM.worlds)
    runs = {name: [run_of(name, on_board, budget, seed) for seed in worlds] for name in names}
    start = references_of(store, [BoardRun("base", 0, seed) for seed in worlds])
    mlp = rows_of(store, runs, start)
    both: Sequence[tuple[Any, Any]] = [(each, mlp[each["name"]]) for each in found["rows"] if each["name"] in mlp]
    order = same_order([a["regret"]["mean"] for a, _ in both], [b["regret"]["mean"] for _, b in both])
    compared([*mlp.values()])
    return found | {"mlp": [*mlp.values()], "order": order}
