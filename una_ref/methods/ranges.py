"""Checks of a loss's hyper-parameters. An error names the hyper-parameter, the rule and the value."""

from __future__ import annotations

import math
from collections.abc import Iterable


def at_least_zero(**hyperparameters: float) -> None:
    """Raises ValueError for a hyper-parameter below 0 or NaN, by its name."""
    between(0, math.inf, **hyperparameters)


def positive(**hyperparameters: float) -> None:
    """Raises ValueError for a hyper-parameter that is not above 0, by its name."""
    for name, value in hyperparameters.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def between(least: float, most: float, /, **hyperparameters: float) -> None:
    """Raises ValueError for a hyper-parameter outside [least, most], by its name."""
    for name, value in hyperparameters.items():
        if not least <= value <= most:
            end = "" if most == math.inf else f" and at most {most:g}"
            raise ValueError(f"{name} must be at least {least:g}{end}, got {value}")


def one_of(choices: Iterable[str], **hyperparameters: str) -> None:
    """Raises ValueError for a hyper-parameter that is none of the choices, by its name."""
    known = tuple(choices)
    for name, value in hyperparameters.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
