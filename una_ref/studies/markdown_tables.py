"""Cells and rows of a study's tables, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def mean(value: Mapping[str, Any] | None, digits: int = 3, scale: float = 1.0) -> str:
    """Mean ± half the width of its interval; the mean alone for one world; empty for no value."""
    if value is None:
        return ""
    half = scale * value["ci95"]
    return _number(scale * value["mean"], digits) + (f" ± {half:.{digits}f}" if half == half else "")


def median(value: Mapping[str, Any], digits: int = 3) -> str:
    """The median over worlds."""
    return _number(value["median"], digits)


def count(worse: Mapping[str, int]) -> str:
    """Runs worse than the base policy, of how many."""
    return f"{worse['count']} of {worse['of']}"


def listed(values: Sequence[float], joint: str = ", ") -> str:
    """Numbers in a sentence."""
    return joint.join(f"{value:g}" for value in values)


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 turns −0.000 into 0.000
