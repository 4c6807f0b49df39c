"""How the leaderboard chooses learning rate and hyper-parameters: one search for every row.

The search starts at one learning rate, with every hyper-parameter at its unit. It measures the best setting so far with
its neighbours on each grid, one value changed at a time, and goes on until no neighbour is better. It can end in a
local minimum, or at an end of a grid. It is Hooke and Jeeves' pattern search (1961,
https://doi.org/10.1145/321062.321069) on a fixed lattice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from una_ref.studies.leaderboard.board_entries import BoardEntry
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings

Setting = Mapping[str, Any]
"""{lr, factors: one for each tuned hyper-parameter}."""


def next_settings(
    entry: BoardEntry, settings: LeaderboardSettings, known: Sequence[tuple[Setting, float]] = ()
) -> list[Setting]:
    """The settings to measure next; none where the best one has no neighbour that is not known.

    Args:
        entry: the row.
        settings: hold the grids.
        known: settings with their mean regret; one that is not finite is the worst.
    """
    grids = grids_of(entry, settings)
    if not known:
        start = [_nearest(settings.lrs, settings.first_lr), *(_nearest(grid, 1.0) for grid in grids[1:])]
        return _settings(grids, [start, *_neighbours(grids, start)])
    best, _ = min(known, key=lambda each: each[1] if math.isfinite(each[1]) else math.inf)
    place = [grid.index(value) for grid, value in zip(grids, (best["lr"], *best["factors"]), strict=True)]
    measured = [setting for setting, _ in known]
    return [setting for setting in _settings(grids, _neighbours(grids, place)) if setting not in measured]


def grids_of(entry: BoardEntry, settings: LeaderboardSettings) -> list[tuple[float, ...]]:
    """What the learning rate may be, and the factor of each tuned hyper-parameter."""
    return [
        settings.lrs,
        *(tuple(factor for factor in settings.factors if factor * own.unit <= own.most) for own in entry.tuned),
    ]


def _nearest(grid: Sequence[float], value: float) -> int:
    """The place of a value in a grid, or of the nearest one by its logarithm."""
    return min(range(len(grid)), key=lambda i: abs(math.log(grid[i] / value)))


def _neighbours(grids: Sequence[Sequence[float]], place: Sequence[int]) -> list[list[int]]:
    moved = (
        [*place[:axis], place[axis] + step, *place[axis + 1 :]]
        for axis, grid in enumerate(grids)
        for step in (-1, 1)
        if 0 <= place[axis] + step < len(grid)
    )
    return list(moved)


def _settings(grids: Sequence[Sequence[float]], places: Sequence[Sequence[int]]) -> list[Setting]:
    values = ([grid[i] for grid, i in zip(grids, place, strict=True)] for place in places)
    return [{"lr": lr, "factors": factors} for lr, *factors in values]
