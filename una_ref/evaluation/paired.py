"""Means over items with standard errors, and paired differences of two models on the same items.

A metric has one number an item, or several (IFEval has one verdict an instruction). The mean is Σs/Σn over all of
them, with s the sum and n the count of an item. Its standard error is that of a ratio, with items as independent units:
the standard deviation of (s − mean·n)/n̄ over the root of the number of items. With n = 1 this is the usual one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from una_ref.errors import InputError
from una_ref.evaluation.store import Results, Score, Values


@dataclass(frozen=True)
class Difference:
    """The mean of a metric of one model minus that of another, on the items that both have answered.

    Attributes:
        task, metric: what was measured.
        value: the difference, in the metric's own unit.
        stderr: its standard error over items.
        low, high: the 95 % interval, from Student's t with items − 1 degrees of freedom.
        items: number of items in both.
        left_out: number of items that only one of them has.
    """

    task: str
    metric: str
    value: float
    stderr: float
    low: float
    high: float
    items: int
    left_out: int


def score(task: str, metric: str, items: Sequence[Values]) -> Score:
    """The mean of a metric over items, with its standard error.

    Raises:
        InputError: no items.
    """
    if not items:
        raise InputError(f"task {task}: expected finished items, got none")
    value, parts = _mean([values[metric] for values in items])
    return Score(task, metric, value, _stderr(parts), len(items))


def mean_score(name: str, scores: Iterable[Score]) -> Score:
    """The plain mean of the headline scores of several tasks, as the papers average; the tasks are independent."""
    every = list(scores)
    errors = [s.stderr for s in every if s.stderr is not None]
    stderr = sum(e * e for e in errors) ** 0.5 / len(every) if len(errors) == len(every) else None
    return Score(name, "mean", sum(s.value for s in every) / len(every), stderr, sum(s.items for s in every))


def difference(first: Results, second: Results, task: str, metric: str = "") -> Difference:
    """The paired difference of two evaluations: `first` minus `second`.

    Source: Miller 2024, "Adding Error Bars to Evals", Sec. 4.2, https://arxiv.org/abs/2411.00640.

    Args:
        first: the results of one model.
        second: those of the other.
        task: name of a task that both have finished.
        metric: which; empty: the headline metric.

    Raises:
        InputError: one has not finished the task, they were made with different settings, or they share fewer than two
            items.
    """
    for results in (first, second):
        if results.record(task) is None:
            raise InputError(f"{results.folder}: task {task}: expected finished results, got none")
    _check_settings(first, second, task)
    metric = metric or first.scores(task)[0].metric
    ours, theirs = first.items(task), second.items(task)
    shared = [item for item in ours if item in theirs]
    if len(shared) < 2:
        raise InputError(f"task {task}: expected two or more items in both results, got {len(shared)}")
    means, parts = zip(*(_mean([items[item][metric] for item in shared]) for items in (ours, theirs)), strict=True)
    value, gaps = means[0] - means[1], parts[0] - parts[1]
    stderr = _stderr(gaps) or 0.0
    half = _t_quantile(len(shared) - 1) * stderr
    left_out = len({*ours, *theirs}) - len(shared)
    return Difference(task, metric, value, stderr, value - half, value + half, len(shared), left_out)


def _check_settings(first: Results, second: Results, task: str) -> None:
    ours, theirs = first.settings(task), second.settings(task)
    for key in sorted({*ours, *theirs} - {"model"}):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"task {task}: {key}: expected the same in both results, got {ours.get(key)!r} in {first.folder} and "
                f"{theirs.get(key)!r} in {second.folder}. Fix: evaluate both with the same settings"
            )


def _mean(values: Sequence[Any]) -> tuple[float, np.ndarray]:
    """Σs/Σn, and each item's (s − mean·n)/n̄."""
    lists = [value if isinstance(value, list) else [value] for value in values]
    sums = np.array([sum(map(float, each)) for each in lists])
    counts = np.array([len(each) for each in lists], dtype=float)
    value = sums.sum() / counts.sum()
    return float(value), (sums - value * counts) / counts.mean()


def _stderr(parts: np.ndarray) -> float | None:
    return float(parts.std(ddof=1) / np.sqrt(len(parts))) if len(parts) > 1 else None


def _t_quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
