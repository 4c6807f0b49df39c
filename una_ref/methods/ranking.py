"""What losses on lists share: the check of their arguments, the order of a list, and the Plackett–Luce likelihood.

A list is a row of (G, K) tensors, True in `mask` where it has a response. The scores of a list define its order. Equal
scores keep the order in which the responses stand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.errors import InputError
from una_ref.methods.ranges import positive
from una_ref.methods.rewards import boolean_masks


def check_lists(method: str, beta: float = 1.0, /, *, mask: Tensor, **tensors: Tensor) -> None:
    """Raises ValueError unless all tensors have the same shape (G, K), every list has two responses, and β > 0.

    Args:
        method: named in the error.
        beta: of the loss.
        mask: (G, K) True at responses.
        tensors: the other arguments of the loss, by name.
    """
    positive(beta=beta)
    of_lists(**tensors, mask=mask)
    if mask.numel() and (least := int(mask.sum(-1).min())) < 2:
        raise InputError(f"{method}: a list must have two or more responses to compare, got one of {least}")


def of_lists(**tensors: Tensor) -> None:
    """Raises ValueError unless all tensors have the same shape (G, K), and InputError for a mask that is not bool."""
    boolean_masks(**tensors)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if len({*shapes.values()}) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        flat = all(len(shape) == 1 for shape in shapes.values())
        fix = ". Fix: x[None] makes one list of (K,) responses" if flat else ""
        raise ValueError(
            f"tensors of lists (G, K), G prompts with at most K responses each, must share one shape, got {shapes}{fix}"
        )


def filled(mask: Tensor, values: Tensor, fill: float = 0.0) -> Tensor:
    """The values with `fill` outside the mask. What stood there, NaN included, reaches neither loss nor gradient."""
    return torch.where(mask, values, values.new_tensor(fill))


def ahead(scores: Tensor, mask: Tensor) -> Tensor:
    """(G, K, K) True at [g, i, j] where response i has a strictly higher score than response j."""
    return (scores[:, :, None] > scores[:, None, :]) & _both(mask)


def from_here(scores: Tensor, mask: Tensor) -> Tensor:
    """(G, K, K) True at [g, k, i] where response i is response k or stands behind it in the order of the scores.

    Equal scores keep their order. A place outside the mask has itself alone, so that no sum over a row is empty.
    """
    place = torch.arange(scores.shape[-1], device=scores.device)
    tied = (scores[:, :, None] == scores[:, None, :]) & (place[:, None] <= place)
    return (ahead(scores, mask) | tied) & _both(mask) | torch.eye(len(place), dtype=torch.bool, device=scores.device)


def rank_by(values: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """(G, K) 1 for the response with the highest value, 2 for the next, and so on; 1 outside the mask. No gradient.

    Equal values are ordered by their scores, then by their places. At π = π_ref all implicit rewards are equal, so that
    this rule decides the weights of the first step.
    """
    equal = values[:, :, None] == values[:, None, :]
    front = torch.where(equal, from_here(scores, mask), values[:, :, None] > values[:, None, :]) & _both(mask)
    return front.sum(1).clamp(min=1)  # those in front of it, and itself


def best(scores: Tensor, mask: Tensor) -> Tensor:
    """(G, K) True at the first response in the order of the scores."""
    return (from_here(scores, mask).sum(-1) == mask.sum(-1, keepdim=True)) & mask


def worst(scores: Tensor, mask: Tensor) -> Tensor:
    """(G, K) True at the last response in the order of the scores."""
    return (from_here(scores, mask).sum(-1) == 1) & mask


def plackett_luce(logits: Tensor, remaining: Tensor) -> Tensor:
    """(G,) −Σ_k log [e^{l_kk} / Σ_i e^{l_ki}]: each response against itself and those behind it (survey Eq. 51, 52).

    Args:
        logits: (G, K, K); a choice among those that remain at place k has the logits of row k.
        remaining: (G, K, K) of `from_here`.
    """
    chosen = logits.diagonal(dim1=-2, dim2=-1)
    return (logits.masked_fill(~remaining, -torch.inf).logsumexp(-1) - chosen).sum(-1)


def _both(mask: Tensor) -> Tensor:
    """(G, K, K) True where both are responses."""
    return mask[:, :, None] & mask[:, None, :]
