"""Sets of rows: merge rows of one prompt, gather rows by prompt, shuffle their feedback, hold prompts out."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from typing import Any, TypeVar

import numpy as np

from una_ref.data.rows import PER_PAIR, Row, refusal
from una_ref.data.storage import DiskList, GroupedList

T = TypeVar("T")


def merged(rows: Sequence[Row]) -> Row:
    """One row from several of the same prompt and kinds of feedback: their responses in order, pairs renumbered."""
    if len(rows) == 1:
        return rows[0]
    first = rows[0]
    fields: dict[str, Any] = {
        field: tuple(chain.from_iterable(getattr(row, field) for row in rows))
        for field in ("responses", "scores", "labels")
        if getattr(first, field) is not None
    }
    if first.pairs is not None:
        starts = accumulate((len(row.responses) for row in rows[:-1]), initial=0)
        fields["pairs"] = tuple(
            (chosen + start, rejected + start)
            for row, start in zip(rows, starts, strict=True)
            for chosen, rejected in row.pairs or ()
        )
        for name in PER_PAIR:
            having = [row for row in rows if getattr(row, name) is not None]
            if having and len(having) < len(rows):
                raise refusal(first.source, name, f"{name} in all rows of the prompt, or in none", "some")
            if having:
                fields[name] = tuple(chain.from_iterable(getattr(row, name) for row in rows))
    if any(row.response_fields for row in rows):
        fields["response_fields"] = tuple(chain.from_iterable(row.fields_of_responses for row in rows))
    if any(row.earlier_turns for row in rows):
        fields["earlier_turns"] = tuple(chain.from_iterable(row.earlier for row in rows))
    source = f"{first.source} (+{len(rows) - 1} rows)"
    more: dict[str, Any] = {"as_list": first.as_list, "template_arguments": first.template_arguments}
    more["columns"] = first.columns
    return Row(first.prompt, source=source, **more, **fields)


def gathered(
    rows: Sequence[Row], keys: Sequence[Callable[[Row], object]], make: Callable[[list[Row]], T]
) -> GroupedList[T]:
    """What `make` returns for rows that share a key, in the order of the first row of each group.

    Each row is read once here and once whenever its group is asked for. Keys are compared by 63 bits of SHA-256: among
    a million, two different keys agree with probability 5e-8.

    Args:
        rows: read in any order, so not an iterator.
        keys: from a row to its key, or None for a row that stands alone. They are tried in turn: a later one gathers
            rows that are still alone.
        make: from the rows of a group, in their order.
    """
    n, first = len(rows), np.arange(len(rows))
    names = np.fromiter((_name(key(row), i) for i, row in enumerate(rows) for key in keys), np.uint64, n * len(keys))
    for column in names.reshape(n, len(keys)).T:
        alone = np.bincount(first, minlength=n)[first] == 1
        column = np.where(alone, column, first.astype(np.uint64))
        _, places, own = np.unique(column, return_index=True, return_inverse=True)
        first = places[own]
    order = np.argsort(first, kind="stable")
    return GroupedList(rows, make, order, np.flatnonzero(np.diff(first[order], prepend=-1)))


def _name(key: object, place: int) -> int:
    """64 bits that are equal for equal keys, and for None belong to this place alone."""
    return place if key is None else _hash(repr(key)) | 1 << 63


def _hash(text: str) -> int:
    """64 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def by_prompt(row: Row) -> object:
    """The key of rows that `group_by_prompt` gathers."""
    return (row.key, row.kinds, repr(row.columns)) if len(row.responses) == 1 else None


def group_by_prompt(rows: Iterable[Row]) -> GroupedList[Row]:
    """Rows of one response gathered: one row per prompt and kinds of feedback, in the place of its first row.

    A row of several responses was put together by whoever compared them, and stays as it is.
    """
    return gathered(listed(rows), [by_prompt], merged)


def listed(rows: Iterable[Row]) -> Sequence[Row]:
    """The rows as a sequence: themselves, or on disk if they can be read only once."""
    return rows if isinstance(rows, Sequence) else DiskList(rows)


def shuffled_scores(rows: Iterable[Row], seed: int) -> DiskList[Row]:
    """The shuffled control: the same rows with feedback that carries no information.

    Scores and labels are permuted over all responses of the data, and a pair swaps its sides with probability ½.
    Memory: 8 bytes for each score and label.

    Raises:
        InputError: the rows have demonstrations only, so there is nothing to shuffle.
    """
    rows = listed(rows)
    pools = {kind: array("d") for kind in ("scores", "labels")}
    kinds: set[str] = set()
    for row in rows:
        kinds.update(row.kinds)
        for kind, pool in pools.items():
            pool.extend(getattr(row, kind) or ())
    if kinds <= {"demos"}:
        raise refusal("data", "feedback", "scores, labels or pairs to shuffle", "none")
    draw = random.Random(seed)
    for pool in pools.values():
        draw.shuffle(pool)
    dealt = {kind: iter(pool) for kind, pool in pools.items()}

    def new(row: Row) -> Row:
        feedback: dict[str, Any] = {}
        for kind, values in dealt.items():
            if getattr(row, kind) is not None:
                feedback[kind] = tuple(next(values) for _ in row.responses)
        if row.pairs is not None:
            feedback["pairs"] = tuple((c, r) if draw.random() < 0.5 else (r, c) for c, r in row.pairs)
        return replace(row, **feedback)

    return DiskList(map(new, rows))


def split(rows: Iterable[Row], fraction: float, seed: int) -> tuple[GroupedList[Row], GroupedList[Row]]:
    """(training rows, held-out rows): `fraction` of the prompts held out, no prompt on both sides.

    Which prompts these are depends on the seed and the prompts, not on the order of the rows. Memory: 8 bytes a row.

    Raises:
        InputError: the fraction leaves one side without a prompt.
    """
    each = rows if isinstance(rows, GroupedList) else GroupedList(listed(rows))
    held = held_out([split_name(row, seed) for row in each], fraction)
    return each.picked(~held), each.picked(held)


def split_name(row: Row, seed: int) -> int:
    """64 bits that decide, by their order, on which side of a split a row's prompt is."""
    return _hash(f"{seed}\n{row.key}")


def held_out(names: Sequence[int], fraction: float) -> np.ndarray:
    """(rows,) bool: whether a row is held out, from the `split_name` of each row and the share of prompts to hold out.

    Raises:
        InputError: the fraction leaves one side without a prompt.
    """
    own = np.array(names, np.uint64)
    prompts = np.unique(own)
    count = round(fraction * len(prompts))
    if not 0 < count < len(prompts):
        expected = "a fraction that leaves a prompt on either side"
        raise refusal("options", "fraction", expected, f"{fraction} of {len(prompts)} prompts")
    return own < prompts[count]
