"""Numbers of several worlds summed up: mean with interval, median, and how many runs ended worse than the base."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t). The half width is NaN for one value or infinite ones.

    The interval is over worlds. It does not reflect how often a run diverges: see `worse_than_base`.
    """
    from scipy import stats

    mean = statistics.fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def over_worlds(values: Iterable[float]) -> dict[str, Any]:
    """One number a world as mean, ci95 (half the width of the mean's 95 % interval), median, values."""
    values = list(values)
    mean, ci95 = interval(values)
    median = math.nan if any(map(math.isnan, values)) else statistics.median(values)
    return {"mean": mean, "ci95": ci95, "median": median, "values": values}


def worse_than_base(
    runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], measure: str = "regret"
) -> dict[str, Any]:
    """How many runs ended with more regret than the base policy in the same world, or failed: count, of, share.

    Args:
        runs: one a world; `failed` says why a run was stopped by a non-finite value, and is empty or absent otherwise.
        base: what was measured of the base policy in these worlds.
        measure: the regret that counts.
    """
    count = sum(
        bool(run.get("failed")) or not run[measure] <= start[measure] for run, start in zip(runs, base, strict=True)
    )
    return {"count": count, "of": len(runs), "share": count / len(runs)}


def summary(
    runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], measures: Iterable[str]
) -> dict[str, Any]:
    """Each measure over worlds, the paired difference in regret from the base policy, and the runs worse than it."""
    values = {measure: [run[measure] for run in runs] for measure in measures}
    values["regret_against_base"] = [run["regret"] - start["regret"] for run, start in zip(runs, base, strict=True)]
    return {name: over_worlds(each) for name, each in values.items()} | {"worse_than_base": worse_than_base(runs, base)}
