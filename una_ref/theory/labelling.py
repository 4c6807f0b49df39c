"""Responses with known rewards, and a labeller who may err.

`Labelled` is shared by the table and sequence worlds and by ToySteer. `Knobs` set the faults of labeller and data.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from una_ref.theory.optimum import expected_reward
from una_ref.theory.preferences import bradley_terry


@dataclass(frozen=True)
class Knobs:
    """The conditions that the papers' claims depend on. Every default is off.

    Attributes:
        label_noise: probability that a rating is off by one; for binary labels and pairs, that it flips.
        offset: sd of a constant that is added to each prompt's rewards.
        length_bias: added by the labeller to the score of a response of full length, in proportion for shorter ones.
        trap: added by the labeller to the score of a trapped response, and subtracted in the true score.
        positive_share: share of positive labels among the sampled responses, before noise; None: P(1) = σ(reward).
        writer: who wrote the responses, "reference" (π_ref itself) or "program" (right answers with mistakes).
    """

    label_noise: float = 0.0
    offset: float = 0.0
    length_bias: float = 0.0
    trap: float = 0.0
    positive_share: float | None = None
    writer: str = "reference"

    def __post_init__(self) -> None:
        """Raises ValueError naming the knob whose value is out of range."""
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"knob label_noise: expected a probability, got {self.label_noise}")
        if self.positive_share is not None and not 0 < self.positive_share < 1:
            raise ValueError(
                f"knob positive_share: expected a share between 0 and 1, or None, got {self.positive_share}"
            )
        if self.writer not in ("reference", "program"):
            raise ValueError(f"knob writer: expected reference or program, got {self.writer!r}")
        for name in ("offset", "length_bias", "trap"):
            if not abs(getattr(self, name)) < float("inf"):
                raise ValueError(f"knob {name}: expected a finite number, got {getattr(self, name)}")


def labeller_generator(seed: int) -> torch.Generator:
    """The labeller's random numbers; `Labelled.draw` with the same seed has others."""
    return torch.Generator().manual_seed(1_000_000_007 + seed)


class Labelled:
    """X prompts with Y responses each, their true rewards, and a labeller who may err.

    A subclass gives `quality` (X, Y), `fullness` (Y,) in [0, 1], `trapped` (Y,) bool and `program_response`. The knobs
    then act in the same way on all subclasses. A reward is `scale` · (score − `middle`) + offset.
    """

    seed: int
    knobs: Knobs
    size: int
    scale: float = 1.0
    middle: float = 0.0
    stream: int = 0
    """Added to the seed of samples, where the same seed made the world."""

    @cached_property
    def quality(self) -> Tensor:
        """(X, Y) scores before any knob acts."""
        raise NotImplementedError

    @cached_property
    def fullness(self) -> Tensor:
        """(Y,) the length of each response as a share of the largest."""
        raise NotImplementedError

    @cached_property
    def trapped(self) -> Tensor:
        """(Y,) bool: the responses that the labeller overrates."""
        raise NotImplementedError

    @cached_property
    def offsets(self) -> Tensor:
        """(X, 1) the constant added to each prompt's rewards."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.knobs.offset * torch.randn(self.size, 1, generator=generator, dtype=torch.float64)

    @cached_property
    def scores(self) -> Tensor:
        """(X, Y) the true score: the quality minus the trap."""
        return self.quality - self.knobs.trap * self.trapped

    @cached_property
    def rewards(self) -> Tensor:
        """(X, Y) the reward that policies are judged by."""
        return self.scale * (self.scores - self.middle) + self.offsets

    @cached_property
    def labeller(self) -> Tensor:
        """(X, Y) the reward that the labeller perceives; the true one where the labeller's knobs are off."""
        score = self.quality + self.knobs.length_bias * self.fullness + self.knobs.trap * self.trapped
        return self.scale * (score - self.middle) + self.offsets

    def preferences(self) -> Tensor:
        """(X, Y, Y) P(the labeller says y ≻ y'), Bradley–Terry with noise: a table for small worlds only."""
        return self._noisy(bradley_terry(self.labeller))

    def label_probabilities(self, logps: Tensor) -> Tensor:
        """(X, Y) P(the labeller's label is 1), where responses are sampled from `logps` (X, Y)."""
        threshold = self._threshold(self.labeller, lambda p: expected_reward(logps, p).mean())
        return self._noisy((self.labeller - threshold).sigmoid())

    def draw(self, n: int, logps: Tensor, *, seed: int, k: int = 2, untied: bool = False) -> Tensor:
        """(n, 1 + k) the prompt's index and k response indices per row; prompts take turns.

        Responses are independent samples from the writer, whose policy is `logps` (X, Y) if it is the reference. With
        `untied` rows whose scores are all equal are replaced by others, so that every row has a pair. Raises ValueError
        where the writer gives too few such rows.
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
                    f"draw with untied=True: expected responses that differ in score, got {len(drawn)} such rows of "
                    f"{8 * n}"
                )
            return torch.stack([places[i % self.size][i // self.size] for i in range(n)])
        if self.knobs.writer == "program":
            rng = random.Random(self.stream + seed)
            drawn = torch.tensor([[self.program_response(x, rng) for _ in range(k)] for x in prompts.tolist()])
        else:
            drawn = torch.multinomial(logps.exp()[prompts], k, True, generator=generator)
        return torch.cat([prompts[:, None], drawn], 1)

    def verdicts(self, drawn: Tensor, kind: str, *, seed: int) -> Tensor:
        """The labeller's feedback on sampled responses (n, 1 + k), from the reward r that the labeller perceives.

        kind
            "scores": r, (n, k). "pairs": (n,) bool, whether the first beats the second, Bradley–Terry (UNA Eq. 1) with
            P = σ(r₁ − r₂). "labels": (n, k) bool with P(1) = σ(r − c); c is 0 unless `Knobs.positive_share` is set.
        """
        generator = labeller_generator(seed)
        r = self.labeller[drawn[:, :1], drawn[:, 1:]]
        flips = torch.rand(r.shape, generator=generator) < self.knobs.label_noise
        uniform = torch.rand(r.shape, generator=generator, dtype=torch.float64)
        if kind == "scores":
            return r
        if kind == "labels":
            return (uniform < (r - self._threshold(r, torch.mean)).sigmoid()) ^ flips
        if kind == "pairs" and r.shape[1] > 1:
            return (uniform[:, 0] < (r[:, 0] - r[:, 1]).sigmoid()) ^ flips[:, 0]
        raise ValueError(
            "feedback: expected scores, labels, or pairs of two or more responses, "
            f"got {kind!r} with {r.shape[1]} for each prompt"
        )

    def program_response(self, x: int, rng: random.Random) -> int:
        """The index of a response to prompt x by a program that answers right and makes mistakes."""
        raise NotImplementedError

    def _noisy(self, p: Tensor) -> Tensor:
        return self.knobs.label_noise + (1 - 2 * self.knobs.label_noise) * p

    def _threshold(self, r: Tensor, mean: Callable[[Tensor], Tensor]) -> float:
        """The c with mean σ(r − c) = `positive_share`."""
        if self.knobs.positive_share is None:
            return 0.0
        low, high = min(-50.0, float(r.min()) - 25), max(50.0, float(r.max()) + 25)
        for _ in range(60):
            c = (low + high) / 2
            low, high = (c, high) if mean((r - c).sigmoid()) > self.knobs.positive_share else (low, c)
        return c
