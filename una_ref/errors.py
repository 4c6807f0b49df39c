"""The one exception for input that is refused before anything begins."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Bad input, named: where it stands, what was expected and what came. The command line exits 2 on it."""


def near(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that looks most like this one, or at those that do equally; empty where none does."""
    close = difflib.get_close_matches(name, {*known}, n=3)
    alike = [difflib.SequenceMatcher(None, other, name).ratio() for other in close]  # the best stand in front
    best = sorted(other for other, ratio in zip(close, alike, strict=True) if ratio == alike[0])
    return f"; did you mean {' or '.join(best)}?" if best else ""


def near_path(name: str, *known: str) -> str:
    """The same among what lies where the name points to, and the names that are known beside."""
    try:
        there = [str(path) for path in Path(name).expanduser().parent.iterdir()]
        return near(name, [other for other in (*known, *there) if other != name])  # itself is no hint
    except (OSError, ValueError):  # no such folder, no such name
        return near(name, known)
