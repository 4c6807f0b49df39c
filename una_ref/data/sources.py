"""Rows from any data: what the columns mean, and `read`.

A convention (`CONVENTIONS`) says what the columns mean. It is found from the first row and then holds for all rows.
Rows are streamed. An error names the place, the column, what was expected and what was there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain, islice
from typing import Any

from una_ref.data.items import Item, items
from una_ref.data.rows import (
    Row,
    checked_label,
    checked_messages,
    checked_score,
    checked_text,
    merged,
    refusal,
    shown,
)
from una_ref.errors import InputError

HELPSTEER2_WEIGHTS = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45}
"""UNA Sec. 4.1. They sum to 1.9; complexity and verbosity have weight 0."""

_RATINGS = (*HELPSTEER2_WEIGHTS, "complexity", "verbosity")
_ASSISTANT, _HUMAN = "\n\nAssistant:", "\n\nHuman:"
_log = logging.getLogger(__name__)


def read(
    data: object,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str = "train",
    helpsteer_weights: str = "code",
    empty: str = "error",
    prompts: bool = False,
) -> Iterator[Row]:
    """Stream rows of feedback.

    Args:
        data: a file (.jsonl or .json, also .gz; .parquet), "-" (JSON Lines on standard input), a folder or hub name
            that `datasets` loads, a `Dataset` or `DatasetDict`, any iterable of dictionaries, or a list of files,
            folders and names.
        columns: a convention's column -> the name of that column in the data: {"completion": "output"}.
        limit: most rows.
        split: of a data set; files have none.
        helpsteer_weights: "code" divides HelpSteer2's weighted ratings by 7.6, as the authors' code does, for scores
            in [0, 1]; "paper" weights rating / 4, which gives scores in [0, 1.9] (UNA Sec. 4.1 says [0, 1]).
        empty: what happens to a response without text: an "error", its row is left out ("drop", counted in the log),
            or it stays ("keep"), since a model may end at once and a judge may score that.
        prompts: whether rows of a prompt alone are accepted (`PROMPTS`), for runs that sample the responses.

    Raises:
        InputError: at the call for options and missing files, later when the row is reached.
    """
    for field, value, allowed in (
        ("helpsteer_weights", helpsteer_weights, ("code", "paper")),
        ("empty", empty, ("error", "drop", "keep")),
    ):
        if value not in allowed:
            raise refusal("options", field, " or ".join(allowed), shown(value))
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise refusal("options", "limit", "a whole number of at least 1", shown(limit))
    conventions = CONVENTIONS + PROMPTS if prompts else CONVENTIONS
    known = {column for convention in conventions for column in convention.required + convention.optional}
    for column in columns or {}:
        if column not in known:
            raise refusal("options", "columns", "one of " + ", ".join(sorted(known)), shown(column))
    options = _Options(dict(columns or {}), helpsteer_weights, empty, conventions)
    return islice(_rows(items(data, split), options), limit)


@dataclass(frozen=True, slots=True)
class _Options:
    names: Mapping[str, str]
    helpsteer_weights: str
    empty: str
    conventions: tuple[Convention, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """One row of the data, read by the column names of a convention."""

    source: str
    values: Mapping[str, Any]
    options: _Options

    def name(self, column: str) -> str:
        return self.options.names.get(column, column)

    def get(self, column: str) -> Any:
        return self.values.get(self.name(column))

    def has(self, column: str) -> bool:
        return self.get(column) is not None  # tables write a missing value as null

    def columns(self) -> list[str]:
        return [str(column) for column, value in self.values.items() if value is not None]

    def refusal(self, column: str, expected: str, got: str, fix: str = "") -> InputError:
        return refusal(self.source, self.name(column), expected, got, fix)

    def response(self, column: str) -> str:
        return self.response_text(self.get(column), self.name(column))

    def response_text(self, value: Any, field: str) -> str:
        """A response: text, or a list of one assistant message."""
        if isinstance(value, list | tuple):
            messages = checked_messages(value, self.source, field)
            if [message["role"] for message in messages] != ["assistant"]:
                roles = ", ".join(message["role"] for message in messages) or "none"
                raise refusal(self.source, field, "text or one assistant message", f"messages of {roles}")
            value = messages[0]["content"]
        text = checked_text(value, self.source, field)
        if self.options.empty == "error" and not text.strip():
            fix = "set empty=drop or empty=keep"
            raise refusal(self.source, field, "text", f"an empty response {text!r:.20}", fix)
        return text

    def conversation(self, column: str) -> tuple[tuple[dict, ...], str]:
        """(prompt, response) of a list of messages, of which the assistant's last one is the response."""
        messages = checked_messages(self.get(column), self.source, self.name(column))
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in messages) or "none"
            raise self.refusal(column, "messages that end with one of the assistant", f"messages of {roles}")
        response = self.response_text(messages[-1]["content"], f"{self.name(column)}[{len(messages) - 1}]")
        return tuple(dict(message) for message in messages[:-1]), response

    def score(self, column: str) -> float:
        return checked_score(self.get(column), self.source, self.name(column))

    def label(self, column: str) -> float:
        return checked_label(self.get(column), self.source, self.name(column))

    def judged(self, prompt: Any, response: str) -> Row:
        """A row of one response with its optional label and score."""
        scores = (self.score("score"),) if self.has("score") else None
        labels = (self.label("label"),) if self.has("label") else None
        return Row(prompt, (response,), scores, labels, source=self.source)


