"""One record of a data file, read by the column names of a layout, with typed access and errors that name its place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

from una_ref.data.messages import plain_message, untrained, without_nulls
from una_ref.data.rows import (
    Row,
    checked_label,
    checked_messages,
    checked_score,
    checked_text,
    checked_weight,
    refusal,
    says_nothing,
    shown,
)
from una_ref.errors import InputError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("question.full_text", "question", "conversations", "conversation", "input.messages"),
    "messages": ("conversations", "conversation"),
    "chosen": ("preferred_output",),
    "rejected": ("non_preferred_output",),
    "chosen_score": ("score_chosen", "chosen-rating", "chosen_rating", "rating_chosen"),
    "rejected_score": ("score_rejected", "rejected-rating", "rejected_rating", "rating_rejected"),
    "system": ("system_prompt",),
    "tools": ("input.tools",),
}
"""Column of a layout -> other names of it in public data sets (Intel, ShareGPT, UltraFeedback of H4, argilla, WebGPT,
OpenAI). A name with a dot is a field of an object in a column."""

EVERYWHERE = ("system", "tools", "chat_template_kwargs")
"""Columns that any layout may have, in some rows or in all."""

REFUSED = ("images", "image", "videos", "video", "audio", "audios")
"""Columns whose content no layout reads. Text alone would be another question."""

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant"}
_ROLES |= {"bot": "assistant", "model": "assistant", "system": "system", "observation": "tool", "tool": "tool"}
"""ShareGPT's ``from`` -> role."""

_RESPONSE = "text, or messages that begin and end with the assistant's"

