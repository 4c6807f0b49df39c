"""AlphaPO: SimPO with another function of the mean log-probability as the reward, (P,) -> (P,)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.methods.ranges import at_least_zero
from una_ref.methods.rewards import margin, per_example
from una_ref.methods.shapes import logistic


def power_reward(logps: Tensor, lengths: Tensor, beta: float, alpha: float = 0.25) -> Tensor:
    """β·(1 − p^(−α))/α with p = π(y|x)^(1/|y|), the geometric mean of the tokens' probabilities. α → 0: β·log p.

    p^(−α) overflows for small p. It is continued as a straight line in log p from the cube root of the largest float.
    """
    mean = logps / lengths
    if alpha == 0:
        return beta * mean
    exponent = -alpha * mean
    near = exponent.clamp(max=math.log(torch.finfo(mean.dtype).max) / 3)
    return -beta / alpha * (near.expm1() + near.exp() * (exponent - near))


def alpha_po(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float = 2.0,
    gamma: float = 1.0,
    alpha: float = 0.25,
) -> Tensor:
    """−log σ(r(y_w) − r(y_l) − γ) with r = β·(1 − p^(−α))/α and p = π(y|x)^(1/|y|), without a reference.

    α = 0 is `simpo`. For α > 0 the reward is concave in log p: improbable responses are corrected more strongly. At
    γ = 0 under Bradley–Terry preferences p = (1 − α·(r* − λ(x))/β)^(−1/α), where λ(x) makes the probabilities sum to 1.
    γ is a target margin, in reward units. Raises ValueError for an α that is not finite.

    Gupta et al. 2025, https://arxiv.org/abs/2501.03884
    """
    lengths = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    per_example(beta, chosen_logps=chosen_logps, rejected_logps=rejected_logps, **lengths)
    at_least_zero(gamma=gamma)
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be finite, got {alpha}")
    chosen = power_reward(chosen_logps, chosen_lengths, beta, alpha)
    rejected = power_reward(rejected_logps, rejected_lengths, beta, alpha)
    return logistic(margin(chosen, rejected) - gamma)
