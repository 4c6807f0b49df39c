"""What a loss really learns: the minimiser of its population loss over all policies of a table."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class NotConverged(RuntimeError):
    """The minimisation stopped where the gradient is not zero: the loss may have no finite minimiser."""


def fixed_point(
    population_loss: Callable[[Tensor], Tensor],
    start_logps: Tensor,
    *,
    tolerance: float = 1e-12,
    newton_steps: int = 50,
) -> Tensor:
    """Log-probabilities (X, Y) where `population_loss` (log π (X, Y) -> a scalar) has its minimum.

    L-BFGS on the logits from `start_logps`, which ends where differences of the loss drown in rounding, then
    Newton steps on the gradient itself. Where the loss is not convex, the minimum that `start_logps` leads
    to. Raises NotConverged when the largest gradient in a logit is still above `tolerance`.
    """

    def of_logits(logits: Tensor) -> Tensor:
        return population_loss(logits.log_softmax(dim=-1))

    def slope(logits: Tensor) -> Tensor:
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(of_logits(logits), logits)[0]

    logits = _lbfgs(of_logits, start_logps.detach().to(torch.float64))
    gradient = slope(logits)
    for _ in range(newton_steps):
        if gradient.abs().max() <= tolerance or not gradient.isfinite().all():
            break
        curvature = torch.autograd.functional.hessian(of_logits, logits).view(logits.numel(), -1)
        # A pseudo-inverse: adding a number to a prompt's logits changes nothing.
        step = (torch.linalg.pinv(curvature, hermitian=True) @ gradient.flatten()).view_as(logits)
        trials = [logits - step * 0.5**halvings for halvings in range(20)]
        slopes = (slope(trial) for trial in trials)
        better = ((t, g) for t, g in zip(trials, slopes, strict=True) if g.abs().max() < gradient.abs().max())
        logits, gradient = next(better, (logits, gradient))
    largest = float(gradient.abs().max())
    if not largest <= tolerance:
        raise NotConverged(f"the largest gradient in a logit is {largest:.3g}, above {tolerance:.3g}")
    # A gradient is also 0 at a maximum, at a saddle, and on a plateau that falls for ever.
    curvature = torch.autograd.functional.hessian(of_logits, logits).view(logits.numel(), -1)
    curvatures = torch.linalg.eigvalsh(curvature)
    up = int((curvatures > 1e-9 * curvatures.abs().max()).sum())
    if up != logits.numel() - len(logits):
        raise NotConverged(
            f"the loss curves upwards in {up} directions, expected {logits.numel() - len(logits)}, "
            "all but one a prompt: no minimum, or none at a finite logit"
        )
    return logits.log_softmax(dim=-1)


def _lbfgs(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where L-BFGS ends from `start`."""
    x = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        value = loss(x)
        (x.grad,) = torch.autograd.grad(value, x)
        return value

    optimiser.step(closure)
    return x.detach()
