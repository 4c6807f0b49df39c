"""Three responses with preferences that no rewards give: the example that claims about UPO share."""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.theory import preference_rewards

F64 = torch.float64


def policy(*probabilities: float) -> Tensor:
    """log π of one prompt, (1, Y)."""
    return torch.tensor([probabilities], dtype=F64).log()


def preferences_of(y: int, wins: dict[tuple[int, int], float]) -> Tensor:
    """P(y ≻ y'), (1, Y, Y), from the probability that the first of a pair wins."""
    p = torch.full((1, y, y), 0.5, dtype=F64)
    for (winner, loser), probability in wins.items():
        p[0, winner, loser], p[0, loser, winner] = probability, 1 - probability
    return p


def same(a: Tensor, b: Tensor, tolerance: float = 1e-8) -> bool:
    """Whether two policies, given as log-probabilities, agree in every probability."""
    return bool((a.exp() - b.exp()).abs().max() < tolerance)


_WINS = torch.tensor([1.0, 2.0, 0.5], dtype=F64).sigmoid().tolist()
PREFERENCES = preferences_of(3, dict(zip([(0, 1), (0, 2), (1, 2)], _WINS, strict=True)))
"""Three responses; the logits of their preferences are 1, 2 and ½, which no rewards give (1 + ½ is not 2)."""
MU, REF = policy(0.2, 0.5, 0.3), policy(0.5, 0.3, 0.2)
"""The opponents' policy and the reference."""
G = preference_rewards(PREFERENCES, MU)
"""g(y) = E_{y'~μ} P(y ≻ y')."""
