"""Dialogues that are written as one text, as Anthropic's HH data are, and their messages."""

from __future__ import annotations

import re

ASSISTANT, HUMAN = "\n\nAssistant:", "\n\nHuman:"
"""What stands before the turns of an HH dialogue."""

_MARKS = (re.compile(r"(?:^\s*|\n\n)(Human|Assistant): ?"), re.compile(r"\s*### (Human|Assistant): ?"))
"""What stands before a turn: in HH, and in Guanaco's form "### Human: "."""
_TURN = re.compile(r"(?:^\s*|\n\n)(?:Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_whole(text: str) -> bool:
    """Whether a text is a dialogue from its human turn to an answer, as a side of HH's pairs is."""
    return text.lstrip().startswith(HUMAN.lstrip()) and ASSISTANT in text


def holds_turn(text: str) -> bool:
    """Whether a response has the beginning of a turn in it, which belongs to a dialogue and not to an answer."""
    return _TURN.search(text) is not None


def messages(text: str) -> tuple[dict[str, str], ...] | None:
    """The messages of a dialogue that begins with a human turn and ends where the assistant is to answer, else None.

    Anthropic HH, https://github.com/anthropics/hh-rlhf
    """
    found = (list(mark.finditer(text)) for mark in _MARKS if mark.match(text))
    marks: list[re.Match[str]] = next(found, [])
    if not marks or marks[0][1] != "Human" or marks[-1][1] != "Assistant":
        return None
    ends = [mark.start() for mark in marks[1:]]
    if text[marks[-1].end() :].strip():  # the assistant's last turn is not open
        return None
    return tuple(
        {"role": _ROLES[mark[1]], "content": text[mark.end() : end].strip()}
        for mark, end in zip(marks[:-1], ends, strict=True)
    )
