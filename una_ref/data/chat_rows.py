"""A row before the chat template: a dialogue becomes messages, and what is left of another template is found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from una_ref.data import dialogues
from una_ref.data.messages import with_objects
from una_ref.data.rows import Row
from una_ref.data.specials import special_names
from una_ref.data.templates import ChatTemplate
from una_ref.errors import InputError

_CHAT = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>", "<|assistant|>")
MARKS = (*_CHAT, "<|start_of_role|>", "<|turn>", "<|START_OF_TURN_TOKEN|>", "### Instruction:", "### Response:")
"""What stands before a turn in the templates of ChatML, Llama 3, Gemma, Mistral, Zephyr, Granite, Cohere and Alpaca."""

_TRANSCRIPT = re.compile(r"(?:^|\n)\s*(?:Assistant|AI|Bot|Model|ASSISTANT|GPT)\s*:\s*\Z")
_FIX = "Fix: template=none, or give the prompt as messages"


def as_chat(row: Row, template: ChatTemplate, counts: Counter[str]) -> Row:
    """The row for a chat model: a dialogue in one text becomes messages.

    Args:
        row: as read.
        template: of the model's tokenizer.
        counts: gets a sentence for each text that keeps marks of another template or ends as a transcript does.

    Raises:
        InputError: a text that has been through the template already.
    """
    if number := sum(map(dialogues.holds_turn, row.responses)):
        counts["responses with the start of a turn (Human:, Assistant:) in them, which is text there"] += number
    if template.own and (messages := _turns(row.prompt)):
        counts["dialogues (Human: …, Assistant: …) that became messages"] += 1
        return replace(row, prompt=messages, responses=tuple(text.lstrip() for text in row.responses))
    if template.own and not template.wants_text:
        row = _with_objects(row, counts)
    names = special_names(template.tokenizer)
    if template.own:
        if isinstance(row.prompt, str):
            _check(row, "prompt", row.prompt, template.header, names)
            bare = template.header.removeprefix(template.tokenizer.bos_token or "").strip()
            if bare and row.prompt.lstrip().startswith(bare):
                counts[f"prompts that begin with {bare!r:.20} before the template adds it (template=none if so)"] += 1
            elif _TRANSCRIPT.search(row.prompt):
                counts["prompts that end like a transcript (Assistant:), which become one turn of the user"] += 1
        spoken = (m for earlier in row.earlier for m in earlier or () if m["role"] == "assistant")
        for text in (*row.responses, *(message.get("content") or "" for message in spoken)):
            _check(row, "response", text, template.opening, [name for name in names if name not in template.turn_end])
    for mark in MARKS:
        if mark not in names and mark not in template.source and any(mark in text for text in _texts(row)):
            counts[f"rows with {mark}, a mark of another chat template, which is text here"] += 1
    return row


def _with_objects(row: Row, counts: Counter[str]) -> Row:
    """The row with tool arguments as objects, which templates write as JSON."""
    prompt = row.prompt if isinstance(row.prompt, str) else tuple(map(with_objects, row.prompt))
    fields = tuple(map(with_objects, row.fields_of_responses))
    earlier = tuple(tuple(map(with_objects, turns)) for turns in row.earlier)
    if (prompt, fields, earlier) == (row.prompt, row.fields_of_responses, row.earlier):
        return row
    counts["rows with tool arguments as JSON text, which the template is given as objects"] += 1
    more: dict[str, Any] = {"response_fields": fields} if row.response_fields else {}
    return replace(row, prompt=prompt, **more, earlier_turns=earlier if row.earlier_turns else None)


def _turns(prompt: str | tuple[dict, ...]) -> tuple[dict, ...] | None:
    """The messages of a dialogue that is the prompt, or its one user turn, perhaps behind one of the system."""
    if isinstance(prompt, str):
        return dialogues.messages(prompt)
    *before, last = prompt
    if last["role"] != "user" or any(message["role"] != "system" for message in before):
        return None
    turns = dialogues.messages(last.get("content") or "")
    return turns and (*before, *turns)


def _check(row: Row, what: str, text: str, before: str, names: list[str]) -> None:
    """Refuse a text that begins with a special token that the template puts before it."""
    name = next((name for name in names if name in before and text.lstrip().startswith(name)), None)
    if name:
        raise InputError(
            f"{row.source} {what}: expected plain text, which the chat template makes a turn, got text that begins "
            f"with {name!r}, as after a template. {_FIX}"
        )


def _texts(row: Row) -> Iterator[str]:
    """The texts of the prompt and of the responses."""
    if isinstance(row.prompt, str):
        yield row.prompt
    else:
        yield from (message.get("content") or "" for message in row.prompt)
    yield from row.responses
    yield from (message.get("content") or "" for earlier in row.earlier for message in earlier or ())
