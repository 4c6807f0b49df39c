"""Online runs go through the same loop: rows are drawn, scored, and then rows like any others."""

import json

import pytest
import torch

from una_ref.data import toysteer
from una_ref.data.batch import Example, Question
from una_ref.errors import InputError
from una_ref.policies.exact import next_logps
from una_ref.policies.rollout import Draw
from una_ref.theory.worlds import PrefixTree
from una_ref.training.config import resolve
from una_ref.training.online import Rollouts, measured
from una_ref.training.run import prepare, reference_logps, train

ONLINE = ["batch=8", "draws=4", "beta=0.4", "lr=3e-3"]


def test_methods_that_sample_from_pi_are_online_and_others_when_asked():
    assert resolve("rloo").on_policy
    assert not resolve("una-centred").on_policy
    assert resolve("una-centred", online=True).on_policy
    with pytest.raises(InputError, match="expected a method that learns from scores, got una-pair"):
        resolve("una-pair", online=True)
    with pytest.raises(InputError, match="draws: una-centred asks it online only; add --online"):
        resolve("una-centred", ["draws=8"])


def test_a_run_lowers_the_exact_regret(tmp_path):
    config = resolve("una-centred", ONLINE, online=True, steps=30, output=str(tmp_path / "run"))
    job = prepare(config)
    world = toysteer.ToySteer(seed=0)
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    prompts = toysteer.encoded_prompts(world, toysteer.tokenizer())
    exact = world.world(reference_logps(job.trainer.policy.model, world), 0.4)
    from una_ref.training.fit import fit

    measured = fit(job)
    logps = tree.sequence_logps(next_logps(job.trainer.policy.model, prompts, tree, toysteer.VOCABULARY))
    before, after = float(exact.regret(exact.ref_logps).mean()), float(exact.regret(logps).mean())
    assert after < before / 2
    assert measured["sampler_gap"] < 1e-3
    assert measured["ended"] > 0.9


def test_rows_are_drawn_anew_from_the_policy_as_it_is():
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


def test_stopped_and_resumed_it_ends_in_the_same_bytes(tmp_path):
    whole = resolve("una-online", ONLINE, steps=4, output=str(tmp_path / "whole"))
    train(whole, progress=False)
    from una_ref.training import fit as fit_module

    parts = resolve("una-online", [*ONLINE, "save_every=2"], steps=4, output=str(tmp_path / "parts"))
    real, calls = fit_module.Job.answered, []

    def stops(self, picked, step, *, record):
        calls.append(step)
        if step == 3 and calls.count(3) == 1:
            raise KeyboardInterrupt("in the middle of a rollout")
        return real(self, picked, step, record=record)

    fit_module.Job.answered = stops
    try:
        with pytest.raises(KeyboardInterrupt):
            train(parts, progress=False)
        train(parts, progress=False)
    finally:
        fit_module.Job.answered = real
    names = ("whole/adapter_model.safetensors", "parts/adapter_model.safetensors")
    one, two = ((tmp_path / name).read_bytes() for name in names)
    assert one == two
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert {"reward", "sampler_gap", "response_length", "ended"} <= lines[-1].keys()


def test_one_draw_of_a_prompt_is_not_enough_for_leave_one_out():
    with pytest.raises(InputError, match="expected two or more responses of a prompt for rloo, got one"):
        prepare(resolve("rloo", [*ONLINE, "draws=1"], steps=2))
    prepare(resolve("una-online", [*ONLINE, "draws=1"], steps=2))


def test_what_a_rollout_measures_by_hand():
    # Draws of log-prob −1, −2, −4 against −1, −5, −3: gaps 0, −3, 1, the largest 3 on whichever side.
    drawn = [[Draw((5, 2), True, -1.0), Draw((5, 6, 7), False, -2.0)], [Draw((2,), True, -4.0)]]
    examples = [Example((1,), ((5, 2), (5, 6, 7)), (1.0, 2.0)), Example((1,), ((2,),), (6.0,))]
    assert measured(examples, drawn, torch.tensor([-1.0, -5.0, -3.0])) == {
        "reward": 3.0,
        "response_length": 2.0,
        "ended": pytest.approx(2 / 3),
        "sampler_gap": 3.0,
    }


def test_what_a_step_draws_depends_on_the_seed_and_the_step():
    asked = []

    def engine(model, prompts, *, k, max_new, seed):
        asked.append(seed)
        return [[Draw((5, 2), True, -1.0)] * k for _ in prompts]

    class Words:
        def decode(self, tokens):
            return " ".join(map(str, tokens))

    class Policy:
        model = None

    for seed in (0, 1):
        rollouts = Rollouts(engine, lambda answers: [1.0] * len(answers), "mine", Words(), 2, 4, seed)
        for step in (0, 1):
            rollouts(Policy(), [Question((1,), "What?", 0)], step)
    assert len(set(asked)) == 4
