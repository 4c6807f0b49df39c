"""Training on disk: a run stopped at any moment resumes to the same bytes and records each metric once."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from una_ref.cli import main
from una_ref.training import checkpoints
from una_ref.training.job import Job
from una_ref.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = "adapter_model.safetensors"
RUNS = {
    "dpo": ("pairs", ["save_every=2"]),
    "kto": ("labels", ["save_every=1", "reference=cache"]),
    "una-centred": ("scores", ["baseline=learned", "lora_dropout=0.3", "save_every=0"]),
    "sft": ("messages", ["lora_r=0", "save_every=3", "micro_tokens=20"]),
    "reward-model": ("pairs", ["lora_dropout=0.3", "save_every=2"]),
    "tr-dpo": ("pairs", ["refresh_every=2", "refresh_mix=0.5", "save_every=1"]),
    "una-score": ("scores", ["baseline=ema", "save_every=2"]),
}


@pytest.fixture(autouse=True)
def _signals():
    """Handle SIGINT as in a terminal: a shell ignores it for background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def una(tmp_path, data, tiny):
    """una(method, output): the arguments of `main` for a run of seven steps."""

    def words(method, output):
        kind, settings = RUNS[method]
        settings = [*tiny, "held_out=0.2", "eval_every=2", "steps=7", *settings]
        return ["train", method, "--data", data(kind), "--output", str(tmp_path / output), *settings]

    return words


def weights(folder):
    return next(p for p in (folder / ADAPTER, folder / "model.safetensors") if p.exists()).read_bytes()


def stop(monkeypatch, stop_step, act):
    """Call `act` at the start of step `stop_step` (from 0)."""
    real_step = Trainer.step

    def step(self, number, *arguments, **more):
        if number == stop_step:
            act()
        return real_step(self, number, *arguments, **more)

    monkeypatch.setattr(Trainer, "step", step)


def crash():
    raise MemoryError("as if killed")


@pytest.mark.parametrize("method", RUNS)
def test_interrupted_and_killed_run_resumes_to_the_same_bytes(method, una, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)  # ignored in background jobs of a shell
    assert main(una(method, "straight")) == 0
    with monkeypatch.context() as patch:
        stop(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        assert main(una(method, "broken")) == 130
    assert "stopped after step 3 of 7; the same command resumes it" in capsys.readouterr().err
    with safe_open(tmp_path / "broken" / "checkpoint.safetensors", "pt") as saved:
        assert saved.metadata()["step"] == "3"
    with monkeypatch.context() as patch:
        stop(patch, 5, crash)
        with pytest.raises(MemoryError):
            main(una(method, "broken"))
    (tmp_path / "broken" / ".tmpAb3dEf").touch()  # left by a kill inside safetensors
    with monkeypatch.context() as patch:
        stop(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        assert main(una(method, "broken")) == 130
    assert not (tmp_path / "broken" / ADAPTER).exists()
    torch.manual_seed(random.randrange(1000))
    capsys.readouterr()
    assert main(una(method, "broken")) == 0
    assert "resuming at step 6 of 7\n" in capsys.readouterr().err
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert weights(straight) == weights(broken)
    assert (straight / "metrics.jsonl").read_text() == (broken / "metrics.jsonl").read_text()
    assert {p.name for p in straight.iterdir()} == {p.name for p in broken.iterdir()}
    assert signal.getsignal(signal.SIGINT) is before


def test_ignored_signal_stays_ignored(una, monkeypatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGINT))
    assert main(una("dpo", "out")) == 0
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_crash_while_saving_costs_only_the_steps_since_the_last_save(una, tmp_path, monkeypatch):
    real_replace, calls = checkpoints.os.replace, []

    def replace(*names):
        calls.append(names)
        if "checkpoint" in str(names[1]) and sum("checkpoint" in str(n[1]) for n in calls) == 3:
            raise OSError("disk full")
        real_replace(*names)

    monkeypatch.setattr(checkpoints.os, "replace", replace)
    assert main([*una("dpo", "out"), "save_every=1"]) == 1
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".checkpoint*"))
    steps, step = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, n, *a, **k: steps.append(n) or step(self, n, *a, **k))
    assert main([*una("dpo", "out"), "save_every=1"]) == 0
    assert steps == [2, 3, 4, 5, 6]


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self):
        return True