@dataclass(frozen=True)
class Convention:
    """Columns that a row must have, columns that it may have, and how a row is made from them."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    make: Callable[[_Record], Row]
    finish: Callable[[Iterator[Row]], Iterator[Row]] = iter

    def __str__(self) -> str:
        optional = f" [{', '.join(self.optional)}]" if self.optional else ""
        return f"{self.name}: {', '.join(self.required)}{optional}"


def _completion(record: _Record) -> Row:
    return record.judged(record.get("prompt"), record.response("completion"))


def _response(record: _Record) -> Row:
    return record.judged(record.get("prompt"), record.response("response"))


def _messages(record: _Record) -> Row:
    if not isinstance(record.get("messages"), list | tuple):
        raise record.refusal("messages", "a list of messages", shown(record.get("messages")))
    return record.judged(*record.conversation("messages"))


def _ranked(record: _Record) -> Row:
    for column in ("completions", "scores"):
        if not isinstance(record.get(column), list | tuple):
            raise record.refusal(column, "a list", shown(record.get(column)))
    name, texts = record.name("completions"), record.get("completions")
    responses = tuple(record.response_text(text, f"{name}[{i}]") for i, text in enumerate(texts))
    return Row(record.get("prompt"), responses, record.get("scores"), source=record.source)


def _answers(record: _Record) -> Row:
    if not isinstance(record.get("completions"), list | tuple):
        raise record.refusal("completions", "a list", shown(record.get("completions")))
    name, texts = record.name("completions"), record.get("completions")
    responses = tuple(record.response_text(text, f"{name}[{i}]") for i, text in enumerate(texts))
    return Row(record.get("prompt"), responses, source=record.source)


def _prompt(record: _Record) -> Row:
    return Row(record.get("prompt"), (), source=record.source)


def _turns(record: _Record) -> Row:
    """The first turn. Later turns depend on an answer, which is not in the data."""
    turns = record.get("turns")
    if not isinstance(turns, list | tuple) or not turns:
        raise record.refusal("turns", "a list of turns", shown(turns))
    return Row(checked_text(turns[0], record.source, f"{record.name('turns')}[0]"), (), source=record.source)


def _pair(record: _Record) -> Row:
    if record.has("prompt"):
        prompt, responses = record.get("prompt"), (record.response("chosen"), record.response("rejected"))
    else:
        prompt, responses = _implicit_prompt(record)
    scores = None
    if record.has("chosen_score") or record.has("rejected_score"):
        scores = (record.score("chosen_score"), record.score("rejected_score"))
    return Row(prompt, responses, scores, pairs=((0, 1),), source=record.source)


def _ultrafeedback_pair(record: _Record) -> Row:
    """Both sides are whole conversations, and a prompt is in them again, as the last user turn; or responses to it."""
    sides = [record.get(column) for column in ("chosen", "rejected")]
    if record.has("prompt") and all(
        isinstance(side, str) or (isinstance(side, list) and len(side) == 1) for side in sides
    ):
        prompt, responses = record.get("prompt"), (record.response("chosen"), record.response("rejected"))
    else:
        prompt, responses = _implicit_prompt(record)
        asked = prompt[-1]["content"] if isinstance(prompt, tuple) else prompt
        said = record.get("prompt") if record.has("prompt") else asked
        if asked.strip() != checked_text(said, record.source, record.name("prompt")).strip():
            raise record.refusal("prompt", "the last user turn of both conversations", shown(said))
    scores = (record.score("score_chosen"), record.score("score_rejected"))
    return Row(prompt, responses, scores, pairs=((0, 1),), source=record.source)


def _ultrafeedback(record: _Record) -> Row:
    """Responses of several models with GPT-4's overall score, 1 to 10, from which the binarized form is made."""
    completions, name = record.get("completions"), record.name("completions")
    if not isinstance(completions, list | tuple):
        raise record.refusal("completions", "a list", shown(completions))
    if not completions and record.options.empty == "drop":
        return Row(record.get("instruction"), ("",), source=record.source)
    responses, scores = [], []
    for i, completion in enumerate(completions):
        if not isinstance(completion, Mapping):
            raise refusal(record.source, f"{name}[{i}]", "an object with response and overall_score", shown(completion))
        responses.append(record.response_text(completion.get("response"), f"{name}[{i}].response"))
        scores.append(checked_score(completion.get("overall_score"), record.source, f"{name}[{i}].overall_score"))
    return Row(record.get("instruction"), tuple(responses), tuple(scores), source=record.source)


