"""Early stopping: a callback gets every held-out evaluation of a run and may end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Callback(Protocol):
    """Gets every evaluation after a step. Its state goes into the checkpoint."""

    def __call__(self, evaluation: Mapping[str, float]) -> bool:
        """Whether the run should end."""
        ...

    def state(self) -> Any:
        """The state, ready for JSON."""
        ...

    def restore(self, state: Any) -> None:
        """Take over a state."""
        ...


@dataclass
class Patience:
    """Ends a run after a number of evaluations in a row without a better value of a metric.

    Attributes:
        evaluations: that number.
        metric: its name in metrics.jsonl.
        rising: whether larger values are better.
        best: the best value so far.
        waited: evaluations since the best one.
    """

    evaluations: int
    metric: str
    rising: bool
    best: float | None = None
    waited: int = 0

    def __call__(self, evaluation: Mapping[str, float]) -> bool:
        """Whether the run should end. Raises KeyError for an evaluation without the metric."""
        value = evaluation[self.metric] if self.rising else -evaluation[self.metric]
        better = value == value and (self.best is None or value > self.best)  # a NaN is never better
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return self.waited >= self.evaluations

    def state(self) -> list[Any]:
        """The best value and the evaluations since."""
        return [self.best, self.waited]

    def restore(self, state: list[Any]) -> None:
        """Take over a state."""
        self.best, self.waited = state
