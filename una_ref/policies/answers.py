"""Answers to prompts, and the scores that a reward source gives them.

A reward source is a callable: `Answer`s in, one score for each out, in its own unit. None means that it has no score
for an answer. Such an answer is dropped and counted, never scored 0. A source reads text, never the policy's token
ids, since a reward model has its own tokenizer and template.
"""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from una_ref.data.rows import Row
from una_ref.errors import InputError


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt and one response to it, as text.

    Attributes:
        prompt: text, or messages {"role": ..., "content": ...}.
        response: the text, without the end token.
        ended: whether the response ended, or was cut at its longest.
        group: answers of one group and prompt are alternatives; a source that compares, compares these.
        columns: of the prompt's row in the data that no layout reads, by name, such as a solution.
        source: the row, as "file:line" or "dataset[i]".
    """

    prompt: str | tuple[dict, ...]
    response: str
    ended: bool = True
    group: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    source: str = ""


RewardSource = Callable[[Sequence[Answer]], Sequence[float | None]]


def score_answers(source: RewardSource, answers: Sequence[Answer], name: str) -> list[float | None]:
    """The source's scores in its own unit, checked; None where it has no score.

    Args:
        source: called once, with all answers.
        answers: to score.
        name: of the source, for messages.

    Raises:
        InputError: the source raised an exception (see `raised`), or its scores are malformed (see `check_scores`).
    """
    try:
        scores = source(answers)
    except InputError:
        raise
    except Exception as error:  # from the user's own function, or from a service
        raise raised(error, answers, name) from error
    return check_scores(answers, scores, name)


def raised(error: Exception, answers: Sequence[Answer], name: str) -> InputError:
    """The error for an exception of a reward: its message, the row that it was about, and the whole traceback.

    The row is that of the answer that the innermost function was looking at: its last variable that is one.

    Args:
        error: raised in a call of the source.
        answers: that it was called with.
        name: of the source.
    """
    trace = error.__traceback__.tb_next if error.__traceback__ else None  # without the frame that called the source
    about: Answer | None = None
    for frame, _ in traceback.walk_tb(trace):
        about = next((value for value in [*frame.f_locals.values()][::-1] if isinstance(value, Answer)), about)
    if about is None and len(answers) == 1:
        about = answers[0]
    rows = [answer.source for answer in answers if answer.source]
    where = f", one of {len(answers)} answers from {rows[0]} on" if rows and len(answers) > 1 else ""
    if about is not None:
        where = f", at {about.source or 'an answer'}: the response {about.response!r:.60} to {about.prompt!r:.60}"
    said = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    return InputError(f"reward {name}: raised {type(error).__name__}: {error}{where}\n{said}")


def check_scores(answers: Sequence[Answer], scores: Sequence[Any], name: str) -> list[float | None]:
    """The scores as floats, None where there is none.

    Raises:
        InputError: there is not one score for each answer, or a score is neither None nor a finite number.
    """
    try:
        floats = [None if score is None else float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise InputError(f"reward {name}: expected a list of {len(answers)} numbers, got: {error}") from None
    if len(floats) != len(answers):
        raise InputError(f"reward {name}: expected {len(answers)} numbers, got {len(floats)}")
    for answer, score in zip(answers, floats, strict=True):
        if score is not None and not math.isfinite(score):
            raise InputError(
                f"reward {name}: expected a finite number, got {score} for the response {answer.response!r:.60} "
                f"to {answer.prompt!r:.60}"
            )
    return floats


def answers_of(row: Row, group: int = 0) -> list[Answer]:
    """The responses of a row as answers. Of several messages, the last is the answer and the others are asked."""
    both = zip(row.earlier, row.responses, strict=True)
    more: dict[str, Any] = {"group": group, "columns": row.columns, "source": row.source}
    return [Answer((*row.prompt, *turns) if turns else row.prompt, text, **more) for turns, text in both]


def score_rows(
    rows: Iterable[Row], source: RewardSource, name: str, *, batch: int = 64, counts: Counter[str] | None = None
) -> Iterator[Row]:
    """Rows with the source's scores as their only feedback, streamed.

    A response without a score is dropped, and so is a row of which no response has one.

    Args:
        rows: with responses.
        source: scores the responses.
        name: of the source, for messages.
        batch: rows that the source is given at once.
        counts: the numbers of dropped responses and rows are added here.

    Raises:
        InputError: a row has no responses, or the scores are malformed (see `score_answers`).
    """
    rows, counts = iter(rows), Counter() if counts is None else counts
    while chunk := list(islice(rows, batch)):
        for row in chunk:
            if not row.responses:
                raise InputError(f"{row.source} responses: expected at least one to score, got a prompt alone")
        answers = [answer for i, row in enumerate(chunk) for answer in answers_of(row, i)]
        scores = iter(score_answers(source, answers, name))
        for row in chunk:
            known = list(islice(scores, len(row.responses)))
            kept = [i for i, score in enumerate(known) if score is not None]
            counts["responses dropped: no score"] += len(known) - len(kept)
            if kept:
                scored = tuple(score for score in known if score is not None)
                yield row.picked(kept, scores=scored, as_list=row.as_list)
            else:
                counts["rows dropped: no score for any response"] += 1
