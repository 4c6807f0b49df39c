"""Means, standard errors and paired differences, against scipy and against values derived by hand."""

import numpy as np
import pytest
from scipy import stats

from una_ref.errors import InputError
from una_ref.evaluation.paired import difference, mean_score, score
from una_ref.evaluation.store import Results, Score

SETTINGS = {"model": "a", "shots": 5, "template": ""}
OURS = {"0": 1.0, "1": 0.0, "2": 1.0, "3": 1.0, "4": 0.5}
THEIRS = {"1": 1.0, "2": 0.0, "3": 1.0, "4": 0.25, "5": 1.0}


@pytest.fixture
def evaluated(tmp_path):
    """evaluated(name, values, **settings): finished results of one task, item -> value."""

    def make(name, values, **settings):
        results, settings = Results(tmp_path / name), SETTINGS | {"model": name} | settings
        results.begin("arc", settings)
        for item, value in values.items():
            results.add("arc", item, {"acc": value})
        results.finish("arc", [score("arc", "acc", list(results.items("arc").values()))], settings)
        return results

    return make


def test_mean_and_standard_error_are_those_of_scipy():
    values = [0.0, 1.0, 1.0, 0.25, 0.5]
    found = score("arc", "acc", [{"acc": value} for value in values])
    assert found.value == pytest.approx(np.mean(values))
    assert found.stderr == pytest.approx(stats.sem(values))
    assert found.items == 5


def test_a_metric_with_several_verdicts_an_item_pools_the_verdicts():
    # Σs = 4 and Σn = 6, so the mean is 2/3. With n̄ = 2 the parts (s − 2n/3)/2 are 1/6, 1/3 and −1/2.
    found = score("ifeval", "inst", [{"inst": [1.0]}, {"inst": [1.0, 1.0]}, {"inst": [1.0, 0.0, 0.0]}])
    assert found.value == pytest.approx(4 / 6)
    variance = ((1 / 6) ** 2 + (1 / 3) ** 2 + (1 / 2) ** 2) / 2
    assert found.stderr == pytest.approx((variance / 3) ** 0.5)


def test_one_item_has_no_standard_error_and_none_are_refused():
    assert score("arc", "acc", [{"acc": 1.0}]).stderr is None
    with pytest.raises(InputError, match="expected finished items, got none"):
        score("arc", "acc", [])


def test_paired_interval_is_that_of_scipy_on_the_shared_items(evaluated):
    found = difference(evaluated("a", OURS), evaluated("b", THEIRS), "arc")
    shared = sorted(OURS.keys() & THEIRS.keys())
    test = stats.ttest_rel([OURS[i] for i in shared], [THEIRS[i] for i in shared])
    interval = test.confidence_interval(0.95)
    assert found.items == 4 and found.left_out == 2 and found.metric == "acc"
    assert found.value == pytest.approx((-1 + 1 + 0 + 0.25) / 4)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.value / found.stderr == pytest.approx(test.statistic)


def test_a_model_does_not_differ_from_itself(evaluated):
    found = difference(evaluated("a", OURS), evaluated("b", OURS), "arc")
    assert (found.value, found.stderr, found.low, found.high) == (0, 0, 0, 0)


@pytest.mark.parametrize("setting", [{"shots": 0}, {"template": "0123"}, {"decoding": {"max_gen_toks": 8}}])
def test_results_of_other_settings_are_not_compared(evaluated, setting):
    with pytest.raises(InputError, match=f"task arc: {next(iter(setting))}: expected the same in both results"):
        difference(evaluated("a", OURS), evaluated("b", OURS, **setting), "arc")


def test_fewer_than_two_shared_items_are_refused(evaluated):
    with pytest.raises(InputError, match="expected two or more items in both results, got 1"):
        difference(evaluated("a", {"0": 1.0, "1": 0.0}), evaluated("b", {"1": 1.0, "2": 0.0}), "arc")


def test_an_unfinished_task_is_refused(evaluated, tmp_path):
    with pytest.raises(InputError, match="expected finished results, got none"):
        difference(evaluated("a", OURS), Results(tmp_path / "nothing"), "arc")


def test_mean_of_a_group_is_plain_and_its_error_that_of_independent_tasks():
    tasks = [Score("a", "acc", 0.2, 0.03, 10), Score("b", "acc_norm", 0.6, 0.04, 1000)]
    assert mean_score("both", tasks) == Score("both", "mean", pytest.approx(0.4), pytest.approx(0.025), 1010)
    assert mean_score("both", [*tasks, Score("c", "acc", 0.1, None, 1)]).stderr is None
