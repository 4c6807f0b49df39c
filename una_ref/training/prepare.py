"""From a config to a job that is ready to start: data, model, policy, trainer and, online, the sampler.

Rows are read into one list on disk; from there they are gathered, converted and encoded into the one store of examples.
Offline and online runs take the same path. Online, a row is reduced to its prompt, and the examples are sampled.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from una_ref.data import conversions, toysteer
from una_ref.data.batch import Example
from una_ref.data.encoder import Encoder
from una_ref.data.examples import Examples
from una_ref.data.row_sets import split_name
from una_ref.data.rows import Row
from una_ref.data.toysteer import TOYSTEER_BASE
from una_ref.errors import InputError
from una_ref.methods import weighted
from una_ref.methods.arguments import Need, argument, names, needs
from una_ref.policies import reward_sources
from una_ref.policies.anatomy import end_ids
from una_ref.policies.answers import RewardSource
from una_ref.policies.reference_cache import ReferenceCache, fingerprint
from una_ref.policies.rollout import HuggingFace, Sampler
from una_ref.policies.vllm import VLLM
from una_ref.training import optimizer, trackers
from una_ref.training.batches import mismatched, order
from una_ref.training.config import Config
from una_ref.training.distributed import processes
from una_ref.training.job import Job
from una_ref.training.losses import Losses
from una_ref.training.model import model_and_tokenizer, policy_for
from una_ref.training.rates import default_rate
from una_ref.training.reading import ReadRows, eval_rows, gives_columns, held_out_rows, read_rows, usable_rows
from una_ref.training.samplers import Rollouts
from una_ref.training.stopping import Best, Patience
from una_ref.training.toysteer_base import is_toysteer
from una_ref.training.trainer import Trainer


def prepare(
    config: Config,
    *,
    rows: Sequence[Row] | None = None,
    model: Any = None,
    tokenizer: Any = None,
    reward: RewardSource | None = None,
    references: Path | None = None,
    forward: bool = True,
) -> Job:
    """Everything up to the first step.

    Args:
        config: of the run.
        rows: replace those that the config names. `config.data` then only says whether they are ToySteer's (the
            default): responses are cut at its horizon, and held-out rows share their prompts with the others.
        model: replaces the one that the config names, together with its tokenizer.
        tokenizer: of the model.
        reward: replaces the one that the config names; online only.
        references: folder for the log-probs of ``reference=cache``; None keeps them for this job alone.
        forward: whether the reference is compared with the policy on the first batch. A model that only stands in for
            another needs no such pass.

    Raises:
        InputError: data, model or config cannot be trained with. Nothing has been trained then.
    """
    trackers.check(config)
    optimizer.check(config)
    rows = read_rows(config, others=reward is not None or gives_columns(config)) if rows is None else rows
    said = rows.notes if isinstance(rows, ReadRows) else []
    names = array("Q")
    kept, notes = usable_rows(rows, config, note=lambda row: names.append(split_name(row, config.seed)))
    if config.on_policy and is_toysteer(config) and reward is None and (config.max_response or 0) > toysteer.LENGTH:
        longest = f"expected at most {toysteer.LENGTH}, the longest response of ToySteer, got {config.max_response}"
        raise InputError(f"max_response: {longest}")
    world = toysteer.ToySteer(seed=config.seed) if config.on_policy and is_toysteer(config) else None
    if config.on_policy and reward is None:  # before the policy, which may take a long time to load
        reward = reward_sources.reward_source(config.judge, world=world)
    own_base = False
    if model is None:
        model, tokenizer, own_base = model_and_tokenizer(config, rows)
        if not config.model and (config.shape or not is_toysteer(config)):
            size = sum(p.numel() for p in model.parameters())
            notes.append(f"model: a small Mistral of random weights ({size:,} parameters), since none is named")
    encoder = encoder_for(config, model, tokenizer)
    if config.model not in ("", TOYSTEER_BASE):
        said = [*_first_lines(config, model, encoder), *said]
    if encoder.max_length < config.max_length:
        notes.append(f"max_length: {encoder.max_length}, the model's positions, in place of {config.max_length}")
    room = room_for(encoder.max_response, encoder.max_length) if config.on_policy else None

    apart = held_out_rows(names, config) if world is None else np.zeros(len(kept), bool)
    training_rows = kept.picked(~apart)
    examples = encoder.encode(training_rows, room=room)
    prompts = encoder.prompt_count  # each may have a learned V(x)
    held_out_examples = encoder.fitting(kept.picked(apart), room=room)
    if config.eval_data:
        chosen, more = eval_rows(config, {*names})
        held_out_examples = encoder.encode(chosen, room=room)
        notes += more
    elif world:  # a world has few prompts, so an evaluation samples new responses to the same prompts
        held_out_examples = examples
    elif config.held_out and len({*held_out_examples.prompts}) < 2:
        notes.append(f"nothing held out: {config.held_out:g} of the data is less than two prompts")
        examples.extend(held_out_examples)
        held_out_examples, prompts = Examples(), encoder.prompt_count
    if not world:
        said = [*said, f"rows: {len(examples)} to train on, {len(held_out_examples)} held out for evaluation"]
    notes = [*said, *notes, *(f"{what}: {number}" for what, number in sorted(encoder.counts.items()))]
    if config.epochs:
        config = replace(config, steps=max(1, round(config.epochs * len(examples) / config.batch)))
        notes.append(f"epochs: {config.epochs:g}, which is {config.steps} steps")
    if examples.kinds & {"scores", "lists"}:
        low, high = examples.lowest, examples.highest
        notes.append(f"scores: from {low:.4g} to {high:.4g}, as they are: in units of the reward")

    notes += _of_pairs(examples)
    if config.losses and config.record.reward.function:
        notes.append(f"losses: metrics report the reward of {config.method} alone: {config.record.formula}")
    notes += [config.record.note] if config.record.note else []

    losses, demos = config.losses_by_kind, Examples[Example]()
    if not config.on_policy:
        losses = {kind: loss for kind, loss in losses.items() if kind in examples.kinds}
        _check_terms(config, examples)
        if other := held_out_examples.kinds - losses.keys():
            found = f"got {', '.join(sorted(other))}. Fix: set learn_from"
            raise InputError(f"eval_data: expected {', '.join(sorted(losses))}, as in data, {found}")
    elif config.auxiliary:
        losses = losses | config.auxiliary
        demos = encoder.encode(conversions.conform(training_rows, ("demos",))[0])
    policy = policy_for(model, config, encoder)
    trainer = Trainer(policy, losses, config, prompts=prompts, value_start=value_start(losses, examples))
    rollouts = None
    if config.on_policy and reward is not None and room is not None:
        rollouts = _rollouts(config, trainer, encoder, reward, room, own_base)
    metric = "eval_reward" if config.on_policy else "eval_loss"
    callbacks = [Patience(config.patience, metric, rising=config.on_policy)] if config.patience else []
    best = Best(config.keep_best) if config.keep_best else None
    if best and not held_out_examples:
        raise InputError("keep_best: expected held-out rows to evaluate on, got none. Fix: set eval_data, or held_out")
    job = Job(
        *(config, trainer, examples, held_out_examples, tokenizer, encoder, own_base, notes, rollouts, demos),
        callbacks=callbacks,
        best=best,
    )
    _check_start(job, notes, encoder, references, forward)
    return job


def _first_lines(config: Config, model: Any, encoder: Encoder) -> list[str]:
    """What a run on a named model says first: the model, what its template adds, and the learning rate."""
    lines = [f"model: {config.model}, {sum(p.numel() for p in model.parameters()):,} parameters"]
    if default := encoder.default_system_prompt:
        lines.append(f"template: adds a system prompt to rows without one: {default!r}")
    if config.lr is None:
        rate = default_rate(config.model, config.lora_r)
        lines.append(f"lr: {rate.value:g}, the default for {rate.situation}")
    return lines


def _of_pairs(examples: Examples[Any]) -> Iterator[str]:
    """What is said of weights and margins of pairs."""
    for name, what in (
        ("weights", "each pair's loss is multiplied by its own, and the sum is divided by the number of pairs"),
        ("margins", "of the column margin, in place of differences of scores"),
    ):
        if name in examples.spans:
            low, high = examples.spans[name]
            if name == "weights" and not high:
                raise InputError("weight: expected a pair with a weight above 0, got 0 in all. Fix: columns.weight=")
            yield f"{name}: from {low:.4g} to {high:.4g}, {what}"


def _check_terms(config: Config, examples: Examples[Any]) -> None:
    """Refuse a sum of losses with a method that no feedback in the data is for."""
    for name, term, _ in weighted.terms(config.losses) if config.losses else ():
        if not any(weighted.on(term, kind) for kind in examples.kinds):
            kinds, found = " or ".join(term.kinds), ", ".join(sorted(examples.kinds))
            raise InputError(f"losses: {name}: expected {kinds} in the data, got {found}. Fix: leave it out")


def encoder_for(config: Config, model: Any, tokenizer: Any) -> Encoder:
    """How a run's text becomes token ids."""
    return Encoder(
        tokenizer,
        max_length=min(config.max_length, getattr(model.config, "max_position_embeddings", config.max_length)),
        max_response=config.max_response or (toysteer.LENGTH if is_toysteer(config) else None),
        max_prompt=config.max_prompt,
        split_special_tokens=config.splits_special_tokens,
        ends=end_ids(model, tokenizer),
        bad_rows=config.bad_rows,
    )


