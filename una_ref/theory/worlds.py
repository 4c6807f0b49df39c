"""Worlds small enough to enumerate: every response has a probability, so a policy's regret is a number.

`TableWorld` is a table, prompts × responses. `SequenceWorld` is the same thing over token sequences: its
table's columns are all the sequences of a `PrefixTree`, and a policy in it is anything that gives next-token
log-probabilities at every prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, cached_property

import torch
from torch import Tensor

from una_ref.theory import optimum

EOS = 0
"""The token that ends a sequence."""
PAD = -1
"""What stands after the end of a prefix or of a sequence; never a token."""


class TableWorld:
    """X prompts, Y responses each, a reference policy, rewards and β.

    `ref_logps` (X, Y) in nats, rows are distributions; `rewards` (X, Y), finite; `beta` > 0 in the rewards'
    unit. Raises ValueError naming the table that is wrong.
    """

    def __init__(self, ref_logps: Tensor, rewards: Tensor, beta: float) -> None:
        self.ref_logps = ref_logps.to(torch.float64)
        self.rewards = rewards.to(torch.float64)
        self.beta = beta
        self.optimum = optimum.optimal_logps(self.ref_logps, self.rewards, beta)  # (X, Y), log π*

    @classmethod
    def random(
        cls, seed: int, *, prompts: int = 8, responses: int = 8, beta: float = 0.5, offset: float = 0.0
    ) -> TableWorld:
        """A world with log π_ref and rewards drawn from N(0, 1); each prompt's rewards have mean `offset`, sd 1."""
        generator = torch.Generator().manual_seed(seed)
        ref, rewards = torch.randn(2, prompts, responses, generator=generator, dtype=torch.float64)
        rewards = (rewards - rewards.mean(-1, keepdim=True)) / rewards.std(-1, correction=0, keepdim=True)
        return cls(ref.log_softmax(-1), rewards + offset, beta)

    @cached_property
    def log_partition(self) -> Tensor:
        """log Z(x), (X,), in nats."""
        return optimum.log_partition(self.ref_logps, self.rewards, self.beta)

    def regret(self, logps: Tensor) -> Tensor:
        """J(π*) − J(π) for each prompt, (X,)."""
        return optimum.regret(logps, self.ref_logps, self.rewards, self.beta)

    def metrics(self, logps: Tensor) -> dict[str, float]:
        """Exact means over prompts for a policy (X, Y): regret, reward in reward units, the rest in nats."""
        with torch.no_grad():
            per_prompt = {
                "regret": self.regret(logps),
                "reward": optimum.expected_reward(logps, self.rewards),
                "kl": optimum.kl(logps, self.ref_logps),
                "kl_to_optimum": optimum.kl(logps, self.optimum),
                "entropy": optimum.entropy(logps),
            }
            return {name: float(values.mean()) for name, values in per_prompt.items()}


class PrefixTree:
    """All token sequences over `vocabulary` tokens of at most `length` of them; token 0 is EOS.

    A sequence ends with EOS, or has `length` tokens and no EOS (it was cut). A prefix is a sequence that goes
    on: fewer than `length` tokens, none of them EOS. With V = `vocabulary` and T = `length`:

    prefixes   (N, T) int64, padded with −1; N = Σ_{t<T} (V−1)^t. Depth-first preorder, children by token: a
               prefix is followed by the whole of its subtree, and row 0 is the empty prefix.
    depths     (N,) tokens in each prefix.
    parents    (N,) the row of the prefix that it extends by its last token; −1 for row 0.
    sequences  (S, T) int64, padded with −1; S = N + (V−1)^T. Ordered by token, like words in a dictionary.
    lengths    (S,) tokens in each sequence, EOS counted.
    steps      (S, T) the row of the prefix from which each token of a sequence is drawn, padded with −1:
               sequence s has log-probability Σ_t next_logps[steps[s, t], sequences[s, t]].
    """

    @classmethod
    @cache
    def of(cls, vocabulary: int, length: int) -> PrefixTree:
        """The tree of that size, built once: worlds of one size share it."""
        return cls(vocabulary, length)

    def __init__(self, vocabulary: int, length: int) -> None:
        if vocabulary < 2 or length < 1:
            raise ValueError(f"a tree needs vocabulary >= 2 and length >= 1, got {vocabulary} and {length}")
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
        self._row_of = {tokens: row for row, tokens in enumerate(sequences)}
        used = self.steps != PAD
        self._edges = torch.where(used, self.steps * vocabulary + self.sequences, len(prefixes) * vocabulary)

    def _walk(self) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
        """(parent, prefix, rows of the prefixes on the way to it and its own), depth first."""
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
                f"{key} is no sequence of this tree: expected tokens 1..{self.vocabulary - 1} and then EOS "
                f"({EOS}), {self.length} tokens at most, or exactly {self.length} without EOS"
            )
        return self._row_of[key]

    def sequence_logps(self, next_logps: Tensor) -> Tensor:
        """(X, N, V) next-token log-probabilities -> (X, S) log-probabilities of sequences; differentiable."""
        expected, shape = (len(self.prefixes), self.vocabulary), tuple(next_logps.shape)
        if len(shape) != 3 or shape[1:] != expected:
            raise ValueError(f"next_logps must be (prompts, {expected[0]}, {expected[1]}), got {shape}")
        # One more edge, of log-probability 0, stands for every step after a sequence's end.
        edges = torch.nn.functional.pad(next_logps.flatten(1), (0, 1))
        chosen = edges.index_select(1, self._edges.flatten().to(edges.device))
        return chosen.view(len(edges), *self._edges.shape).sum(dim=-1)


class SequenceWorld(TableWorld):
    """A `TableWorld` whose responses are all the sequences of a prefix tree.

    `ref_next_logps` (X, N, V): the reference's next-token log-probabilities at each prefix of the tree with V
    tokens and `length`; `rewards` (X, S), one for each row of `sequences`, which `PrefixTree.of(V, length)`
    has before there is a world; `beta` as in `TableWorld`.
    """

    def __init__(self, ref_next_logps: Tensor, rewards: Tensor, beta: float, *, length: int) -> None:
        self.tree = PrefixTree.of(ref_next_logps.shape[-1], length)
        self.ref_next_logps = ref_next_logps.to(torch.float64)
        super().__init__(self.tree.sequence_logps(self.ref_next_logps), rewards, beta)

    @property
    def prefixes(self) -> Tensor:
        """(N, T), see `PrefixTree`."""
        return self.tree.prefixes

    @property
    def sequences(self) -> Tensor:
        """(S, T), see `PrefixTree`."""
        return self.tree.sequences

    @property
    def lengths(self) -> Tensor:
        """(S,), see `PrefixTree`."""
        return self.tree.lengths

    def index(self, tokens: Sequence[int]) -> int:
        """The column of a sequence, see `PrefixTree.index`."""
        return self.tree.index(tokens)

    def sequence_logps(self, next_logps: Tensor) -> Tensor:
        """(X, N, V) -> (X, S), in float64."""
        return self.tree.sequence_logps(next_logps.to(torch.float64))
