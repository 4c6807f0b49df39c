"""What a row of feedback is, and what is done to a set of rows: gathered by prompt, shuffled, split.

A row is a prompt, its responses and what is known about them. There are four kinds of feedback: "scores"
(a number per response; a ranked list is several scored responses), "labels" (thumbs), "pairs" (indices of a
chosen and a rejected response) and "demos" (none of these: every response is imitated). A prompt alone is a row
as well, for runs that draw the responses. A row is checked when it is made.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby
from typing import Any

import numpy as np

from una_ref.data.stored import Stored
from una_ref.errors import InputError

KINDS = ("scores", "labels", "pairs", "demos")


def refusal(source: str, field: str, expected: str, got: str) -> InputError:
    """The error for one bad value: where it stands, which field, what was expected, what came."""
    return InputError(f"{source or 'row'}: {field}: expected {expected}, got {got}")


def shown(value: object) -> str:
    """A value for a message: cut to 40 characters, with its type."""
    return f"{value!r:.40} ({type(value).__name__})"


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt, K responses (none: a prompt alone) and the feedback about them; `InputError` names what is malformed.

    A response may be empty: to say nothing (end of sequence at once) is something that models do and judges
    score. Files are stricter by default, see `una_ref.data.sources.read`.
    """

    prompt: str | tuple[dict, ...]  # plain text, or messages {"role": ..., "content": ...}
    responses: tuple[str, ...]
    scores: tuple[float, ...] | None = None  # one per response, finite
    labels: tuple[float, ...] | None = None  # one per response, in [0, 1]; thumb up = 1
    pairs: tuple[tuple[int, int], ...] | None = None  # (chosen, rejected) indices into responses
    source: str = ""  # "file:line" or "dataset[i]", for messages

    def __post_init__(self) -> None:
        def put(field: str, value: object) -> None:
            object.__setattr__(self, field, value)

        put("prompt", _checked_prompt(self.prompt, self.source))
        put("responses", self._sequence("responses", at_least=1 if self._feedback() else 0))
        for i, response in enumerate(self.responses):
            checked_text(response, self.source, f"responses[{i}]")
        if self.scores is not None:
            put("scores", self._numbers("scores", checked_score))
        if self.labels is not None:
            put("labels", self._numbers("labels", checked_label))
        if self.pairs is not None:
            put("pairs", tuple(self._pair(pair) for pair in self._sequence("pairs")))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of feedback that the row carries; ("demos",) if it carries no other, () for a prompt alone."""
        return self._feedback() or (("demos",) if self.responses else ())

    def only(self, kind: str) -> Row:
        """The same row with one kind of feedback, the others left out."""
        others = [other for other in self.kinds if other not in (kind, "demos")]
        left_out: dict[str, Any] = dict.fromkeys(others)
        return replace(self, **left_out) if others else self

    def _feedback(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS[:3] if getattr(self, kind) is not None)

    def _sequence(self, field: str, at_least: int = 1) -> tuple:
        values = getattr(self, field)
        if not isinstance(values, tuple | list):
            raise refusal(self.source, field, "a list", shown(values))
        if len(values) < at_least:
            raise refusal(self.source, field, "at least one", "none")
        return tuple(values)

    def _numbers(self, field: str, checked: Callable[[object, str, str], float]) -> tuple[float, ...]:
        values = self._sequence(field)
        if len(values) != len(self.responses):
            raise refusal(self.source, field, f"{len(self.responses)}, one per response", str(len(values)))
        return tuple(checked(value, self.source, f"{field}[{i}]") for i, value in enumerate(values))

    def _pair(self, pair: object) -> tuple[int, int]:
        count = len(self.responses)
        indices = tuple(pair) if isinstance(pair, tuple | list) else ()
        whole = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < count for i in indices)
        if not whole or len(indices) != 2 or indices[0] == indices[1]:
            expected = f"(chosen, rejected), two different indices below {count}"
            raise refusal(self.source, "pairs", expected, shown(pair))
        return indices[0], indices[1]


def checked_score(value: Any, source: str, field: str) -> float:
    """The value as a float, if it is a finite number (NaN compares false, a boolean is a label)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise refusal(source, field, "a finite number", shown(value))
    return float(value)


