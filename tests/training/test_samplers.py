"""Online runs use the common training loop: responses are sampled and scored, then trained on like other rows."""

import itertools
import json
import math
import os
import random
import signal
import time
from dataclasses import replace

import pytest
import torch

from una_ref.data import toysteer
from una_ref.data.batch import Example, Prompt
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.policies.comparisons import preference
from una_ref.policies.exact import next_logps
from una_ref.policies.rollout import HuggingFace, Sample
from una_ref.theory import TableWorld, entropy, expected_reward
from una_ref.theory.prefix_tree import PrefixTree
from una_ref.theory.rejection import accepted_logps
from una_ref.training.job import HELD_OUT
from una_ref.training.loop import Interrupted, fit
from una_ref.training.prepare import prepare
from una_ref.training.run import train
from una_ref.training.samplers import (
    ReplayBuffer,
    Rollouts,
    adaptive_beta,
    kept,
    measured,
    most_kept,
    statistical_rejection,
)
from una_ref.training.settings import resolve
from una_ref.training.stopping import Patience
from una_ref.training.toysteer_base import reference_logps

ONLINE = ["batch=8", "samples=4", "beta=0.4", "lr=3e-3"]


def test_on_policy_methods_are_online_and_others_need_the_online_option():
    assert resolve("rloo").on_policy
    assert not resolve("una-centred").on_policy
    assert resolve("una-centred", online=True).on_policy
    with pytest.raises(InputError, match="expected a method that learns from scores, got una-pair"):
        resolve("una-pair", online=True)
    with pytest.raises(
        InputError, match="samples: applies only to online runs, and una-centred is offline. Fix: add --online"
    ):
        resolve("una-centred", ["samples=8"])


def test_online_una_centred_halves_the_exact_regret(tmp_path):
    config = resolve("una-centred", ONLINE, online=True, steps=30, output=str(tmp_path / "run"))
    job = prepare(config)
    world = toysteer.ToySteer(seed=0)
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    prompts = toysteer.encoded_prompts(world, toysteer.tokenizer())
    exact = world.world(reference_logps(job.trainer.policy.model, world), 0.4)
    measured = fit(job)
    logps = tree.sequence_logps(next_logps(job.trainer.policy.model, prompts, tree, toysteer.VOCABULARY))
    before, after = float(exact.regret(exact.ref_logps).mean()), float(exact.regret(logps).mean())
    assert after < before / 2
    assert measured["sampler_gap"] < 1e-3
    assert measured["ended"] > 0.9


def test_sampler_gap_is_measured_without_dropout():
    job = prepare(resolve("rloo", [*ONLINE, "lora_r=4", "lora_dropout=0.5", "lr=0.03"], steps=3))
    gaps = [job.step(step, record=True)["sampler_gap"] for step in range(3)]  # at the first step the adapter is still 0
    assert max(gaps) < 1e-3 and job.trainer.policy.training


def test_rollout_samples_from_the_current_policy():
    job = prepare(resolve("rloo", ONLINE, steps=3))
    first, _ = job.answered(job.examples[:8], 0, record=False)
    again, _ = job.answered(job.examples[:8], 0, record=False)
    later, _ = job.answered(job.examples[:8], 1, record=False)
    assert first == again
    assert [e.responses for e in first] != [e.responses for e in later]
    assert all(len(e.responses) == 4 == len(e.scores) for e in first)
    for weights in job.trainer.trained.values():
        with torch.no_grad():
            weights.add_(torch.randn_like(weights))
    assert [e.responses for e in job.answered(job.examples[:8], 0, record=False)[0]] != [e.responses for e in first]


def test_run_stopped_during_a_rollout_resumes_to_the_same_bytes(tmp_path):
    whole = resolve("una-online", ONLINE, steps=4, output=str(tmp_path / "whole"))
    train(whole, progress=False)
    from una_ref.training import loop as loop_module

    parts = resolve("una-online", [*ONLINE, "save_every=2"], steps=4, output=str(tmp_path / "parts"))
    real, calls = loop_module.Job.answered, []

    def stops(self, picked, step, *, record):
        calls.append(step)
        if step == 3 and calls.count(3) == 1:
            raise KeyboardInterrupt("in the middle of a rollout")
        return real(self, picked, step, record=record)

    loop_module.Job.answered = stops
    try:
        with pytest.raises(KeyboardInterrupt):
            train(parts, progress=False)
        train(parts, progress=False)
    finally:
        loop_module.Job.answered = real
    names = ("whole/adapter_model.safetensors", "parts/adapter_model.safetensors")
    one, two = ((tmp_path / name).read_bytes() for name in names)
    assert one == two
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert {"reward", "sampler_gap", "response_length", "ended"} <= lines[-1].keys()


