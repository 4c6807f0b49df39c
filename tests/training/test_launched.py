"""What only several processes have: they end at different moments, write to one folder, and may read other data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from una_ref.cli import main

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import os, signal, sys, time
import safetensors.torch
from una_ref.cli import main
from una_ref.training import checkpoints, prepare, trainer

first, what = os.environ["RANK"] == "0", os.environ["WHAT"]
save, step, forward = safetensors.torch.save_file, trainer.Trainer.step, trainer.Trainer.forward
write = checkpoints.write_text

def say(line):  # in one piece: print gives words and line ends one by one, and two processes' would mix
    os.write(1, f"{line}\\n".encode())

def told(path, text):
    if what == "nan":
        say(f"wrote {path.name}")
    write(path, text)

def slowly(*arguments, **more):  # as a large model's state is saved
    time.sleep(2)
    save(*arguments, **more)

def stopped(self, number, *arguments, **more):
    self.number = number
    if what == "stop" and number == 2:  # once by whoever ends the job, once by the launcher
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, number, *arguments, **more)

def spoilt(self, examples, kl=None):
    out = forward(self, examples, kl)
    if what == "nan" and not first and getattr(self, "number", 0) == 2:
        losses = {kind: values * float("nan") for kind, values in out.losses.items()}
        return dataclasses.replace(out, losses=losses)
    return out

if what == "stop":
    safetensors.torch.save_file = slowly
if what == "rows" and not first:
    prepare.read_rows = lambda config, read=prepare.read_rows: read(config)[:-1]
trainer.Trainer.step, trainer.Trainer.forward, checkpoints.write_text = stopped, spoilt, told
code = main(sys.argv[1:])
if what == "stop":  # the first to leave has the launcher end the others
    say(f"left {os.path.exists(os.path.join(os.path.dirname(__file__), 'out', 'checkpoint.safetensors'))}")
sys.exit(code)
"""


@pytest.fixture
def launched(tmp_path, tiny):
    """launched(what, data, *settings): a run of two processes into tmp_path/out, as it ended."""
    (tmp_path / "worker.py").write_text(WORKER)

    def run(what, file, *settings):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += [str(tmp_path / "worker.py"), *words(tmp_path, tiny, file), *settings]
        told = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WHAT": what}
        return subprocess.run(command, env=told, capture_output=True, text=True, check=False, timeout=300)

    return run


def words(folder, tiny, file):
    own = [*tiny, "steps=5", "batch=4", "micro_tokens=60", "held_out=0"]
    return ["train", "dpo", "--data", str(file), "--output", str(folder / "out"), *own]


@pytest.mark.slow
def test_stop_waits_for_the_checkpoint_and_a_changed_process_count_is_noted(launched, data, tiny, tmp_path):
    file = data("pairs")
    done = launched("stop", file)
    assert done.returncode != 0 and "stopped after step 3 of 5" in done.stderr
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()
    # The first that leaves may have the launcher end the other before it can say so; nobody leaves earlier.
    assert "left True" in done.stdout and "left False" not in done.stdout
    assert main(words(tmp_path, tiny, file)) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "processes: 2, then 1; draws and dropout depend on their number" in record["notes"]
    assert record["steps"] == 5


@pytest.mark.slow
def test_non_finite_loss_in_one_process_is_reported_once_with_its_rows(launched, data, tmp_path):
    done = launched("nan", data("pairs"))
    assert done.returncode != 0
    assert len(re.findall(r"failed: step 3: a loss is nan; the rows are in", done.stderr)) == 1
    assert done.stdout.count("wrote nonfinite.json") == 1
    found = json.loads((tmp_path / "out" / "nonfinite.json").read_text())
    assert 1 <= len(found["rows"]) <= 2 and "a loss is nan" in found["error"]  # of the four, those of one process


@pytest.mark.slow
def test_processes_that_read_different_rows_are_refused(launched, data, tmp_path):
    done = launched("rows", data("pairs"))  # a pipe, say, of which each reads a part
    assert done.returncode != 0
    assert "data: expected the same rows in every process" in done.stderr
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_only_the_first_process_prints_the_record(launched, data):
    file = data("pairs")
    for _ in range(2):  # made, and finished already
        assert json.loads(launched("", file, "--json").stdout)["finished"]
