"""A step of the build: the wheel gets the records of runs that notebooks 11 and 14 read, see `una_ref.figures.records`.

An editable install reads them in the checkout, so it gets no copies.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RECORDS = (
    *("compare/results.json", "compare/runs.jsonl", "another_base/results.json"),
    "leaderboard/results.json",
)


class Records(BuildHookInterface):
    """Adds `RECORDS` to a wheel as ``una_ref/runs/``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a build; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"] |= {f"figures/runs/{name}": f"una_ref/runs/{name}" for name in RECORDS}
