"""A run's state on disk, such that a run killed at any moment goes on to the same bytes.

Order of data, learning rate, dropout and metrics are functions of the step, so a checkpoint is one file: what is
trained, the optimizer's moments, the step. What has a final name is whole: it was written beside and renamed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from una_ref.errors import InputError
from una_ref.training.sharding import shard_like, unsharded

FORMAT = "4"
"""Version of the checkpoint's layout; another one is refused, not guessed at."""
ANEW = "without that file the run starts anew"
RECORD = "run.json"
"""The file that makes a folder a run's: its config, and whether it is finished."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in whatever error there is while it is written, a full disk's say.

    Raises:
        OSError: in its place; safetensors and tokenizers raise classes of their own, which name no file.
    """
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:  # tokenizers'
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path}: expected to write it whole, got: {reason}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; it takes the place of `path` when all is written, or is removed after an error.

    Raises:
        OSError: see `writing`.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            yield beside
            with open(beside, "rb") as written:
                os.fsync(written.fileno())
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Add to a file's end: all of the text, or after an error nothing of it."""
    size = path.stat().st_size
    try:
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        os.truncate(path, size)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file so that under its name stands either the old content or the new."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def save(
    path: Path,
    step: int,
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    data: str = "",
    more: Mapping[str, Any] | None = None,
    write: bool = True,
) -> None:
    """Write the state after `step` steps, over an earlier one. Where weights are in shards, all processes call this.

    Args:
        path: a .safetensors file.
        step: steps done.
        trained: name -> parameter, in the optimizer's order.
        optimizer: of these parameters.
        data: what the examples were, see `load`.
        more: what else the run goes on from (rollouts that are kept, β where it is steered), ready for JSON.
        write: whether this process is the one that writes.
    """
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        one = unsharded(value)  # on its device for this moment alone: all of them may not fit there
        if write:
            state[name] = one.cpu().contiguous()

    for name, value in trained.items():
        add(f"trained/{name}", value.detach())
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            add(f"optimizer/{index}/{key}", value)
    if not write:
        return
    state["more"] = torch.frombuffer(bytearray(json.dumps(more or {}).encode()), dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        save_file(state, beside, metadata={"format": FORMAT, "step": str(step), "data": data})


def load(
    path: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, *, data: str = ""
) -> tuple[int, dict[str, Any]]:
    """Restore what `save` wrote; returns the steps done and what else was saved, (0, {}) where there is no such file.

    Raises:
        InputError: a checkpoint of another format, of other parameters, or of a run on other data; a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return 0, {}
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise InputError(f"{path}: expected a whole checkpoint, got: {error}; {ANEW}") from error
    for key, expected in (("format", FORMAT), ("data", data)):
        if about.get(key) != expected:
            raise InputError(
                f"{path}: {key}: expected {expected!r}, got {about.get(key)!r}; a run resumes with the "
                "version and the data that it began with, or starts anew in another output"
            )
    if "more" not in state:
        raise InputError(f"{path}: expected a whole checkpoint, got: one without `more`; {ANEW}")
    saved = {name.removeprefix("trained/"): v for name, v in state.items() if name.startswith("trained/")}
    if {name: v.shape for name, v in saved.items()} != {name: v.shape for name, v in trained.items()}:
        raise InputError(f"{path}: expected the parameters of this model, got those of another")
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(shard_like(value, saved[name]))
    own = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = shard_like(own[int(index)], value) if value.dim() else value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(about["step"]), json.loads(bytes(state["more"].tolist()))


@contextmanager
def claimed(output: Path, config: Mapping[str, Any]) -> Iterator[bool]:
    """Hold an output folder for one run; yields whether that run is finished already.

    If the run fails before it leaves anything there, what this made is taken away again.

    Raises:
        InputError: a live run holds it, it belongs to another config, or it is somebody else's folder or a file.
    """
    record, lock = output / RECORD, output / ".lock"
    new = [folder for folder in (output, *output.parents) if not os.path.lexists(folder)]
    if os.path.lexists(output) and not os.path.isdir(output):
        raise InputError(f"output {output}: expected a folder, got a file")
    if os.path.isdir(output) and not record.exists() and _visible(output):
        raise InputError(f"output {output}: expected an empty folder or an earlier run's, got one with other files")
    try:
        output.mkdir(parents=True, exist_ok=True)
        held = open(lock, "w")  # noqa: SIM115, closed below
    except (OSError, ValueError) as error:  # below a file, not allowed, no name for a file
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"output {output}: expected a folder to write to, got: {reason}") from error
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"output {output}: expected to be alone there, got a live run that writes to it") from None
        begun = record.exists()
        finished = begun and _same_run(record, config)
        try:
            if not begun:
                write_text(record, json.dumps({"config": dict(config), "finished": False}, indent=1))
            yield finished
        except Exception:
            if not begun and _visible(output) in ([], [record]):
                record.unlink(missing_ok=True)
                lock.unlink()
                for folder in new:
                    folder.rmdir()
            raise


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _same_run(record: Path, config: Mapping[str, Any]) -> bool:
    """Whether the run of this record is finished; InputError if that is another config's (output aside)."""
    try:
        saved = json.loads(record.read_text("utf-8"))
        finished, _ = bool(saved["finished"]), saved["config"].keys()
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # no JSON, or JSON of something else
        raise InputError(
            f"{record}: expected the record of a run, got something else ({type(error).__name__}: {error})"
        ) from error
    for key in sorted((saved["config"].keys() | config.keys()) - {"output"}):
        if saved["config"].get(key) != config.get(key):
            raise InputError(
                f"output {record.parent}: {key}: expected {saved['config'].get(key)!r} as in the run that "
                f"it holds, got {config.get(key)!r}; choose another output, or that config to go on"
            )
    return finished
