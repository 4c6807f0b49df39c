"""The axes of the survey in words."""

import pytest

from una_ref.methods.axes import AXES, VALUES, cells_of, meaning


def test_every_axis_has_values_with_a_meaning():
    assert len(AXES) == 13 and set(AXES) == set(VALUES)
    assert all(len(values) >= 2 and all(values.values()) for values in VALUES.values())


def test_a_cell_in_words_names_axis_value_and_meaning():
    assert meaning("RM1", "Implicit") == "RM1 reward model: Implicit (the likelihoods of π are the reward)"
    assert meaning("RL3", "-") == "RL3 divergence: does not apply"
    with pytest.raises(KeyError):
        meaning("RL4", "Sometimes")


def test_a_row_needs_thirteen_cells():
    row = "Explicit Point Response Positive Preference Human Pair Free Uncontrol KL On Offline Separate"
    assert list(cells_of(row)) == list(AXES) and cells_of(row)["RL1"] == "Free"
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        cells_of("Explicit Point")
