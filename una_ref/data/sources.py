"""Rows from any data: `read`.

A layout (`conventions.CONVENTIONS`) says what the columns mean. It is found from the first row and then holds for all
rows. Rows are streamed. An error names the place, the column, what was expected and what was there. What was left out,
and which columns were used, is reported at the end.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import chain, islice

from una_ref.data.conventions import COLUMNS, CONVENTIONS, EMPTY, PROMPTS, Convention
from una_ref.data.items import Item, items
from una_ref.data.records import Options, Record
from una_ref.data.rows import Row, refusal, shown
from una_ref.errors import InputError, near

FEEDBACK = ("label", "score")
"""Columns of feedback, which a row without feedback may not have under a similar name."""
JUDGMENTS = {"kto_tag": "label", "is_safe": "label", "reward": "score", "rating": "score"}
"""Names in public data sets of a judgment on the response of a row -> the column that would hold it."""
_log = logging.getLogger(__name__)


def read(
    data: object,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str = "train",
    subset: str = "",
    revision: str = "",
    helpsteer_weights: str = "code",
    empty: str = "drop",
    bad_rows: str = "error",
    turns: str = "all",
    prompts: bool = False,
    others: bool = False,
    note: Callable[[str], None] | None = None,
) -> Iterator[Row]:
    """Stream rows of feedback.

    Args:
        data: a file (.jsonl, .json, .csv or .tsv, also .gz; .parquet), "-" (JSON Lines on standard input), a folder or
            hub name that `datasets` loads, a `Dataset` or `DatasetDict`, any iterable of dictionaries, or a list of
            files, folders and names.
        columns: a layout's column -> the name of that column in the data: {"completion": "output"}. An empty name
            leaves the column out.
        limit: most rows.
        split: of a data set; files have none.
        subset: of a data set on the hub (its configuration).
        revision: of a data set on the hub: a branch, tag or commit.
        helpsteer_weights: "code" divides HelpSteer2's weighted ratings by 7.6, as the authors' code does, for scores
            in [0, 1]; "paper" weights rating / 4, which gives scores in [0, 1.9] (UNA Sec. 4.1 says [0, 1]).
        empty: what happens to a row with a response without text: it is left out and counted ("drop"), an "error", or
            it stays ("keep"), since a model may end at once and a judge may score that.
        bad_rows: what happens to a row that cannot be read: an "error", or it is left out and counted ("drop").
        turns: which turns of a response of several messages are the response: "all", or the "last", and the others are
            then part of the prompt.
        prompts: whether rows of a prompt alone are accepted (`PROMPTS`), for runs that sample the responses.
        others: whether rows carry the columns that no layout reads, for reward functions (`Row.columns`).
        note: called with each sentence about columns and rows left out, after the last row. None: they are logged.

    Raises:
        InputError: at the call for options and missing files, later when the row is reached.
    """
    for field, value, allowed in (
        ("helpsteer_weights", helpsteer_weights, ("code", "paper")),
        ("empty", empty, ("error", "drop", "keep")),
        ("bad_rows", bad_rows, ("error", "drop")),
        ("turns", turns, ("all", "last")),
    ):
        if value not in allowed:
            raise refusal("options", field, " or ".join(allowed), shown(value))
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise refusal("options", "limit", "a whole number of at least 1", shown(limit))
    for column in columns or {}:
        if column not in COLUMNS:
            raise refusal("options", "columns", "one of " + ", ".join(COLUMNS), shown(column) + near(column, COLUMNS))
    options = Options(dict(columns or {}), helpsteer_weights, empty, bad_rows, turns, prompts, others)
    reader = _Reader(options, CONVENTIONS + PROMPTS if prompts else CONVENTIONS)
    found = items(data, split, subset=subset, revision=revision)
    return reader.rows(found, limit, note)


HEAD = 64
"""Number of rows, from the first one, most of which decide whether an optional column has values."""


def _peeked(found: Iterator[Item]) -> tuple[list[Item], Iterator[Item]]:
    """The first items, and all of them as they were; an error is raised where it stands."""
    head: list[Item] = []
    try:
        head.extend(islice(found, HEAD))
    except InputError as error:
        return head, chain(head, _raised(error))
    return head, chain(head, found)


def _raised(error: InputError) -> Iterator[Item]:
    raise error
    yield


class _Reader:
    """Reads the items of one file or data set, and counts what it leaves out."""

    def __init__(self, options: Options, conventions: tuple[Convention, ...]) -> None:
        self.options, self.conventions = options, conventions
        self.convention: Convention | None = None
        self.head: list[Item] = []
        self.held: dict[str, dict[str, tuple[bool, str]]] = {}
        self.columns, self.used = dict[str, None](), set[str]()
        self.dropped: Counter[str] = Counter()
        self.first_error: InputError | None = None

    def rows(self, found: Iterator[Item], limit: int | None, note: Callable[[str], None] | None) -> Iterator[Row]:
        self.head, found = _peeked(found)
        made = self._made(found)
        first = next(made, None)
        if first is None or self.convention is None:
            raise self.first_error or refusal("data", "rows", "at least one row", "none")
        count = 0
        for row in islice(filter(self._kept, self.convention.finish(chain((first,), made), self._refuse)), limit):
            count += 1
            yield row
        if not count:
            reasons = {_BAD: f" (the first: {self.first_error})"}
            left_out = ", ".join(f"{number} {what}{reasons.get(what, '')}" for what, number in self.dropped.items())
            raise refusal(first.source, "rows", "at least one row", f"none, after leaving out {left_out}")
        used = [column for column in self.columns if column in self.used]
        unused = [column for column in self.columns if column not in self.used]
        columns = f"columns used: {', '.join(used)}; not used: {', '.join(unused) or 'none'}"
        given = [column for column in unused if "[]." not in column] if self.options.others else []
        if given:
            left = ", ".join(column for column in unused if column not in given)
            columns = f"columns used: {', '.join(used)}; given to the reward function: {', '.join(given)}"
            columns += f"; not used: {left}" if left else ""
        (note or _log.info)(f"data ({self.convention.name}): {columns}")
        for what, number in self.dropped.items():
            reason = f" (the first: {self.first_error})" if what == _BAD else ""
            (note or _log.warning)(f"data: left out {number} {what}{reason}")

    def _made(self, found: Iterator[Item]) -> Iterator[Row]:
        for source, item in found:
            try:
                row = self._row(source, item)
            except InputError as error:
                self._refuse(error)
                continue
            yield row

    def _refuse(self, error: InputError) -> None:
        if self.options.bad_rows == "error":
            raise error
        self.dropped[_BAD] += 1
        self.first_error = self.first_error or error

    def _kept(self, row: Row) -> bool:
        empty = self.options.empty == "drop" and row.has_empty_response
        if empty:
            self.dropped[_EMPTY] += 1
        return not empty

    def _row(self, source: str, item: object) -> Row:
        if isinstance(item, InputError):  # a line that could not be parsed
            raise item
        if not isinstance(item, Mapping):
            raise refusal(source, "row", "an object with columns", shown(item))
        record = Record(source, item, self.options)
        convention = self.convention or self._found(record)
        self._alike(record, convention)
        row = convention.make(record)
        if self.convention is None:
            self._check_feedback(record, row, convention)
            self.convention = convention
        self.columns.update(dict.fromkeys(record.columns()))
        self.used |= record.read
        return replace(row, columns=record.others()) if self.options.others else row

    def _found(self, record: Record) -> Convention:
        """The first layout whose columns a record has."""
        for column, name in self.options.names.items():
            if name and name not in record.values and record.value(name) is None:
                expected = f"a column {name}, since columns.{column}={name}"
                raise refusal(record.source, "columns", expected, _listed(record.columns()) + near(name, record.values))
        for convention in self.conventions:
            if all(map(record.has, convention.required)):
                self._check_names(record, convention)
                return convention
        raise self._unknown(record)

    def _check_names(self, record: Record, convention: Convention) -> None:
        """Refuse a column of the data that stands for two columns of the layout, since the user named it for one."""
        used = {column: record.name(column) for column in convention.columns if record.has(column)}
        for column, name in self.options.names.items():
            other = next((other for other in used if used[other] == name and other != column), None)
            if other and used.get(column) == name:
                expected = f"different columns for {column} and {other} of {convention.name}"
                fix = f"columns.{column}=NAME, or columns.{other}="
                raise refusal(record.source, "columns", expected, f"{name} for both", fix)

    def _unknown(self, record: Record) -> InputError:
        """The error for a record of no layout: the nearest one, and what to write."""
        found = record.columns()
        expected = "the columns of a layout in docs/data.md"
        for convention in self.conventions:
            null = [record.name(column) for column in convention.required if not record.has(column)]
            if {*map(record.name, convention.required)} <= record.values.keys():
                value = f"a value in {' and '.join(null)}, as {convention.name} has"
                return refusal(record.source, "columns", value, "null", "correct the row, or bad_rows=drop")

        def likeness(convention: Convention) -> float:
            names = [record.name(column) for column in convention.required]
            best = [max((_ratio(name, column) for column in found), default=0) for name in names]
            return sum(best) / len(best)

        def may_be_meant(convention: Convention) -> bool:
            absent = [column for column in convention.required if not record.has(column)]
            return convention.suggested and (len(absent) < 2 or len(convention.required) < 3)

        nearest = max(filter(may_be_meant, self.conventions), key=likeness)
        missing = [record.name(column) for column in nearest.required if not record.has(column)]
        absent = missing[0] if missing else "prompt"
        like = near(absent, [column for column in found if column not in nearest.columns])
        if (sides := _sides(found)) and not {*sides} <= {*nearest.columns}:
            fix = (
                f"write the better of {' and '.join(sides)} as chosen and the other as rejected; if one column always "
            )
            fix += "has the better one, columns.chosen=NAME columns.rejected=NAME"
            return refusal(record.source, "columns", expected, _listed(found), fix)
        fix = f"for {nearest.name}, the nearest, add {', '.join(missing)}, or name it: columns.{absent}=NAME"
        lists = [name for name, v in record.values.items() if isinstance(v, list) and v and isinstance(v[0], Mapping)]
        if lists and len(found) == len(record.values) and nearest.required[0] not in found:
            fix += f"; if {lists[0]} has the rows, write that list alone"
        if any(all(map(record.has, convention.required)) for convention in PROMPTS):
            fix += "; prompts alone are for online runs"
        return refusal(record.source, "columns", expected, _listed(found) + like, fix)

    def _alike(self, record: Record, convention: Convention) -> None:
        """Refuse a record without the layout's columns, or with other optional columns than most of the first ones."""
        for column, (held, origin) in self._held(record, convention).items():
            present = record.has(column)
            if present != held:
                expected = f"{'a value' if held else 'no value'}, as in {origin} ({convention.name})"
                missing = "null" if record.name(column) in record.values else "no such column"
                got = shown(record.get(column)) if present else missing
                fix = "" if self.options.bad_rows == "drop" else "correct the row, or bad_rows=drop"
                raise record.refusal(column, f"{expected}", f"{got} in a row of {_listed(record.columns())}", fix)

    def _held(self, record: Record, convention: Convention) -> dict[str, tuple[bool, str]]:
        """Column of the layout -> whether it has values, and the first row that is like that."""
        if convention.name not in self.held:
            records = [Record(source, item, self.options) for source, item in self.head if isinstance(item, Mapping)]
            records = [each for each in records if all(map(each.has, convention.required))] or [record]
            held = self.held[convention.name] = {}
            for column in convention.columns:
                having = [each.has(column) for each in records]
                most = Counter(having).most_common(1)[0][0]  # of as many, the first row decides
                if column not in EMPTY:
                    held[column] = most, records[having.index(most)].source
        return self.held[convention.name]

    def _check_feedback(self, record: Record, row: Row, convention: Convention) -> None:
        """Refuse a row without feedback where a column looks as if it held some: the row would be imitated."""
        if row.kinds != ("demos",) or self.options.prompts:  # with prompts, responses are sampled
            return
        for name in (column for column in record.columns() if column not in record.read):
            kind = next((kind for kind in FEEDBACK if _is_slip(name, kind)), None)
            if kind is None and isinstance(record.value(name), bool | int | float | str):
                kind = JUDGMENTS.get(name.lower())
            if kind is None:
                continue
            column = kind if kind in convention.optional else f"{kind}s"
            taken = column in convention.columns or f"{kind}s" == column == "scores"
            if self.options.names.get(column) == "":
                continue
            like = f"; did you mean {column}?" if column != name and name.lower() not in JUDGMENTS else ""
            expected = f"{column} or no such column, since {convention.name} would be imitated without feedback"
            use = f"columns.{column}={name}" if taken else f"write a row for each response, with its {kind}"
            fix = f"{use}, or columns.{column}= to leave it out"
            raise refusal(record.source, "columns", expected, f"{name}{like}", fix)


_BAD, _EMPTY = "bad rows", "rows with an empty response"


_SIDE = re.compile(r"(response|output|answer|completion|summary)_?(?:[0-9]|[a-z])")


def _sides(columns: list[str]) -> list[str]:
    """Two columns that hold responses to compare, such as response_a and response_b; empty if there are none."""
    sides = [(match[1], name) for name in columns if (match := _SIDE.fullmatch(name))]
    names = [name for stem, name in sides if stem == sides[0][0]]
    return names if len(names) == 2 else []


def _listed(columns: list[str]) -> str:
    text = ", ".join(columns) or "none"
    return text if len(text) <= 120 else f"{text[:120]}…"


def _ratio(name: str, other: str) -> float:
    return SequenceMatcher(None, name, other).ratio()


def _is_slip(name: str, column: str) -> bool:
    """Whether a name is probably meant as a column: its plural, in capitals, or with two letters changed."""
    name = name.lower().rstrip("s")
    return name[:2] == column[:2] and _ratio(name, column) >= 0.8
