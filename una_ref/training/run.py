"""A run from its config to a finished folder: data, model, loop, result."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from array import array
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from una_ref.data import conversions, toysteer
from una_ref.data.batch import Example
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row, count_prompts, gathered, group_by_prompt, prompt_key, shuffled_scores, split
from una_ref.data.stored import Stored
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.methods.arguments import Need, needs
from una_ref.policies import loading, reward_sources, scorers
from una_ref.policies.answers import RewardSource
from una_ref.policies.critics import Critic, copy_core
from una_ref.policies.reference_cache import ReferenceCache, fingerprint
from una_ref.policies.references import Policy
from una_ref.policies.rollout import HuggingFace, Sampler
from una_ref.policies.scorers import Scorer
from una_ref.policies.vllm import VLLM
from una_ref.training import result, trackers
from una_ref.training.batches import mismatched, order
from una_ref.training.checkpoints import RECORD, claimed
from una_ref.training.config import Config
from una_ref.training.distributed import from_main, processes
from una_ref.training.loop import Job, fit
from una_ref.training.samplers import Rollouts
from una_ref.training.stopping import Patience
from una_ref.training.toysteer_base import toysteer_base, toysteer_rows
from una_ref.training.trainer import Trainer

# ---- folders


def cache_folder() -> Path:
    """Where things made here are kept between runs: UNA_REF_CACHE, or una_ref in the user's cache folder."""
    own = os.environ.get("UNA_REF_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "una_ref"


def made_once(config: Config, *, progress: bool = True) -> Path:
    """A config's folder with its finished run: made there the first time, by whoever comes first.

    Raises:
        InputError: several processes would have to make it; one has to have done so before.
    """
    folder = Path(config.output)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # whoever comes second waits for the first and finds it made
        if not _finished(folder):
            if processes().num_processes > 1:
                raise InputError(
                    f"{folder.name}: expected it in the cache, got none; make it by one run without torchrun"
                )
            shutil.rmtree(folder, ignore_errors=True)
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # matrices this small gain nothing from a second one, and lose on a busy machine
            try:
                train(config, progress=progress)
            finally:
                torch.set_num_threads(threads)
    return folder


def _finished(folder: Path) -> bool:
    return (folder / RECORD).exists() and bool(json.loads((folder / RECORD).read_text("utf-8"))["finished"])


def _toy(config: Config) -> bool:
    return config.data.partition("/")[0] == "toysteer"


# ---- data and model


def read_rows(config: Config) -> Stored[Row]:
    """All rows that the config names, whatever columns each file has."""
    if _toy(config):
        return Stored(toysteer_rows(config))
    from una_ref.data.items import STDIN, files
    from una_ref.data.sources import read

    names = [file for name in config.data.split(",") for file in files(name)]
    if STDIN in names and processes().num_processes > 1:
        raise InputError("data: expected files, since several processes read them, got standard input")
    options: dict[str, Any] = {"limit": config.rows, "split": config.split, "empty": config.empty}
    options["prompts"] = config.on_policy
    return Stored(row for name in names for row in read(name, **options))


def conform(rows: Sequence[Row], config: Config) -> tuple[Stored[Row], list[str]]:
    """Rows with the one kind of feedback that the method learns from, and what was done to get there."""
    if not rows:
        raise InputError(f"data {config.data}: expected at least one row, got none")
    if config.group:
        rows = group_by_prompt(rows)
    threshold = config.threshold if config.threshold == "median" else float(config.threshold)
    kept, reports = conversions.conform(rows, tuple(config.losses), threshold=threshold, ties=config.ties)
    notes = [str(report) for report in reports]
    if config.shuffle:
        kept = shuffled_scores(kept, config.seed)
        notes.append("feedback shuffled over the whole data set (placebo)")
    return kept, notes


def model_and_tokenizer(config: Config, rows: Sequence[Row]) -> tuple[Any, Any, bool]:
    """The model to start from, its tokenizer with the config's template, and whether the model exists nowhere else."""
    model, tokenizer, own = _found_or_made(config, rows)
    if config.template:
        tokenizer.chat_template = config.template
    return model, tokenizer, own


def _found_or_made(config: Config, rows: Sequence[Row]) -> tuple[Any, Any, bool]:
    dtype = config.weights_dtype
    if config.model:
        from transformers.utils import find_adapter_config_file

        model, tokenizer = loading.load(config.model, dtype, load_in_4bit=config.load_in_4bit)
        return model, tokenizer, find_adapter_config_file(config.model) is not None  # merged into its base, then
    if _toy(config) and not config.shape:
        return *loading.load(str(toysteer_base()), dtype), True
    if _toy(config):
        tokenizer, suppressed = toysteer.tokenizer(), list(toysteer.NEVER_EMITTED)
    else:
        tokenizer, suppressed = loading.byte_pair_tokenizer(_texts(rows), config.vocabulary), []
    try:
        model = loading.small_mistral(tokenizer, config.seed, **config.shape)
    except Exception as error:  # sizes that do not fit together: transformers' own class, or torch's
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"shape: expected sizes of a Mistral, got {config.shape}: {reason}") from error
    model.generation_config.suppress_tokens = suppressed or None
    for weight in model.parameters():  # and no buffer: rotary frequencies are float32 in a model that is loaded
        weight.data = weight.data.to(getattr(torch, dtype))
    return model, tokenizer, True


