"""The types of a config's fields: what text means, which values fit, and what to say of one that does not."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from una_ref.errors import InputError, near


@dataclass(frozen=True)
class Range:
    """Bounds of a finite number: `low` and `high` are allowed themselves, `above` and `below` are not."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        bounds = {"at least": self.low, "above": self.above, "at most": self.high, "below": self.below}
        return " and ".join(f"{words} {bound}" for words, bound in bounds.items() if math.isfinite(bound))


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]

SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "sliding_window",
)
"""The names that the key `shape` takes."""

LOSS_RANGES: Mapping[str, Any] = {
    "beta": Annotated[float, Range(above=0)],
    "label_smoothing": Annotated[float, Range(0, below=0.5)],
}
"""The types of the hyper-parameters that have one range in all methods. Every other range is checked by the loss."""

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def check(name: str, value: Any, kind: Any) -> None:
    """Refuse a value that is not of this type or not in its range.

    Raises:
        InputError: names the key, the values that it takes, and this one.
    """
    if not _fits(value, kind):
        hint = near(value, choices(kind)) if isinstance(value, str) else ""
        raise InputError(f"{name}: expected {_expected(kind)}, got {value!r}{hint}")


def one_of(names: Collection[str]) -> str:
    """The allowed names, as messages list them."""
    return f"{'one of ' if len(names) > 1 else ''}{', '.join(names) or 'none'}"


def choices(kind: Any) -> tuple[str, ...]:
    """The words that a type takes, if it takes certain words only."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in _union(kind) for word in choices(part))


def read(value: Any, kind: Any) -> Any:
    """The value of this type that a text, or a value in a YAML file, stands for; `check` judges it.

    What stands for nothing of this type is returned unchanged.
    """
    if _union(kind):
        found = (read(value, part) for part in _union(kind))
        return next((one for one in found if one is not value), value)
    if get_origin(kind) is Annotated:
        return read(value, get_args(kind)[0])
    if get_origin(kind) is dict:
        return _mapping(value, get_args(kind)[1])
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return value
    if kind is bool:
        return _TRUTH.get(value.lower(), value)
    if kind is NoneType:
        return None if value.lower() in ("null", "none") else value
    try:
        return kind(value) if kind in (int, float) else value
    except ValueError:
        return value


def _mapping(value: Any, kind: Any) -> Any:
    if isinstance(value, str):
        import yaml

        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
    return {name: read(one, kind) for name, one in value.items()} if isinstance(value, Mapping) else value


def _union(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else ()


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if _union(kind):
        return any(_fits(value, part) for part in parts)
    if origin is Annotated:
        return _fits(value, parts[0]) and value in parts[1]
    if origin is Literal:
        return value in parts
    if origin is dict:
        return isinstance(value, Mapping) and all(isinstance(k, str) and _fits(v, parts[1]) for k, v in value.items())
    if kind in (int, float):
        number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return isinstance(value, kind)


def _expected(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if _union(kind):
        return " or ".join(map(_expected, parts))
    if origin is Annotated:
        return f"{_WORDS[parts[0]]} {parts[1]}".replace("finite ", "")
    if origin is Literal:
        return one_of(parts)
    if origin is dict:
        return f"names with values, each {_expected(parts[1])}"
    return _WORDS[kind]


def hyperparameter_type(name: str, default: float | str) -> Any:
    """The type of a loss's hyper-parameter: of its default, with its range."""
    return LOSS_RANGES.get(name, str if isinstance(default, str) else float)
