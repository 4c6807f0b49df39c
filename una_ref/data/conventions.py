"""The layouts of rows that are read, as one table: name, columns, how a row is made, and an example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from una_ref.data import dialogues, published
from una_ref.data.published import RATINGS, Refuse
from una_ref.data.records import ALIASES, EVERYWHERE, Record, Response
from una_ref.data.rows import Row, checked_text, shown


def _as_they_are(rows: Iterator[Row], refuse: Refuse) -> Iterator[Row]:
    return rows


@dataclass(frozen=True)
class Convention:
    """A layout.

    Attributes:
        name: in messages and in the documentation.
        required: columns that every row must have.
        optional: columns that either most rows of a file have, or few; the others are bad rows.
        make: the row of a record.
        example: one row, as in the documentation. Of HelpSteer2, one of the two rows of a prompt.
        finish: what is done to the rows of a file in their order.
        suggested: whether it is suggested for columns of no layout.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    make: Callable[[Record], Row]
    example: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Iterator[Row], Refuse], Iterator[Row]] = _as_they_are
    suggested: bool = True

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.required)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the layout reads, without `EVERYWHERE`."""
        return self.required + self.optional


def _completion(record: Record) -> Row:
    return record.judged(record.prompt(), record.response("completion"))


def _response(record: Record) -> Row:
    return record.judged(record.prompt(), record.response("response"))


def _messages(record: Record) -> Row:
    return record.judged(*record.conversation("messages"))


def _completions(record: Record) -> list[Response]:
    name = record.name("completions")
    return [record.as_response(text, f"{name}[{i}]") for i, text in enumerate(record.sequence("completions"))]


def _ranked(record: Record) -> Row:
    return record.row(record.prompt(), _completions(record), scores=record.sequence("scores"))


def _answers(record: Record) -> Row:
    return record.row(record.prompt(), _completions(record))


def _prompt(record: Record) -> Row:
    return record.row(record.prompt())


def _turns(record: Record) -> Row:
    """The first turn. Later turns depend on an answer, which is not in the data."""
    turns = record.sequence("turns", "a list of turns")
    if not turns:
        raise record.refusal("turns", "a list of turns", shown(turns))
    return record.row(checked_text(turns[0], record.source, f"{record.name('turns')}[0]"))


def _pair(record: Record) -> Row:
    return _compared(record, *_sides(record))


def _alpaca_pair(record: Record) -> Row:
    return _compared(record, published.alpaca_prompt(record), (record.response("chosen"), record.response("rejected")))


def _compared(record: Record, prompt: Any, sides: tuple[Response, Response]) -> Row:
    feedback: dict[str, Any] = {"pairs": ((0, 1),)}
    if record.has("chosen_score") or record.has("rejected_score"):
        for column in ("chosen_score", "rejected_score"):
            if not record.has(column):
                fix = "correct the row, or columns.chosen_score= columns.rejected_score= to leave both out"
                raise record.refusal(column, "a score on both sides, or on none", "none on this one", fix)
        feedback["scores"] = (record.score("chosen_score"), record.score("rejected_score"))
    if record.has("weight"):
        feedback["weights"] = (record.weight("weight"),)
    if record.has("margin"):
        feedback["margins"] = (record.score("margin"),)
    return record.row(prompt, sides, **feedback)


def _sides(record: Record) -> tuple[Any, tuple[Response, Response]]:
    """The prompt, and the two responses to it, of columns that hold responses or whole conversations."""
    if not record.has("prompt") or (_is_whole(record, "chosen") and _is_whole(record, "rejected")):
        prompt, responses = _implicit_prompt(record)
        if record.has("prompt"):
            _check_prompt(record, prompt)
        return prompt, responses
    return record.prompt(), (record.response("chosen"), record.response("rejected"))


def _is_whole(record: Record, column: str) -> bool:
    """Whether a side is a dialogue, or a list of messages that does not begin with the assistant's."""
    value = record.get(column)
    if isinstance(value, str):
        return dialogues.is_whole(value)
    return isinstance(value, list | tuple) and bool(value) and record.messages(column)[0]["role"] != "assistant"


