"""A row of feedback, and the checks of its values.

A row is a prompt, its responses and the feedback about them. There are five kinds of feedback:

- "scores": a number per response;
- "lists": scores that rank the responses of the prompt as one list;
- "labels": binary labels (thumbs), or shares in [0, 1];
- "pairs": indices of a chosen and a rejected response;
- "demos": none of these, so every response is imitated.

A prompt without responses is a row as well, for runs that sample them. A row is checked when it is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from una_ref.errors import InputError


def refusal(source: str, field: str, expected: str, got: str, fix: str = "") -> InputError:
    """The error for a bad value: its place, its field, what was expected, what was there and how to mend it."""
    return InputError(f"{source or 'row'} {field}: expected {expected}, got {got}{fix and f'. Fix: {fix}'}")


def shown(value: object) -> str:
    """A value as messages print it: at most 40 characters, with its type."""
    return f"{value!r:.40} ({'str' if isinstance(value, str) else type(value).__name__})"


PER_PAIR = ("weights", "margins")
"""The fields of a row with one number for each pair."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt, its responses and the feedback about them. It is checked when it is made.

    A response may be empty: a model ended at once, and a judge may score that. Files are stricter by default, see
    `una_ref.data.sources.read`.

    Attributes:
        prompt: plain text, or messages {"role": ..., "content": ...}, which may have other fields such as tool_calls.
        responses: K texts; none for a prompt alone.
        scores: (K,) finite numbers.
        labels: (K,) numbers in [0, 1]; 1 is positive.
        pairs: (chosen, rejected) indices into the responses.
        source: "file:line" or "dataset[i]", for messages.
        as_list: whether the scores rank the responses as one list.
        template_arguments: what the chat template is given beside the messages, such as tools.
        response_fields: (K,) other fields of each response's message, such as tool_calls; None if there are none.
        earlier_turns: (K,) messages of each response before its last one, which is in `responses`. They begin with one
            of the assistant. None if every response is one message.
        columns: of the data that no layout reads, by name, for reward functions; empty unless they are asked for.
        weights: (P,) numbers of 0 or more that multiply the losses of the pairs; None: 1.
        margins: (P,) by how much the chosen response is better, in reward units; None: the difference of the scores.

    Raises:
        InputError: names what is malformed.
    """

    prompt: str | tuple[dict, ...]
    responses: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    labels: tuple[float, ...] | None = None
    pairs: tuple[tuple[int, int], ...] | None = None
    source: str = ""
    as_list: bool = False
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    response_fields: tuple[Mapping[str, Any], ...] | None = None
    earlier_turns: tuple[tuple[dict, ...], ...] | None = None
    weights: tuple[float, ...] | None = None
    margins: tuple[float, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def put(field: str, value: object) -> None:
            object.__setattr__(self, field, value)

        put("prompt", _checked_prompt(self.prompt, self.source))
        put("responses", self._sequence("responses", at_least=1 if self._feedback() else 0))
        for i, response in enumerate(self.responses):
            checked_text(response, self.source, f"responses[{i}]")
        if self.scores is not None:
            put("scores", self._numbers("scores", checked_score, len(self.responses)))
        if self.labels is not None:
            put("labels", self._numbers("labels", checked_label, len(self.responses)))
        if self.pairs is not None:
            put("pairs", tuple(self._pair(pair) for pair in self._sequence("pairs")))
        for name in PER_PAIR:
            if getattr(self, name) is not None:
                check = checked_weight if name == "weights" else checked_score
                put(name, self._numbers(name, check, len(self.pairs or ()), "pair"))
        for name in ("response_fields", "earlier_turns"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.responses):
                raise refusal(self.source, name, f"{len(self.responses)}, one per response", str(len(values)))
        for k, turns in enumerate(self.earlier_turns or ()):
            checked_messages(turns, self.source, f"earlier_turns[{k}]")
            if turns and (isinstance(self.prompt, str) or turns[0]["role"] != "assistant"):
                expected = "a prompt of messages, and then one of the assistant"
                raise refusal(self.source, f"earlier_turns[{k}]", expected, f"{turns[0]['role']!r:.40}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of feedback that the row carries; ("demos",) if it carries no other, () for a prompt alone."""
        return self._feedback() or (("demos",) if self.responses else ())

    @property
    def key(self) -> str:
        """A text that is equal for rows of the same prompt and template arguments."""
        more = json.dumps(self.template_arguments, sort_keys=True) if self.template_arguments else ""
        return prompt_key(self.prompt) + more

    @property
    def has_empty_response(self) -> bool:
        """Whether a turn of a response has neither text nor a field in place of it, such as tool_calls."""
        last = (
            {**fields, "content": text} for text, fields in zip(self.responses, self.fields_of_responses, strict=True)
        )
        earlier = (turn for turns in self.earlier for turn in turns if turn["role"] == "assistant")
        return any(says_nothing(turn) for turn in chain(last, earlier))

    @property
    def fields_of_responses(self) -> tuple[Mapping[str, Any], ...]:
        """(K,) other fields of each response's message; empty where it has none."""
        return self.response_fields or ({},) * len(self.responses)

    @property
    def earlier(self) -> tuple[tuple[dict, ...], ...]:
        """(K,) messages of each response before its last one; empty where it is one message."""
        return self.earlier_turns or ((),) * len(self.responses)

    def only(self, *kinds: str) -> Row:
        """The same row with feedback of these kinds alone."""
        others = [kind for kind in self._feedback() if kind not in kinds]
        left_out: dict[str, Any] = {"scores" if kind == "lists" else kind: None for kind in others}
        left_out |= dict.fromkeys(PER_PAIR if "pairs" in others else ())
        return replace(self, **left_out, as_list=self.as_list and "lists" in kinds) if others else self

    def picked(self, places: Iterable[int], **feedback: Any) -> Row:
        """The row cut to the responses at these places, with this feedback alone."""
        kept = list(places)
        more: dict[str, Any] = {"template_arguments": self.template_arguments, "columns": self.columns}
        for name in ("response_fields", "earlier_turns"):
            values = getattr(self, name)
            more[name] = values and tuple(values[i] for i in kept)
        return Row(self.prompt, tuple(self.responses[i] for i in kept), source=self.source, **more, **feedback)

    def cut_to(self, places: Iterable[int]) -> Row | None:
        """The row with these responses and the feedback about them; None where nothing is left to learn from.

        A pair needs both of its responses, and a list two.
        """
        kept = list(places)
        feedback: dict[str, Any] = {"as_list": self.as_list}
        if self.pairs is not None:
            whole = [k for k, pair in enumerate(self.pairs) if {*pair} <= {*kept}]
            kept = sorted({i for k in whole for i in self.pairs[k]})
            feedback["pairs"] = tuple((kept.index(self.pairs[k][0]), kept.index(self.pairs[k][1])) for k in whole)
            feedback |= {n: tuple(v[k] for k in whole) for n in PER_PAIR if (v := getattr(self, n)) is not None}
        if len(kept) < (2 if self.as_list else 1):
            return None
        feedback |= {n: tuple(v[i] for i in kept) for n in ("scores", "labels") if (v := getattr(self, n)) is not None}
        return self.picked(kept, **feedback)

    def _feedback(self) -> tuple[str, ...]:
        scores = () if self.scores is None else ("lists" if self.as_list else "scores",)
        labels = () if self.labels is None else ("labels",)
        return (*scores, *labels, *(() if self.pairs is None else ("pairs",)))

    def _sequence(self, field: str, at_least: int = 1) -> tuple:
        values = getattr(self, field)
        if not isinstance(values, tuple | list):
            raise refusal(self.source, field, "a list", shown(values))
        if len(values) < at_least:
            raise refusal(self.source, field, "at least one", "none")
        return tuple(values)

    def _numbers(
        self, field: str, checked: Callable[[object, str, str], float], count: int, each: str = "response"
    ) -> tuple[float, ...]:
        values = self._sequence(field)
        if len(values) != count:
            raise refusal(self.source, field, f"{count}, one per {each}", str(len(values)))
        return tuple(checked(value, self.source, f"{field}[{i}]") for i, value in enumerate(values))

    def _pair(self, pair: object) -> tuple[int, int]:
        count = len(self.responses)
        indices = tuple(pair) if isinstance(pair, tuple | list) else ()
        valid = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < count for i in indices)
        if not valid or len(indices) != 2 or indices[0] == indices[1]:
            expected = f"(chosen, rejected), two different indices below {count}"
            raise refusal(self.source, "pairs", expected, shown(pair))
        return indices[0], indices[1]


