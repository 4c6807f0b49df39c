"""Losses whose gradient is the policy gradient of J(π) = E_π s − β·KL(π ‖ π_ref), (B,) -> (B,).

The responses have to be drawn from π itself. The reward of a response is s − β·log π/π_ref, held constant, and so is
what is taken from it; the gradient is −advantage·∇log π, unbiased for −∇J if the baseline does not depend on the
response.
"""

from __future__ import annotations

from torch import Tensor

from una_ref.methods.rewards import centred_reward, implicit_reward, per_example
from una_ref.methods.shapes import score_function


def reinforce(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """−(s − r_θ − baseline)·log π with the bracket held, r_θ = β·log π/π_ref (Williams 1992; survey Eq. 48).

    2β times its gradient is that of `una_score` with the same baseline, sample by sample (EU13).
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return score_function(implicit_reward(logps, ref_logps, beta) + baseline - scores, logps)


def rloo(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    scores: Tensor,
    groups: Tensor | None = None,
    baseline: Tensor | float | None = None,
    beta: float = 0.03,
) -> Tensor:
    """`reinforce` with the mean of s − r_θ over the prompt's other responses as baseline (Ahmadian et al. 2024).

    The survey's Eq. 48 prints an arg max and a minus in its text (ES24). The reward holds the KL term, so a reference
    there is, against the survey's Table 1. Its gradient times 2β is that of `una_centred`, sample by sample.
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, groups=groups, baseline=baseline)
    return score_function(centred_reward(logps, ref_logps, scores, groups, baseline, beta) - scores, logps)
