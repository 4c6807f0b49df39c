"""Messages as they are meant: without the nulls of tables, and with tool arguments as objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
