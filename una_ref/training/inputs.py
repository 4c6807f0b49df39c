"""The data and models that a run reads: their digests, and whether a later run of the folder reads the same ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from una_ref.data.items import files
from una_ref.data.toysteer import TOYSTEER_BASE
from una_ref.errors import InputError
from una_ref.policies.loading import base_of
from una_ref.policies.named_models import SMOLLM2, weight_files

FREE = ("log_every", "save_every", "keep_every", "tracker", "micro_tokens", "gradient_checkpointing", "push", "license")
"""Keys that change neither the data nor the mathematics of a run: a resumed run may set them anew."""
FILES = ("data", "eval_data", "like", "samples_from", "template")
"""Keys that name files. A file's name may change as long as its bytes are the same."""
MODELS = ("model", "reference_model", "second_reference_model", "reward", "reviser")
"""Keys that may name folders of models, or GGUF files. Their names may change as well."""
TEXTS = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""The files of a model's folder that change what a run is, beside its weights."""
WHOLE, BLOCKS, BLOCK = 1 << 28, 1024, 1 << 14
"""Bytes of the largest file of weights that is read whole. Of a larger one: number and bytes of the blocks."""


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


def of_models(settings: Mapping[str, Any]) -> dict[str, str]:
    """The digests of all files of the local models that some settings name, with the bases of adapters; see `digest`.

    Models of the hub have none, nor have folders that are gone. Keys may begin with a step's name.
    """
    named = (str(value).split(",") for key, value in settings.items() if _last(key) in MODELS and value)
    names = dict.fromkeys(name for group in named for name in group if name not in (TOYSTEER_BASE, SMOLLM2))
    return {str(file): digest(file) for name in names for file in _files_of(Path(name).expanduser())}


def _files_of(model: Path) -> Iterator[Path]:
    if model.is_file() and model.suffix == ".gguf":
        yield model
    if not model.is_dir() or not (found := weight_files(model)):
        return
    yield from found
    yield from filter(Path.is_file, (model / name for name in TEXTS))
    base = Path(base_of(str(model)) or model)
    if base != model:
        yield from _files_of(base)


def digest(file: Path) -> str:
    """SHA-256 of a file of a model, in hexadecimal digits.

    A file of more than 256 MiB is not read whole, since each call of a run reads it and a model of 7B has 14 GB. Its
    digest, marked ``blocks-``, is that of its size and of 1024 blocks of 16 KiB at equal distances, from its first byte
    to its last. Training changes nearly every number of a matrix, so it is noticed. A change of fewer bytes in a row
    than a 1024th of the file may not be.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= WHOLE:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        found = hashlib.sha256(str(size).encode())
        for block in range(BLOCKS):
            opened.seek(block * (size - BLOCK) // (BLOCKS - 1))
            found.update(opened.read(BLOCK))
    return f"blocks-{found.hexdigest()}"


def is_free(key: str) -> bool:
    """Whether a resumed run may set a key anew."""
    return _last(key) in FREE


def moved(
    key: str, before: Any, after: Any, old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]
) -> bool:
    """Whether a key names data or a model whose files are elsewhere now, with the same bytes in the same order.

    Args:
        key: of the settings.
        before: its value in the earlier run.
        after: its value now.
        old: the digests of the earlier run's ``files`` and ``models``, of `of_settings` and `of_models`.
        new: those of the files now.
    """
    kind = next((kind for kind, keys in (("files", FILES), ("models", MODELS)) if _last(key) in keys), "")
    if not kind or not new[kind] or [*old[kind].values()] != [*new[kind].values()]:
        return False
    return _unread(str(before), old[kind]) == _unread(str(after), new[kind])


def refuse_changed(old: Mapping[str, str], new: Mapping[str, str], where: str) -> None:
    """Refuse data, or models, whose bytes have changed since the run of a record. Files that are gone are not compared.

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
        f"output {where}: expected the {len(old)} files that the run in it has read, in their order, got "
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
