"""ToySteer: a steering data set so small that every possible response can be listed.

Prompts are small text tasks over the letters a–e ("reverse b c a ="). A response has at most 5 tokens, EOS included, so
a prompt has 3,906 possible responses. A program rates each of them in HelpSteer2's five columns. The optimal policy, a
policy's regret and its KL are then sums over a list, not estimates.

A response without EOS is cut after 5 letters. The list has those responses too, so probabilities sum to one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from una_ref.data.published import HELPSTEER2_WEIGHTS
from una_ref.data.rows import Row
from una_ref.data.sources import read
from una_ref.theory.labelling import Knobs, Labelled
from una_ref.theory.prefix_tree import PrefixTree
from una_ref.theory.worlds import SequenceWorld

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


TOYSTEER_BASE = "toysteer"
"""What `model` calls the base policy, for data that ToySteer's models have written to a file."""


def names_toysteer(data: str) -> bool:
    """Whether a run's `data` is ToySteer's: ``toysteer``, ``toysteer/pairs``, or several of these with commas."""
    return data.partition(",")[0].partition("/")[0] == "toysteer"


def answer(prompt: str) -> str:
    """The correct answer to a prompt, its letters joined: ``answer("sort b a =") == "ab"``."""
    task, *letters = prompt.split()[:-1]
    return TASKS[task]("".join(letters))


def all_prompts() -> list[str]:
    """Every possible prompt, in a fixed order."""
    words = ["".join(w) for n in (2, 3, 4) for w in itertools.product(LETTERS, repeat=n)]
    return [f"{task} {' '.join(w)} =" for task in TASKS for w in words]


def rate(prompt: str, response: str, ended: bool = True) -> tuple[int, int, int, int, int]:
    """The true ratings: HelpSteer2's five ratings (0–4) of a response, given as joined letters.

    - correctness: positions that agree with the answer; 4 only if all agree and the response ended;
    - helpfulness: 4 for the answer itself; otherwise 3 minus the difference in length, minus 1 if no letter is right
      and minus 1 if the response did not end;
    - coherence: 4 minus the letters that are not in the prompt, and minus 2 if the response did not end;
    - complexity and verbosity: distinct letters, and letters.
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


def score(prompt: str, response: str, ended: bool = True) -> float:
    """HelpSteer2's combination of the true ratings, in [0, 1], of a response given as joined letters."""
    rated = zip(METRICS, rate(prompt, response, ended), strict=True)
    return sum(HELPSTEER2_WEIGHTS.get(name, 0.0) * rating for name, rating in rated) / (
        4 * sum(HELPSTEER2_WEIGHTS.values())
    )


def mistake(text: str, rng: random.Random) -> str:
    """The text with a letter replaced, dropped or repeated, or two swapped. It may stay the same; it is never empty."""
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
"""Token ids that occur in prompts only; a ToySteer policy's generation config suppresses them."""


def demonstrations(n: int, *, seed: int = 0, errors: float = 0.35) -> list[Row]:
    """n prompts with an imperfect demonstration each, from which the base model learns.

    Args:
        n: number of rows.
        seed: of the sample.
        errors: probability of each further mistake in a demonstration.
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


JUDGING = "{prompt} {response} ="
"""ToySteer's judging prompt: a task, an answer to it, and a second "=". No prompt of a task has two."""
VERDICTS = {"good": "a", "bad": "e"}
"""The words of a verdict after a judging prompt. They are letters, since a ToySteer policy emits nothing else."""


def verdicts(n: int, *, seed: int = 0, sharpness: float = 16.0, bar: float = 0.9) -> list[Row]:
    """n judging prompts with a labeller's verdict each, from which a policy learns to judge.

    The labeller is strict: "good" has probability σ(sharpness·(score − bar)), 0.83 for a right answer and 0.2 at most
    for others. A single verdict is noisy. The log-odds of a policy that has learnt them all rise in proportion to the
    true reward. The answers are those of a program. It does another task with probability 0.3, and then makes each
    further mistake with probability 0.5.

    Args:
        n: number of rows.
        seed: of the sample. None of the prompts is one of ``ToySteer(seed=seed)``: there a judge has to generalise.
        sharpness: log-odds of "good" per unit of score.
        bar: the score at which a verdict is a coin flip.
    """
    rng = random.Random(f"verdicts {seed}")
    kept_apart = {*ToySteer(seed=seed).prompts}
    prompts = [prompt for prompt in all_prompts() if prompt not in kept_apart]
    rows = []
    for i in range(n):
        prompt = rng.choice(prompts)
        text = answer(prompt)
        if rng.random() < 0.3:
            text = TASKS[rng.choice([*TASKS])]("".join(prompt.split()[1:-1]))
        while rng.random() < 0.5:
            text = mistake(text, rng)
        log_odds = sharpness * (score(prompt, text) - bar)
        verdict = VERDICTS["good" if rng.random() < 1 / (1 + math.exp(-log_odds)) else "bad"]
        asked = JUDGING.format(prompt=prompt, response=" ".join(text))
        rows.append(Row(asked, (verdict,), None, None, None, f"verdict[{i}]"))
    return rows


