"""A finished run that takes more steps ends in the bytes of one run of that length; else the reason is said."""

import json
import signal

import pytest

from una_ref.cli import main
from una_ref.training.trainer import Trainer

CONSTANT = ["schedule=constant", "warmup_steps=1"]
RUNS = {
    "dpo": ("pairs", ["lora_dropout=0.3", "held_out=0.2", "eval_every=2", "log_every=3"]),
    "sft": ("messages", ["lora_r=0"]),
    "una-centred": ("scores", ["--online", "reward=length:chars", "replay=1", "samples=2", "max_response=6"]),
    "reward-model": ("pairs", ["lora_dropout=0.3"]),
}


@pytest.fixture
def train(tmp_path, data, tiny):
    """train(method, output, *settings, code=0, seed=0): the folder of a run; `seed`: of its data."""

    def command(method, output, *settings, code=0, seed=0):
        kind, own = RUNS[method]
        words = ["train", method, "--data", data(kind, seed=seed), "--output", str(tmp_path / output)]
        own = [word.replace("length:chars", f"{__name__}:characters") for word in own]
        assert main([*words, *tiny, *CONSTANT, *own, *settings]) == code
        return tmp_path / output

    return command


def characters(answers):
    """A reward for the tests: characters of the response."""
    return [len(answer.response) / 10 for answer in answers]


def weights(folder):
    return next(p for n in ("adapter_model", "model") if (p := folder / f"{n}.safetensors").exists()).read_bytes()


def record(folder):
    return json.loads((folder / "run.json").read_text())


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", RUNS)
def test_an_extended_run_ends_in_the_bytes_of_one_long_run(method, train, capsys):
    long = train(method, "long", "steps=5")
    short = train(method, "short", "steps=3")
    before = weights(short)
    capsys.readouterr()
    train(method, "short", "steps=5")
    assert "resuming at step 3 of 5\n" in capsys.readouterr().err
    assert before != weights(short) == weights(long)
    assert record(short)["evaluation"] == record(long)["evaluation"] and record(short)["steps"] == 5
    logged = [{line["step"]: line for line in lines(folder)} for folder in (short, long)]
    assert all(line.items() <= logged[0][step].items() for step, line in logged[1].items())
    assert {p.name for p in short.iterdir()} == {p.name for p in long.iterdir()}
    train(method, "short", "steps=5")
    assert "finished already" in capsys.readouterr().err


def test_epochs_extend_a_run_as_steps_do(train):
    long = train("dpo", "long", "epochs=2", "held_out=0")
    train("dpo", "short", "epochs=1", "held_out=0")
    assert weights(train("dpo", "short", "epochs=2", "held_out=0")) == weights(long)


def test_an_extension_may_be_interrupted_and_killed_before_its_result_is_written(train, monkeypatch):
    long = train("dpo", "long", "steps=6")
    short = train("dpo", "short", "steps=2")
    real_step = Trainer.step

    def step(self, number, *arguments, **more):
        if number == 3:
            signal.raise_signal(signal.SIGTERM)
        return real_step(self, number, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        train("dpo", "short", "steps=6", code=130)
    assert record(short)["finished"] is False and record(short)["config"]["steps"] == 6
    with monkeypatch.context() as patch:
        patch.setattr("una_ref.training.result.save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        train("dpo", "short", "steps=6", code=1)
    train("dpo", "short", "steps=6")
    assert weights(short) == weights(long) and record(short)["evaluation"] == record(long)["evaluation"]


def test_an_evaluation_for_the_end_alone_does_not_count_for_patience(train):
    settings = ["lr=0", "patience=2", "eval_every=2", "held_out=0.3"]  # never better than at step 2
    assert record(train("dpo", "long", "steps=9", *settings))["steps"] == 6
    assert record(train("dpo", "short", "steps=3", *settings))["steps"] == 3
    assert record(train("dpo", "short", "steps=9", *settings))["steps"] == 6


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            ["schedule=cosine"],
            "its learning rates depend on the number of steps (schedule=cosine), unlike schedule=con",
        ),
        (
            ["warmup_steps=null"],
            "its learning rates depend on the number of steps (warmup=0.1 is a share of them), unl",
        ),
        (["patience=1", "eval_every=1", "lr=0"], "its checkpoint.safetensors is not there, as in a run that patience"),
    ],
)
def test_a_run_that_cannot_be_extended_says_why_and_is_kept(settings, why, train, capsys):
    folder = train("dpo", "out", "steps=4", *settings)
    assert not (folder / "checkpoint.safetensors").exists()
    before = (folder / "run.json").read_bytes()
    capsys.readouterr()
    train("dpo", "out", "steps=6", *settings, code=2)
    said = capsys.readouterr().err
    assert f"steps: expected 4 as in the run that it holds, got 6; {why}" in said and said.count("\n") == 1
    assert f"go on from its result with --model {folder}" in said
    assert (folder / "run.json").read_bytes() == before


def test_fewer_steps_and_a_refused_extension_leave_a_finished_run_as_it_is(train, capsys):
    folder = train("dpo", "out", "steps=3")
    before = (folder / "run.json").read_bytes()
    train("dpo", "out", "steps=2", code=2)
    assert "steps: expected 3 as in the run that it holds, got 2. Fix: choose" in capsys.readouterr().err
    train("dpo", "out", "steps=9", code=2, seed=1)
    assert "expected the file that the run in it has read" in capsys.readouterr().err
    assert (folder / "run.json").read_bytes() == before
