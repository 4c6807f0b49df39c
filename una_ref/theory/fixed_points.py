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
    tolerance: float = 1e-9,
    rounds: int = 60,
) -> Tensor:
    """Log-probabilities (X, Y) where `population_loss` (log π (X, Y) -> a scalar) has its minimum.

    L-BFGS on the logits from `start_logps`. Where the loss is not convex the answer is the minimum that
    `start_logps` leads to. Raises NotConverged when the largest gradient in a logit stays above `tolerance`
    for `rounds` restarts.
    """
    logits = start_logps.detach().to(torch.float64).clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits],
        max_iter=200,
        history_size=50,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def gradient() -> Tensor:
        loss = population_loss(torch.log_softmax(logits, dim=-1))
        (logits.grad,) = torch.autograd.grad(loss, logits)
        return loss

    for _ in range(rounds):
        optimiser.step(gradient)
        gradient()
        largest = float(logits.grad.abs().max())
        if largest <= tolerance:
            return torch.log_softmax(logits.detach(), dim=-1)
    raise NotConverged(f"the largest gradient in a logit is {largest:.3g} after {rounds} rounds")
