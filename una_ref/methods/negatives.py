"""Losses on rejected responses alone: unlearning, and alignment without positive samples.

`npo` and `gradient_ascent` take single responses with binary labels, (B,) -> (B,). A positive label gives 0, so that
labels and pairs can both be used. `d2o` takes lists, (G, K) -> (G,). Log-probabilities are in nats. Every loss raises
ValueError for tensors of different shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.methods.ranges import positive
from una_ref.methods.ranking import ahead, check_lists, filled, worst
from una_ref.methods.rewards import implicit_reward, log_likelihood, per_example
from una_ref.methods.shapes import logistic, rejected_linear, rejected_softplus


def npo(*, logps: Tensor, ref_logps: Tensor, labels: Tensor, beta: float = 0.1) -> Tensor:
    """(1 − y)·(2/β)·log(1 + (π/π_ref)^β): negative preference optimisation (survey Sec. 3.10.2, without an equation).

    It is DPO's logarithm without the chosen response, times 2/β. The factor makes `gradient_ascent` the limit β → 0, up
    to a constant; the survey does not name it (ES30). The gradient is 2σ(β·u) times that of gradient ascent, with
    u = log π/π_ref. It fades as a response becomes unlikely: u then falls like −log(t)/β in time, not like −t.

    Zhang et al. 2024, https://arxiv.org/abs/2404.05868
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, labels=labels)
    return rejected_softplus(implicit_reward(logps, ref_logps, beta), labels, beta)


def gradient_ascent(*, logps: Tensor, labels: Tensor) -> Tensor:
    """(1 − y)·log π(y|x): the negative log-likelihood of rejected responses, maximised.

    It is unbounded below. Its gradient does not fade: log π of a rejected response falls in proportion to the number of
    steps. It has no reference. The NPO paper compares NPO with it.

    Zhang et al. 2024, Sec. 2, https://arxiv.org/abs/2404.05868
    """
    per_example(logps=logps, labels=labels)
    return rejected_linear(log_likelihood(logps), labels)


def d2o(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    second_ref_logps: Tensor,
    scores: Tensor,
    mask: Tensor,
    beta: float = 0.1,
    alpha: float = 1.0,
) -> Tensor:
    """−log σ((β/K)·Σ_i log π/π_ref⁻(y_i) − α·β·log π/π_ref(y_l)): Negating Negatives (survey Eq. 53).

    A list holds one rejected response y_l, the one with the lowest score, and K samples of π_ref; of equal scores the
    last one is y_l. Where all scores are equal none is rejected: the loss is log 2, without a gradient. β is the
    survey's γ, and α·β its α. At α = 1 an offset of the rewards cancels.

    The paper has two references: a helpful one for y_l, such as the policy of an earlier stage, and a harmful one,
    π_ref⁻, for the samples. The survey prints π_ref for the samples and π_ref⁺ for y_l, and defines π_ref⁻ without
    using it (ES29). Here ``ref_logps`` is the helpful one and ``second_ref_logps`` is π_ref⁻. A run takes the starting
    model for both, unless it names other ones.

    Duan et al. 2024, https://arxiv.org/abs/2403.03419
    """
    check_lists(
        "d2o", beta, logps=logps, ref_logps=ref_logps, second_ref_logps=second_ref_logps, scores=scores, mask=mask
    )
    positive(alpha=alpha)
    helpful, harmful = (
        implicit_reward(filled(mask, logps), filled(mask, of), beta) for of in (ref_logps, second_ref_logps)
    )
    labels = filled(mask, scores)
    rejected = worst(labels, mask)
    samples = mask & ~rejected
    mean = torch.where(samples, harmful, 0.0).sum(-1) / samples.sum(-1)
    margin = mean - alpha * torch.where(rejected, helpful, 0.0).sum(-1)
    decided = ahead(labels, mask).any(-1).any(-1)
    return logistic(torch.where(decided, margin, 0.0))  # Duan et al.'s form of survey Eq. 53
