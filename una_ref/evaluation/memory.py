"""Peak memory of a run's phases, as the system counts it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from una_ref.training.loop import Job

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """Where phases are entered and left, the peak between: the whole process on the CPU, torch's own on CUDA.

    A phase within another takes its place for that long. Peaks are in MiB above what the process held when the meter
    was made; what is free but not yet given back is given back first, or the next phase would not be seen to need it.

    Attributes:
        peaks: by phase; None where the system does not say.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, float | None] = {}
        self._open: list[str] = []
        gc.collect()
        self.floor = self._peak() if self._reset() else None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        self._close()
        self._open.append(name)
        try:
            yield
        finally:
            self._close()
            self._open.pop()

    def attach(self, job: Job) -> None:
        """Count a job's drawing and scoring as phases of their own."""
        if job.rollouts:
            engine, reward = job.rollouts.engine, job.rollouts.reward
            job.rollouts = replace(
                job.rollouts, engine=self._within("generation", engine), reward=self._within("scoring", reward)
            )

    def _within(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            with self.phase(name):
                return do(*given, **named)

        return counted

    def _close(self) -> None:
        """The end of the time since the last reset, which belongs to the innermost phase."""
        peak = self._peak()
        if self._open:
            name, own = self._open[-1], None
            if peak is not None and self.floor is not None:
                own = max(self.peaks.get(name) or 0.0, peak - self.floor)
            self.peaks[name] = own
        self._reset()

    def _peak(self) -> float | None:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
        try:
            lines = STATUS.read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        except (OSError, StopIteration):
            return None

    def _reset(self) -> bool:
        """Whether peaks begin again at what is held now."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return True
        try:
            ctypes.CDLL(None).malloc_trim(0)
            RESET.write_text("5")
        except (OSError, AttributeError):  # no Linux, no glibc, or not allowed
            return False
        return True
