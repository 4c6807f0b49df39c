"""The exception for refused input, and hints at the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Input that is refused before anything begins. The message says where it is, what was expected and what came.

    The command line exits with code 2 on it.
    """


def near(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most similar to this one, or at all equally similar ones; empty if none is."""
    close = difflib.get_close_matches(name, {*known}, n=3)
    alike = [difflib.SequenceMatcher(None, other, name).ratio() for other in close]  # most similar first
    best = sorted(other for other, ratio in zip(close, alike, strict=True) if ratio == alike[0])
    return f"; did you mean {' or '.join(best)}?" if best else ""


def near_path(name: str, *known: str) -> str:
    """Such a hint among the files beside the one that the name points to, and the other `known` names."""
    try:
        there = [str(path) for path in Path(name).expanduser().parent.iterdir()]
        return near(name, [other for other in (*known, *there) if other != name])  # never the name itself
    except (OSError, ValueError):  # no such folder, or not a valid name
        return near(name, known)
