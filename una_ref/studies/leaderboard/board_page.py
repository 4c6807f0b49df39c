"""The leaderboard as one self-contained page: a table that sorts and filters, curves, and an explorer of the axes.

The page is a template beside this module. It holds its numbers, and loads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from una_ref.training.checkpoints import write_text

TEMPLATE = "board_page.html"
_SUMMARY = ("mean", "low", "high", "median")


def write_page(results: Mapping[str, Any], file: str | Path) -> Path:
    """Write the page of results.json, whole or with some of its axes; it needs the axis ``board``.

    Args:
        results: what results.json holds, see `board_study`.
        file: of the page.
    """
    template = (resources.files(__package__) / TEMPLATE).read_text("utf-8")
    data = json.dumps({name: _slim(axis) for name, axis in results.items()}, ensure_ascii=False, separators=(",", ":"))
    write_text(Path(file), template.replace("__DATA__", data.replace("</", "<\\/"), 1))
    return Path(file)


def _slim(value: Any) -> Any:
    """The same with each summary as [mean, low, high, median], and numbers with five digits.

    Of the values one a world, those of the regret stay, as `values` of the row.
    """
    if isinstance(value, Mapping):
        if set(_SUMMARY) <= set(value):
            return [_slim(value[name]) for name in _SUMMARY]
        found = {name: _slim(part) for name, part in value.items() if name not in ("settings", "chosen")}
        if isinstance(value.get("regret"), Mapping):
            found["values"] = _slim(value["regret"]["values"])
        return found
    if isinstance(value, list | tuple):
        return [_slim(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
