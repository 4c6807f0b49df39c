"""Monitors of policies whose numbers are known."""

from dataclasses import replace
from pathlib import Path

import pytest

from una_ref.studies.leaderboard.board_runs import BoardRun, measure_run
from una_ref.studies.leaderboard.board_worlds import BoardWorld
from una_ref.studies.leaderboard.conditions import Conditions
from una_ref.studies.leaderboard.monitors import MONITORS, Watch
from una_ref.theory import optimum


@pytest.fixture(scope="module")
def world(tiny):
    return BoardWorld(0, tiny, Conditions())


def test_nothing_has_changed_at_the_reference(world):
    seen = Watch(world, 64)(world.world.ref_logps)
    assert seen.keys() == {*MONITORS, "truth"}
    assert {name: seen[name] for name in seen if name != "disagreement"} == pytest.approx(
        dict.fromkeys(seen.keys() - {"disagreement"}, 0.0), abs=1e-12
    )
    assert seen["disagreement"] > 0


def test_the_truth_is_the_gain_in_true_reward(world):
    exact = world.world
    best = optimum.optimal_logps(exact.ref_logps, exact.rewards, exact.beta)
    gain = optimum.expected_reward(best, exact.rewards) - optimum.expected_reward(exact.ref_logps, exact.rewards)
    seen = Watch(world, 64)(best)
    assert seen["truth"] == pytest.approx(float(gain.mean()), abs=1e-12)
    assert seen["kl"] == pytest.approx(float(optimum.kl(best, exact.ref_logps).mean()), abs=1e-12)


def test_the_length_is_counted_in_tokens_and_rings_for_shorter_and_longer_responses(world):
    exact, watch = world.world, Watch(world, 64)
    tokens = (exact.sequences > 0).sum(1).double()  # without EOS
    for sign in (1.0, -1.0):
        policy = (exact.ref_logps + sign * tokens).log_softmax(-1)
        change = ((policy.exp() - exact.ref_logps.exp()) * tokens).sum(1).mean()
        assert float(change) * sign > 0.1
        assert watch(policy)["length"] == pytest.approx(abs(float(change)), abs=1e-12)


def test_the_spread_is_that_of_the_reward_model_and_not_of_the_judge(world):
    exact, watch = world.world, Watch(world, 64)
    flat = (exact.ref_logps + 1e4 * watch.proxy).log_softmax(-1)
    p = exact.ref_logps.exp()
    start = ((p * watch.proxy.square()).sum(1) - (p * watch.proxy).sum(1).square()).sqrt().mean()
    assert watch(flat)["spread"] == pytest.approx(float(start), abs=1e-3)


def test_more_pairs_leave_less_disagreement_and_a_judge_who_agrees(world):
    exact = world.world
    few, many = Watch(world, 16), Watch(world, 16384)
    sharp = optimum.optimal_logps(exact.ref_logps, few.proxy, 0.05)
    assert few(sharp)["disagreement"] > 3 * many(sharp)["disagreement"]
    assert few(sharp)["judge"] > 0  # the reward model likes what it was optimised for more than a judge does
    assert abs(many(optimum.optimal_logps(exact.ref_logps, many.proxy, 0.05))["judge"]) < few(sharp)["judge"]


def test_a_certain_policy_has_lost_entropy_and_spread(world):
    exact = world.world
    watch = Watch(world, 64)
    seen = watch(optimum.optimal_logps(exact.ref_logps, watch.proxy, 1e-3))
    assert seen["entropy"] == pytest.approx(float(optimum.entropy(exact.ref_logps).mean()), abs=1e-3)
    assert seen["spread"] > 0.1


def test_a_watched_run_has_the_monitors_along_the_way(tiny):
    run = BoardRun("rloo.rm", 32, 0, 1e-2, (0.125,), "trap", 2.0, True)
    longer = replace(tiny, steps=32)
    found = measure_run(run, longer, Path())
    assert len(found["seen"]) == 32 and found["seen"][-1].keys() == {*MONITORS, "truth"}
    assert found["seen"][-1]["kl"] == pytest.approx(found["kl"], abs=1e-9)
    plain = measure_run(replace(run, watched=False), longer, Path())
    assert "seen" not in plain and plain["regret"] == found["regret"]