def _shp(record: _Record) -> Row:
    """Two comments under a post; label 1 prefers A.

    Votes are not used as scores, since an older comment has had more time to collect them. But the preferred comment
    never has fewer votes.
    """
    label = record.get("labels")
    if label not in (0, 1):
        raise record.refusal("labels", "1 (A is preferred) or 0 (B is)", shown(label))
    best, other = ("score_A", "score_B") if label else ("score_B", "score_A")
    if record.has(best) and record.has(other) and record.score(best) < record.score(other):
        got = f"{label}, while score_A is {record.get('score_A')} and score_B {record.get('score_B')}"
        raise record.refusal("labels", "the comment with at least as many votes", got)
    responses = record.response("human_ref_A"), record.response("human_ref_B")
    return Row(record.get("history"), responses, pairs=((0, 1) if label else (1, 0),), source=record.source)


def _implicit_prompt(record: _Record) -> tuple[Any, tuple[str, str]]:
    """Prompt and responses of two whole conversations, which must agree in all but their last turn."""
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _dialogues(record, chosen, rejected)
    for column, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, list | tuple):
            expected = "messages on both sides, or dialogues on both, since there is no prompt"
            raise record.refusal(column, expected, shown(value), "add a column prompt")
    prompt, first = record.conversation("chosen")
    other, second = record.conversation("rejected")
    if prompt != other:
        raise record.refusal("rejected", "the messages of chosen up to the last", "different ones")
    return prompt, (first, second)


def _dialogues(record: _Record, chosen: str, rejected: str) -> tuple[str, tuple[str, str]]:
    """Anthropic HH: the prompt ends with the last "Assistant:" up to which both dialogues agree.

    The longest common prefix would be wrong, since responses often begin with the same words. The prompt followed by
    the response is the dialogue, to the character.
    """
    at = chosen.rfind(_ASSISTANT)
    while at >= 0 and not rejected.startswith(chosen[: at + len(_ASSISTANT)]):
        at = chosen.rfind(_ASSISTANT, 0, at)
    if at < 0:
        expected = f"two dialogues that agree up to an {_ASSISTANT!r}, since there is no prompt"
        raise record.refusal("rejected", expected, "dialogues that do not", "add a column prompt")
    end = at + len(_ASSISTANT)
    for column, dialogue in (("chosen", chosen), ("rejected", rejected)):
        if _HUMAN in dialogue[end:]:
            expected = "dialogues that differ in the last assistant turn only"
            raise record.refusal(column, expected, "a human turn after the place where they differ")
    first = record.response_text(chosen[end:], record.name("chosen"))
    return chosen[:end], (first, record.response_text(rejected[end:], record.name("rejected")))


def _helpsteer2(record: _Record) -> Row:
    for column in _RATINGS:
        rating = record.get(column)
        if not isinstance(rating, int) or isinstance(rating, bool) or not 0 <= rating <= 4:
            raise record.refusal(column, "a whole number from 0 to 4", shown(rating))
    weighted = sum(weight * record.get(column) for column, weight in HELPSTEER2_WEIGHTS.items())
    top = sum(HELPSTEER2_WEIGHTS.values()) if record.options.helpsteer_weights == "code" else 1
    score = weighted / (4 * top)
    return Row(record.get("prompt"), (record.response("response"),), (score,), source=record.source)


