"""What claims about the survey share: notebooks, tensors of numbers, plain formulas and softmax policies.

The formulas here are written out once more, apart from the losses of the registry, so that a check is independent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

F64 = torch.float64

PAIRS_NOTEBOOK: str | None = "08_pairs"
SINGLES_NOTEBOOK: str | None = "09_single_responses_and_lists"
TOKENS_NOTEBOOK: str | None = "10_tokens_games_and_merging"
"""The notebooks that derive the survey's equations; None while there is no such notebook."""


def numbers(*values: float) -> Tensor:
    """The values as float64."""
    return torch.tensor(values, dtype=F64)


def minus_log_sigmoid(margin: float | Tensor) -> float:
    """−log σ(margin) of one margin."""
    return -float(logsigmoid(torch.as_tensor(margin, dtype=F64)))


def slope_at(function: Callable[[Tensor], Tensor], point: float) -> float:
    """The derivative of a function of one number."""
    x = torch.tensor(point, dtype=F64, requires_grad=True)
    return float(torch.autograd.grad(function(x).sum(), x)[0])


def descended(
    loss: Callable[[Tensor], Tensor], start: Tensor, *, steps: int, lr: float, momentum: float = 0.0
) -> Tensor:
    """The parameters after plain gradient descent."""
    parameters = start.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([parameters], lr=lr, momentum=momentum)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(parameters).backward()
        optimizer.step()
    return parameters.detach()


def total_variation(a: Tensor, b: Tensor) -> float:
    """½·Σ|a − b| of two distributions given as log-probabilities; the largest over prompts."""
    return float((a.exp() - b.exp()).abs().sum(-1).max()) / 2
