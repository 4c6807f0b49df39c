"""Adapters that a run keeps beside its last one: every N-th, and the best by a held-out metric."""

import json
import signal
from contextlib import contextmanager

import pytest
import torch

from una_ref.cli import main
from una_ref.policies.loading import load
from una_ref.training.trainer import Trainer

ADAPTER = "adapter_model.safetensors"
BEST = ["held_out=0.3", "eval_every=1", "keep_best=eval_loss", "lr=0.3", "warmup=0"]  # too fast: a middle step is best


@pytest.fixture
def train(tmp_path, data, tiny):
    """train(method, kind, output, *settings, code=0): the folder of a run."""

    def command(method, kind, output, *settings, code=0):
        words = ["train", method, "--data", data(kind), "--output", str(tmp_path / output)]
        assert main([*words, *tiny, *settings]) == code
        return tmp_path / output

    return command


@pytest.fixture
def stopped(monkeypatch):
    """stopped(step): a context in which the run is killed at the start of that step (from 0)."""

    @contextmanager
    def context(at):
        real = Trainer.step

        def step(self, number, *arguments, **more):
            if number == at:
                raise MemoryError("as if killed")
            return real(self, number, *arguments, **more)

        with monkeypatch.context() as patch, pytest.raises(MemoryError):  # noqa: PT012
            patch.setattr(Trainer, "step", step)
            yield

    return context


def record(folder):
    return json.loads((folder / "run.json").read_text())


def evaluations(folder, metric):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[metric] for line in lines if metric in line and line["step"]}


@pytest.mark.parametrize(
    ("method", "kind", "rank"), [("dpo", "pairs", 4), ("sft", "pairs", 0), ("reward-model", "pairs", 4)]
)
def test_every_nth_policy_is_that_of_a_run_of_so_many_steps(method, kind, rank, train):
    settings = ["schedule=constant", "warmup=0", "lr=0.02", f"lora_r={rank}"]
    folder = train(method, kind, "out", "steps=5", "keep_every=2", *settings)
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {
        "step-2",
        "step-4",
        *(["base"] if method == "dpo" else []),
    }
    assert not (folder / "step-2" / "run.json").exists()
    for steps in (2, 4):
        short = train(method, kind, f"short-{steps}", f"steps={steps}", *settings)
        name = ADAPTER if method == "dpo" else "model.safetensors"
        assert (folder / f"step-{steps}" / name).read_bytes() == (short / name).read_bytes()
        assert (folder / f"step-{steps}" / "tokenizer.json").exists()
    kept = train(method, kind, "kept", "steps=5", *settings)
    assert (kept / name).read_bytes() == (folder / name).read_bytes()  # keeping changes nothing in training


