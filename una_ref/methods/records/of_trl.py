"""Records of further losses on pairs and labels that TRL names."""

from __future__ import annotations

from una_ref.methods.method import Method

RECORDS: tuple[Method, ...] = ()
"""In the order of the tables."""
