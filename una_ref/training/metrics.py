"""Metrics of a batch under TRL's names, as sums and counts that add up over micro-batches and processes."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from una_ref.data.batch import Batch

NAMES = (
    "loss",
    "nll/token",
    "logps",
    "logps/chosen",
    "logps/rejected",
    "rewards/mean",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
)
"""Chosen and rejected are the two of a pair, positive and negative labels, and the best and worst scored of a prompt.
nll/token is −log π of the demonstrations over the number of their tokens: SFT's loss as other libraries report it. Its
``loss`` is the mean of the responses' sums. An accuracy is over pairs and over best against worst; ties count half.
Rewards are what the method calls the reward."""


def measure(batch: Batch, losses: Tensor, logps: Tensor | None, rewards: Tensor | None) -> Tensor:
    """(len(NAMES), 2) sum and count of each metric over a batch; add them up and take the `means`.

    Args:
        batch: B responses.
        losses: (batch.count,) every loss of the batch.
        logps: (B,) log π, in nats; None for a scorer.
        rewards: (B,) what the method calls the reward; None where it has none.
    """
    compared = torch.cat([batch.pairs, _best_and_worst(batch)])
    up = batch.labels >= 0.5
    chosen = torch.cat([compared[:, 0], batch.labelled[up]])
    rejected = torch.cat([compared[:, 1], batch.labelled[~up]])
    values = {"loss": losses}
    if logps is not None:
        logps = logps.detach().double()
        values |= {"logps": logps, "logps/chosen": logps[chosen], "logps/rejected": logps[rejected]}
    if rewards is not None:
        rewards = rewards.detach().double()
        margins = (rewards[compared[:, 0]] - rewards[compared[:, 1]]).masked_fill(_same(batch, compared), 0.0)
        values |= {
            "rewards/mean": rewards,
            "rewards/chosen": rewards[chosen],
            "rewards/rejected": rewards[rejected],
            "rewards/accuracies": (margins.sign() + 1) / 2,
        }
    nothing = losses.new_zeros(0)
    measured = [values.get(name, nothing).detach().double() for name in NAMES]
    sums = torch.stack([torch.stack([v.sum(), v.new_tensor(len(v))]) for v in measured])
    if logps is not None and len(batch.demos):
        sums[NAMES.index("nll/token")] = torch.stack([-logps[batch.demos].sum(), batch.lengths[batch.demos].sum()])
    return sums


def _same(batch: Batch, compared: Tensor) -> Tensor:
    """(P,) whether the two responses are equal: a tie, although their rewards may differ by rounding."""
    tokens = [part.tolist() for part in batch.target.split(batch.lengths.tolist())]
    return torch.tensor([tokens[a] == tokens[b] for a, b in compared.tolist()], dtype=torch.bool).to(compared.device)


def means(sums: Tensor) -> dict[str, float]:
    """Means of the metrics with a count above 0; the margin is the difference of the mean rewards."""
    out = {name: total / count for name, (total, count) in zip(NAMES, sums.tolist(), strict=True) if count}
    if "rewards/chosen" in out and "rewards/rejected" in out:
        out["rewards/margins"] = out["rewards/chosen"] - out["rewards/rejected"]
    return out


def _best_and_worst(batch: Batch) -> Tensor:
    """(P, 2) the best and the worst scored response of each prompt, where their scores differ."""
    scored = torch.cat([batch.scored, batch.listed])
    by_score = scored[batch.scores[scored].argsort(stable=True)]
    ascending = by_score[batch.groups[by_score].argsort(stable=True)]  # by prompt, then by score
    prompt = batch.groups[ascending]
    first = torch.ones_like(prompt, dtype=torch.bool)
    first[1:] = prompt[1:] != prompt[:-1]
    worst, best = ascending[first], ascending[first.roll(-1)]  # a prompt ends where the next one begins
    differ = batch.scores[best] > batch.scores[worst]
    return torch.stack([best[differ], worst[differ]], dim=1)


def seconds(device: torch.device) -> float:
    """A time to take differences of: processor time of this process, or wall time on a GPU."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
