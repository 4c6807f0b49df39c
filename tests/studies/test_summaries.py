"""Numbers over worlds, by hand."""

import math

import pytest

from una_ref.studies.summaries import interval, over_worlds, summary, worse_than_base


def test_interval_is_student_s_t():
    # Mean 2, sd 1, n = 3: half width t(0.975, 2)·1/√3 = 4.302653·0.577350 = 2.484138.
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(2.484138, abs=1e-6)


@pytest.mark.parametrize("values", [[1.0], [1.0, math.inf]])
def test_interval_of_one_value_or_an_infinite_one_has_no_width(values):
    assert math.isnan(interval(values)[1])


def test_median_is_not_moved_by_one_far_value():
    far = over_worlds([0.3, 0.1, 9.0, 0.2])
    assert far["median"] == pytest.approx(0.25) and far["mean"] == pytest.approx(2.4)
    assert far["values"] == [0.3, 0.1, 9.0, 0.2]
    assert over_worlds([0.1, math.inf, 0.2])["median"] == 0.2


def test_median_with_a_nan_is_nan():
    assert math.isnan(over_worlds([0.1, math.nan, 0.2])["median"])


def test_runs_worse_than_the_base_are_paired_by_world():
    base = [{"regret": 0.3}, {"regret": 0.1}, {"regret": 0.2}]
    runs = [{"regret": 0.2}, {"regret": 0.15}, {"regret": 0.2}]
    assert worse_than_base(runs, base) == {"count": 1, "of": 3, "share": pytest.approx(1 / 3)}


def test_failed_and_nan_runs_count_as_worse_than_the_base():
    base = [{"regret": 0.3}] * 3
    runs = [{"regret": 0.1, "failed": "a loss is nan"}, {"regret": 0.1, "failed": ""}, {"regret": math.nan}]
    assert worse_than_base(runs, base)["count"] == 2


def test_worse_than_the_base_by_another_regret():
    base, runs = [{"regret": 0.3, "true_regret": 0.3}], [{"regret": 0.1, "true_regret": 0.5}]
    assert worse_than_base(runs, base)["count"] == 0 and worse_than_base(runs, base, "true_regret")["count"] == 1


def test_summary_has_paired_differences_from_the_base():
    base, runs = [{"regret": 0.3}, {"regret": 0.1}], [{"regret": 0.1, "kl": 1.0}, {"regret": 0.2, "kl": 2.0}]
    row = summary(runs, base, ("regret", "kl"))
    assert set(row) == {"regret", "kl", "regret_against_base", "worse_than_base"}
    assert row["regret_against_base"]["values"] == pytest.approx([-0.2, 0.1])
    assert row["kl"]["mean"] == 1.5 and row["worse_than_base"]["count"] == 1
