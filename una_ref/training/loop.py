"""The training loop: steps, evaluations, log and checkpoints, and how a run is interrupted."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from una_ref.data.batch import Example, Prompt
from una_ref.data.encoder import Encoder
from una_ref.data.examples import digest
from una_ref.errors import InputError
from una_ref.methods.arguments import Need
from una_ref.policies.rollout import HuggingFace
from una_ref.training import checkpoints, distributed
from una_ref.training.batches import order
from una_ref.training.config import Config
from una_ref.training.experience import experience
from una_ref.training.metrics import seconds
from una_ref.training.samplers import ReplayBuffer, Rollouts, Unrewarded, adaptive_beta, keeping, measured, old_logps_of
from una_ref.training.stopping import Callback
from una_ref.training.trackers import tracking
from una_ref.training.trainer import NonFinite, Trainer

CHECKPOINT, METRICS, NON_FINITE = "checkpoint.safetensors", "metrics.jsonl", "nonfinite.json"
DROPPED = ("dropped", "dropped_prompts")
"""Metrics: responses and prompts of a step that got no score from the reward."""
HELD_OUT = 1_000_000
"""The step number whose random numbers sample for held-out prompts: the same in every evaluation."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop. Its state is saved, and the same command resumes it."""


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
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        self.pool = ReplayBuffer(self.config.replay, self.config.seed)
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
        if _every(config.refresh, step + 1):
            trainer.policy.refresh(config.refresh_mix)
        if config.kl_target:
            responses = sum(len(e.responses) for e in rows)
            beta = adaptive_beta(self._beta, drawn["objective/kl"], config.kl_target, config.kl_horizon, responses)
            trainer.loss_kwargs["beta"] = beta
            drawn["objective/beta"] = beta
        return values | drawn if record else {name: drawn[name] for name in DROPPED if drawn.get(name)}

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
            "processes": self.processes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.pool.restore(state["pool"])
        self.trainer.loss_kwargs = state["loss_kwargs"]
        self.trainer.statistics.averages = state["averages"]
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            callback.restore(own)
        before = state["processes"]
        self.processes = before if before[-1:] == self.processes else [*before, *self.processes]
        if len(self.processes) > 1:
            counts = ", then ".join(map(str, self.processes))
            self.notes = [*self.notes, f"processes: {counts}; samples and dropout depend on their number"]


def fit(job: Job, *, output: Path | None = None, progress: bool = False) -> dict[str, float]:
    """Train a job; with an output folder, log to it, save to it and resume from it. Returns the last evaluation.

    Raises:
        NonFinite: a loss or gradient was not finite; the rows are in nonfinite.json of the output folder.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        Unrewarded: the reward gave a step no usable score; the state is saved.
    """
    from tqdm import tqdm

    config, trainer = job.config, job.trainer
    main = trainer.accelerator.is_main_process
    state = output / CHECKPOINT if output else None
    data = digest(job.examples) if state else ""
    if len({*distributed.from_all(trainer.accelerator, [data])}) > 1:
        raise InputError("data: expected the same rows in every process, got different ones (a pipe is read once)")
    start, more = checkpoints.load(state, trainer.kept, trainer.optimizer, data=data) if state else (0, {})
    if len(found := {*distributed.from_all(trainer.accelerator, [start])}) > 1:
        raise InputError(f"output: expected one folder for all processes, got checkpoints of steps {sorted(found)}")
    told = progress and main
    if start:
        job.restore(more)
        if told:
            print(f"resuming at step {start} of {config.steps}", file=sys.stderr)
    log = _Log(output / METRICS if output and main else None, start)
    terminal = sys.stderr.isatty()
    if trainer.cache:  # a pass over all rows; what it has computed is on disk, so it can be interrupted anywhere
        hidden = not (told and terminal)
        rows = tqdm(job.examples, desc="reference", unit="row", disable=hidden, file=sys.stderr)
        trainer.remember_reference(e for e in rows if isinstance(e, Example))
    first = _evaluation(job) if start == 0 and job.held_out else {}
    last: dict[str, float] = {}
    with (
        _stop_signals(launched=trainer.accelerator.num_processes > 1) as asked,
        tracking(config, output if main else None, start) as log.tracker,
        tqdm(
            total=config.steps, initial=start, desc=config.method, unit="step", disable=not (told and terminal)
        ) as bar,
    ):
        if first:
            log.write(0, first)
        began = time.monotonic()
        for step in range(start, config.steps):
            done, final = step + 1, step + 1 == config.steps
            record = done % config.log_every == 0 or done == 1 or final
            try:
                values = job.step(step, record=record)
            except Unrewarded as error:  # this step has changed nothing yet
                if state and main and step:
                    checkpoints.save(state, step, trainer.kept, trainer.optimizer, data=data, more=job.state())
                trainer.accelerator.wait_for_everyone()  # a launcher ends all processes as soon as one has failed
                raise Unrewarded(f"step {done}: {error}") from error
            except NonFinite as error:
                raise _saved(error, done, job, output) from error
            bar.update()
            if "loss" in values:
                loss = f"{values['loss']:.4f}"
                bar.set_postfix(loss=loss)
                if told and not terminal:  # a log file cannot show a progress bar
                    left = timedelta(seconds=round((time.monotonic() - began) / (done - start) * (config.steps - done)))
                    line = f"{config.method}: step {done} of {config.steps}, loss {loss}, {left} left"
                    print(line, file=sys.stderr, flush=True)
            enough = False
            if job.held_out and (final or _every(config.eval_every, done)):
                last = _evaluation(job)
                values = values | last
                hear = job.callbacks if "eval_loss" in last else ()  # without a loss there is nothing to compare
                enough = any([callback(last) for callback in hear])  # noqa: C419, each gets the evaluation
            if values:
                log.write(done, values)
            if enough and not final:
                job.config = replace(config, steps=done)
                job.notes = [
                    *job.notes,
                    f"stopped after step {done} of {config.steps}: held-out evaluations did not improve",
                ]
                break
            stop = distributed.any_process(trainer.accelerator, bool(asked)) and not final
            if state and (main or trainer.sharded) and not final and (stop or _every(config.save_every, done)):
                own: dict[str, Any] = {"data": data, "more": job.state(), "write": main}
                checkpoints.save(state, done, trainer.kept, trainer.optimizer, **own)
            if stop:
                trainer.accelerator.wait_for_everyone()  # a launcher ends all processes as soon as one has failed
                again = "; the same command resumes it" if output else ""
                raise Interrupted(f"stopped after step {done} of {config.steps}{again}")
    if log.dropped:
        job.notes = [*job.notes, f"responses dropped, because the reward gave no score: {log.dropped:g}"]
    if trainer.cache:
        counts = distributed.from_all(trainer.accelerator, [(trainer.cache.found, trainer.cache.computed)])
        job.notes = [*job.notes, trainer.cache.note(counts)]
    return {name.removeprefix("eval_"): value for name, value in last.items()}


