"""Worlds small enough to enumerate: every response has a probability, so a policy's regret is a number.

`TableWorld` is a table, prompts × responses. `SequenceWorld` is the same over token sequences: the columns of its table
are the sequences of a `PrefixTree`. A `Policy` of it gives next-token log-probabilities at every prefix. Both are
`Labelled`: a true reward for each response, and a labeller with the faults that `Knobs` set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random

import torch
from torch import Tensor

from una_ref.theory import optimum
from una_ref.theory.checks import check_tables
from una_ref.theory.labelling import Knobs, Labelled
from una_ref.theory.prefix_tree import PrefixTree

Policy = Callable[[Tensor], Tensor]
"""A policy of a `SequenceWorld`: prefixes (N, T), padded with −1 -> next-token log-probabilities (X, N, V)."""


class TableWorld(Labelled):
    """X prompts, Y responses each, a reference policy, rewards and β.

    `ref_logps` (X, Y) in nats, rows are distributions; `rewards` (X, Y), finite, before the `knobs` act; `beta` > 0 in
    the rewards' unit; `seed` is that of the offsets. For the knobs, responses are in order of length, and the first of
    each prompt is the trap. Raises ValueError naming the table that is wrong.
    """

    stream = 2_000_000_011

    def __init__(
        self, ref_logps: Tensor, rewards: Tensor, beta: float, *, knobs: Knobs | None = None, seed: int = 0
    ) -> None:
        self.ref_logps, self.quality = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
        self.size, self.beta, self.knobs, self.seed = len(self.quality), beta, knobs or Knobs(), seed
        self.optimum = optimum.optimal_logps(self.ref_logps, self.rewards, beta)  # (X, Y), log π*

    @classmethod
    def random(
        cls,
        seed: int,
        *,
        prompts: int = 8,
        responses: int = 8,
        beta: float = 0.5,
        offset: float = 0.0,
        knobs: Knobs | None = None,
    ) -> TableWorld:
        """A world with logits of π_ref and rewards from N(0, 1); each prompt's rewards have mean `offset`, sd 1."""
        generator = torch.Generator().manual_seed(seed)
        ref, rewards = torch.randn(2, prompts, responses, generator=generator, dtype=torch.float64)
        return cls(ref.log_softmax(-1), _standard(rewards) + offset, beta, knobs=knobs, seed=cls.stream + seed)

    @cached_property
    def fullness(self) -> Tensor:
        """(Y,) 1/Y, 2/Y, … 1."""
        responses = self.quality.shape[-1]
        return torch.arange(1, responses + 1, dtype=torch.float64) / responses

    @cached_property
    def trapped(self) -> Tensor:
        """(Y,) bool, true for the first response."""
        return torch.arange(self.quality.shape[-1]) == 0

    def program_response(self, x: int, rng: Random) -> int:
        """The best response with probability ½, else a uniformly random one."""
        return int(self.rewards[x].argmax()) if rng.random() < 0.5 else rng.randrange(self.rewards.shape[-1])

    @cached_property
    def log_partition(self) -> Tensor:
        """log Z(x), (X,), in nats."""
        return optimum.log_partition(self.ref_logps, self.rewards, self.beta)

    def regret(self, logps: Tensor) -> Tensor:
        """J(π*) − J(π) for each prompt, (X,)."""
        return optimum.regret(logps, self.ref_logps, self.rewards, self.beta)

    def metrics(self, logps: Tensor) -> dict[str, float]:
        """Exact means over prompts for a policy (X, Y): regret and reward in the rewards' unit, the rest in nats."""
        with torch.no_grad():
            per_prompt = {
                "regret": self.regret(logps),
                "reward": optimum.expected_reward(logps, self.rewards),
                "kl": optimum.kl(logps, self.ref_logps),
                "kl_to_optimum": optimum.kl(logps, self.optimum),
                "entropy": optimum.entropy(logps),
            }
            return {name: float(values.mean()) for name, values in per_prompt.items()}


def _standard(rewards: Tensor) -> Tensor:
    """Each prompt's rewards with mean 0 and sd 1."""
    if rewards.shape[-1] < 2:
        raise ValueError(f"responses: expected two or more for each prompt, got {rewards.shape[-1]}")
    return (rewards - rewards.mean(-1, keepdim=True)) / rewards.std(-1, correction=0, keepdim=True)


class SequenceWorld(TableWorld):
    """A `TableWorld` whose responses are all the sequences of a prefix tree.

    `ref_next_logps` (X, N, V): the reference's next-token log-probabilities at each prefix of `PrefixTree.of(V,
    length)`; `rewards` (X, S), one for each of its sequences; `beta`, `knobs` and `seed` as in `TableWorld`. For the
    knobs, a length is a number of tokens before EOS, and the trap is the token V − 1 twice in a row.
    """

    def __init__(
        self,
        ref_next_logps: Tensor,
        rewards: Tensor,
        beta: float,
        *,
        length: int,
        knobs: Knobs | None = None,
        seed: int = 0,
    ) -> None:
        self.tree = PrefixTree.of(ref_next_logps.shape[-1], length)
        self.ref_next_logps = ref_next_logps.to(torch.float64)
        super().__init__(self.tree.sequence_logps(self.ref_next_logps), rewards, beta, knobs=knobs, seed=seed)

    @classmethod
    def random(  # type: ignore[override]
        cls,
        seed: int,
        *,
        prompts: int = 8,
        vocabulary: int = 6,
        length: int = 5,
        beta: float = 0.5,
        offset: float = 0.0,
        ref_scale: float = 1.0,
        knobs: Knobs | None = None,
    ) -> SequenceWorld:
        """A world where π_ref and rewards depend on neighbouring tokens only, so that a network can learn them.

        For each prompt and each pair of neighbouring tokens there are two numbers from N(0, 1): a logit of π_ref, times
        `ref_scale`, and a weight. A larger scale makes π_ref more certain. A reward is the sum of a sequence's weights;
        each prompt's rewards have mean `offset` and sd 1.
        """
        generator = torch.Generator().manual_seed(seed)
        tree = PrefixTree.of(vocabulary, length)
        ref, weights = torch.randn(2, prompts, vocabulary, vocabulary, generator=generator, dtype=torch.float64)
        rewards = _standard(tree.sequence_logps(weights[:, tree.last])) + offset
        ref_next = (ref_scale * ref[:, tree.last]).log_softmax(-1)
        return cls(ref_next, rewards, beta, length=length, knobs=knobs, seed=cls.stream + seed)

    @cached_property
    def fullness(self) -> Tensor:
        """(S,), see `PrefixTree`."""
        return self.tree.fullness

    @cached_property
    def trapped(self) -> Tensor:
        """(S,) `PrefixTree.doubled`."""
        return self.tree.doubled

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

    def sequence_logps(self, policy: Policy | Tensor) -> Tensor:
        """(X, S) log-probabilities of a policy, or of its table (X, N, V), in float64; differentiable."""
        next_logps = policy if isinstance(policy, Tensor) else policy(self.prefixes)
        return self.tree.sequence_logps(next_logps.to(torch.float64))
