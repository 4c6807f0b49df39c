"""The items of a file, a folder, a data set, standard input or the hub, one at a time, each with its place.

Items are streamed; only a JSON list is read as a whole. They are checked and become rows in `sources`. JSON Lines are
read by the standard library, because `datasets` does not tell on which line an error is. A line that is no JSON is an
item too, its error, so that the reader decides what becomes of it.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

from una_ref.data.records import Cell
from una_ref.data.rows import refusal, shown
from una_ref.errors import InputError, near_path

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_OTHER_SUFFIXES = (".txt", ".gz", ".zip", ".arrow", ".xlsx", ".yaml", ".yml", ".zst")
"""Endings of files that are not read, which no data set on the hub has in its name."""
_SAVED = ("dataset_dict.json", "state.json")
"""Files by which a folder that `datasets` has saved is known."""
_ABOUT = ("dataset_info.json", "dataset_infos.json")
"""Files that describe a data set and hold no rows of it."""
STDIN = "-"
"""The name of standard input, which holds JSON Lines."""

Item = tuple[str, object]
"""("file:line", "file[i]" or "dataset[i]", the item at that place)."""


def files(name: str) -> list[str]:
    """The files of a pattern such as ``data/*.jsonl``, sorted; any other name alone.

    Raises:
        InputError: no file matches the pattern.
    """
    if os.path.exists(name) or not glob.has_magic(name):
        return [name]
    found = sorted(glob.glob(os.path.expanduser(name), recursive=True))
    if not found:
        raise refusal(name, "data", "a pattern that matches a file", "no match")
    return found


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern that matches a file, such as ``split=train/*.jsonl``."""
    try:
        return files(name) != [name]
    except InputError:
        return False


def items(data: object, split: str, name: str = "dataset", *, subset: str = "", revision: str = "") -> Iterator[Item]:
    """Everything in `data`, see `sources.read`. What is missing is refused at once."""
    if isinstance(data, str | Path):
        return _named(data, split, subset, revision)
    if isinstance(data, Mapping):
        if split not in data:
            raise refusal(name, "split", "one of " + ", ".join(map(str, data)), shown(split))
        return items(data[split], split, name)
    if isinstance(data, list | tuple) and data and all(isinstance(part, str | Path) for part in data):
        return chain.from_iterable([_named(part, split, subset, revision) for part in data])
    if not isinstance(data, Iterable):
        raise refusal("data", "data", "a file, a data set or an iterable of dictionaries", shown(data))
    return ((f"{name}[{i}]", item) for i, item in enumerate(data))


def _check_kind(folder: Path) -> None:
    """Refuse a folder with files of several kinds: `datasets` would read one kind and leave the others out."""
    kinds: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        suffix = next((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), "")
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if suffix and not hidden and file.name not in _ABOUT:
            kinds.setdefault(suffix.removesuffix(".gz").replace(".jsonl", ".json"), str(file.relative_to(folder)))
    if len(kinds) > 1:
        raise refusal(str(folder), "data", "files of one kind", " and ".join(kinds.values()), "name the files")


def _named(name: str | Path, split: str, subset: str, revision: str) -> Iterator[Item]:
    """The items of a file, a folder, standard input, or a data set on the hub."""
    if name == STDIN:
        return _json_lines(Path("stdin"), lambda _: nullcontext(sys.stdin.buffer))
    if not str(name).strip():
        raise InputError("data: expected the name of a file, a folder or a data set, got an empty name")
    path = Path(name).expanduser()
    if os.path.isdir(path):  # Path.is_dir raises for a name that no file can have
        if not any(child.is_file() for child in path.rglob("*")):
            raise refusal(str(name), "data", "a folder with data files", "a folder without files")
        if not any((path / mark).exists() for mark in _SAVED):
            _check_kind(path)
        return _dataset(path, split, subset)
    if os.path.exists(path):
        if not path.name.endswith(SUFFIXES):
            fix = "write one JSON object a line into a .jsonl file"
            raise refusal(str(name), "file", "a name that ends in " + " or ".join(SUFFIXES), path.name, fix)
        if path.suffix == ".parquet":
            return _parquet(path)
        if path.name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
            return _table(path)
        return _json(path)
    if isinstance(name, str) and is_hub_name(name):
        return _dataset(name, split, subset, revision)
    raise refusal(
        str(name), "data", "a file, a folder or a hub name (org/name)", f"no such file or folder{near_path(str(name))}"
    )


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of the hub, org/name, and no such file or folder exists."""
    plain = name.count("/") == 1 and name[0] not in "./~" and not name.endswith(("/", *SUFFIXES, *_OTHER_SUFFIXES))
    return plain and not os.path.exists(name)


def _dataset(name: str | Path, split: str, subset: str = "", revision: str = "") -> Iterator[Item]:
    try:
        import datasets

        if any((Path(name) / mark).exists() for mark in _SAVED):
            loaded = datasets.load_from_disk(str(name))
        else:
            loaded = datasets.load_dataset(str(name), subset or None, split=split, revision=revision or None)
    except Exception as error:  # not installed, no network, no such set or split: the classes have nothing in common
        reason = (str(error).splitlines() or [""])[0]
        expected = f"a data set that loads, with a split {split!r}"
        raise refusal(str(name), "data", expected, f"{type(error).__name__}: {reason:.200}") from error
    return items(loaded, split, str(name))


def _unpacked(path: Path) -> AbstractContextManager[Any]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


Opener = Callable[[Path], AbstractContextManager[Any]]


def _lines(path: Path, opened: Opener = _unpacked) -> Iterator[tuple[int, str]]:
    """(number, text) of each line. Only a line feed ends a line."""
    number = 0
    try:
        with opened(path) as handle:
            for number, line in enumerate(handle, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        got = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise refusal(f"{path}:{number}", "line", "UTF-8 text", got) from None
    except (OSError, EOFError, zlib.error) as error:  # unreadable, not gzip, cut short or damaged
        raise refusal(f"{path}:{number + 1}", "file", "a whole, readable file", str(error)) from error


class _RepeatedError(ValueError):
    """A name that stands twice in an object, where `json` would keep the last value alone."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedError(next(name for name in names if names.count(name) > 1))
    return made


def _parsed(text: str, path: Path, number: int) -> object:
    """The JSON of a text that begins on line `number`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        got = f"broken JSON ({error.msg.removesuffix(' at')} at character {error.colno})"
        raise refusal(f"{path}:{number + error.lineno - 1}", "line", "JSON", got) from None
    except _RepeatedError as error:
        raise refusal(f"{path}:{number}", "line", "each column once", f"{error} twice") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; thousands of brackets
        raise refusal(f"{path}:{number}", "line", "JSON", f"{type(error).__name__}: {error}") from None


def _json_lines(path: Path, opened: Opener = _unpacked) -> Iterator[Item]:
    empty = True
    for number, text in _lines(path, opened):
        if text.strip():
            empty = False
            yield _line(path, number, text)
    if empty:
        raise refusal(str(path), "file", "at least one row", "an empty file")


def _line(path: Path, number: int, text: str) -> Item:
    """The item on a line, or the error in its place."""
    place = f"{path}:{number}"
    try:
        return place, _parsed(text, path, number)
    except InputError as error:
        return place, error


def _json(path: Path) -> Iterator[Item]:
    """JSON Lines or a list, whatever the file is called: its first character tells."""
    start = next((text.lstrip() for _, text in _lines(path) if text.strip()), "")
    if start.startswith("[") or (path.name.endswith((".json", ".json.gz")) and not _is_json(start)):
        return _json_list(path)
    return _json_lines(path)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _json_list(path: Path) -> Iterator[Item]:
    text = "\n".join(line for _, line in _lines(path))
    rows = _parsed(text, path, 1) if text.strip() else []
    if not isinstance(rows, list):
        fix = "write one object a line, or a list of objects"
        raise refusal(str(path), "file", "a list of rows", type(rows).__name__, fix)
    if not rows:
        raise refusal(str(path), "file", "at least one row", "an empty file")
    for i, row in enumerate(rows):
        yield f"{path}[{i}]", row


def _table(path: Path) -> Iterator[Item]:
    """The rows of a CSV or TSV file with a header. An empty cell is a missing value."""
    csv.field_size_limit(2**31 - 1)  # the default refuses a text of 131,072 characters
    tab = path.name.removesuffix(".gz").endswith(".tsv")
    try:
        with _unpacked(path) as handle:
            lines = (line.decode("utf-8-sig" if i == 0 else "utf-8") for i, line in enumerate(handle))
            table = csv.reader(lines, delimiter="\t" if tab else ",", strict=True)
            header = next(table, [])
            if repeated := [name for i, name in enumerate(header) if name in header[:i]]:
                raise refusal(f"{path}:1", "line", "each column once", f"{repeated[0]} twice")
            other = next((mark for mark in ";\t|," if len(header) == 1 and mark in header[0]), "")
            if other:
                fix = "write the file with commas, or with tabs as .tsv"
                expected = f"columns between {'tabs' if tab else 'commas'}"
                raise refusal(f"{path}:1", "line", expected, f"a header with {other!r} between them", fix)
            empty = True
            for cells in table:
                if not cells:  # a blank line
                    continue
                empty = False
                place = f"{path}:{table.line_num}"
                if len(cells) != len(header):
                    yield place, refusal(place, "line", f"{len(header)} cells, as in the header", f"{len(cells)}")
                else:
                    yield place, {name: Cell(cell) if cell else None for name, cell in zip(header, cells, strict=True)}
    except UnicodeDecodeError as error:
        raise refusal(str(path), "file", "UTF-8 text", f"byte 0x{error.object[error.start]:02x}") from None
    except csv.Error as error:
        raise refusal(f"{path}:{table.line_num}", "line", "CSV", str(error)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise refusal(str(path), "file", "a whole, readable file", str(error)) from error
    if empty:
        raise refusal(str(path), "file", "at least one row", "a header alone" if header else "an empty file")


def _parquet(path: Path) -> Iterator[Item]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    i = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield f"{path}[{i}]", row
                    i += 1
    except (OSError, ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise refusal(f"{path}[{i}]", "file", "a whole, readable Parquet file", f"{reason:.200}") from error
    if not i:
        raise refusal(str(path), "file", "at least one row", "an empty table")