def _every(interval: int, done: int) -> bool:
    return interval > 0 and done % interval == 0


def _evaluation(job: Job) -> dict[str, float]:
    rows, drawn = job.answered(job.held_out, HELD_OUT, record=True)
    values = job.trainer.evaluate(rows) | drawn if rows else drawn
    return {f"eval_{name}": value for name, value in values.items()}


class _Log:
    """metrics.jsonl: one line for each logged step, cut back to the step that a run resumes from.

    Attributes:
        dropped: responses without a score in all these steps.
        tracker: gets the same lines, if there is one.
    """

    def __init__(self, path: Path | None, start: int) -> None:
        self.path = path
        self.dropped: float = 0
        self.tracker: Any = None
        if path:
            lines = path.read_text("utf-8").splitlines() if path.exists() and start else []
            kept = [line for line in lines if _step_of(line) <= start]
            self.dropped = sum(json.loads(line).get("dropped", 0) for line in kept)
            checkpoints.write_text(path, "".join(f"{line}\n" for line in kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        self.dropped += values.get("dropped", 0)
        values = {name: round(value, 10) for name, value in values.items()}
        if self.path:
            checkpoints.append_text(self.path, json.dumps({"step": step} | values) + "\n")
        if self.tracker:
            self.tracker.log(values, step=step)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:  # a line that a killed run left unfinished
        return float("inf")


@contextmanager
def _stop_signals(*, launched: bool) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that the current step is finished.

    A second signal acts as usual, unless a launcher started this process. An ignored signal stays ignored, as a shell
    sets it for a background job.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals reach no other thread
        yield asked
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def note(number: int, _: Any) -> None:
        asked.append(number)
        if not launched:  # with a launcher it comes twice, once from the launcher
            signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _saved(error: NonFinite, step: int, job: Job, output: Path | None) -> NonFinite:
    """The error with its step; its rows are written to the output folder."""
    message = f"step {step}: {error}"
    team = job.trainer.accelerator
    if output and team.is_main_process:
        decode = job.tokenizer.decode if job.tokenizer else list
        rows = [
            {
                "source": e.source,
                "prompt": decode(list(e.prompt)),
                "responses": [decode(list(r)) for r in e.responses],
                "scores": e.scores,
                "labels": e.labels,
                "pairs": e.pairs,
            }
            for e in error.examples
        ]
        text = json.dumps({"error": message, "rows": rows}, indent=1, ensure_ascii=False)
        try:
            checkpoints.write_text(output / NON_FINITE, text)
            message += f"; the rows are in {output / NON_FINITE}"
        except OSError as full:
            message += f"; {full}"
    team.wait_for_everyone()  # a launcher ends all processes as soon as one has failed
    return NonFinite(message, error.examples)
