"""Metrics of a run in TensorBoard, trackio or wandb, through accelerate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from una_ref.errors import InputError
from una_ref.training.config import Config

PROJECT = "una_ref"


def check(config: Config) -> None:
    """Raise InputError if the tracker's package is not installed."""
    if config.tracker != "none" and find_spec(config.tracker) is None:
        raise InputError(
            f"tracker={config.tracker}: expected the package {config.tracker}, got none. "
            f"Fix: pip install {config.tracker}, or una_ref[trackers] for all of them"
        )


@contextmanager
def tracking(config: Config, output: Path | None, start: int) -> Iterator[Any]:
    """accelerate's tracker for the steps after `start`, or None. It is closed when the run ends or fails.

    A resumed run is the same run to the tracker. TensorBoard writes to the folder `tensorboard` in the output; the
    others have settings of their own (WANDB_DIR and WANDB_MODE=offline, TRACKIO_DIR).
    """
    if config.tracker == "none" or output is None:
        yield None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    tracker_class = LOGGER_TYPE_TO_CLASS[config.tracker]
    if config.tracker == "tensorboard":  # drop the points of steps that will be repeated
        tracker = tracker_class("tensorboard", str(output), purge_step=start + 1 if start else None)
    else:
        name = str(output.resolve())
        wandb = config.tracker == "wandb"
        options = {"id": hashlib.sha256(name.encode()).hexdigest()[:16]} if wandb else {"embed": False}
        tracker = tracker_class(PROJECT, name=output.name, resume="allow", **options)
    tracker.start()
    try:
        if not start and config.tracker != "tensorboard":  # TensorBoard would write them to a second folder
            tracker.store_init_configuration(config.recorded())
        yield tracker
    finally:
        tracker.finish()
