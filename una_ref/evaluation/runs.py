"""A study's runs on disk: a line each, made by worker processes, never made twice."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from una_ref.errors import InputError
from una_ref.training.card import versions
from una_ref.training.checkpoints import write_text


def name_of(base: Path) -> str:
    """A base policy's name: its folder's, which is its recipe's, and what its weights are.

    Processors of different kinds round differently, and make other weights of one recipe; a study has one base.
    """
    return f"{base.name}, weights {hashlib.sha256((base / 'model.safetensors').read_bytes()).hexdigest()[:16]}"


class Run(Protocol):
    """A frozen dataclass, all that a study's settings leave open of a run, with a name in runs.jsonl."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> str:
        """Its name, one for each run."""
        ...


MALLOC = {"MALLOC_MMAP_THRESHOLD_": 1 << 33, "MALLOC_TRIM_THRESHOLD_": 1 << 34, "MALLOC_TOP_PAD_": 1 << 28}
"""Environment variables of the workers, in bytes: glibc keeps the memory that it has."""

One = Callable[[Any, Any], dict[str, Any]]
"""Does a run: (run, settings) -> what was measured, a function of the two alone but for times. Found by its name."""


class Runs:
    """Finished runs, a line each in runs.jsonl; asked for again, they are not run again. A context: its workers' time.

    Args:
        folder: the study's.
        settings: a dataclass, what the runs there must have in common.
        one: does a run, in a worker process.
        free: fields of the settings in which runs may differ: they say which runs there are, not what a run is.
        base: the name of the base policy, which the runs must have in common too.
        workers: processes, one thread each.

    Attributes:
        done: what was measured, by the runs' keys.
        asked: the keys of the runs that were asked for here.

    Raises:
        InputError: the folder holds runs of other settings or another base policy.
    """

    def __init__(
        self, folder: Path, settings: Any, one: One, *, free: Iterable[str] = (), base: str, workers: int = 1
    ) -> None:
        self.path, self.settings, self.one, self.workers = folder / "runs.jsonl", settings, one, workers
        self.done: dict[str, dict[str, Any]] = {}
        self.asked: set[str] = set()
        common = {k: v for k, v in asdict(settings).items() if k not in free}
        head = json.loads(json.dumps({"settings": common, "base": base}))
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        if lines:
            if (had := json.loads(lines[0])) != head:
                raise InputError(f"{self.path}: expected runs of {head}, got {had}; choose another output")
            for line in lines[1:]:
                try:
                    row = json.loads(line)
                except ValueError:  # the line that a killed study left unfinished
                    continue
                self.done[row["key"]] = row
        else:
            folder.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(x) + "\n" for x in [head, *self.done.values()]))

    def __enter__(self) -> Runs:
        from multiprocessing import get_context

        # Workers are new processes: one thread each, so that runs do not fight over the cores.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        # glibc gives large buffers back to the kernel at once, and taking them again costs more than these runs.
        for name, size in MALLOC.items():
            os.environ.setdefault(name, str(size))
        self.pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"), initializer=_worker_start)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def of(self, runs: Sequence[Run], what: str, *, alone: bool = False) -> list[dict[str, Any]]:
        """The results of runs, in their order; those that are missing are run first, with a progress bar.

        Args:
            runs: which.
            what: of the bar.
            alone: one at a time, so that none is in another's way.
        """
        from tqdm import tqdm

        self.asked.update(r.key for r in runs)
        missing = [r for r in dict.fromkeys(runs) if r.key not in self.done]
        with (
            tqdm(total=len(missing), desc=what, unit="run", file=sys.stderr, disable=None if missing else True) as bar,
            open(self.path, "a", encoding="utf-8") as file,
        ):
            for some in [[run] for run in missing] if alone else [missing]:
                for future in as_completed([self.pool.submit(_worker, self.one, run, self.settings) for run in some]):
                    run, measured = future.result()
                    row = {"key": run.key, **asdict(run), **measured}
                    self.done[run.key] = row
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    bar.update()
        return [self.done[r.key] for r in runs]


def made(runs: Runs, began: float) -> dict[str, Any]:
    """What stands beside a study's numbers: versions, hardware, date, and the seconds since `began` and of all runs."""
    return {
        "versions": versions(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds_this_time": round(time.time() - began),
        "seconds_of_runs": round(sum(runs.done[key]["seconds"] for key in runs.asked)),
    }


def _worker_start() -> None:
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore")
    logging.disable_progress_bar()
    torch.set_num_threads(1)


def _worker(one: One, run: Run, settings: Any) -> tuple[Any, dict[str, Any]]:
    return run, one(run, settings)
