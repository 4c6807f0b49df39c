"""ToySteer: a steering data set small enough that every possible answer can be listed.

Prompts are small text tasks over the letters a–e ("reverse b c a ="). A response is at most 5 tokens, EOS included; so
a prompt has 3,906 possible responses, a program rates each of them in HelpSteer2's five columns, and the optimal
policy, a policy's regret and its KL are sums over a list, not estimates.

A response that never says EOS is cut after 5 letters; the list has those too, so probabilities sum to one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from una_ref.data.rows import Row
from una_ref.data.sources import HELPSTEER2_WEIGHTS, read
from una_ref.errors import InputError
from una_ref.theory.worlds import PrefixTree, SequenceWorld

LETTERS = "abcde"
LENGTH = 5
METRICS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
TASKS = {
    "copy": lambda w: w,
    "reverse": lambda w: w[::-1],
    "sort": lambda w: "".join(sorted(w)),
    "rotate": lambda w: w[1:] + w[:1],
    "double": lambda w: "".join(c for pair in zip(w, w, strict=True) for c in pair)[:4],
    "unique": lambda w: "".join(dict.fromkeys(w)),
}
"""What a task word asks for, on a word of 2–4 letters; answers have 1–4 letters."""
EOS, BOS, PAD, UNK = "</s>", "<s>", "<pad>", "<unk>"
WORDS = (EOS, *LETTERS, BOS, PAD, UNK, "=", *TASKS)
"""The tokenizer's vocabulary in order of id; the first six are what a response is made of."""


@dataclass(frozen=True)
class Knobs:
    """What the papers' claims turn on. Every default is off.

    Attributes:
        label_noise: probability that the labeller moves a rating by one; for labels and pairs, that it flips.
        offset: sd of a constant that is added to each prompt's reward.
        length_bias: what the labeller adds to the score of the longest response against the shortest.
        trap: what the labeller adds to the score of a response with "e e" in it, and what the truth takes off.
        thumbs_up: share of labels that are up under the reference; None leaves P(up) = σ(reward).
        writer: who wrote the responses, "reference" (π_ref itself) or "program" (right answers with mistakes).
    """

    label_noise: float = 0.0
    offset: float = 0.0
    length_bias: float = 0.0
    trap: float = 0.0
    thumbs_up: float | None = None
    writer: str = "reference"


def answer(prompt: str) -> str:
    """The right answer to a prompt, letters joined: ``answer("sort b a =") == "ab"``."""
    task, *letters = prompt.split()[:-1]
    return TASKS[task]("".join(letters))


def all_prompts() -> list[str]:
    """Every prompt there is, in a fixed order."""
    words = ["".join(w) for n in (2, 3, 4) for w in itertools.product(LETTERS, repeat=n)]
    return [f"{task} {' '.join(w)} =" for task in TASKS for w in words]


