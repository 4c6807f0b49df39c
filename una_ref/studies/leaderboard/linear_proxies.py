"""A Bradley–Terry reward model that is linear in pairs of neighbouring tokens, for the leaderboard's online methods."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from una_ref.theory.prefix_tree import PrefixTree


def linear_proxy(
    tree: PrefixTree, prompts: int, drawn: Tensor, first_wins: Tensor, *, prior: float = 1.0, tokens: int = 2
) -> Tensor:
    """(X, S) the rewards of a model fitted to comparisons; each prompt has weights of its own.

    The reward of a sequence is the sum of a weight for each pair of neighbouring tokens. It maximises the Bradley–Terry
    likelihood times N(0, `prior`²) on every weight, which keeps it finite where one token always wins. A
    `SequenceWorld.random` draws its rewards from this class, so more pairs bring the model to the true reward, up to a
    number for each prompt. The rewards have mean 0 over the sequences of each prompt.

    Args:
        tree: the sequences.
        prompts: X.
        drawn: (n, 3) the prompt and two responses of each comparison.
        first_wins: (n,) bool.
        prior: sd of the weights, in reward units.
        tokens: 2: a weight for each pair of neighbouring tokens. 1: one for each token; this class does not contain the
            true reward.
    """
    features = bigrams(tree)
    if tokens == 1:  # the sum over what stands before
        features = features.view(len(features), tree.vocabulary, tree.vocabulary).sum(1)
    signs = torch.where(first_wins, 1.0, -1.0).double()
    gaps = (features[drawn[:, 1]] - features[drawn[:, 2]]) * signs[:, None]
    weights = torch.stack([_logistic(gaps[drawn[:, 0] == x], prior) for x in range(prompts)])
    rewards = weights @ features.T
    return rewards - rewards.mean(1, keepdim=True)


def bigrams(tree: PrefixTree) -> Tensor:
    """(S, V²) how often each pair of neighbouring tokens stands in each sequence; the start counts as EOS."""
    v = tree.vocabulary
    pairs = torch.where(tree.steps >= 0, tree.last[tree.steps.clamp(min=0)] * v + tree.sequences, v * v)
    counts = torch.zeros(len(tree), v * v + 1, dtype=torch.float64)
    return counts.scatter_add_(1, pairs, torch.ones_like(pairs, dtype=torch.float64))[:, :-1]


def _logistic(gaps: Tensor, prior: float) -> Tensor:
    """(W,) the w that maximises Σ log σ(gaps·w) − ‖w‖²/(2·prior²): Newton's method with step halving."""

    def value(w: Tensor) -> Tensor:
        return softplus(-gaps @ w).sum() + w.square().sum() / (2 * prior**2)

    w = gaps.new_zeros(gaps.shape[1])
    for _ in range(100):
        p = (-gaps @ w).sigmoid()
        slope = w / prior**2 - gaps.T @ p
        if float(slope.abs().max()) < 1e-10 * max(1, len(gaps)):
            break
        curvature = (gaps * (p * (1 - p))[:, None]).T @ gaps
        curvature += torch.eye(len(w), dtype=w.dtype) / prior**2
        step, before, length = torch.linalg.solve(curvature, slope), value(w), 1.0
        while value(w - length * step) > before and length > 1e-6:
            length /= 2
        w = w - length * step
    return w
