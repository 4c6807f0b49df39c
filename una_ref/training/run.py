"""A run from its config to a finished folder: data, policy, loop, result."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from una_ref.data import conversions, toysteer
from una_ref.data.batch import Encoder, Example, collate
from una_ref.data.rows import Row, group_by_prompt, shuffled_scores, split
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.policies import loading
from una_ref.policies.exact import next_logps
from una_ref.policies.references import Policy
from una_ref.theory.worlds import PrefixTree
from una_ref.training import checkpoints
from una_ref.training.config import Config, recipe, resolve
from una_ref.training.loop import NonFinite, Trainer, losses_of, order

ADAPTER, WEIGHTS, CARD, METRICS, RECORD = ("adapter_model.safetensors", "model.safetensors", "README.md",
                                           "metrics.jsonl", "run.json")


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; its state is saved and the same command goes on with it."""


@dataclass
class Job:
    """A run that is ready to start.

    Attributes:
        config: with steps filled in.
        tokenizer, encoder: text to ids.
        examples, held_out: what is trained on, what is only measured.
        trainer: policy, losses, optimizer.
        made: whether the base model was made here, so that the result must hold it.
        notes: what was converted, dropped and cut, a sentence each.
    """

    config: Config
    tokenizer: Any
    encoder: Encoder
    examples: list[Example]
    held_out: list[Example]
    trainer: Trainer
    made: bool
    notes: list[str]


# ---------------------------------------------------------------------------------------------------- data and model