_RESERVED = ("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "tokenize")
"""Names that the rendering itself sets, so that chat_template_kwargs cannot."""


class Cell(str):
    """A text of a table without types (CSV), which may stand for a number, a truth value or JSON."""

    __slots__ = ()


_MESSAGES = re.compile(r"""\s*(?:\[\s*)?\{\s*['"](?:role|content|from|value)['"]\s*:""")
_ROLE = re.compile(r"""[{,]\s*['"](?:role|from)['"]\s*:""")
"""What a cell with messages begins with, and what is in it. Any other JSON is text where text is expected."""


class Options(NamedTuple):
    """How records are read; see `una_ref.data.sources.read`."""

    names: Mapping[str, str]
    helpsteer_weights: str
    empty: str
    bad_rows: str
    turns: str = "all"
    prompts: bool = False
    others: bool = False


class Response(NamedTuple):
    """A response: the text and the other fields of its last message, and the messages of it before that."""

    text: str
    fields: Mapping[str, Any]
    earlier: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the data. `read` collects the columns that were asked for."""

    source: str
    values: Mapping[str, Any]
    options: Options
    read: set[str] = field(default_factory=set)

    def name(self, column: str) -> str:
        """The name of a layout's column in this record: the user's for it, its own, or that of a public data set."""
        if column in self.options.names:
            return self.options.names[column]
        names = (column, *ALIASES.get(column, ()))
        there = (name for name in names if name in self.values)
        return next((name for name in names if self.value(name) is not None), next(there, column))

    def value(self, name: str) -> Any:
        """The value of a name in this record, or of a field "column.field" of an object; None if there is none."""
        column, _, field = name.partition(".")
        if name not in self.values and field and isinstance(self.values.get(column), Mapping):
            return self.values[column].get(field)
        return self.values.get(name)

    def get(self, column: str) -> Any:
        """The value of a layout's column; None if there is none."""
        name = self.name(column)
        self.read.add(name)
        value = self.value(name)
        if isinstance(value, Cell) and _MESSAGES.match(value) and _ROLE.search(value):
            return self._parsed(name, value)
        return value

    def has(self, column: str) -> bool:
        """Whether a column has a value. Tables write a missing value as null."""
        return self.value(self.name(column)) is not None

    def others(self) -> dict[str, Any]:
        """The columns with a value that no layout has read."""
        return {name: self.value(name) for name in self.columns() if name not in self.read and "[]." not in name}

    def columns(self) -> list[str]:
        """The names of the columns with a value; of an object that was read in part, the names of its fields.

        Of objects in a list, the fields that were not read, such as "answers[].model".
        """
        listed = {name.partition("[].")[0] for name in self.read if "[]." in name}
        parts = {name.partition(".")[0] for name in self.read - self.values.keys()}
        names: list[str] = []
        for column, value in self.values.items():
            if column in parts and isinstance(value, Mapping):
                names += [f"{column}.{field}" for field, part in value.items() if part is not None]
            elif value is not None:
                names.append(str(column))
            if column in listed and isinstance(value, list | tuple):
                keys = chain.from_iterable(item for item in value if isinstance(item, Mapping))
                names += [name for key in dict.fromkeys(keys) if (name := f"{column}[].{key}") not in self.read]
        return names

    def refusal(self, column: str, expected: str, got: str, fix: str = "") -> InputError:
        """The error for a bad value of a column."""
        return refusal(self.source, self.name(column), expected, got, fix)

    def objects(self, column: str, *fields: str) -> Sequence[Any]:
        """A column's value, which has to be a list, of objects of which these fields are read."""
        self.read.update(f"{self.name(column)}[].{field}" for field in fields)
        return self.sequence(column)

    def sequence(self, column: str, what: str = "a list") -> Sequence[Any]:
        """A column's value, which has to be a list."""
        value = self.get(column)
        if isinstance(value, Cell) and value.lstrip().startswith("["):
            value = self._parsed(self.name(column), value)
        if not isinstance(value, list | tuple):
            raise self.refusal(column, what, shown(value))
        return value

    # ---- texts and messages

    def text(self, column: str) -> str:
        """A column's value, which has to be text."""
        return checked_text(self.get(column), self.source, self.name(column))

    def response(self, column: str) -> Response:
        """A response: text, one assistant message, or a list of messages."""
        return self.as_response(self.get(column), self.name(column))

    def as_response(self, value: Any, place: str) -> Response:
        """The response that a value stands for; `place` names the value in messages."""
        fields: Mapping[str, Any] = {}
        earlier: tuple[dict[str, Any], ...] = ()
        if isinstance(value, Mapping) and {*value} & {"role", "from"}:
            value = [value]
        if isinstance(value, list | tuple):
            if any(isinstance(part, str) for part in value):
                fix = "one row each, or completions with a list of scores"
                raise refusal(self.source, place, _RESPONSE, "a list of texts", fix)
            *before, last = self.as_messages(value, place) or [{"role": ""}]
            if {last["role"], *(message["role"] for message in before[:1])} != {"assistant"}:
                raise refusal(self.source, place, _RESPONSE, _roles([*before, last]))
            fields = {k: v for k, v in last.items() if k not in ("role", "content") and v is not None}
            value, earlier = last.get("content") or "", tuple(before)
        elif value is None:
            raise refusal(self.source, place, _RESPONSE, "null")
        text = checked_text(value, self.source, place)
        if self.options.empty == "error" and says_nothing({**fields, "content": text}):
            fix = "set empty=drop or empty=keep"
            raise refusal(self.source, place, "text", f"an empty response {text!r:.20}", fix)
        return Response(str(text), fields, earlier)

    def messages(self, column: str) -> list[dict[str, Any]]:
        """Messages with role and content; ShareGPT's from and value are renamed."""
        return self.as_messages(self.sequence(column, "a list of messages"), self.name(column))

    def as_messages(self, value: Sequence[Any], place: str) -> list[dict[str, Any]]:
        """The messages that a list stands for; `place` names the list in messages of errors."""
        messages = [self._message(message, f"{place}[{i}]") for i, message in enumerate(value)]
        return [dict(message) for message in checked_messages(messages, self.source, place)]

    def _message(self, message: Any, place: str) -> Any:
        if not isinstance(message, Mapping):
            return message
        if message.get("role") is not None or not {"from", "value"} <= {*message}:
            return plain_message(message)
        if message["from"] not in _ROLES:
            raise refusal(self.source, f"{place}.from", "one of " + ", ".join(_ROLES), shown(message["from"]))
        rest = {k: v for k, v in message.items() if k not in ("from", "value", "role", "content")}
        return plain_message({"role": _ROLES[message["from"]], "content": message["value"], **rest})

    def prompt(self, column: str = "prompt") -> Any:
        """The prompt: text or messages."""
        value = self.get(column)
        return tuple(self.as_messages(value, self.name(column))) if isinstance(value, list | tuple) else value

    def conversation(self, column: str) -> tuple[tuple[dict[str, Any], ...], Response]:
        """(prompt, response) of a list of messages.

        The response begins with the first turn of the assistant after one of the user; in an online run, or with
        turns=last, it is the last message.
        """
        messages = self.whole(column)
        start = len(messages) - 1
        if self.options.turns == "all" and not self.options.prompts:
            roles = [message["role"] for message in messages]
            asked = roles.index("user") if "user" in roles else start
            start = roles.index("assistant", min(asked, start))
        return self.parted(column, messages, start)

    def whole(self, column: str) -> list[dict[str, Any]]:
        """The messages of a whole conversation, which ends with one of the assistant."""
        messages = self.messages(column)
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise self.refusal(column, "messages that end with one of the assistant", _roles(messages))
        return messages

    def parted(
        self, column: str, messages: Sequence[dict[str, Any]], start: int
    ) -> tuple[tuple[dict[str, Any], ...], Response]:
        """(prompt, response) of the messages of a column, of which the response begins with number `start`."""
        alone = start == len(messages) - 1
        place = f"{self.name(column)}[{start}]" if alone else f"{self.name(column)}[{start}:]"
        return tuple(messages[:start]), self.as_response(messages[start:], place)

    # ---- feedback

    def score(self, column: str) -> float:
        """A column's value as a score."""
        return checked_score(self._number(column), self.source, self.name(column))

    def weight(self, column: str) -> float:
        """A column's value as a weight of 0 or more."""
        return checked_weight(self._number(column), self.source, self.name(column))

    def label(self, column: str) -> float:
        """A column's value as a label in [0, 1]."""
        return checked_label(self._number(column), self.source, self.name(column))

    def whole_number(self, column: str, low: int, high: int, what: str = "") -> int:
        """A column's value, which has to be a whole number in a range; a truth value stands for 0 or 1.

        Args:
            column: of the layout.
            low: the lowest number.
            high: the highest number.
            what: is expected, for the message.
        """
        value = self._number(column)
        number = isinstance(value, int | float) and (not isinstance(value, bool) or (low, high) == (0, 1))
        if not number or value not in range(low, high + 1):
            raise self.refusal(column, what or f"a whole number from {low} to {high}", shown(value))
        return int(value)

    def _number(self, column: str) -> Any:
        value = self.get(column)
        if isinstance(value, Cell):
            try:
                return {"true": True, "false": False}[value.lower()]
            except KeyError:
                try:
                    return float(value)
                except ValueError:
                    return str(value)
        return value

    def _parsed(self, name: str, value: Cell) -> Any:
        try:
            return json.loads(value)
        except ValueError:
            expected = "JSON, since the text begins as a list or a message"
            raise refusal(self.source, name, expected, f"{value!r:.40}", "write the column as JSON") from None

    # ---- rows

    def row(self, prompt: Any, responses: Sequence[Response] = (), **feedback: Any) -> Row:
        """The row of a prompt and its responses, with what every layout may have beside them.

        Raises:
            InputError: a value of the wrong form; a column that no layout can use, such as images.
        """
        for column in REFUSED:
            if self.has(column):
                fix = "leave these rows out; only text is trained on"
                raise self.refusal(column, "no such column", shown(self.get(column)), fix)
        texts = tuple(response.text for response in responses)
        fields = tuple(response.fields for response in responses)
        earlier = tuple(response.earlier for response in responses)
        if any(earlier) and isinstance(prompt, str):
            prompt = ({"role": "user", "content": prompt},)
        if any(earlier) and self.options.turns == "last":
            if any(turns != earlier[0] for turns in earlier):
                expected = "the same turns before the last one of each response, since turns=last"
                raise refusal(self.source, "responses", expected, "different ones", "turns=all")
            prompt, earlier = (*prompt, *earlier[0]), ()
        self._check_trained(fields, earlier)
        if self.has("system"):
            prompt = self._with_system(prompt)
        made = Row(prompt, texts, source=self.source, **feedback)
        more: dict[str, Any] = {}
        if arguments := self._template_arguments():
            more["template_arguments"] = arguments
        if any(fields):
            more["response_fields"] = fields
        if any(earlier):
            more["earlier_turns"] = earlier
        return replace(made, **more) if more else made

    def _check_trained(
        self, fields: Sequence[Mapping[str, Any]], earlier: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        """Refuse a turn of the assistant that says of itself that it is not trained on, such as OpenAI's weight 0."""
        for message in chain(fields, *earlier):
            name = untrained(message) if message.get("role") in (None, "assistant") else ""
            if name and not self.options.prompts:  # with prompts, responses are sampled
                expected = "turns of the assistant that are trained on"
                last = any(earlier) and not any(map(untrained, fields))
                short = "end the conversation before that turn" if any(earlier) else "leave the row out"
                fix = f"{'turns=last, ' if last else ''}{short}, or take the field out"
                raise refusal(self.source, "responses", expected, f"one with {name}={message[name]!r}", fix)

    def judged(self, prompt: Any, response: Response) -> Row:
        """A row of one response with its optional label and score."""
        scores = (self.score("score"),) if self.has("score") else None
        labels = (self.label("label"),) if self.has("label") else None
        return self.row(prompt, (response,), scores=scores, labels=labels)

    def _with_system(self, prompt: Any) -> Any:
        """The prompt with the system column as its first message."""
        system = self.text("system")
        if not system.strip():
            return prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if messages and messages[0].get("role") == "system":
            if messages[0].get("content") != system:
                raise self.refusal("system", "the prompt's own system message, or no column", shown(system))
            return prompt
        return ({"role": "system", "content": system}, *messages)

    def _template_arguments(self) -> dict[str, Any]:
        """What the columns tools and chat_template_kwargs give the chat template."""
        arguments: dict[str, Any] = {}
        if self.has("tools"):
            tools = self._json("tools", list)
            arguments |= {"tools": tools} if tools else {}
        if self.has("chat_template_kwargs"):
            given = self._json("chat_template_kwargs", dict)
            taken = [name for name in given if name in _RESERVED]
            if taken:
                expected = "arguments of the template alone"
                raise self.refusal("chat_template_kwargs", expected, taken[0], f"leave {taken[0]} out")
            arguments |= given
        return arguments

    def _json(self, column: str, kind: type) -> Any:
        """A list or an object without nulls, also as JSON text, as tables hold them."""
        value = without_nulls(self.get(column))
        if isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value) if value.strip() else kind()  # with its nulls, which no table has filled in
        if not isinstance(value, kind):
            what = "a list of tools" if kind is list else "an object"
            raise self.refusal(column, f"{what}, or its JSON", shown(value))
        return value


def _roles(messages: Sequence[Mapping[str, Any]]) -> str:
    roles = ", ".join(message["role"] for message in messages if message["role"])
    return f"messages of {roles}" if roles else "an empty list"