def test_max_prompt_drops_and_counts_longer_prompts():
    whole = prepare(resolve("rloo", ONLINE, steps=1))
    longest = max(len(q.ids) for q in whole.examples)
    job = prepare(resolve("rloo", [*ONLINE, f"max_prompt={longest - 1}"], steps=1))
    assert [q.ids for q in job.examples] == [q.ids for q in whole.examples if len(q.ids) < longest]
    assert f"prompts dropped: too long: {len(whole.examples) - len(job.examples)}" in job.notes
    assert 0 < len(job.examples) < len(whole.examples)


def test_notes_say_whether_the_adapter_is_merged_for_decoding(data, tiny):
    settings = [*tiny, f"reward={__name__}:letters", "samples=2", "held_out=0"]
    for more, expected in (("max_response=20", "decoding merged: "), ("max_response=8", "decoding unmerged: ")):
        job = prepare(resolve("rloo", [*settings, more], data=data("pairs")))
        assert sum(note.startswith(expected) for note in job.notes) == 1
        assert job.answered(job.examples[:2], 0, record=True)[1]["merged"] == (expected == "decoding merged: ")


def letters(answers):
    return [len(answer.response) for answer in answers]


def test_leave_one_out_with_one_sample_per_prompt_is_refused():
    with pytest.raises(InputError, match="expected two or more responses of a prompt for rloo, got one"):
        prepare(resolve("rloo", [*ONLINE, "samples=1"], steps=2))
    prepare(resolve("una-online", [*ONLINE, "samples=1"], steps=2))


def test_rollout_measures_by_hand():
    # The sampler's log-probs −1, −2, −4 against −1, −5, −3: gaps 0, −3, 1, of which the largest magnitude is 3.
    samples = [[Sample((5, 2), True, -1.0), Sample((5, 6, 7), False, -2.0)], [Sample((2,), True, -4.0)]]
    examples = [Example((1,), ((5, 2), (5, 6, 7)), (1.0, 2.0)), Example((1,), ((2,),), (6.0,))]
    assert measured(examples, samples, [-1.0, -5.0, -3.0]) == {
        "reward": 3.0,
        "response_length": 2.0,
        "ended": pytest.approx(2 / 3),
        "sampler_gap": 3.0,
    }


def test_rollout_seed_depends_on_run_seed_step_and_process():
    seeds = []

    def engine(model, prompts, *, k, max_new, seed):
        seeds.append(torch.Generator().manual_seed(seed).initial_seed())
        return [[Sample((5, 2), True, -1.0)] * k for _ in prompts]

    class Words:
        def decode(self, tokens):
            return " ".join(map(str, tokens))

    class Policy:
        model, device = None, torch.device("cpu")

    for seed in (0, 1):
        rollouts = Rollouts(engine, lambda answers: [1.0] * len(answers), "mine", Words(), 2, 4, seed)
        for step, process in itertools.product((0, 1), (0, 1, 2)):
            rollouts(Policy(), [Prompt((1,), "What?", 0)], step, process)
    assert len(set(seeds)) == 12


# ---- PPO, replay and the rest


def exact_regret(job, before=False):
    """Mean exact regret at β = 0.4 of a ToySteer job's policy, or of its start policy."""
    world = toysteer.ToySteer(seed=0)
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    prompts = toysteer.encoded_prompts(world, toysteer.tokenizer())
    with job.trainer.policy.as_reference() as reference:
        exact = world.world(reference_logps(reference, world), 0.4)
    if before:
        return float(exact.regret(exact.ref_logps).mean())
    policy = next_logps(job.trainer.policy.model, prompts, tree, toysteer.VOCABULARY)
    return float(exact.regret(tree.sequence_logps(policy)).mean())


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ppo", []),
        ("ppo", ["critic=head", "minibatches=2", "passes=2", "lr=1e-3"]),
        ("ppo", ["ptx=0.05"]),
        ("iterative-dpo", []),
        ("iterative-dpo", ["temperature=1.5"]),
        ("una-online", ["form=released", "beta=1"]),
        ("una-centred", ["replay=8", "passes=2", "online=true"]),
    ],
    ids=str,
)
def test_every_online_method_lowers_the_exact_regret(method, settings):
    began = time.process_time()
    job = prepare(resolve(method, [*ONLINE, *settings], steps=12))
    fit(job)
    assert exact_regret(job) < 0.9 * exact_regret(job, before=True)
    assert set(job.seconds) == {"generation", "scoring", "learning"} and min(job.seconds.values()) > 0
    assert sum(job.seconds.values()) <= time.process_time() - began