def cache_folder() -> Path:
    """Where things made here are kept between runs: UNA_REF_CACHE, or una_ref under the user's cache folder."""
    own = os.environ.get("UNA_REF_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "una_ref"


@cache
def toysteer_base(*, progress: bool = True) -> Path:
    """ToySteer's base policy as a folder; made by its recipe the first time, about a minute, and then cached.

    The cache key holds the recipe, the vocabulary, the first demonstrations and the versions of torch and transformers.
    """
    import transformers

    config = resolve("toysteer/base")
    parts = [json.dumps(recipe("toysteer/base"), sort_keys=True), str(toysteer.WORDS), str(toysteer.demonstrations(500)),
             torch.__version__, transformers.__version__]
    folder = cache_folder() / f"toysteer-base-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits for the first and finds it made
        if not _finished(folder):
            shutil.rmtree(folder, ignore_errors=True)
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # matrices this small gain nothing from a second one, and lose on a busy machine
            try:
                train(replace(config, output=str(folder)), progress=progress)
            finally:
                torch.set_num_threads(threads)
    return folder


def _finished(folder: Path) -> bool:
    return (folder / RECORD).exists() and bool(json.loads((folder / RECORD).read_text())["finished"])


def reference_logps(model: Any, world: toysteer.ToySteer) -> torch.Tensor:
    """(X, N, V) next-token log-probs of a model at every prefix of a ToySteer world."""
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    prompts = toysteer.encoded_prompts(world, toysteer.tokenizer())
    return next_logps(model, prompts, tree, toysteer.VOCABULARY)


def toysteer_rows(config: Config, world: toysteer.ToySteer | None = None) -> list[Row]:
    """The rows of ``toysteer``, ``toysteer/pairs`` … for a config; the world is its seed's."""
    kind = config.data.partition("/")[2] or "ratings"
    if kind == "demonstrations":
        return toysteer.demonstrations(config.rows or 2048, seed=config.seed)
    world = world or toysteer.ToySteer(seed=config.seed)
    model, _ = loading.load(str(toysteer_base()))
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    logps = tree.sequence_logps(reference_logps(model, world))
    drawn = world.draw(config.rows or 1024, logps, seed=config.seed)
    return world.rated(drawn, seed=config.seed) if kind == "ratings" else world.feedback(drawn, kind, seed=config.seed)


def read_rows(config: Config) -> list[Row]:
    """All rows that the config names."""
    if _toy(config):
        return toysteer_rows(config)
    from una_ref.data.sources import read

    return list(read(config.data.split(","), limit=config.rows, split=config.split, empty=config.empty))


def conform(rows: list[Row], config: Config) -> tuple[list[Row], list[str]]:
    """Rows with the one kind of feedback that the method learns from, and what was done to get there."""
    kinds = tuple(METHODS[config.method].losses)
    if config.group:
        rows = group_by_prompt(rows)
    threshold = config.threshold if config.threshold == "median" else float(config.threshold)
    rows, reports = conversions.conform(rows, kinds, threshold=threshold, ties=config.ties)
    notes = [str(r) for r in reports]
    if config.shuffle:
        rows = shuffled_scores(rows, config.seed)
        notes.append("scores and labels permuted over the whole data set (placebo)")
    return rows, notes


def model_and_tokenizer(config: Config, rows: Sequence[Row]) -> tuple[Any, Any, bool]:
    """The model to start from, its tokenizer, and whether both were made here."""
    toy = _toy(config)
    if config.model:
        return *loading.load(config.model, config.dtype if config.lora_r else "float32"), False
    if toy and not config.shape:
        return *loading.load(str(toysteer_base())), True
    if toy:
        tokenizer, suppressed = toysteer.tokenizer(), list(toysteer.NEVER_EMITTED)
    else:
        texts = (t for row in rows for t in (_text(row.prompt), *row.responses))
        tokenizer, suppressed = loading.byte_pair_tokenizer(texts, config.vocabulary), []
    model = loading.small_mistral(tokenizer, config.seed, **config.shape)
    model.generation_config.suppress_tokens = suppressed or None
    return model, tokenizer, True


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(m["content"] for m in prompt)


def prepare(config: Config, *, rows: list[Row] | None = None, model: Any = None, tokenizer: Any = None) -> Job:
    """Everything up to the first step. Rows, model and tokenizer may be given instead of what the config names.

    Raises:
        InputError: whatever is wrong with data, model or config, before anything is trained.
    """
    rows = read_rows(config) if rows is None else rows
    if not rows:
        raise InputError(f"data {config.data}: expected at least one row, got none")
    made = False
    if model is None:
        model, tokenizer, made = model_and_tokenizer(config, rows)
    rows, notes = conform(rows, config)
    train_rows, held_rows = _held_out(rows, config)
    encoder = Encoder(tokenizer, max_length=config.max_length, max_response=config.max_response or _horizon(config))
    examples = encoder.encode(train_rows)
    held = [e for e in map(encoder, held_rows) if e is not None]
    notes += [f"{what}: {n}" for what, n in sorted(encoder.counts.items())]
    steps = config.steps if config.epochs is None else max(1, round(config.epochs * len(examples) / config.batch))
    config = replace(config, steps=steps)

    torch.manual_seed(config.seed)
    loading.disable_dropout(model)
    losses = {kind: loss for kind, loss in config.losses().items() if any(e.kind == kind for e in examples)}
    missing = {e.kind for e in examples} - set(losses)
    if missing:
        raise InputError(f"form={config.form}: {config.method} has that form for {', '.join(config.losses())} only, "
                         f"got {', '.join(missing)}")
    if config.lora_r and isinstance(model, torch.nn.Module) and not isinstance(model, loading.TableLM):
        targets = config.lora_targets if config.lora_targets == "all-linear" else config.lora_targets.split(",")
        model = loading.with_lora(model, r=config.lora_r, alpha=config.lora_alpha, dropout=config.lora_dropout,
                                  targets=targets, seed=config.seed)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    anchored = METHODS[config.method].needs_reference
    trainer = Trainer(Policy(model, anchored=anchored), losses, config, prompts=encoder.prompts,
                      value_start=_value_start(examples))
    job = Job(config, tokenizer, encoder, examples, held, trainer, made, notes)
    if anchored:
        gap = trainer.policy.check_start(collate(trainer.batches(examples[: config.batch])[0], trainer.layout)
                                         .to(trainer.accelerator.device))
        job.notes.append(f"implicit rewards at step 0: |log π − log π_ref| ≤ {gap:.2g} nats")
    return job


def _held_out(rows: list[Row], config: Config) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to measure on: no prompt on both sides, but for ToySteer, which has eight and new answers to
    them."""
    if not config.held_out:
        return rows, []
    if _toy(config):
        kept = len(rows) - max(1, round(config.held_out * len(rows)))
        return rows[:kept], rows[kept:]
    return split(rows, config.held_out, config.seed)


def _toy(config: Config) -> bool:
    return config.data.partition("/")[0] == "toysteer"


def _horizon(config: Config) -> int | None:
    return toysteer.LENGTH if _toy(config) else None


def _value_start(examples: Sequence[Example]) -> float:
    """A learned V(x) starts at the mean score, or at the logit of the mean label."""
    scores = [s for e in examples for s in e.scores or ()]
    labels = [v for e in examples for v in e.labels or ()]
    if scores:
        return sum(scores) / len(scores)
    if labels:
        return float(torch.logit(torch.tensor(sum(labels) / len(labels)), eps=1e-3))
    return 0.0


# ------------------------------------------------------------------------------------------------------------ training


def fit(job: Job, *, output: Path | None = None, progress: bool = False) -> dict[str, float]:
    """Train; with an output folder, log to it, save to it and resume from it. Returns the last evaluation's metrics.

    Raises:
        NonFinite: a loss or gradient was not finite; the rows are in the output's nonfinite.json.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    from tqdm import tqdm

    config, trainer = job.config, job.trainer
    accelerator = trainer.accelerator
    states = output / "checkpoints" if output else None
    start = checkpoints.load(states, trainer.module, trainer.optimizer.optimizer) if states else 0
    log = _Log(output / METRICS, start) if output and accelerator.is_main_process else None
    if start == 0 and job.held_out and log:
        log.write(0, {f"eval_{k}": v for k, v in trainer.evaluate(job.held_out).items()})
    if config.reference == "cache" and trainer.anchored:
        trainer.remember_reference(job.examples)
    last: dict[str, float] = {}
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    with _stop_signals() as asked, tqdm(total=config.steps, initial=start, desc=config.method, unit="step",
                                        disable=None if progress else True, file=sys.stderr) as bar:
        for step in range(start, config.steps):
            done = step + 1
            record = done % config.log_every == 0 or done == config.steps
            picked = order(len(job.examples), step, config.batch, config.seed)[share]
            try:
                values = trainer.step(step, [job.examples[i] for i in picked], record=record)
            except NonFinite as error:
                if output:
                    _save_bad_rows(output / "nonfinite.json", error, job.tokenizer)
                raise
            bar.update()
            if record and log:
                log.write(done, values)
                bar.set_postfix(loss=f"{values['loss']:.4f}")
            if job.held_out and (done == config.steps or (config.eval_every and done % config.eval_every == 0)):
                last = trainer.evaluate(job.held_out)
                if log:
                    log.write(done, {f"eval_{k}": v for k, v in last.items()})
            stop = bool(asked) and done < config.steps
            if states and accelerator.is_main_process and done < config.steps and (
                    stop or (config.save_every and done % config.save_every == 0)):
                checkpoints.save(states, done, trainer.module, trainer.optimizer.optimizer)
            if stop:
                raise Interrupted(f"stopped after step {done} of {config.steps}"
                                  + ("; the same command resumes" if output else ""))
    return last


class _Log:
    """metrics.jsonl, cut back to the step that a run resumes from."""

    def __init__(self, path: Path, start: int) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= start] if start else []
        checkpoints.write_text(path, "".join(line + "\n" for line in kept))
        self.path = path

    def write(self, step: int, values: dict[str, float]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | {k: round(v, 10) for k, v in values.items()}) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a line that the end of a killed run left unfinished
        return float("inf")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM so that the step in hand is finished; a second one acts as usual."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    names = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.getsignal(s) for s in names}

    def note(number: int, _: Any) -> None:
        asked.append(number)
        for s in names:
            signal.signal(s, before[s])

    for s in names:
        signal.signal(s, note)
    try:
        yield asked
    finally:
        for s in names:
            signal.signal(s, before[s])


