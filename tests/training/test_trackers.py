"""A tracker is given what metrics.jsonl has, by one process, once."""

import json
import sys

import pytest

from una_ref.cli import main
from una_ref.training.config import resolve
from una_ref.training.trainer import Trainer


@pytest.fixture
def words(tmp_path, data, tiny):
    """The command of a run of seven steps into tmp_path/out that TensorBoard is told of."""
    own = ["held_out=0.3", "eval_every=2", "steps=7", "save_every=2", "tracker=tensorboard"]
    return ["train", "dpo", "--data", data("pairs"), "--output", str(tmp_path / "out"), *tiny, *own]


def tracked(folder):
    """(name, step) -> values, of all that TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault((name, event.step), []).append(event.value)
    return found


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(name, line["step"]): value for line in lines for name, value in line.items() if name != "step"}


def same(folder):
    found, expected = tracked(folder), logged(folder)
    assert found.keys() == expected.keys() and len(found) > 50
    for key, values in found.items():
        assert values == [pytest.approx(expected[key], rel=1e-6, abs=1e-12)], key  # float32 there


def test_tensorboard_has_the_numbers_of_metrics_jsonl(words, tmp_path):
    assert main(words) == 0
    same(tmp_path / "out")


def test_and_has_them_once_after_a_kill(words, tmp_path, monkeypatch):
    true = Trainer.step

    def step(self, number, *arguments, **more):
        if number == 5:  # the last save is of step 4
            raise MemoryError("as if killed")
        return true(self, number, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(MemoryError):
            main(words)
    assert main(words) == 0
    same(tmp_path / "out")


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_begins(name, words, tmp_path, monkeypatch, capsys):
    for package in [package for package in sys.modules if package.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, package)
    monkeypatch.setattr("una_ref.training.trackers.find_spec", lambda package: None)
    assert main([*words, f"tracker={name}"]) == 2
    assert f"tracker={name}: expected the package {name}, got none; pip install {name}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_one_none_is_loaded(words, tmp_path):
    assert resolve("dpo").tracker == "none"
    assert main([*words, "tracker=none"]) == 0
    assert not (tmp_path / "out" / "tensorboard").exists()
