import math

import pytest

from una_ref.errors import InputError
from una_ref.studies.leaderboard.board_entries import ENTRIES
from una_ref.studies.leaderboard.conditions import CONDITIONS, Conditions, plain


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=lambda condition: condition.name)
def test_an_axis_holds_the_board_and_changes_one_condition(condition):
    assert condition.at(condition.board) == Conditions() and condition.levels.count(condition.board) == 1
    for level in condition.levels:
        if level == condition.board:
            continue
        changed = condition.at(level)
        differing = [name for name in vars(changed) if getattr(changed, name) != getattr(Conditions(), name)]
        assert differing == [condition.name]


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=lambda condition: condition.name)
def test_every_level_has_a_label_of_its_own(condition):
    assert len({*condition.labels}) == len(condition.labels) == len(condition.levels) >= 2


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=lambda condition: condition.name)
def test_levels_are_in_order(condition):
    stand_ins = {"proxy_pairs": 4096, "hidden": 160, "positive_share": 0.45}  # of the board's level
    levels = [stand_ins.get(condition.name, level) if level == condition.board else level for level in condition.levels]
    assert levels in (sorted(levels), sorted(levels, reverse=True))


def test_axes_act_on_kinds_of_feedback_that_rows_have():
    known = {entry.feedback for entry in ENTRIES.values()}
    for condition in CONDITIONS.values():
        assert {*condition.feedback} <= known
        assert {*condition.own_entries} <= {*ENTRIES}
        assert all(condition.acts_on(ENTRIES[name].feedback) for name in condition.own_entries)


def test_an_infinite_level_is_a_word_in_json():
    assert [plain(level) for level in (None, 2.0, math.inf)] == [None, 2.0, "inf"]


def test_knobs_out_of_range_are_refused():
    with pytest.raises((InputError, ValueError), match="positive_share"):
        _ = CONDITIONS["positive_share"].at(1.5).knobs
