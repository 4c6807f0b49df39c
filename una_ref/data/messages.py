"""Messages as they are meant: without the nulls of tables, and with tool arguments as objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_NO = ("false", "no")
_TRAINED = {"weight": _NO, "train": _NO, "training": _NO, "loss": _NO, "masked": ("true", "yes")}
"""Field of a message -> texts, beside 0 (of `masked`, 1), by which it is not trained on."""


def without_nulls(value: Any) -> Any:
    """The value without the null-valued keys of its objects; a null in a list stays.

    Arrow gives every object of a column the keys of all of them. So a null there means no such key, as in TRL.
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list | tuple) else value


def plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without nulls, except a content of null, which stands beside tool calls.

    A missing content is null as well, since tables cannot tell one from the other.
    """
    return {**without_nulls(message), **({} if message.get("content") is not None else {"content": None})}


def untrained(message: Mapping[str, Any]) -> str:
    """The field by which a message says that it is not trained on; empty if it says no such thing.

    OpenAI has ``weight: 0``, axolotl ``train: false``, ms-swift ``loss: false``; files hold them as texts as well.
    """
    for name, no in _TRAINED.items():
        value = message.get(name)
        with suppress(TypeError, ValueError):
            value = float(value) if value is not None else None
        if (str(value).strip().lower() in no) if isinstance(value, str) else value == float(name == "masked"):
            return name
    return ""


def with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose tool arguments are objects; OpenAI writes an object as JSON text. Other text stays."""
    message = dict(message)
    if isinstance(message.get("tool_calls"), list | tuple):
        message["tool_calls"] = [_call(call, "function") for call in message["tool_calls"]]
    return _call(message, "function_call") if message.get("function_call") else message


def _call(call: Any, name: str) -> Any:
    """A call, or a message, whose function has an object as its arguments."""
    function = call.get(name, call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(text := function.get("arguments"), str):
        return call
    try:
        parsed = json.loads(text)
    except ValueError:
        return call
    if not isinstance(parsed, dict):
        return call
    made = {**function, "arguments": parsed}
    return {**call, name: made} if name in call else made
