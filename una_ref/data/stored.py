"""A list on disk, so that data of any length are trained on in little memory.

Rows and examples go through it whatever their number: what is held is where each one stands, 12 bytes. Measured as a
process's peak, thumbs of some 150 bytes: reading 10⁴ or 10⁶ of them takes 221 MB, and `train` (a tiny model at hand,
two steps) 469 MB on 10⁴, 494 MB on 10⁵ and 616 MB on 10⁶, 150 bytes a row, most of them a hash of its prompt; a `Row`
and an `Example` of that length in lists take 3,200.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import Any, TypeVar, overload

T = TypeVar("T")


class Stored(Sequence[T]):
    """Items in a file without a name, in the folder for temporary files (TMPDIR): gone with the process.

    Whoever asks for an item gets a new one, equal to what was put in. A slice is a `Stored` of the same file.

    Args:
        items: anything that pickles; only this object can open the file again.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._file = tempfile.TemporaryFile(prefix="una_ref-")  # noqa: SIM115, closed when the last slice is gone
        self._starts, self._sizes = array("q"), array("I")
        self.extend(items)

    def extend(self, items: Iterable[T]) -> None:
        """Put items behind the others.

        Raises:
            OSError: names the folder, where that is full.
        """
        end = self._file.seek(0, os.SEEK_END)
        for item in items:
            line = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            self._written(self._file.write, line)
            self._starts.append(end)
            self._sizes.append(len(line))
            end += len(line)
        self._written(self._file.flush)

    @staticmethod
    def _written(write: Callable[..., object], *line: bytes) -> None:
        try:
            write(*line)
        except OSError as error:
            where = f"{tempfile.gettempdir()} (TMPDIR names another)"
            raise OSError(f"{where}: expected room for rows on disk, got: {error.strerror}") from error

    def picked(self, keep: Iterable[Any]) -> Stored[T]:
        """Those for which `keep`, as long as this, says so."""
        flags = bytes(map(bool, keep))
        return self._of(array("q", compress(self._starts, flags)), array("I", compress(self._sizes, flags)))

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[T]:
        return map(self.__getitem__, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Stored[T]: ...
    def __getitem__(self, index: int | slice) -> T | Stored[T]:
        if isinstance(index, slice):
            return self._of(self._starts[index], self._sizes[index])
        return pickle.loads(os.pread(self._file.fileno(), self._sizes[index], self._starts[index]))

    def __eq__(self, other: object) -> bool:
        """As lists are."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def _of(self, starts: array, sizes: array) -> Stored[T]:
        part: Stored[T] = Stored.__new__(Stored)
        part._file, part._starts, part._sizes = self._file, starts, sizes
        return part
