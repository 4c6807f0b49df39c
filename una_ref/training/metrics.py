"""What is measured of a batch, under TRL's names: sums and counts, so that micro-batches and processes add up."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from una_ref.data.batch import Batch

NAMES = (
    "loss",
    "logps",
    "logps/chosen",
    "logps/rejected",
    "rewards/mean",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
)
"""Chosen and rejected are those of pairs, labels up and down, the best and the worst scored of a prompt; an
accuracy is of pairs and of best against worst, ties counting half. Rewards are β·log(π/π_ref), or a scorer's own."""


def measure(
    batch: Batch, losses: Tensor, logps: Tensor, ref_logps: Tensor | None, beta: float, *, gives: str = "logps"
) -> Tensor:
    """(len(NAMES), 2) sum and count of each metric over a batch; add them up and take the `means`.

    Args:
        batch: B responses.
        losses: (batch.count,) what `losses_of` gives.
        logps: (B,) log π; or the rewards themselves.
        ref_logps: (B,) log π_ref; without one the rewards have a count of 0.
        beta: of the implicit reward.
        gives: what `logps` are, logps or a scorer's rewards.
    """
    compared = torch.cat([batch.pairs, _best_and_worst(batch)])
    up = batch.labels >= 0.5
    chosen = torch.cat([compared[:, 0], batch.labelled[up]])
    rejected = torch.cat([compared[:, 1], batch.labelled[~up]])
    logps = logps.detach().double()
    values = {"loss": losses}
    rewards = logps if gives == "rewards" else None
    if gives == "logps":
        values |= {"logps": logps, "logps/chosen": logps[chosen], "logps/rejected": logps[rejected]}
    if ref_logps is not None:
        rewards = beta * (logps - ref_logps.double())
    if rewards is not None:
        margins = (rewards[compared[:, 0]] - rewards[compared[:, 1]]).masked_fill(_same(batch, compared), 0.0)
        values |= {
            "rewards/mean": rewards,
            "rewards/chosen": rewards[chosen],
            "rewards/rejected": rewards[rejected],
            "rewards/accuracies": (margins.sign() + 1) / 2,
        }
    nothing = logps.new_zeros(0)
    found = [values.get(name, nothing).detach() for name in NAMES]
    return torch.stack([torch.stack([v.double().sum(), v.new_tensor(len(v), dtype=torch.float64)]) for v in found])


def _same(batch: Batch, compared: Tensor) -> Tensor:
    """(P,) whether the two are one response: a tie, though in other places of a row they differ by rounding."""
    tokens = [part.tolist() for part in batch.target.split(batch.lengths.tolist())]
    return torch.tensor([tokens[a] == tokens[b] for a, b in compared.tolist()], dtype=torch.bool).to(compared.device)


def means(sums: Tensor) -> dict[str, float]:
    """Means of the metrics that were counted; the margin is the difference of the mean rewards."""
    out = {name: total / count for name, (total, count) in zip(NAMES, sums.tolist(), strict=True) if count}
    if "rewards/chosen" in out and "rewards/rejected" in out:
        out["rewards/margins"] = out["rewards/chosen"] - out["rewards/rejected"]
    return out


def _best_and_worst(batch: Batch) -> Tensor:
    """(P, 2) the best and the worst scored response of each prompt, where their scores differ."""
    by_score = batch.scores.argsort(stable=True)
    ascending = by_score[batch.groups[batch.scored][by_score].argsort(stable=True)]  # by prompt, then by score
    prompt = batch.groups[batch.scored][ascending]
    first = torch.ones_like(prompt, dtype=torch.bool)
    first[1:] = prompt[1:] != prompt[:-1]
    worst, best = ascending[first], ascending[first.roll(-1)]  # a prompt ends where the next one begins
    differ = batch.scores[best] > batch.scores[worst]
    return torch.stack([batch.scored[best[differ]], batch.scored[worst[differ]]], dim=1)


def seconds(device: torch.device) -> float:
    """A time to take differences of: the process's own, since others may be at work; a GPU's by the clock."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