def _check_prompt(record: Record, messages: Any) -> None:
    """Refuse a prompt beside whole conversations that is not in them: one of their user turns, or all turns."""
    said, known = record.prompt(), []
    if isinstance(messages, str):  # a dialogue as one text
        known = [messages.strip()]
        messages = dialogues.messages(messages) or ()
    known += [(message.get("content") or "").strip() for message in messages if message["role"] == "user"]
    good = said.strip() in known if isinstance(said, str) else said == messages
    if not good:
        what = "a user turn" if isinstance(said, str) else "the messages"
        raise record.refusal("prompt", f"{what} of both conversations", shown(said))


def _implicit_prompt(record: Record) -> tuple[Any, tuple[Response, Response]]:
    """Prompt and responses of two whole conversations: they agree up to a turn of the assistant, as in TRL."""
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return published.dialogues(record, chosen, rejected)
    for column, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, list | tuple):
            expected = "messages on both sides, or dialogues on both, since there is no prompt"
            raise record.refusal(column, expected, shown(value), "add a column prompt, or columns.prompt=NAME")
    one, other = record.whole("chosen"), record.whole("rejected")
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)) - 1)
    while start and not (one[start]["role"] == other[start]["role"] == "assistant"):
        start -= 1
    if not start:
        raise record.refusal("rejected", "the messages of chosen up to a turn of the assistant", "different ones")
    prompt, first = record.parted("chosen", one, start)
    return prompt, (first, record.parted("rejected", other, start)[1])


_USER = {"role": "user", "content": "Name a fruit."}
_RATED = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1}
_JUDGED = ("label", "score")
_COMPARED = ("chosen_score", "rejected_score", "weight", "margin")


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


_FRUIT: Mapping[str, Any] = {"prompt": "Name a fruit."}

CONVENTIONS = (
    Convention(
        "HelpSteer2",
        ("prompt", "response", *RATINGS),
        (),
        published.helpsteer2,
        {**_FRUIT, "response": "Apple.", **_RATED},
        published.two_by_two,
    ),
    Convention(
        "ranked list",
        ("prompt", "completions", "scores"),
        (),
        _ranked,
        {**_FRUIT, "completions": ["Apple.", "Stone."], "scores": [0.9, 0.1]},
    ),
    Convention(
        "UltraFeedback",
        ("instruction", "completions"),
        (),
        published.ultrafeedback,
        {"instruction": "Name a fruit.", "completions": [{"response": "Apple.", "overall_score": 8.5}]},
        suggested=False,
    ),
    Convention(
        "SHP",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        ("score_A", "score_B"),
        published.shp,
        {"history": "Name a fruit.", "human_ref_A": "Apple.", "human_ref_B": "Stone.", "labels": 1},
    ),
    Convention(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id"),
        (),
        published.pku_safe_rlhf,
        {**_FRUIT, "response_0": "Apple.", "response_1": "Stone.", "better_response_id": 0},
    ),
    Convention(
        "HelpSteer3",
        ("context", "response1", "response2", "overall_preference"),
        (),
        published.helpsteer3,
        {"context": [_USER], "response1": "Apple.", "response2": "Stone.", "overall_preference": -2},
    ),
    Convention(
        "WebGPT comparisons",
        ("prompt", "answer_0", "answer_1", "score_0", "score_1"),
        (),
        published.webgpt,
        {
            "question": {"full_text": "Name a fruit."},
            "answer_0": "Apple.",
            "answer_1": "Stone.",
            "score_0": 0.5,
            "score_1": -0.5,
        },
    ),
    Convention(
        "Nectar",
        ("prompt", "answers"),
        (),
        published.nectar,
        {**_FRUIT, "answers": [{"answer": "Apple.", "rank": 1.0}, {"answer": "Stone.", "rank": 2.0}]},
        suggested=False,
    ),
    Convention(
        "Alpaca pair",
        ("instruction", "chosen", "rejected"),
        ("input", "history", *_COMPARED),
        _alpaca_pair,
        {"instruction": "Name a fruit.", "input": "", "chosen": "Apple.", "rejected": "Stone."},
    ),
    Convention(
        "pair",
        ("chosen", "rejected"),
        ("prompt", *_COMPARED),
        _pair,
        {**_FRUIT, "chosen": "Apple.", "rejected": "Stone."},
    ),
    Convention(
        "Alpaca",
        ("instruction", "output"),
        ("input", "history", *_JUDGED),
        published.alpaca,
        {"instruction": "Name a fruit.", "input": "", "output": "Apple."},
    ),
    Convention(
        "completion",
        ("prompt", "completion"),
        _JUDGED,
        _completion,
        {**_FRUIT, "completion": "Apple.", "label": True},
    ),
    Convention("response", ("prompt", "response"), _JUDGED, _response, {**_FRUIT, "response": "Apple.", "score": 0.9}),
    Convention(
        "messages",
        ("messages",),
        _JUDGED,
        _messages,
        {"messages": [_USER, _said("Apple.")], "label": True},
    ),
    Convention("answers", ("prompt", "completions"), (), _answers, {**_FRUIT, "completions": ["Apple.", "Pear."]}),
)
"""Tried in this order."""

