"""Log-probs of the reference on disk, under names made of all that they depend on.

A file belongs to one reference: its name is a digest of the weights, of what the model makes of them, of tokenizer and
template, of the arithmetic and of the versions. In it a response is a digest of its prompt's and its own token ids. So
what has changed has another name: nothing is compared, and nothing has to be thrown away in time.

The layout is in no name: a log-prob that another cut of the data left here is within `AT_START` of one computed now,
and the first one written stays, so that a run that is resumed meets the numbers that it began with.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from una_ref.data.batch import Example
from una_ref.data.encoder import Encoder
from una_ref.errors import InputError
from una_ref.policies.anatomy import suppressed_tokens, unwrapped

FORMAT = 1
"""Of the file and of the way from ids to log-probs; raise it where either changes what is found or how."""
WAIT = 60.0
"""Seconds to wait for another process that writes to the same file."""

Values = dict[bytes, float]


def fingerprint(model: Any, encoder: Encoder | None = None, *, arithmetic: str = "") -> str:
    """A name for a reference: equal only if every log-prob of it is.

    Reads each weight once, in as many threads as there are cores: measured on one slow core .2 GB/s, so a 7B model in
    bfloat16 costs a minute there and seconds on a workstation.

    Args:
        model: the reference, or the policy whose adapters are taken off for it: what belongs to an adapter is left out.
        encoder: holds tokenizer and template; None where there is no text.
        arithmetic: what computes beside the weights' own dtype, such as autocast's.
    """
    import transformers

    from una_ref import __version__

    inner = unwrapped(model)
    config = inner.config.to_dict() if hasattr(inner, "config") else {}
    about = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__, transformers.__version__],
        "class": type(inner).__name__,
        "config": {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")},
        "suppressed": suppressed_tokens(model),
        "arithmetic": arithmetic,
        "text": _text(encoder) if encoder else "",
    }
    weights = sorted((name, value) for name, value in _own(inner))
    with ThreadPoolExecutor() as pool:
        about["weights"] = list(pool.map(_digest, *zip(*weights, strict=True)))
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _own(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a model without those of its adapters, under the names that they have without adapters."""
    found = dict(model.named_buffers()) | model.state_dict()  # rotary frequencies are not in the latter
    for name, value in found.items():
        if ".lora_" not in name and ".modules_to_save." not in name and isinstance(value, torch.Tensor):
            yield name.replace(".base_layer", "").replace(".original_module", ""), value


def _digest(name: str, value: torch.Tensor) -> str:
    found = hashlib.sha256(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _text(encoder: Encoder) -> list[str]:
    """Tokenizer and template, in full."""
    tokenizer = encoder.tokenizer
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return [rules, encoder.template]


def row(prompt: Sequence[int], response: Sequence[int]) -> bytes:
    """(32 bytes) a name for a response to a prompt: their token ids, and where one ends."""
    return hashlib.sha256(array("q", [len(prompt), *prompt, *response]).tobytes()).digest()


class ReferenceCache:
    """The log-probs that one reference has given, in a file of their own.

    Several processes may use a file at once. What cannot be read as a whole file, or has a number that is not the one
    written, is thrown away and computed again.

    Args:
        folder: where the files are; None: in memory, for this run alone.
        key: the reference's `fingerprint`.

    Attributes:
        found, computed: how often a response was asked for and stood here, or had to be computed.
        damaged: whether a file was thrown away.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        self.path = folder / f"{key}.sqlite3" if folder else None
        self.found = self.computed = 0
        self.damaged = False
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            self._file = self._opened()
        except (OSError, sqlite3.OperationalError) as error:
            raise InputError(f"reference cache {folder}: expected a folder to write to, got: {error}") from error

    def __call__(self, examples: Sequence[Example], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """(B,) float64 log π_ref of the responses of some examples, on the CPU.

        Where one of them is not known, all are computed, by `compute`: so a micro-batch is cut the same way whatever
        is known of it.
        """
        rows = [row(e.prompt, r) for e in examples for r in e.responses]
        known = self._read(rows)
        if any(name not in known for name in rows):
            self.computed += len(rows)
            made = dict(zip(rows, compute().tolist(), strict=True))
            self._write(made)
            known = made | self._read(rows)  # another process, or another cut, may have been first
        else:
            self.found += len(rows)
        return torch.tensor([known[name] for name in rows], dtype=torch.float64)

    def note(self, counts: Iterable[tuple[int, int]] = ()) -> str:
        """What became of the responses asked for so far, in a sentence.

        Args:
            counts: `found` and `computed` of each process, where there are several.
        """
        found, computed = map(sum, zip(*(list(counts) or [(self.found, self.computed)]), strict=True))
        damage = "; a damaged file was thrown away" if self.damaged else ""
        place = f" ({self.path.name[:16]}…)" if self.path else ""
        return f"reference log-probs: {computed} computed, {found} read from the cache{place}{damage}"

    def _read(self, rows: Sequence[bytes]) -> Values:
        out: Values = {}
        with self._whole():
            for name in dict.fromkeys(rows):
                for logp, check in self._file.execute("SELECT logp, crc FROM logps WHERE row = ?", (name,)):
                    if check != _check(name, logp):
                        raise sqlite3.DatabaseError("a number is not the one that was written")
                    out[name] = logp
            return out
        return {}

    def _write(self, values: Values) -> None:
        lines = [(name, logp, _check(name, logp)) for name, logp in values.items() if math.isfinite(logp)]
        with self._whole(), self._file:  # one transaction: all or none
            self._file.executemany("INSERT OR IGNORE INTO logps VALUES (?, ?, ?)", lines)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Use of the file; a damaged one is replaced by an empty one."""
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, full, gone: it may be right
            raise OSError(f"reference cache {self.path}: {error}") from error
        except (sqlite3.DatabaseError, TypeError, struct.error):
            self._file.close()
            self._discard()
            self._file = self._opened()

    def _opened(self) -> sqlite3.Connection:
        try:
            return _connected(self.path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # no such file as this writes
            self._discard()
            return _connected(self.path)

    def _discard(self) -> None:
        self.damaged = True
        if self.path:
            for name in (self.path, self.path.with_name(f"{self.path.name}-journal")):
                name.unlink(missing_ok=True)


def _connected(path: Path | None) -> sqlite3.Connection:
    file = sqlite3.connect(path or ":memory:", timeout=WAIT)
    try:
        with file:
            file.execute(
                "CREATE TABLE IF NOT EXISTS logps (row BLOB PRIMARY KEY, logp REAL, crc INTEGER) WITHOUT ROWID"
            )
        found = file.execute("SELECT * FROM pragma_quick_check").fetchall() if path else [("ok",)]
        if found != [("ok",)]:
            raise sqlite3.DatabaseError(str(found[0]))
    except BaseException:
        file.close()
        raise
    return file


def _check(name: bytes, logp: float) -> int:
    return zlib.crc32(name + struct.pack("<d", logp))
