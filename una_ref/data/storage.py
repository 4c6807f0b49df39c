"""Two lists that hold none of their items: one on disk, and one whose items are made from others when asked for.

Rows and examples go through them whatever their number, so memory grows by the place of an item and not by its text.
`benchmarks/offline_growth.py` measures what a run holds against the number of rows.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeVar, overload

import numpy as np

S = TypeVar("S")
T = TypeVar("T")


class _Listed(Sequence[T]):
    """What both lists do as a list does."""

    def __iter__(self) -> Iterator[T]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))


class DiskList(_Listed[T]):
    """Items in an unnamed file in the folder for temporary files (TMPDIR); it is gone when the process ends.

    Each access returns a new item, equal to what was put in. Memory: 12 bytes an item.

    Args:
        items: anything that pickles; no other process can open the file.

    Raises:
        OSError: names the folder, where that is full.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._file = tempfile.TemporaryFile(prefix="una_ref-")  # noqa: SIM115, closed when nothing refers to the list
        self._starts, self._sizes = array("q"), array("I")
        self.extend(items)

    def extend(self, items: Iterable[T]) -> None:
        """Append items."""
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

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return pickle.loads(os.pread(self._file.fileno(), self._sizes[index], self._starts[index]))


class GroupedList(_Listed[T]):
    """What `make` returns for each group of items, made anew at each access.

    Memory: 4 bytes an item and 8 a group. A slice is a `GroupedList` of the same items.

    Args:
        items: what the groups are of; it must not change.
        make: from the items of a group; by default the first of them.
        order: (n,) places of items, those of a group side by side; by default as they stand.
        starts: (G,) where each group begins in `order`, ascending; by default every item is a group.
    """

    def __init__(
        self,
        items: Sequence[S],
        make: Callable[[list[S]], T] = itemgetter(0),
        order: np.ndarray | None = None,
        starts: np.ndarray | None = None,
    ) -> None:
        self._items: Sequence[Any] = items
        self._make: Callable[[list[Any]], T] = make
        small = np.min_scalar_type(len(items))
        self._order = np.arange(len(items), dtype=small) if order is None else order.astype(small)
        self._starts = np.arange(len(items), dtype=small) if starts is None else starts.astype(small)
        self._ends = np.append(self._starts[1:], small.type(len(self._order)))

    def map(self, make: Callable[[list[Any]], S]) -> GroupedList[S]:
        """The same groups, with something else made from them."""
        return self._of(slice(None), make)

    def picked(self, keep: Iterable[Any]) -> GroupedList[T]:
        """The groups for which `keep`, of the same length, is true."""
        return self._of(np.fromiter(map(bool, keep), bool, len(self)), self._make)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> GroupedList[T]: ...
    def __getitem__(self, index: int | slice) -> T | GroupedList[T]:
        if isinstance(index, slice):
            return self._of(index, self._make)
        places = self._order[self._starts[index] : self._ends[index]]
        return self._make([self._items[i] for i in places.tolist()])

    def _of(self, which: slice | np.ndarray, make: Callable[[list[Any]], Any]) -> GroupedList[Any]:
        part: GroupedList[Any] = GroupedList.__new__(GroupedList)
        part._items, part._make, part._order = self._items, make, self._order
        part._starts, part._ends = self._starts[which], self._ends[which]
        return part
