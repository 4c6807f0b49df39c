"""Generalised preference optimisation: one margin, and any function that falls in it.

DPO, IPO (up to a factor) and the losses of RSO are members. `gpo` takes the function by name or as a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from una_ref.methods.pair_margins import implicit_margin
from una_ref.methods.ranges import one_of
from una_ref.methods.shapes import exponential, hinge, logistic, savage, squared, truncated_quadratic

Shape = Callable[[Tensor], Tensor]


def squared_at_one(x: Tensor) -> Tensor:
    """(x − 1)²."""
    return squared(x, target=1.0)


MARGIN_SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "logistic": logistic,
        "hinge": hinge,
        "squared": squared_at_one,
        "exponential": exponential,
        "truncated_quadratic": truncated_quadratic,
        "savage": savage,
    }
)
"""The functions of GPO's Table 1, by name."""


def margin_shape(function: str | Shape) -> Shape:
    """The function of that name, or the one given.

    Raises ValueError for an unknown name, and for a function that does not fall at 0: it would not prefer y_w (ES10).
    """
    if isinstance(function, str):
        one_of(MARGIN_SHAPES, function=function)
        return MARGIN_SHAPES[function]
    if not (slope := taylor(function)[1]) < 0:
        raise ValueError(f"function must fall at 0, got one with f'(0) = {slope:.6g}")
    return function


@cache
def taylor(function: str | Shape) -> tuple[float, float, float]:
    """f(0), f'(0) and f''(0): the loss near 0 is f(0) + f'(0)·E m + f''(0)/2·E m² for margins m (survey Eq. 19).

    The second term raises margins, the third keeps them small. The third is an *offline* regulariser: it is a mean over
    the pairs of the data, not over samples of π as the KL divergence is. The hinge has none (ES10).
    """
    f = MARGIN_SHAPES[function] if isinstance(function, str) else function
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        value = f(zero)
        (slope,) = torch.autograd.grad(value, zero, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, zero, allow_unused=True) if slope.requires_grad else (None,)
    return value.item(), slope.item(), 0.0 if curvature is None else curvature.item()


def gpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    function: str | Shape = "logistic",
) -> Tensor:
    """f(r_θ(y_w) − r_θ(y_l)) for a convex f that falls at 0 (survey Eq. 18, ES10).

    `function` is a name in `MARGIN_SHAPES`, or any function of the margin. The logistic is DPO. The squared function is
    β² times IPO at β/2. From unlimited Bradley–Terry preferences the logistic and Savage's function learn π*, the
    exponential π* of 2β, and the squared function IPO's policy. The hinge learns a margin of ±1 between two responses,
    however sure the preference is. Savage's is not convex.

    Tang et al. 2024, https://arxiv.org/abs/2402.05749
    """
    return margin_shape(function)(
        implicit_margin(beta, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    )


RSO_SHAPES: Mapping[str, str] = MappingProxyType({"hinge_norm": "hinge", "sigmoid_norm": "logistic"})
"""The losses of RSO with a reference, by the paper's names."""


def rso(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    function: str = "hinge_norm",
) -> Tensor:
    """max(0, 1 − [r_θ(y_w) − r_θ(y_l)]), or −log σ of the same margin with `function` "sigmoid_norm", which is DPO.

    β is the paper's γ. What is new in RSO are the pairs: responses are sampled from π_ref, accepted with probability
    exp((r − r_max)/β) (survey Eq. 4, ES3), and labelled by the reward model. The loss alone does not know where its
    pairs come from. From unlimited preferences the hinge learns a margin of ±1 between two responses, and not the
    reward.

    Liu et al. 2023, https://arxiv.org/abs/2309.06657
    """
    one_of(RSO_SHAPES, function=function)
    return gpo(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        beta=beta,
        function=RSO_SHAPES[function],
    )
