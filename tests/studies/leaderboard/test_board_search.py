"""The search of settings: where it starts, that it ends at a minimum, and that it stays inside its grids."""

import math
from dataclasses import replace

import pytest

from una_ref.studies.leaderboard.board_entries import ENTRIES
from una_ref.studies.leaderboard.board_search import grids_of, next_settings
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings

FULL = LeaderboardSettings()


def searched(name, regret):
    """All settings that the search of an entry measures, with the regret that a function of (lr, factors) gives."""
    known = []
    for _ in range(100):
        added = next_settings(ENTRIES[name], FULL, known)
        if not added:
            return known
        known += [(setting, regret(setting["lr"], *setting["factors"])) for setting in added]
    raise AssertionError("the search does not end")


def bowl(lr, *factors, centre=(6.4e-3, 4.0, 0.25)):
    return sum((math.log(value) - math.log(at)) ** 2 for value, at in zip((lr, *factors), centre, strict=False))


def test_it_starts_in_the_middle_with_one_neighbour_on_each_side():
    first = [(each["lr"], *each["factors"]) for each in next_settings(ENTRIES["una-pair"], FULL)]
    assert first == [(1.6e-2, 1.0), (6.4e-3, 1.0), (4e-2, 1.0), (1.6e-2, 0.5), (1.6e-2, 2.0)]


@pytest.mark.parametrize(("name", "values"), [("sft", 1), ("una-pair", 2), ("simpo", 3)])
def test_it_finds_the_minimum_of_a_bowl(name, values):
    known = searched(name, bowl)
    best, _ = min(known, key=lambda each: each[1])
    assert (best["lr"], *best["factors"]) == (6.4e-3, 4.0, 0.25)[:values]
    assert len(known) < math.prod(map(len, grids_of(ENTRIES[name], FULL))) / (1 if values == 1 else 2) or values == 1


def test_nothing_is_measured_twice():
    known = [str(setting) for setting, _ in searched("simpo", bowl)]
    assert len({*known}) == len(known)


def test_it_ends_at_the_end_of_a_grid_where_less_is_always_better():
    known = searched("una-pair", lambda lr, factor: lr + factor)
    best, _ = min(known, key=lambda each: each[1])
    assert (best["lr"], best["factors"]) == (FULL.lrs[0], [FULL.factors[0]])


def test_a_setting_that_fails_is_the_worst():
    known = searched("una-pair", lambda lr, factor: math.nan if lr > 1e-2 else bowl(lr, factor))
    best, regret = min(known, key=lambda each: each[1] if math.isfinite(each[1]) else math.inf)
    assert regret == 0.0 and best == {"lr": 6.4e-3, "factors": [4.0]}


def test_a_share_stays_below_its_largest_value():
    grid = grids_of(ENTRIES["robust-dpo"], FULL)[2]
    assert max(grid) * 0.1 <= 0.4 < 2 * max(grid) * 0.1


def test_a_row_without_a_hyper_parameter_is_searched_along_the_learning_rate_alone():
    assert all(setting["factors"] == [] for setting, _ in searched("sft", lambda lr: lr))


def test_a_grid_of_one_value_needs_no_search():
    single = replace(FULL, lrs=(1e-3,), factors=(1.0,))
    assert next_settings(ENTRIES["una-pair"], single) == [{"lr": 1e-3, "factors": [1.0]}]