@pytest.mark.parametrize("critic", ["separate", "head"])
def test_first_ppo_update_has_ratio_one_and_zero_values(critic):
    began = time.process_time()
    job = prepare(resolve("ppo", [*ONLINE, f"critic={critic}"], steps=3))
    rows, values = job.answered(job.examples[:8], 0, record=True)
    assert job.seconds["learning"] > 0 and sum(job.seconds.values()) <= time.process_time() - began
    batch = job.trainer.batch(rows)
    known = job.trainer.policy.outputs(batch, job.trainer.needs)
    logps, critics = known["token_logps"], known["values"]
    assert (logps - batch.experience["old_token_logps"]).abs().max() < 1e-5
    assert critics.abs().max() == 0 == batch.experience["old_values"].abs().max()
    assert abs(values["objective/kl"]) < 1e-5
    # With a critic of zero, the return of the last token is the score minus the token's share of the KL.
    last = batch.lengths.cumsum(0) - 1
    scores = torch.tensor([score for row in rows for score in row.scores], dtype=torch.float64)
    torch.testing.assert_close(batch.experience["returns"][last], scores, atol=1e-4, rtol=0)
    white = batch.experience["advantages"]
    assert abs(float(white.mean())) < 1e-5 and abs(float(white.std()) - 1) < 1e-3


def test_rollout_kl_estimates_the_exact_kl():
    job = prepare(resolve("ppo", ["batch=8", "samples=48", "beta=0.1", "lr=0.02"], steps=6))
    world, tree = toysteer.ToySteer(seed=0), PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    prompts = toysteer.encoded_prompts(world, toysteer.tokenizer())
    ref = tree.sequence_logps(reference_logps(job.trainer.policy.model, world))
    for step in range(5):
        job.step(step, record=False)
    _, values = job.answered(job.examples[:8], 5, record=True)
    logps = tree.sequence_logps(next_logps(job.trainer.policy.model, prompts, tree, toysteer.VOCABULARY))
    exact = (logps.exp() * (logps - ref)).sum(1)
    variance = (logps.exp() * (logps - ref - exact[:, None]) ** 2).sum(1).mean()  # of one response's log-ratio
    error = float(variance / (8 * 48)) ** 0.5
    assert float(exact.mean()) > 8 * error
    assert values["objective/kl"] == pytest.approx(float(exact.mean()), abs=4 * error)


