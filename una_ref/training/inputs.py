"""The files that a run reads: their digests, and whether a later run in the same folder reads the same ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from una_ref.data.items import files
from una_ref.errors import InputError

FREE = ("log_every", "save_every", "keep_every", "tracker", "micro_tokens", "gradient_checkpointing")
"""Keys that change neither the data nor the mathematics of a run: a resumed run may set them anew."""
FILES = ("data", "eval_data", "like", "samples_from", "template")
"""Keys that name files. A file's name may change as long as its bytes are the same."""


def digests(*data: str) -> dict[str, str]:
    """SHA-256 of each data file, of those in folders too, in the order in which they are read.

    Args:
        data: names as in a run's `data`. Files that no longer exist are left out.
    """
    out = {}
    for name in filter(None, ",".join(data).split(",")):
        with suppress(InputError):
            for path in (Path(file).expanduser() for file in files(name)):
                inner = sorted(child for child in path.rglob("*") if child.is_file()) if path.is_dir() else [path]
                for file in inner:
                    if file.is_file():
                        with file.open("rb") as opened:
                            out[str(file)] = hashlib.file_digest(opened, "sha256").hexdigest()
    return out


def of_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """The digests of all data that some settings name, and of a template's file. Keys may begin with a step's name."""
    named = {key: str(value) for key, value in settings.items() if _last(key) in FILES and value}
    return digests(*(text for key, text in named.items() if _last(key) != "template" or os.path.isfile(text)))


def is_free(key: str) -> bool:
    """Whether a resumed run may set a key anew."""
    return _last(key) in FREE


def moved(key: str, before: Any, after: Any, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether a key names data whose files are elsewhere now, with the same bytes in the same order.

    Args:
        key: of the settings.
        before: its value in the earlier run.
        after: its value now.
        old: the digests of the earlier run's files.
        new: those of the files now.
    """
    same = bool(new) and [*old.values()] == [*new.values()]
    return _last(key) in FILES and same and _unread(str(before), old) == _unread(str(after), new)


def refuse_changed(old: Mapping[str, str], new: Mapping[str, str], where: str) -> None:
    """Refuse data whose bytes have changed since the run of a record. Files that are gone are not compared.

    Raises:
        InputError: names the first such file.
    """
    if not old or not new or [*old.values()] == [*new.values()]:
        return
    for path, digest in new.items():
        if digest not in old.values():
            was = f"sha256 {old[path]:.12}…" if path in old else "no such file"
            raise InputError(
                f"output {where}: {path}: expected the file that the run in it has read ({was}), got one with other "
                f"content (sha256 {digest:.12}…). Fix: choose another output"
            )
    raise InputError(
        f"output {where}: data: expected the {len(old)} files that the run in it has read, in their order, got "
        f"{len(new)} of them. Fix: choose another output"
    )


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _unread(data: str, known: Mapping[str, str]) -> list[str]:
    """The names that stand for no file with a digest: of the hub, of ToySteer, of an earlier step."""
    own = {str(Path(path)) for path in known}
    folders = {str(parent) for path in own for parent in Path(path).parents}
    names = [str(Path(name).expanduser()) for name in data.split(",") if name]
    return [n for n in names if n not in own | folders and not any(fnmatch(path, n) for path in own)]