def checked_label(value: Any, source: str, field: str) -> float:
    """The value as a float, if it is a boolean or a number in [0, 1]."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise refusal(source, field, "a boolean or a number in [0, 1]", shown(value))
    return float(value)


def checked_text(value: object, source: str, field: str) -> str:
    """The value itself, if it is text that UTF-8 can write (a lone surrogate, "\\ud800" in JSON, is not)."""
    if not isinstance(value, str):
        raise refusal(source, field, "text", shown(value))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise refusal(source, field, "valid Unicode text", f"{error.object[error.start]!a}") from None
    return value


def _checked_prompt(prompt: object, source: str) -> str | tuple[dict, ...]:
    if isinstance(prompt, str):
        contents = [checked_text(prompt, source, "prompt")]
    elif isinstance(prompt, tuple | list):
        contents = [message["content"] for message in checked_messages(prompt, source, "prompt")]
        prompt = tuple(dict(message) for message in prompt)
    else:
        raise refusal(source, "prompt", "text or messages", shown(prompt))
    if not any(content.strip() for content in contents):
        raise refusal(source, "prompt", "text or messages", f"an empty prompt {shown(prompt)}")
    return prompt


def checked_messages(messages: Sequence, source: str, field: str) -> Sequence[Mapping]:
    """The messages themselves, if each is {"role": text, "content": text}."""
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise refusal(source, f"{field}[{i}]", "a message with role and content", shown(message))
        for key in ("role", "content"):
            checked_text(message.get(key), source, f"{field}[{i}].{key}")
    return messages


def prompt_key(prompt: str | tuple[dict, ...]) -> str:
    """Equal for equal prompts, and hashable; text and messages never share a key."""
    return "text " + prompt if isinstance(prompt, str) else "messages " + json.dumps(prompt, sort_keys=True)


def merged(rows: Sequence[Row]) -> Row:
    """One row of several that share prompt and kinds: the responses in order, the pairs moved along."""
    if len(rows) == 1:
        return rows[0]
    first = rows[0]
    fields: dict[str, Any] = {
        field: tuple(chain.from_iterable(getattr(row, field) for row in rows))
        for field in ("responses", *(kind for kind in first.kinds if kind in ("scores", "labels")))
    }
    if first.pairs is not None:
        starts = accumulate((len(row.responses) for row in rows[:-1]), initial=0)
        fields["pairs"] = tuple(
            (chosen + start, rejected + start)
            for row, start in zip(rows, starts, strict=True)
            for chosen, rejected in row.pairs or ()
        )
    return Row(first.prompt, source=f"{first.source} (+{len(rows) - 1} rows)", **fields)


def gathered(rows: Sequence[Row], key: Callable[[Row], object]) -> Iterator[list[Row]]:
    """Rows with one key together, in the order of their first ones; a row without a key (None) stands alone.

    Held are 8 bytes a row, and five times that while they are sorted: hashes bring rows together, the keys decide.
    """

    def hashed(index: int, row: Row) -> int:
        name = key(row)
        return index if name is None else _hash(repr(name)) | 1 << 63

    names = np.fromiter((hashed(i, row) for i, row in enumerate(rows)), np.uint64, len(rows))
    _, first, own = np.unique(names, return_index=True, return_inverse=True)
    first = first[own]
    for _, group in groupby(np.argsort(first, kind="stable"), key=first.__getitem__):
        members = [rows[int(i)] for i in group]
        if len(members) == 1:
            yield members
            continue
        exact: dict[object, list[Row]] = {}
        for row in members:
            exact.setdefault(key(row), []).append(row)
        yield from exact.values()


def _hash(text: str) -> int:
    """64 bits of SHA-256, in the order of the whole."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def group_by_prompt(rows: Iterable[Row]) -> Stored[Row]:
    """Rows of one response gathered: one row per prompt and kinds of feedback, where its first row stood.

    A row of several responses was put together by whoever compared them, and stays as it is.
    """

    def key(row: Row) -> object:
        return (prompt_key(row.prompt), row.kinds) if len(row.responses) == 1 else None

    return Stored(map(merged, gathered(listed(rows), key)))


def listed(rows: Iterable[Row]) -> Sequence[Row]:
    """The rows, to be gone through more than once."""
    return rows if isinstance(rows, Sequence) else Stored(rows)


def shuffled_scores(rows: Iterable[Row], seed: int) -> Stored[Row]:
    """The control, feedback that says nothing: scores and labels are permuted over all responses of the data,
    and a pair swaps its sides at a fair coin. The scores and labels of all rows are held, 8 bytes each."""
    rows = listed(rows)
    if all(set(row.kinds) <= {"demos"} for row in rows):
        raise refusal("data", "feedback", "scores, labels or pairs to shuffle", "none")
    draw = random.Random(seed)
    pools = {kind: array("d", (v for row in rows for v in getattr(row, kind) or ())) for kind in ("scores", "labels")}
    for pool in pools.values():
        draw.shuffle(pool)
    dealt = {kind: iter(pool) for kind, pool in pools.items()}

    def new(row: Row) -> Row:
        feedback: dict[str, Any] = {}
        for kind in row.kinds:
            if kind in dealt:
                feedback[kind] = tuple(next(dealt[kind]) for _ in row.responses)
        if row.pairs is not None:
            feedback["pairs"] = tuple((c, r) if draw.random() < 0.5 else (r, c) for c, r in row.pairs)
        return replace(row, **feedback)

    return Stored(map(new, rows))


def split(rows: Iterable[Row], fraction: float, seed: int) -> tuple[Stored[Row], Stored[Row]]:
    """(training rows, held-out rows): `fraction` of the prompts held out, no prompt on both sides.

    Which prompts these are depends on the seed and the prompts, not on the order of the rows. 8 bytes a row are held.
    """
    rows = rows if isinstance(rows, Stored) else Stored(rows)
    names = _prompts(rows, seed)
    prompts = np.unique(names)
    count = round(fraction * len(prompts))
    if not 0 < count < len(prompts):
        expected = "a fraction that leaves a prompt on either side"
        raise refusal("options", "fraction", expected, f"{fraction} of {len(prompts)} prompts")
    held = names < prompts[count]
    return rows.picked(~held), rows.picked(held)


def count_prompts(rows: Sequence[Row]) -> int:
    """How many different prompts there are."""
    return len(np.unique(_prompts(rows, 0)))


def _prompts(rows: Sequence[Row], seed: int) -> np.ndarray:
    """(rows,) a hash of each row's prompt."""
    return np.fromiter((_hash(f"{seed}\n{prompt_key(row.prompt)}") for row in rows), np.uint64, len(rows))
