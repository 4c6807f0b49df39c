"""A dry run: the config, sizes and memory of a run, and its first row through model and loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from una_ref.data.batch import Example
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.templates import given_template
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.training.config import Config
from una_ref.training.distributed import processes
from una_ref.training.job import Job
from una_ref.training.memory import Models, largest, memory, models, table
from una_ref.training.model import model_and_tokenizer
from una_ref.training.prepare import prepare, room_for
from una_ref.training.rates import default_rate
from una_ref.training.reading import gives_columns, read_rows, usable_rows
from una_ref.training.samplers import most_kept
from una_ref.training.settings import output_of, recipes
from una_ref.training.statistics import at_start


def dry_run(config: Config) -> str:
    """The report as text. It names what it cannot show for lack of data or model.

    Raises:
        InputError: what the run itself would refuse.
    """
    lines = ["config (all other keys have their defaults, see una-ref train --help)"]
    lines += [json.dumps(config.changed(), indent=1, ensure_ascii=False), ""]
    try:
        rows = read_rows(config, others=gives_columns(config))
    except InputError as error:
        if not (config.model and isinstance(error.__cause__, ConnectionError)):
            raise
        missing = f"not shown, since the data are not available: rows and their conversions ({error})"
        return "\n".join([*lines, *_planned(config), "", missing])
    kept = rows if config.on_policy else usable_rows(rows, config)[0]
    try:
        model, tokenizer, _ = model_and_tokenizer(config, rows)
    except InputError as error:
        folder = Path(config.model)
        absent = loading.is_missing_path(config.model) or (folder.is_dir() and not any(folder.glob("*.json")))
        if not config.model or (absent and config.model not in map(output_of, recipes())):
            raise
        return "\n".join([*lines, *_without_model(config, kept[0], error)])
    job = prepare(config, rows=rows, model=model, tokenizer=tokenizer)
    return "\n".join([*lines, *_sizes(job), "", *_first_row(job)])


def _sizes(job: Job) -> Iterator[str]:
    trainer, config = job.trainer, job.config
    tokens = [e.tokens if isinstance(e, Example) else len(e.ids) for e in job.examples]
    total = sum(p.numel() for p in trainer.policy.parameters())
    trained = sum(p.numel() for p in trainer.trained.values())
    yield "sizes"
    yield f"  parameters   {total:,}, of which {trained:,} are trained"
    yield f"  rows         {len(job.examples)} to train on, {len(job.held_out)} held out"
    unit = "prompt" if job.rollouts else "row"
    mean = sum(tokens) / len(tokens)
    yield f"  tokens       mean {mean:.1f} per {unit}, at most {max(tokens)}, each prompt stored once"
    yield from _steps(config, job.rollouts.max_new if job.rollouts else None)
    yield f"  forward pass at most {config.micro_tokens} tokens, layout {trainer.layout}"
    yield f"  run          {config.steps} steps, {config.steps * config.batch / len(job.examples):.3g} epochs"
    yield f"  device       {trainer.accelerator.device}, dtype {config.dtype}"
    yield from (f"  {note}" for note in job.notes)
    yield ""
    yield from _memory(config, models(config, trainer.policy.model.config), _largest_of(job))


def _largest_of(job: Job) -> Example:
    """The row that takes the most tokens; of questions, the longest with responses as long as they may be."""
    longest = max(job.examples, key=lambda e: e.tokens if isinstance(e, Example) else len(e.ids))
    if isinstance(longest, Example) or job.rollouts is None:
        return cast(Example, longest)
    count = most_kept(job.config.keep, job.config.samples_per_prompt)
    return Example(longest.ids, ((0,) * job.rollouts.max_new,) * count)


def _memory(config: Config, held: Models, row: Example) -> Iterator[str]:
    count = processes().num_processes
    yield f"memory of each of {count} process(es) in GB (10⁹ bytes), if every row had the greatest length"
    yield from memory(config, held, row, processes=count).lines()


def _steps(config: Config, response: int | None) -> Iterator[str]:
    """The work of a step; `response` is the most tokens of a sampled response, or None offline."""
    rate = default_rate(config.model, config.lora_r)
    default = f", the default for {rate.situation}" if config.lr is None else ""
    yield f"  lr           {config.learning_rate:g}{default}"
    if response is not None:
        yield f"  responses    {config.samples_per_prompt} sampled per prompt in a step, at most {response} tokens each"
    yield f"  step         {config.batch} rows, {processes().num_processes} process(es)"
    if response is not None:
        passes, minibatches = config.updates
        yield f"  updates      {passes * minibatches} per step: {passes} pass(es) of {minibatches}"


def _planned(config: Config) -> Iterator[str]:
    """Sizes, steps and memory from the config alone.

    Raises:
        InputError: the sizes of a model are not known.
    """
    held = models(config)
    parameters = [*held.policy.parameters(), *(held.critic.parameters() if held.critic else ())]
    positions = held.policy.config.max_position_embeddings
    longest = min(config.max_length, positions)
    drawn = room_for(config.max_response, longest)
    response = drawn if config.on_policy else min(config.max_response or longest, longest - 1)
    row = largest(config, positions, response)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    yield "sizes"
    yield from (f"  {source}" for source in held.sources)
    yield f"  parameters   {sum(p.numel() for p in parameters):,}, of which {trained:,} are trained"
    if config.on_policy:
        yield f"  tokens       at most {len(row.prompt)} per prompt, {response} per response"
    else:
        yield f"  tokens       at most {longest} per prompt with one response"
    yield from _steps(config, response if config.on_policy else None)
    yield f"  forward pass at most {config.micro_tokens} tokens"
    rows = table("datasets").get(config.data)
    if not config.epochs:
        yield f"  run          {config.steps} steps"
    elif rows:
        kept = round(rows * (1 - config.held_out))
        steps = round(config.epochs * kept / config.batch)
        yield f"  run          {config.epochs:g} epochs of at most {kept:,} rows, which is {steps:,} steps"
    else:
        yield f"  run          {config.epochs:g} epochs"
    if config.on_policy and not config.epochs:
        passes, minibatches = config.updates
        answers = config.steps * config.batch * config.samples_per_prompt
        updates = config.steps * passes * minibatches
        yield f"               {answers:,} responses sampled and scored, {updates:,} updates"
    yield ""
    yield from _memory(config, held, row)


@torch.no_grad()
def _first_row(job: Job) -> Iterator[str]:
    trainer = job.trainer
    rows, _ = job.answered(job.examples[: job.config.batch if job.rollouts else 1], 0, record=False)
    if not rows:
        yield "no row to show: in the first rollout, all responses to each prompt have the same score"
        return
    example = rows[0]
    trainer.policy.eval()
    forward = trainer.forward([example], at_start(trainer.statistics, [example]))
    batch = forward.batch
    scored = [batch.target[batch.response == i].tolist() for i in range(len(example.responses))]
    yield "the first row through model and loss"
    yield from _text(example, job.tokenizer, scored)
    for i in range(len(example.responses)):
        numbers = (
            ("log π", forward.logps, " nats"),
            ("log π_ref", forward.ref_logps, " nats"),
            (f"reward {trainer.method.reward.formula}", forward.rewards, ""),
        )
        known = (f"{name} {float(values[i]):.4f}{unit}" for name, values, unit in numbers if values is not None)
        yield f"  response {i}: {', '.join(known)}"
    yield f"  loss ({example.kind}): {', '.join(f'{loss:.6f}' for loss in forward.values.tolist())}"


def _text(example: Example, tokenizer: Any, scored: list[list[int]] | None = None) -> Iterator[str]:
    """The row as text and token ids, and the text of the tokens that a batch scores."""
    yield f"  from       {example.source}"
    yield f"  prompt     {tokenizer.decode(list(example.prompt))!r}"
    yield f"    ids      {list(example.prompt)}"
    for i, response in enumerate(example.responses):
        feedback = {"score": example.scores, "label": example.labels}
        given = "".join(f", {name} {values[i]:g}" for name, values in feedback.items() if values)
        yield f"  response {i}{given}"
        yield f"    ids      {list(response)}"
        if scored:
            yield f"    scored   {tokenizer.decode(scored[i])!r}"
    for place, (chosen, rejected) in enumerate(example.pairs or ()):
        both = {"weight": example.weights, "margin": example.margins}
        more = "".join(f", {name} {values[place]:g}" for name, values in both.items() if values)
        yield f"  pair       {chosen} over {rejected}{more}"


def _without_model(config: Config, row: Row, reason: InputError) -> Iterator[str]:
    """The row's text; its ids if the tokenizer is available; sizes and memory if the architecture is known."""
    from transformers import AutoTokenizer

    missing = []
    yield "the first row"
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)
        if config.template:
            tokenizer.chat_template = given_template(config.template)
        encoder = Encoder(
            tokenizer,
            max_length=config.max_length,
            max_response=config.max_response,
            split_special_tokens=config.splits_special_tokens,
        )
        if row.responses:
            yield from _text(encoder.encode([row])[0], tokenizer)
        else:
            yield f"  prompt     {row.prompt!r}"
            yield f"    ids      {encoder.prompt_ids(row)}"
    except (OSError, ValueError):
        missing.append("ids")
        yield f"  from       {row.source}"
        yield f"  prompt     {row.prompt!r}"
        yield from (f"  response {i} {response!r}" for i, response in enumerate(row.responses))
    yield ""
    try:
        yield from [*_planned(config), ""]
    except InputError:
        missing += ["parameter counts", "memory"]
    missing += ["mask", "log-probs", "rewards", "loss"]
    yield f"not shown, since the model is not available: {', '.join(missing)} ({reason})"
