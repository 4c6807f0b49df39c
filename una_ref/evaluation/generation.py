"""Answers of a model to prompts, in batches of similar length, each kept as soon as it is there.

The sampler is the one of online training, `una_ref.policies.rollout.HuggingFace`. An answer ends at the tokenizer's EOS
and at every end token of the model's generation config. One that reaches `max_new` tokens before is cut, and says so.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row, prompt_key
from una_ref.errors import InputError
from una_ref.evaluation.store import Results, Values, completed
from una_ref.evaluation.subject import Subject
from una_ref.policies.anatomy import end_ids
from una_ref.policies.rollout import HuggingFace

T = TypeVar("T")


@dataclass(frozen=True)
class Decoding:
    """How answers are generated. It stands beside every number that comes from them.

    Attributes:
        max_new: most tokens of an answer, its end included.
        temperature: 0 takes the most probable token each time.
        samples: answers to each prompt.
        seed: of the samples.
        batch: prompts in a call. Batches are fixed by prompts and this number, so a resumed run samples the same.
    """

    max_new: int = 256
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0
    batch: int = 32

    def __post_init__(self) -> None:
        """Raises InputError for a value outside its range."""
        for name, least in (("max_new", 1), ("samples", 1), ("batch", 1), ("seed", 0), ("temperature", 0)):
            value = getattr(self, name)
            if not least <= value < float("inf"):
                raise InputError(f"{name}: expected a number of at least {least}, got {value}")
        if self.samples > 1 and self.temperature == 0:
            raise InputError(
                f"samples: expected 1 at temperature 0, where all answers are the same, got {self.samples}. "
                f"Fix: set a temperature"
            )


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes:
        text: without end and special tokens.
        ended: whether it ended, or was cut at `max_new` tokens.
        tokens: how many were generated, the end included.
    """

    text: str
    ended: bool
    tokens: int


def respond(
    subject: Subject, rows: Sequence[Row], decoding: Decoding, *, finished: Container[int] = ()
) -> Iterator[tuple[int, list[Response]]]:
    """The place of a prompt and the answers to it, batch by batch, the longest prompts first.

    Args:
        subject: the model.
        rows: their prompts are answered.
        decoding: how.
        finished: places that are left out. They stay in their batches, so that the others' samples are the same.

    Raises:
        InputError: a prompt leaves no room for an answer within the model's positions.
    """
    encoder = Encoder(subject.tokenizer)
    prompts = [tuple(encoder.prompt_ids(row)) for row in rows]
    _check_room(subject.model, rows, prompts, decoding.max_new)
    end, *others = end_ids(subject.model, subject.tokenizer)
    engine = HuggingFace(end, temperature=decoding.temperature, other_ends=tuple(others))
    order = sorted(range(len(rows)), key=lambda i: (-len(prompts[i]), i))
    if decoding.temperature == 0:  # an answer does not depend on the others in its batch
        order = [i for i in order if i not in finished]
    for start in range(0, len(order), decoding.batch):
        places = order[start : start + decoding.batch]
        if all(i in finished for i in places):
            continue
        seed = decoding.seed * 1_000_003 + start
        asked = [prompts[i] for i in places]
        drawn = engine(subject.model, asked, k=decoding.samples, max_new=decoding.max_new, seed=seed)
        for i, samples in zip(places, drawn, strict=True):
            if i not in finished:
                texts = [subject.tokenizer.decode(s.tokens, skip_special_tokens=True) for s in samples]
                yield i, [Response(t, s.ended, len(s.tokens)) for t, s in zip(texts, samples, strict=True)]


def _check_room(model: Any, rows: Sequence[Row], prompts: Sequence[tuple[int, ...]], max_new: int) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    for row, prompt in zip(rows, prompts, strict=True):
        if positions is not None and len(prompt) + max_new > positions:
            raise InputError(
                f"{row.source or 'prompt'}: expected prompt and answer within the model's {positions} positions, got a "
                f"prompt of {len(prompt)} tokens and max_new {max_new}. Fix: a smaller --max-new, or a shorter prompt"
            )


def answers(
    subject: Subject, rows: Sequence[Row], decoding: Decoding, results: Results, task: str, **settings: Any
) -> list[list[Response]]:
    """The answers to all prompts in their order; those that `results` holds are not generated again.

    Args:
        subject: the model.
        rows: their prompts are answered.
        decoding: how.
        results: keeps each answer as soon as it is there.
        task: name of the answers in `results`.
        settings: what else two resumable runs must share.

    Raises:
        InputError: `results` holds answers of another model or of other settings.
    """

    def generated(missing: list[int]) -> Iterator[tuple[int, Values]]:
        for i, responses in respond(subject, rows, decoding, finished={*range(len(rows))} - {*missing}):
            yield i, {"responses": [asdict(response) for response in responses]}

    every = {**subject.identity, "decoding": asdict(decoding), **settings}
    items = completed(results, task, every, item_names(rows), generated, unit="prompt")
    return [[Response(**response) for response in values["responses"]] for values in items]


def item_names(rows: Sequence[Row]) -> list[str]:
    """A name for each row: 16 hexadecimal digits of SHA-256 of its prompt, with a number behind a repeated one."""
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        name = hashlib.sha256(prompt_key(row.prompt).encode()).hexdigest()[:16]
        names.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def limited(items: Sequence[T], limit: int | None) -> list[T]:
    """The first `limit` items of one fixed shuffle, in their order; all of them without a limit.

    Raises:
        InputError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected a whole number of at least 1, got {limit}")
    places: Sequence[int] = range(len(items))
    if limit is not None and limit < len(items):
        places = sorted(random.Random(0).sample(places, len(items))[:limit])
    return [items[i] for i in places]