def test_a_kept_adapter_loads_from_a_moved_run_and_starts_another_one(train, tmp_path):
    folder = train("dpo", "pairs", "out", "steps=2", "keep_every=1", "lr=0.05")
    expected = load(str(folder / "step-1"))[0].state_dict()
    folder = folder.rename(tmp_path / "moved")
    found = load(str(folder / "step-1"))[0].state_dict()
    last = load(str(folder))[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert any(not torch.equal(value, last[name]) for name, value in found.items())
    train("dpo", "pairs", "next", "steps=1", f"model={folder / 'step-1'}", "shape={}")


def test_a_killed_run_keeps_the_same_adapters(train, stopped):
    straight = train("dpo", "pairs", "straight", "steps=5", "keep_every=2")
    with stopped(3):
        train("dpo", "pairs", "broken", "steps=5", "keep_every=2", "save_every=1")
    broken = train("dpo", "pairs", "broken", "steps=5", "keep_every=2", "save_every=1")
    files = [{str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*.safetensors")} for f in (straight, broken)]
    assert files[0] == files[1] and len(files[0]) == 4


@pytest.mark.parametrize(("method", "kind"), [("dpo", "pairs"), ("una-centred", "scores")])
def test_the_best_adapter_is_the_result_and_its_step_is_said(method, kind, train, capsys):
    folder = train(method, kind, "best", "steps=6", *BEST)
    losses = evaluations(folder, "eval_loss")
    step = min(losses, key=losses.get)
    assert step < 6
    said = capsys.readouterr()
    sentence = f"step {step}, the best by eval_loss ({losses[step]:.4f}; smaller is better)"
    assert said.out.splitlines()[-1] == f"finished after 6 steps: {folder}; the result is {sentence}"
    assert f"The weights are those of {sentence} on held-out rows." in (folder / "README.md").read_text()
    assert record(folder)["evaluation"]["loss"] == pytest.approx(losses[step], abs=1e-9)
    assert record(folder)["best"] == {"metric": "eval_loss", "value": pytest.approx(losses[step]), "step": step}
    kept = train(method, kind, "kept", "steps=6", *BEST[:2], *BEST[3:], "keep_every=1")
    assert (
        (folder / ADAPTER).read_bytes()
        == (kept / f"step-{step}" / ADAPTER).read_bytes()
        != (kept / ADAPTER).read_bytes()
    )
    assert not list(folder.glob("checkpoint*"))


def test_larger_accuracies_are_better_and_the_first_of_equal_ones_is_kept(train):
    folder = train("dpo", "pairs", "out", "steps=6", *BEST, "keep_best=eval_rewards/accuracies")
    found = evaluations(folder, "eval_rewards/accuracies")
    assert record(folder)["best"]["step"] == max(found, key=found.get) and len({*found.values()}) < 6
    folder = train("dpo", "pairs", "same", "steps=3", *BEST, "lr=0")
    assert record(folder)["best"]["step"] == 1


def test_a_last_step_that_is_evaluated_for_the_end_alone_may_be_the_best(train):
    folder = train("dpo", "pairs", "out", "steps=3", *BEST, "eval_every=2", "lr=0.001")
    losses = evaluations(folder, "eval_loss")
    assert sorted(losses) == [2, 3] and losses[3] < losses[2] and record(folder)["best"]["step"] == 3


@pytest.mark.parametrize("save_every", [0, 1, 100])
def test_a_killed_run_finds_the_same_best_adapter(save_every, train, stopped):
    straight = train("dpo", "pairs", "straight", "steps=6", *BEST)
    settings = ["steps=6", *BEST, f"save_every={save_every}"]
    for at in (1, 4):
        with stopped(at):
            train("dpo", "pairs", "broken", *settings)
    assert len(list((straight.parent / "broken").glob("checkpoint-best-*"))) == 1
    broken = train("dpo", "pairs", "broken", *settings)
    assert record(broken)["best"] == record(straight)["best"]
    assert (broken / ADAPTER).read_bytes() == (straight / ADAPTER).read_bytes()
    assert {p.name for p in broken.iterdir()} == {p.name for p in straight.iterdir()}


def test_an_extended_run_finds_the_best_adapter_of_all_its_steps(train):
    settings = [*BEST, "schedule=constant", "eval_every=2"]
    long = train("dpo", "pairs", "long", "steps=7", *settings)
    for steps in (3, 5, 7):
        short = train("dpo", "pairs", "short", f"steps={steps}", *settings)
    assert (
        record(short)["best"] == record(long)["best"]
        and (short / ADAPTER).read_bytes() == (long / ADAPTER).read_bytes()
    )


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("dpo", ["keep_best=eval_los"], "keep_best: expected one of eval_loss, eval_nll/token, "),
        (
            "dpo",
            ["keep_best=eval_loss"],
            "keep_best: expected evaluations to compare, got eval_every=0. Fix: set eval_every",
        ),
        (
            "dpo",
            ["keep_best=eval_loss", "eval_every=1", "held_out=0"],
            "keep_best: expected held-out rows to evaluate on",
        ),
        (
            "sft",
            [*BEST, "keep_best=eval_rewards/margins"],
            "keep_best: expected one of eval_loss, eval_nll/token, eval_lo",
        ),
        ("dpo", ["keep_every=0"], "keep_every: expected a whole number at least 1"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_the_first_step(method, settings, said, train, capsys):
    folder = train(method, "pairs", "out", "steps=2", *settings, code=2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"una-ref: {said}"), error
    assert not folder.exists()


def test_a_run_that_is_interrupted_after_its_best_step_resumes_with_it(train, monkeypatch):
    straight, real = train("dpo", "pairs", "straight", "steps=6", *BEST), Trainer.step

    def step(self, number, *arguments, **more):
        if number == 4:
            signal.raise_signal(signal.SIGTERM)
        return real(self, number, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        train("dpo", "pairs", "broken", "steps=6", *BEST, code=130)
    assert (train("dpo", "pairs", "broken", "steps=6", *BEST) / ADAPTER).read_bytes() == (
        straight / ADAPTER
    ).read_bytes()
