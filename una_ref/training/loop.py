"""The training loop: steps, evaluations, log and checkpoints, and how a run is interrupted."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from una_ref.data.batch import Example
from una_ref.data.examples import digest
from una_ref.errors import InputError
from una_ref.policies.named_models import BEST, CHECKPOINT
from una_ref.training import checkpoints, distributed, result
from una_ref.training.checkpoints import NON_FINITE
from una_ref.training.job import Job, every
from una_ref.training.samplers import Unrewarded
from una_ref.training.stopping import Best
from una_ref.training.trackers import tracking
from una_ref.training.trainer import NonFinite

METRICS = "metrics.jsonl"


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop. Its state is saved, and the same command resumes it."""


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
    first = job.evaluation() if start == 0 and job.held_out else {}
    if job.best and first and job.best.metric not in first:
        raise InputError(f"keep_best: expected one of {', '.join(first)}, which this run has, got {job.best.metric}")
    log = _Log(output / METRICS if output and main else None, start)
    terminal = sys.stderr.isatty()
    if trainer.cache:  # a pass over all rows; what it has computed is on disk, so it can be interrupted anywhere
        hidden = not (told and terminal)
        rows = tqdm(job.examples, desc="reference", unit="row", disable=hidden, file=sys.stderr)
        trainer.remember_reference(e for e in rows if isinstance(e, Example))
    last = job.evaluation() if start == config.steps and job.held_out else {}  # killed before its result was written
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
            due = every(config.eval_every, done)
            if job.held_out and (final or due):
                last = job.evaluation()
                values = values | last
                # Without a loss there is nothing to compare. An evaluation for the end alone is none of a longer run.
                hear = job.callbacks if due and "eval_loss" in last else ()
                enough = any([callback(last) for callback in hear])  # noqa: C419, each gets the evaluation
            better = bool(job.best and due and job.held_out and job.best(last, done))
            if values:
                log.write(done, values)
            own: dict[str, Any] = {"data": data, "write": main}
            if output and better:
                checkpoints.save(output / BEST.format(done), done, trainer.trained, **own)
            if output and every(config.keep_every or 0, done):
                result.keep(job, output, done)
            if enough and not final:
                job.config, job.ended_early = replace(config, steps=done), True
                job.notes = [
                    *job.notes,
                    f"stopped after step {done} of {config.steps}: held-out evaluations did not improve",
                ]
                break
            stop = distributed.any_process(trainer.accelerator, bool(asked)) and not final
            due = config.extendable if final else stop or better or every(config.save_every, done)
            if state and (main or trainer.sharded) and due:
                checkpoints.save(state, done, trainer.kept, trainer.optimizer, more=job.state(), **own)
                if output and better and main:  # no checkpoint names the earlier ones any more
                    for old in {*output.glob(BEST.format("*"))} - {output / BEST.format(done)}:
                        old.unlink()
            if stop:
                trainer.accelerator.wait_for_everyone()  # a launcher ends all processes as soon as one has failed
                again = "; the same command resumes it" if output else ""
                raise Interrupted(f"stopped after step {done} of {config.steps}{again}")
    if log.dropped:
        job.notes = [*job.notes, f"responses dropped, because the reward gave no score: {log.dropped:g}"]
    if trainer.cache:
        counts = distributed.from_all(trainer.accelerator, [(trainer.cache.found, trainer.cache.computed)])
        job.notes = [*job.notes, trainer.cache.note(counts)]
    if job.best and output:
        last = _best(job, job.best, last, output, data)
    return {name.removeprefix("eval_"): value for name, value in last.items()}


def _best(job: Job, best: Best, last: dict[str, float], output: Path, data: str) -> dict[str, float]:
    """Give the trainer the best weights of the run in place of the last ones; returns their evaluation.

    Raises:
        InputError: the file that holds them is gone or damaged.
    """
    steps, trainer = job.config.steps, job.trainer
    if best.step != steps:
        best(last, steps)  # an evaluation for the end alone
    if best.step not in (0, steps):
        trainer.accelerator.wait_for_everyone()  # the main process writes the file
        path = output / BEST.format(best.step)
        if checkpoints.load(path, trainer.trained, data=data)[0] != best.step:
            raise InputError(f"{path}: expected the best weights of the run, got no such file. Fix: delete {output}")
    return best.evaluation or last


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
