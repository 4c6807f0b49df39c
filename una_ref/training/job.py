"""A run that is ready to start: its data, its trainer, and what a step and an evaluation of it are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from una_ref.data.batch import Example, Prompt
from una_ref.data.encoder import Encoder
from una_ref.errors import InputError
from una_ref.methods.arguments import Need
from una_ref.policies.rollout import HuggingFace
from una_ref.training import distributed
from una_ref.training.batches import order
from una_ref.training.config import Config
from una_ref.training.experience import experience
from una_ref.training.metrics import seconds
from una_ref.training.samplers import ReplayBuffer, Rollouts, Unrewarded, adaptive_beta, keeping, measured, old_logps_of
from una_ref.training.stopping import Best, Callback
from una_ref.training.trainer import Trainer

DROPPED = ("dropped", "dropped_prompts")
"""Metrics: responses and prompts of a step that got no score from the reward."""
HELD_OUT = 1_000_000
"""The step number whose random numbers sample for held-out prompts: the same in every evaluation."""


@dataclass
class Job:
    """A run that is ready to start.

    Attributes:
        config: with steps filled in.
        trainer: policy, losses, optimizer.
        examples, held_out: training data, and data for evaluation alone; prompts in an online run.
        rollouts: samples responses to the prompts; None if the responses are given.
        demos: demonstrations for the auxiliary loss, as many in each update as there are responses.
        callbacks: each gets every evaluation after a step and may stop the run.
        best: finds the adapter that becomes the result; None: it is the last one.
        ended_early: whether a callback has ended the run. Such a run is not extended.
        seconds: spent in generation, scoring and learning: processor time, or wall time on a GPU.
        tokenizer, encoder: text to ids; None where there is no text, as in a table.
        own_base: whether the model under an adapter exists nowhere else. The result then holds it.
        notes: what was converted, dropped and cut, one sentence each.
        processes: number of processes, with those of earlier starts before it.
    """

    config: Config
    trainer: Trainer
    examples: Sequence[Example | Prompt]
    held_out: Sequence[Example | Prompt]
    tokenizer: Any = None
    encoder: Encoder | None = None
    own_base: bool = False
    notes: Sequence[str] = ()
    rollouts: Rollouts | None = None
    demos: Sequence[Example] = ()
    callbacks: Sequence[Callback] = ()
    best: Best | None = None
    ended_early: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        self.pool = ReplayBuffer(self.config.replay, self.config.seed, batch=self.config.replay_batch)
        self.processes = [self.trainer.accelerator.num_processes]
        if self.rollouts is not None:
            self.rollouts = replace(self.rollouts, seconds=self.seconds)

    def answered(
        self, picked: Sequence[Example | Prompt], step: int, *, record: bool
    ) -> tuple[Sequence[Example], dict[str, float]]:
        """The rows of a step and their metrics; prompts get responses that are sampled now.

        Dropped responses are always reported, since they are counted over the whole run.
        """
        if self.rollouts is None:
            return cast(Sequence[Example], picked), {}
        prompts = [one for one in picked if isinstance(one, Prompt)]
        if not prompts:
            return [one for one in picked if isinstance(one, Example)], {}
        trainer, team = self.trainer, self.trainer.accelerator
        own = distributed.share(team, prompts)
        # An evaluation measures the policy itself, at temperature 1.
        rollouts = self.rollouts.plain if step == HELD_OUT else self.rollouts
        answers, refused = [], ""
        try:
            if own:
                answers = list(zip(*rollouts(trainer.policy, own, step, team.process_index), strict=True))
        except InputError as error:
            refused = str(error)
        if distributed.any_process(team, bool(refused)):  # no process may wait for one that has stopped
            raise InputError(refused or "reward: refused in another process, whose message says why")
        whole = distributed.gathered(team, answers, len(prompts))
        examples, drawn = [e for e, _ in whole if e is not None], [draws for e, draws in whole if e is not None]
        lost = len(prompts) * self.rollouts.samples - sum(len(e.responses) for e in examples)
        dropped = zip(DROPPED, (lost, len(prompts) - len(examples)), strict=True)
        values: dict[str, float] = {name: count for name, count in dropped if count or record}
        if not examples:
            return [], values
        if Need.ROLLOUT in trainer.needs:
            began = seconds(trainer.accelerator.device)
            examples, kl = experience(trainer, examples)
            self.seconds["learning"] += seconds(trainer.accelerator.device) - began
            if not math.isnan(kl):
                values |= {"objective/kl": kl}
        if record:
            own_samples = rollouts.source == "policy"  # the training forward gives no log π_ref to compare with
            logps = (old_logps_of(examples) or trainer.logps(examples).tolist()) if own_samples else ()
            values |= measured(examples, drawn, logps)
            if isinstance(self.rollouts.engine, HuggingFace):
                values["merged"] = float(self.rollouts.engine.merging.merged)
        return keeping(examples, self.config, step), values

    def step(self, step: int, *, record: bool) -> dict[str, float]:
        """One step, counted from 0: its rows and the updates on them; returns the metrics of both.

        Raises:
            Unrewarded: before anything has changed.
        """
        config, trainer = self.config, self.trainer
        picked = [self.examples[i] for i in order(len(self.examples), step, config.batch, config.seed)]
        try:
            rows, drawn = self.answered(picked, step, record=record)
        except InputError as error:
            raise Unrewarded(str(error)) from error
        if drawn.get("dropped_prompts") == len(picked):
            raise Unrewarded(f"reward {config.judge}: expected scores, got none for any response")
        values: dict[str, float] = {}
        began = seconds(trainer.accelerator.device)
        for update, some in enumerate(self.pool.updates(rows, step, *config.updates)):
            values = trainer.step(step, [*some, *self._demos(some, step, update)], update=update, record=record)
        self.seconds["learning"] += seconds(trainer.accelerator.device) - began
        if every(config.refresh, step + 1):
            trainer.policy.refresh(config.refresh_mix)
        if config.kl_target:
            responses = sum(len(e.responses) for e in rows)
            beta = adaptive_beta(self._beta, drawn["objective/kl"], config.kl_target, config.kl_horizon, responses)
            trainer.loss_kwargs["beta"] = beta
            drawn["objective/beta"] = beta
        return values | drawn if record else {name: drawn[name] for name in DROPPED if drawn.get(name)}

    def evaluation(self) -> dict[str, float]:
        """The metrics of the held-out rows, with eval_ before each name; prompts get responses that are sampled now."""
        rows, drawn = self.answered(self.held_out, HELD_OUT, record=True)
        values = self.trainer.evaluate(rows) | drawn if rows else drawn
        return {f"eval_{name}": value for name, value in values.items()}

    @property
    def _beta(self) -> float:
        return float(self.trainer.loss_kwargs.get("beta", self.config.beta))

    def _demos(self, rows: Sequence[Example], step: int, update: int) -> list[Example]:
        if not self.demos:
            return []
        wanted = sum(len(e.responses) for e in rows)
        place = step * math.prod(self.config.updates) + update
        return [self.demos[i] for i in order(len(self.demos), place, wanted, self.config.seed)]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside its weights, ready for JSON."""
        return {
            "pool": self.pool.state(),
            "loss_kwargs": self.trainer.loss_kwargs,
            "averages": self.trainer.statistics.averages,
            "callbacks": [callback.state() for callback in self.callbacks],
            "best": self.best.state() if self.best else None,
            "processes": self.processes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.pool.restore(state["pool"])
        self.trainer.loss_kwargs = state["loss_kwargs"]
        self.trainer.statistics.averages = state["averages"]
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            callback.restore(own)
        if self.best and state.get("best"):
            self.best.restore(state["best"])
        before = state["processes"]
        self.processes = before if before[-1:] == self.processes else [*before, *self.processes]
        if len(self.processes) > 1:
            counts = ", then ".join(map(str, self.processes))
            self.notes = [*self.notes, f"processes: {counts}; samples and dropout depend on their number"]


def every(interval: int, done: int) -> bool:
    """Whether something that is done after every `interval` steps is due; never for 0."""
    return interval > 0 and done % interval == 0
