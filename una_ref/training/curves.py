"""The curves of a run, from its folder; and what its loss says of them before any training.

What a loss is at its start, and whether it has a finite minimum on certain preferences, is found by calling it with
made-up arguments. So a new method needs no entry here.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from una_ref.errors import InputError, near_path
from una_ref.methods.arguments import argument, names
from una_ref.methods.probe import example_arguments
from una_ref.training.checkpoints import RECORD
from una_ref.training.config import Config
from una_ref.training.loop import METRICS

Line = Mapping[str, float]


@dataclass(frozen=True)
class Curves:
    """A run's config and log.

    Attributes:
        config: of the run.
        lines: of metrics.jsonl that hold a training step.
        evaluations: the values of held-out rows, without the prefix ``eval_``, each with its step.
        notes: of the run; empty before it is finished.
    """

    config: Config
    lines: Sequence[Line]
    evaluations: Sequence[Line]
    notes: Sequence[str] = ()

    def values(self, name: str) -> list[float]:
        """A training metric at all logged steps that have it."""
        return [line[name] for line in self.lines if name in line]

    def held_out(self, name: str) -> list[float]:
        """The same on held-out rows."""
        return [line[name] for line in self.evaluations if name in line]

    def ends(self, name: str) -> tuple[float, float] | None:
        """A metric at the start and at the end; None if there are too few values.

        It is that of the first and last evaluation, which have the same rows. Without two evaluations it is the mean of
        the first and of the last quarter of the logged steps, of which there must be four.
        """
        held_out = self.held_out(name)
        if len(held_out) > 1:
            return held_out[0], held_out[-1]
        return quarters(self.values(name))

    @cached_property
    def first(self) -> Line | None:
        """What is measured before the first update: the evaluation of step 0, else the first training step.

        None if neither is in the log, or if that step had several updates, whose last one is logged.
        """
        if self.evaluations and self.evaluations[0]["step"] == 0:
            return self.evaluations[0]
        several = self.config.on_policy and self.config.updates != (1, 1)
        return self.lines[0] if self.lines and self.lines[0]["step"] == 1 and not several else None


def quarters(values: Sequence[float]) -> tuple[float, float] | None:
    """The means of the first and of the last quarter of at least four values."""
    size = len(values) // 4
    return (statistics.fmean(values[:size]), statistics.fmean(values[-size:])) if size else None


def read_curves(folder: str | Path) -> Curves:
    """The curves of a run in a folder, finished or not.

    Raises:
        InputError: there is no run, or it has logged nothing yet.
    """
    record, log = Path(folder) / RECORD, Path(folder) / METRICS
    if not record.is_file():
        hint = near_path(str(folder))
        raise InputError(f"run {str(folder)!r}: expected a run's folder, with {RECORD}, got none{hint}")
    found = json.loads(record.read_text("utf-8"))
    lines = list(_lines(log))
    if not lines:
        raise InputError(f"{log}: expected a logged step, got none. Fix: train at least one step")
    evaluations = [
        {name.removeprefix("eval_"): v for name, v in line.items() if name == "step" or name.startswith("eval_")}
        for line in lines
    ]
    known = {name: value for name, value in found["config"].items() if name in Config.__dataclass_fields__}
    training = [line for line in lines if "lr" in line or "loss" in line]
    return Curves(Config(**known), training, [e for e in evaluations if len(e) > 1], found.get("notes", ()))


def _lines(log: Path) -> Sequence[Line]:
    if not log.is_file():
        return []
    found = []
    for text in log.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:  # a line that a killed run left unfinished
            break
    return found


# ---- what the losses say


def loss_at_start(config: Config) -> float | None:
    """The loss while the policy is its reference, where that is one number whatever the data; else None.

    The loss is called with random arguments in which both log-probs are equal and running statistics are 0.
    """
    if config.reference_model:
        return None
    found = set()
    for kind, loss in config.losses_by_kind.items():
        if not any(name.startswith("ref_") for name in names(loss)):
            return None
        for seed in range(3):
            found |= {round(value, 9) for value in _called(loss, kind, _hyperparameters(config), seed)}
    return found.pop() if len(found) == 1 else None


def reward_is_zero_at_start(config: Config) -> bool:
    """Whether what the method calls the reward is 0 for every response while the policy is its reference."""
    function = config.record.reward.function
    if function is None or config.reference_model or "ref_logps" not in names(function):
        return False
    return all(value == 0 for seed in range(3) for value in _called(function, "demos", _hyperparameters(config), seed))


def falls_without_end(config: Config) -> bool:
    """Whether the loss on a pair falls however large the margin of log π/π_ref is: at 50, 60, 70 nats over β."""
    loss = config.losses_by_kind.get("pairs")
    if loss is None or "ref_chosen_logps" not in names(loss):
        return False
    beta = float(_hyperparameters(config).get("beta", 1.0))

    def at(margin: float) -> float:
        return max(_called(loss, "pairs", _hyperparameters(config), 0, margin / beta))

    return at(10) > at(20) > at(30)


def _hyperparameters(config: Config) -> Mapping[str, Any]:
    return {**config.record.hyperparameters, **config.loss_kwargs}


def _called(
    function: Callable[..., Any], kind: str, hyperparameters: Mapping[str, Any], seed: int, margin: float = 0.0
) -> list[float]:
    """What a loss or a reward returns where all log-ratios are 0, or half a margin up and down for pairs."""
    given = example_arguments(function, kind, 4, seed=seed)
    for name in given:
        entry = argument(name)
        if name.startswith("ref_"):
            given[name] = given[name.removeprefix("ref_")].clone()
        elif entry is not None and entry.kind == "batch" and name not in ("mean_length", "score_sd"):
            given[name] = torch.zeros_like(given[name])
    if margin:
        given["ref_chosen_logps"] = given["chosen_logps"] - margin / 2
        given["ref_rejected_logps"] = given["rejected_logps"] + margin / 2
    own = {name: value for name, value in hyperparameters.items() if name in names(function)}
    with torch.no_grad():
        return function(**given, **own).double().flatten().tolist()
