"""Faults in online runs: missing scores, failing rewards, too long prompts, models that never end, and kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from una_ref import cli
from una_ref.data import toysteer
from una_ref.data.batch import Prompt
from una_ref.errors import InputError
from una_ref.policies import reward_sources
from una_ref.policies.rollout import Sample
from una_ref.training.loop import fit
from una_ref.training.model import model_and_tokenizer
from una_ref.training.prepare import prepare
from una_ref.training.reading import read_rows
from una_ref.training.run import train
from una_ref.training.samplers import Rollouts
from una_ref.training.settings import resolve

ROOT = Path(__file__).resolve().parents[2]
ONLINE = ["batch=8", "samples=4", "beta=0.4", "lr=3e-3"]


def rolled(answers, least=1, samples=3):
    """A rollout of two prompts with these scores from the reward. Sample n has log-prob −n and n + 5 tokens."""

    def engine(model, prompts, *, k, max_new, seed):
        return [[Sample((5,) * (n + 4) + (2,), True, -float(n)) for n in range(k)] for _ in prompts]

    class Words:
        def decode(self, tokens):
            return " ".join(map(str, tokens))

    class Policy:
        model, device = None, torch.device("cpu")

    rollouts = Rollouts(engine, lambda given: answers, "mine", Words(), samples, 8, 0, least=least)
    return rollouts(Policy(), [Prompt((1,), "What?", 0), Prompt((1, 4), "Why?", 1)], 0)


def test_unscored_response_is_left_out_of_examples_and_measures():
    examples, samples = rolled([1.0, None, 3.0, None, None, 6.0])
    assert [(len(e.responses), e.scores) for e in examples] == [(2, (1.0, 3.0)), (1, (6.0,))]
    assert [e.prompt_index for e in examples] == [0, 1]
    assert [[s.logp for s in of_prompt] for of_prompt in samples] == [[-0.0, -2.0], [-2.0]]
    assert [[s.tokens for s in of_prompt] for of_prompt in samples] == [list(e.responses) for e in examples]


def test_prompt_with_too_few_scored_responses_is_dropped():
    answers = [1.0, None, 3.0, None, None, 6.0]
    (example, dropped), _ = rolled(answers, least=2)
    assert example.prompt_index == 0 and len(example.responses) == 2 and dropped is None
    assert rolled([None] * 6) == ([None, None], [[], []])
    with pytest.raises(InputError, match="reward mine: expected a finite number, got inf"):
        rolled([1.0, None, float("inf"), 1.0, 1.0, 1.0], least=2)


class IncompleteReward:
    """ToySteer's truth, without a score for response `i` of call `n` where missing(n, i) is true."""

    def __init__(self, missing):
        self.truth, self.missing, self.calls = reward_sources.Truth(toysteer.ToySteer(seed=0)), missing, 0

    def __call__(self, answers):
        self.calls += 1
        return [None if self.missing(self.calls, i) else s for i, s in enumerate(self.truth(answers))]


def running(monkeypatch, missing):
    """Replace ToySteer's truth in runs by an `IncompleteReward`."""
    source = IncompleteReward(missing)
    monkeypatch.setattr(reward_sources, "reward_source", lambda name, world=None: source)
    return source


def test_patience_ignores_an_evaluation_without_scores(monkeypatch):
    # Patience needs a held-out reward, which the evaluation in the middle lacks.
    running(monkeypatch, lambda call, place: call == 4)
    job = prepare(resolve("rloo", [*ONLINE, "eval_every=1", "patience=3"], steps=3))
    evaluations = fit(job)
    assert {"reward", "loss"} <= evaluations.keys() and job.callbacks[0].waited <= 2


@pytest.mark.parametrize(("method", "prompts"), [("rloo", 1), ("una-online", 0), ("ppo", 0)])
def test_unscored_responses_are_counted_per_step_and_per_run(method, prompts, tmp_path, monkeypatch):
    # Call 1 is made by `prepare`, 2 by the evaluation before the first step, 3 … 7 by the steps, 8 by the last
    # evaluation. In step 2 (call 4) three of the first prompt's four samples lack a score, too many for leave-one-out.
    running(monkeypatch, lambda call, place: call == 4 and place < 3)
    output = tmp_path / "run"
    record = train(resolve(method, [*ONLINE, "log_every=10"], steps=5, output=str(output)), progress=False)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line for line in lines}
    assert by_step[2] == {"step": 2, "dropped": 3 + prompts} | ({"dropped_prompts": 1} if prompts else {})
    assert by_step[1]["dropped"] == by_step[5]["dropped"] == 0
    assert record["notes"][-1] == f"responses dropped, because the reward gave no score: {3 + prompts}"