def test_separate_critic_has_separate_adapters_and_does_not_train_the_policy():
    job = prepare(resolve("ppo", [*ONLINE, "value_lr=0.02"], steps=3))
    trainer = job.trainer
    of_critic = {name for name in trainer.trained if name.startswith("critic.")}
    assert any("lora_" in name for name in of_critic) and {"critic.head.weight", "critic.head.bias"} <= of_critic
    assert {group["peak"]: len(group["params"]) for group in trainer.optimizer.param_groups} == {
        3e-3: len(trainer.trained) - len(of_critic),
        0.02: len(of_critic),
    }
    rows, _ = job.answered(job.examples[:8], 0, record=False)
    still = [replace(e, experience=dict(e.experience) | {"advantages": zero(e)}) for e in rows]
    trainer.accumulate(still)
    moved = {name for name, p in trainer.trained.items() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved and moved <= of_critic  # only the value error is left, which trains the critic


def test_critic_head_on_the_policy_trains_the_policy():
    job = prepare(resolve("ppo", [*ONLINE, "critic=head", "value_weight=1"], steps=3))
    rows, _ = job.answered(job.examples[:8], 0, record=False)
    still = [replace(e, experience=dict(e.experience) | {"advantages": zero(e)}) for e in rows]
    with torch.no_grad():
        job.trainer.policy.critic.head.weight.fill_(0.1)
    job.trainer.accumulate(still)
    assert any(p.grad.abs().max() > 0 for name, p in job.trainer.trained.items() if "lora_B" in name)


def zero(example):
    return tuple(tuple(0.0 for _ in response) for response in example.responses)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ppo", ["kl_target=0.02", "kl_horizon=64", "ptx=0.1"]),
        ("una-centred", ["online=true", "replay=2", "passes=2", "baseline=learned"]),
        ("iterative-dpo", ["temperature=1.3", "minibatches=2", "replay=1"]),
        ("una-online", ["form=released", "beta=1", "passes=2"]),
    ],
    ids=str,
)
def test_run_stopped_between_steps_resumes_its_state_to_the_same_bytes(method, settings, tmp_path):
    both = [resolve(method, [*ONLINE, *settings], steps=4, output=str(tmp_path / name)) for name in ("whole", "parts")]
    train(both[0], progress=False)
    from una_ref.training import loop as loop_module

    real_step = loop_module.Job.step

    def stops(self, step, *, record):
        if step == 2 and not stopped:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGTERM)  # a background shell ignores SIGINT
        return real_step(self, step, record=record)

    stopped = []
    loop_module.Job.step = stops
    try:
        with pytest.raises(Interrupted, match="stopped after step 3 of 4"):
            train(both[1], progress=False)
    finally:
        loop_module.Job.step = real_step
    train(both[1], progress=False)
    one, two = (tmp_path / name / "adapter_model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()
    one, two = (tmp_path / name / "metrics.jsonl" for name in ("whole", "parts"))
    assert one.read_text() == two.read_text()


def rows(*tokens):
    return [Example((1,), ((token, 2),), (float(token),)) for token in tokens]


def updates(buffer, fresh, *more):
    return [[e.responses[0][0] for e in update] for update in buffer.updates(fresh, *more)]


def test_each_pass_takes_every_fresh_row_once():
    assert updates(ReplayBuffer(0, 0), rows(5, 6, 7, 8), 0, 2, 1) == [[5, 6, 7, 8], [5, 6, 7, 8]]
    parts = updates(ReplayBuffer(0, 0), rows(5, 6, 7, 8, 9), 0, 2, 2)
    assert [len(part) for part in parts] == [3, 2, 3, 2]
    assert sorted(parts[0] + parts[1]) == sorted(parts[2] + parts[3]) == [5, 6, 7, 8, 9]
    assert parts[0] != parts[2]
    assert updates(ReplayBuffer(0, 0), [], 0, 2, 2) == []


def test_replay_samples_recent_rollouts_uniformly_and_forgets_older_ones():
    buffer = ReplayBuffer(1, 0)
    assert sorted(updates(buffer, rows(5, 6), 0, 1, 1)[0]) == [5, 6]
    seen = [token for update in updates(buffer, rows(7, 8), 1, 500, 1) for token in update]
    assert len(seen) == 1000 and all(200 < seen.count(token) < 300 for token in (5, 6, 7, 8))
    seen = {token for update in updates(buffer, rows(9), 2, 50, 1) for token in update}
    assert seen == {7, 8, 9}


def test_an_update_from_the_buffer_has_rows_of_its_own_number():
    buffer = ReplayBuffer(5, 0, batch=3)
    assert sorted(updates(buffer, rows(5, 6), 0, 1, 1)[0]) == [5, 6]  # there are no more
    again = updates(buffer, rows(7, 8), 1, 50, 1)
    assert {len(update) for update in again} == {3} and {token for update in again for token in update} == {5, 6, 7, 8}
    assert all(len(set(update)) == 3 for update in again)


def test_replay_buffer_state_survives_json():
    buffer = ReplayBuffer(2, 0)
    experience = {"old_token_logps": ((-1.5, -0.25),)}
    kept = [
        Example((1,), ((5, 2),), (0.5,), source="a", experience=experience),
        Example((1,), ((5,), (6,)), pairs=((0, 1),)),
    ]
    list(buffer.updates(kept, 0, 1, 1))
    again = ReplayBuffer(2, 0)
    again.restore(json.loads(json.dumps(buffer.state())))
    assert again.rollouts == [kept]
    assert ReplayBuffer(0, 0, [kept]).state() == []


def test_adaptive_beta_follows_the_kl_by_hand():
    # A KL of 0.3 is 50 % above the target 0.2, clipped to 20 %: β·(1 + 0.2·64/640). Below the target β falls.
    assert adaptive_beta(0.5, 0.3, 0.2, 640, 64) == pytest.approx(0.5 * 1.02)
    assert adaptive_beta(0.5, 0.19, 0.2, 640, 64) == pytest.approx(0.5 * (1 - 0.005))
    assert adaptive_beta(0.5, 0.2, 0.2, 640, 64) == pytest.approx(0.5)
    with pytest.raises(InputError, match="expected a finite KL of the rollout, got nan"):
        adaptive_beta(0.5, float("nan"), 0.2, 640, 64)


def test_adaptive_kl_is_reported_and_moves_beta_towards_the_target(tmp_path):
    config = resolve(
        "ppo", [*ONLINE, "kl_target=0.02", "kl_horizon=100", "log_every=1"], steps=10, output=str(tmp_path / "run")
    )
    train(config, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    betas = [line["objective/beta"] for line in lines if "objective/beta" in line]
    assert betas[0] < 0.4 < betas[-1]  # at step 0 the KL is 0 and β falls; later the KL exceeds the target


def test_best_and_worst_response_of_a_prompt_form_a_pair():
    example = Example((1,), ((5,), (6,), (7,)), (0.0, 3.0, -1.0), source="a")
    pair = kept(example, "best_and_worst", "pairs")
    assert pair == Example((1,), ((6,), (7,)), (3.0, -1.0), pairs=((0, 1),), source="a")
    assert pair.kind == "pairs"
    assert kept(Example((1,), ((5,), (6,)), (2.0, 2.0)), "best_and_worst", "pairs") is None


def test_best_of_k_imitates_the_best_sample_of_each_prompt():
    job = prepare(resolve("best-of-k", ["batch=8", "samples=8", "lr=3e-3"], steps=30))
    rows, measures = job.answered(job.examples, 0, record=True)
    assert {(row.kind, len(row.responses)) for row in rows} == {("demos", 1)}
    assert METHODS["best-of-k"].samples == "the best of K" and not job.trainer.policy.has_reference
    assert fit(job)["reward"] > measures["reward"] + 0.2  # in units of ToySteer's true reward


def test_rollout_without_a_pair_makes_no_update(tmp_path):
    config = resolve(
        "iterative-dpo", [*ONLINE, f"reward={__name__}:indifferent"], steps=2, output=str(tmp_path / "run")
    )
    train(config, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["reward"] == 1.0 and "loss" not in lines[-1]


def indifferent(answers):
    return [1.0] * len(answers)


def test_missing_eos_penalty_ignores_eos_in_the_prompt():
    # The prompt contains token 2, the EOS. One of its two responses ended, the other was cut.
    def engine(model, prompts, *, k, max_new, seed):
        return [[Sample((5, 2), True, -1.0), Sample((5, 6), False, -1.0)] for _ in prompts]

    class Words:
        def decode(self, tokens):
            return " ".join(map(str, tokens))

    class Policy:
        model, device = None, torch.device("cpu")

    rollouts = Rollouts(engine, indifferent, "mine", Words(), 2, 2, 0, missing_eos_penalty=3.0)
    (example,), _ = rollouts(Policy(), [Prompt((1, 2, 7), "What?", 0)], 0)
    assert example.scores == (1.0, -2.0)


def test_patience_stops_a_run_without_held_out_improvement(tmp_path):
    more = ["eval_every=1", "patience=2", f"reward={__name__}:indifferent"]
    config = resolve("una-online", [*ONLINE, *more], steps=10, output=str(tmp_path / "run"))
    record = train(config, progress=False)
    assert record["steps"] == 3  # the second and third evaluation do not exceed the first
    assert "stopped after step 3 of 10: held-out evaluations did not improve" in record["notes"]
    assert train(config, progress=False) == record


def test_held_out_prompts_are_answered_at_temperature_one():
    job = prepare(resolve("iterative-dpo", [*ONLINE, "temperature=30"], steps=2))
    assert job.rollouts.engine.temperature == 30.0
    job.rollouts = replace(job.rollouts, engine=Temperatures(2, temperature=30.0))
    for step in (0, HELD_OUT):
        job.answered(job.examples[:2], step, record=False)
    assert TEMPERATURES == [30.0, 1.0]


class Temperatures(HuggingFace):
    """An engine that records its temperature at each call."""

    def __call__(self, model, prompts, *, k, max_new, seed):
        TEMPERATURES.append(self.temperature)
        return [[Sample((5, 2), True, -1.0)] * k for _ in prompts]


TEMPERATURES = []


def test_held_out_prompt_uses_the_mean_of_the_learned_values(data, tiny):
    more = ["online=true", "baseline=learned", "held_out=0.4", f"reward={__name__}:indifferent"]
    job = prepare(resolve("una-centred", [*tiny, *more, "max_response=4"], data=data("pairs", 10)))
    assert len(job.trainer.values) == len(job.examples) < len(job.examples) + len(job.held_out) == 10
    with torch.no_grad():
        job.trainer.values.copy_(torch.arange(1.0, len(job.examples) + 1))
    rows, _ = job.answered(job.held_out, HELD_OUT, record=False)
    known = job.trainer.baseline(job.trainer.batch(rows))
    torch.testing.assert_close(known, torch.full_like(known, float(job.trainer.values.detach().mean())))


def test_patience_counts_evaluations_without_improvement():
    patience = Patience(2, "eval_reward", rising=True)
    stops = [patience({"eval_reward": value}) for value in (1.0, 2.0, 2.0, 3.0, 2.0, 2.9)]
    assert stops == [False, False, False, False, False, True]
    other = Patience(2, "eval_reward", rising=True)
    other.restore(json.loads(json.dumps(patience.state())))
    assert other == patience
    falling = Patience(1, "eval_loss", rising=False)
    assert [falling({"eval_loss": value}) for value in (2.0, 1.0, 1.5)] == [False, False, True]
    after_nan = Patience(2, "eval_reward", rising=True)
    assert [after_nan({"eval_reward": value}) for value in (float("nan"), 1.0, 0.5, 0.4)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("rloo", ["passes=2"], "passes: rloo: expected 1, since its gradient holds for fresh samples only, got 2"),
        ("reinforce", ["minibatches=2"], "minibatches: reinforce: expected 1"),
        ("rloo", ["replay=3"], "replay: rloo: expected 0"),
        ("ppo", ["replay=3"], "replay: ppo: expected 0"),
        (
            "una-centred",
            ["online=true", "replay_batch=4"],
            "replay_batch: expected replay of at least 1 beside it, got 4",
        ),
        (
            "una-online",
            ["temperature=0.7"],
            "temperature: una-online: expected 1, since una-online is right on policy only",
        ),
        ("ppo", ["temperature=0.7"], "temperature: ppo: expected 1"),
        ("rloo", ["critic=head"], "critic: rloo: expected a method that values tokens"),
        ("rloo", ["kl_target=3"], "kl_target: rloo: expected a method whose β stands outside its loss"),
        ("iterative-dpo", ["samples=1"], "samples: iterative-dpo: expected two or more"),
        (
            "dpo",
            ["online=true"],
            "online: expected a method that learns from scores, got dpo. Fix: use iterative-dpo",
        ),
        ("dpo", ["passes=2"], "passes: applies only to online runs, and dpo is offline"),
        (
            "ppo",
            ["kl_target=1", "kl_horizon=6", "batch=4", "samples=8"],
            "kl_horizon: expected at least 7 for 32 responses",
        ),
        ("rloo", ["patience=2"], "patience: expected evaluations to count, got eval_every=0"),
    ],
)
def test_invalid_online_settings_are_refused(method, settings, message):
    with pytest.raises(InputError, match=message):
        resolve(method, settings)


# ---- rivals, rejection and samples of the reference


class Letters:
    """A tokenizer that writes each token as one x."""

    def decode(self, tokens):
        return "x" * len(tokens)


class Still:
    """A policy whose engine does not look at it."""

    model, device = None, torch.device("cpu")


def of_lengths(*lengths):
    """An engine whose samples for every prompt have these lengths, EOS included; its rivals have two tokens."""

    class Fixed:
        def __call__(self, model, prompts, *, k, max_new, seed):
            return [[Sample((5,) * (n - 1) + (2,), True, -1.0) for n in lengths] for _ in prompts]

        def mixed(self, policy, prompts, *, k, max_new, seed, share):
            assert share == 0.25 and k == len(lengths)
            return [[Sample((5, 2), True, -1.0)] * k for _ in prompts]

    return Fixed()


def test_scores_against_the_other_samples_are_win_rates_and_the_reward_is_kept():
    # Rewards are 0, 1 and 3: σ(−1), σ(1), σ(3) and so on, averaged over the other two.
    rollouts = Rollouts(of_lengths(1, 2, 4), letters, "mine", Letters(), 3, 4, 0, rivals="samples")
    (example,), (draws,) = rollouts(Still(), [Prompt((1,), "What?", 0)], 0)
    low, middle, high = (1 / (1 + math.exp(-gap)) for gap in (1, 2, 3))
    expected = [1 - (low + high) / 2, (low + 1 - middle) / 2, (middle + high) / 2]
    assert example.scores == pytest.approx(expected) and sum(example.scores) == pytest.approx(1.5)
    assert [draw.reward for draw in draws] == [0, 1, 3]
    values = measured([example], [draws], [-1.0] * 3)
    assert values["reward"] == pytest.approx(4 / 3) and values["win_rate"] == pytest.approx(0.5)


def test_scores_against_the_mixture_are_win_rates_over_one_rival_each():
    options = {"rivals": "mixture", "share": 0.25}
    rollouts = Rollouts(of_lengths(1, 2, 4), letters, "mine", Letters(), 3, 4, 0, **options)
    (example,), _ = rollouts(Still(), [Prompt((1,), "What?", 0)], 0)
    # The rival x has reward 1. The second sample is the same text, which ties.
    assert example.scores == pytest.approx([1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-2))])
    judged = Rollouts(of_lengths(1, 4), preference(longer_wins, "mine"), "mine", Letters(), 2, 4, 0, **options)
    (example,), (draws,) = judged(Still(), [Prompt((1,), "What?", 0)], 0)
    assert example.scores == (0.0, 1.0) and draws[0].reward is None


