"""A run's state on disk. A run that is killed at any moment resumes to the same bytes.

Data order, learning rate, dropout and metrics are functions of the step. So a checkpoint is one file: trained weights,
the optimizer's moments, the step. A file with its final name is whole: it is written under another name and renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from una_ref.errors import InputError
from una_ref.policies.named_models import RECORD
from una_ref.training import inputs
from una_ref.training.sharding import shard_like, unsharded

FORMAT = "6"
"""Version of the checkpoint's layout. A checkpoint of another version is refused."""
_DELETE = "Fix: delete it, and the run starts from the beginning"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in errors while it is written, such as those of a full disk.

    Raises:
        OSError: instead of the library's own error; those of safetensors and tokenizers name no file.
    """
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:  # tokenizers raises that
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path}: expected to write the whole file, got: {reason}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to. It replaces `path` once everything is written, and is deleted after an error.

    Raises:
        OSError: see `writing`.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            yield beside
            with open(beside, "rb+") as written:  # Windows flushes only what it may write
                os.fsync(written.fileno())
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Append to a file: the whole text, or nothing of it after an error."""
    size = path.stat().st_size
    try:
        with writing(path), open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError:
        os.truncate(path, size)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file so that its name always holds either the old content or the new."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


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
    """Write the state after `step` steps, in place of the earlier one. With sharded weights, all processes call this.

    Args:
        path: a .safetensors file.
        step: steps done.
        trained: name -> tensor, all that the run changes: parameters, and a reference that moves.
        optimizer: of these parameters.
        data: digest of the examples, which `load` compares.
        more: the rest of the run's state (replay buffer, adaptive β), ready for JSON.
        write: whether this process writes.
    """
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        gathered = unsharded(value)  # one at a time: the device may not hold all of them
        if write:
            state[name] = gathered.cpu().contiguous()

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
    """Restore what `save` wrote.

    Returns:
        The steps done and the rest of the run's state; (0, {}) if there is no such file.

    Raises:
        InputError: a damaged checkpoint, or one of another format, of other parameters or of other data.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return 0, {}
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise InputError(f"{path}: expected a whole checkpoint, got: {error}. {_DELETE}") from error
    for key, expected in (("format", FORMAT), ("data", data)):
        if about.get(key) != expected:
            raise InputError(
                f"{path}: {key}: expected {expected!r}, got {about.get(key)!r}. A run resumes only with the version "
                "and the data that it started with. Fix: choose another output"
            )
    if "more" not in state:
        raise InputError(f"{path}: expected a whole checkpoint, got one without `more`. {_DELETE}")
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
    """Hold an output folder for one run; yields whether that run is already finished.

    The lock is released when its process ends, however it ends. If a new run fails before it leaves a file, the folders
    that were made for it are deleted again.

    A run is the same by its meaning: keys of `inputs.FREE` may differ, and files may have moved with the same bytes.

    Raises:
        InputError: another live run holds the folder; or it belongs to another config, to the same one with other
            files, or to no run.
    """
    record, lock = output / RECORD, FileLock(output / ".lock")
    new = [folder for folder in (output, *output.parents) if not os.path.lexists(folder)]
    if os.path.lexists(output) and not os.path.isdir(output):
        raise InputError(f"output {output}: expected a folder, got a file")
    if os.path.isdir(output) and not record.exists() and _visible(output):
        raise InputError(f"output {output}: expected an empty folder or an earlier run's, got one with other files")
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(f"output {output}: expected to be alone there, got a live run that writes to it") from None
    except (OSError, ValueError) as error:  # below a file, no permission, no valid name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"output {output}: expected a folder to write to, got: {reason}") from error
    try:
        begun = record.exists()
        files = inputs.of_settings(config)
        saved = _same_run(record, config, files) if begun else {}
        finished = bool(saved.get("finished"))
        try:
            now = {"config": dict(config), "finished": False, "files": files}
            if not begun or (not finished and _more_than_output(saved["config"], config)):
                write_text(record, json.dumps(saved | now, indent=1))
            yield finished
        except Exception:
            if not begun and _visible(output) in ([], [record]):
                record.unlink(missing_ok=True)
                lock.release()  # Windows does not delete a file that is open
                Path(lock.lock_file).unlink(missing_ok=True)
                for folder in new:
                    folder.rmdir()
            raise
    finally:
        lock.release()


def _more_than_output(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a resumed run has new values for its record. Without any, a refused command changes no file."""
    return {**before, "output": ""} != {**now, "output": ""}


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _same_run(record: Path, config: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The record, if it is of the same run. The output's name may differ.

    Raises:
        InputError: the record is of another config or of other files, or no record.
    """
    try:
        saved = json.loads(record.read_text("utf-8"))
        _, before = bool(saved["finished"]), saved["config"]
        keys, old = before.keys() | config.keys(), dict(saved.get("files", {}))
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # not JSON, or not a record
        raise InputError(
            f"{record}: expected the record of a run, got something else ({type(error).__name__}: {error})"
        ) from error
    more = "or set that value to resume"
    if saved["finished"] and "method" in before:
        more = f"or go on from its result with --model {record.parent}"
    for key in sorted(key for key in keys - {"output"} if before.get(key) != config.get(key)):
        if key.endswith(".lr") and config.get(key) is None:
            continue  # 1e-3 in earlier versions; the step itself compares the rate that it has now
        if key not in before and config[key] in ("", None):
            continue  # a key that the version of that run did not have, at its default
        if inputs.is_free(key) or inputs.moved(key, before.get(key), config.get(key), old, files):
            continue
        raise InputError(
            f"output {record.parent}: {key}: expected {before.get(key)!r} as in the run that it "
            f"holds, got {config.get(key)!r}. Fix: choose another output, {more}"
        )
    inputs.refuse_changed(old, files, str(record.parent))
    return saved
