"""Runs: what a budget buys online and offline, the same numbers again, and what a failed run leaves."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from una_ref.studies.leaderboard import board_runs
from una_ref.studies.leaderboard.board_entries import ENTRIES
from una_ref.studies.leaderboard.board_runs import (
    BoardRun,
    board_job,
    board_world,
    measure_run,
    proxy_rewards,
    rollout_sizes,
)
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_worlds import BoardWorld
from una_ref.studies.leaderboard.conditions import Conditions
from una_ref.theory import optimum


def job_of(name, tiny, budget=32, **more):
    run = BoardRun(name, budget, 0, 1e-3, (1.0,) * len(ENTRIES[name].tuned), **more)
    return board_job(ENTRIES[name], run, tiny, board_world(0, tiny, run.conditions))


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_row_trains_in_a_world(name, tiny):
    run = BoardRun(name, 32, 0, 1e-3, (1.0,) * len(ENTRIES[name].tuned))
    found = measure_run(run, tiny, Path())
    assert found["failed"] == ""
    assert math.isfinite(found["regret"]) and found["kl"] > 0 and found["tax"] > 0


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("una-pair", 8),
        ("una-score", 4),
        ("una-binary-bce", 4),
        ("rpo", 4),
        ("lipo", 2),
        ("sft", 8),
        ("una-centred.mixed", 5),
    ],
)
def test_an_offline_step_has_as_many_labels_of_every_kind(name, rows, tiny):
    config = job_of(name, tiny).config
    assert (config.batch, config.steps) == (rows, tiny.steps)


@pytest.mark.parametrize(
    ("name", "rollouts", "passes"),
    [
        ("rloo", 4, 1),  # 32 calls are 4 rollouts of 2 prompts with 4 responses
        ("nash-md", 2, 1),  # every response has a rival, which is scored as well
        ("ppo", 4, 1),  # four rollouts with one pass are the four updates of an offline run
        ("rloo.rm", 4, 1),  # a reward model answers as often as the updates allow
    ],
)
def test_a_budget_buys_rollouts(name, rollouts, passes, tiny):
    config = job_of(name, tiny).config
    assert (config.steps, config.updates[0], config.batch, config.samples_per_prompt) == (rollouts, passes, 2, 4)


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.online])
@pytest.mark.parametrize("budget", [16, 32])
def test_no_row_has_more_updates_than_an_offline_run(name, budget, tiny):
    config = job_of(name, tiny, budget=budget).config
    passes, minibatches = config.updates
    assert 1 <= config.steps * passes * minibatches <= tiny.steps


def test_every_comparison_that_was_bought_is_seen_as_often_by_a_method_with_demonstrations(tiny):
    assert job_of("tpo", tiny).config.batch == 2 * tiny.batch  # a row of pairs and one of demonstrations each


def test_passes_fill_the_updates_up_to_those_of_the_entry(tiny):
    longer = replace(tiny, steps=64)
    assert job_of("ppo", longer).config.updates == (4, 1)
    assert job_of("una-centred.replay", longer).config.updates == (16, 1)
    assert job_of("una-centred.replay", replace(tiny, steps=8)).config.updates == (2, 1)


@pytest.mark.parametrize(
    ("name", "budget", "prompts", "updates"),
    [
        ("ppo", 4096, 8, 64 * 4),  # a rollout of 64 responses, four passes
        ("ppo", 1024, 2, 64 * 4),
        ("rloo", 4096, 2, 256),
        ("una-centred.replay", 4096, 2, 256),  # its updates take older samples as well
        ("una-centred.replay", 256, 2, 16 * 16),
        ("ppo", 16384, 8, 256),
    ],
)
def test_passes_buy_larger_rollouts_at_as_many_updates(name, budget, prompts, updates):
    config = job_of(name, LeaderboardSettings(), budget=budget).config
    assert (config.batch, config.steps * config.updates[0]) == (prompts, updates)


def test_online_rewards_are_asked_as_often_as_the_budget_says(tiny, monkeypatch):
    asked = []
    for name in ("rloo", "nash-md", "sppo", "iterative-dpo"):
        job = job_of(name, tiny)
        source = job.rollouts.reward
        counts = []

        def counting(answers, source=source, counts=counts):
            counts.append(len(answers))
            return source(answers)

        object.__setattr__(job.rollouts, "reward", counting)
        for step in range(job.config.steps):
            job.step(step, record=False)
        asked.append(sum(counts))
    assert asked == [32] * 4


def test_a_run_is_a_function_of_its_arguments(tiny):
    for name in ("una-pair", "ppo"):
        run = BoardRun(name, 32, 1, 1e-2, (1.0,))
        first, again = (measure_run(run, tiny, Path()) for _ in range(2))
        assert {**first, "seconds": 0} == {**again, "seconds": 0}


@pytest.mark.parametrize("name", ["una-pair", "nash-md", "ppo"])
def test_the_small_reference_changes_no_number(name, tiny, monkeypatch):
    run = BoardRun(name, 32, 1, 1e-2, (1.0,))
    small = measure_run(run, tiny, Path())
    monkeypatch.setattr(BoardWorld, "reference", lambda world: None)
    assert {**small, "seconds": 0} == {**measure_run(run, tiny, Path()), "seconds": 0}


def test_a_run_that_a_value_stops_is_measured_as_it_stood(tiny):
    found = measure_run(BoardRun("una-score.printed", 32, 0, 1e12, (1.0,)), replace(tiny, steps=12), Path())
    assert "step" in found["failed"] or "not finite" in found["failed"]


def test_a_wrong_reward_model_costs_its_optimum_regret(tiny):
    found = [measure_run(BoardRun("proxy", budget, 0), tiny, Path())["regret"] for budget in (32, 16384)]
    assert found[0] > found[1] > 0
    assert found[1] < 0.05


@pytest.mark.parametrize(("name", "expected"), [("base", {"kl": 0.0, "tax": 0.0}), ("optimum", {"regret": 0.0})])
def test_reference_rows_are_exact(name, expected, tiny):
    found = measure_run(BoardRun(name, 16, 0), tiny, Path())
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_the_exact_gradient_brings_the_board_s_mlp_near_the_optimum_of_a_world_of_the_board():
    """What methods leave is due to data and updates, and not to the policy's class: below 2 % of π_ref's regret."""
    full = LeaderboardSettings()
    world = board_world(0, full, Conditions())
    policy = world.policy().double()
    optimizer = torch.optim.LBFGS(policy.parameters(), max_iter=300, history_size=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        logps = world.task(policy.next_logps())
        loss = optimum.regret(logps, world.world.ref_logps, world.world.rewards, full.beta).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert 0 < world.judged(policy.next_logps())["regret"] < 0.019


def test_exact_ascent_leaves_less_regret_the_more_updates_it_takes(tiny):
    few, many = (
        measure_run(BoardRun("ascent", 0, 0), replace(tiny, steps=steps), Path())["regret"] for steps in (4, 64)
    )
    assert measure_run(BoardRun("base", 0, 0), tiny, Path())["regret"] > few > many > 0


def test_exact_ascent_has_the_best_learning_rate_of_the_grid(tiny):
    def ascent(*lrs):
        return measure_run(BoardRun("ascent", 0, 0), replace(tiny, lrs=lrs), Path())["regret"]

    alone = [ascent(lr) for lr in tiny.lrs]
    assert ascent(*tiny.lrs) == ascent(*tiny.lrs[::-1]) == min(alone) < max(alone)


@pytest.mark.parametrize(("budget", "expected"), [(256, (2, 16)), (1024, (2, 64)), (4096, (2, 256)), (16384, (8, 256))])
def test_a_small_budget_has_small_rollouts(budget, expected):
    assert rollout_sizes(ENTRIES["rloo"], budget, LeaderboardSettings()) == expected
    prompts, rollouts = rollout_sizes(ENTRIES["nash-md"], budget, LeaderboardSettings())
    assert 2 * 8 * prompts * rollouts == budget


def test_the_best_checkpoint_of_an_online_run_may_lie_before_its_end(tiny, monkeypatch):
    regrets = iter([0.5, 0.2, 0.4, 0.9])

    def judged(world, table):
        return {"regret": next(regrets), "kl": 1.0}

    monkeypatch.setattr(BoardWorld, "judged", judged)
    found = measure_run(BoardRun("rloo", 32, 0, 1e-3, (1.0,)), tiny, Path())
    assert (found["best_regret"], found["regret"]) == (0.2, 0.9)


def test_a_reward_model_learns_from_the_pairs_of_its_condition_and_else_from_the_budget(tiny):
    few = proxy_rewards(0, tiny, Conditions(proxy_pairs=16), 32)
    assert torch.equal(few, proxy_rewards(0, tiny, Conditions(), 16))
    assert not torch.equal(few, proxy_rewards(0, tiny, Conditions(), 32))


def test_a_watched_run_is_watched_with_the_reward_model_that_it_is_trained_on(tiny, monkeypatch):
    told = []
    monkeypatch.setattr(board_runs, "Watch", lambda world, pairs: told.append(pairs) or (lambda logps: {}))
    for axis, level in (("proxy_pairs", 64), ("trap", 2.0)):
        measure_run(BoardRun("rloo.rm", 32, 0, 1e-3, (1.0,), axis, level, True), tiny, Path())
    assert told == [64, 32]


def test_a_learned_value_starts_at_the_mean_of_the_feedback(tiny):
    values = job_of("dro", tiny).trainer.values
    scores = [s for e in board_world(0, tiny, Conditions()).examples("scores", 32) for s in e.scores]
    torch.testing.assert_close(values.detach(), torch.full_like(values, sum(scores) / len(scores)))


def test_the_updates_of_a_run_are_counted(tiny):
    longer = replace(tiny, steps=64)
    found = [
        measure_run(BoardRun(name, 32, 0, 1e-3, (1.0,)), longer, Path())["updates"] for name in ("una-pair", "ppo")
    ]
    assert found == [64, 16]  # four rollouts, four passes


def test_the_trap_raises_what_the_labeller_sees_and_lowers_the_truth(tiny):
    found = [measure_run(BoardRun("optimum", 0, 0, axis="trap", level=level), tiny, Path()) for level in (0.0, 2.0)]
    gaps = [each["labeller_reward"] - each["reward"] for each in found]
    assert gaps[0] == pytest.approx(0.0, abs=1e-12) and found[1]["trapped"] < found[0]["trapped"]
    world = board_world(0, tiny, Conditions(trap=2.0)).world
    apart = (world.labeller - world.rewards) - (world.labeller - world.rewards)[:, :1]
    assert apart.unique().numel() == 2  # with the trap or without


def test_a_reward_model_of_single_tokens_is_wrong_however_many_pairs_it_has(tiny):
    found = [
        measure_run(BoardRun("proxy", 16384, 0, axis="proxy_tokens", level=level), tiny, Path())["regret"]
        for level in (1, 2)
    ]
    assert found[0] > 3 * found[1]


def test_the_width_of_the_policy_is_a_condition(tiny):
    model = job_of("una-pair", tiny, axis="hidden", level=2).trainer.policy.model
    assert model.head.weight.shape[1] == 2


def test_keys_tell_all_runs_apart():
    runs = {BoardRun("dpo", b, s, lr, f, axis, level)
            for b in (16, 32) for s in (0, 1) for lr in (1e-3, 1e-2) for f in ((), (1.0,), (1.0, 2.0))
            for axis, level in (("", None), ("offset", 1.0), ("offset", 2.0))}  # fmt: skip
    assert len({run.key for run in runs}) == len(runs)
