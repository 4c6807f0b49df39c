"""How one kind of feedback becomes another, and which conversions a method needs.

A conversion is a plain function, rows -> (rows, `Report`), made of a private function of one row. `conform` uses the
same private functions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, combinations, pairwise
from numbers import Real
from statistics import median
from typing import Any, cast

from una_ref.data.row_sets import by_prompt, gathered, group_by_prompt, listed, merged
from una_ref.data.rows import Row, refusal, shown
from una_ref.data.storage import GroupedList
from una_ref.methods.method import KINDS

PAIRINGS = ("best-worst", "adjacent", "all")
TIES = ("drop", "keep-first")
COLUMNS = {
    "pairs": "prompt chosen rejected",
    "labels": "prompt completion label",
    "scores": "prompt completion score",
    "lists": "prompt completions scores",
    "demos": "prompt completion",
}
"""Kind of feedback -> the columns of a file that holds it, for messages."""


@dataclass(frozen=True)
class Report:
    """What a conversion did, with named counts; `str` gives the sentence for the log."""

    what: str
    counts: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.what}: " + ", ".join(f"{number} {name}" for name, number in self.counts.items())


@dataclass(frozen=True)
class _Step:
    """A conversion of one row.

    Attributes:
        what: its sentence in the report.
        gathered: whether `conform` gathers rows by prompt first.
        convert: returns the new row, or None if nothing is left of it, and adds to the counts.
    """

    what: str
    gathered: bool
    convert: Callable[[Row, Counter], Row | None]


def scores_to_pairs(rows: Iterable[Row], *, which: str = "best-worst", ties: str = "drop") -> tuple[list[Row], Report]:
    """Pairs in which the response with the higher score is chosen. Responses in no pair are left out.

    Args:
        rows: with scores of two or more responses, see `group_by_prompt`.
        which: "best-worst", "adjacent" (neighbours in the ranking) or "all".
        ties: "drop" drops pairs of equal scores, and rows without another pair; "keep-first" chooses the response that
            stands first.
    """
    return _run(rows, _steps(which=which, ties=ties)["scores", "pairs"])


def scores_to_labels(
    rows: Iterable[Row], *, threshold: float | str = "median", ties: str = "drop"
) -> tuple[list[Row], Report]:
    """Binary labels: 1 at or above a number, or above the median of the row's scores.

    A score at the median is 0, because scores pile up at the lowest value more often than at the highest. Where the
    median is the highest score, nothing is above it, and the responses with that score are 1: (1, 2, 2, 2) becomes
    (0, 1, 1, 1). A row of equal scores is dropped, or its first response is 1 (`ties="keep-first"`).
    """
    return _run(rows, _steps(threshold=threshold, ties=ties)["scores", "labels"])


def scores_to_lists(rows: Iterable[Row]) -> tuple[list[Row], Report]:
    """Ranked lists: one row per prompt with its scores, the best response first. Equal scores keep their order."""
    return _run(group_by_prompt(rows), _steps()["scores", "lists"])


def pairs_to_labels(rows: Iterable[Row]) -> tuple[list[Row], Report]:
    """Labels: chosen 1, rejected 0; the share of pairs won for a response of several. One of no pair is left out."""
    return _run(rows, _steps()["pairs", "labels"])


def labels_to_pairs(rows: Iterable[Row]) -> tuple[list[Row], Report]:
    """One pair: the highest label is chosen, the lowest rejected.

    A row without a positive (0.5 or more) and a negative label is dropped and counted.
    """
    return _run(rows, _steps()["labels", "pairs"])


def to_demos(rows: Iterable[Row]) -> tuple[list[Row], Report]:
    """Demonstrations: the best score of a row, else labels of 0.5 or more, else the chosen responses."""
    return _run(rows, _Step("feedback -> demos (best, positive or chosen)", False, _to_demos))


def conform(
    rows: Iterable[Row],
    kinds: Sequence[str],
    *,
    which: str = "best-worst",
    threshold: float | str = "median",
    ties: str = "drop",
    group: bool = False,
    margins: bool = False,
    weights: bool = True,
    method: str = "",
    note: Callable[[Row], object] | None = None,
) -> tuple[GroupedList[Row], tuple[Report, ...]]:
    """Each row with one kind of feedback out of `kinds`, in order of preference, and what was done.

    A row keeps the first of `kinds` that it has. Otherwise it is converted: scores -> pairs (`which`),
    scores -> lists, scores -> labels (`threshold`), pairs -> labels, labels -> pairs, pairs -> lists, labels -> lists,
    any kind -> demos. Where responses are compared, rows of one response are gathered by prompt first.

    The result holds no rows: it gathers and converts those of `rows` again at each access. So `rows` are read once for
    their keys, once for the reports, and once whenever the result is read.

    Args:
        rows: of any kinds.
        kinds: that are accepted.
        which: see `scores_to_pairs`.
        threshold: see `scores_to_labels`.
        ties: see `scores_to_pairs`.
        group: gather all rows of one response by prompt, as `group_by_prompt` does.
        margins: keep the scores beside pairs; every pair then needs them, or a margin.
        weights: whether pairs may have weights.
        method: that learns from the rows, for messages.
        note: called with every row of the result, in order.

    Raises:
        InputError: names a row for which no conversion is possible, and data of which nothing is left.
    """
    of_method, for_method = (f" {word} {method}" if method else "" for word in ("of", "for"))
    steps = _steps(which=which, threshold=threshold, ties=ties, margins=margins)
    if isinstance(kinds, str) or not kinds or not set(kinds) <= set(KINDS):
        raise refusal("options", "kinds", "some of " + ", ".join(KINDS), shown(kinds))

    @cache
    def way_of(own: tuple[str, ...]) -> tuple[str, str] | None:
        natives = ((kind, kind) for kind in kinds if kind in own)
        return next(chain(natives, ((has, kind) for kind in kinds for has in own if (has, kind) in steps)), None)

    def route(row: Row) -> tuple[str, str]:
        own = row.kinds
        way = way_of(own)
        if way is None:
            got = "a row of " + " and ".join(own) if own else "a prompt alone, which is for online runs"
            fix = "give the columns " + ", or ".join(COLUMNS[kind] for kind in kinds if kind in COLUMNS)
            raise refusal(row.source, "feedback", f"{' or '.join(kinds)}{for_method}", got, fix)
        return way

    def compared(row: Row) -> object:
        way = route(row)
        together = way in steps and steps[way].gathered and len(row.responses) == 1
        return (row.key, way) if together else None

    def made(group: list[Row], kept: dict[str, Counter], converted: dict[str, Counter]) -> Row | None:
        way = route(group[0])
        beside = ("scores",) if margins and way[1] == "pairs" else ()
        for row in group:
            _check_per_pair(row, way, margins, weights, of_method)
        row = merged([row.only(way[0], *beside) for row in group])
        if beside and row.scores is None and row.margins is None:
            fix = "add a column margin, or chosen_score and rejected_score, or give data with scores alone"
            raise refusal(
                row.source, "scores", f"scores beside pairs, for the margins of the loss{of_method}", "none", fix
            )
        if way in steps:
            return steps[way].convert(row, converted.setdefault(steps[way].what, Counter()))
        if len(group[0].kinds) > len(row.kinds):
            kept.setdefault(f"{way[0]} kept, the rest left aside", Counter())["rows"] += 1
        return row

    groups = gathered(listed(rows), [*([by_prompt] if group else []), compared], list)
    kept: dict[str, Counter] = {}
    converted: dict[str, Counter] = {}
    useful = bytearray()
    for members in groups:
        row = made(members, kept, converted)
        useful.append(row is not None)
        if row is not None and note:
            note(row)
    reports = tuple(Report(what, counts) for what, counts in (kept | converted).items())
    if not any(useful):
        raise refusal("data", "rows", f"at least one usable row{for_method}", "; ".join(map(str, reports)) or "none")
    return groups.picked(useful).map(lambda members: cast(Row, made(members, {}, {}))), reports


def _check_per_pair(row: Row, way: tuple[str, str], margins: bool, weights: bool, of_method: str) -> None:
    """Refuse weights and margins of pairs that no loss on pairs would take.

    Raises:
        InputError: names the column.
    """
    if way != ("pairs", "pairs"):
        margins = weights = False
    for column, values, taken, what, use in (
        ("weight", row.weights, weights, "a loss on pairs, each on its own", "dpo"),
        ("margin", row.margins, margins, "a loss on pairs that takes margins", "odpo or reward-model-margin"),
    ):
        if values is not None and not taken:
            got = f"another loss{of_method}, on {way[1]}"
            raise refusal(row.source, column, what, got, f"use {use}, or columns.{column}= to leave it out")


def _run(rows: Iterable[Row], step: _Step) -> tuple[list[Row], Report]:
    counts: Counter = Counter()
    converted = [new for row in rows if (new := step.convert(row, counts)) is not None]
    return converted, Report(step.what, counts)


def _steps(
    *, which: str = "best-worst", threshold: float | str = "median", ties: str = "drop", margins: bool = False
) -> dict[tuple[str, str], _Step]:
    """Every conversion of `conform`, (from, to), with these options, which are checked."""
    by_median = threshold == "median"
    number = isinstance(threshold, Real) and not isinstance(threshold, bool) and math.isfinite(threshold)
    for field, value, good, expected in (
        ("which", which, which in PAIRINGS, " or ".join(PAIRINGS)),
        ("threshold", threshold, number or by_median, "a finite number or 'median'"),
        ("ties", ties, ties in TIES, " or ".join(TIES)),
    ):
        if not good:
            raise refusal("options", field, expected, shown(value))
    level = "above the prompt's median, or highest" if by_median else f"at or above {threshold:g}"
    pair = partial(_scores_to_pairs, which=which, ties=ties, margins=margins)
    label = partial(_scores_to_labels, threshold=threshold, ties=ties)
    return {
        ("scores", "pairs"): _Step(f"scores -> pairs ({which})", True, pair),
        ("scores", "lists"): _Step("scores -> lists (best first)", True, _scores_to_lists),
        ("scores", "labels"): _Step(f"scores -> labels (positive {level})", by_median, label),
        ("pairs", "labels"): _Step("pairs -> labels (chosen 1, rejected 0)", False, _pairs_to_labels),
        ("pairs", "lists"): _Step("pairs -> lists (scores: the share of pairs won)", False, _pairs_to_lists),
        ("labels", "lists"): _Step("labels -> lists (scores: the labels)", True, _labels_to_lists),
        ("labels", "pairs"): _Step("labels -> pairs (positive against negative)", True, _labels_to_pairs),
        ("scores", "demos"): _Step("scores -> demos (the best of each prompt)", True, _to_demos),
        ("labels", "demos"): _Step("labels -> demos (0.5 or more)", False, _to_demos),
        ("pairs", "demos"): _Step("pairs -> demos (the chosen)", False, _to_demos),
    }


def _values(row: Row, kind: str) -> tuple:
    values = getattr(row, kind)
    if values is None:
        raise refusal(row.source, kind, f"a row of {kind}", "a row of " + " and ".join(row.kinds))
    return values


def _alone(row: Row, counts: Counter, fix: str = "") -> bool:
    """Whether the row has one response, so that there is nothing to compare; it is counted then."""
    alone = len(row.responses) < 2
    if alone:
        counts[f"prompts with one response dropped{fix}"] += 1
    return alone


def _paired(row: Row, pairs: Sequence[tuple[int, int]], *, margins: bool = False) -> Row:
    used = sorted({i for pair in pairs for i in pair})
    place = {i: k for k, i in enumerate(used)}
    feedback: dict[str, Any] = {"pairs": tuple((place[chosen], place[rejected]) for chosen, rejected in pairs)}
    if margins and row.scores is not None:
        feedback["scores"] = tuple(row.scores[i] for i in used)
    return row.picked(used, **feedback)


def _ranking(values: Sequence[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])  # stable: equal values keep their order


def _scores_to_pairs(row: Row, counts: Counter, which: str, ties: str, margins: bool) -> Row | None:
    scores = _values(row, "scores")
    if _alone(row, counts):
        return None
    ranking = _ranking(scores)
    if which == "best-worst":
        pairs = [(ranking[0], ranking[-1])]
    elif which == "adjacent":
        pairs = list(pairwise(ranking))
    else:
        pairs = list(combinations(ranking, 2))
    strict = [(i, j) for i, j in pairs if scores[i] > scores[j]]
    kept = strict if ties == "drop" else pairs
    counts["pairs"] += len(kept)
    counts["ties dropped" if ties == "drop" else "of them ties, the first chosen"] += len(pairs) - len(strict)
    return _paired(row, kept, margins=margins) if kept else None


def _scores_to_labels(row: Row, counts: Counter, threshold: float | str, ties: str) -> Row | None:
    scores = _values(row, "scores")
    if threshold == "median":
        if _alone(row, counts, " (a number as threshold keeps them)"):
            return None
        level, highest = median(scores), max(scores)
        positive = [score > level or score == highest for score in scores]
        if len(set(scores)) == 1:
            counts["prompts of equal scores " + ("dropped" if ties == "drop" else "kept, the first positive")] += 1
            if ties == "drop":
                return None
            positive = [place == 0 for place in range(len(scores))]
    else:
        positive = [score >= threshold for score in scores]
    counts["positive"] += sum(positive)
    counts["negative"] += len(positive) - sum(positive)
    return row.picked(range(len(positive)), labels=tuple(positive))


def _scores_to_lists(row: Row, counts: Counter) -> Row | None:
    return _ranked(row, _values(row, "scores"), counts)


def _labels_to_lists(row: Row, counts: Counter) -> Row | None:
    return _ranked(row, _values(row, "labels"), counts)


def _pairs_to_lists(row: Row, counts: Counter) -> Row | None:
    labelled = _pairs_to_labels(row, Counter())
    return _ranked(labelled, _values(labelled, "labels"), counts)


def _ranked(row: Row, scores: Sequence[float], counts: Counter) -> Row | None:
    if _alone(row, counts):
        return None
    ranking = _ranking(scores)
    counts["lists"] += 1
    counts["responses"] += len(ranking)
    return row.picked(ranking, scores=tuple(float(scores[i]) for i in ranking), as_list=True)


def _pairs_to_labels(row: Row, counts: Counter) -> Row:
    pairs = _values(row, "pairs")
    won, met = Counter(chosen for chosen, _ in pairs), Counter(chain.from_iterable(pairs))
    used = sorted(met)
    counts["labels"] += len(used)
    return row.picked(used, labels=tuple(won[i] / met[i] for i in used))


def _labels_to_pairs(row: Row, counts: Counter) -> Row | None:
    labels = _values(row, "labels")
    if _alone(row, counts):
        return None
    ranking = _ranking(labels)
    best, worst = ranking[0], ranking[-1]
    if not labels[best] >= 0.5 > labels[worst]:
        counts["prompts without a positive and a negative response dropped"] += 1
        return None
    counts["pairs"] += 1
    return _paired(row, [(best, worst)])


def _to_demos(row: Row, counts: Counter) -> Row | None:
    if row.scores is not None:
        good = _ranking(row.scores)[:1]
    elif row.labels is not None:
        good = [i for i, label in enumerate(row.labels) if label >= 0.5]
    elif row.pairs is not None:
        good = sorted({chosen for chosen, _ in row.pairs})
    else:
        good = list(range(len(row.responses)))
    counts["demos"] += len(good)
    if not good:
        counts["prompts without a good response dropped"] += 1
        return None
    return row.picked(good)
