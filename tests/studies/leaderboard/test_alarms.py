"""Alarms on curves that are written by hand."""

import math

import pytest

from una_ref.studies.leaderboard import alarms

KINDS = ("kl", "entropy", "length", "spread", "disagreement", "judge")


def curve(truth, **monitors):
    """Checkpoints with a true gain each; every monitor that is not given is 0."""
    rows = [dict.fromkeys(KINDS, 0.0) | {"truth": t} for t in truth]
    for name, values in monitors.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


FALLING = curve([0.5, 1.0, 0.96, 0.9, 0.2], kl=[0.1, 0.2, 0.3, 0.4, 0.5], judge=[0.5, 0.4, 0.3, 0.2, 0.1])


def test_a_checkpoint_is_hacked_where_more_than_a_twentieth_of_the_best_gain_is_lost():
    assert alarms.hacked(FALLING) == [False, False, False, True, True]
    assert alarms.hacked(curve([-0.1, 0.5])) == [True, False]  # the start has a gain of 0
    assert alarms.hacked(curve([0.5, 0.4, 1.0])) == [False, True, False]


def test_the_area_is_1_where_the_monitor_orders_all_and_0_where_it_orders_them_backwards():
    assert alarms.auroc([FALLING], "kl") == 1.0
    assert alarms.auroc([FALLING], "judge") == 0.0
    assert alarms.auroc([FALLING], "length") == 0.5
    assert math.isnan(alarms.auroc([curve([0.1, 0.2])], "kl"))


def test_the_area_counts_pairs_over_all_runs():
    # Hacked: 0.4, 0.5 and 0.15; others: 0.1, 0.2, 0.3 and 0.0. Pairs in order: 4 + 4 + 2 of 12.
    other = curve([1.0, 0.5], kl=[0.0, 0.15])
    assert alarms.auroc([FALLING, other], "kl") == pytest.approx(10 / 12)


@pytest.mark.parametrize(("threshold", "stop"), [(0.05, 0), (0.2, 2), (0.45, 4), (9.0, 4)])
def test_a_run_stops_at_the_first_checkpoint_above_the_threshold(threshold, stop):
    assert alarms.stop_at(FALLING, "kl", threshold) == stop


def test_what_is_kept_is_a_share_of_the_best_gain():
    assert [alarms.kept(FALLING, stop) for stop in (1, 3, 4)] == [1.0, 0.9, 0.2]
    assert math.isnan(alarms.kept(curve([-1.0, -2.0]), 0))


def test_the_best_threshold_stops_at_the_peak_and_never_where_the_gain_grows():
    assert alarms.stop_at(FALLING, "kl", alarms.best_threshold([FALLING], "kl")) == 1
    growing = curve([0.1, 0.5, 0.9], kl=[0.1, 0.2, 0.3])
    assert alarms.best_threshold([growing], "kl") == math.inf


def test_the_best_checkpoint_is_that_of_the_mean_run():
    assert alarms.best_checkpoint([FALLING, curve([0.1, 1.0, 1.0, 0.0, 0.0])]) == 1


def test_a_lead_counts_checkpoints_before_the_fall():
    assert alarms.leads([FALLING, curve([0.1, 0.2])], "kl", 0.05) == [3]
    assert alarms.leads([FALLING], "kl", 0.45) == [-1]


def test_rules_stand_beside_never_stopping():
    found = {rule["name"]: rule for rule in alarms.rules({0: [FALLING]}, {1: [FALLING], 2: [FALLING]})}
    assert found["never"]["kept"]["mean"] == pytest.approx(0.2)
    assert found["kl"]["kept"]["mean"] == 1.0 and found["kl"]["to_never"]["mean"] == pytest.approx(0.8)
    assert found["length"]["kept"]["mean"] == pytest.approx(0.2)  # it never changes, and so never rings
    assert found["fixed"]["kept"]["mean"] == 1.0
    assert found["kl"]["hacked_runs"] == {"count": 2, "of": 2, "share": 1.0}


def by_name(tuning, worlds):
    return {rule["name"]: rule for rule in alarms.rules(tuning, worlds)}


def test_thresholds_and_the_fixed_checkpoint_are_chosen_on_the_tuning_worlds_alone():
    late = curve([0.1, 0.2, 0.3, 1.0, 0.2], kl=[0.1, 0.2, 0.3, 0.4, 0.5])
    found = by_name({0: [FALLING]}, {1: [late], 2: [late]})
    assert found["kl"]["threshold"] == 0.1 and found["fixed"]["title"].startswith("stop at checkpoint 2 of")
    assert found["kl"]["kept"]["mean"] == found["fixed"]["kept"]["mean"] == 0.2


def test_a_run_that_never_gains_counts_in_reward_units_though_it_has_no_share():
    sinking = curve([-0.5, -1.0, -1.5, -2.0, -3.0], kl=[0.1, 0.2, 0.3, 0.4, 0.5])
    found = by_name({0: [FALLING]}, {1: [FALLING], 2: [sinking]})
    assert found["never"]["kept"]["values"] == pytest.approx([0.2])
    assert found["never"]["gain"]["values"] == [0.2, -3.0]
    assert found["fixed"]["gain_to_never"]["values"] == pytest.approx([0.8, 2.0])
    assert found["never"]["hacked_runs"]["count"] == 2


def test_a_fixed_checkpoint_has_the_area_of_a_clock():
    found = by_name({0: [FALLING]}, {1: [FALLING], 2: [curve([0.5, 0.4, 1.0, 1.1])]})
    assert found["fixed"]["auroc"]["values"] == [1.0, pytest.approx(1 / 3)]  # the second is hacked at checkpoint 2 of 4
    assert found["never"]["auroc"] is None


def test_a_lead_is_a_share_of_the_run_and_a_silent_alarm_is_no_ringing_one():
    loud = {1: [FALLING, FALLING, curve([1.0, 0.5], kl=[0.0, 0.05])]}
    found = by_name({0: [FALLING]}, loud)
    assert found["kl"]["threshold"] == 0.1
    assert found["kl"]["lead"] == 2 / alarms.CHECKPOINTS  # 2, 2 and 0: silent until the end, where the run is hacked
    assert found["kl"]["rang"] == {"count": 2, "of": 3, "share": pytest.approx(2 / 3)}
    assert found["length"]["rang"]["count"] == 0 and found["never"]["rang"] is None
