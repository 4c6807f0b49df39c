"""A run's state on disk: restored bit by bit, never half-written, never that of another run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from una_ref.errors import InputError
from una_ref.training import checkpoints
from una_ref.training.checkpoints import claimed, load, save, write_text


@pytest.fixture
def state():
    """state(seed): parameters and an optimizer that has made a step."""

    def make(seed, steps=1):
        torch.manual_seed(seed)
        trained = {"weight": torch.nn.Parameter(torch.randn(3, 2)), "V(x)": torch.nn.Parameter(torch.randn(4))}
        optimizer = torch.optim.AdamW([{"params": [p], "peak": 0.1} for p in trained.values()], lr=0.1)
        for _ in range(steps):
            step(trained, optimizer)
        return trained, optimizer

    return make


def step(trained, optimizer):
    for p in trained.values():
        p.grad = p.detach() ** 2
    optimizer.step()


def test_a_restored_state_makes_the_same_next_step(tmp_path, state):
    path = tmp_path / "checkpoint.safetensors"
    trained, optimizer = state(0, steps=3)
    save(path, 3, trained, optimizer, data="rows")
    other, its_optimizer = state(1, steps=0)
    assert load(path, other, its_optimizer, data="rows") == (3, {})
    for _ in range(2):
        step(trained, optimizer)
        step(other, its_optimizer)
    for name, parameter in trained.items():
        assert torch.equal(parameter, other[name])
        assert its_optimizer.state[other[name]]["step"] == 5
    assert [group["peak"] for group in its_optimizer.param_groups] == [0.1, 0.1]


class Counting(torch.optim.Optimizer):
    """An optimizer that counts its steps by a whole number, as those of bitsandbytes do."""

    def step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p] = {"step": self.state[p].get("step", 0) + 1}


def test_a_whole_number_in_the_optimizer_s_state_stays_one(tmp_path):
    path, weight = tmp_path / "checkpoint.safetensors", torch.nn.Parameter(torch.zeros(2))
    optimizers = [Counting([weight], {}) for _ in range(2)]
    optimizers[0].step()
    save(path, 1, {"weight": weight}, optimizers[0])
    load(path, {"weight": weight}, optimizers[1])
    assert optimizers[1].state[weight] == {"step": 1} and type(optimizers[1].state[weight]["step"]) is int


def test_without_a_checkpoint_a_run_starts_at_step_zero(tmp_path, state):
    assert load(tmp_path / "checkpoint.safetensors", *state(0)) == (0, {})


def test_a_checkpoint_holds_no_pickle_and_replaces_the_one_before(tmp_path, state):
    path = tmp_path / "new" / "checkpoint.safetensors"
    for done in (1, 2):
        save(path, done, *state(done))
    assert list(path.parent.iterdir()) == [path]
    assert set(safetensors.torch.load_file(path)) >= {"trained/weight", "trained/V(x)", "optimizer/0/exp_avg"}
    assert load(path, *state(0)) == (2, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "1"}, "format: expected '6', got '1'"),
        ({"format": None}, "format: expected '6', got None"),
        ({"data": "others"}, "data: expected 'rows', got 'others'"),
    ],
)
def test_another_format_or_other_data_are_refused(change, message, tmp_path, state):
    path = tmp_path / "checkpoint.safetensors"
    about = {"format": "6", "step": "3", "data": "rows"} | change
    tensors = {"trained/weight": torch.zeros(3, 2), "trained/V(x)": torch.zeros(4)}
    metadata = {key: value for key, value in about.items() if value}
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    trained, optimizer = state(0)
    before = trained["weight"].clone()
    with pytest.raises(InputError, match=message):
        load(path, trained, optimizer, data="rows")
    assert torch.equal(trained["weight"], before)


def test_another_model_s_parameters_are_refused(tmp_path, state):
    path = tmp_path / "checkpoint.safetensors"
    save(path, 1, *state(0))
    trained, optimizer = state(0)
    with pytest.raises(InputError, match="expected the parameters of this model"):
        load(path, {"weight": trained["weight"]}, optimizer)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(error, tmp_path, state, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    save(path, 1, *state(0))

    def half(tensors, where, metadata):
        Path(where).write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(type(error)):
        save(path, 2, *state(0))
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert load(path, *state(0)) == (1, {})
    record = tmp_path / "run.json"
    write_text(record, "old")
    monkeypatch.setattr(checkpoints.os, "replace", lambda *names: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        write_text(record, "new")
    assert record.read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "run.json"}


# ---- the output folder


def test_an_output_belongs_to_one_live_run(tmp_path):
    output = tmp_path / "out"
    with claimed(output, {"steps": 1}) as finished:
        assert not finished
        with pytest.raises(InputError, match=f"output {output}: .* got a live run"), claimed(output, {"steps": 1}):
            pass
    with claimed(output, {"steps": 1}):
        pass


def test_a_killed_process_releases_its_output(tmp_path):
    code = """
import sys, time
from pathlib import Path
from una_ref.training.checkpoints import claimed
with claimed(Path(sys.argv[1]), {"steps": 1}):
    print("held", flush=True)
    time.sleep(600)
"""
    output = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", code, str(output)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="expected to be alone there, got a live run"), claimed(output, {"steps": 1}):
        pass
    process.kill()
    process.communicate()
    with claimed(output, {"steps": 1}) as finished:
        assert not finished


def test_another_config_is_refused_whatever_the_output_is_called(tmp_path):
    output = tmp_path / "out"
    with claimed(output, {"steps": 1, "output": "here"}):
        pass
    with claimed(output, {"steps": 1, "output": "./here"}):
        pass
    for other in ({"steps": 2}, {}, {"steps": 1, "seed": 1}):
        key = next(iter(other.keys() ^ {"steps"} or {"steps"}))
        with pytest.raises(InputError, match=f"{key}: expected .* as in the run that it holds"), claimed(output, other):
            pass
    assert json.loads((output / "run.json").read_text())["config"]["steps"] == 1
    with claimed(output, {"steps": 1, "seed": 0, "output": "here"}):  # a key that the run did not have, at its default
        pass


def test_a_finished_run_is_recognised(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"config": {}, "finished": True}))
    with claimed(tmp_path, {}) as finished:
        assert finished


def test_files_and_folders_of_others_are_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for output, message in ((tmp_path, "got one with other files"), (tmp_path / "thesis.txt", "got a file")):
        with pytest.raises(InputError, match=message), claimed(output, {}):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("error", [InputError, TypeError])  # refused; or a reward of one's own that breaks
def test_a_run_that_never_began_leaves_no_folder(tmp_path, error):
    output = tmp_path / "runs" / "deep" / "out"
    with pytest.raises(error, match="bad row"), claimed(output, {}):
        raise error("bad row")
    assert list(tmp_path.iterdir()) == []
    output.mkdir(parents=True)
    with pytest.raises(error, match="bad row"), claimed(output, {}):
        raise error("bad row")
    assert list(output.iterdir()) == []  # what was there before is left


def test_a_run_that_had_begun_is_kept(tmp_path):
    with claimed(tmp_path / "out", {}):
        (tmp_path / "out" / "checkpoint.safetensors").touch()
    for error in (InputError("bad row"), RuntimeError("nan"), KeyboardInterrupt()):
        with pytest.raises(type(error)), claimed(tmp_path / "out", {}):
            raise error
        assert {p.name for p in (tmp_path / "out").iterdir()} == {".lock", "run.json", "checkpoint.safetensors"}
