"""Lines for the terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap


def said(code: int, message: str) -> int:
    """Print a message on standard error and return the exit code."""
    print(f"una-ref: {message}", file=sys.stderr)
    return code


def wrapped(text: str, indent: int, *, hang: int = 0) -> str:
    """Text in lines that fit the terminal behind so many columns; all but the first begin with `hang` blanks."""
    width = max(40, min(shutil.get_terminal_size().columns, 120) - indent - 2)
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False, subsequent_indent=" " * hang) or [""])
