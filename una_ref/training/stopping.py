"""What held-out evaluations decide: when a run ends early, and which of its adapters is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

FALLING = ("eval_loss", "eval_nll/token")
"""The metrics that `Best` takes of which smaller values are better."""


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


@dataclass
class Best:
    """The best evaluation of a run by a metric; of equal ones the first.

    Attributes:
        metric: its name in metrics.jsonl.
        step: steps done at the best evaluation; 0: there is none yet.
        evaluation: all metrics of the best evaluation.
    """

    metric: str
    step: int = 0
    evaluation: dict[str, float] = field(default_factory=dict)

    def __call__(self, evaluation: Mapping[str, float], step: int) -> bool:
        """Take over an evaluation after a step if it is the best; returns whether it is."""
        sign, value = -1 if self.metric in FALLING else 1, evaluation.get(self.metric, math.nan)
        better = sign * value > sign * self.value if self.step else not math.isnan(value)
        if better:
            self.step, self.evaluation = step, dict(evaluation)
        return better

    @property
    def value(self) -> float:
        """The metric at the best evaluation."""
        return self.evaluation[self.metric]

    def record(self) -> dict[str, Any]:
        """Metric, value and step of the best evaluation, ready for JSON."""
        return {"metric": self.metric, "value": self.value, "step": self.step}

    def state(self) -> dict[str, Any]:
        """Step and metrics of the best evaluation."""
        return {"step": self.step, "evaluation": self.evaluation}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.step, self.evaluation = state["step"], state["evaluation"]


def described(best: Mapping[str, Any]) -> str:
    """The best step as a part of a sentence, from `Best.record`."""
    side = "smaller" if best["metric"] in FALLING else "larger"
    return f"step {best['step']}, the best by {best['metric']} ({best['value']:.4f}; {side} is better)"
