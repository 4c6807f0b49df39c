"""Further likelihoods of reward models: of all pairs of a ranked list, and with a margin for each pair.

`rewards` are the output of a scorer. Every loss raises ValueError for tensors of different shapes and for a
hyper-parameter out of its range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.methods.ranges import at_least_zero
from una_ref.methods.ranking import of_lists
from una_ref.methods.rewards import margin, per_example
from una_ref.methods.shapes import logistic


def reward_model_lists(*, rewards: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """(G, K) -> (G,): the mean of −log σ(r_φ(y_w) − r_φ(y_l)) over the pairs of a list (survey Eq. 1).

    A list of K responses has C(K, 2) pairs; the response with the higher score is the winner, and pairs of equal scores
    are left out. A list without a pair has the loss 0. Eq. 1 divides by the number of pairs twice (ES1).

    Ouyang et al. 2022, Eq. 1, https://arxiv.org/abs/2203.02155
    """
    of_lists(rewards=rewards, scores=scores, mask=mask)
    present = mask[:, :, None] & mask[:, None, :]
    # What stands outside the mask may be NaN; it would make the gradient NaN even with a weight of 0.
    rewards, scores = rewards.where(mask, 0.0), scores.where(mask, 0.0)
    wins = present & (scores[:, :, None] > scores[:, None, :])
    losses = torch.where(wins, logistic(rewards[:, :, None] - rewards[:, None, :]), 0.0)
    return losses.sum((1, 2)) / wins.sum((1, 2)).clamp(min=1)  # survey Eq. 1


def reward_model_margin(
    *, chosen_rewards: Tensor, rejected_rewards: Tensor, margins: Tensor, centring: float = 0.0
) -> Tensor:
    """−log σ(r_φ(y_w) − r_φ(y_l) − m) + c·(r_φ(y_w) + r_φ(y_l))² with m = `margins` and c = `centring` (Llama 2, Eq.
    2).

    A pair whose scores differ much has to be separated by more. For m > 0 it is no likelihood: its optimum exaggerates
    the differences of rewards. c > 0 keeps the mean reward of a pair near 0, which pairs do not determine (Eisenstein
    et al. 2023). TRL has both.

    Touvron et al. 2023, https://arxiv.org/abs/2307.09288; Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244
    """
    at_least_zero(centring=centring)
    per_example(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, margins=margins)
    likelihood = logistic(margin(chosen_rewards, rejected_rewards) - margins)
    return likelihood + centring * (chosen_rewards + rejected_rewards) ** 2
