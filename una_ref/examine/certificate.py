"""The certificate of a loss: eight sections, each measured by one module, as typed fields, sentences and JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from una_ref.examine.board_place import Place, check_board, on_board
from una_ref.examine.invariances import Invariances, invariances
from una_ref.examine.optima import FROM_OTHER, SAMPLERS, Optima, optima
from una_ref.examine.reductions import Reductions, reductions
from una_ref.examine.robustness import Robustness, robustness
from una_ref.examine.signature import KIND_NAMES, Examinee, Signature, examinee, read
from una_ref.examine.soundness import Soundness, checked, sound
from una_ref.methods import METHODS, Method

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Certificate:
    """What was found out about a loss.

    Attributes:
        name: of the loss.
        signature: what it asks for.
        soundness: shapes, dtypes, extremes, state, and whether its gradient is that of its value.
        invariances: what it ignores.
        reductions: the registered losses that it equals, or is near to.
        optima: what it learns from unlimited data, by who wrote them.
        robustness: what it learns from certain and from noisy feedback.
        closed_form: the `optimum` on this feedback in the record of `closed_form_of`; empty where there is none.
        closed_form_of: the loss itself, if it is registered, or else the first method that it equals at every margin.
        board: its place on the quick leaderboard; None unless it was asked for.
    """

    name: str
    signature: Signature
    soundness: Soundness
    invariances: Invariances
    reductions: Reductions
    optima: Optima
    robustness: Robustness
    closed_form: str
    closed_form_of: str
    board: Place | None = None

    @property
    def sections(self) -> dict[str, list[str]]:
        """Heading -> findings, one a sentence."""
        learned = self.optima.sentences()
        if self.closed_form:
            kind = KIND_NAMES[self.signature.kind]
            learned.append(f"The record of {self.closed_form_of} states the optimum on {kind}: {self.closed_form}.")
        found = {
            "What it asks for": self.signature.sentences(),
            "Numbers": self.soundness.sentences(),
            "Gradient": self.soundness.gradient_sentences(),
            "What it ignores": self.invariances.sentences(),
            "What it reduces to": self.reductions.sentences(),
            "What it learns": learned,
            "Certain and noisy feedback": self.robustness.sentences(),
        }
        if self.board is not None:
            found["On the quick board"] = self.board.sentences()
        return {heading: sentences for heading, sentences in found.items() if sentences}

    def record(self) -> dict[str, Any]:
        """All fields and the sentences, ready for JSON."""
        return {**_ready(asdict(self)), "sections": self.sections}


def _ready(value: Any) -> Any:
    """Tuples as lists, and numbers that JSON does not have as text."""
    if isinstance(value, dict):
        return {key: _ready(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_ready(part) for part in value]
    if isinstance(value, float) and not torch.tensor(value).isfinite():
        return str(value)
    return value


def examine(
    loss: str | Callable[..., Tensor] | Method,
    kind: str | None = None,
    *,
    board: bool = False,
    progress: Progress = lambda heading: None,
) -> Certificate:
    """The certificate of a loss.

    Args:
        loss: a function of keyword arguments that docs/arguments.md lists, a method of the registry or its name,
            NAME.printed, NAME.released, ``module:function`` or ``file.py:function``.
        kind: its feedback, one of `methods.KINDS`; by default what its arguments say.
        board: whether to run it on the quick leaderboard, too, which takes minutes.
        progress: called with the heading of each section before it is measured.

    Raises:
        InputError: the loss cannot be examined; `soundness` says which losses are refused.
    """
    subject = examinee(loss, kind)
    if board:
        check_board(subject)
    progress("What it asks for")
    signature = read(subject)
    progress("Numbers")
    checked(subject)
    numbers = sound(subject)
    progress("What it ignores")
    ignored = invariances(subject)
    progress("What it reduces to")
    reduced = reductions(subject)
    progress("What it learns")
    learned = optima(subject, independent=numbers.independent)
    progress("Certain and noisy feedback")
    from_other = dict(zip(SAMPLERS, learned.learned, strict=False)).get(FROM_OTHER)
    robust = robustness(subject, independent=numbers.independent, clean=from_other)
    place = on_board(subject) if board else None
    closed_form_of, closed_form = _closed_form(subject, reduced)
    return Certificate(
        subject.name, signature, numbers, ignored, reduced, learned, robust, closed_form, closed_form_of, place
    )


def _closed_form(subject: Examinee, reduced: Reductions) -> tuple[str, str]:
    """(method, the optimum in its record): of the loss itself, or of the simplest method with the same gradient."""
    record = subject.record
    if record is None or subject.loss not in record.losses.values():
        same = [r.method for r in reduced.equal if r.factor > 0 and not r.reversed and not r.differs_at]
        record = next((METHODS[name] for name in same if name in METHODS), None)
    stated = "" if record is None else record.optimum.get(subject.kind, "")
    return (record.name, stated) if record is not None and stated else ("", "")
