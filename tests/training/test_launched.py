"""Runs of several processes end at different moments, write to one folder, and may read different data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from una_ref.cli import main

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import dataclasses, os, signal, sys, time
import safetensors.torch
from una_ref.cli import main
from una_ref.training import checkpoints, prepare, trainer

first, fault = os.environ["RANK"] == "0", os.environ["FAULT"]
save, step, forward = safetensors.torch.save_file, trainer.Trainer.step, trainer.Trainer.forward
write = checkpoints.write_text

def say(line):  # one write: print writes words and line ends separately, and two processes would interleave
    os.write(1, f"{line}\\n".encode())

def reported(path, text):
    if fault == "nan":
        say(f"wrote {path.name}")
    write(path, text)

def slowly(*arguments, **more):  # as a large model's state is saved
    time.sleep(2)
    save(*arguments, **more)

def stopped(self, number, *arguments, **more):
    self.number = number
    if fault == "stop" and number == 2:  # two signals: one from the scheduler, one from the launcher
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, number, *arguments, **more)

def poisoned(self, examples, statistics):
    out = forward(self, examples, statistics)
    if fault == "nan" and not first and getattr(self, "number", 0) == 2:
        losses = {kind: values * float("nan") for kind, values in out.losses.items()}
        return dataclasses.replace(out, losses=losses)
    return out

if fault == "stop":
    safetensors.torch.save_file = slowly
if fault == "rows" and not first:
    prepare.read_rows = lambda config, read=prepare.read_rows, **more: read(config, **more)[:-1]
trainer.Trainer.step, trainer.Trainer.forward, checkpoints.write_text = stopped, poisoned, reported
code = main(sys.argv[1:])
if fault == "stop":  # the launcher ends the other processes when the first one exits
    say(f"left {os.path.exists(os.path.join(os.path.dirname(__file__), 'out', 'checkpoint.safetensors'))}")
sys.exit(code)
"""


@pytest.fixture
def launched(tmp_path, tiny):
    """launched(fault, data, *settings): the completed run of two processes into tmp_path/out."""

    def run(fault, file, *settings):
        return two_processes(tmp_path, fault, *words(tmp_path, tiny, file), *settings)

    return run


def two_processes(folder, fault, *words):
    """The completed command of two processes; the worker is written into a folder."""
    (folder / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(folder / "worker.py"), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FAULT": fault}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def words(folder, tiny, file):
    settings = [*tiny, "steps=5", "batch=4", "micro_tokens=60", "held_out=0"]
    return ["train", "dpo", "--data", str(file), "--output", str(folder / "out"), *settings]


@pytest.mark.slow
def test_stop_waits_for_the_checkpoint_and_a_changed_process_count_is_noted(launched, data, tiny, tmp_path):
    file = data("pairs")
    done = launched("stop", file)
    assert done.returncode != 0 and "stopped after step 3 of 5" in done.stderr
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()
    # The launcher may end the second process before it prints this line. No process may exit before the checkpoint.
    assert "left True" in done.stdout and "left False" not in done.stdout
    assert main(words(tmp_path, tiny, file)) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "processes: 2, then 1; samples and dropout depend on their number" in record["notes"]
    assert record["steps"] == 5


@pytest.mark.slow
def test_non_finite_loss_in_one_process_is_reported_once_with_its_rows(launched, data, tmp_path):
    done = launched("nan", data("pairs"))
    assert done.returncode != 0
    assert len(re.findall(r"failed: step 3: a loss is nan; the rows are in", done.stderr)) == 1
    assert done.stdout.count("wrote nonfinite.json") == 1
    report = json.loads((tmp_path / "out" / "nonfinite.json").read_text())
    assert 1 <= len(report["rows"]) <= 2 and "a loss is nan" in report["error"]  # the rows of one process, of four


@pytest.mark.slow
def test_processes_that_read_different_rows_are_refused(launched, data, tmp_path):
    done = launched("rows", data("pairs"))  # for example a pipe, of which each process reads a part
    assert done.returncode != 0
    assert "data: expected the same rows in every process" in done.stderr
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_only_the_first_process_prints_the_record(launched, data):
    file = data("pairs")
    for _ in range(2):  # trained, then finished already
        assert json.loads(launched("", file, "--json").stdout)["finished"]


STAGED = """
batch: 4
steps: 2
lora_r: 2
stages:
  part:
    do: part
    part: 1/2
    data: toysteer/pairs
  policy:
    method: dpo
    model: toysteer
    data: ${part}
"""


@pytest.mark.slow
def test_a_recipe_of_several_steps_has_the_same_result_from_two_processes(tmp_path):
    (tmp_path / "staged.yaml").write_text(STAGED)
    recipe = ["train", str(tmp_path / "staged.yaml")]
    assert main([*recipe, "--output", str(tmp_path / "one")]) == 0
    done = two_processes(tmp_path, "", *recipe, "--output", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished 2 steps") == 1  # one process reports
    assert done.stderr.count("step 2 of 2: policy") == 1
    assert not list((tmp_path / "two").glob("**/checkpoint*"))
    one, two = ((tmp_path / run / "part" / "rows.jsonl").read_bytes() for run in ("one", "two"))
    assert one == two
    one, two = (load_file(tmp_path / run / "policy" / "adapter_model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weights in one.items():
        assert (weights - two[name]).abs().max() < 1e-5, name
    assert max(weights.abs().max() for name, weights in one.items() if "lora_B" in name) > 1e-4  # trained
