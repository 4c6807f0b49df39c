"""Log-probabilities, values and advantages of each token of a rollout, by the policy that sampled it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from una_ref.data.batch import Example
from una_ref.methods.arguments import Need, names
from una_ref.training import distributed
from una_ref.training.trainer import Trainer


@torch.no_grad()
def experience(trainer: Trainer, examples: Sequence[Example]) -> tuple[list[Example], float]:
    """A rollout with what its losses ask of its tokens, and the mean log π/π_ref of its responses in nats.

    Log-probabilities, values and the method's `advantages` are those of the current policy in eval mode; each
    process computes its share. The mean is NaN where no reference is asked for.
    """
    advantages = trainer.method.advantages
    lines_of: list[dict[str, list[Tensor]]] = []
    trainer.policy.eval()
    for micro in trainer.micro_batches(distributed.share(trainer.accelerator, examples)):
        batch = trainer.batch(micro)
        with trainer.autocast():
            outputs = trainer.policy.outputs(batch, frozenset({Need.TOKENS, Need.CRITIC}))
            logps = outputs["token_logps"]
            tokens = {"old_token_logps": logps}
            if advantages:
                tokens["ref_token_logps"] = trainer.policy.reference_tokens(batch)
                tokens["old_values"] = outputs.get("values", torch.zeros_like(logps))
        sizes = batch.lengths.tolist()
        lines = {name: list(value.cpu().split(sizes)) for name, value in tokens.items()}
        for e in micro:
            k = len(e.responses)
            lines_of.append({name: value[:k] for name, value in lines.items()})
            lines = {name: value[k:] for name, value in lines.items()}
    trainer.policy.train()
    lines_of = distributed.gathered(trainer.accelerator, lines_of, len(examples))
    known = {name: [line for lines in lines_of for line in lines[name]] for name in lines_of[0]}
    kl = math.nan
    if advantages:
        padded = {name: nn.utils.rnn.pad_sequence(lines, batch_first=True) for name, lines in known.items()}
        sizes = [len(line) for line in known["old_token_logps"]]
        mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        scores = torch.tensor([score for e in examples for score in e.scores or ()], dtype=torch.float64)
        asked = names(advantages)
        kwargs = {name: value for name, value in trainer.loss_kwargs.items() if name in asked}
        computed = advantages(**padded, scores=scores, mask=mask, **kwargs)
        for name, value in zip(("advantages", "returns"), computed, strict=True):
            known[name] = [line[:size] for line, size in zip(value, sizes, strict=True)]
        gaps = known["old_token_logps"], known.pop("ref_token_logps")
        kl = float(torch.stack([(new - ref).double().sum() for new, ref in zip(*gaps, strict=True)]).mean())
    out, at = [], 0
    for e in examples:
        span = slice(at, at := at + len(e.responses))
        experience = {name: tuple(tuple(line.tolist()) for line in lines[span]) for name, lines in known.items()}
        out.append(replace(e, experience=experience))
    return out, kl
