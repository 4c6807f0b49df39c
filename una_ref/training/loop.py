"""The one loop: batches in, per-example losses, one optimizer step; the same for a table, a tiny LM and a 7B model.

A step's batch is cut into micro-batches by tokens; each contributes the *sum* of its losses over the number of losses in the whole
batch, so the gradient is that of the big batch whatever the lengths, the cut or the number of processes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from una_ref.data.batch import Batch, Example, collate, microbatches
from una_ref.errors import InputError
from una_ref.policies.references import Policy
from una_ref.training.config import Config

Losses = Mapping[str, Callable[..., Tensor]]


class NonFinite(RuntimeError):
    """A loss or gradient that is not a number: the run stops, and `examples` are the rows of that micro-batch."""

    def __init__(self, message: str, examples: Sequence[Example]) -> None:
        super().__init__(message)
        self.examples = list(examples)


@cache
def _takes(loss: Callable[..., Tensor]) -> dict[str, bool]:
    """The arguments of a loss, and whether each must be given."""
    return {name: p.default is p.empty for name, p in inspect.signature(loss).parameters.items()}


def needs(losses: Losses, argument: str) -> bool:
    """Whether any of the losses cannot do without an argument."""
    return any(_takes(loss).get(argument, False) for loss in losses.values())


def wants(losses: Losses, *arguments: str) -> bool:
    """Whether any of the losses takes one of the arguments."""
    return any(a in _takes(loss) for loss in losses.values() for a in arguments)


def call(loss: Callable[..., Tensor], available: Mapping[str, Any]) -> Tensor:
    """The loss, given of what is available exactly what its signature names."""
    missing = [a for a, must in _takes(loss).items() if must and available.get(a) is None]
    if missing:
        raise InputError(f"{loss.__name__}: the data has no {', '.join(missing)}")
    return loss(**{a: available[a] for a in _takes(loss) if available.get(a) is not None})


def losses_of(losses: Losses, batch: Batch, logps: Tensor, ref_logps: Tensor | None, hyper: Mapping[str, Any],
              *, values: Tensor | None = None, kl: Tensor | None = None) -> Tensor:
    """(count,) every loss of a batch: pairs, scored, labelled and imitated responses, in this order.

    Args:
        losses: the loss for each kind of feedback.
        batch: B responses.
        logps: (B,) log π.
        ref_logps: (B,) log π_ref; None where no loss needs it.
        hyper: the losses' hyper-parameters.
        values: (prompts of the data set,) V(x), where it is learned.
        kl: KTO's z₀ in nats.
    """
    def responses(index: Tensor) -> dict[str, Any]:
        groups = batch.groups[index]
        return {"logps": logps[index], "ref_logps": None if ref_logps is None else ref_logps[index],
                "lengths": batch.lengths[index], "groups": groups, "kl": kl,
                "baseline": None if values is None else values[batch.prompts[groups]]}

    parts = []
    if len(batch.pairs):
        sides = {"chosen": responses(batch.pairs[:, 0]), "rejected": responses(batch.pairs[:, 1])}
        pairs = {_sided(side, name): value for side, of in sides.items() for name, value in of.items()}
        parts.append(("pairs", pairs))
    if len(batch.scored):
        parts.append(("scores", responses(batch.scored) | {"scores": batch.scores.to(logps)}))
    if len(batch.labelled):
        parts.append(("labels", responses(batch.labelled) | {"labels": batch.labels.to(logps)}))
    if len(batch.demos):
        parts.append(("demos", responses(batch.demos)))
    return torch.cat([call(losses[kind], dict(hyper) | available) for kind, available in parts])


def _sided(side: str, name: str) -> str:
    return f"ref_{side}_logps" if name == "ref_logps" else f"{side}_{name}"


def mismatched(examples: Sequence[Example]) -> list[Example]:
    """Each prompt with the first response of the next example: what KTO estimates its z₀ on.

    Raises:
        InputError: fewer than two prompts, so that a response would meet its own.
    """
    if len({e.prompt for e in examples}) < 2:
        raise InputError("kto: expected batches of at least two different prompts to estimate its KL, got one; "
                         "raise batch")
    out = []
    for i, e in enumerate(examples):
        other = next(o for o in [*examples[i + 1:], *examples[:i]] if o.prompt != e.prompt)
        out.append(Example(e.prompt, other.responses[:1], prompt_index=e.prompt_index, source=e.source))
    return out


@dataclass
class Trainer:
    """A policy, what it learns by, and the state of its optimizer.

    Args:
        policy: the model with its reference.
        losses: per kind of feedback.
        config: the run.
        prompts: number of prompts in the data, for a learned V(x).
        value_start: where a learned V(x) starts.
    """

    policy: Policy
    losses: Losses
    config: Config
    prompts: int = 0
    value_start: float = 0.0
    _remembered: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Prepare optimizer and processes."""
        from accelerate import Accelerator

        c = self.config
        mixed = "bf16" if c.dtype == "bfloat16" and c.lora_r == 0 else "no"
        self.accelerator = Accelerator(mixed_precision=mixed, cpu=not torch.cuda.is_available())
        learned = c.baseline == "learned" or needs(self.losses, "baseline")
        self.anchored = wants(self.losses, "ref_logps", "ref_chosen_logps")
        self.module = _Learner(self.policy, self.prompts if learned else 0, self.value_start)
        self.module.train()
        groups = [{"params": [p for p in self.policy.parameters() if p.requires_grad], "lr": c.lr, "peak": c.lr}]
        if learned:
            groups.append({"params": [self.module.values], "lr": c.value_lr, "peak": c.value_lr})
        optimizer = torch.optim.AdamW(groups, weight_decay=c.weight_decay)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.module, optimizer)
        self.layout = self.policy.layout if c.layout == "auto" else c.layout

    def batches(self, examples: Sequence[Example]) -> list[list[Example]]:
        """A step's examples as micro-batches."""
        return list(microbatches(examples, self.config.micro_tokens))

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step counted from 0: linear warm-up, then cosine to 0, or constant."""
        c = self.config
        rise = round(c.warmup * c.steps)
        if step < rise:
            return (step + 1) / (rise + 1)
        if c.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, c.steps - rise)))

    def step(self, step: int, examples: Sequence[Example], *, record: bool = True) -> dict[str, float]:
        """One optimizer step on this process's share of a batch; returns the step's metrics where they are asked for.

        Raises:
            NonFinite: before any weight has changed.
        """
        c, accelerator = self.config, self.accelerator
        count = accelerator.reduce(torch.tensor(float(sum(e.count for e in examples)), device=accelerator.device))
        kl = self._kl(examples)
        sums: dict[str, float] = {}
        micros = self.batches(examples)
        for i, micro in enumerate(micros):
            batch = collate(micro, self.layout).to(accelerator.device)
            last = i == len(micros) - 1
            with _maybe(accelerator.no_sync, not last, self.wrapped), accelerator.autocast():
                losses, logps, ref = self._forward(batch, micro, kl)
                if not torch.isfinite(losses).all():
                    raise NonFinite(f"step {step + 1}: a loss is {losses[~torch.isfinite(losses)][0].item()}", micro)
                # Processes average gradients; times their number, that is the sum over all of them.
                accelerator.backward(losses.sum() * (accelerator.num_processes / count))
            if record:
                add(sums, metrics(batch, losses, logps, ref, c.beta))
        norm = accelerator.clip_grad_norm_(self.module.parameters(), c.clip or math.inf)
        if not math.isfinite(norm):
            raise NonFinite(f"step {step + 1}: the gradient's norm is {norm:g}", examples)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return mean(sums) | {"grad_norm": float(norm), "lr": c.lr * self.rate(step)} | (
            {"kl": float(kl)} if kl is not None else {})

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """The metrics on held-out examples, in eval mode."""
        self.module.eval()
        kl = self._kl(examples)
        sums: dict[str, float] = {}
        for micro in self.batches(examples):
            batch = collate(micro, self.layout).to(self.accelerator.device)
            with self.accelerator.autocast():
                losses, logps, ref = self._forward(batch, micro, kl)
            add(sums, metrics(batch, losses, logps, ref, self.config.beta))
        self.module.train()
        return mean(sums)

    def remember_reference(self, examples: Sequence[Example]) -> None:
        """Compute the reference's log-probs of all examples now, in an order that does not depend on where a run resumes."""
        for micro in self.batches(examples):
            batch = collate(micro, self.layout).to(self.accelerator.device)
            with self.accelerator.autocast():
                logps = self.policy.reference(batch)
            self._remembered |= {id(e): part for e, part in
                                 zip(micro, logps.split([len(e.responses) for e in micro]), strict=True)}

    def _forward(self, batch: Batch, examples: Sequence[Example], kl: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        logps, values = self.wrapped(batch)
        if not self.anchored:
            ref = None
        elif all(id(e) in self._remembered for e in examples):
            ref = torch.cat([self._remembered[id(e)] for e in examples])
        else:
            ref = self.policy.reference(batch)
        return losses_of(self.losses, batch, logps, ref, self.config.hyper, values=values, kl=kl), logps, ref

    @torch.no_grad()
    def _kl(self, examples: Sequence[Example]) -> Tensor | None:
        """z₀ = max(0, mean log π/π_ref of mismatched responses) over the whole batch, all processes (KTO, without gradient)."""
        if not needs(self.losses, "kl"):
            return None
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for micro in self.batches(mismatched(examples)):
            batch = collate(micro, self.layout).to(self.accelerator.device)
            with self.accelerator.autocast():
                gap = self.policy(batch) - self.policy.reference(batch)
            total += torch.stack([gap.double().sum(), torch.tensor(float(len(gap)), device=total.device).double()])
        total = self.accelerator.reduce(total)
        return (total[0] / total[1]).clamp(min=0).float()


class _Learner(nn.Module):
    """What one optimizer trains: the policy and, where it is learned, V(x) as a number per prompt."""

    def __init__(self, policy: Policy, prompts: int, start: float) -> None:
        super().__init__()
        self.policy = policy
        self.values = nn.Parameter(torch.full((prompts,), start)) if prompts else None

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return self.policy(batch), self.values


def _maybe(context: Callable[..., Any], on: bool, *args: Any) -> Any:
    from contextlib import nullcontext

    return context(*args) if on else nullcontext()


def metrics(batch: Batch, losses: Tensor, logps: Tensor, ref: Tensor | None, beta: float) -> dict[str, tuple[float, float]]:
    """Sum and count of each metric, under TRL's names, so that micro-batches add up to the batch.

    chosen and rejected: of pairs; up and down of labels; best and worst scored of a prompt. rewards are β·log(π/π_ref).
    """
    logps = logps.detach().double()
    reward = beta * (logps - ref.double()) if ref is not None else None
    out = {"loss": _sum(losses.detach().double()), "logps": _sum(logps)}
    if reward is not None:
        out["rewards/mean"] = _sum(reward)
    pairs = torch.cat([batch.pairs, _best_and_worst(batch)])
    chosen = torch.cat([pairs[:, 0], batch.labelled[batch.labels >= 0.5]])
    rejected = torch.cat([pairs[:, 1], batch.labelled[batch.labels < 0.5]])
    for name, index in (("chosen", chosen), ("rejected", rejected)):
        out[f"logps/{name}"] = _sum(logps[index])
        if reward is not None:
            out[f"rewards/{name}"] = _sum(reward[index])
    if reward is not None:
        margin = reward[pairs[:, 0]] - reward[pairs[:, 1]]
        out["rewards/accuracies"] = _sum((margin > 0).double() + 0.5 * (margin == 0))
    return out


def _best_and_worst(batch: Batch) -> Tensor:
    """(P, 2) the best and the worst scored response of each prompt, where they differ."""
    by_score = batch.scores.argsort(stable=True)
    ascending = by_score[batch.groups[batch.scored][by_score].argsort(stable=True)]  # by group, then by score
    group = batch.groups[batch.scored][ascending]
    first = torch.cat([group.new_ones(1).bool(), group[1:] != group[:-1]])[: len(group)]
    last = first.roll(-1)
    worst, best = ascending[first], ascending[last]
    differ = batch.scores[best] > batch.scores[worst]
    return torch.stack([batch.scored[best[differ]], batch.scored[worst[differ]]], 1)


def _sum(values: Tensor) -> tuple[float, float]:
    return float(values.sum()), float(len(values))


def add(sums: dict[str, Any], more: Mapping[str, tuple[float, float]]) -> None:
    """Add sums and counts to those so far."""
    for name, (total, n) in more.items():
        before = sums.get(name, (0.0, 0.0))
        sums[name] = (before[0] + total, before[1] + n)


def mean(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Means over all examples; the margin is that of the means."""
    out = {name: total / n for name, (total, n) in sums.items() if n}
    if "rewards/chosen" in out and "rewards/rejected" in out:
        out["rewards/margins"] = out["rewards/chosen"] - out["rewards/rejected"]
    return out


def order(examples: int, step: int, batch: int, seed: int) -> list[int]:
    """Which examples step `step` (from 0) takes: epochs in a fresh order each, a function of seed and step alone."""
    places = range(step * batch, (step + 1) * batch)
    epochs = {e: torch.randperm(examples, generator=torch.Generator().manual_seed(seed * 1_000_003 + e)).tolist()
              for e in {p // examples for p in places}}
    return [epochs[p // examples][p % examples] for p in places]
