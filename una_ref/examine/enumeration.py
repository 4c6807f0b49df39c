"""Every example that a small world can give to a loss, with its probability, as the arguments that the loss names.

A world has a few prompts and a few sequences of one to four tokens, so that the population loss of any loss is a sum.
Its policies are tables (X, S) of log-probabilities; log-probabilities of tokens follow from them.

An example is one response (demonstrations, labels, scores), an ordered pair of different responses, a ranked list of
three, or, for a loss that names ``groups``, two responses of a prompt that are drawn independently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import permutations, product
from typing import cast

import torch
from torch import Tensor

from una_ref.errors import InputError
from una_ref.examine.signature import Examinee
from una_ref.methods.arguments import PAIRED, Argument, argument
from una_ref.theory import PrefixTree, SequenceWorld, bradley_terry, kl
from una_ref.theory.token_mdp import token_policy
from una_ref.theory.token_populations import sequence_arguments

BETA = 0.5
"""The β at which losses that name it are examined: log-ratios of π* are then a few nats."""
PROMPTS, VOCABULARY, LENGTH = 2, 2, 4
LIST = 3
"""Responses in a ranked list."""

UNAVAILABLE = frozenset({"advantages", "returns", "values", "old_values"})
"""What a run computes by a rule of its own. A loss that names it has no population without that rule."""


@dataclass(frozen=True, eq=False)
class Feedback:
    """What is known of the responses of a world. Tables are (X, S), prompts × responses.

    Attributes:
        preferences: (X, S, S) probability that the first response beats the second.
        positive: probability of a positive label.
        scores: of each response, in reward units.
        strengths: of a ranking: lists are drawn from Plackett–Luce with these rewards.
        spread: scores are the table's plus or minus this number, equally often.
    """

    preferences: Tensor
    positive: Tensor
    scores: Tensor
    strengths: Tensor
    spread: float = 0.0

    @classmethod
    def of(cls, rewards: Tensor) -> Feedback:
        """Feedback that follows the rewards (X, S): Bradley–Terry, labels with P = σ(r), scores, Plackett–Luce."""
        return cls(bradley_terry(rewards), rewards.sigmoid(), rewards, rewards)

    def certain(self) -> Feedback:
        """The same with the likelier answer always; a response still wins half of the time against itself."""
        ranks = self.strengths.argsort(-1).argsort(-1).to(torch.float64)
        return replace(
            self,
            preferences=(0.5 + (self.preferences - 0.5).sign() / 2),
            positive=(self.positive > 0.5).to(torch.float64),
            strengths=1e3 * ranks,
        )

    def noisy(self, share: float) -> Feedback:
        """The same with a share of labels and preferences flipped, and scores that are off by `SCORE_NOISE`."""
        flip = lambda p: (1 - share) * p + share * (1 - p)  # noqa: E731
        return replace(self, preferences=flip(self.preferences), positive=flip(self.positive), spread=SCORE_NOISE)


SCORE_NOISE = 0.5
"""How far noisy scores are from the true ones, in standard deviations of the rewards."""


def small_world(seed: int = 0, *, prompts: int = PROMPTS) -> tuple[SequenceWorld, Tensor]:
    """A world with rewards of sd about 1, and log μ (X, S) of a sampler that is neither π_ref nor uniform."""
    generator = torch.Generator().manual_seed(seed)
    tree = PrefixTree.of(VOCABULARY, LENGTH)
    rewards, sampler = torch.randn(2, prompts, len(tree), generator=generator, dtype=torch.float64)
    table = torch.randn(prompts, len(tree.prefixes), VOCABULARY, generator=generator, dtype=torch.float64)
    ref_next = table.log_softmax(-1)
    return SequenceWorld(ref_next, rewards, BETA, length=LENGTH, seed=seed), sampler.log_softmax(-1)


@cache
def standard_setting() -> tuple[SequenceWorld, Tensor, Feedback]:
    """The world of certificates, log μ of its other sampler, and feedback that follows its rewards."""
    world, sampler = small_world()
    return world, sampler, Feedback.of(world.rewards)


def at_examined_beta(examinee: Examinee) -> Examinee:
    """The loss at `BETA`, if it names β."""
    return examinee if examinee.beta is None else examinee.at(beta=BETA)


Sampler = Tensor | None
"""log μ (X, S) of who wrote the responses; None is the policy under training itself."""


class Enumeration:
    """All examples of a world for one loss.

    Args:
        examinee: the loss.
        world: of the responses.
        feedback: about them.
        sampler: who wrote them.
        second_ref: log-probabilities (X, S) of a second reference; π_ref by default.
    """

    def __init__(
        self,
        examinee: Examinee,
        world: SequenceWorld,
        feedback: Feedback,
        sampler: Sampler,
        second_ref: Tensor | None = None,
    ) -> None:
        if missing := UNAVAILABLE & {*examinee.arguments}:
            raise InputError(f"{examinee.name}: no rule says how a run makes {', '.join(sorted(missing))}")
        self.examinee, self.world, self.feedback, self.sampler = examinee, world, feedback, sampler
        self.second_ref = world.ref_logps if second_ref is None else second_ref
        size = world.rewards.shape[-1]
        kind = examinee.kind
        self.group = 2 if "groups" in examinee.given and kind in ("scores", "labels", "demos") else 1
        if kind == "lists":
            index = list(permutations(range(size), LIST))
        elif kind == "pairs":
            index = list(permutations(range(size), 2))
        else:
            index = list(product(range(size), repeat=self.group))
        outcomes: list[tuple[float, ...]] = [(1.0,) * self.group]
        if kind == "labels":
            outcomes = list(product((1.0, 0.0), repeat=self.group))
        elif kind == "scores" and feedback.spread:
            outcomes = list(product((1.0, -1.0), repeat=self.group))
        rows = [(x, y, o) for x in range(len(world.rewards)) for y in index for o in outcomes]
        self.x = torch.tensor([x for x, _, _ in rows])
        self.y = torch.tensor([y for _, y, _ in rows])  # (E, k)
        self.outcome = torch.tensor([o for _, _, o in rows], dtype=torch.float64)
        self.odds = self._odds()
        self.last_values = torch.zeros(len(world.rewards), dtype=torch.float64)  # where the search for V(x) begins
        self.learns: bool | None = None  # whether it learns a V(x), once that is known

    def _odds(self) -> Tensor:
        """(E,) probability of the feedback on an example, given its responses."""
        x, y, kind, known = self.x, self.y, self.examinee.kind, self.feedback
        if kind == "pairs":
            return 2 * known.preferences[x, y[:, 0], y[:, 1]]
        if kind == "labels":
            up = known.positive[x[:, None], y]
            return torch.where(self.outcome > 0.5, up, 1 - up).prod(-1)
        if kind == "lists":
            strengths = known.strengths[x[:, None], y]
            rest = strengths.flip(-1).logcumsumexp(-1).flip(-1)
            return math.factorial(LIST) * (strengths - rest).sum(-1).exp()
        return torch.full((len(x),), 0.5**self.group if known.spread else 1.0, dtype=torch.float64)

    @cached_property
    def constant_tokens(self) -> dict[str, Tensor]:
        """Tables (X, S, T, …) of tokens that do not depend on the policy: the sampler's and the reference's."""
        world = self.world
        old = token_policy(world.tree, world.ref_logps if self.sampler is None else self.sampler.detach())
        found = []
        for old_next, ref_next in zip(old, world.ref_next_logps, strict=True):
            tables = sequence_arguments(world.tree, old_next, ref_next)
            tables["old_token_logps"] = tables.pop("token_logps")
            found.append(tables)
        return {name: torch.stack([tables[name] for tables in found]) for name in found[0]}

    def weights(self, logps: Tensor) -> Tensor:
        """(E,) probability of each example under the sampler, a mean over prompts; no gradient."""
        sampler = logps if self.sampler is None else self.sampler
        return sampler.detach()[self.x[:, None], self.y].sum(-1).exp() * self.odds / len(self.world.rewards)

    def loss(self, logps: Tensor, values: Tensor | None = None) -> Tensor:
        """The mean loss of a policy log π (X, S); `values` (X,) is the V(x) of a loss that asks for one."""
        losses = self.examinee(self.arguments(logps, values))
        per_example = losses.view(len(self.x), -1).mean(-1) if losses.dim() == 1 else losses
        return (self.weights(logps) * per_example).sum()

    def subset(self, rows: Tensor) -> Enumeration:
        """Some of the examples."""
        other = copy(self)
        other.x, other.y, other.outcome, other.odds = (t[rows] for t in (self.x, self.y, self.outcome, self.odds))
        return other

    # ---- arguments

    def arguments(
        self, logps: Tensor, values: Tensor | None = None, names: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """What the loss names, or the arguments of some other `names`, for all examples at once."""
        tables = _Tables(self, logps)
        given = {}
        for name in self.examinee.given if names is None else names:
            base, side = PAIRED.get(name, (name, None))
            if cast(Argument, argument(name)).kind == "batch":
                given[name] = self._statistic(name, logps)
            elif name == "baseline" and values is not None:
                given[name] = values[self.x].repeat_interleave(self.group)
            else:
                given[name] = self._column(base, None if side is None else ("chosen", "rejected").index(side), tables)
        return given

    def _column(self, name: str, side: int | None, tables: _Tables) -> Tensor:
        """One argument: of the chosen or rejected responses, of all responses, or of all lists."""
        if name == "margins":
            return self._column("scores", 0, tables) - self._column("scores", 1, tables)
        if name == "groups":
            return torch.arange(len(self.x)).repeat_interleave(self.group)
        if name == "labels":
            return self.outcome.flatten()
        if self.examinee.kind == "lists" and name == "mask":
            return torch.ones(self.y.shape, dtype=torch.bool)
        if self.examinee.kind == "lists" and name == "scores":
            return torch.linspace(1, 0, LIST, dtype=torch.float64).expand(self.y.shape)
        table = tables[name]
        if side is not None:
            return table[self.x, self.y[:, side]]
        column = table[self.x[:, None], self.y]
        if name == "scores":
            column = column + self.feedback.spread * self.outcome
        return column if self.examinee.kind == "lists" else column.flatten(0, 1)

    def _statistic(self, name: str, logps: Tensor) -> Tensor:
        """A number of the whole batch, which is all examples here; no gradient."""
        with torch.no_grad():
            if name == "kl":
                return kl(logps, self.world.ref_logps).mean()
            weights = self.weights(logps)
            weights = weights / weights.sum()
            x = self.x[:, None]
            gains = (logps - self.world.ref_logps)[x, self.y]  # (E, k)
            if name == "mean_length":
                return (weights[:, None] * self.world.lengths.to(gains)[self.y]).sum() / self.y.shape[1]
            if name == "running_gain":
                return (weights[:, None] * gains).sum() / self.y.shape[1]
            if name == "score_sd":
                scores = self.feedback.scores[x, self.y].mean(-1)
                return (weights * (scores - (weights * scores).sum()) ** 2).sum().sqrt()
            gap = gains[:, 0] - gains[:, 1]
            mean = (weights * gap).sum()
            return (weights * (gap - mean) ** 2).sum().sqrt() if name == "running_gap_sd" else mean


class _Tables:
    """Tables (X, S, …) of single-response arguments at a policy, made when asked for."""

    def __init__(self, enumeration: Enumeration, logps: Tensor) -> None:
        self.of, self.logps = enumeration, logps
        self.tokens: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        of, world, shape = self.of, self.of.world, self.of.world.rewards.shape
        if name in ("logps", "rewards"):
            return self.logps
        if name == "win_rates":
            sampler = (self.logps if of.sampler is None else of.sampler).detach().exp()
            return (of.feedback.preferences * sampler[:, None, :]).sum(-1)
        known = {
            "ref_logps": world.ref_logps,
            "second_ref_logps": of.second_ref,
            "old_logps": (self.logps if of.sampler is None else of.sampler).detach(),
            "scores": of.feedback.scores,
            "lengths": world.lengths.expand(shape),
        }
        return known[name] if name in known else self._of_tokens(name)

    def _of_tokens(self, name: str) -> Tensor:
        of, tree = self.of, self.of.world.tree
        if not self.tokens:
            mask, rows = of.constant_tokens["mask"][0], tree.steps.clamp(min=0)
            logits = token_policy(tree, self.logps)[:, rows]  # (X, S, T, V)
            ids = of.constant_tokens["token_ids"][..., None]
            token_logps = logits.gather(-1, ids)[..., 0].masked_fill(~mask, 0)
            self.tokens = {**of.constant_tokens, "logits": logits, "token_logps": token_logps}
            if of.sampler is None:
                self.tokens["old_token_logps"] = token_logps.detach()
        return self.tokens[name]
