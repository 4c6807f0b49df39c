"""Records of methods on two responses with a score each."""

from __future__ import annotations

from una_ref.methods.method import Method

RECORDS: tuple[Method, ...] = ()
"""In the order of the tables."""