LARGEST = 3.4028234663852886e38
"""The largest number of float32, in which losses are computed."""


def checked_score(value: Any, source: str, field: str) -> float:
    """The value as a float. Raises `InputError` unless it is a finite number and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        large = isinstance(value, int | float) and LARGEST < abs(value) < float("inf")
        raise refusal(source, field, f"a finite number{' of float32' if large else ''}", shown(value))
    return float(value)


def checked_weight(value: Any, source: str, field: str) -> float:
    """The value as a float. Raises `InputError` unless it is a finite number of 0 or more and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise refusal(source, field, "a finite number of at least 0, within float32", shown(value))
    return float(value)


def checked_label(value: Any, source: str, field: str) -> float:
    """The value as a float. Raises `InputError` unless it is a boolean or a number in [0, 1]."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise refusal(source, field, "a boolean or a number in [0, 1]", shown(value))
    return float(value)


def checked_text(value: object, source: str, field: str) -> str:
    """The value itself. Raises `InputError` unless it is text that UTF-8 can encode; half a surrogate pair is not."""
    if not isinstance(value, str):
        raise refusal(source, field, "text", shown(value))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise refusal(source, field, "valid Unicode text", f"{error.object[error.start]!a}") from None
    return value


def _checked_prompt(prompt: object, source: str) -> str | tuple[dict, ...]:
    if isinstance(prompt, str):
        contents = [checked_text(prompt, source, "prompt")]
    elif isinstance(prompt, tuple | list):
        contents = [message.get("content") or "" for message in checked_messages(prompt, source, "prompt")]
        prompt = tuple(dict(message) for message in prompt)
    else:
        raise refusal(source, "prompt", "text or messages", shown(prompt))
    if not any(content.strip() for content in contents):
        raise refusal(source, "prompt", "text or messages", f"an empty prompt {shown(prompt)}")
    return prompt


IN_PLACE_OF_CONTENT = ("tool_calls", "function_call", "reasoning_content")
"""Fields that a message may have in place of a content."""


def says_nothing(message: Mapping[str, Any]) -> bool:
    """Whether a message has neither text nor one of `IN_PLACE_OF_CONTENT`."""
    return not (message.get("content") or "").strip() and not any(map(message.get, IN_PLACE_OF_CONTENT))


def checked_messages(messages: Sequence, source: str, field: str) -> Sequence[Mapping]:
    """The messages themselves. Raises `InputError` unless each is {"role": text, "content": text}.

    The content may be None beside one of `IN_PLACE_OF_CONTENT`.
    """
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise refusal(source, f"{field}[{i}]", "a message with role and content", shown(message))
        checked_text(message.get("role"), source, f"{field}[{i}].role")
        if message.get("content") is None and any(map(message.get, IN_PLACE_OF_CONTENT)):
            continue
        if isinstance(message.get("content"), list):
            fix = "write the text itself as content; only text is trained on"
            raise refusal(source, f"{field}[{i}].content", "text", "a list of parts", fix)
        checked_text(message.get("content"), source, f"{field}[{i}].content")
    return messages


def prompt_key(prompt: str | tuple[dict, ...]) -> str:
    """A key that is equal for equal prompts. Text and messages never share a key."""
    return "text " + prompt if isinstance(prompt, str) else "messages " + json.dumps(prompt, sort_keys=True)