def test_terminal_shows_a_progress_bar_and_a_log_shows_lines(una, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert main(una("dpo", "seen")) == 0
    assert "7/7" in terminal.getvalue() and "dpo: step" not in terminal.getvalue()
    monkeypatch.undo()
    assert main([*una("dpo", "logged"), "log_every=3"]) == 0
    log = capsys.readouterr().err
    lines = re.findall(r"dpo: step (\d) of 7, loss 0\.\d{4}, \d:\d\d:\d\d left\n", log)
    assert lines == ["1", "3", "6", "7"] and "7/7" not in log


def test_metrics_list_each_step_once_and_evaluations_as_configured(una, tmp_path):
    assert main(una("dpo", "out")) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(8))
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 2, 4, 6, 7]
    assert {"loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "grad_norm", "lr"} <= lines[1].keys()
    assert lines[0]["eval_rewards/margins"] == 0 and lines[0]["eval_rewards/accuracies"] == 0.5
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["evaluation"]["loss"] == pytest.approx(lines[-1]["eval_loss"])


def test_each_demonstration_is_taken_once_before_any_is_taken_again(make_trainer, examples, monkeypatch):
    demos, given = examples("demos", prompts=6), []
    for e in examples("scores", prompts=12):
        past = {name: lines[:1] for name, lines in e.experience.items()}
        given.append(replace(e, responses=e.responses[:1], scores=e.scores[:1], experience=past))
    settings = {"batch": 4, "passes": 2, "minibatches": 2, "loss_kwargs": {"ptx": 0.1}}
    trainer = make_trainer("ppo", [*given, *demos], **settings)
    taken, real_step = [], Trainer.step

    def step(self, number, rows, **more):
        taken.append([e.prompt_index for e in rows if e.kind == "demos"])
        return real_step(self, number, rows, **more)

    monkeypatch.setattr(Trainer, "step", step)
    began = time.process_time()
    job = Job(trainer.config, trainer, given, (), demos=demos)
    for number in range(3):
        job.step(number, record=False)
    # Each of the 12 updates has two responses and takes two demonstrations: each of the six is taken four times.
    places = [place for some in taken for place in some]
    assert [len(some) for some in taken] == [2] * 12
    assert all(sorted(places[i : i + 6]) == list(range(6)) for i in range(0, 24, 6))
    assert 0 < job.seconds["learning"] <= time.process_time() - began


def test_unfinished_metrics_line_of_a_killed_run_is_removed(una, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop(patch, 4, lambda: signal.raise_signal(signal.SIGINT))
        assert main(una("dpo", "out")) == 130
    log = tmp_path / "out" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 6, "lo')
    assert main(una("dpo", "out")) == 0
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(8))


def test_non_finite_loss_stops_the_run_and_saves_its_rows(una, data, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("una_ref.training.trainer.losses_of", _poisoned)
        assert main(una("dpo", "out")) == 1
    report = tmp_path / "out" / "nonfinite.json"
    assert f"una-ref: failed: step 1: a loss is nan; the rows are in {report}" in capsys.readouterr().err
    saved = json.loads(report.read_text())
    assert len(saved["rows"]) == 4
    assert all("pairs.jsonl:" in row["source"] and row["pairs"] for row in saved["rows"])
    prompts = {json.loads(line)["prompt"] for line in Path(data("pairs")).read_text().splitlines()}
    assert {row["prompt"].removeprefix("<s>") for row in saved["rows"]} <= prompts
    assert not (tmp_path / "out" / ADAPTER).exists()
    assert main(una("dpo", "out")) == 0  # once corrected, the same command resumes
    assert not report.exists()


def _poisoned(losses, batch, known, loss_kwargs):
    return {"pairs": known["logps"].sum() * torch.full((len(batch.pairs),), torch.nan)}


def test_resume_with_changed_data_is_refused(una, tmp_path, data, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        assert main(una("dpo", "out")) == 130
    words = una("dpo", "out")
    data("pairs", seed=1)
    assert main(words) == 2
    assert "pairs.jsonl: expected the file that the run in it has read" in capsys.readouterr().err


# ---- real processes


def start(words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "una_ref", *words], env=environment, stderr=subprocess.PIPE, text=True
    )


def until(reached, process):
    """Wait until `reached()` holds or the process ends."""
    while not reached() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks its runs")
def test_run_killed_at_random_moments_resumes_to_the_same_bytes(tmp_path):
    # SIGKILL comes in each phase: at start-up, in a step, a rollout, an evaluation, a save, at the result.
    words = [str(ROOT / "benchmarks" / "reliability.py"), "--parts", "kills", "--kills", "12"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)["kills"]
    assert min(run["kills"] for run in found.values()) >= 12
    assert all(run["same_bytes"] for run in found.values())
    assert {*found["offline"]["killed"]} == {"start-up", "step", "evaluation", "save", "result"}
    assert {*found["online"]["killed"]} == {*found["offline"]["killed"], "rollout"}


@pytest.mark.slow
def test_ctrl_c_saves_for_resume_and_a_live_run_locks_its_output(una, tmp_path):
    long = ["steps=1500", "eval_every=0"]  # long enough that a second run starts while it lives
    words = [*una("una-centred", "out"), *long]
    process, log = start(words), tmp_path / "out" / "metrics.jsonl"
    until(lambda: log.exists() and log.read_text().count("\n") > 20, process)
    second = start(words)
    assert second.wait(60) == 2
    assert "got a live run that writes to it" in second.stderr.read()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "the same command resumes it" in process.stderr.read()
    for again in (words, [*una("una-centred", "straight"), *long]):
        process = start(again)
        process.communicate(timeout=300)  # reads its lines: a full pipe would stop it
        assert process.returncode == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "straight")
