"""A row as text: what the chat template makes of its prompt and responses, and what the template would lose."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from una_ref.data.rows import Row
from una_ref.data.specials import Specials
from una_ref.data.templates import ChatTemplate, after_thought, continued, opened_thought
from una_ref.errors import InputError

MEANINGFUL = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "images", "audio", "videos")
"""Fields of a message that a template has to render; others, such as a name, are counted where it does not."""


class Rendering:
    """Turns the prompt and the responses of a row into text.

    The names of special tokens in the row's own texts are hidden (`Specials`), so that only the template writes them.

    Args:
        template: of the model's tokenizer.
        specials: what is a special token and what is text.
    """

    def __init__(self, template: ChatTemplate, specials: Specials) -> None:
        self.template = template
        self.specials = specials

    def opening(self, row: Row, counts: Counter[str], known: int = 0) -> str:
        """The prompt as text, ready to be answered.

        Args:
            row: of the prompt.
            counts: gets a sentence for each message of which the template leaves out something small.
            known: number of messages at the start that have been checked and counted before.

        Raises:
            InputError: the template leaves out an argument, a field with a meaning, or the text of a message.
        """
        for name in row.template_arguments:
            if not self.template.mentions(name):
                raise _unused(row, name, name)
        messages = () if isinstance(row.prompt, str) else row.prompt
        for i, message in enumerate(messages[known:], known):
            fields = {k: v for k, v in message.items() if k not in ("role", "content")}
            self._check_fields(row, fields, f"prompt[{i}]", counts)
        opening = self._text(row)
        if not known and messages and messages[-1]["role"] == "assistant":
            counts["prompts that end with an assistant message, which is closed before the response"] += 1
        for i, message in enumerate(messages[known:], known):
            content = self.specials.hidden(message.get("content") or "").strip()
            rest = after_thought(content).strip()
            if not any(text in opening for text in (rest, json.dumps(rest, ensure_ascii=False)[1:-1])):
                raise _unused(row, f"prompt[{i}]", f"the content of the role {message['role']}")
            thoughts = [message.get("reasoning_content") or "", content if rest != content else ""]
            if any(self.specials.hidden(text).strip() not in opening for text in thoughts):
                counts["earlier messages whose thoughts the template leaves out"] += 1
        return opening

    def response(
        self, row: Row, opening: str, text: str, fields: Mapping[str, Any], counts: Counter[str]
    ) -> tuple[str, str]:
        """(what stands behind the opening if the assistant's message is the response, what is to be said of it).

        Args:
            row: of the prompt.
            opening: the prompt as text.
            text: of the response, its special tokens hidden.
            fields: other fields of the response's message.
            counts: gets a sentence for each field that the template does not use.

        Raises:
            InputError: the template leaves out a field with a meaning, or does not begin with the opening.
        """
        if not self.template.own:
            self._check_fields(row, fields, "response", counts)
            return text, ""
        conversation = self._text(row, text, fields)
        self._check_fields(row, fields, "response", counts)
        meant = [name for name in MEANINGFUL if fields.get(name)]
        if meant and conversation == self._text(row, text):
            raise _unused(row, "response", ", ".join(meant))
        thought = opened_thought(opening)
        said, thinks = continued(text, thought)
        what = "that continue" if thinks else "without a thought, inside"
        note = f"responses {what} the {thought[0]} that the template opens" if thought[0] else ""
        rest = conversation[len(opening) :] if conversation.startswith(opening) else None
        if rest is not None and text.strip() in rest:
            return rest, note
        if meant:
            expected = "a chat template that renders the response behind the opening of its turn"
            raise InputError(f"{row.source} response: expected {expected}, got another rendering for {meant}")
        return said + self.template.turn_end, note or "responses that the template would change, encoded as samples are"

    def _check_fields(self, row: Row, fields: Mapping[str, Any], place: str, counts: Counter[str]) -> None:
        """Refuse fields with a meaning that the template does not read, and count others."""
        for name, value in fields.items():
            if value in (None, [], "", {}) or self.template.mentions(name):
                continue
            if name in MEANINGFUL:
                raise _unused(row, place, name)
            counts[f"messages with {name}, which the template does not use"] += 1

    def _text(self, row: Row, response: str | None = None, fields: Mapping[str, Any] | None = None) -> str:
        """The prompt as text, ready to be answered; with a response (special tokens hidden), the conversation."""
        if isinstance(row.prompt, str) and not self.template.own:
            if row.template_arguments:
                raise _unused(row, "prompt", ", ".join(row.template_arguments))
            return self.specials.hidden_behind_bos(row.prompt)
        given = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
        turns = [self._hidden(turn) for turn in given]
        if response is not None:
            turns.append({"role": "assistant", "content": response, **self._hidden(fields or {})})
        arguments = self._hidden(row.template_arguments)
        return self.template.render(turns, opened=response is None, source=row.source, **arguments)

    def _hidden(self, value: Any) -> Any:
        """A value with the special tokens of its texts hidden."""
        if isinstance(value, str):
            return self.specials.hidden(value)
        if isinstance(value, Mapping):
            return {key: self._hidden(part) for key, part in value.items()}
        return [self._hidden(part) for part in value] if isinstance(value, list | tuple) else value


def _unused(row: Row, place: str, what: str) -> InputError:
    return InputError(
        f"{row.source} {place}: expected a chat template that renders {what}, got one that leaves it out. "
        "Fix: template=FILE with a template that does, or take it out of the data"
    )
