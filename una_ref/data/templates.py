"""A tokenizer's chat template: what it renders, how it opens and ends the assistant's turn, and what it leaves out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from una_ref.errors import InputError, near_path

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""How messages become text if the tokenizer has no chat template of its own."""

NONE = "none"
"""What stands for no template: texts as they are."""

_ASKED, _SAID = "What is 17 + 25?", "It is 42, I think."
_THOUGHT = re.compile(r"(<(?:think|thinking|thought|reasoning)>|\[THINK\])(\s*)\Z")
"""The end of an opening that begins a thought."""
_FIX = "give another template=FILE, or template=none for texts that are formatted already"


def given_template(value: str) -> str | None:
    """The Jinja text of a file or of the value itself; None for `NONE`.

    Raises:
        InputError: neither a file nor Jinja text.
    """
    if value == NONE:
        return None
    path = os.path.expanduser(value)
    if os.path.isfile(path):
        text = Path(path).read_text("utf-8")
        if not text.strip():
            raise InputError(f"template: expected a chat template in {value}, got an empty file")
        return text
    if "{" not in value:
        raise InputError(f"template: expected a file, Jinja text or none, got {value!r:.80}{near_path(value)}")
    return value


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer, with a template of its own or without.

    Attributes:
        own: whether the tokenizer has a template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.own = bool(tokenizer.chat_template)

    @property
    def source(self) -> str:
        """The Jinja text."""
        own = self.tokenizer.chat_template or PLAIN_TEMPLATE
        return "\n".join(own.values()) if isinstance(own, dict) else own

    def render(self, messages: Sequence[Mapping[str, Any]], *, opened: bool, source: str = "", **arguments: Any) -> str:
        """The messages as text; `opened`: followed by the opening of the assistant's turn.

        Raises:
            InputError: the template refuses the messages; names `source`.
        """
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=None if self.own else PLAIN_TEMPLATE,
                tokenize=False,
                add_generation_prompt=opened,
                **arguments,
            )
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError) as error:
            raise InputError(
                f"{source} prompt: expected messages that the chat template takes, got roles "
                f"{[message['role'] for message in messages]}: {error}"
            ) from None

    def mentions(self, name: str) -> bool:
        """Whether the template reads a field of messages or an argument of this name."""
        return re.search(rf"\b{re.escape(name)}\b", self.source) is not None

    @cached_property
    def _probe(self) -> tuple[str, str]:
        """An example prompt, opened, and with a response; empty where the template refuses it."""
        asked, said = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
        try:
            return self.render([asked], opened=True), self.render([asked, said], opened=False)
        except InputError:  # each row will tell
            return "", ""

    @property
    def header(self) -> str:
        """What stands before the text of a first user turn."""
        return self._probe[0].partition(_ASKED)[0]

    @property
    def opening(self) -> str:
        """What stands between the user's text and the assistant's."""
        return self._probe[0].rpartition(_ASKED)[2]

    @property
    def turn_end(self) -> str:
        """What stands behind the assistant's text."""
        return self._probe[1].rpartition(_SAID)[2]

    @cached_property
    def wants_text(self) -> bool:
        """Whether tool arguments have to be JSON text: the template writes a text as it is, and cannot write an object.

        The convention of transformers is an object. DeepSeek's templates join texts.
        """
        as_text, as_object = (self._call({"arguments": given}) for given in ('{"a": "b"}', {"a": "b"}))
        return '{"a": "b"}' in as_text and '"b"' not in as_object

    def _call(self, arguments: Mapping[str, Any]) -> str:
        """A call of a tool as text; empty where the template refuses it."""
        call = {"id": "abcdef123", "type": "function", "function": {"name": "f", **arguments}}
        asked: Mapping[str, Any] = {"role": "user", "content": _ASKED}
        turns = [asked, {"role": "assistant", "content": None, "tool_calls": [call]}]
        try:
            return self.render(turns, opened=False)
        except InputError:
            return ""

    def check(self) -> None:
        """Refuse a template whose rendering lacks the prompt's or a response's text.

        Raises:
            InputError: names what is missing, and shows the rendering.
        """
        opening, conversation = self._probe
        if opening == conversation == "" and not self._renders_nothing():
            return
        for what, text, rendering in (
            ("prompt", _ASKED, opening),
            ("prompt", _ASKED, conversation),
            ("response", _SAID, conversation),
        ):
            if text not in rendering:
                raise InputError(
                    f"template: expected one that renders the {what}, got {rendering!r:.60} for the {what} {text!r}. "
                    f"Fix: {_FIX}"
                )

    def _renders_nothing(self) -> bool:
        try:
            return self.render([{"role": "user", "content": _ASKED}], opened=True) == ""
        except InputError:
            return False


def opened_thought(opening: str) -> tuple[str, str]:
    """(tag, white space) of a thought that an opening begins, such as ("<think>", "\\n"); empty if it begins none."""
    found = _THOUGHT.search(opening)
    return (found[1], found[2]) if found else ("", "")


def continued(text: str, thought: tuple[str, str]) -> tuple[str, bool]:
    """(the response behind an opening that begins a thought, whether it begins with that thought itself).

    The tag and its white space are in the opening already, so they are taken off the text.
    """
    tag, space = thought
    if tag and text.lstrip().startswith(tag):
        return text.lstrip().removeprefix(tag).removeprefix(space), True
    return text, False


def after_thought(text: str) -> str:
    """What a text says after its thoughts, which templates leave out of earlier turns."""
    return re.split(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]", text)[-1]
