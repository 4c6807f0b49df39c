"""The regularised objective, its optimum and a policy's distance from it, by enumeration.

For every prompt x, with J(π) = E_{y~π} r(x, y) − β·KL(π ‖ π_ref)   (UNA Eq. 3; `arg max`, not `max`: EU1):

    Z(x)       = Σ_y π_ref(y|x)·exp(r(x, y)/β)
    π*(y|x)    = π_ref(y|x)·exp(r(x, y)/β) / Z(x)      (UNA Eq. 4, 14; λ is Z(x), one for each prompt: EU3)
    max_π J    = β·log Z(x)                               (UNA Eq. 13; not 0 as in Eq. 16: EU4)
    regret(π)  = β·log Z(x) − J(π) = β·KL(π ‖ π*)

With an f-divergence in the place of the KL (UPO Eq. 11), and f normalised as in `divergences`:

    r(x, y)    = β·f′(π*/π_ref) + λ(x) where π* > 0,  and r ≤ β·f′(0+) + λ(x) where π* = 0   (UPO Eq. 12, 15; EP1, EP2)

The only unknown is one number λ(x) for each prompt, the `multiplier`; for the KL it is β·log Z(x).

A policy is a table of log-probabilities, (X, Y): X prompts, Y responses, each row a distribution. Log-probabilities
are in nats; rewards and β share one unit. Everything is computed in float64. All functions are differentiable except
`sampled_log_partition` and the optima of divergences other than the KL. A log-probability may be −inf (probability 0).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from una_ref.theory.checks import check_tables
from una_ref.theory.divergences import DIVERGENCES, Divergence, named

REVERSE_KL = DIVERGENCES["reverse_kl"]


def log_partition(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """log Z(x) = log E_{y~π_ref} exp(r/β), in nats, (X,); β times it is the best J (UNA Eq. 13)."""
    ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
    return torch.logsumexp(ref_logps + rewards / beta, dim=-1)


@torch.no_grad()
def sampled_log_partition(ref_logps: Tensor, rewards: Tensor, beta: float, samples: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (X,) each, in nats, of log Ẑ with Ẑ(x) = 1/K·Σ_k exp(r(x, y_k)/β), y_k ~ π_ref.

    K is `samples`. The moments are integrals, computed by the trapezoid rule; nothing is sampled. With T a standard
    exponential variable, P(log T − log(Ẑ/Z) > s) = (E_{y~π_ref} exp(−e^s·exp(r/β)/(K·Z)))^K. Where this differs from
    P(log T > s) gives the moments of log(Ẑ/Z). Mean and variance are right to about 1e-15 of the larger of them and 1.
    """
    ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
    if not samples >= 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    ref_logps = ref_logps.log_softmax(-1)
    log_z = torch.logsumexp(ref_logps + rewards / beta, dim=-1)
    log_ratio = (rewards / beta - log_z[:, None]).where(ref_logps > -torch.inf, 0.0)  # log π*/π_ref
    # Outside these ends both probabilities agree to all digits; between them both are smooth.
    step = 0.25
    s = torch.arange(-20.0 - float(log_ratio.max()), 8.0 - float(log_ratio.min()), step, dtype=torch.float64)
    value = log_ratio - math.log(samples)
    parts = s[:, None, None].split(max(1, 2**20 // value.numel()))  # bounds the memory
    # log E exp(−a) as log(1 + E(exp(−a) − 1)): the K-th power then loses no digits.
    shortfall = torch.cat([(ref_logps.exp() * torch.expm1(-(part + value).exp())).sum(-1) for part in parts]).T
    difference = (samples * torch.log1p(shortfall.clamp(min=-1.0))).exp() - (-s.exp()).exp()  # (X, points)
    first = -step * difference.sum(-1)
    euler_gamma = 0.5772156649015329  # −E log T
    second = 2 * step * (difference * s).sum(-1) - 2 * euler_gamma * first
    return log_z + first, (second - first**2).clamp(min=0).sqrt()


def optimal_logps(
    ref_logps: Tensor, rewards: Tensor, beta: float, divergence: str | Divergence = "reverse_kl"
) -> Tensor:
    """log π*(y|x), (X, Y): the arg max of J (UNA Eq. 4; UPO Theorem 3.1). Where π_ref is zero, π* is.

    For an f with a finite f′(0+) other responses may have probability zero too (EP4). Where the optimum is not
    unique (total variation), mass that all best responses may share is shared in proportion to π_ref.
    """
    if named(divergence) is REVERSE_KL:
        ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
        return torch.log_softmax(ref_logps + rewards / beta, dim=-1)
    return _solve(ref_logps, rewards, beta, named(divergence))[1]


def multiplier(ref_logps: Tensor, rewards: Tensor, beta: float, divergence: str | Divergence = "reverse_kl") -> Tensor:
    """λ(x), (X,), in the rewards' unit: r = β·f′(π*/π_ref) + λ(x) where π* > 0; β·log Z(x) for the KL (EP2)."""
    if named(divergence) is REVERSE_KL:
        return beta * log_partition(ref_logps, rewards, beta)
    return _solve(ref_logps, rewards, beta, named(divergence))[0]


def expected_reward(logps: Tensor, rewards: Tensor) -> Tensor:
    """E_{y~π} r(x, y), (X,), in the rewards' unit."""
    logps, rewards = check_tables(rewards=rewards, logps=logps)
    return (logps.exp() * rewards).sum(dim=-1)


def kl(logps: Tensor, other: Tensor) -> Tensor:
    """KL(π ‖ other) in nats, (X,). +inf where π puts mass on a response that `other` never gives."""
    logps, other = check_tables(logps=logps, other=other)
    # 0·log 0 = 0: the gap of a response that π never gives is dropped before it can become inf − inf.
    gap = torch.where(logps == -torch.inf, 0.0, logps - other)
    return (logps.exp() * gap).sum(dim=-1)


def f_divergence(logps: Tensor, other: Tensor, divergence: str | Divergence) -> Tensor:
    """D_f(π ‖ other) = E_{y~other} f(π/other), (X,), without unit; not E_{y~π}, as UPO Eq. 13 has it (EP3).

    A response that `other` never gives adds π·f′(∞), the limit, which may be +inf.
    """
    divergence = named(divergence)
    if divergence is REVERSE_KL:
        return kl(logps, other)
    logps, other = check_tables(logps=logps, other=other)
    absent = other == -torch.inf
    u = torch.where(absent, 0.0, logps - torch.where(absent, 0.0, other))
    far = absent | (divergence.f(u.detach()).isinf() & (u > 0))  # where f overflows, it is as good as at the limit
    limit = torch.where(far & (logps > -torch.inf), other.new_tensor(divergence.slope_at_infinity), 0.0)
    return (other.exp() * divergence.f(torch.where(far, 0.0, u)) + logps.exp() * limit).sum(dim=-1)


def entropy(logps: Tensor) -> Tensor:
    """H(π) in nats, (X,)."""
    (logps,) = check_tables(logps=logps)
    return -(logps.exp() * torch.where(logps == -torch.inf, 0.0, logps)).sum(dim=-1)


def objective(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float, divergence: str | Divergence = "reverse_kl"
) -> Tensor:
    """J(π) = E_π r − β·D_f(π ‖ π_ref), (X,), in the rewards' unit (UNA Eq. 3; UPO Eq. 6, 11)."""
    check_tables(beta, rewards=rewards, logps=logps, ref_logps=ref_logps)
    return expected_reward(logps, rewards) - beta * f_divergence(logps, ref_logps, divergence)


def regret(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float, divergence: str | Divergence = "reverse_kl"
) -> Tensor:
    """J(π*) − J(π) ≥ 0, (X,), in the rewards' unit; for the KL it is β·KL(π ‖ π*)."""
    if named(divergence) is REVERSE_KL:
        return beta * log_partition(ref_logps, rewards, beta) - objective(logps, ref_logps, rewards, beta)
    best = optimal_logps(ref_logps, rewards, beta, divergence)
    return objective(best, ref_logps, rewards, beta, divergence) - objective(
        logps, ref_logps, rewards, beta, divergence
    )


@torch.no_grad()
def _solve(ref_logps: Tensor, rewards: Tensor, beta: float, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """(λ(x), log π*) for any f: the root in λ of log Σ_y π_ref·w((r − λ)/β), w the inverse of f′, inside a bracket.

    The sum falls with λ. Since f′(1) = 0, no response gains mass at λ = max r and none loses any at λ = min r: the root
    lies between. Nor can λ be below max r − β·f′(∞), where the best response would be infinitely likely.
    """
    from scipy.optimize.elementwise import find_root

    ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
    there = ref_logps > -torch.inf
    best = rewards.where(there, -torch.inf).amax(-1)
    worst = rewards.where(there, torch.inf).amin(-1)
    # Measured from the best reward and in units of β, so that v is exact where the policy's mass is.
    v = ((rewards - best[:, None]) / beta).where(there, -torch.inf)
    widest = (best - worst).div(beta).clamp(max=divergence.slope_at_infinity)

    def logps_at(shift: Tensor, row: Tensor) -> Tensor:
        return ref_logps[row] + divergence.inverse(v[row] + shift[:, None])

    def log_sum(shift: Any, row: Any) -> Any:
        shift, row = torch.from_numpy(shift), torch.from_numpy(row)
        total = logps_at(shift, row).logsumexp(-1)
        # No response gains mass at shift 0: a positive sum is rounding, of the arithmetic or of π_ref.
        return torch.where(shift <= 0, total.clamp(max=0), total).numpy()

    rows = torch.arange(len(best))  # λ = best − β·shift; the sum grows with the shift
    ends = (torch.zeros_like(widest).numpy(), widest.numpy())
    root = find_root(log_sum, ends, args=(rows.numpy(),), tolerances={"xrtol": 4e-16})
    exact = torch.from_numpy(root.f_x == 0)
    low, high = (torch.where(exact, torch.from_numpy(root.x), torch.from_numpy(end)) for end in root.bracket)
    logps, above = logps_at(low, rows), logps_at(high, rows)
    # Where f′ is constant the sum jumps past one: the responses that jump share what is missing.
    missing = 1 - logps.logsumexp(-1, keepdim=True).exp()
    jumps = (above > logps + 1e-6) & (missing > 1e-9)
    share = torch.log_softmax(ref_logps.where(jumps, -torch.inf), -1).nan_to_num(nan=-torch.inf)
    logps = torch.where(jumps, torch.logaddexp(logps, missing.log() + share), logps)
    return best - beta * high, logps.log_softmax(-1)
