"""What a run would do: its config, its sizes, and its first row through the whole pipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch

from una_ref.data.batch import Encoder, Example
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.training.config import Config
from una_ref.training.fit import Job
from una_ref.training.run import conform, model_and_tokenizer, prepare, read_rows


def dry_run(config: Config) -> str:
    """The report as text; what needs a model that is not at hand is named instead of shown.

    Raises:
        InputError: what a run would refuse as well.
    """
    rows = read_rows(config)
    kept = rows if config.on_policy else conform(rows, config)[0]
    lines = ["config", json.dumps(config.to_dict(), indent=1, ensure_ascii=False), ""]
    try:
        model, tokenizer, _ = model_and_tokenizer(config, rows)
    except InputError as error:
        if not config.model:
            raise
        return "\n".join([*lines, *_without_model(config, kept[0], error)])
    job = prepare(config, rows=rows, model=model, tokenizer=tokenizer)
    return "\n".join([*lines, *_sizes(job), "", *_first_row(job)])


def _sizes(job: Job) -> Iterator[str]:
    trainer, config = job.trainer, job.config
    tokens = [e.tokens if isinstance(e, Example) else len(e.prompt) for e in job.examples]
    total = sum(p.numel() for p in trainer.policy.parameters())
    trained = sum(p.numel() for p in trainer.trained.values())
    yield "sizes"
    yield f"  parameters   {total:,}, and {trained:,} numbers are trained"
    yield f"  rows         {len(job.examples)} to train on, {len(job.held_out)} held out"
    what = "a prompt" if job.rollouts else "a row"
    yield f"  tokens       mean {sum(tokens) / len(tokens):.1f} {what}, most {max(tokens)}, prompt stored once"
    if job.rollouts:
        yield f"  responses    {config.draws} drawn of each prompt in a step, of {job.rollouts.max_new} tokens at most"
    yield f"  a step       {config.batch} rows, {trainer.accelerator.num_processes} process(es)"
    yield f"  a pass       at most {config.micro_tokens} tokens, layout {trainer.layout}"
    yield f"  the run      {config.steps} steps, {config.steps * config.batch / len(job.examples):.3g} epochs"
    yield f"  device       {trainer.accelerator.device}, dtype {config.dtype}"
    yield from (f"  {note}" for note in job.notes)


@torch.no_grad()
def _first_row(job: Job) -> Iterator[str]:
    trainer = job.trainer
    rows, _ = job.answered(job.examples[: job.config.batch if job.rollouts else 1], 0, record=False)
    if not rows:
        yield "no row to show: in the first rollout all responses to a prompt have one score"
        return
    example = rows[0]
    trainer.policy.eval()
    # The policy is its reference: KTO's KL of the two is 0.
    kl = torch.zeros((), device=trainer.accelerator.device) if trainer.takes("kl") else None
    batch, losses, logps, ref_logps = trainer.forward([example], kl)
    scored = [batch.target[batch.response == i].tolist() for i in range(len(example.responses))]
    yield "the first row through the pipe"
    yield from _text(example, job.tokenizer, scored)
    for i, logp in enumerate(logps.tolist()):
        given = f"log π {logp:.4f} nats" if trainer.policy.gives == "logps" else f"reward {logp:.4f}"
        line = f"  response {i}: {given}"
        if ref_logps is not None:
            reward = job.config.beta * (logp - float(ref_logps[i]))
            line += f", log π_ref {float(ref_logps[i]):.4f}, reward β·log(π/π_ref) {reward:.4f}"
        yield line
    yield f"  loss ({example.kind}): {', '.join(f'{loss:.6f}' for loss in losses.tolist())}"


def _text(example: Example, tokenizer: Any, scored: list[list[int]] | None = None) -> Iterator[str]:
    """The row as text and ids; with the tokens that a batch scores, also what they spell."""
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
    for chosen, rejected in example.pairs or ():
        yield f"  pair       {chosen} over {rejected}"


def _without_model(config: Config, row: Row, reason: InputError) -> Iterator[str]:
    """The row's text and, where the tokenizer is at hand, its ids."""
    from transformers import AutoTokenizer

    missing = ["parameter counts", "mask", "log-probs", "rewards", "loss"]
    yield "the first row"
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)
        encoder = Encoder(tokenizer, max_length=config.max_length, max_response=config.max_response)
        if row.responses:
            yield from _text(encoder.encode([row])[0], tokenizer)
        else:
            yield f"  prompt     {row.prompt!r}"
            yield f"    ids      {encoder.prompt(row)}"
    except (OSError, ValueError):
        missing = ["ids", *missing]
        yield f"  from       {row.source}"
        yield f"  prompt     {row.prompt!r}"
        yield from (f"  response {i} {response!r}" for i, response in enumerate(row.responses))
    yield ""
    yield f"not shown, because the model is not at hand: {', '.join(missing)} ({reason})"
