"""Worlds small enough to enumerate: every response has a probability, so a policy's regret is a number.

`TableWorld` is a table, prompts × responses. `SequenceWorld` is the same thing over token sequences: its
table's columns are all the sequences of a `PrefixTree`, and a policy in it is any `Policy`: it gives next-token
log-probabilities at every prefix. Both are `Labelled`, as is ToySteer: a true reward for each response, and a labeller
who says something of it, with the faults that `Knobs` set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from una_ref.theory import optimum

EOS = 0
"""The token that ends a sequence."""
PAD = -1
"""What stands after the end of a prefix or of a sequence; never a token."""


Policy = Callable[[Tensor], Tensor]
"""A policy of a `SequenceWorld`: prefixes (N, T), padded with −1 -> next-token log-probabilities (X, N, V)."""


@dataclass(frozen=True)
class Knobs:
    """What the papers' claims turn on. Every default is off.

    Attributes:
        label_noise: probability that the labeller moves a rating by one; for labels and pairs, that it flips.
        offset: sd of a constant that is added to each prompt's reward.
        length_bias: what the labeller adds to the score of a response of full length, in proportion for shorter ones.
        trap: what the labeller adds to the score of a trapped response, and what the truth takes off.
        thumbs_up: share of labels that are up, before noise, among what was drawn; None leaves P(up) = σ(reward).
        writer: who wrote the responses, "reference" (π_ref itself) or "program" (right answers with mistakes).
    """

    label_noise: float = 0.0
    offset: float = 0.0
    length_bias: float = 0.0
    trap: float = 0.0
    thumbs_up: float | None = None
    writer: str = "reference"

    def __post_init__(self) -> None:
        """Raises ValueError naming the knob that cannot be turned so."""
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"knob label_noise: expected a probability, got {self.label_noise}")
        if self.thumbs_up is not None and not 0 < self.thumbs_up < 1:
            raise ValueError(f"knob thumbs_up: expected a share between 0 and 1, or None, got {self.thumbs_up}")
        if self.writer not in ("reference", "program"):
            raise ValueError(f"knob writer: expected reference or program, got {self.writer!r}")
        for name in ("offset", "length_bias", "trap"):
            if not abs(getattr(self, name)) < float("inf"):
                raise ValueError(f"knob {name}: expected a finite number, got {getattr(self, name)}")


def coins(seed: int) -> torch.Generator:
    """The labeller's random stream, which shares no number with that of `Labelled.draw` for the same seed."""
    return torch.Generator().manual_seed(1_000_000_007 + seed)