def longer_wins(first, second):
    return float(len(first.response) > len(second.response))


def test_response_without_a_reward_is_left_out_of_the_comparison():
    def reward(answers):
        return [None if len(answer.response) == 1 else len(answer.response) for answer in answers]

    rollouts = Rollouts(of_lengths(1, 2, 4), reward, "mine", Letters(), 3, 4, 0, rivals="samples", least=2)
    (example,), _ = rollouts(Still(), [Prompt((1,), "What?", 0)], 0)
    assert example.scores == pytest.approx((1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))))
    alone = Rollouts(of_lengths(1, 2), reward, "mine", Letters(), 2, 4, 0, rivals="samples", least=2)
    assert alone(Still(), [Prompt((1,), "What?", 0)], 0) == ([None], [[]])


def test_rejection_accepts_samples_of_the_optimum_at_the_rate_that_theory_gives():
    world = TableWorld.random(1, prompts=1, responses=5, beta=0.5)
    drawn = world.ref_logps[0].exp().multinomial(60_000, replacement=True, generator=torch.Generator().manual_seed(0))
    scores = world.rewards[0, drawn].tolist()
    for highest in (float(world.rewards.max()), float(world.rewards[0].topk(2).values[1])):
        accepted = statistical_rejection(scores, 0.5, len(scores), random.Random(0), highest)
        logps, rate = accepted_logps(world.ref_logps, world.rewards, 0.5, torch.tensor([highest]))
        share = torch.bincount(drawn[accepted], minlength=5).double() / len(accepted)
        torch.testing.assert_close(share, logps[0].exp(), rtol=0, atol=0.01)
        assert len(accepted) / len(scores) == pytest.approx(float(rate), abs=0.01)
    distance = (share - world.optimum[0].exp()).abs().sum() / 2
    assert distance > 0.03  # with the second reward as the bound it is not π*


