"""Files of benchmarks: found by name in the data folder, in UNA_REF_DATA, or on the hub."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from una_ref.errors import InputError


def find(names: Sequence[str], data_dir: str = "") -> Path | None:
    """The first file of these names in the data folder, else in UNA_REF_DATA, as it is or with .gz; None if none is."""
    for folder in (data_dir, os.environ.get("UNA_REF_DATA", "")):
        for name in names:
            for suffix in ("", ".gz"):
                if folder and (file := Path(folder, name + suffix)).is_file():
                    return file
    return None


def found(names: Sequence[str], data_dir: str, task: str, fix: str) -> Path:
    """The same. Raises InputError if there is none; `fix` says where the file can be had."""
    file = find(names, data_dir)
    if file is None:
        where = " or ".join(filter(None, (data_dir, os.environ.get("UNA_REF_DATA", "")))) or "any data folder"
        raise InputError(f"task {task}: expected {names[0]} in {where}, got no such file. Fix: {fix}")
    return file


def from_hub(repository: str, name: str, task: str) -> Path:
    """A file of a hub data set.

    Raises:
        InputError: neither the hub nor its cache has it.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, repo_type="dataset"))
    except Exception as error:  # no network, offline mode, no such file: each raises its own class
        raise InputError(
            f"task {task}: expected {name} in the data folder or in {repository} on the hub, got neither. "
            f"Fix: --data-dir FOLDER with that file"
        ) from error


def records(file: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The objects in a JSON list or a JSON Lines file.

    Raises:
        InputError: not JSON, no rows, or a row without one of the columns.
    """
    try:
        data = file.read_bytes()
        whole = (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
        is_list = whole.lstrip().startswith("[")
        rows = json.loads(whole) if is_list else [json.loads(line) for line in whole.split("\n") if line.strip()]
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{file}: expected JSON or JSON Lines, got: {error}") from error
    for i, row in enumerate(rows):
        missing = [column for column in columns if not isinstance(row, dict) or column not in row]
        if missing:
            raise InputError(f"{file}[{i}]: expected the columns {', '.join(columns)}, got none of {missing[0]}")
    if not rows:
        raise InputError(f"{file}: expected rows, got none")
    return rows
