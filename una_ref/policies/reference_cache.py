"""Log-probabilities of the reference on disk, named by everything that they depend on.

A file belongs to one reference. Its name is a digest of weights, model config, tokenizer, template, arithmetic and
versions. A row in it is named by a digest of the token ids of prompt and response. What has changed therefore has
another name, and no entry ever has to be invalidated.

The batch layout is not part of a name: another layout changes a log-probability by less than `AT_START`. The first
value written stays, so that a resumed run reads the numbers that it began with.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
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

FORMAT = 2
"""Of the file and of the computation from ids to log-probabilities; raise it when either changes."""
WAIT = 60.0
"""Seconds to wait for another process that writes to the same file."""

Values = dict[bytes, bytes]
"""The name of a row -> its log-probabilities as float64 bytes."""


def fingerprint(model: Any, encoder: Encoder | None = None, *, arithmetic: str = "") -> str:
    """A name for a reference: equal only if all its log-probabilities are equal.

    Reads each weight once, in as many threads as there are cores. One slow core read 0.2 GB/s: a 7B model in bfloat16
    takes about a minute there.

    Args:
        model: the reference, or the policy that is the reference without its adapters; adapters are left out.
        encoder: holds tokenizer and template; None where there is no text.
        arithmetic: the dtype of autocast, where it differs from the weights' own; else empty.
    """
    import transformers

    from una_ref import __version__

    base = unwrapped(model)
    config = base.config.to_dict() if hasattr(base, "config") else {}
    about = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__, transformers.__version__],
        "class": type(base).__name__,
        "config": {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")},
        "suppressed": suppressed_tokens(model),
        "arithmetic": arithmetic,
        "text": _text(encoder) if encoder else "",
    }
    weights = sorted((name, value) for name, value in _base_tensors(base))
    with ThreadPoolExecutor() as pool:
        about["weights"] = list(pool.map(_digest, *zip(*weights, strict=True)))
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _base_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a model without those of its adapters, under the names that they have without adapters."""
    found = dict(model.named_buffers()) | model.state_dict()  # the state has no rotary frequencies
    for name, value in found.items():
        if ".lora_" not in name and ".modules_to_save." not in name and isinstance(value, torch.Tensor):
            yield name.replace(".base_layer", "").replace(".original_module", ""), value


def _digest(name: str, value: torch.Tensor) -> str:
    digest = hashlib.sha256(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text(encoder: Encoder) -> list[str]:
    """Tokenizer and template, in full."""
    tokenizer = encoder.tokenizer
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return [rules, encoder.template]


def row(
    prompt: Sequence[int], response: Sequence[int], trained: Sequence[bool] = (), *, per_token: bool = False
) -> bytes:
    """(32 bytes) the name of a response to a prompt: a digest of their token ids, and of which are scored."""
    mask = (-1, *trained) if trained else ()
    return hashlib.sha256(array("q", [per_token, len(prompt), *prompt, *response, *mask]).tobytes()).digest()


class ReferenceCache:
    """The log-probabilities of one reference, in a file of their own.

    Several processes may use a file at once. A file that is damaged is deleted, and its rows are computed again.

    Args:
        folder: where the files are; None: in memory, for this run alone.
        key: the reference's `fingerprint`.

    Attributes:
        found, computed: number of responses that were read, and that had to be computed.
        damaged: whether a damaged file was deleted.

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

    def __call__(
        self, examples: Sequence[Example], compute: Callable[[], torch.Tensor], *, per_token: bool = False
    ) -> torch.Tensor:
        """Float64 log π_ref of the responses of some examples, on the CPU: (B,), or (N,) of each token.

        If one of them is not known, `compute` gives all of them: the micro-batch is then the same whatever is known.
        """
        rows = [
            row(e.prompt, response, mask, per_token=per_token)
            for e in examples
            for response, mask in zip(e.responses, e.trained or ((),) * len(e.responses), strict=True)
        ]
        known = self._read(rows)
        if any(name not in known for name in rows):
            self.computed += len(rows)
            sizes = [len(tokens) if per_token else 1 for e in examples for tokens in e.scored]
            values = compute().double().cpu().split(sizes)
            computed = {name: part.numpy().tobytes() for name, part in zip(rows, values, strict=True)}
            self._write(computed)
            known = computed | self._read(rows)  # another process may have been first
        else:
            self.found += len(rows)
        return torch.frombuffer(bytearray(b"".join(known[name] for name in rows)), dtype=torch.float64)

    def note(self, counts: Iterable[tuple[int, int]] = ()) -> str:
        """A sentence on how many responses were computed and read so far.

        Args:
            counts: `found` and `computed` of each process, where there are several.
        """
        found, computed = map(sum, zip(*(list(counts) or [(self.found, self.computed)]), strict=True))
        damage = "; a damaged file was deleted" if self.damaged else ""
        place = f" ({self.path.name[:16]}…)" if self.path else ""
        return f"reference log-probs: {computed} computed, {found} read from the cache{place}{damage}"

    def _read(self, rows: Sequence[bytes]) -> Values:
        out: Values = {}
        with self._whole():
            for name in dict.fromkeys(rows):
                for values, check in self._file.execute("SELECT logps, crc FROM logps WHERE row = ?", (name,)):
                    if check != zlib.crc32(name + values):
                        raise sqlite3.DatabaseError("the values are not those that were written")
                    out[name] = values
            return out
        return {}

    def _write(self, values: Values) -> None:
        finite = ((name, value) for name, value in values.items() if all(map(math.isfinite, array("d", value))))
        lines = [(name, value, zlib.crc32(name + value)) for name, value in finite]
        with self._whole(), self._file:  # one transaction: all or none
            self._file.executemany("INSERT OR IGNORE INTO logps VALUES (?, ?, ?)", lines)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Use of the file; a damaged file is replaced by an empty one."""
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, full or gone: its content may be right
            raise OSError(f"reference cache {self.path}: {error}") from error
        except (sqlite3.DatabaseError, TypeError):
            self._file.close()
            self._discard()
            self._file = self._opened()

    def _opened(self) -> sqlite3.Connection:
        try:
            return _connected(self.path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # not a file of this format
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
                "CREATE TABLE IF NOT EXISTS logps (row BLOB PRIMARY KEY, logps BLOB, crc INTEGER) WITHOUT ROWID"
            )
        found = file.execute("SELECT * FROM pragma_quick_check").fetchall() if path else [("ok",)]
        if found != [("ok",)]:
            raise sqlite3.DatabaseError(str(found[0]))
    except BaseException:
        file.close()
        raise
    return file