def test_step_without_scores_stops_the_run_and_the_run_can_resume(tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(resolve("rloo", ONLINE, steps=4, output=str(whole)), progress=False)
    running(monkeypatch, lambda call, place: call == 5)
    command = ["train", "rloo", *ONLINE, "--steps", "4", "--output", str(parts)]
    assert cli.main(command) == 1
    message = "failed: step 3: reward toysteer: expected scores, got none for any response"
    assert message in capsys.readouterr().err
    running(monkeypatch, lambda call, place: False)
    assert cli.main(command) == 0
    one, two = ((folder / "adapter_model.safetensors").read_bytes() for folder in (whole, parts))
    assert one == two


def test_reward_without_any_score_is_refused_before_the_first_step(tmp_path, monkeypatch):
    running(monkeypatch, lambda call, place: True)
    output = tmp_path / "run"
    with pytest.raises(InputError, match="reward toysteer: expected scores, got none for 8 prompts"):
        train(resolve("rloo", ONLINE, steps=4, output=str(output)), progress=False)
    assert not output.exists()


def test_evaluation_without_scores_is_empty_and_the_run_continues(tmp_path, monkeypatch):
    running(monkeypatch, lambda call, place: call in (2, 5))
    output = tmp_path / "run"
    record = train(resolve("rloo", ONLINE, steps=2, output=str(output)), progress=False)
    prompts = len(toysteer.ToySteer(seed=0).prompts)
    assert record["evaluation"] == {"dropped": 4 * prompts, "dropped_prompts": prompts}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_reward_stops_the_run_and_names_the_row(bad, tmp_path, monkeypatch, capsys):
    source = running(monkeypatch, lambda call, place: False)
    world = toysteer.ToySteer(seed=0)
    truth = source.truth
    source.truth = lambda answers: [bad if source.calls == 4 and i == 5 else s for i, s in enumerate(truth(answers))]
    output = tmp_path / "run"
    assert cli.main(["train", "rloo", *ONLINE, "--steps", "4", "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert f"failed: step 2: reward toysteer: expected a finite number, got {bad} for the response '" in error
    assert any(f"to {prompt!r:.60}" in error for prompt in world.prompts)
    assert (output / "checkpoint.safetensors").exists() and not (output / "adapter_model.safetensors").exists()


def test_pairs_are_made_from_scored_responses_only(monkeypatch):
    # In iterative DPO a prompt with one scored response has no pair. A prompt with equal scores has none either.
    running(monkeypatch, lambda call, place: call == 2 and place < 3)
    job = prepare(resolve("iterative-dpo", ["batch=8", "samples=4"], steps=2))
    rows, measures = job.answered(job.examples[:8], 0, record=True)
    assert measures["dropped"] == 4 and measures["dropped_prompts"] == 1
    assert job.examples[0].ids not in [row.prompt for row in rows]


# ---- text


def prompts(path, texts):
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return str(path)


def by_length(answers):
    """A reward: the number of characters of the response."""
    SEEN.extend(answers)
    return [len(answer.response) for answer in answers]


SEEN = []


def test_prompts_without_responses_are_data_for_online_runs_only(tiny, tmp_path, capsys):
    data = prompts(tmp_path / "prompts.jsonl", [f"red cat {i}" for i in range(9)])
    settings = ["max_response=4", "samples=2", "held_out=0.3"]
    words = ["--data", data, "--reward", f"{__name__}:by_length", "--steps", "2", *tiny, *settings]
    SEEN.clear()
    assert cli.main(["train", "rloo", *words, "--output", str(tmp_path / "run")]) == 0
    assert {answer.prompt for answer in SEEN} == {f"red cat {i}" for i in range(9)}
    capsys.readouterr()
    assert cli.main(["train", "rloo", *words, "--dry-run"]) == 0
    assert "6 to train on, 3 held out" in capsys.readouterr().out
    for method in ("dpo", "sft", "una-score"):
        assert cli.main(["train", method, "--data", data, *tiny, "--output", str(tmp_path / method)]) == 2
        assert "prompts alone are for online runs" in capsys.readouterr().err
    score = ["score", "--data", data, "--reward", f"{__name__}:by_length", "--output", str(tmp_path / "scored.jsonl")]
    assert cli.main(score) == 2
    assert "prompts alone are for online runs" in capsys.readouterr().err


@pytest.mark.skipif("UNA_REF_DATA" not in os.environ, reason="UNA_REF_DATA is not set: no real data to read")
def test_mt_bench_is_data_for_an_online_run(tiny):
    data = f"{os.environ['UNA_REF_DATA']}/mt_bench_questions.jsonl"
    settings = ["max_response=4", "samples=2", "held_out=0", "max_length=120"]
    job = prepare(resolve("una-online", [*tiny, *settings], data=data, reward=f"{__name__}:by_length", steps=1))
    kept = {note.partition(": ")[0]: note for note in job.notes}
    assert "prompts dropped" in kept, "one is longer than 120 tokens of the small tokenizer made here"
    first = job.examples[0].text
    assert first.startswith("Compose an engaging travel blog post about a recent trip to Hawaii")


def test_prompts_beyond_the_window_are_dropped_and_refused_if_none_remain(tiny, tmp_path):
    texts = ["red cat", "blue dog " * 40, "green bird", "runs now " * 50, "sleeps"]
    settings = [*tiny, "max_response=4", "samples=2", "max_length=40", "held_out=0"]
    reward = f"{__name__}:by_length"
    data = prompts(tmp_path / "some.jsonl", texts)
    job = prepare(resolve("rloo", settings, data=data, reward=reward, steps=2))
    assert "prompts dropped: too long: 2" in job.notes
    assert {question.text for question in job.examples} == {"red cat", "green bird", "sleeps"}
    data = prompts(tmp_path / "none.jsonl", texts[1::2])
    with pytest.raises(InputError, match="expected at least one prompt that leaves room for 4 tokens"):
        prepare(resolve("rloo", settings, data=data, reward=reward, steps=2))


def test_responses_without_eos_are_cut_and_training_continues(tiny, tmp_path):
    data = prompts(tmp_path / "prompts.jsonl", [f"red cat {i}" for i in range(6)])
    settings = [*tiny, "max_response=5", "samples=3", "held_out=0"]
    config = resolve("rloo", settings, data=data, reward=f"{__name__}:by_length", steps=2)
    model, tokenizer, _ = model_and_tokenizer(config, read_rows(config))
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id]
    SEEN.clear()
    job = prepare(config, model=model, tokenizer=tokenizer)
    before = {name: weights.detach().clone() for name, weights in job.trainer.trained.items()}
    (tmp_path / "run").mkdir()
    fit(job, output=tmp_path / "run")
    assert SEEN and not any(answer.ended or tokenizer.eos_token in answer.response for answer in SEEN)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        assert values["ended"] == 0 and values["response_length"] == 5
        assert values["grad_norm"] > 0
    assert any(not torch.equal(before[name], weights) for name, weights in job.trainer.trained.items())


@pytest.mark.slow
def test_run_killed_during_a_rollout_resumes_to_the_same_bytes(tiny, tmp_path):
    # A real process, whose reward touches a file when step 3 needs scores, and then never returns.
    data = prompts(tmp_path / "prompts.jsonl", [f"red cat {i}" for i in range(6)])
    (tmp_path / "stalling.py").write_text(
        "import os, pathlib, time\n"
        "calls = 0\n"
        "def lengths(answers):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if os.environ.get('STALL') == str(calls):\n"
        "        pathlib.Path('stalled').touch()\n"
        "        time.sleep(600)\n"
        "    return [len(answer.response) for answer in answers]\n"
    )
    settings = [*tiny, "max_response=5", "samples=3", "held_out=0", "save_every=1"]

    def start(name, **more):
        words = [
            "train",
            "rloo",
            "--data",
            data,
            "--reward",
            "stalling:lengths",
            "--steps",
            "5",
            "--output",
            name,
            *settings,
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more
        return subprocess.Popen([sys.executable, "-m", "una_ref", *words], cwd=tmp_path, env=environment)

    assert start("straight").wait(300) == 0
    process = start("broken", STALL="4")  # `prepare` makes the first call
    try:
        while not (tmp_path / "stalled").exists() and process.poll() is None:
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert not (tmp_path / "broken" / "adapter_model.safetensors").exists()
    assert start("broken").wait(300) == 0
    for name in ("adapter_model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


def broken(answers):
    """A reward that fails like a remote service."""
    raise RuntimeError("service down")


def test_reward_that_raises_is_refused_before_the_first_step():
    with pytest.raises(InputError, match=r"reward .*broken: raised RuntimeError: service down"):
        prepare(resolve("rloo", ["batch=4", "samples=2", f"reward={__name__}:broken"], steps=2))


ONE_BAD = """
import os
calls = []
def bad(answers):
    calls.append(len(answers))
    broken = os.environ["RANK"] == "1" and len(calls) > 3
    return [float("nan") if broken else float(len(a.response)) for a in answers]
"""


@pytest.mark.slow
def test_two_processes_share_a_rollout_and_stop_together(tmp_path):
    # Each process takes half of the prompts: PPO finishes with four responses to each of eight prompts.
    # If one process gets a non-finite reward, the other does not wait for it, and the finished steps are saved.
    (tmp_path / "one_bad.py").write_text(ONE_BAD)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "una_ref"]
    more = ["batch=8", "samples=4", "beta=0.4", "held_out=0", "log_every=1"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}

    def run(*words):
        command = [*launch, "train", *words, *more]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    done = run("ppo", "steps=2", "--output", "whole")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "whole/adapter_model.safetensors").exists()
    last = json.loads((tmp_path / "whole/metrics.jsonl").read_text().splitlines()[-1])
    assert last["dropped"] == 0 == last["dropped_prompts"]  # all 32 responses came together
    done = run("rloo", "steps=8", "reward=one_bad:bad", "--output", "broken")
    assert done.returncode != 0
    assert "expected a finite number, got nan" in done.stderr and "refused in another process" in done.stderr
    assert (tmp_path / "broken/checkpoint.safetensors").exists()
