"""The conditions on the arguments of this package: one shape, distributions, finite numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROW_SUM_TOLERANCE = 1e-4
"""How far a row's probabilities may be from summing to one; float32 log-softmaxes over a response stay within it."""


def check_tables(beta: float = 1.0, *, rewards: Tensor | None = None, **policies: Tensor) -> list[Tensor]:
    """The policies, then the rewards if given, each (X, Y) and in float64.

    Raises ValueError naming the argument: `beta` is not positive and finite, shapes differ, a reward is not finite, or
    the probabilities of a row do not sum to one.
    """
    if torch.as_tensor(beta).numel() != 1 or not 0 < beta < math.inf:
        raise ValueError(f"beta: expected one positive, finite number, got {beta}")
    tables = policies if rewards is None else policies | {"rewards": rewards}
    shapes = {name: tuple(table.shape) for name, table in tables.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"tables: expected the same shape (prompts, responses), got {shapes}")
    tables = {name: table.to(torch.float64) for name, table in tables.items()}
    if rewards is not None and (bad := ~tables["rewards"].isfinite()).any():
        raise ValueError(f"rewards: expected finite numbers, got {first_bad(tables['rewards'], bad)}")
    for name in policies:
        sums = tables[name].detach().exp().sum(dim=-1)
        row = int((sums - 1).abs().nan_to_num(nan=torch.inf).argmax())
        if not abs(sums[row] - 1) <= ROW_SUM_TOLERANCE:
            raise ValueError(
                f"{name}: expected log-probabilities, got row {row} whose probabilities sum to {float(sums[row]):.6g}. "
                "Fix: log_softmax over the responses"
            )
    return list(tables.values())


def check_preferences(preferences: Tensor, logps: Tensor, beta: float = 1.0) -> Tensor:
    """The policy `logps` (X, Y) in float64.

    Raises ValueError as `check_tables` does, and where `preferences` are not probabilities of shape (X, Y, Y).
    """
    (logps,) = check_tables(beta, logps=logps)
    expected, shape = (*logps.shape, logps.shape[-1]), tuple(preferences.shape)
    if shape != expected:
        raise ValueError(f"preferences: expected the shape {expected} (prompts, winner, loser), got {shape}")
    if (bad := ~((preferences >= 0) & (preferences <= 1))).any():
        raise ValueError(f"preferences: expected probabilities in [0, 1], got {first_bad(preferences, bad)}")
    return logps


def check_baseline(baseline: Tensor | float, rewards: Tensor) -> Tensor:
    """The baseline in float64. Raises ValueError unless it is one finite number, or one for each prompt, (X, 1)."""
    values = torch.as_tensor(baseline, dtype=torch.float64)
    shape, expected = tuple(values.shape), (len(rewards), 1)
    if shape not in ((), expected):
        raise ValueError(f"baseline: expected a number or the shape {expected} (prompts, 1), got the shape {shape}")
    if (bad := ~values.isfinite()).any():
        raise ValueError(f"baseline: expected finite numbers, got {first_bad(values, bad)}")
    return values


def first_bad(table: Tensor, bad: Tensor) -> str:
    """The first entry where `bad` is true, with its index."""
    index = tuple(bad.nonzero()[0].tolist())
    return f"{float(table[index]):.6g} at {index}"
