"""Losses on pairs with the scores of both responses: by how much one is better, and not only which, (P,) -> (P,).

`margins` is the score of the chosen minus the score of the rejected response. It may be negative or 0. Every loss
raises ValueError for tensors of different shapes and for a hyper-parameter out of its range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.methods.pair_margins import implicit_margin
from una_ref.methods.ranges import one_of, positive
from una_ref.methods.shapes import logistic, squared


def _squared_distance(learned: Tensor, target: Tensor) -> Tensor:
    return squared(learned - target)


def _bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(σ(first) ‖ σ(second)), from logits."""
    return first.sigmoid() * (logsigmoid(first) - logsigmoid(second)) + (-first).sigmoid() * (
        logsigmoid(-first) - logsigmoid(-second)
    )


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "backward_kl": lambda learned, target: _bernoulli_kl(target, learned),
        "forward_kl": _bernoulli_kl,
        "squared": _squared_distance,
    }
)
"""The distances of a learned margin from the target, by the paper's names."""


def rpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    margins: Tensor,
    beta: float = 0.1,
    eta: float = 1.0,
    distance: str = "backward_kl",
) -> Tensor:
    """D(r_θ(y_w) − r_θ(y_l), η·[s_w − s_l]): NVIDIA's reward-aware preference optimisation.

    D is the squared error, or the KL divergence between preferences, KL(σ(target) ‖ σ(learned)) as "backward_kl" and
    the reverse as "forward_kl". All three are 0, and minimal, at π ∝ π_ref·exp(η·s/β), for any sampler. The order of
    the two responses does not matter. The squared form with η = 1 is `una_centred_pairwise`. The backward KL plus the
    entropy of the target is DPO with soft labels σ(η·[s_w − s_l]).

    Sun et al. 2025, https://arxiv.org/abs/2502.00203; first in Nemotron-4 340B, https://arxiv.org/abs/2406.11704
    """
    positive(eta=eta)
    one_of(DISTANCES, distance=distance)
    learned = implicit_margin(
        beta,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        margins=margins,
    )
    return DISTANCES[distance](learned, eta * margins)


def odpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    margins: Tensor,
    beta: float = 0.1,
    eta: float = 1.0,
) -> Tensor:
    """−log σ(r_θ(y_w) − r_θ(y_l) − η·m) with m = `margins`: DPO with an offset.

    The implicit reward of the chosen response has to be greater by η·m. Where m is a difference s(y_w) − s(y_l) of
    scores, the population optimum under Bradley–Terry preferences is π ∝ π_ref·exp((r + η·s)/β). Where m is a positive
    number whoever wins, the optimum exaggerates differences, as `reward_model_margin`'s does. The paper's offset is a
    logarithm of the difference of scores, which a column `margin` can hold.

    Amini et al. 2024, https://arxiv.org/abs/2402.10571
    """
    positive(eta=eta)
    learned = implicit_margin(
        beta,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        margins=margins,
    )
    return logistic(learned - eta * margins)


def rebel(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    margins: Tensor,
    eta: float = 10.0,
) -> Tensor:
    """[(1/η)·(u(y_w) − u(y_l)) − (s_w − s_l)]² with u = log π/π_ref: REBEL's regression (Algorithm 1).

    In the paper π_ref is the policy π_t that sampled the two responses, refreshed at every iteration. Then one
    iteration is a step of mirror descent, π ∝ π_t·exp(η·s), and η is its size. On a fixed data set π_ref stays, and the
    loss is `una_centred_pairwise` and `rpo`'s squared form at β = 1/η. A reference that is refreshed gives the
    iterations.

    Gao et al. 2024, https://arxiv.org/abs/2404.16767
    """
    positive(eta=eta)
    learned = implicit_margin(
        1 / eta,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        margins=margins,
    )
    return squared(learned - margins)
