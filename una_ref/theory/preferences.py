"""Preferences in the place of rewards: Bradley–Terry, the reward that ΨPO and UPO maximise, the Nash equilibrium.

Preferences are a table (X, Y, Y): the probability that the first response beats the second. With
`preference_rewards` as the reward, the optimum of ΨPO and UPO is `optimum.optimal_logps`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.theory.checks import check_preferences, check_tables, first_bad


def bradley_terry(rewards: Tensor) -> Tensor:
    """P(y ≻ y') = σ(r(y) − r(y')), (X, Y) -> (X, Y, Y), the winner first (UNA Eq. 1; UPO Eq. 2)."""
    (rewards,) = check_tables(rewards=rewards)
    return (rewards[:, :, None] - rewards[:, None, :]).sigmoid()


def preference_rewards(
    preferences: Tensor, opponent_logps: Tensor, psi: Callable[[Tensor], Tensor] = lambda p: p
) -> Tensor:
    """g(x, y) = E_{y'~μ} Ψ(P(y ≻ y' | x)), (X, Y): what ΨPO and UPO maximise in the place of a reward (UPO Eq. 6, 11).

    `preferences` (X, Y, Y) as in `bradley_terry`. `opponent_logps` (X, Y) is log μ, a fixed policy; UPO's Eq. 8 and 22
    take it to be π_ref without saying so (EP6). With Ψ = `torch.logit` and Bradley–Terry preferences, g is the reward
    minus a constant for each prompt (UPO Eq. 7).
    """
    opponent_logps = check_preferences(preferences, opponent_logps)
    values, weights = psi(preferences.to(torch.float64)), opponent_logps.exp()[:, None, :]
    if values.shape != preferences.shape or values.isnan().any():
        raise ValueError(
            f"psi: expected a number for each preference, shape {tuple(preferences.shape)}, got NaN or the shape "
            f"{tuple(values.shape)}"
        )
    return (torch.where(weights > 0, values, 0.0) * weights).sum(dim=-1)  # Ψ may be infinite at 0 and 1


def nash_logps(preferences: Tensor, ref_logps: Tensor, beta: float, tolerance: float = 1e-12) -> Tensor:
    """log of the Nash policy (X, Y): no other policy beats it when both pay β·KL to π_ref.

    It solves π ∝ π_ref·exp(Σ_y' P(y ≻ y')·π(y')/β): the optimum of ΨPO with the identity and itself as the opponent.
    It is unique and found by Newton's method. Raises ValueError unless P(y ≻ y') + P(y' ≻ y) = 1, and RuntimeError
    where the largest gap, relative to the log-probabilities, stays above `tolerance`.
    """
    ref_logps = check_preferences(preferences, ref_logps, beta)
    p = preferences.to(torch.float64)
    if not torch.allclose(p + p.mT, torch.ones_like(p), rtol=0, atol=1e-9):
        worst = float((p + p.mT - 1).abs().max())
        raise ValueError(f"preferences: expected P(y over y') + P(y' over y) = 1, got sums off by up to {worst:.3g}")
    if (bad := ref_logps == -torch.inf).any():
        raise ValueError(
            f"ref_logps: expected finite numbers, got {first_bad(ref_logps, bad)}. "
            "Fix: leave out responses that π_ref never gives"
        )

    # Unknowns log π and one multiplier for each prompt: β·log(π/π_ref) − P·π + λ = 0, Σ π = 1. P − ½ is antisymmetric,
    # so the equations are monotone, and damped Newton steps reach their root from any start.
    x, y = ref_logps.shape
    logps = ref_logps.log_softmax(-1)
    system = torch.ones(x, y + 1, y + 1, dtype=torch.float64)
    for _ in range(500 + math.ceil(4 / beta)):  # a step has length 1 at most, and the distance may be 1/β
        force = (p @ logps.exp()[..., None]).squeeze(-1)
        gap = logps - (ref_logps + force / beta).log_softmax(-1)
        if (largest := float((gap.abs() / (1 + logps.abs())).max())) <= tolerance:
            return logps
        system[:, :y, :y] = beta * torch.eye(y, dtype=torch.float64) - p * logps.exp()[:, None, :]
        system[:, y, :y], system[:, y, y] = logps.exp(), 0.0
        right = torch.cat([force - beta * (logps - ref_logps), torch.zeros(x, 1, dtype=torch.float64)], -1)
        step = torch.linalg.solve(system, right)[:, :y]
        logps = (logps + step / (1 + step.abs().amax(-1, keepdim=True))).log_softmax(-1)
    raise RuntimeError(f"nash_logps: the largest relative gap is {largest:.3g}, above the tolerance {tolerance:.3g}")
