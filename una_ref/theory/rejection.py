"""Statistical rejection sampling, exactly: what accepted responses of π_ref are distributed like."""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.theory.checks import check_tables


def accepted_logps(
    ref_logps: Tensor, rewards: Tensor, beta: float, highest: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """log-probabilities (X, Y) of accepted responses, and the acceptance rate (X,).

    A response of π_ref is accepted with probability min(1, exp((r − r_max)/β)) (survey Eq. 4). With the true r_max the
    accepted ones are distributed like π* ∝ π_ref·exp(r/β), and the rate is Z·exp(−r_max/β). With a smaller r_max all
    responses above it count alike, and the distribution is another one (ES3).

    Args:
        ref_logps: (X, Y) log π_ref.
        rewards: (X, Y).
        beta: in the rewards' unit.
        highest: (X,) r_max. None: the greatest reward of each prompt.
    """
    ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
    top = rewards.amax(-1) if highest is None else highest.to(torch.float64)
    joint = ref_logps + ((rewards - top[:, None]) / beta).clamp(max=0)
    return joint.log_softmax(-1), joint.logsumexp(-1).exp()
