"""Steps of a recipe that write a data file: sample answers, label, revise or contrast them, or take a part of the data.

The file holds whole answers only. An answer that was cut is left out and counted: a later run reads text, and would
put an end behind it.
"""

from __future__ import annotations

import json
import math
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from una_ref.data import toysteer
from una_ref.data.batch import Example
from una_ref.data.rows import Row, prompt_key
from una_ref.data.toysteer import ToySteer
from una_ref.errors import InputError
from una_ref.policies.answers import Answer, RewardSource, score_rows
from una_ref.policies.outliers import Outliers, last_states
from una_ref.policies.reward_sources import reward_source
from una_ref.policies.rollout import HuggingFace
from una_ref.training.checkpoints import RECORD, claimed, replacing, write_text
from una_ref.training.config import Config
from una_ref.training.distributed import processes
from una_ref.training.fields import Count, CountOrZero, Range
from una_ref.training.model import model_and_tokenizer
from una_ref.training.prepare import encoder_for, room_for
from una_ref.training.reading import read_rows, usable_rows
from una_ref.training.toysteer_base import is_toysteer

FILE = "rows.jsonl"
"""The result of a data step, in its folder."""
CLAMP = 0.01
"""A judge's preference probability is kept this far from 0 and 1, so that its log-odds are finite."""


