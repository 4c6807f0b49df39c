"""Metrics are those of the whole batch, however it was cut, and mean what TRL's names mean."""

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.training.metrics import NAMES, means, measure

GIVEN = [
    Example((1,), ((5, 2), (6, 2)), pairs=((0, 1),)),
    Example((2,), ((5, 2), (6, 2), (7, 2)), scores=(0.2, 0.9, 0.1)),
    Example((3,), ((5, 2), (6, 2)), labels=(1.0, 0.0)),
    Example((4,), ((5, 2), (6, 2)), scores=(0.5, 0.5)),
    Example((5,), ((5, 2),), scores=(0.7,)),
    Example((6,), ((5, 2), (6, 2)), pairs=((1, 0),)),
]
LOGPS = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0, -10.0, -11.0, -12.0])
REF = torch.tensor([-1.5, -2.0, -2.0, -3.0, -7.0, -7.0, -7.0, -8.0, -8.0, -9.0, -11.0, -12.0])


def measured(given, logps, ref):
    batch = collate(given)
    rewards = None if ref is None else 0.5 * (logps - ref)
    return measure(batch, torch.arange(float(batch.count)), logps, rewards)


def test_each_metric_is_the_mean_computed_by_hand():
    out = means(measured(GIVEN, LOGPS, REF))
    # Chosen: pair (-1), pair (-12), best score (-4), positive label (-6). Rejected: -2, -11, -5 (worst score), -7.
    # Equal scores and a single response have no best and worst.
    assert out["logps/chosen"] == pytest.approx((-1 - 12 - 4 - 6) / 4)
    assert out["logps/rejected"] == pytest.approx((-2 - 11 - 5 - 7) / 4)
    assert out["rewards/chosen"] == pytest.approx(0.5 * (0.5 + 0 - 1 + 1) / 4)
    assert out["rewards/rejected"] == pytest.approx(0.5 * (0 + 0 + 2 + 0) / 4)
    assert out["rewards/margins"] == pytest.approx(out["rewards/chosen"] - out["rewards/rejected"])
    # Margins: 0.5 - 0 > 0, 0 - 0 = 0 (half), -1 - 2 < 0.
    assert out["rewards/accuracies"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert out["logps"] == pytest.approx(float(LOGPS.mean()))
    assert out["rewards/mean"] == pytest.approx(float(0.5 * (LOGPS - REF).mean()))
    assert out["loss"] == pytest.approx(sum(range(10)) / 10)


def test_the_negative_log_likelihood_per_token_is_of_demonstrations_alone():
    given = [Example((1,), ((5, 2), (6, 6, 6, 2))), Example((2,), ((5, 2), (6, 2)), pairs=((0, 1),))]
    out = means(measured(given, torch.tensor([-1.0, -5.0, -20.0, -30.0]), None))
    assert out["nll/token"] == pytest.approx(6 / 6) and "nll/token" not in means(measured(given[1:], LOGPS[:2], None))


def test_metrics_of_parts_add_up_to_those_of_the_whole_batch():
    whole = measured(GIVEN, LOGPS, REF)[1:]
    counts = [len(e.responses) for e in GIVEN]
    parts = zip(GIVEN, LOGPS.split(counts), REF.split(counts), strict=True)
    torch.testing.assert_close(sum(measured([e], *part)[1:] for e, *part in parts), whole)


def test_a_metric_without_a_count_is_left_out():
    demos = [Example((1,), ((5, 2), (6, 2)))]
    out = means(measured(demos, LOGPS[:2], None))
    assert out == {"loss": 0.5, "logps": -1.5, "nll/token": 0.75}
    assert list(means(torch.ones(len(NAMES), 2))) == [*NAMES, "rewards/margins"]


def test_the_output_of_a_scorer_is_its_reward():
    pairs = [e for e in GIVEN if e.pairs]
    batch, given = collate(pairs, include_last_token=True), torch.tensor([1.0, -2.0, 3.0, 5.0])
    out = means(measure(batch, torch.zeros(2), None, given))
    assert out == {
        "loss": 0,
        "rewards/mean": 7 / 4,
        "rewards/chosen": (1 + 5) / 2,
        "rewards/rejected": (-2 + 3) / 2,
        "rewards/accuracies": 1,
        "rewards/margins": 2.5,
    }


def test_two_equal_responses_are_a_tie_although_their_rewards_round_differently():
    batch = collate([Example((1,), ((5, 6, 2), (5, 6, 2), (5, 7, 2)), pairs=((0, 1), (2, 0)))])
    values = torch.tensor([-1.0, -1.0 - 1e-7, -3.0])
    out = means(measure(batch, torch.zeros(2), None, values))
    assert out["rewards/accuracies"] == (0.5 + 0) / 2
