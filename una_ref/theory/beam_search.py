"""Beam search in a tree of prefixes, guided by numbers that tokens add up.

With the log-probabilities of a policy it looks for its most likely sequence; with `token_mdp.credits`, for the sequence
of the highest implicit reward. At the soft optimum of a reward on whole sequences, the credits of a prefix sum to
V(s_t) − V(s_0): the search then follows the values of prefixes (From r to Q*, https://arxiv.org/abs/2404.12358).
"""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.theory.prefix_tree import EOS, PrefixTree


def beam_search(tree: PrefixTree, token_scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The rows in `tree.sequences` (X, K) and the scores (X, K) of the sequences found for each prompt, best first.

    A step extends each open prefix of the beam by every token, and keeps the `width` best of these and of the sequences
    that have ended. Width 1 is greedy search. With a width of `len(tree)` nothing is dropped. K is `width`, or the
    number of all sequences if that is smaller.

    Args:
        tree: of the sequences.
        token_scores: (X, N, V) what each token adds after each prefix.
        width: of the beam, at least 1.

    Raises:
        ValueError: for scores of another shape, or a width below 1.
    """
    expected, shape = (len(tree.prefixes), tree.vocabulary), tuple(token_scores.shape)
    if len(shape) != 3 or shape[1:] != expected:
        raise ValueError(f"token_scores: expected the shape (prompts, {expected[0]}, {expected[1]}), got {shape}")
    if width < 1:
        raise ValueError(f"width: expected at least 1, got {width}")
    width = min(width, len(tree))
    rows, scores = zip(*(_search(tree, table, width) for table in token_scores), strict=True)
    return torch.tensor(rows), torch.tensor(scores, dtype=token_scores.dtype)


def _search(tree: PrefixTree, table: Tensor, width: int) -> tuple[list[int], list[float]]:
    """The search for one prompt, with scores (N, V)."""
    step = table.tolist()
    child = {(int(p), int(a)): n for n, (p, a) in enumerate(zip(tree.parents, tree.last, strict=True)) if n}
    beam: list[tuple[float, tuple[int, ...], int | None]] = [(0.0, (), 0)]  # score, tokens, row of an open prefix
    for _ in range(tree.length):
        candidates = [entry for entry in beam if entry[2] is None]
        for score, tokens, row in beam:
            if row is not None:
                candidates += [
                    (score + step[row][token], (*tokens, token), None if token == EOS else child.get((row, token)))
                    for token in range(tree.vocabulary)
                ]
        beam = sorted(candidates, key=lambda entry: -entry[0])[:width]
    return [tree.index(tokens) for _, tokens, _ in beam], [score for score, _, _ in beam]
