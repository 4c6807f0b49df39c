"""Every token sequence up to a length, and the log-probabilities that a policy gives to each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

EOS = 0
"""The token that ends a sequence."""
PAD = -1
"""Fills the rows of shorter prefixes and sequences; never a token."""


class PrefixTree:
    """All token sequences over `vocabulary` tokens of at most `length` of them; token 0 is EOS.

    A sequence ends with EOS, or has `length` tokens and no EOS (it was cut). A prefix can be extended: it has fewer
    than `length` tokens, none of them EOS. With V = `vocabulary` and T = `length`:

    prefixes   (N, T) int64, padded with −1; N = Σ_{t<T} (V−1)^t. Depth-first preorder, children by token: a
               prefix is followed by the whole of its subtree, and row 0 is the empty prefix.
    depths     (N,) tokens in each prefix.
    parents    (N,) the row of each prefix without its last token; −1 for row 0.
    sequences  (S, T) int64, padded with −1; S = N + (V−1)^T. Ordered by token, like words in a dictionary.
    lengths    (S,) tokens in each sequence, EOS counted.
    steps      (S, T) the row of the prefix before each token of a sequence, padded with −1:
               sequence s has log-probability Σ_t next_logps[steps[s, t], sequences[s, t]].
    last       (N,) the last token of each prefix, EOS for the empty one.
    fullness   (S,) tokens before EOS, as a share of `length`.
    doubled    (S,) bool, whether the token V − 1 stands twice in a row.
    """

    @classmethod
    @cache
    def of(cls, vocabulary: int, length: int) -> PrefixTree:
        """The tree of that size, built once: worlds of one size share it."""
        return cls(vocabulary, length)

    def __init__(self, vocabulary: int, length: int) -> None:
        if vocabulary < 2 or length < 1:
            raise ValueError(f"PrefixTree: expected vocabulary >= 2 and length >= 1, got {vocabulary} and {length}")
        self.vocabulary, self.length = vocabulary, length
        prefixes, parents, sequences, steps = [], [], [], []
        for parent, tokens, path in self._walk():
            prefixes.append(tokens)
            parents.append(parent)
            ends = range(vocabulary) if len(tokens) == length - 1 else (EOS,)
            for token in ends:
                sequences.append((*tokens, token))
                steps.append(path)
        self.prefixes, self.sequences, self.steps = map(self._padded, (prefixes, sequences, steps))
        self.parents = torch.tensor(parents)
        self.depths = (self.prefixes != PAD).sum(dim=1)
        self.lengths = (self.sequences != PAD).sum(dim=1)
        self.last = self.prefixes.gather(1, (self.depths - 1).clamp(min=0)[:, None]).squeeze(1).clamp(min=EOS)
        self.fullness = (self.sequences > EOS).sum(dim=1, dtype=torch.float64) / length
        self.doubled = ((self.sequences[:, 1:] == vocabulary - 1) & (self.sequences[:, :-1] == vocabulary - 1)).any(1)
        self._codes = self._code(self.prefixes)
        self._row_of = {tokens: row for row, tokens in enumerate(sequences)}
        used = self.steps != PAD
        self._edges = torch.where(used, self.steps * vocabulary + self.sequences, len(prefixes) * vocabulary)

    def _walk(self) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
        """(parent, prefix, rows of the prefixes on the path to it, its own included), depth first."""
        stack: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
        number = 0
        while stack:
            tokens, path = stack.pop()
            yield (path[-1] if path else -1), tokens, (*path, number)
            if len(tokens) < self.length - 1:
                # Pushed backwards, so that token 1 comes off the stack first.
                backwards = range(self.vocabulary - 1, EOS, -1)
                stack += [((*tokens, token), (*path, number)) for token in backwards]
            number += 1

    def _padded(self, rows: list[tuple[int, ...]]) -> Tensor:
        return torch.tensor([row + (PAD,) * (self.length - len(row)) for row in rows])

    def __len__(self) -> int:
        """The number of sequences, S."""
        return len(self._row_of)

    def index(self, tokens: Sequence[int]) -> int:
        """The row of a sequence, given as its tokens: EOS included, unless it was cut at `length` tokens."""
        key = tuple(int(token) for token in tokens)
        if key not in self._row_of:
            raise ValueError(
                f"sequence: expected tokens 1..{self.vocabulary - 1} and then EOS ({EOS}), at most {self.length}, "
                f"or exactly {self.length} without EOS, got {key}"
            )
        return self._row_of[key]

    def _code(self, prefixes: Tensor) -> Tensor:
        """A number for each prefix, increasing with its row; −1 where a token is out of range."""
        base = self.vocabulary + 1
        codes = ((prefixes + 1) * base ** torch.arange(self.length - 1, -1, -1)).sum(-1)
        return codes.where(((prefixes >= PAD) & (prefixes < self.vocabulary)).all(-1), -1)

    def rows(self, prefixes: Tensor) -> Tensor:
        """The rows of prefixes (N', T), in any order and number. Raises ValueError for a row that is not a prefix."""
        if prefixes.dim() != 2 or prefixes.shape[1] != self.length:
            raise ValueError(f"prefixes: expected the shape (any number, {self.length}), got {tuple(prefixes.shape)}")
        codes = self._code(prefixes)
        rows = torch.searchsorted(self._codes, codes).clamp(max=len(self._codes) - 1)
        if (wrong := self._codes[rows] != codes).any():
            raise ValueError(
                f"prefixes: expected fewer than {self.length} tokens of 1..{self.vocabulary - 1}, then {PAD}, "
                f"got {prefixes[wrong][0].tolist()}"
            )
        return rows

    def sequence_logps(self, next_logps: Tensor) -> Tensor:
        """(X, N, V) next-token log-probabilities -> (X, S) log-probabilities of sequences; differentiable."""
        expected, shape = (len(self.prefixes), self.vocabulary), tuple(next_logps.shape)
        if len(shape) != 3 or shape[1:] != expected:
            raise ValueError(f"next_logps: expected the shape (prompts, {expected[0]}, {expected[1]}), got {shape}")
        # One more edge, with log-probability 0, stands for every step after the end of a sequence.
        edges = torch.nn.functional.pad(next_logps.flatten(1), (0, 1))
        chosen = edges.index_select(1, self._edges.flatten().to(edges.device))
        return chosen.view(len(edges), *self._edges.shape).sum(dim=-1)
