"""A run's numbers given to TensorBoard, trackio or wandb as well, through accelerate, where one is asked for."""

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
    """Raises InputError where the tracker asked for is not installed."""
    if config.tracker != "none" and find_spec(config.tracker) is None:
        raise InputError(
            f"tracker={config.tracker}: expected the package {config.tracker}, got none; pip install {config.tracker}, "
            "or una_ref[trackers] for all of them"
        )


@contextmanager
def tracking(config: Config, output: Path | None, start: int) -> Iterator[Any]:
    """accelerate's tracker for the steps after `start`, or None; closed at the end, whatever it is.

    A run that goes on is the same run to the tracker. TensorBoard's files are in the output's `tensorboard`; where the
    others write is theirs to say (WANDB_DIR and WANDB_MODE=offline, TRACKIO_DIR).
    """
    if config.tracker == "none" or output is None:
        yield None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    of = LOGGER_TYPE_TO_CLASS[config.tracker]
    if config.tracker == "tensorboard":  # forget what a killed run said of the steps that come again
        tracker = of("tensorboard", str(output), purge_step=start + 1 if start else None)
    else:
        name = str(output.resolve())
        own = {"id": hashlib.sha256(name.encode()).hexdigest()[:16]} if config.tracker == "wandb" else {"embed": False}
        tracker = of(PROJECT, name=output.name, resume="allow", **own)
    tracker.start()
    try:
        if not start and config.tracker != "tensorboard":  # which would make a folder of its own for them
            tracker.store_init_configuration(config.to_dict())
        yield tracker
    finally:
        tracker.finish()
