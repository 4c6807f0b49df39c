"""Training a job: the steps, with what they leave on disk while they run, and how they are interrupted."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from una_ref.data.batch import Example, Prompt
from una_ref.data.encoder import Encoder
from una_ref.data.examples import digest
from una_ref.errors import InputError
from una_ref.policies.rollout import HuggingFace
from una_ref.training import checkpoints
from una_ref.training.config import Config
from una_ref.training.loop import NonFinite, Trainer, order
from una_ref.training.metrics import seconds
from una_ref.training.online import Pool, Rollouts, Unrewarded, best_and_worst, measured, remembered, steered
from una_ref.training.stopping import Callback
from una_ref.training.trackers import tracking

CHECKPOINT, METRICS, NON_FINITE = "checkpoint.safetensors", "metrics.jsonl", "nonfinite.json"
DROPPED = ("dropped", "dropped_prompts")
"""Responses, and prompts, that a step went without, for want of an answer from the reward."""
HELD_OUT = 1_000_000
"""The step whose random numbers answer held-out questions: the same ones in every evaluation."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; its state is saved and the same command goes on with it."""


@dataclass
class Job:
    """A run that is ready to start.

    Attributes:
        config: with steps filled in.
        trainer: policy, losses, optimizer.
        examples, held_out: what is trained on, what is only measured; questions, if online.
        rollouts: what answers the questions; None if the responses are given.
        demos: demonstrations that are mixed into the updates, as many as there are responses (PPO-ptx).
        callbacks: each is told of every evaluation after a step and may stop the run.
        seconds: spent in generation, scoring and learning: of the processor, or on a GPU by the clock.
        tokenizer, encoder: text to ids; None where there is no text, as in a table.
        own_base: whether the model under an adapter exists nowhere else, so that the result must hold it.
        notes: what was converted, dropped and cut, a sentence each.
        processes: how many have made it, one after the other where it was resumed by another number.
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
        self.pool = Pool(self.config.replay, self.config.seed)
        self.processes = [self.trainer.accelerator.num_processes]
        if self.rollouts is not None:
            self.rollouts = replace(self.rollouts, seconds=self.seconds)

    def answered(
        self, picked: Sequence[Example | Prompt], step: int, *, record: bool
    ) -> tuple[Sequence[Example], dict[str, float]]:
        """The rows of a step, and what is to be said of them: drawn now, if they are questions.

        Responses dropped for want of an answer are always said, since they are counted over the whole run.
        """
        if self.rollouts is None:
            return cast(Sequence[Example], picked), {}
        questions = [one for one in picked if isinstance(one, Prompt)]
        if not questions:
            return [one for one in picked if isinstance(one, Example)], {}
        trainer, team = self.trainer, self.trainer.accelerator
        own = trainer.share(questions)
        # What is measured is the policy itself, also where training draws at another temperature.
        rollouts = self.rollouts.plain if step == HELD_OUT else self.rollouts
        answers, refused = [], ""
        try:
            if own:
                answers = list(zip(*rollouts(trainer.policy, own, step, team.process_index), strict=True))
        except InputError as error:
            refused = str(error)
        if trainer.anyone(bool(refused)):  # none of the processes may wait for one that has stopped
            raise InputError(refused or "a reward was refused in another process, which says why")
        whole = trainer.gathered(answers, len(questions))
        examples, drawn = [e for e, _ in whole if e is not None], [draws for e, draws in whole if e is not None]
        lost = len(questions) * self.rollouts.draws - sum(len(e.responses) for e in examples)
        dropped = zip(DROPPED, (lost, len(questions) - len(examples)), strict=True)
        values: dict[str, float] = {name: count for name, count in dropped if count or record}
        if not examples:
            return [], values
        if trainer.remembers:
            began = seconds(trainer.accelerator.device)
            examples, kl = trainer.experience(examples)
            self.seconds["learning"] += seconds(trainer.accelerator.device) - began
            if not math.isnan(kl):
                values |= {"objective/kl": kl}
        if record:
            values |= measured(examples, drawn, remembered(examples) or trainer.logps(examples).tolist())
            if isinstance(self.rollouts.engine, HuggingFace):
                values["merged"] = float(self.rollouts.engine.merging.merged)
        if self.config.ranks:
            return [pair for e in examples if (pair := best_and_worst(e))], values
        return examples, values

    def step(self, step: int, *, record: bool) -> dict[str, float]:
        """One step, counted from 0: its rows, the updates on them, and what is to be said of both.

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
            raise Unrewarded(f"reward {config.reward}: expected answers, got none for any response")
        values: dict[str, float] = {}
        began = seconds(trainer.accelerator.device)
        for update, some in enumerate(self.pool.updates(rows, step, *config.updates)):
            values = trainer.step(step, [*some, *self._demos(some, step, update)], update=update, record=record)
        self.seconds["learning"] += seconds(trainer.accelerator.device) - began
        if config.kl_target:
            responses = sum(len(e.responses) for e in rows)
            beta = steered(self._beta, drawn["objective/kl"], config.kl_target, config.kl_horizon, responses)
            trainer.hyper["beta"] = beta
            drawn["objective/beta"] = beta
        return values | drawn if record else {name: drawn[name] for name in DROPPED if drawn.get(name)}

    @property
    def _beta(self) -> float:
        return float(self.trainer.hyper.get("beta", self.config.beta))

    def _demos(self, rows: Sequence[Example], step: int, update: int) -> list[Example]:
        if not self.demos:
            return []
        wanted = sum(len(e.responses) for e in rows)
        place = step * math.prod(self.config.updates) + update
        return [self.demos[i] for i in order(len(self.demos), place, wanted, self.config.seed)]

    def state(self) -> dict[str, Any]:
        """What a run goes on from beside its weights, ready for JSON."""
        return {
            "pool": self.pool.state(),
            "hyper": self.trainer.hyper,
            "callbacks": [callback.state() for callback in self.callbacks],
            "processes": self.processes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` had."""
        self.pool.restore(state["pool"])
        self.trainer.hyper = state["hyper"]
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            callback.restore(own)
        before = state["processes"]
        self.processes = before if before[-1:] == self.processes else [*before, *self.processes]
        if len(self.processes) > 1:
            counts = ", then ".join(map(str, self.processes))
            self.notes = [*self.notes, f"processes: {counts}; draws and dropout depend on their number"]


def fit(job: Job, *, output: Path | None = None, progress: bool = False) -> dict[str, float]:
    """Train; with an output folder, log to it, save to it and resume from it. Returns the last evaluation.

    Raises:
        NonFinite: a loss or gradient was not finite; the rows are in the output's nonfinite.json.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        Unrewarded: the reward of a step is no number, or it has no answer for any response; the state is saved.
    """
    from tqdm import tqdm

    config, trainer = job.config, job.trainer
    main = trainer.accelerator.is_main_process
    state = output / CHECKPOINT if output else None
    data = digest(job.examples) if state else ""
    if len({*trainer.from_all([data])}) > 1:
        raise InputError("data: expected the same rows in every process, got others in some (a pipe is read once)")
    start, more = checkpoints.load(state, trainer.trained, trainer.optimizer, data=data) if state else (0, {})
    if len(found := {*trainer.from_all([start])}) > 1:
        raise InputError(f"output: expected one folder for all processes, got checkpoints of steps {sorted(found)}")
    told = progress and main
    if start:
        job.restore(more)
        if told:
            print(f"going on from step {start} of {config.steps}", file=sys.stderr)
    log = _Log(output / METRICS if output and main else None, start)
    terminal = sys.stderr.isatty()
    if trainer.cache:  # a pass over all rows; what it has done is on disk, so that any end of it is resumable
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
        for step in range(start, config.steps):
            done, final = step + 1, step + 1 == config.steps
            record = done % config.log_every == 0 or done == 1 or final
            try:
                values = job.step(step, record=record)
            except Unrewarded as error:  # nothing has changed in this step yet
                if state and main and step:
                    checkpoints.save(state, step, trainer.trained, trainer.optimizer, data=data, more=job.state())
                trainer.accelerator.wait_for_everyone()  # a launcher ends all processes as soon as one has failed
                raise Unrewarded(f"step {done}: {error}") from error
            except NonFinite as error:
                raise _saved(error, done, job, output) from error
            bar.update()
            if "loss" in values:
                loss = f"{values['loss']:.4f}"
                bar.set_postfix(loss=loss)
                if told and not terminal:  # a log has no use for a bar
                    print(f"{config.method}: step {done} of {config.steps}, loss {loss}", file=sys.stderr, flush=True)
            enough = False
            if job.held_out and (final or _every(config.eval_every, done)):
                last = _evaluation(job)
                values = values | last
                hear = job.callbacks if "eval_loss" in last else ()  # an evaluation without answers says nothing
                enough = any([callback(last) for callback in hear])  # noqa: C419, each is told
            if values:
                log.write(done, values)
            if enough and not final:
                job.config = replace(config, steps=done)
                job.notes = [
                    *job.notes,
                    f"stopped after step {done} of {config.steps}: no better in held-out evaluations",
                ]
                break
            stop = trainer.anyone(bool(asked)) and not final
            if state and (main or trainer.sharded) and not final and (stop or _every(config.save_every, done)):
                own: dict[str, Any] = {"data": data, "more": job.state(), "write": main}
                checkpoints.save(state, done, trainer.trained, trainer.optimizer, **own)
            if stop:
                trainer.accelerator.wait_for_everyone()  # a launcher ends all processes as soon as one has failed
                again = "; the same command goes on from there" if output else ""
                raise Interrupted(f"stopped after step {done} of {config.steps}{again}")
    if log.dropped:
        job.notes = [*job.notes, f"responses dropped, because the reward had no answer: {log.dropped:g}"]
    if trainer.cache:
        counts = trainer.from_all([(trainer.cache.found, trainer.cache.computed)])
        job.notes = [*job.notes, trainer.cache.note(counts)]
    return {name.removeprefix("eval_"): value for name, value in last.items()}


def _every(interval: int, done: int) -> bool:
    return interval > 0 and done % interval == 0


def _evaluation(job: Job) -> dict[str, float]:
    rows, drawn = job.answered(job.held_out, HELD_OUT, record=True)
    values = job.trainer.evaluate(rows) | drawn if rows else drawn
    return {f"eval_{name}": value for name, value in values.items()}


class _Log:
    """metrics.jsonl, a line a step, cut back to the step that a run resumes from; nothing without a path.

    Attributes:
        dropped: responses without an answer in all these steps.
        tracker: is given the same lines, if there is one.
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
    except ValueError:  # a line that the end of a killed run left unfinished
        return float("inf")


@contextmanager
def _stop_signals(*, launched: bool) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that the step in hand is finished; a second one acts as usual if nobody launched
    this process with others.

    One that was ignored, as a shell does for a background job, stays ignored.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # the only one that signals reach
        yield asked
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def note(number: int, _: Any) -> None:
        asked.append(number)
        if not launched:  # else it comes twice: from who stops the job and from the launcher
            signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _saved(error: NonFinite, step: int, job: Job, output: Path | None) -> NonFinite:
    """The error with its step, its rows written to the output."""
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
