"""The scalar functions that turn a comparison into a loss, finite for every finite input.

`x` is a margin, a residual or a logit, in reward units. A label is bool or in [0, 1]; 1 is positive.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from una_ref.methods.ranges import at_least_zero, positive


def linear(x: Tensor) -> Tensor:
    """−x: unbounded below where x is unbounded above."""
    return -x


def logistic(x: Tensor) -> Tensor:
    """−log σ(x): the negative log-likelihood of a Bradley–Terry preference with margin x."""
    return -logsigmoid(x)


def smoothed_logistic(x: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """−(1 − ε)·log σ(x) − ε·log σ(−x): `logistic` where a share ε of the labels is wrong.

    Its minimum is at logit(1 − ε). Raises ValueError unless 0 ≤ ε < 0.5: at 0.5 the labels carry no information.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be at least 0 and below 0.5, got {label_smoothing}")
    return (1 - label_smoothing) * logistic(x) + label_smoothing * logistic(-x)


def squared(x: Tensor, target: float = 0.0) -> Tensor:
    """(x − target)²."""
    return (x - target) ** 2


def hinge(x: Tensor, target: float = 1.0) -> Tensor:
    """max(0, target − x): 0 from the target on. For P(first is better) = p the minimum is at ±target, by p ≷ 0.5."""
    return (target - x).relu()


def exponential(x: Tensor) -> Tensor:
    """e^(−x). Where it reaches the square root of the largest float it goes on as a straight line.

    That is from a margin of −44 in float32 and of −354 in float64. Values stay finite, and so do gradients.
    """
    far = -math.log(torch.finfo(x.dtype).max) / 2
    near = x.clamp(min=far)
    return (-near).exp() + (-near).exp().detach() * (near - x)


def truncated_quadratic(x: Tensor) -> Tensor:
    """max(0, 1 − x)²: `squared` with target 1, without its rise beyond the target."""
    return hinge(x) ** 2


def savage(x: Tensor) -> Tensor:
    """σ(−x)²: bounded by 1, not convex. It is a proper score of σ(x), like `logistic`."""
    return (-x).sigmoid() ** 2


def bce(x: Tensor, labels: Tensor) -> Tensor:
    """−y·log σ(x) − (1 − y)·log(1 − σ(x)): a proper score for y in [0, 1], with its minimum at σ(x) = y (EU17)."""
    y = labels.to(x.dtype)
    return -y * logsigmoid(x) - (1 - y) * logsigmoid(-x)


def mse(x: Tensor, labels: Tensor) -> Tensor:
    """(σ(x) − y)²: a proper score like `bce`, but bounded by 1. Its gradient vanishes where σ saturates."""
    return (x.sigmoid() - labels.to(x.dtype)) ** 2


def kahneman_tversky(
    x: Tensor, labels: Tensor, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> Tensor:
    """λ − v with the value v = λ_D·σ(x) of a desirable and λ_U·σ(−x) of an undesirable example.

    x is the gain over the reference point (survey Eq. 34). A label strictly between 0 and 1 mixes the two values.
    It is not a proper score: for P(desirable) = p the minimum is at x → ±∞, by the sign of p·λ_D − (1 − p)·λ_U.
    """
    at_least_zero(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    y = labels.to(x.dtype)
    return desirable_weight * y * (-x).sigmoid() + undesirable_weight * (1 - y) * x.sigmoid()


def prospect(x: Tensor, alpha: float = 0.88, loss_aversion: float = 2.25) -> Tensor:
    """The value v of a gain x over the reference point: x^α, or −λ·(−x)^α of a loss (survey Eq. 31).

    λ is `loss_aversion`. The defaults are the medians of Tversky and Kahneman's subjects. No method trains it: the
    slope is infinite at the reference point, where every run starts. KTO puts σ in its place (`kahneman_tversky`). σ is
    concave in gains and convex in losses as well, with a finite slope; two weights take the place of λ.
    Raises ValueError unless 0 < α ≤ 1 and λ > 0.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
    positive(loss_aversion=loss_aversion)
    size = x.abs() ** alpha
    return size.where(x >= 0, -loss_aversion * size)


def rejected_linear(x: Tensor, labels: Tensor) -> Tensor:
    """(1 − y)·x: what a negative label makes small, without a bound."""
    return (1 - labels.to(x.dtype)) * x


def rejected_softplus(x: Tensor, labels: Tensor, beta: float) -> Tensor:
    """(1 − y)·(2/β)·log(1 + e^x) for a reward x = β·u; the slope in u is 2σ(x), which is 1 at x = 0."""
    return 2 / beta * rejected_linear(softplus(x), labels)


def score_function(x: Tensor, logps: Tensor) -> Tensor:
    """x·log π with x held constant. Its gradient is REINFORCE's, x·∇log π; its value has no meaning."""
    return x.detach() * logps
