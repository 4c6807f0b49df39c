"""A study's runs on disk: one line each, computed by worker processes, never computed twice."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from una_ref.errors import InputError
from una_ref.training.checkpoints import write_text

MALLOC = {"MALLOC_MMAP_THRESHOLD_": 1 << 33, "MALLOC_TRIM_THRESHOLD_": 1 << 34, "MALLOC_TOP_PAD_": 1 << 28}
"""Environment variables of the workers, in bytes: glibc keeps freed memory instead of returning it to the kernel."""


class Run(Protocol):
    """A frozen dataclass of plain values that says which run it is, with a name of its own."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> str:
        """The run's name in runs.jsonl, unique within a study."""
        ...


class RunStore:
    """The finished runs of a study, one line each in runs.jsonl. A context manager: it holds the worker processes.

    The first line is the header, what all runs have in common. Each further line is a run: `key`, the run's own fields,
    and what was measured.

    Args:
        folder: of the study. It is created, unless nothing is computed.
        header: ready for JSON.
        measure: computes a run; a function of the run alone, times aside. It must pickle, as must the runs.
        workers: processes, one thread each.
        compute: whether missing runs are computed. Otherwise `results` leaves them out.

    Attributes:
        finished: the line of each finished run, by its key.
        requested: keys of the runs that were asked for in this session.

    Raises:
        InputError: the folder holds runs with another header, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        measure: Callable[[Any], dict[str, Any]],
        *,
        workers: int = 1,
        compute: bool = True,
    ) -> None:
        self.path, self.measure, self.workers, self.compute = folder / "runs.jsonl", measure, workers, compute
        self.finished: dict[str, dict[str, Any]] = {}
        self.requested: set[str] = set()
        expected = json.loads(json.dumps(header))  # as it is read back: lists for tuples
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        if lines and (found := _header(lines[0])) != expected:
            asked, there = _differences(expected, found)
            raise InputError(f"{self.path}: expected runs of {asked}, got {there}. Fix: choose another output.")
        for line in lines[1:]:
            try:
                row = json.loads(line)
            except ValueError:  # the last line of a study that was killed while it wrote
                continue
            self.finished[row["key"]] = row
        whole = [json.dumps(line) for line in [expected, *self.finished.values()]]
        if compute and lines != whole:  # another process may be appending to a file that is only read here
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_text(self.path, "".join(f"{line}\n" for line in whole))
            except OSError as error:
                raise InputError(
                    f"output {folder}: expected a folder that can be written, got: {error.strerror}. "
                    "Fix: choose another output."
                ) from error

    def __enter__(self) -> RunStore:
        from multiprocessing import get_context

        # Spawned processes read the environment anew. One thread each, so that runs do not compete for cores.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        for name, size in MALLOC.items():
            os.environ.setdefault(name, str(size))
        self.pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"), initializer=_start_worker)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def results(self, runs: Sequence[Run], title: str, *, alone: bool = False) -> list[dict[str, Any]]:
        """The lines of runs, in the order of `runs`. Missing runs are computed first, with a progress bar.

        Args:
            runs: which.
            title: of the progress bar.
            alone: compute one run at a time, for runs that measure time.
        """
        from tqdm import tqdm

        if not self.compute:
            runs = [run for run in runs if run.key in self.finished]
        self.requested.update(run.key for run in runs)
        missing = [run for run in dict.fromkeys(runs) if run.key not in self.finished]
        if not missing:
            return [self.finished[run.key] for run in runs]
        batches = [[run] for run in missing] if alone else [missing]
        with (
            tqdm(total=len(missing), desc=title, unit="run", file=sys.stderr, disable=None) as bar,
            open(self.path, "a", encoding="utf-8", newline="\n") as file,
        ):
            for batch in batches:
                pending = {self.pool.submit(self.measure, run): run for run in batch}
                for future in as_completed(pending):
                    run = pending[future]
                    row = {"key": run.key, **asdict(run), **future.result()}
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    self.finished[run.key] = row
                    bar.update()
        return [self.finished[run.key] for run in runs]


def _header(line: str) -> Any:
    """The header of a file, or its first line where that is none."""
    try:
        return json.loads(line)
    except ValueError:
        return line[:80]


def _differences(expected: Mapping[str, Any], found: Any) -> tuple[str, str]:
    """What is expected and what is there, as text, without the parts that are the same in both."""
    if not isinstance(found, Mapping):
        return "this study", repr(found)
    flat = [dict(_leaves(header)) for header in (expected, found)]
    differing = [key for key in {**flat[0], **flat[1]} if flat[0].get(key, flat) != flat[1].get(key, flat)]
    if {*flat[0]}.isdisjoint(flat[1]) or len(differing) > MOST_DIFFERENCES:
        return "this study", "those of another study or version"
    asked, there = (
        ", ".join(f"{key} {header[key]!r}" if key in header else f"no {key}" for key in differing) for header in flat
    )
    return asked, there


MOST_DIFFERENCES = 6
"""Differences of two headers that a message names; more of them are another study."""


def _leaves(header: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in header.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value


def _start_worker() -> None:
    from transformers.utils import logging

    warnings.filterwarnings("ignore")
    logging.disable_progress_bar()
    torch.set_num_threads(1)
