"""Losses that look for the Nash equilibrium of a preference: the score of a response is its win rate against rivals.

A win rate is P̂(y ≻ π′) in [0, 1], with ties as ½. Which rivals π′ gives is the record's choice (`Method.rivals`): the
prompt's other samples, or a mixture of π and π_ref. π_t is the policy that sampled the responses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.methods.rewards import implicit_reward, margin, per_example, step_reward
from una_ref.methods.shapes import logistic, score_function, squared

EVEN = 0.5
"""The win rate of a policy against itself."""


def sppo(*, logps: Tensor, old_logps: Tensor, scores: Tensor, beta: float = 0.001) -> Tensor:
    """(log π/π_t − (P̂(y ≻ π_t) − ½)/β)²: regression on the step of multiplicative weights (survey Eq. 61).

    `scores` are win rates against the prompt's other samples, a mean and no sum (ES33). The learning rate η of the
    paper is 1/β. The paper replaces log Z by its value η/2 for win rates near ½, and so does this loss.

    On unlimited samples with the true log Z the minimiser is π_t·exp(P(y ≻ π_t)/β), normalised. Nothing holds the
    policy near π_ref. The last policy of such steps may circle; their average approaches the Nash policy of the game
    without a reference.

    Wu et al. 2024, Eq. 4.6, https://arxiv.org/abs/2405.00675
    """
    per_example(beta, logps=logps, old_logps=old_logps, scores=scores)
    return squared(step_reward(logps, old_logps, beta) - (scores - EVEN)) / beta**2  # survey Eq. 61, log Z = η/2


def sppo_printed(
    *, logps: Tensor, old_logps: Tensor, scores: Tensor, groups: Tensor | None = None, beta: float = 0.001
) -> Tensor:
    """(log π/π_t − (Σ_k P(y ≻ y_k)/β − Ẑ))²: survey Eq. 61 with the estimates printed below it (ES33).

    The sum over K samples is up to K and no probability. Ẑ = E e^{ηP̂} replaces log Ẑ, and overflows at the paper's
    β: use a β of order 1. `scores` are means over the prompt's other samples; the
    sum has ½ for the response itself. Without `groups` each response is the only one of its prompt.

    https://arxiv.org/abs/2407.16216
    """
    per_example(beta, logps=logps, old_logps=old_logps, scores=scores, groups=groups)
    prompts = torch.arange(len(logps), device=logps.device) if groups is None else groups
    _, member_of, sizes = torch.unique(prompts, return_inverse=True, return_counts=True)
    size = sizes[member_of].to(scores.dtype)
    sums = (size - 1) * scores + EVEN
    z = scores.new_zeros(len(sizes)).index_add(0, member_of, (sums / beta).exp())[member_of] / size
    return squared(logps - old_logps - (sums / beta - z))  # survey Eq. 61 and the line below, as printed


def dno(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_old_logps: Tensor,
    rejected_old_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """−log σ(β·log π/π_t(y_w) − β·log π/π_t(y_l)): DPO anchored at the policy that sampled the pair (survey Eq. 62).

    The pair is the best and the worst of a prompt's K samples by win rate: the pair of the largest margin. DPO differs
    in its anchor, π_ref. With the anchor at π_t each rollout moves on from the last one, and π_ref limits nothing. The
    greater win rate always wins the pair, so many passes over one rollout make its margin grow without bound.

    Rosset et al. 2024, Alg. 2, https://arxiv.org/abs/2404.03715
    """
    tensors = {"chosen_logps": chosen_logps, "rejected_logps": rejected_logps}
    per_example(beta, **tensors, chosen_old_logps=chosen_old_logps, rejected_old_logps=rejected_old_logps)
    chosen, rejected = (
        step_reward(now, old, beta)
        for now, old in ((chosen_logps, chosen_old_logps), (rejected_logps, rejected_old_logps))
    )
    return logistic(margin(chosen, rejected))  # survey Eq. 62


def nash_md(*, logps: Tensor, ref_logps: Tensor, scores: Tensor, beta: float = 0.1) -> Tensor:
    """−(P(y ≻ y′) − ½ − β·log π/π_ref)·log π with the bracket held constant (survey Eq. 59 by policy gradient).

    `scores` are P(y ≻ y′), where y′ is drawn from the geometric mixture of π and π_ref (survey Eq. 58). The mixture is
    the opponent only; y is drawn from π. P has no KL term of its own, against the survey's Eq. 59 (ES32). The expected
    gradient is zero at π ∝ π_ref·exp(P(y ≻ mixture)/β). With a mixture of π alone that is the Nash policy of the game
    where both players pay β·KL.

    Munos et al. 2023, Sec. 7, https://arxiv.org/abs/2312.00886
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores)
    return score_function(implicit_reward(logps, ref_logps, beta) - (scores - EVEN), logps)


def nash_md_printed(*, logps: Tensor, ref_logps: Tensor, scores: Tensor, beta: float = 0.1) -> Tensor:
    """`nash_md` at twice the β: the regularised P_β that the survey's Eq. 59 prints pays the KL a second time (ES32).

    https://arxiv.org/abs/2407.16216
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores)
    return nash_md(logps=logps, ref_logps=ref_logps, scores=scores, beta=2 * beta)  # survey Eq. 59 with its Eq. 57
