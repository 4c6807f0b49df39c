"""A Bradley–Terry reward model that is linear in pairs of neighbouring tokens, for the leaderboard's online methods."""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.theory.prefix_tree import PrefixTree


def linear_proxy(tree: PrefixTree, prompts: int, drawn: Tensor, first_wins: Tensor, *, prior: float = 1.0) -> Tensor:
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
    """
    features = _features(tree)  # (S, W)
    signs = torch.where(first_wins, 1.0, -1.0).double()
    gaps = (features[drawn[:, 1]] - features[drawn[:, 2]]) * signs[:, None]
    x = drawn[:, 0]
    weights = torch.zeros(prompts, features.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        margins = (gaps * weights[x]).sum(1)
        value = torch.nn.functional.softplus(-margins).sum() + weights.square().sum() / (2 * prior**2)
        value.backward()
        return value

    optimizer.step(loss)
    rewards = weights.detach() @ features.T
    return rewards - rewards.mean(1, keepdim=True)


def _features(tree: PrefixTree) -> Tensor:
    """(S, V²) how often each pair of neighbouring tokens stands in each sequence; the start counts as EOS."""
    v = tree.vocabulary
    pairs = torch.where(tree.steps >= 0, tree.last[tree.steps.clamp(min=0)] * v + tree.sequences, v * v)
    return torch.zeros(len(tree), v * v + 1, dtype=torch.float64).scatter_add_(
        1, pairs, torch.ones_like(pairs, dtype=torch.float64)
    )[:, :-1]
