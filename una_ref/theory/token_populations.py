"""Population losses of methods on tokens: a loss's mean over all pairs of sequences of a `SequenceWorld`.

As `populations`, for losses that name tokens and whole next-token distributions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from una_ref.theory.prefix_tree import PAD, PrefixTree
from una_ref.theory.token_mdp import token_policy
from una_ref.theory.worlds import SequenceWorld


def sequence_arguments(tree: PrefixTree, next_logps: Tensor, ref_next_logps: Tensor) -> dict[str, Tensor]:
    """What a loss may name of single responses, with a row for each sequence of one prompt.

    From next-token log-probabilities (N, V): ``logps`` (S,), ``token_logps`` (S, T) with 0 after the end, ``logits``
    (S, T, V), the same of the reference, ``token_ids``, ``mask`` and ``lengths``.
    """
    mask, rows = tree.steps != PAD, tree.steps.clamp(min=0)
    found = {"mask": mask, "token_ids": tree.sequences.clamp(min=0), "lengths": tree.lengths}
    for prefix, table in (("", next_logps), ("ref_", ref_next_logps)):
        logits = table[rows]
        token_logps = logits.gather(-1, found["token_ids"][..., None])[..., 0].masked_fill(~mask, 0)
        found |= {f"{prefix}logits": logits, f"{prefix}token_logps": token_logps, f"{prefix}logps": token_logps.sum(1)}
    return found


def over_sequence_pairs(
    loss: Callable[..., Tensor], world: SequenceWorld, preferences: Tensor, sampler: Tensor, **settings: Any
) -> Callable[[Tensor], Tensor]:
    """log π (X, S) -> the loss's mean over independent y, y' ~ μ and over who wins, summed over prompts.

    Args:
        loss: takes arguments of pairs by the package's names.
        world: of the sequences.
        preferences: (X, S, S) as in `bradley_terry`, the winner first.
        sampler: (X, S) μ as probabilities.
        settings: hyper-parameters of the loss.
    """
    tree = world.tree
    w, lost = (~torch.eye(len(tree), dtype=torch.bool)).nonzero(as_tuple=True)
    weights = 2 * sampler[:, w] * sampler[:, lost] * preferences[:, w, lost]
    wanted = set(inspect.signature(loss).parameters)

    def population(logps: Tensor) -> Tensor:
        total = logps.new_zeros(())
        tables = zip(token_policy(tree, logps), world.ref_next_logps, weights, strict=True)
        for next_logps, ref_next_logps, shares in tables:
            given: dict[str, Any] = dict(settings)
            for name, value in sequence_arguments(tree, next_logps, ref_next_logps).items():
                ref, base = ("ref_", name[4:]) if name.startswith("ref_") else ("", name)
                sides = {f"{ref}chosen_{base}": w, f"{ref}rejected_{base}": lost}
                given |= {side: value[index] for side, index in sides.items() if side in wanted}
            total = total + (shares * loss(**given)).sum()
        return total

    return population