def test_rejection_without_the_true_maximum_goes_round_until_enough_are_accepted():
    # At a tiny β only the best that is left is accepted in each round; at a huge one all are, in their order.
    assert statistical_rejection([1.0, 3.0, 2.0, 0.0], 1e-9, 3, random.Random(0)) == [1, 2, 0]
    assert statistical_rejection([1.0, 3.0, 2.0, 0.0], 1e9, 3, random.Random(0)) == [0, 1, 2]
    assert statistical_rejection([1.0, 2.0], 1e9, 5, random.Random(0)) == [0, 1]
    accepted = [statistical_rejection([*map(float, range(8))], 2.0, 5, random.Random(seed)) for seed in range(20)]
    assert all(len(set(places)) == len(places) == 5 for places in accepted)


def test_accepted_half_is_trained_on_in_pairs_of_different_scores():
    example = Example((1,), ((5,), (6,), (7,), (8,)), (0.0, 3.0, -1.0, 1.0), source="a")
    pair = kept(example, "rejection", "pairs", beta=1e9)
    assert pair == Example((1,), ((6,), (5,)), (3.0, 0.0), pairs=((0, 1),), source="a")
    eight = Example((1,), tuple((i,) for i in range(8)), (0.0, 1.0, 2.0, 2.0, 9.0, 9.0, 9.0, 9.0))
    assert kept(eight, "rejection", "pairs", beta=1e9).responses == ((1,), (0,))  # the tie of 2 and 3 is no pair
    six = Example((1,), tuple((i,) for i in range(6)), (0.0, 1.0, 2.0, 9.0, 9.0, 9.0))
    assert kept(six, "rejection", "pairs", beta=1e9).responses == ((1,), (0,))  # the third has no partner
    assert kept(Example((1,), ((5,), (6,)), (2.0, 2.0)), "rejection", "pairs") is None
    assert [most_kept("rejection", k) for k in (2, 4, 8)] == [2, 2, 4] and most_kept("all", 4) == 4


