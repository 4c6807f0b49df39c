"""Peak memory of a training step's phases, as the operating system or CUDA counts it."""

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


class PeakMeter:
    """The peak memory of each phase: of the whole process on the CPU, of torch's allocator on CUDA.

    A phase inside another one interrupts it. Peaks are in MiB above what the process held when the meter was made.
    Free memory is returned to the system before each phase, so that reused memory counts for every phase that needs it.

    Attributes:
        peaks: by phase; None where the system does not report it.
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
        """Count a job's sampling and scoring as phases of their own."""
        if job.rollouts:
            engine, reward = job.rollouts.engine, job.rollouts.reward
            job.rollouts = replace(
                job.rollouts, engine=self._within("generation", engine), reward=self._within("scoring", reward)
            )

    def _within(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return counted

    def _close(self) -> None:
        """Give the peak since the last reset to the innermost phase."""
        peak = self._peak()
        if self._open:
            name, highest = self._open[-1], None
            if peak is not None and self.floor is not None:
                highest = max(self.peaks.get(name) or 0.0, peak - self.floor)
            self.peaks[name] = highest
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
        """Start a new peak at what is held now; False where that is not possible."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return True
        try:
            ctypes.CDLL(None).malloc_trim(0)
            RESET.write_text("5")
        except (OSError, AttributeError, TypeError):  # no Linux, no glibc, or not allowed
            return False
        return True
