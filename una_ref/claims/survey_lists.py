"""The survey on lists of responses: LiPO, RRHF, PRO (Eq. 49 to 52)."""

from __future__ import annotations

import math
from itertools import permutations

import torch
from torch import Tensor

from una_ref.claims.example_survey import F64, SINGLES_NOTEBOOK, numbers
from una_ref.claims.ledger import FAILS, SURVEY, Evidence, claim

NOTEBOOK = SINGLES_NOTEBOOK


def lambda_loss(scores: Tensor, labels: Tensor, base: float = math.e) -> float:
    """LiPO's λ-loss with the sign that makes it one: Σ Δ_ij·log(1 + e^(−(s_i − s_j))) over pairs with ψ_i > ψ_j."""
    gains = 2**labels - 1
    ranks = 1 + scores.argsort(descending=True).argsort().to(F64)
    discounts = (1 + ranks).log() / math.log(base)
    total = 0.0
    for i, j in permutations(range(len(scores)), 2):
        if labels[i] > labels[j]:
            weight = (gains[i] - gains[j]).abs() * (1 / discounts[i] - 1 / discounts[j]).abs()
            total += float(weight * torch.nn.functional.softplus(scores[j] - scores[i]))
    return total


@claim(
    "ES25",
    paper=SURVEY,
    place="Eq. 49",
    says="LiPO's loss is −E Σ Δ·log(1 + e^(−(s_i − s_j)))",
    verdict=FAILS,
    instead="+: the logarithm is positive already; with the minus the inverted ranking has the lower loss",
    shows="labels 1, 0: correct order, s = (3, 0): {right:.5f}; inverted, s = (0, 3): {inverted:.5f}; printed the "
    "signs are turned",
    notebook=NOTEBOOK,
    misprint=True,
)
def _es25() -> Evidence:
    labels = numbers(1, 0)
    right, inverted = lambda_loss(numbers(3, 0), labels), lambda_loss(numbers(0, 3), labels)
    return Evidence(
        {"right": right, "inverted": inverted},
        {"the correct order costs less": 0 < right < inverted, "printed it costs more": -right > -inverted},
    )


@claim(
    "ES26",
    paper=SURVEY,
    place="below Eq. 49",
    says="the discount is D = log(1 + τ), with τ(i) and τ(s_i)",
    verdict="holds if base, ranks and ties are agreed on",
    instead="τ is the rank by the policy's scores, without gradient; the base scales the loss by log 2",
    shows="s = (3, 0): {natural:.5f} with natural logarithms, {two:.5f} with base 2, ratio {ratio:.4f}",
    notebook=NOTEBOOK,
)
def _es26() -> Evidence:
    natural, two = (lambda_loss(numbers(3, 0), numbers(1, 0), base) for base in (math.e, 2.0))
    return Evidence(
        {"natural": natural, "two": two, "ratio": two / natural},
        {"the ratio is log 2": abs(two / natural - math.log(2)) < 1e-12},
    )


def ranking_term(values: Tensor, order: Tensor) -> Tensor:
    """Σ max(0, v_i − v_j) over pairs with order_i < order_j."""
    below = order[:, None] < order[None, :]
    return ((values[:, None] - values[None, :]).clamp(min=0) * below).sum()


@claim(
    "ES27",
    paper=SURVEY,
    place="below Eq. 50",
    says="in RRHF p_i are human rankings and ψ_i the evaluation by the LLM",
    verdict=FAILS,
    instead="ψ are the labels and p the mean log-probabilities; the SFT term is a sum over tokens, and sums over pairs "
    "are not means",
    shows="p = (−1, −2, −0.5), ψ = (3, 2, 1), log π of the best −4: {rank:.0f} + {sft:.0f}; with the roles of the text "
    "the first term is {swapped:.0f} and has no gradient",
    notebook=NOTEBOOK,
    misprint=True,
)
def _es27() -> Evidence:
    policy, labels, best = numbers(-1, -2, -0.5).requires_grad_(), numbers(3, 2, 1), -4.0
    rank = ranking_term(policy, labels)
    slope = torch.autograd.grad(rank, policy)[0]
    swapped = ranking_term(labels, policy.detach())
    return Evidence(
        {"rank": float(rank.detach()), "sft": -best, "swapped": float(swapped)},
        {
            "the worst response is pushed down": float(slope[2]) > 0 > float(slope[1]),
            "labels do not depend on the policy": not swapped.requires_grad,
        },
    )


def pro(scores: Tensor, distances: Tensor) -> float:
    """Eq. 52 for responses in order of preference: each r is multiplied by 1/T, its distance of `distances`."""
    total = 0.0
    for k in range(len(scores) - 1):
        gaps = distances[k] - distances[k:]
        gaps = torch.cat([gaps[1:].max()[None], gaps[1:]])  # T_k^k = min T is the largest distance
        total -= float((scores[k:] * gaps).log_softmax(0)[0])
    return total


@claim(
    "ES28",
    paper=SURVEY,
    place="Eq. 52",
    says="T_i^k = 1/(r_θ,k − r_θ,i), and T_k^k = min T is the smallest distance",
    verdict=FAILS,
    instead="the distances are those of a fixed reward model; T is an inverse, so min T belongs to the largest "
    "distance; compute r·distance, where a tie is 0 and not 1/0",
    shows="policy scores 0.5, −0.5, 0, rewards 2, 1, −1: {right:.5f}; with r_θ in T {printed:.5f}",
    notebook=NOTEBOOK,
)
def _es28() -> Evidence:
    scores, rewards = numbers(0.5, -0.5, 0), numbers(2, 1, -1)
    right = pro(scores, rewards)
    # Literally: the second task has r_θ,2 − r_θ,3 < 0, a negative temperature.
    printed = pro(scores, scores)
    return Evidence(
        {"right": right, "printed": printed},
        {
            "min T belongs to the largest distance": float((1 / numbers(1, 3)).min()) == 1 / 3,
            "with r_θ a temperature can be negative": float(scores[1] - scores[2]) < 0,
            "a tie is finite": math.isfinite(pro(scores, numbers(2, 2, -1))),
        },
    )