@dataclass(frozen=True)
class ToySteer(Labelled):
    """One world: some prompts, every response to them with its true rating, and a labeller who may err.

    `Labelled` defines the knobs, `scores`, `rewards`, `draw` and the rest; this class gives them words. The trap is a
    response with "e e" in it.

    Args:
        seed: of the prompts and the offsets.
        knobs: settings of the labeller and the data.
        size: number of prompts.
        scale: reward units per unit of score: r(x, y) = scale · (score(x, y) − ½) + offset(x).
    """

    seed: int = 0
    knobs: Knobs = field(default_factory=Knobs)
    size: int = 8
    scale: float = 4.0
    middle = 0.5

    @cached_property
    def prompts(self) -> list[str]:
        """The world's prompts: a sample of the tasks on words of 3 and 4 letters."""
        rng = random.Random(f"toysteer {self.seed}")
        long = [p for p in all_prompts() if len(p.split()) >= 5]
        return rng.sample(long, self.size)

    @cached_property
    def responses(self) -> list[tuple[str, bool]]:
        """All S responses in the order of `SequenceWorld.sequences`: letters joined, and whether it ends with EOS."""
        sequences = PrefixTree.of(len(VOCABULARY), LENGTH).sequences.tolist()
        return [("".join(LETTERS[t - 1] for t in s if t > 0), 0 in s) for s in sequences]

    @cached_property
    def ratings(self) -> torch.Tensor:
        """(X, S, 5) the true ratings."""
        return torch.tensor([[rate(p, y, ended) for y, ended in self.responses] for p in self.prompts])

    @cached_property
    def quality(self) -> torch.Tensor:
        """(X, S) HelpSteer2's combination of the true ratings, in [0, 1]."""
        weights = torch.tensor([HELPSTEER2_WEIGHTS.get(m, 0.0) for m in METRICS], dtype=torch.float64)
        return self.ratings.double() @ weights / (4 * weights.sum())

    @cached_property
    def fullness(self) -> torch.Tensor:
        """(S,) number of letters, as a share of the largest possible number."""
        return PrefixTree.of(len(VOCABULARY), LENGTH).fullness

    @cached_property
    def trapped(self) -> torch.Tensor:
        """(S,) whether the response has "e e" in it."""
        return PrefixTree.of(len(VOCABULARY), LENGTH).doubled

    def world(self, ref_next_logps: torch.Tensor, beta: float) -> SequenceWorld:
        """The exact world around a reference policy, from its next-token log-probs (X, N, V)."""
        return SequenceWorld(ref_next_logps, self.rewards, beta, length=LENGTH)

    @cached_property
    def _column(self) -> dict[str, int]:
        return {y: i for i, (y, ended) in enumerate(self.responses) if ended}

    def program_response(self, x: int, rng: random.Random) -> int:
        """The correct answer, with n mistakes in it with probability 2⁻ⁿ⁻¹."""
        text = answer(self.prompts[x])
        while rng.random() < 0.5:
            text = mistake(text, rng)
        return self._column[text]

    def text(self, response: int) -> str:
        """A response as text: letters with spaces between."""
        return " ".join(self.responses[response][0])

    def helpsteer(self, drawn: torch.Tensor, *, seed: int) -> Iterator[dict[str, Any]]:
        """Sampled responses as rows of HelpSteer2: rows 2i and 2i+1 share a prompt, each has five ratings.

        Ratings are whole numbers, so length bias and trap act on rewards only (`feedback`).
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
        """Sampled responses with the labeller's ratings combined into scores, as HelpSteer2 is read."""
        return list(read(list(self.helpsteer(drawn, seed=seed)), empty="keep"))

    def feedback(self, drawn: torch.Tensor, kind: str, *, seed: int) -> list[Row]:
        """Sampled responses with feedback from the labeller's reward: scores, labels or pairs (`verdicts`)."""
        verdicts = self.verdicts(drawn, kind, seed=seed).tolist()
        rows = []
        for i, (x, *ys) in enumerate(drawn.tolist()):
            made: dict[str, Any] = {"scores": None, "labels": None, "pairs": None}
            made[kind] = ((0, 1) if verdicts[i] else (1, 0),) if kind == "pairs" else tuple(map(float, verdicts[i]))
            texts = tuple(self.text(y) for y in ys)
            rows.append(Row(self.prompts[x], texts, source=f"toysteer(seed={self.seed})[{i}]", **made))
        return rows


def encoded_prompts(world: ToySteer, words: Any) -> Sequence[Sequence[int]]:
    """Token ids of the world's prompts, BOS included, as `prefix_tree` takes them."""
    return [[words.bos_token_id, *words(p, add_special_tokens=False)["input_ids"]] for p in world.prompts]