def _two_by_two(rows: Iterator[Row]) -> Iterator[Row]:
    """HelpSteer2 lists the two responses of a prompt in consecutive rows."""
    fix = "replace the ratings by one column score"
    for first in rows:
        second = next(rows, None)
        if second is None:
            expected = "a second row with the same prompt, as in HelpSteer2"
            raise refusal(first.source, "prompt", expected, "the end of the data", fix)
        if first.prompt != second.prompt:
            expected = f"the prompt of {first.source}, since HelpSteer2 has two rows a prompt"
            raise refusal(second.source, "prompt", expected, "another prompt", fix)
        yield merged((first, second))


CONVENTIONS = (
    Convention("HelpSteer2", ("prompt", "response", *_RATINGS), (), _helpsteer2, _two_by_two),
    Convention("ranked list", ("prompt", "completions", "scores"), (), _ranked),
    Convention("UltraFeedback", ("instruction", "completions"), (), _ultrafeedback),
    Convention(
        "UltraFeedback binarized",
        ("chosen", "rejected", "score_chosen", "score_rejected"),
        ("prompt",),
        _ultrafeedback_pair,
    ),
    Convention("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), ("score_A", "score_B"), _shp),
    Convention("pair", ("chosen", "rejected"), ("prompt", "chosen_score", "rejected_score"), _pair),
    Convention("completion", ("prompt", "completion"), ("label", "score"), _completion),
    Convention("response", ("prompt", "response"), ("label", "score"), _response),
    Convention("messages", ("messages",), ("label", "score"), _messages),
    Convention("answers", ("prompt", "completions"), (), _answers),
)
"""Tried in this order."""

PROMPTS = (
    Convention("prompt", ("prompt",), (), _prompt),
    Convention("MT-Bench questions", ("turns",), (), _turns),
)
"""Tried after `CONVENTIONS`, where prompts alone are accepted."""


def _rows(found: Iterator[Item], options: _Options) -> Iterator[Row]:
    first = next(found, None)
    if first is None:
        raise refusal("data", "rows", "at least one row", "none")
    convention = _convention(_record(*first, options))
    made = (convention.make(record) for record in _alike(chain((first,), found), convention, options))
    dropped = 0
    for row in convention.finish(made):
        if options.empty == "drop" and not all(response.strip() for response in row.responses):
            dropped += 1
        else:
            yield row
    if dropped:
        _log.warning("left out %d rows with an empty response", dropped)


def _record(source: str, item: object, options: _Options) -> _Record:
    if not isinstance(item, Mapping):
        raise refusal(source, "row", "an object with columns", shown(item))
    return _Record(source, item, options)


def _convention(record: _Record) -> Convention:
    conventions = record.options.conventions
    for convention in conventions:
        if all(map(record.has, convention.required)):
            return convention
    found = record.columns()

    def likeness(convention: Convention) -> float:
        names = [record.name(column) for column in convention.required]
        best = [max((SequenceMatcher(None, name, column).ratio() for column in found), default=0) for name in names]
        return sum(best) / len(best)

    nearest = max(conventions, key=likeness)
    missing = [record.name(column) for column in nearest.required if not record.has(column)]
    expected = "the columns of a convention (" + "; ".join(map(str, conventions)) + ")"
    fix = f"for {nearest.name}, the nearest, add {', '.join(missing)}"
    if any(all(map(record.has, convention.required)) for convention in PROMPTS):
        fix += "; prompts alone are for online runs"
    raise refusal(record.source, "columns", expected, ", ".join(found) or "none", fix)


def _alike(found: Iterable[Item], convention: Convention, options: _Options) -> Iterator[_Record]:
    """The records, each checked to have the convention's columns and the optional columns of the first record."""
    held: dict[str, bool] = {}
    origin = ""
    for source, item in found:
        record = _record(source, item, options)
        has = {column: record.has(column) for column in convention.required + convention.optional}
        held, origin = held or has, origin or source
        for column, present in has.items():
            if present != held[column]:
                expected = f"{'a value' if held[column] else 'no value'}, as in {origin} ({convention.name})"
                got = "a row of " + (", ".join(record.columns()) or "no columns")
                raise record.refusal(column, expected, got)
        yield record
