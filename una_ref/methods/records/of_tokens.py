"""Records of methods whose reward or loss is one of tokens."""

from __future__ import annotations

from una_ref.methods.method import Method

RECORDS: tuple[Method, ...] = ()
"""In the order of the tables."""