class Labelled:
    """X prompts with Y responses each, what they are worth, and a labeller who may err.

    A subclass says what there is (`quality` (X, Y), `fullness` (Y,) in [0, 1], `trapped` (Y,) bool, and how `_written`
    makes mistakes); the knobs then act in one way on all of them. A reward is `scale` · (score − `middle`) + offset.
    """

    seed: int
    knobs: Knobs
    size: int
    scale: float = 1.0
    middle: float = 0.0
    stream: int = 0
    """Added to the seeds of draws, where the same seed made the world."""

    @cached_property
    def quality(self) -> Tensor:
        """(X, Y) scores before any knob."""
        raise NotImplementedError

    @cached_property
    def fullness(self) -> Tensor:
        """(Y,) the length of each response as a share of the greatest."""
        raise NotImplementedError

    @cached_property
    def trapped(self) -> Tensor:
        """(Y,) the responses that the labeller falls for."""
        raise NotImplementedError

    @cached_property
    def offsets(self) -> Tensor:
        """(X, 1) the constant added to each prompt's reward."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.knobs.offset * torch.randn(self.size, 1, generator=generator, dtype=torch.float64)

    @cached_property
    def scores(self) -> Tensor:
        """(X, Y) the true score: the quality less the trap."""
        return self.quality - self.knobs.trap * self.trapped

    @cached_property
    def rewards(self) -> Tensor:
        """(X, Y) the reward that policies are judged by."""
        return self.scale * (self.scores - self.middle) + self.offsets

    @cached_property
    def labeller(self) -> Tensor:
        """(X, Y) the reward that the labeller acts on; the truth where its knobs are off."""
        score = self.quality + self.knobs.length_bias * self.fullness + self.knobs.trap * self.trapped
        return self.scale * (score - self.middle) + self.offsets

    def preferences(self) -> Tensor:
        """(X, Y, Y) P(the labeller says y ≻ y'), Bradley–Terry's with noise: a table for small worlds only."""
        return self._noisy(optimum.bradley_terry(self.labeller))

    def thumbs(self, logps: Tensor) -> Tensor:
        """(X, Y) P(the labeller's thumb is up), where responses are drawn from `logps` (X, Y)."""
        cut = self._cut(self.labeller, lambda up: optimum.expected_reward(logps, up).mean())
        return self._noisy((self.labeller - cut).sigmoid())

    def draw(self, n: int, logps: Tensor, *, seed: int, k: int = 2, untied: bool = False) -> Tensor:
        """(n, 1 + k) prompt index and k response indices per row, prompts in turn.

        Responses are independent draws from the writer, whose policy is `logps` (X, Y) if it is the reference; with
        `untied` a row is drawn again while all its scores are equal, so that each row says something to a method that
        needs pairs.
        """
        generator = torch.Generator().manual_seed(self.stream + seed)
        prompts = torch.arange(n) % self.size
        if untied:
            drawn = self.draw(8 * n, logps, seed=seed, k=k)
            scores = self.scores[drawn[:, :1], drawn[:, 1:]]
            drawn = drawn[scores.amax(1) > scores.amin(1)]
            places = [drawn[drawn[:, 0] == x] for x in range(self.size)]
            if min(map(len, places)) < -(-n // self.size):
                raise ValueError(
                    f"untied draw: expected a writer whose responses differ in score, got {len(drawn)} untied rows "
                    f"of {8 * n}"
                )
            return torch.stack([places[i % self.size][i // self.size] for i in range(n)])
        if self.knobs.writer == "program":
            rng = random.Random(self.stream + seed)
            drawn = torch.tensor([[self._written(x, rng) for _ in range(k)] for x in prompts.tolist()])
        else:
            drawn = torch.multinomial(logps.exp()[prompts], k, True, generator=generator)
        return torch.cat([prompts[:, None], drawn], 1)

    def verdicts(self, drawn: Tensor, kind: str, *, seed: int) -> Tensor:
        """What the labeller says of drawn responses (n, 1 + k), from its reward r.

        scores: r, (n, k). pairs: Bradley–Terry (UNA Eq. 1), (n,) bool, the first beats the second, P = σ(r₁ − r₂).
        labels: Bernoulli, (n, k) bool, P(up) = σ(r − c), where c = 0 unless the knob `thumbs_up` sets the share.
        """
        generator = coins(seed)
        r = self.labeller[drawn[:, :1], drawn[:, 1:]]
        flips = torch.rand(r.shape, generator=generator) < self.knobs.label_noise
        uniform = torch.rand(r.shape, generator=generator, dtype=torch.float64)
        if kind == "scores":
            return r
        if kind == "labels":
            return (uniform < (r - self._cut(r, torch.mean)).sigmoid()) ^ flips
        if kind == "pairs" and r.shape[1] > 1:
            return (uniform[:, 0] < (r[:, 0] - r[:, 1]).sigmoid()) ^ flips[:, 0]
        raise ValueError(
            f"feedback: expected scores, labels, or pairs of two responses, got {kind!r} with {r.shape[1]} a prompt"
        )

    def _written(self, x: int, rng: random.Random) -> int:
        """The program's response to prompt x: the best one, or as often as not another at random in its place."""
        return int(self.rewards[x].argmax()) if rng.random() < 0.5 else rng.randrange(self.rewards.shape[-1])

    def _noisy(self, p: Tensor) -> Tensor:
        return self.knobs.label_noise + (1 - 2 * self.knobs.label_noise) * p

    def _cut(self, r: Tensor, mean: Callable[[Tensor], Tensor]) -> float:
        """The c with mean σ(r − c) = `thumbs_up`."""
        if self.knobs.thumbs_up is None:
            return 0.0
        low, high = min(-50.0, float(r.min()) - 25), max(50.0, float(r.max()) + 25)
        for _ in range(60):
            c = (low + high) / 2
            low, high = (c, high) if mean((r - c).sigmoid()) > self.knobs.thumbs_up else (low, c)
        return c


class TableWorld(Labelled):
    """X prompts, Y responses each, a reference policy, rewards and β.

    `ref_logps` (X, Y) in nats, rows are distributions; `rewards` (X, Y), finite, before the `knobs`; `beta` > 0 in the
    rewards' unit. Where the knobs ask, responses are in order of length, and the first of each prompt is the trap;
    `seed` is that of the offsets. Raises ValueError naming the table that is wrong.
    """

    stream = 2_000_000_011

    def __init__(
        self, ref_logps: Tensor, rewards: Tensor, beta: float, *, knobs: Knobs | None = None, seed: int = 0
    ) -> None:
        self.ref_logps, self.quality = optimum._check(beta, rewards=rewards, ref_logps=ref_logps)
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
        """A world with log π_ref and rewards drawn from N(0, 1); each prompt's rewards have mean `offset`, sd 1."""
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
        """(Y,) the first response."""
        return torch.arange(self.quality.shape[-1]) == 0

    @property
    def writer_logps(self) -> Tensor:
        """(X, Y) the log-probabilities that `draw` draws with, from π_ref where the writer is the reference."""
        if self.knobs.writer == "reference":
            return self.ref_logps
        responses = self.quality.shape[-1]
        best = torch.nn.functional.one_hot(self.rewards.argmax(-1), responses)
        return (0.5 * best + 0.5 / responses).to(torch.float64).log()

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


def _standard(rewards: Tensor) -> Tensor:
    """Each prompt's rewards with mean 0 and sd 1."""
    if rewards.shape[-1] < 2:
        raise ValueError(f"a random world needs two or more responses of each prompt, got {rewards.shape[-1]}")
    return (rewards - rewards.mean(-1, keepdim=True)) / rewards.std(-1, correction=0, keepdim=True)


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
    last       (N,) the last token of each prefix, EOS for the empty one.
    fullness   (S,) tokens before EOS, as a share of `length`.
    doubled    (S,) whether the token V − 1 stands twice in a row.
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
        self.last = self.prefixes.gather(1, (self.depths - 1).clamp(min=0)[:, None]).squeeze(1).clamp(min=EOS)
        self.fullness = (self.sequences > EOS).sum(dim=1, dtype=torch.float64) / length
        self.doubled = ((self.sequences[:, 1:] == vocabulary - 1) & (self.sequences[:, :-1] == vocabulary - 1)).any(1)
        self._codes = self._code(self.prefixes)
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

    def _code(self, prefixes: Tensor) -> Tensor:
        """A number for each prefix, ascending as they are ordered; −1 for a token that is none."""
        base = self.vocabulary + 1
        codes = ((prefixes + 1) * base ** torch.arange(self.length - 1, -1, -1)).sum(-1)
        return codes.where(((prefixes >= PAD) & (prefixes < self.vocabulary)).all(-1), -1)

    def rows(self, prefixes: Tensor) -> Tensor:
        """The rows of prefixes (N', T), in any order and number. Raises ValueError for what is no prefix."""
        if prefixes.dim() != 2 or prefixes.shape[1] != self.length:
            raise ValueError(f"prefixes must be (any number, {self.length}), got {tuple(prefixes.shape)}")
        codes = self._code(prefixes)
        rows = torch.searchsorted(self._codes, codes).clamp(max=len(self._codes) - 1)
        if (wrong := self._codes[rows] != codes).any():
            raise ValueError(
                f"{prefixes[wrong][0].tolist()} is no prefix of this tree: expected fewer than {self.length} tokens of "
                f"1..{self.vocabulary - 1}, then {PAD}"
            )
        return rows

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
    has before there is a world; `beta`, `knobs` and `seed` as in `TableWorld`. A length is a number of tokens before
    EOS, and the trap is the token V − 1 twice in a row.
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
        knobs: Knobs | None = None,
    ) -> SequenceWorld:
        """A world where tokens speak of their neighbours only: something that a network can learn.

        For each prompt and each pair of neighbouring tokens two numbers from N(0, 1): a logit of π_ref, and a weight.
        A reward is the sum of a sequence's weights; over a prompt's list they have mean `offset` and sd 1.
        """
        generator = torch.Generator().manual_seed(seed)
        tree = PrefixTree.of(vocabulary, length)
        ref, weights = torch.randn(2, prompts, vocabulary, vocabulary, generator=generator, dtype=torch.float64)
        rewards = _standard(tree.sequence_logps(weights[:, tree.last])) + offset
        ref_next = ref[:, tree.last].log_softmax(-1)
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


class TablePolicy(torch.nn.Module):
    """A `Policy` with logits of its own at every prefix of a tree: `logits` (X, N, V), from which it starts."""

    def __init__(self, tree: PrefixTree, logits: Tensor) -> None:
        super().__init__()
        self.tree = tree
        self.logits = torch.nn.Parameter(logits.detach().clone().to(torch.float64))

    def forward(self, prefixes: Tensor) -> Tensor:
        """(N', T) -> (X, N', V)."""
        return self.logits[:, self.tree.rows(prefixes)].log_softmax(-1)


class PrefixMLP(torch.nn.Module):
    """A `Policy` that generalises: two tanh layers over one-hot tokens and prompt, the same weights at all prefixes.

    6,662 parameters for eight prompts of the world with V = 6 tokens and T = 5. It starts near the uniform policy, and
    `seed` is that of its weights.
    """

    def __init__(self, tree: PrefixTree, prompts: int, *, hidden: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.places = tree.vocabulary, tree.length - 1  # a prefix has fewer than T tokens
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.of_prompt = torch.nn.Linear(prompts, hidden, dtype=torch.float64)
            self.of_prefix = torch.nn.Linear(self.places * tree.vocabulary, hidden, bias=False, dtype=torch.float64)
            self.middle = torch.nn.Linear(hidden, hidden, dtype=torch.float64)
            self.out = torch.nn.Linear(hidden, tree.vocabulary, dtype=torch.float64)

    def forward(self, prefixes: Tensor) -> Tensor:
        """(N', T) -> (X, N', V)."""
        # Token 0 never stands in a prefix, so that its place is free for "nothing here".
        tokens = torch.nn.functional.one_hot(prefixes[:, : self.places].clamp(min=EOS), self.vocabulary)
        prefix = self.of_prefix(tokens.flatten(1).to(torch.float64))
        prompt = self.of_prompt(torch.eye(self.of_prompt.in_features, dtype=torch.float64))
        hidden = torch.tanh(prompt[:, None] + prefix)
        return self.out(torch.tanh(self.middle(hidden))).log_softmax(-1)