def room_for(max_response: int | None, max_length: int) -> int:
    """Most tokens that are sampled of a response."""
    return max_response or min(256, max_length // 2)


# ---- what the losses ask for


def value_start(losses: Losses, examples: Examples[Any]) -> float:
    """`first_value` of some examples."""
    return first_value(losses, examples.mean("scores"), examples.mean("labels"))


def first_value(losses: Losses, score: float | None, label: float | None) -> float:
    """Where a learned V(x) starts: the constant that fits the feedback while the policy is still its reference.

    For scores that is their mean. For labels of mean p it is log(p / (1 − p)) if the loss reads a label as a
    probability, and 2p − 1 if it reads it as a reward of ±1. The loss decides: its mean is lower at the right one.

    Args:
        losses: by kind of feedback.
        score: the mean score; None: there are none.
        label: the mean label; None: there are none.
    """
    loss = losses.get("labels")
    if score is not None:
        return score
    if label is None or loss is None or Need.BASELINE not in needs([loss]):
        return 0.0
    zero, both, share = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([label, 1 - label])

    asked = {name: entry for name in names(loss) if (entry := argument(name)) is not None}
    others = {name: torch.zeros(()) if entry.kind == "batch" else zero for name, entry in asked.items()}

    def mean_loss(start: float) -> float:
        return float(share @ loss(**others | {"labels": both, "baseline": start}))

    return min(float(torch.logit(torch.tensor(label), eps=1e-3)), 2 * label - 1, key=mean_loss)


def _rollouts(
    config: Config, trainer: Trainer, encoder: Encoder, reward: RewardSource, room: int, own_base: bool
) -> Rollouts:
    """The sampler of responses, and the reward that scores them."""
    tokenizer = encoder.tokenizer
    sampling: dict[str, Any] = {"temperature": config.temperature, "every": 2 if config.keep == "best_and_worst" else 1}
    sampling["other_ends"] = encoder.ends[1:]
    engine: Sampler
    if config.engine == "vllm":
        if processes().num_processes > 1:
            raise InputError(f"engine=vllm: expected one process, got {processes().num_processes}")
        if own_base:
            raise InputError(
                "engine=vllm: expected a base on disk that vLLM can load, got one that is made or merged here"
            )
        engine = VLLM(encoder.ends[0], positions=encoder.max_length, **sampling)
    else:
        engine = HuggingFace(encoder.ends[0], merge=config.merge, **sampling)
    # Responses are compared if they are ranked or if a baseline is the mean of the others. Too few samples a prompt are
    # refused with the first batch.
    in_pairs = config.keep in ("best_and_worst", "rejection") or config.rivals == "samples"
    compared = in_pairs or trainer.compares_group or "lists" in trainer.losses
    least = min(2 if compared else 1, config.samples_per_prompt)
    penalty = config.missing_eos_penalty
    reward = reward_sources.bound(reward, trainer.policy, encoder)
    where: dict[str, Any] = {"source": config.source, "rivals": config.rivals, "share": config.mixture}
    return Rollouts(
        engine, reward, config.judge, tokenizer, config.samples_per_prompt, room, config.seed, penalty, least, **where
    )


def _check_start(job: Job, notes: list[str], encoder: Encoder, references: Path | None, forward: bool) -> None:
    """Sample the first batch and compute its reference; refuse what a later step could not train on."""
    config, trainer = job.config, job.trainer
    engine = job.rollouts.engine if job.rollouts else None
    picked = job.examples[: config.batch]
    if job.rollouts is None:
        first = cast(Sequence[Example], picked)
        _check_batches(trainer, cast(Examples[Example], job.examples), cast(Examples[Example], job.held_out))
    else:
        prompts, (first, drawn) = len(picked), job.answered(picked, 0, record=True)
        if drawn["dropped_prompts"] == prompts:
            raise InputError(f"reward {config.judge}: expected scores, got none for {prompts} prompts")
        if drawn.get("ended") == 0:
            ends = ", ".join(map(repr, encoder.tokenizer.convert_ids_to_tokens(list(encoder.ends))))
            notes += [f"no sampled response ended: all were cut at {job.rollouts.max_new} tokens, before any of {ends}"]
        job.seconds.clear()
        _check_batches(trainer, Examples(first), Examples())
    if first and forward:  # online there is no pair if all scores of each prompt are equal
        notes += _reference_notes(trainer, encoder, first, references)
    if isinstance(engine, HuggingFace):
        notes += [engine.merging.why]
    if engine and "sampler_gap" in drawn:
        gap = drawn["sampler_gap"]
        notes += [f"the sampler's log-probs at step 0: within {gap:.2g} nats of the training forward's"]


def _check_batches(trainer: Trainer, examples: Examples[Example], held_out: Examples[Example]) -> None:
    """Refuse examples that the losses could not take in a later step."""
    config = trainer.config
    for kind, loss in trainer.losses.items():
        source = examples.alone.get(kind, held_out.alone.get(kind))
        if trainer.compares_group and Need.GROUP in needs([loss]) and source is not None:
            raise InputError(
                f"{source} {kind}: expected two or more responses of a prompt for {config.method}, got one. "
                f"Fix: baseline=learned, which learns V(x){'' if config.group else ', or group=true'}"
            )
    if Need.KL in trainer.needs:
        for step in range(config.steps):
            picked = order(len(examples), step, config.batch, config.seed)
            if len({examples.prompts[i] for i in picked}) < 2:
                next(mismatched([examples[i] for i in picked]))  # raises the error


def _reference_notes(
    trainer: Trainer, encoder: Encoder, examples: Sequence[Example], references: Path | None
) -> list[str]:
    """The distance of the reference from the policy at the start; turns on the cache of its log-probs, if asked for."""
    policy, config = trainer.policy, trainer.config
    if not policy.has_reference:
        return []
    if config.reference == "cache":
        reference = policy.copy[0] if policy.copy else policy.model
        key = fingerprint(reference, encoder, arithmetic=trainer.arithmetic) if references else ""
        trainer.cache = ReferenceCache(references, key)
    gap = trainer.check_start(examples)
    what = f"the reference is {config.reference_model}: " if policy.second else "implicit rewards at step 0: "
    notes = [f"{what}|log π − log π_ref| ≤ {gap:.2g} nats{' at step 0' if policy.second else ''}"]
    if config.refresh:
        move = "becomes the policy" if config.refresh_mix == 1 else f"takes {config.refresh_mix:g} of the policy"
        notes.append(f"the reference {move} every {config.refresh} steps; implicit rewards are those since then")
    return notes