@pytest.mark.parametrize(("method", "settings"), [("rso", []), ("best-of-k", ["sample_from=reference"])])
def test_responses_of_the_reference_stay_its_own_while_the_policy_learns(method, settings):
    job = prepare(resolve(method, ["batch=4", "samples=4", *settings], steps=3))
    before, _ = job.rollouts(job.trainer.policy, job.examples[:4], 5)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in job.trainer.trained.values():
            weights.add_(0.1 * torch.randn_like(weights))
    after, _ = job.rollouts(job.trainer.policy, job.examples[:4], 5)
    assert [e.responses for e in before] == [e.responses for e in after]
    # An evaluation measures the policy, not its reference.
    own, _ = job.rollouts.plain(job.trainer.policy, job.examples[:4], 5)
    assert [e.responses for e in own] != [e.responses for e in after]


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("rloo", ["sample_from=reference"], "sample_from: rloo: expected policy, since rloo is right on policy only"),
        ("rloo", ["mixture=0.5"], "mixture: rloo: expected a method with rivals from a mixture, such as nash-md"),
        ("rloo", ["rejection_beta=1"], "rejection_beta: rloo: expected a method with rejection sampling, such as rso"),
        ("sppo", ["samples=1"], "samples: sppo: expected two or more, responses that are rivals, got 1"),
        ("rso", ["samples=1"], "samples: rso: expected two or more, two accepted responses, got 1"),
        ("nash-md", ["engine=vllm"], "engine: nash-md: expected hf, which samples with the reference as well"),
        ("nash-md", ["mixture=1"], "mixture: expected"),
        ("dpo", ["sample_from=reference"], "sample_from: applies only to online runs"),
    ],
)
def test_sampling_that_a_method_cannot_learn_from_is_refused(method, settings, message):
    with pytest.raises(InputError, match=message):
        resolve(method, settings)


def test_self_rewarding_is_judged_by_the_policy_unless_a_reward_is_named():
    assert resolve("self-rewarding").judge == "self" and resolve("iterative-dpo").judge == "toysteer"
    assert resolve("self-rewarding", ["reward=self:yes"]).judge == "self:yes"


def exact_policy(job):
    """(X, S) log π of a ToySteer job."""
    world, tree = toysteer.ToySteer(seed=0), PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    prompts = toysteer.encoded_prompts(world, toysteer.tokenizer())
    return tree.sequence_logps(next_logps(job.trainer.policy.model, prompts, tree, toysteer.VOCABULARY))


def test_self_rewarding_makes_the_policy_more_certain_and_hardly_better():
    # Its reward is its own mean log-prob; the true reward of ToySteer gains little. Halving the exact regret takes a
    # method with the true reward as many steps.
    job = prepare(resolve("self-rewarding", ["batch=8", "samples=8", "lr=3e-3"], steps=15))
    before = exact_policy(job)
    fit(job)
    after, rewards = exact_policy(job), toysteer.ToySteer(seed=0).rewards
    assert entropy(after).mean() < entropy(before).mean() - 0.3
    assert expected_reward(after, rewards).mean() < expected_reward(before, rewards).mean() + 0.5
