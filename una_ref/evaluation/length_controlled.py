"""AlpacaEval's win rate, and its length-controlled win rate: the win rate that answers as long as the baseline's have.

A logistic regression explains the preference for the model's answer to instruction i:

    logit p_i = w_length · tanh(Δ_i) + w_difficulty · d_i + w_model

Δ is the baseline's length minus the model's, in characters, over its standard deviation; d is the difficulty of the
instruction, fitted once over many models by AlpacaEval. The rate is the mean of σ(w_difficulty · d_i + w_model), which
is the prediction at Δ = 0. Two gamed baselines, one told to be verbose and one concise, keep the first two weights
steady: their rows have no w_model, and weigh 0.1 each.

Dubois et al. 2024, "Length-Controlled AlpacaEval", https://arxiv.org/abs/2404.04475; the formula as in
https://github.com/tatsu-lab/alpaca_eval, metrics/glm_winrate.py. That code fits by cross-validated L1; this is the
maximum likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from una_ref.errors import InputError

GAMED_WEIGHT = 0.2 / 2
"""Weight of a gamed baseline's row; a row of the model has weight 1. There are two gamed baselines."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A win rate in [0, 1], and its standard error over instructions (None for a single one)."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Gamed:
    """AlpacaEval's df_gamed.csv: the rows of the two gamed baselines, and with them every instruction's difficulty.

    Attributes:
        index: (G,) place of the instruction in the benchmark.
        length: (G,) Δ, already over its standard deviation.
        difficulty: (G,) of the instruction.
        preference: (G,) for the gamed baseline, in [0, 1].
    """

    index: NDArray[np.int64]
    length: Array
    difficulty: Array
    preference: Array

    def difficulties(self, count: int) -> Array:
        """(count,) difficulty of every instruction.

        Raises:
            InputError: an instruction has none.
        """
        found = np.full(count, np.nan)
        inside = self.index < count
        found[self.index[inside]] = self.difficulty[inside]
        if np.isnan(found).any():
            missing = int(np.isnan(found).sum())
            raise InputError(f"df_gamed.csv: expected a difficulty of {count} instructions, got none for {missing}")
        return found


def read_gamed(file: Path) -> Gamed:
    """AlpacaEval's file of the gamed baselines. Raises InputError if a column is missing or not numeric."""
    import csv

    columns = ("index", "std_delta_len", "instruction_difficulty", "preference")
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        index, length, difficulty, preference = ([float(row[name]) for row in rows] for name in columns)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{file}: expected numbers in the columns {', '.join(columns)}, got: {error}") from error
    if not rows:
        raise InputError(f"{file}: expected rows, got none")
    return Gamed(np.array(index, np.int64), np.array(length), np.array(difficulty), np.array(preference))


def win_rate(preferences: Array) -> Rate:
    """The mean probability that the model's answer is preferred.

    Args:
        preferences: (N,) in [0, 1].
    """
    return _rate(np.asarray(preferences, float))


@dataclass(frozen=True)
class LengthControlled:
    """The fitted regression.

    Attributes:
        rate: the length-controlled win rate.
        length, difficulty, model: the weights.
    """

    rate: Rate
    length: float
    difficulty: float
    model: float


def length_controlled(preferences: Array, differences: Array, difficulties: Array, gamed: Gamed) -> LengthControlled:
    """Fit the regression to one model.

    Args:
        preferences: (N,) for the model's answer, in [0, 1], to every instruction of the benchmark; NaN where the judge
            gave none: such a row is predicted and not fitted.
        differences: (N,) length of the baseline's answer minus that of the model's, in characters.
        difficulties: (N,) of the instructions.
        gamed: the rows of the gamed baselines.

    Raises:
        InputError: the lengths of the arrays differ, all length differences are equal, or the fit did not converge.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    if not len(preferences) == len(differences) == len(difficulties):
        sizes = f"{len(preferences)}, {len(differences)} and {len(difficulties)}"
        raise InputError(f"length-controlled win rate: expected as many lengths and difficulties, got {sizes}")
    spread = np.std(differences, ddof=1) if len(differences) > 1 else 0.0
    if not spread > 0:
        raise InputError("length-controlled win rate: expected length differences that differ, got equal ones")
    own = np.column_stack([np.tanh(differences / spread), difficulties, np.ones(len(preferences))])
    others = np.column_stack([np.tanh(gamed.length), gamed.difficulty, np.zeros(len(gamed.length))])
    known = ~np.isnan(preferences)
    features, targets = np.vstack([own[known], others]), np.concatenate([preferences[known], gamed.preference])
    weights = np.concatenate([np.ones(known.sum()), np.full(len(others), GAMED_WEIGHT)])
    weights /= weights.sum()

    def loss(w: Array) -> tuple[float, Array]:
        logits = features @ w
        value = weights @ (np.logaddexp(0, logits) - targets * logits)
        return float(value), features.T @ (weights * (expit(logits) - targets))

    fit = minimize(loss, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-9})
    if np.abs(fit.jac).max() > 1e-6:  # BFGS also reports the last digits as a failure
        raise InputError(f"length-controlled win rate: expected the fit to converge, got: {fit.message}")
    length, difficulty, model = map(float, fit.x)
    return LengthControlled(_rate(expit(difficulty * difficulties + model)), length, difficulty, model)


def _rate(shares: Array) -> Rate:
    stderr = float(shares.std(ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else None
    return Rate(float(shares.mean()), stderr)