@dataclass(frozen=True)
class DataStep(ABC):
    """A step whose result is a file of rows."""

    data: str = "toysteer"
    """Data as in a run."""
    output: str = ""
    """Folder of the result."""
    split: str = "train"
    """Split of a hub data set."""
    seed: CountOrZero = 0
    """Seed of samples and draws, and of ToySteer's world."""

    @abstractmethod
    def rows(self, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """The rows of the result. What was left out is added to `counts`."""

    def read(self, data: str, counts: Counter[str] | None = None, *, prompts: bool = False) -> Sequence[Row]:
        """The rows of some data, ToySteer's without those that hold a cut answer."""
        method = "rloo" if prompts else "sft"
        config = Config(method=method, data=data, split=self.split, seed=self.seed, empty="keep", turns="last")
        rows = read_rows(config, others=not prompts)  # a reward function may read them
        if prompts:
            return usable_rows(rows, config)[0]
        several = sum(
            not isinstance(row.prompt, str) and "assistant" in (m["role"] for m in row.prompt) for row in rows
        )
        if counts is not None and several:
            counts["rows with several turns of the assistant: the last is the answer, the others are its prompt"] += (
                several
            )
        if not is_toysteer(config):
            return rows
        whole = [row for row in rows if all(len(text.split()) < toysteer.LENGTH for text in row.responses)]
        if counts is not None and len(whole) < len(rows):
            counts["rows left out: an answer was cut"] += len(rows) - len(whole)
        return whole

    def source(self, name: str) -> RewardSource:
        """The reward source of that name."""
        return reward_source(name, world=ToySteer(seed=self.seed) if "toysteer" in name.split(",") else None)


@dataclass(frozen=True)
class Sample(DataStep):
    """Answers of a model to prompts."""

    model: str = ""
    """Folder or hub name. Empty: ToySteer's base."""
    prompts: Count = 256
    """Rows of the result. If the data have fewer prompts, some are asked again."""
    samples: Count = 2
    """Answers in each row."""
    temperature: Annotated[float, Range(0.01)] = 1.0
    """Sampling temperature."""
    max_response: Count | None = None
    """Most tokens of an answer."""
    max_length: Annotated[int, Range(2)] = 2048
    """Most tokens of a prompt with an answer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""
    like: str = ""
    """Data whose responses are in distribution. Empty: no answer is rejected as out of distribution."""
    reject: Annotated[float, Range(0, below=1)] = 0.05
    """Share of the responses in `like` that would be rejected as well."""

    def rows(self, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """Rows of `samples` answers; a row with fewer that are whole and in distribution is left out."""
        more: dict[str, Any] = {"max_response": self.max_response, "max_length": self.max_length, "dtype": self.dtype}
        config = Config(method="rloo", data=self.data, model=self.model, split=self.split, seed=self.seed, **more)
        rows = self.read(self.data, prompts=True)
        model, tokenizer, _ = model_and_tokenizer(config, rows)
        model.to(processes().device).eval()
        encoder = encoder_for(config, model, tokenizer)
        room = room_for(encoder.max_response, encoder.max_length)
        asked: Any = encoder.encode(rows, room=room)
        engine = HuggingFace(encoder.ends[0], temperature=self.temperature, other_ends=encoder.ends[1:])
        outliers = None
        if self.like:
            known = encoder.encode([row.only() for row in self.read(self.like)])
            outliers = Outliers.of(last_states(model, known), self.reject)
        for start in range(0, self.prompts, 64):
            some = [asked[i % len(asked)] for i in range(start, min(start + 64, self.prompts))]
            seed = self.seed * 1_000_003 + start
            drawn = engine(model, [p.ids for p in some], k=self.samples, max_new=room, seed=seed)
            for prompt, draws in zip(some, drawn, strict=True):
                kept = [draw for draw in draws if draw.ended]
                counts["answers left out: cut"] += len(draws) - len(kept)
                if outliers and kept:
                    example = Example(prompt.ids, tuple(draw.tokens for draw in kept))
                    far = outliers(last_states(model, [example])).tolist()
                    counts["answers left out: out of distribution"] += sum(far)
                    kept = [draw for draw, outside in zip(kept, far, strict=True) if not outside]
                if len(kept) < self.samples:
                    counts["rows left out: too few answers"] += 1
                    continue
                texts = [tokenizer.decode(draw.tokens[:-1]) for draw in kept]
                yield {"prompt": prompt.text, "completions": texts}


@dataclass(frozen=True)
class Label(DataStep):
    """Answers with the feedback of a reward source."""

    reward: str = "toysteer"
    """What scores the answers, as in an online run."""
    feedback: Literal["scores", "preferences", "choices"] = "scores"
    """What is written. scores: of each answer. preferences: of two answers, with scores whose difference is the
    log-odds of the preference (soft labels). choices: of two answers, one chosen with that probability (hard ones)."""

    def rows(self, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """One row for each row of the data."""
        source, rng = self.source(self.reward), random.Random(f"choices {self.seed}")
        for row in score_rows(self.read(self.data, counts), source, self.reward, counts=counts):
            scores = row.scores or ()
            if self.feedback == "scores":
                yield {"prompt": row.prompt, "completions": row.responses, "scores": scores}
                continue
            if len(scores) != 2:
                raise InputError(f"{row.source} completions: expected two answers to compare, got {len(scores)}")
            if getattr(source, "pairwise", False):  # win rates, over both orders of the answers
                scores = tuple(math.log(min(1 - CLAMP, max(CLAMP, score))) for score in scores)
            second = scores[1] > scores[0]
            if self.feedback == "choices":
                second = rng.random() < 1 / (1 + math.exp(min(700.0, scores[0] - scores[1])))
            order = (1, 0) if second else (0, 1)
            item: dict[str, Any] = {"prompt": row.prompt}
            item |= {"chosen": row.responses[order[0]], "rejected": row.responses[order[1]]}
            if self.feedback == "preferences":
                item |= {"chosen_score": scores[order[0]], "rejected_score": scores[order[1]]}
            yield item


@dataclass(frozen=True)
class Revise(DataStep):
    """Answers after a critique and a revision, as demonstrations."""

    reviser: str = "toysteer"
    """toysteer (a program that finds the first mistake and corrects it), or module:function: answers in, one revised
    text for each out."""
    rounds: Count = 1
    """How often each answer is criticised and revised."""

    def rows(self, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """One row for each answer."""
        revise: Any = toysteer_revision
        if self.reviser != "toysteer":
            if ":" not in self.reviser or self.reviser.startswith("judge:"):
                raise InputError(f"reviser: expected toysteer or module:function, got {self.reviser!r}")
            revise = reward_source(self.reviser)  # the same functions of answers, but for what they return
        for row in self.read(self.data, counts):
            texts = list(row.responses)
            for _ in range(self.rounds):
                answers = [Answer(row.prompt, text, columns=row.columns, source=row.source) for text in texts]
                revised = list(revise(answers))
                if len(revised) != len(texts) or not all(isinstance(text, str) for text in revised):
                    raise InputError(f"reviser {self.reviser}: expected {len(texts)} texts, got {revised!r:.60}")
                counts["revisions that changed an answer"] += sum(map(str.__ne__, revised, texts))
                texts = revised
            yield from ({"prompt": row.prompt, "completion": text} for text in texts)


@dataclass(frozen=True)
class Part(DataStep):
    """A part of the data, in their order."""

    part: str = "1/2"
    """Which part of how many, such as 1/2."""

    def rows(self, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """The rows whose places are in that part."""
        number, slash, of = self.part.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise InputError(f"part: expected such as 1/2, got {self.part!r}")
        rows = self.read(self.data, counts)
        ends = [len(rows) * i // int(of) for i in (int(number) - 1, int(number))]
        for row in islice(rows, *ends):
            yield from _items(row)


@dataclass(frozen=True)
class Contrast(DataStep):
    """Ranked lists of one rejected answer and a model's samples for the same prompt, all of which stand above it."""

    samples_from: str = ""
    """Data whose answers are the samples, such as the result of do: sample."""

    def rows(self, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """One row for each rejected answer. The rows of samples of its prompt are taken in turn."""
        if not self.samples_from:
            raise InputError("samples_from: expected data with samples, got none")
        drawn: dict[str, list[tuple[str, ...]]] = {}
        for row in self.read(self.samples_from, counts):
            drawn.setdefault(prompt_key(row.prompt), []).append(row.responses)
        turns = {key: cycle(some) for key, some in drawn.items()}
        for row in self.read(self.data, counts):
            key = prompt_key(row.prompt)
            for text in rejected(row):
                if key not in turns:
                    counts["rejected answers left out: no samples of their prompt"] += 1
                    continue
                samples = next(turns[key])
                scores = [*[1] * len(samples), 0]
                yield {"prompt": row.prompt, "completions": [*samples, text], "scores": scores}


def rejected(row: Row) -> list[str]:
    """The answers of a row that its feedback rejects: of a pair, with a label below 0.5, or with the lowest score.

    Raises:
        InputError: its feedback cannot reject an answer.
    """
    if row.pairs is not None:
        return [row.responses[i] for i in dict.fromkeys(place for _, place in row.pairs)]
    if row.labels is not None:
        return [text for text, label in zip(row.responses, row.labels, strict=True) if label < 0.5]
    if row.scores is None:
        raise InputError(f"{row.source} feedback: expected pairs, labels or scores, got none that rejects an answer")
    if min(row.scores) == max(row.scores):
        return []
    return [row.responses[row.scores.index(min(row.scores))]]


def _items(row: Row) -> Iterator[dict[str, Any]]:
    """A row of the feedback as lines that `una_ref.data.sources` reads."""
    for place, (chosen, rejected) in enumerate(row.pairs or ()):
        item: dict[str, Any] = {"prompt": row.prompt}
        item |= {"weight": row.weights[place]} if row.weights else {}
        item |= {"margin": row.margins[place]} if row.margins else {}
        item |= {"chosen": row.responses[chosen], "rejected": row.responses[rejected]}
        if row.scores:
            item |= {"chosen_score": row.scores[chosen], "rejected_score": row.scores[rejected]}
        yield item
    if row.pairs is None and row.scores is not None:
        yield {"prompt": row.prompt, "completions": row.responses, "scores": row.scores}
    elif row.pairs is None:
        labels = row.labels or (None,) * len(row.responses)
        for text, label in zip(row.responses, labels, strict=True):
            yield {"prompt": row.prompt, "completion": text} | ({} if label is None else {"label": label})


def toysteer_revision(answers: Sequence[Answer]) -> list[str]:
    """Each answer to a ToySteer prompt with its first mistake corrected.

    The critique is the first place at which the answer differs from the right one. The revision puts the right letter
    there, or ends the answer there. Four rounds correct any answer.
    """
    texts = []
    for answer in answers:
        if answer.prompt not in _toysteer_prompts():
            raise InputError(f"reviser toysteer: expected a prompt of ToySteer, got {answer.prompt!r:.60}")
        right, letters = toysteer.answer(str(answer.prompt)), answer.response.split()
        shared = min(len(right), len(letters))
        place = next((i for i in range(shared) if letters[i] != right[i]), shared)
        corrected = [right[place], *letters[place + 1 :]] if place < len(right) else []
        texts.append(" ".join([*letters[:place], *corrected]))
    return texts


@cache
def _toysteer_prompts() -> frozenset[Any]:
    return frozenset(toysteer.all_prompts())


def write_rows(step: DataStep) -> dict[str, Any]:
    """Write the rows of a step into its folder, and return the record in run.json. A finished step is not repeated."""
    output = Path(step.output)
    settings = {"step": type(step).__name__.lower(), **asdict(step)}
    with claimed(output, settings) as finished:
        if finished:
            return json.loads((output / RECORD).read_text("utf-8"))
        counts, count = Counter[str](), 0
        with replacing(output / FILE) as beside, open(beside, "w", encoding="utf-8", newline="\n") as file:
            for item in step.rows(counts):
                file.write(json.dumps(item, ensure_ascii=False) + "\n")
                count += 1
            if not count:
                raise InputError(f"{output}: expected at least one row, got none ({dict(counts)})")
        notes = [f"{what}: {number}" for what, number in counts.items() if number]
        record = {"config": settings, "finished": True, "rows": count, "notes": notes}
        write_text(output / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
        return record


DATA_STEPS: dict[str, type[DataStep]] = {
    "sample": Sample,
    "label": Label,
    "revise": Revise,
    "part": Part,
    "contrast": Contrast,
}
"""What `do` names, beside merge."""
