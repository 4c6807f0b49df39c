"""The one exception for input that is refused before anything begins."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, named: where it stands, what was expected and what came. The command line exits 2 on it."""
