"""What a run would do: its config, its sizes, and its first row through the whole pipe."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch

from una_ref.data.batch import Batch, Encoder, Example, collate
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.training.config import Config
from una_ref.training.loop import losses_of, needs
from una_ref.training.run import Job, conform, prepare, read_rows


def dry_run(config: Config) -> str:
    """The report as text; what needs weights that are not here is named instead of shown.

    Raises:
        InputError: what a run would refuse as well, bad data first.
    """
    rows = read_rows(replace(config, rows=min(config.rows or 256, 256)))
    lines = ["config", json.dumps(config.to_dict(), indent=1, ensure_ascii=False), ""]
    try:
        job = prepare(config, rows=rows)
    except InputError as error:
        if not (config.model and str(error).startswith("model ")):
            raise
        return "\n".join(lines + _without_weights(config, rows, str(error)))
    return "\n".join(lines + _sizes(job) + ["", "the first row through the pipe"] + _row(job))


def _sizes(job: Job) -> list[str]:
    trainer, config = job.trainer, job.config
    parameters = list(trainer.module.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    tokens = [e.tokens for e in job.examples]
    return ["sizes",
            f"  parameters        {sum(p.numel() for p in parameters):,}, of which {trained:,} are trained",
            f"  rows looked at    {len(job.examples)} to train on, {len(job.held_out)} held out (at most 256 in a dry run)",
            f"  tokens a row      mean {sum(tokens) / len(tokens):.1f}, most {max(tokens)}, prompt stored once",
            f"  a step            {config.batch} rows over {trainer.accelerator.num_processes} process(es), "
            f"micro-batches of ≤ {config.micro_tokens} tokens, layout {trainer.layout}",
            f"  the run           {config.steps} steps, {config.steps * config.batch:,} rows",
            f"  device            {trainer.accelerator.device}, dtype {config.dtype}",
            *(f"  {note}" for note in job.notes)]


@torch.no_grad()
def _row(job: Job) -> list[str]:
    trainer = job.trainer
    trainer.module.eval()
    example = job.examples[0]
    batch = collate([example], trainer.layout).to(trainer.accelerator.device)
    logps = trainer.policy(batch)
    ref = trainer.policy.reference(batch) if trainer.anchored else None
    kl = torch.zeros(()) if needs(trainer.losses, "kl") else None
    losses = losses_of(trainer.losses, batch, logps, ref, job.config.hyper, values=trainer.module.values, kl=kl)
    lines = _text(example, job.tokenizer, batch)
    reward = job.config.beta * (logps - ref) if ref is not None else None
    for i in range(len(example.responses)):
        shown = "" if reward is None else f"  log π_ref {float(ref[i]):.4f}  reward β·log(π/π_ref) {float(reward[i]):.4f}"  # type: ignore[index]
        lines.append(f"  response {i}: log π {float(logps[i]):.4f} nats{shown}")
    return [*lines, f"  loss ({example.kind}): {', '.join(f'{v:.6f}' for v in losses.tolist())}"]


def _text(example: Example, tokenizer: Any, batch: Batch | None) -> list[str]:
    lines = [f"  from      {example.source}", f"  prompt    {tokenizer.decode(list(example.prompt))!r}",
             f"  ids       {list(example.prompt)}"]
    for i, response in enumerate(example.responses):
        feedback = [f"{name} {value[i]:g}" for name, value in (("score", example.scores), ("label", example.labels)) if value]
        lines += [f"  response {i}{' (' + ', '.join(feedback) + ')' if feedback else ''}", f"    ids     {list(response)}"]
        if batch is not None:
            scored = batch.target[batch.response == i].tolist()
            lines.append(f"    scored  {tokenizer.decode(scored)!r} (decoded from the batch's own targets)")
        else:
            lines.append(f"    scored  {tokenizer.decode(list(response))!r}")
    if example.pairs:
        lines.append("  pairs     " + ", ".join(f"{w} over {l}" for w, l in example.pairs))
    return lines


def _without_weights(config: Config, rows: list[Row], reason: str) -> list[str]:
    """Text and, where the tokenizer is at hand, ids."""
    from transformers import AutoTokenizer

    missing = ["log-probs", "rewards", "loss", "parameter counts"]
    kept, notes = conform(rows, config)
    lines = [*(f"  {n}" for n in notes)]
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)
        example = Encoder(tokenizer, max_length=config.max_length, max_response=config.max_response).encode(kept[:1])[0]
        lines += ["the first row through the pipe", *_text(example, tokenizer, None)]
    except (OSError, ValueError):
        row = kept[0]
        lines += ["the first row", f"  from      {row.source}", f"  prompt    {row.prompt!r}",
                  *(f"  response  {r!r}" for r in row.responses)]
        missing = ["token ids", "the decoded mask", *missing]
    return [*lines, "", f"not shown, because the model is not at hand ({reason}): {', '.join(missing)}"]
