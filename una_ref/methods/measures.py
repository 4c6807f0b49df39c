"""Measures of how far a learned reward is from a score: UNA's g, which its Sec. 7.4 leaves open.

Each is a function of the reward x and the score s, in reward units, 0 where they are equal. Where a response has many
scores, the measure decides what is learned, such as their mean or median: see each function's docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.methods.ranges import one_of, positive
from una_ref.methods.shapes import squared

Measure = Callable[[Tensor, Tensor, float], Tensor]


def mean_squared(x: Tensor, scores: Tensor, width: float) -> Tensor:
    """(x − s)². Its minimiser is the mean score."""
    return squared(x - scores)


def huber(x: Tensor, scores: Tensor, width: float) -> Tensor:
    """(x − s)² up to a distance of `width`, w·(2·|x − s| − w) beyond it: twice Huber's function.

    Its minimiser lies between the median and the mean, and near the mean for a large `width`. No score has a gradient
    of more than 2w, however wrong it is.
    """
    distance = (x - scores).abs()
    near = distance.clamp(max=width)  # near² + 2w·(distance − near) is one formula for both pieces
    return squared(near) + 2 * width * (distance - near)


def absolute(x: Tensor, scores: Tensor, width: float) -> Tensor:
    """|x − s|. Its minimiser is the median score. The gradient has one size, whatever the distance."""
    return (x - scores).abs()


def insensitive(x: Tensor, scores: Tensor, width: float) -> Tensor:
    """max(0, |x − s| − width): the hinge of support vector regression, 0 within `width` of the score.

    The minimiser of scores that differ by less than 2·width is a whole interval, with no gradient inside.
    """
    return ((x - scores).abs() - width).relu()


def bernoulli_kl(x: Tensor, scores: Tensor, width: float) -> Tensor:
    """KL(Bernoulli(σ(s)) ‖ Bernoulli(σ(x))), in nats: reward and score as logits of a positive label.

    Its minimiser is the logit of the mean of σ(s). An error among large scores counts little.
    """
    p = scores.sigmoid()
    return p * (logsigmoid(scores) - logsigmoid(x)) + (1 - p) * (logsigmoid(-scores) - logsigmoid(-x))


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {"mse": mean_squared, "huber": huber, "l1": absolute, "hinge": insensitive, "kl": bernoulli_kl}
)
"""Every measure by name: reward, score and `width`, which only huber and hinge read -> one number per example."""


def measured(x: Tensor, scores: Tensor, measure: str = "huber", width: float = 0.1) -> Tensor:
    """The measure of that name.

    Raises ValueError for an unknown name and for a `width` that is not positive.
    """
    one_of(MEASURES, measure=measure)
    positive(width=width)
    return MEASURES[measure](x, scores, width)
