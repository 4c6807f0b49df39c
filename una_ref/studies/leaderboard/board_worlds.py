"""The worlds of the leaderboard, and the feedback that methods get there.

A seed makes a world: rewards, the base policy π_ref, responses of a sampler, and a labeller. All kinds of feedback are
about the same responses, and a larger budget contains the smaller one. A second block of prompts, which no data touch,
shares the policy's weights with the first: what a policy does there is the alignment tax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from una_ref.data.batch import Example
from una_ref.policies.answers import Answer, RewardSource
from una_ref.policies.prefix_lm import PrefixLM
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.conditions import Conditions
from una_ref.theory import optimum
from una_ref.theory.worlds import SequenceWorld
from una_ref.training.prefix_runs import looked_up

BASES = (0.5, 1.0, 1.5)
"""Scales of π_ref's logits, in turns by seed: a vague, a middle and a certain base policy."""
TRANSFORMER = 32
"""Width of the transformer that can stand in the MLP's place."""
OTHER_BASE = 1_000_000
"""Added to a seed for another world's base policy."""
BLOCK = 1024
"""Rows whose random numbers are drawn together."""
STREAMS = ("responses", "outcomes", "flips", "noise", "calls")
"""What random numbers are for; each has its own."""


def random_rows(stream: str, seed: int, rows: int, columns: int, *, normal: bool = False) -> Tensor:
    """(rows, columns) uniform or standard normal numbers in float64; more rows begin with the same."""
    blocks = []
    for block in range(-(-rows // BLOCK)):
        place = (STREAMS.index(stream) * 1_000_003 + seed) * 1_000_003 + block
        generator = torch.Generator().manual_seed(place)
        made = torch.randn if normal else torch.rand
        blocks.append(made(BLOCK, columns, generator=generator, dtype=torch.float64))
    return torch.cat(blocks)[:rows]


def following(prompts: Sequence[str]) -> list[int]:
    """For each answer the place of the next one to the same prompt; for a prompt's last answer that of its first."""
    places: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(i)
    after = {own[i - 1]: own[i] for own in places.values() for i in range(len(own))}
    return [after[i] for i in range(len(prompts))]


class BoardWorld:
    """A seed's world under some conditions.

    Args:
        seed: of everything.
        size: the settings.
        conditions: of data, labeller and policy.

    Attributes:
        world: prompts, π_ref and rewards of the task that is trained. Policies are judged there.
        whole: the same with the second block of prompts behind it.
    """

    def __init__(self, seed: int, size: LeaderboardSettings, conditions: Conditions) -> None:
        self.seed, self.size, self.conditions = seed, size, conditions
        shape: dict[str, Any] = {"vocabulary": size.vocabulary, "length": size.length, "beta": size.beta}
        self.whole = SequenceWorld.random(
            seed,
            prompts=size.prompts + size.second,
            ref_scale=BASES[seed % len(BASES)],
            **shape,
        )
        self.world = SequenceWorld(
            self.whole.ref_next_logps[: size.prompts],
            self.whole.rewards[: size.prompts],
            size.beta,
            length=size.length,
            knobs=conditions.knobs,
            seed=SequenceWorld.stream + seed,
        )

    @property
    def hidden(self) -> int:
        """Width of the policy's MLP."""
        return self.conditions.hidden or self.size.hidden

    def policy(self) -> PrefixLM:
        """A fresh policy, at π_ref."""
        if layers := self.conditions.layers:
            return PrefixLM(self.whole, TRANSFORMER, layers=layers, seed=self.seed)
        return PrefixLM(self.whole, self.hidden, seed=self.seed)

    def reference(self) -> PrefixLM:
        """π_ref with the smallest MLP: the same log-probabilities for less time."""
        return PrefixLM(self.whole, 1)

    # ---- responses

    @cached_property
    def tokens(self) -> list[tuple[int, ...]]:
        """The tokens of every sequence."""
        return [tuple(token for token in row if token >= 0) for row in self.world.sequences.tolist()]

    @cached_property
    def columns(self) -> dict[tuple[int, ...], int]:
        """The column of every sequence."""
        return {tokens: column for column, tokens in enumerate(self.tokens)}

    @cached_property
    def sampler_logps(self) -> Tensor:
        """(X, S) log-probabilities of the sampler of offline responses."""
        logps, c = self.world.ref_logps, self.conditions
        if c.shift:
            s = self.size
            other = SequenceWorld.random(
                OTHER_BASE + self.seed, prompts=s.prompts, vocabulary=s.vocabulary, length=s.length
            )
            logps = torch.lerp(logps, other.ref_logps, c.shift).log_softmax(-1)
        if c.unseen:
            first = self.world.sequences[:, 0]
            logps = logps.masked_fill((first >= 1) & (first <= c.unseen), -math.inf).log_softmax(-1)
        return logps

    @cached_property
    def _places(self) -> Tensor:
        """(X, S) the sampler's distribution functions."""
        places = self.sampler_logps.exp().cumsum(1)
        return places / places[:, -1:]

    def drawn(self, rows: int) -> Tensor:
        """(rows, 3) a prompt and two responses in each row; prompts take turns, and more rows begin with the same."""
        size = self.size.prompts
        uniform = random_rows("responses", self.seed, rows, 2)
        prompts = torch.arange(rows) % size
        responses = torch.zeros(rows, 2, dtype=torch.int64)
        for x, places in enumerate(self._places):
            responses[x::size] = torch.searchsorted(places, uniform[x::size].contiguous(), right=True)
        return torch.cat([prompts[:, None], responses.clamp(max=self._places.shape[1] - 1)], 1)

    # ---- feedback

    @property
    def score_sd(self) -> float:
        """The sd of the noise of a score, in reward units."""
        return self.size.score_noise * self.conditions.score_noise

    def first_wins(self, drawn: Tensor) -> Tensor:
        """(n,) bool, whether the first response of each row beats the second."""
        c = self.conditions
        r = self.world.labeller[drawn[:, :1], drawn[:, 1:]]
        gap = r[:, 0] - r[:, 1]
        odds = gap.sign() * math.inf if math.isinf(c.sharpness) else c.sharpness * gap
        odds = torch.where(gap == 0, 0.0, odds)  # equal rewards toss a fair coin
        if c.cycle:
            classes = self.world.sequences[:, 0][drawn[:, 1:]] % 3
            turn = (classes[:, 1] - classes[:, 0]) % 3  # 1: the first response's class beats the second's
            odds = odds + c.cycle * ((turn == 1).double() - (turn == 2).double())
        uniform = random_rows("outcomes", self.seed, len(drawn), 2)
        return (uniform[:, 0] < odds.sigmoid()) ^ self._flips(drawn)[:, 0]

    def scores(self, drawn: Tensor) -> Tensor:
        """(n, 2) noisy scores of the responses; with `label_noise` some belong to the other response of the row."""
        noise = random_rows("noise", self.seed, len(drawn), 2, normal=True)
        scores = self.conditions.scale * self.world.labeller[drawn[:, :1], drawn[:, 1:]] + self.score_sd * noise
        return torch.where(self._flips(drawn), scores.flip(1), scores)

    def labels(self, drawn: Tensor) -> Tensor:
        """(n, 2) bool labels of the responses."""
        p = self.world.label_probabilities(self.sampler_logps)[drawn[:, :1], drawn[:, 1:]]
        return (random_rows("outcomes", self.seed, len(drawn), 2) < p) ^ self._flips(drawn)

    def _flips(self, drawn: Tensor) -> Tensor:
        return random_rows("flips", self.seed, len(drawn), 2) < self.conditions.label_noise

    def examples(self, feedback: str, budget: int, *, shuffle: bool = False) -> list[Example]:
        """The rows that a method learns from.

        A budget of n buys n comparisons, the better responses of n comparisons (demos), n binary labels, n scores, or a
        third of each of the three (mixed). Labels and scores come two to a prompt, lists four: the rows are n/2, n/2
        and n/4. Of mixed feedback two rows in four are pairs.

        Args:
            feedback: demos, pairs, pairs and demos, labels, scores, scored pairs, lists or mixed.
            budget: n.
            shuffle: permute the scores over the rows, for a control.
        """
        if feedback == "mixed":
            return self._mixed(budget)
        in_pairs = feedback in ("demos", "pairs", "pairs and demos")
        drawn = self.drawn(budget if in_pairs else budget // 2)
        rows = [(x, (self.tokens[a], self.tokens[b])) for x, a, b in drawn.tolist()]
        if in_pairs:
            wins = self.first_wins(drawn).tolist()
            pairs = [_paired(x, both, first) for (x, both), first in zip(rows, wins, strict=True)]
            demos = [
                Example((x,), (both[0 if first else 1],), prompt_index=x)
                for (x, both), first in zip(rows, wins, strict=True)
            ]
            if feedback == "pairs and demos":
                return [example for two in zip(pairs, demos, strict=True) for example in two]
            return pairs if feedback == "pairs" else demos
        if feedback == "labels":
            labels = self.labels(drawn).double().tolist()
            return [
                Example((x,), both, labels=tuple(own), prompt_index=x)
                for (x, both), own in zip(rows, labels, strict=True)
            ]
        scores = self.scores(drawn)
        if shuffle:
            generator = torch.Generator().manual_seed(self.seed)
            scores = scores.flatten()[torch.randperm(scores.numel(), generator=generator)].view_as(scores)
        values = [tuple(two) for two in scores.tolist()]
        if feedback == "scored pairs":
            return [_paired(x, both, own[0] >= own[1], own) for (x, both), own in zip(rows, values, strict=True)]
        if feedback == "lists":
            return self._lists(rows, values)
        return [Example((x,), both, scores=own, prompt_index=x) for (x, both), own in zip(rows, values, strict=True)]

    def _mixed(self, budget: int) -> list[Example]:
        """A third of the budget each for comparisons, labels and scores; the kinds take turns for all prompts."""
        count = budget * 2 // 3
        parts = {"pairs": self.examples("pairs", count)}
        parts |= {kind: self.examples(kind, 2 * count) for kind in ("labels", "scores")}
        turns = ("pairs", "labels", "pairs", "scores")
        return [parts[turns[row // self.size.prompts % len(turns)]][row] for row in range(count)]

    def _lists(self, rows: Sequence[tuple], values: Sequence[tuple]) -> list[Example]:
        """Two rows of a prompt are one list."""
        size = self.size.prompts
        lists = []
        for start in range(0, len(rows) - len(rows) % (2 * size), 2 * size):
            for i in range(start, start + size):
                (x, first), (_, second) = rows[i], rows[i + size]
                scores = (*values[i], *values[i + size])
                lists.append(Example((x,), (*first, *second), scores=scores, prompt_index=x, as_list=True))
        return lists

    def calls(self, rewards: Tensor | None = None) -> RewardSource:
        """What scores the samples of an online run: the labeller with its noise, or a given table without noise.

        With `label_noise` a score belongs to the prompt's next response, as for `scores`.
        """
        if rewards is not None:
            return looked_up(rewards, self.columns)
        exact = looked_up(self.world.labeller, self.columns)
        generator = torch.Generator().manual_seed(STREAMS.index("calls") * 1_000_003 + self.seed)
        scale, swaps = self.conditions.scale, self.conditions.label_noise

        def reward(answers: Sequence[Answer]) -> list[float]:
            scores = scale * torch.tensor(exact(answers), dtype=torch.float64)
            scores = scores + self.score_sd * torch.randn(len(scores), generator=generator, dtype=torch.float64)
            if swaps:
                swapped = torch.rand(len(scores), generator=generator) < swaps
                scores = torch.where(swapped, scores[following([str(answer.prompt) for answer in answers])], scores)
            return scores.tolist()

        return reward

    # ---- judging

    def judged(self, next_logps: Tensor) -> dict[str, float]:
        """Exact measures of a policy's table (X, N, V) over all prompts; NaN where it is not finite.

        See `measures`. `tax` is KL(π_ref ‖ π) on the second block of prompts, in nats.
        """
        logps = self.whole.sequence_logps(next_logps.detach())
        own, rest = logps[: self.size.prompts], logps[self.size.prompts :]
        if not logps.isfinite().all():
            return dict.fromkeys((*MEASURES, "tax"), math.nan)
        return self.measures(own) | {"tax": float(optimum.kl(self.whole.ref_logps[self.size.prompts :], rest).mean())}

    def task(self, next_logps: Tensor) -> Tensor:
        """(X, S) log-probabilities on the prompts of the task, from the table (X, N, V) over all prompts."""
        return self.world.sequence_logps(next_logps[: self.size.prompts])

    def measures(self, logps: Tensor) -> dict[str, float]:
        """Exact means over the prompts of a policy (X, S)."""
        world, p = self.world, logps.exp()
        return world.metrics(logps) | {
            "labeller_reward": float((p * world.labeller).sum(1).mean()),
            "length": float((p * world.fullness).sum(1).mean()) * self.size.length,
            "trapped": float((p * world.trapped).sum(1).mean()),
        }


MEASURES = ("regret", "reward", "kl", "kl_to_optimum", "entropy", "labeller_reward", "length", "trapped")


def _paired(x: int, both: tuple[tuple[int, ...], ...], first: bool, scores: tuple[float, ...] | None = None) -> Example:
    return Example((x,), both, scores=scores, pairs=((0, 1) if first else (1, 0),), prompt_index=x)