def _texts(rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        yield from ([row.prompt] if isinstance(row.prompt, str) else (message["content"] for message in row.prompt))
        yield from row.responses


def prepare(
    config: Config,
    *,
    rows: Sequence[Row] | None = None,
    model: Any = None,
    tokenizer: Any = None,
    reward: RewardSource | None = None,
    references: Path | None = None,
) -> Job:
    """Everything up to the first step. Rows, model, tokenizer and reward may be given for what the config names.

    Of rows that are given, `config.data` only says whether they are ToySteer's (it is so by default): then responses
    are cut at its horizon, and the held-out rows are of the same prompts. The log-probs of ``reference=cache`` are
    kept in the folder `references`, or for this job alone.

    Raises:
        InputError: whatever is wrong with data, model or config, before anything is trained.
    """
    trackers.check(config)
    rows = read_rows(config) if rows is None else rows
    kept, notes = (_by_prompt(rows), []) if config.on_policy else conform(rows, config)
    world = toysteer.ToySteer(seed=config.seed) if config.on_policy and _toy(config) else None
    if config.on_policy and reward is None:  # before the policy, which may take long to load
        reward = reward_sources.reward_source(config.reward, world=world)
    own_base = False
    if model is None:
        model, tokenizer, own_base = model_and_tokenizer(config, rows)
        if not config.model and (config.shape or not _toy(config)):
            size = sum(p.numel() for p in model.parameters())
            notes.append(f"model: a small Mistral of random weights ({size:,} parameters), since none is named")
    longest = min(config.max_length, getattr(model.config, "max_position_embeddings", config.max_length))
    if longest < config.max_length:
        notes.append(f"max_length: {longest}, the model's positions, in place of {config.max_length}")
    horizon = config.max_response or (toysteer.LENGTH if _toy(config) else None)
    encoder = Encoder(
        tokenizer,
        max_length=longest,
        max_response=horizon,
        max_prompt=config.max_prompt,
        split_special_tokens=config.split_special_tokens,
    )
    if config.on_policy and reward is not None:
        return _online(config, kept, model, tokenizer, encoder, own_base, notes, reward, world, references)
    train_rows, held_rows = _held_out(kept, config)
    examples = encoder.encode(train_rows)
    prompts = encoder.prompts
    held_out = encoder.fitting(held_rows)
    if config.held_out and all(e.prompt == held_out[0].prompt for e in held_out):
        notes.append(f"nothing held out: {config.held_out:g} of the data is less than two prompts")
        examples.extend(held_out)
        held_out, prompts = Stored(), encoder.prompts
    notes += [f"{what}: {number}" for what, number in sorted(encoder.counts.items())]
    if config.epochs:
        config = replace(config, steps=max(1, round(config.epochs * len(examples) / config.batch)))
        notes.append(f"epochs: {config.epochs:g}, which is {config.steps} steps")

    policy = _policy(model, config, encoder)
    kinds, low, high = set(), math.inf, -math.inf
    for e in examples:
        kinds.add(e.kind)
        low, high = min((low, *(e.scores or ()))), max((high, *(e.scores or ())))
    if low <= high:
        notes.append(f"scores: from {low:.4g} to {high:.4g}, as they are: in units of the reward")
    losses = {kind: loss for kind, loss in config.losses.items() if kind in kinds}
    trainer = Trainer(policy, losses, config, prompts=prompts, value_start=_value_start(examples))
    _check_batches(trainer, examples, held_out)
    notes += _start(trainer, encoder, examples[: config.batch], references)
    callbacks = [Patience(config.patience, "eval_loss", rising=False)] if config.patience else []
    return Job(config, trainer, examples, held_out, tokenizer, encoder, own_base, notes, callbacks=callbacks)


def _online(
    config: Config,
    by_prompt: Stored[Row],
    model: Any,
    tokenizer: Any,
    encoder: Encoder,
    own_base: bool,
    notes: list[str],
    reward: RewardSource,
    world: toysteer.ToySteer | None,
    references: Path | None = None,
) -> Job:
    """The job whose responses the policy draws: of the rows, one of each prompt, only the prompts are taken."""
    train_rows, held_rows = (by_prompt, by_prompt[:0]) if world else _held_out(by_prompt, config)
    room = room_for(encoder.max_response, encoder.max_length)
    questions = Stored(q for row in train_rows if (q := encoder.question(row, room)) is not None)
    prompts = encoder.prompts  # of these a V(x) can be learned
    held_out = Stored(q for row in held_rows if (q := encoder.question(row, room)) is not None)
    held_out = questions if world else held_out  # a world has few prompts: new answers to the same ones
    if not questions:
        raise InputError(f"data {config.data}: expected a prompt that leaves room for {room} tokens, got none")
    notes += [f"{what}: {number}" for what, number in sorted(encoder.counts.items())]
    if config.epochs:
        config = replace(config, steps=max(1, round(config.epochs * len(questions) / config.batch)))
        notes.append(f"epochs: {config.epochs:g}, which is {config.steps} steps")
    demos = encoder.encode(conversions.conform(train_rows, ("demos",))[0]) if config.auxiliary else ()
    critic = _critic(model, config)
    model = _trainable(model, config)
    second = _second(config, tokenizer)
    policy = Policy(model, has_reference=METHODS[config.method].needs_reference, critic=critic, second=second)
    trainer = Trainer(policy, config.losses | config.auxiliary, config, prompts=prompts)
    hot: dict[str, Any] = {"temperature": config.temperature, "every": 2 if config.keep == "best_and_worst" else 1}
    engine: Sampler
    if config.engine == "vllm":
        if processes().num_processes > 1:
            raise InputError(f"engine=vllm: expected one process, got {processes().num_processes}")
        if own_base:
            raise InputError(
                "engine=vllm: expected a base on disk that vLLM can load, got one that is made or merged here"
            )
        engine = VLLM(tokenizer.eos_token_id, positions=encoder.max_length, **hot)
    else:
        engine = HuggingFace(tokenizer.eos_token_id, merge=config.merge, **hot)
    penalty = config.missing_eos_penalty
    least = min(_least(trainer), config.samples)  # too few samples are refused below
    rollouts = Rollouts(engine, reward, config.reward, tokenizer, config.samples, room, config.seed, penalty, least)
    callbacks = [Patience(config.patience, "eval_reward", rising=True)] if config.patience else []
    job = Job(config, trainer, questions, held_out, tokenizer, encoder, own_base, notes, rollouts, demos, callbacks)
    first = questions[: config.batch]
    examples, drawn = job.answered(first, 0, record=True)
    if drawn["dropped_prompts"] == len(first):
        raise InputError(f"reward {config.reward}: expected answers, got none for {len(first)} prompts")
    job.seconds.clear()
    _check_batches(trainer, examples, ())
    if examples:  # no pair, where all scores of a prompt are equal
        notes += _start(trainer, encoder, examples, references)
    notes += [engine.merging.why] if isinstance(engine, HuggingFace) else []
    notes.append(f"the sampler's log-probs at step 0: within {drawn['sampler_gap']:.2g} nats of the training forward's")
    return job


def room_for(max_response: int | None, max_length: int) -> int:
    """Most tokens that are drawn of a response."""
    return max_response or min(256, max_length // 2)


def _critic(model: Any, config: Config) -> Critic | None:
    """What values tokens, if the losses ask for values: on the model as it is before its adapters."""
    if Need.CRITIC not in needs(config.losses.values()):
        return None
    if config.critic == "head":
        return Critic(model)
    return Critic(model, _trainable(copy_core(model), config, task="FEATURE_EXTRACTION"))


def _policy(model: Any, config: Config, encoder: Encoder) -> Policy:
    """What is trained: a policy with its reference, or a scorer."""
    method = METHODS[config.method]
    if not method.scorer:
        second = _second(config, encoder.tokenizer)
        return Policy(_trainable(model, config), has_reference=method.needs_reference, second=second)
    return Scorer(_trainable(scorers.with_scalar_head(model, encoder, seed=config.seed), config, task="SEQ_CLS"))


def _second(config: Config, tokenizer: Any) -> Any:
    """The second model that is the reference, or None.

    Raises:
        InputError: it has other ids for the policy's tokens.
    """
    if not config.reference_model:
        return None
    model, own = loading.load(config.reference_model, config.weights_dtype)
    ids = own.get_vocab()
    for token, i in tokenizer.get_vocab().items():
        if ids.get(token) != i:
            raise InputError(
                f"reference_model {config.reference_model!r}: expected the policy's vocabulary, where {token!r} has "
                f"id {i}, got {ids.get(token, 'no such token')}"
            )
    loading.disable_dropout(model)
    return model


def _start(trainer: Trainer, encoder: Encoder, examples: Sequence[Example], references: Path | None) -> list[str]:
    """What is to be said of the reference before the first step; from here on its log-probs are cached, if asked."""
    policy, config = trainer.policy, trainer.config
    if not policy.has_reference:
        return []
    if config.reference == "cache":
        reference = policy.copy[0] if policy.copy else policy.model
        key = fingerprint(reference, encoder, arithmetic=trainer.arithmetic) if references else ""
        trainer.cache = ReferenceCache(references, key)
    gap = trainer.check_start(examples)
    what = f"the reference is {config.reference_model}: " if policy.second else "implicit rewards at step 0: "
    return [f"{what}|log π − log π_ref| ≤ {gap:.2g} nats{' at step 0' if policy.second else ''}"]


def _trainable(model: Any, config: Config, *, task: str = "CAUSAL_LM") -> Any:
    """The model without dropout of its own, with what the config adds to it."""
    loading.disable_dropout(model)
    if config.lora_r:
        targets = config.lora_targets if config.lora_targets == "all-linear" else config.lora_targets.split(",")
        r, alpha, dropout = config.lora_r, config.lora_alpha, config.lora_dropout
        try:
            more: dict[str, Any] = {"targets": targets, "seed": config.seed, "task": task}
            model = loading.with_lora(model, r=r, alpha=alpha, dropout=dropout, **more)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"lora_targets: expected modules of the model, got {config.lora_targets!r}: {reason}"
            ) from error
    if config.gradient_checkpointing:
        # The second name is the older one.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


def _by_prompt(rows: Sequence[Row]) -> Stored[Row]:
    """The last row of each prompt, where its first row stood."""
    return Stored(group[-1] for group in gathered(rows, lambda row: prompt_key(row.prompt)))


def _held_out(rows: Stored[Row], config: Config) -> tuple[Stored[Row], Stored[Row]]:
    """Rows to train on and rows to measure on, no prompt on both sides.

    But for ToySteer, whose worlds have few prompts: there, new responses to them.
    """
    if _toy(config):
        kept = len(rows) - round(config.held_out * len(rows))
        return rows[:kept], rows[kept:]
    if round(config.held_out * count_prompts(rows)) < 2:
        return rows, rows[:0]
    return split(rows, config.held_out, config.seed)


def _check_batches(trainer: Trainer, examples: Sequence[Example], held_out: Sequence[Example]) -> None:
    """Refuse what the losses could not take in some later step."""
    config = trainer.config
    grouped = [kind for kind, loss in trainer.losses.items() if trainer.compares_group and Need.GROUP in needs([loss])]
    for e in chain(examples, held_out):
        if e.kind in grouped and len(e.responses) == 1:
            raise InputError(
                f"{e.source}: {e.kind}: expected two or more responses of a prompt for {config.method}, got one; "
                f"learn V(x) instead (baseline=learned){'' if config.group else ', or gather them (group=true)'}"
            )
    if Need.KL in trainer.needs:
        for step in range(config.steps):
            for _ in mismatched([examples[i] for i in order(len(examples), step, config.batch, config.seed)]):
                pass


def _least(trainer: Trainer) -> int:
    """Responses that a prompt has to have: two where they are ranked, or the others' mean is a loss's baseline."""
    return 2 if trainer.config.keep == "best_and_worst" or trainer.compares_group else 1


def _value_start(examples: Sequence[Example]) -> float:
    """A learned V(x) starts at the mean score, or at the logit of the mean label."""
    scores = array("d", (score for e in examples for score in e.scores or ()))
    labels = array("d", (label for e in examples for label in e.labels or ()))
    if scores:
        return sum(scores) / len(scores)
    if labels:
        return float(torch.logit(torch.tensor(sum(labels) / len(labels)), eps=1e-3))
    return 0.0


# ---- the run


def train(config: Config, *, progress: bool = True) -> dict[str, Any]:
    """Run a config to its end in its output folder, going on with what is there; returns what run.json says.

    Every process of a run calls this; the first one writes.

    Raises:
        InputError: refused before anything began.
        NonFinite, Interrupted: see `fit`.
    """
    if not config.output:
        raise InputError("output: expected a folder, got none")
    output = Path(config.output)
    team = processes()
    told = config.to_dict()
    with claimed(output, told) if team.is_main_process else nullcontext(False) as finished:
        if from_main(finished):
            record = json.loads((output / RECORD).read_text("utf-8"))
            if progress and team.is_main_process:
                print(f"{output}: finished already; nothing was trained", file=sys.stderr)
            return record if team.is_main_process else {}
        job = prepare(config, references=cache_folder() / "references")
        if progress and team.is_main_process:
            for note in job.notes:
                print(note, file=sys.stderr)
        said = len(job.notes)
        evaluation = fit(job, output=output, progress=progress)
        if progress and team.is_main_process:
            for note in job.notes[said:]:
                print(note, file=sys.stderr)
        state = result.whole_state(job)
        return result.save(job, told, output, evaluation, state) if team.is_main_process else {}
