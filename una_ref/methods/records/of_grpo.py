"""Records of the GRPO family."""

from __future__ import annotations

from una_ref.methods.method import Method

RECORDS: tuple[Method, ...] = ()
"""In the order of the tables."""
