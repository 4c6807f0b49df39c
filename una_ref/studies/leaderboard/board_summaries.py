"""Numbers of several worlds, paired by world: means with t intervals, differences, and labels needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


def summed(values: Sequence[float]) -> dict[str, Any]:
    """One number a world: mean, low and high (its 95 % t interval over worlds), median, values.

    A value that is not finite is None, and so are all numbers of its row. One world has no interval. The interval is
    Student's, since the percentile bootstrap of few worlds is too narrow.
    """
    if not values or not all(map(math.isfinite, values)):
        known = [value if math.isfinite(value) else None for value in values]
        return {"mean": None, "low": None, "high": None, "median": None, "values": known}
    mean, median = statistics.fmean(values), statistics.median(values)
    low = high = None
    if len(values) > 1:
        half = _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high, "median": median, "values": [*values]}


@cache
def _quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def difference(values: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """`summed` of the differences of two rows, world by world."""
    return summed([value - other for value, other in zip(values, others, strict=True)])


def worse(runs: Sequence[Mapping[str, Any]], base: Sequence[float]) -> dict[str, Any]:
    """How many runs ended with more regret than π_ref in the same world, or failed: count, of, share."""
    count = sum(bool(run["failed"]) or not run["regret"] <= start for run, start in zip(runs, base, strict=True))
    return {"count": count, "of": len(runs), "share": count / len(runs)}


def same_order(values: Sequence[float | None], others: Sequence[float | None]) -> float | None:
    """Spearman's ρ of two numbers for each row; None where there are fewer than three rows with both."""
    from scipy.stats import spearmanr

    known = [(value, other) for value, other in zip(values, others, strict=True) if None not in (value, other)]
    return float(spearmanr(*zip(*known, strict=True)).statistic) if len(known) > 2 else None


def labels_needed(shares: Mapping[int, float], goal: float = 0.1) -> dict[str, Any]:
    """The budget from which on a row is within a share of π_ref's regret, linear in the logarithm of the budget.

    Args:
        shares: by budget, the regret as a share of π_ref's; NaN where there is none.
        goal: the share.

    Returns:
        labels: the budget, or None. bound: "" where it lies between two budgets, "<=" where the smallest budget is
            enough, ">" where the largest is not.
    """
    points = sorted(shares.items())
    short = [i for i, (_, share) in enumerate(points) if not share <= goal]  # NaN is short, too
    if not short:
        return {"labels": points[0][0], "bound": "<="}
    if short[-1] < len(points) - 1:
        (budget, share), (after, reached) = points[short[-1]], points[short[-1] + 1]
        at = (share - goal) / (share - reached) if math.isfinite(share) else 1.0
        return {"labels": round(budget * (after / budget) ** at), "bound": ""}
    return {"labels": points[-1][0], "bound": ">"}
