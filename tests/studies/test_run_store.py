"""Runs on disk: computed once, a line each, whatever happens in between."""

import json
import os
from dataclasses import dataclass

import pytest

from una_ref.errors import InputError
from una_ref.studies.run_store import MALLOC, RunStore

HEADER = {"settings": {"steps": 2, "sizes": (1, 2)}, "base": "b"}


@dataclass(frozen=True)
class Square:
    number: int

    @property
    def key(self):
        return f"square/{self.number}"


class Computer:
    def __init__(self):
        self.done = []

    def __call__(self, run):
        self.done.append(run.number)
        if run.number < 0:
            raise ValueError("a negative number")
        return {"square": run.number**2, "seconds": 0.5}


def asked(folder, numbers, **options):
    """The squares, and the numbers that had to be computed for them."""
    computer = Computer()
    with RunStore(folder, HEADER, computer, **options) as store:
        rows = store.results([Square(number) for number in numbers], "squares")
    return [row["square"] for row in rows], computer.done


@pytest.mark.usefixtures("threads")
class TestRunStore:
    def test_a_run_is_computed_once_and_results_keep_the_order(self, tmp_path):
        assert asked(tmp_path, [3, 1, 3]) == ([9, 1, 9], [3, 1])
        assert asked(tmp_path, [1, 2, 3]) == ([1, 4, 9], [2])

    def test_a_line_has_the_key_the_run_s_fields_and_what_was_measured(self, tmp_path):
        asked(tmp_path, [3])
        head, line = (json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines())
        assert head == {"settings": {"steps": 2, "sizes": [1, 2]}, "base": "b"}
        assert line == {"key": "square/3", "number": 3, "square": 9, "seconds": 0.5}

    def test_an_unfinished_last_line_is_computed_again_and_no_other(self, tmp_path):
        asked(tmp_path, [1, 2])
        file = tmp_path / "runs.jsonl"
        file.write_text(file.read_text()[:-8])
        assert asked(tmp_path, [1, 2]) == ([1, 4], [2])
        assert len([json.loads(line) for line in file.read_text().splitlines()]) == 3

    def test_results_do_not_depend_on_the_number_of_workers(self, tmp_path):
        numbers = list(range(12))
        assert asked(tmp_path / "one", numbers)[0] == asked(tmp_path / "four", numbers, workers=4)[0]

    def test_what_finished_before_an_error_is_kept(self, tmp_path):
        with pytest.raises(ValueError, match="a negative number"):
            asked(tmp_path, [2, -1, 3])
        assert asked(tmp_path, [2])[1] == []

    def test_a_store_that_computes_nothing_returns_the_finished_runs(self, tmp_path):
        asked(tmp_path, [2, 3])
        computer = Computer()
        with RunStore(tmp_path, HEADER, computer, compute=False) as store:
            found = store.results([Square(number) for number in (3, 4, 2)], "squares")
        assert [row["number"] for row in found] == [3, 2] and len(store.requested) == 2

    def test_a_report_leaves_the_file_to_the_process_that_is_writing_it(self, tmp_path):
        with RunStore(tmp_path, HEADER, Computer()) as store, open(store.path, "a") as running:
            RunStore(tmp_path, HEADER, Computer(), compute=False)
            running.write(json.dumps({"key": "square/7", "number": 7, "square": 49}) + "\n")
        assert asked(tmp_path, [7]) == ([49], [])

    def test_runs_that_measure_time_are_alone(self, tmp_path):
        running, together = [], []

        def measure(run):
            running.append(run)
            together.append(len(running))
            running.remove(run)
            return {"seconds": 0.0}

        with RunStore(tmp_path, HEADER, measure, workers=4) as store:
            store.results([Square(number) for number in range(8)], "squares", alone=True)
        assert together == [1] * 8 and len(store.requested) == 8


def test_runs_with_another_header_are_refused(tmp_path):
    RunStore(tmp_path, HEADER, Computer())
    text = (tmp_path / "runs.jsonl").read_text()
    with pytest.raises(InputError, match=r"expected runs of base 'c', got base 'b'\. Fix: choose another output"):
        RunStore(tmp_path, HEADER | {"base": "c"}, Computer())
    assert (tmp_path / "runs.jsonl").read_text() == text


def test_workers_keep_freed_memory_and_have_one_thread(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", *MALLOC):
        monkeypatch.delenv(name, raising=False)
    with RunStore(tmp_path, HEADER, Computer()):
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert all(os.environ[name] == str(size) for name, size in MALLOC.items())
    for name in ("OMP_NUM_THREADS", *MALLOC):  # monkeypatch restores only those that were set before
        os.environ.pop(name)


def test_a_report_makes_no_folder(tmp_path):
    with RunStore(tmp_path / "none", HEADER, Computer(), compute=False) as store:
        assert store.results([Square(1)], "squares") == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"settings": {"steps": 3, "sizes": [1, 2]}, "base": "b"}', r"expected runs of steps 2, got steps 3\."),
        ('{"settings": {"sizes": [1, 2]}, "base": "b"}', r"expected runs of steps 2, got no steps\."),
        ('{"settings": {"rows": 1}}', r"expected runs of this study, got those of another study or version\."),
        ("a note", r"expected runs of this study, got 'a note'\."),
    ],
)
def test_a_message_names_what_differs_alone(line, said, tmp_path):
    (tmp_path / "runs.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=said):
        RunStore(tmp_path, HEADER, Computer())


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output .*out: expected a folder that can be written, got: .*Fix: choose"):
        RunStore(tmp_path / "file" / "out", HEADER, Computer())
