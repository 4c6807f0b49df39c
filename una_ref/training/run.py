"""A run from its config to a finished folder: claim the folder, prepare, train, save."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from una_ref.cache import cache_folder
from una_ref.errors import InputError
from una_ref.training import publishing, result
from una_ref.training.checkpoints import RECORD, claimed, reopen
from una_ref.training.config import Config
from una_ref.training.distributed import from_main, processes
from una_ref.training.loop import fit
from una_ref.training.prepare import prepare


def train(config: Config, *, progress: bool = True) -> dict[str, Any]:
    """Run a config to its end in its output folder, or resume it there; returns the record in run.json.

    Every process of a run calls this. The main process writes, and the others return an empty record.

    Raises:
        InputError: refused before anything began.
        NonFinite, Interrupted: see `fit`.
        OSError: the disk is full, or the hub does not take the finished run.
    """
    if not config.output:
        raise InputError("output: expected a folder, got none")
    publishing.check(config)
    output = Path(config.output)
    team = processes()
    settings = config.recorded()
    with claimed(output, settings) if team.is_main_process else nullcontext(False) as finished:
        if from_main(finished):
            record = json.loads((output / RECORD).read_text("utf-8"))
            if progress and team.is_main_process:
                print(f"{output}: finished already; nothing was trained", file=sys.stderr)
            return _pushed(record, config, progress=progress) if team.is_main_process else {}
        job = prepare(config, references=cache_folder() / "references")
        if progress and team.is_main_process:
            for note in job.notes:
                print(note, file=sys.stderr)
        printed = len(job.notes)
        if team.is_main_process:
            reopen(output, settings)
        evaluation = fit(job, output=output, progress=progress)
        if progress and team.is_main_process:
            for note in job.notes[printed:]:
                print(note, file=sys.stderr)
        state = result.whole_state(job)
        if not team.is_main_process:
            return {}
        record = result.save(job, settings, output, evaluation, state)
        return _pushed(record, config, progress=progress)


def _pushed(record: dict[str, Any], config: Config, *, progress: bool) -> dict[str, Any]:
    """The record of a finished run, which is uploaded if the config says so."""
    if config.push:
        publishing.push(config, progress=progress)
    return record
