import math

import pytest

from una_ref.studies.leaderboard.board_summaries import difference, labels_needed, same_order, summed, worse


def test_a_summary_has_mean_median_values_and_an_interval_around_the_mean():
    found = summed([1.0, 2.0, 3.0, 10.0])
    assert (found["mean"], found["median"], found["values"]) == (4.0, 2.5, [1.0, 2.0, 3.0, 10.0])
    # Student's t: 3.18245 (three degrees of freedom) · 4.08248 (sd) / √4.
    assert (found["low"], found["high"]) == pytest.approx((4 - 6.49614, 4 + 6.49614), abs=1e-4)


def test_equal_worlds_have_an_interval_of_no_width():
    found = summed([2.0] * 5)
    assert found["low"] == found["high"] == 2.0


def test_one_world_has_no_interval():
    assert summed([2.0])["low"] is None


def test_a_value_that_is_not_finite_leaves_no_mean():
    assert summed([1.0, math.nan]) == {"mean": None, "low": None, "high": None, "median": None, "values": [1.0, None]}


def test_differences_are_paired_by_world():
    # Rows that differ by one number in every world differ by it exactly, however much worlds differ.
    found = difference([1.0, 20.0, 300.0], [0.5, 19.5, 299.5])
    assert (found["mean"], found["low"], found["high"]) == (0.5, 0.5, 0.5)


def test_failed_runs_and_more_regret_count_as_worse_than_the_base():
    runs = [{"regret": r, "failed": f} for r, f in ((0.5, ""), (1.5, ""), (0.5, "a loss is nan"), (math.nan, ""))]
    assert worse(runs, [1.0] * 4) == {"count": 3, "of": 4, "share": 0.75}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({256: 0.05, 1024: 0.01}, (256, "<=")),
        ({256: 0.5, 1024: 0.2}, (1024, ">")),
        ({256: 0.3, 1024: 0.1}, (1024, "")),
        # Half of the way from 0.15 to 0.05: the geometric mean of the budgets.
        ({256: 0.3, 1024: 0.15, 4096: 0.05}, (2048, "")),
        ({256: math.nan, 1024: math.nan}, (1024, ">")),
        ({256: math.nan, 1024: 0.05}, (1024, "")),  # where it failed it did not reach the goal
        ({256: 0.05, 1024: 0.2, 4096: 0.05}, (2580, "")),  # a goal that is lost again does not count
    ],
)
def test_labels_needed_are_interpolated_in_the_logarithm(shares, expected):
    found = labels_needed(shares)
    assert (found["labels"], found["bound"]) == expected


def test_the_agreement_of_two_orders_is_spearmans_rho_over_rows_with_both_numbers():
    # Ranks 1 2 3 4 against 2 1 3 4: ρ = 1 − 6·Σd²/(n(n² − 1)) = 1 − 6·2/60 = 0.8.
    assert same_order([0.1, 0.2, 0.3, 0.4, None], [0.5, 0.4, 0.6, 9.0, 0.1]) == pytest.approx(0.8)
    assert same_order([0.1, 0.2, None], [0.2, 0.1, 0.3]) is None