def _save_bad_rows(path: Path, error: NonFinite, tokenizer: Any) -> None:
    decode = tokenizer.decode if tokenizer is not None else list
    rows = [{"source": e.source, "prompt": decode(list(e.prompt)), "responses": [decode(list(r)) for r in e.responses],
             "scores": e.scores, "labels": e.labels, "pairs": e.pairs} for e in error.examples]
    checkpoints.write_text(path, json.dumps({"error": str(error), "rows": rows}, indent=1, ensure_ascii=False))


def train(config: Config, *, progress: bool = True) -> dict[str, Any]:
    """Run a config to its end in its output folder, resuming what is there. Returns the record saved as run.json.

    Raises:
        InputError: refused before anything began.
        NonFinite, Interrupted: see `fit`.
    """
    if not config.output:
        raise InputError("output: expected a folder")
    output = Path(config.output)
    with checkpoints.claimed(output, config.to_dict()) as finished:
        if finished:
            return json.loads((output / RECORD).read_text())
        try:
            job = prepare(config)
        except InputError:
            if not (output / "checkpoints").exists():
                _withdraw(output)
            raise
        for note in job.notes:
            print(note, file=sys.stderr)
        (output / "nonfinite.json").unlink(missing_ok=True)
        evaluation = fit(job, output=output, progress=progress)
        if job.trainer.accelerator.is_main_process:
            return _finish(job, output, evaluation)
        return {}


def _withdraw(output: Path) -> None:
    """Leave no trace of a run that was refused before its first step."""
    for name in (RECORD, ".lock"):
        (output / name).unlink(missing_ok=True)
    if not any(output.iterdir()):
        output.rmdir()


def _finish(job: Job, output: Path, evaluation: dict[str, float]) -> dict[str, Any]:
    """Write the result beside and move it into place, the record last."""
    import shutil
    import tempfile

    from una_ref.training.card import card, versions

    model = job.trainer.policy.model
    record = {"config": job.config.to_dict(), "finished": True, "steps": job.config.steps, "notes": job.notes,
              "evaluation": evaluation, "versions": versions(), "template": job.encoder.template}
    with tempfile.TemporaryDirectory(dir=output, prefix=".result-") as beside:
        if job.trainer.policy.adapters and job.made:
            base = Path(beside) / "base"
            with job.trainer.policy.as_reference():
                pass
            _save_base(model, base, job.tokenizer)
            for config in model.peft_config.values():
                config.base_model_name_or_path = str((output / "base").resolve())
        model.save_pretrained(beside)
        job.tokenizer.save_pretrained(beside)
        (Path(beside) / CARD).write_text(card(record))
        for part in sorted(Path(beside).iterdir()):
            target = output / part.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(part, target)
    checkpoints.write_text(output / RECORD, json.dumps(record | {"config": {**record["config"],
                           "steps": job.config.steps}}, indent=1))
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    return record


def _save_base(model: Any, folder: Path, tokenizer: Any) -> None:
    """The base model under an adapter, as a folder of its own."""
    inner = model.get_base_model()
    names = {name.replace(".base_layer", ""): value for name, value in inner.state_dict().items()
             if ".lora_" not in name}
    inner.save_pretrained(folder, state_dict=names)
    tokenizer.save_pretrained(folder)