def rate(prompt: str, response: str, ended: bool = True) -> tuple[int, int, int, int, int]:
    """The truth: HelpSteer2's five ratings (0–4) of a response, given as joined letters.

    correctness counts positions that agree with the answer (4 only if all do, and the response ended);
    helpfulness is 4 for the answer itself and else falls from 3 with the difference in length, and by one each if no
    letter is right or the response did not end; coherence falls with letters that are not in the prompt, and by two if
    it did not end; complexity and verbosity count distinct letters and letters.
    """
    right = answer(prompt)
    matches = sum(a == b for a, b in zip(response, right, strict=False))
    exact = ended and response == right
    correctness = 4 if exact else min(3, 4 * matches // max(len(response), len(right)))
    off = abs(len(response) - len(right)) + (not ended) + (matches == 0)
    helpfulness = 4 if exact else max(0, 3 - off)
    strange = sum(c not in prompt.split()[1:-1] for c in response)
    coherence = max(0, 4 - strange - 2 * (not ended)) if response else 0
    return helpfulness, correctness, coherence, min(4, len(set(response))), min(4, len(response))


def mistake(text: str, rng: random.Random) -> str:
    """The text with a letter replaced, dropped, repeated or two swapped (now and then the same text); never empty."""
    kind, i = rng.randrange(4), rng.randrange(len(text))
    if kind == 0:
        return text[:i] + rng.choice(LETTERS) + text[i + 1 :]
    if kind == 1 and len(text) > 1:
        return text[:i] + text[i + 1 :]
    if kind == 2:
        return (text[: i + 1] + text[i:])[: LENGTH - 1]
    j = rng.randrange(len(text))
    letters = list(text)
    letters[i], letters[j] = letters[j], letters[i]
    return "".join(letters)


def tokenizer() -> Any:
    """A word-level Hugging Face tokenizer of the 16 words; no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=UNK))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece(prefix="\0")
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token=UNK, bos_token=BOS, eos_token=EOS, pad_token=PAD)


VOCABULARY = tuple(range(1 + len(LETTERS)))
"""Token ids of a response: EOS, then the letters. World token and tokenizer id are the same number."""
NEVER_EMITTED = tuple(range(1 + len(LETTERS), len(WORDS)))
"""Token ids that stand in prompts only; a ToySteer policy's generation config suppresses them."""


def demonstrations(n: int, *, seed: int = 0, errors: float = 0.35) -> list[Row]:
    """n prompts with an imperfect demonstration each: what the base model learns from.

    Args:
        n: rows.
        seed: of the draw.
        errors: probability of another mistake (a demonstration may have several).
    """
    rng = random.Random(f"demonstrations {seed}")
    prompts = all_prompts()
    rows = []
    for i in range(n):
        prompt = rng.choice(prompts)
        text = answer(prompt)
        while rng.random() < errors:
            text = mistake(text, rng)
        rows.append(Row(prompt, (" ".join(text),), None, None, None, f"demonstration[{i}]"))
    return rows


def coins(seed: int) -> torch.Generator:
    """The labeller's random stream, which shares no number with that of `ToySteer.draw` for the same seed."""
    return torch.Generator().manual_seed(1_000_000_007 + seed)


@dataclass(frozen=True)
class ToySteer:
    """One world: some prompts, every response to them with its true rating, and a labeller who may err.

    Args:
        seed: which prompts (and offsets).
        knobs: what the labeller and the data do.
        size: number of prompts.
        scale: reward units per unit of score: r(x, y) = scale · (score(x, y) − ½) + offset(x).
    """

    seed: int = 0
    knobs: Knobs = field(default_factory=Knobs)
    size: int = 8
    scale: float = 4.0

    @cached_property
    def prompts(self) -> list[str]:
        """The world's prompts: its own draw of tasks on words of 3 and 4 letters."""
        rng = random.Random(f"toysteer {self.seed}")
        long = [p for p in all_prompts() if len(p.split()) >= 5]
        return rng.sample(long, self.size)

    @cached_property
    def responses(self) -> list[tuple[str, bool]]:
        """All S responses in the order of `SequenceWorld.sequences`: letters joined, and whether it said EOS."""
        sequences = PrefixTree.of(len(VOCABULARY), LENGTH).sequences.tolist()
        return [("".join(LETTERS[t - 1] for t in s if t > 0), 0 in s) for s in sequences]

    @cached_property
    def ratings(self) -> torch.Tensor:
        """(X, S, 5) the true ratings."""
        return torch.tensor([[rate(p, y, ended) for y, ended in self.responses] for p in self.prompts])

    def _score(self, ratings: torch.Tensor) -> torch.Tensor:
        weights = torch.tensor([HELPSTEER2_WEIGHTS.get(m, 0.0) for m in METRICS], dtype=torch.float64)
        return ratings.double() @ weights / (4 * weights.sum())

    @cached_property
    def offsets(self) -> torch.Tensor:
        """(X, 1) the constant added to each prompt's reward."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.knobs.offset * torch.randn(self.size, 1, generator=generator, dtype=torch.float64)

    @cached_property
    def _trapped(self) -> torch.Tensor:
        return torch.tensor(["ee" in y for y, _ in self.responses])

    @cached_property
    def scores(self) -> torch.Tensor:
        """(X, S) the true score: HelpSteer2's combination in [0, 1], less the trap."""
        return self._score(self.ratings) - self.knobs.trap * self._trapped

    @cached_property
    def rewards(self) -> torch.Tensor:
        """(X, S) the reward that policies are judged by: scale · (score − ½) + offset."""
        return self.scale * (self.scores - 0.5) + self.offsets

    @cached_property
    def labeller(self) -> torch.Tensor:
        """(X, S) the reward that the labeller acts on; the truth where its knobs are off."""
        length = torch.tensor([len(y) for y, _ in self.responses], dtype=torch.float64) / LENGTH
        score = self._score(self.ratings) + self.knobs.length_bias * length + self.knobs.trap * self._trapped
        return self.scale * (score - 0.5) + self.offsets

    def world(self, ref_next_logps: torch.Tensor, beta: float) -> SequenceWorld:
        """The exact world around a reference policy, from its next-token log-probs (X, N, V)."""
        return SequenceWorld(ref_next_logps, self.rewards, beta, length=LENGTH)

    def draw(self, n: int, logps: torch.Tensor, *, seed: int, k: int = 2, untied: bool = False) -> torch.Tensor:
        """(n, 1 + k) prompt index and k response indices per row, prompts in turn.

        Responses are independent draws from the writer; with `untied` a row is drawn again while all its scores are
        equal, so that each row says something to a method that needs pairs.
        """
        generator = torch.Generator().manual_seed(seed)
        prompts = torch.arange(n) % self.size
        if untied:
            drawn = self.draw(8 * n, logps, seed=seed, k=k)
            scores = self.scores[drawn[:, :1], drawn[:, 1:]]
            drawn = drawn[scores.amax(1) > scores.amin(1)]
            places = [drawn[drawn[:, 0] == x] for x in range(self.size)]
            if min(map(len, places)) < -(-n // self.size):
                raise InputError(
                    f"ToySteer draw: expected a writer whose responses differ in score, got {len(drawn)} untied "
                    f"rows of {8 * n}"
                )
            return torch.stack([places[i % self.size][i // self.size] for i in range(n)])
        if self.knobs.writer == "program":
            rng = random.Random(seed)
            index = {y: i for i, (y, ended) in enumerate(self.responses) if ended}
            chosen = [[index[self._written(self.prompts[x], rng)] for _ in range(k)] for x in prompts.tolist()]
            return torch.cat([prompts[:, None], torch.tensor(chosen)], 1)
        if self.knobs.writer != "reference":
            raise InputError(f"knob writer: expected reference or program, got {self.knobs.writer!r}")
        drawn = torch.multinomial(logps.exp()[prompts], k, True, generator=generator)
        return torch.cat([prompts[:, None], drawn], 1)

    def _written(self, prompt: str, rng: random.Random) -> str:
        text = answer(prompt)
        while rng.random() < 0.5:
            text = mistake(text, rng)
        return text

    def text(self, response: int) -> str:
        """A response as text: letters with spaces between."""
        return " ".join(self.responses[response][0])

    def helpsteer(self, drawn: torch.Tensor, *, seed: int) -> Iterator[dict[str, Any]]:
        """Drawn rows as HelpSteer2 has them: rows 2i and 2i+1 share a prompt, five ratings each.

        The labeller's ratings are whole numbers, so length bias and trap act on rewards only (`feedback`).
        """
        rng = random.Random(f"ratings {seed}")
        for x, *ys in drawn.tolist():
            for y in ys:
                ratings = self.ratings[x, y].tolist()
                noisy = [
                    min(4, max(0, r + rng.choice((-1, 1)))) if rng.random() < self.knobs.label_noise else r
                    for r in ratings
                ]
                yield {"prompt": self.prompts[x], "response": self.text(y), **dict(zip(METRICS, noisy, strict=True))}

    def rated(self, drawn: torch.Tensor, *, seed: int) -> list[Row]:
        """Drawn responses with the labeller's ratings combined into scores, read as HelpSteer2 is read."""
        return list(read(list(self.helpsteer(drawn, seed=seed)), empty="keep"))

    def feedback(self, drawn: torch.Tensor, kind: str, *, seed: int) -> list[Row]:
        """Drawn responses with feedback from the labeller's reward r itself.

        scores: r. pairs: Bradley–Terry, P(first wins) = σ(r₁ − r₂) (UNA Eq. 1). labels: Bernoulli, P(up) = σ(r − c),
        where c = 0 unless the knob `thumbs_up` sets the share.
        """
        generator = coins(seed)
        prompts, ys = drawn[:, 0], drawn[:, 1:]
        r = self.labeller[prompts[:, None], ys]
        flips = torch.rand(r.shape, generator=generator) < self.knobs.label_noise
        uniform = torch.rand(r.shape, generator=generator, dtype=torch.float64)
        first = ((uniform[:, 0] < (r[:, 0] - r[:, 1]).sigmoid()) ^ flips[:, 0]) if r.shape[1] > 1 else None
        up = (uniform < (r - self._threshold(r)).sigmoid()) ^ flips
        rows = []
        for i, (x, row) in enumerate(zip(prompts.tolist(), ys.tolist(), strict=True)):
            texts = tuple(self.text(y) for y in row)
            made: dict[str, Any] = {"scores": None, "labels": None, "pairs": None}
            if kind == "scores":
                made[kind] = tuple(r[i].tolist())
            elif kind == "labels":
                made[kind] = tuple(float(v) for v in up[i])
            elif kind == "pairs" and first is not None:
                made[kind] = ((0, 1) if first[i] else (1, 0),)
            else:
                raise InputError(
                    f"ToySteer feedback: expected scores, labels, or pairs of two responses, got {kind!r} "
                    f"with {len(row)} a prompt"
                )
            rows.append(Row(self.prompts[x], texts, source=f"toysteer(seed={self.seed})[{i}]", **made))
        return rows

    def _threshold(self, r: torch.Tensor) -> float:
        if self.knobs.thumbs_up is None:
            return 0.0
        low, high = -50.0, 50.0
        for _ in range(60):
            c = (low + high) / 2
            low, high = (c, high) if (r - c).sigmoid().mean() > self.knobs.thumbs_up else (low, c)
        return c


def encoded_prompts(world: ToySteer, words: Any) -> Sequence[Sequence[int]]:
    """Token ids of the world's prompts, BOS included: what `prefix_tree` takes."""
    return [[words.bos_token_id, *words(p, add_special_tokens=False)["input_ids"]] for p in world.prompts]