EMPTY = ("input", "history")
"""Optional columns in which a missing value is an empty one, as in Alpaca's files."""

PROMPTS = (
    Convention("prompt", ("prompt",), (), _prompt, _FRUIT),
    Convention("MT-Bench questions", ("turns",), (), _turns, {"turns": ["Name a fruit.", "Another?"]}),
)
"""Tried after `CONVENTIONS`, where prompts alone are accepted."""

_SHAREGPT = [{"from": "human", "value": "Name a fruit."}]
_HH = "\n\nHuman: Name a fruit.\n\nAssistant:"
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Anthropic HH": ("pair", {"chosen": f"{_HH} Apple.", "rejected": f"{_HH} Stone."}),
    "TRL, implicit prompt": ("pair", {"chosen": [_USER, _said("Apple.")], "rejected": [_USER, _said("Stone.")]}),
    "H4 UltraFeedback": (
        "pair",
        {
            **_FRUIT,
            "chosen": [_USER, _said("Apple.")],
            "rejected": [_USER, _said("Stone.")],
            "score_chosen": 8.5,
            "score_rejected": 2.0,
        },
    ),
    "argilla": (
        "pair",
        {
            **_FRUIT,
            "chosen": [_USER, _said("Apple.")],
            "chosen-rating": 5.0,
            "rejected": [_USER, _said("Stone.")],
            "rejected-rating": 1.0,
        },
    ),
    "OpenAI preference": (
        "pair",
        {
            "input": {"messages": [_USER]},
            "preferred_output": [_said("Apple.")],
            "non_preferred_output": [_said("Stone.")],
        },
    ),
    "Intel Orca": (
        "pair",
        {"system": "Be terse.", "question": "Name a fruit.", "chosen": "Apple.", "rejected": "Stone."},
    ),
    "ShareGPT pair": (
        "pair",
        {
            "conversations": _SHAREGPT,
            "chosen": {"from": "gpt", "value": "Apple."},
            "rejected": {"from": "gpt", "value": "Stone."},
        },
    ),
    "ShareGPT": ("messages", {"conversations": [*_SHAREGPT, {"from": "gpt", "value": "Apple."}]}),
    "pair with a margin": ("pair", {**_FRUIT, "chosen": "Apple.", "rejected": "Stone.", "weight": 2.0, "margin": 0.5}),
    "several turns": (
        "completion",
        {
            "prompt": [_USER],
            "completion": [_said("Of which colour?"), {"role": "user", "content": "Red."}, _said("Apple.")],
        },
    ),
    "tools": (
        "completion",
        {
            "prompt": [_USER],
            "completion": [_said("Apple.")],
            "tools": [{"type": "function", "function": {"name": "fruits", "parameters": {}}}],
        },
    ),
}
"""Published form -> the layout that reads it, and an example."""

COLUMNS = tuple(sorted({*EVERYWHERE, *(column for c in CONVENTIONS + PROMPTS for column in c.columns)}))
"""The names that `columns` takes."""

KNOWN = frozenset({*COLUMNS, *(name for names in ALIASES.values() for name in names)})
"""Every column name that some layout reads."""
