"""The KL-regularised objective, its optimum and a policy's distance from it, by enumeration.

For every prompt x, with J(π) = E_{y~π} r(x, y) − β·KL(π ‖ π_ref)   (UNA Eq. 3; `arg max`, not `max`: EU1):

    Z(x)       = Σ_y π_ref(y|x)·exp(r(x, y)/β)
    π*(y|x)    = π_ref(y|x)·exp(r(x, y)/β) / Z(x)      (UNA Eq. 4, 14; λ is Z(x), one for each prompt: EU3)
    max_π J    = β·log Z(x)                               (UNA Eq. 13; not 0 as Eq. 16 has it: EU4)
    regret(π)  = β·log Z(x) − J(π) = β·KL(π ‖ π*)

A policy is a table of log-probabilities, (X, Y): X prompts, Y responses, each row a distribution.
Log-probabilities are in nats, rewards and β in one common unit. Everything is computed in float64 and is
differentiable. A probability of zero is a log-probability of −inf and is allowed.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROW_SUM_TOLERANCE = 1e-4
"""How far a row may be from summing to one; sums of float32 log-softmaxes over a response stay within it."""


def log_partition(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """log Z(x) = log E_{y~π_ref} exp(r/β), in nats, (X,); β times it is the best J (UNA Eq. 13)."""
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    return torch.logsumexp(ref_logps + rewards / beta, dim=-1)


def optimal_logps(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """log π*(y|x), (X, Y): the arg max of J (UNA Eq. 4). Where π_ref is zero, π* is."""
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    return torch.log_softmax(ref_logps + rewards / beta, dim=-1)


def expected_reward(logps: Tensor, rewards: Tensor) -> Tensor:
    """E_{y~π} r(x, y), (X,), in the rewards' unit."""
    logps, rewards = _check(rewards=rewards, logps=logps)
    return (logps.exp() * rewards).sum(dim=-1)


def kl(logps: Tensor, other: Tensor) -> Tensor:
    """KL(π ‖ other) in nats, (X,). +inf where π puts mass on a response that `other` never gives."""
    logps, other = _check(logps=logps, other=other)
    # 0·log 0 = 0: the gap of a response that π never gives is dropped before it can become inf − inf.
    gap = torch.where(logps == -torch.inf, 0.0, logps - other)
    return (logps.exp() * gap).sum(dim=-1)


def entropy(logps: Tensor) -> Tensor:
    """H(π) in nats, (X,)."""
    (logps,) = _check(logps=logps)
    return -(logps.exp() * torch.where(logps == -torch.inf, 0.0, logps)).sum(dim=-1)


def objective(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """J(π) = E_π r − β·KL(π ‖ π_ref), (X,), in the rewards' unit (UNA Eq. 3)."""
    _check(beta, rewards=rewards, logps=logps, ref_logps=ref_logps)
    return expected_reward(logps, rewards) - beta * kl(logps, ref_logps)


def regret(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """J(π*) − J(π) = β·KL(π ‖ π*) ≥ 0, (X,), in the rewards' unit."""
    return beta * log_partition(ref_logps, rewards, beta) - objective(logps, ref_logps, rewards, beta)


def _check(beta: float = 1.0, *, rewards: Tensor | None = None, **policies: Tensor) -> list[Tensor]:
    """The policies, then the rewards if any, in float64; raises ValueError unless all is as it should be."""
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    tables = policies if rewards is None else policies | {"rewards": rewards}
    shapes = {name: tuple(table.shape) for name, table in tables.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"tables must share one shape (prompts, responses), got {shapes}")
    tables = {name: table.to(torch.float64) for name, table in tables.items()}
    if rewards is not None and not torch.isfinite(rewards).all():
        raise ValueError("rewards must be finite")
    for name in policies:
        sums = tables[name].detach().exp().sum(dim=-1)
        row = int((sums - 1).abs().nan_to_num(nan=torch.inf).argmax())
        if not abs(sums[row] - 1) <= ROW_SUM_TOLERANCE:
            raise ValueError(f"{name}: each row must sum to one, row {row} sums to {float(sums[row]):.6g}")
    return list(tables.values())
