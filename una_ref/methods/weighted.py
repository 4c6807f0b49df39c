"""Weighted sums of the losses of several methods, written ``dpo:0.8,sft:0.2``.

A sum has one loss for each kind of feedback: the weighted sum of the losses of all its methods that learn from this
kind. It is a plain loss like any other, and its signature names what any of its losses names. On pairs, ``sft`` is
−log π of the chosen response. TRL writes such sums as a list `loss_type` with `loss_weights`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from una_ref.errors import InputError, near
from una_ref.methods.arguments import names
from una_ref.methods.method import KINDS, Loss, Method
from una_ref.methods.registry import METHODS
from una_ref.methods.rewards import log_likelihood, per_example
from una_ref.methods.shapes import linear


def sft_of_chosen(*, chosen_logps: Tensor) -> Tensor:
    """−log π(y_w|x), summed over the tokens of a pair's chosen response: SFT beside a preference loss.

    TRL's loss type `sft` is the mean over the batch's tokens instead. Pang et al. 2024 divide by the length,
    https://arxiv.org/abs/2404.19733; the sum is the RPO-like term of MPO, https://arxiv.org/abs/2411.10442.
    """
    per_example(chosen_logps=chosen_logps)
    return linear(log_likelihood(chosen_logps))


ON_PAIRS: Mapping[str, Loss] = {"sft": sft_of_chosen}
"""Losses on pairs of methods that have none of their own."""


class Term(NamedTuple):
    """A method of a sum, with its name as the user wrote it."""

    name: str
    method: Method
    weight: float


@cache
def terms(text: str) -> tuple[Term, ...]:
    """The methods of a sum with their weights; a weight that is left out is 1.

    Raises:
        InputError: no such method (with the nearest name), a weight that is not positive, or a method named twice.
    """
    found: dict[str, Term] = {}
    for part in text.split(","):
        name, colon, weight = (piece.strip() for piece in part.partition(":"))
        if name not in METHODS:
            known = [own for method in METHODS.values() for own in (method.name, *method.aliases)]
            got = f"{name!r}{near(name, known)}"
            raise InputError(f"losses: expected methods with weights, such as dpo:0.8,sft:0.2, got {got}")
        method = METHODS[name]
        if method.scorer or method.advantages:
            raise InputError(f"losses: expected methods that train a policy on responses, got {name}")
        try:
            number = float(weight) if colon else 1.0
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise InputError(f"losses: {name}: expected a positive weight, got {weight!r}")
        if method.name in found:
            raise InputError(f"losses: {name}: expected each method once, got it twice")
        found[method.name] = Term(name, method, number)
    return tuple(found.values())


def combined(method: Method, text: str) -> Method:
    """The method with the losses of a sum in place of its own: one for each kind of feedback that a term learns from.

    Where responses come from and what the reward is stays the method's; metrics report this reward. Its own kinds of
    feedback come first.

    Args:
        method: of the run.
        text: of the sum; empty for the method as it is.

    Raises:
        InputError: see `terms`; a method that learns from sampled responses, in another's run; or a run
            of a scorer or of PPO.
    """
    return _combined(method.name, text) if text else method


@cache
def _combined(name: str, text: str) -> Method:
    method, summed = METHODS[name], terms(text)
    for written, term, _ in summed:
        if term.source == "policy" and term.name != name:
            raise InputError(
                f"losses: {method.name}: expected methods on given responses, got {written}, which samples"
            )
    if method.scorer or method.advantages:
        raise InputError(f"losses: expected a method that trains a policy on responses, got {method.name}")
    kinds = (*method.kinds, *(kind for kind in KINDS if kind not in method.kinds))
    parts = {kind: [(loss, weight) for _, term, weight in summed if (loss := on(term, kind))] for kind in kinds}
    unmoved = all(term.shift_invariant for _, term, _ in summed)
    expected = all(term.shift_invariant or term.invariant_in_expectation for _, term, _ in summed)
    return replace(
        method,
        losses={kind: weighted(some) for kind, some in parts.items() if some},
        printed=None,
        released=None,
        composes=False,
        shift_invariant=unmoved,
        invariant_in_expectation=expected and not unmoved,
        reductions="",
        trl="",
        optimum={},
        whole_batch=any(term.whole_batch for _, term, _ in summed),
        note="; ".join(dict.fromkeys(term.note for _, term, _ in summed if term.note)),
        meanings={name: meaning for _, term, _ in summed[::-1] for name, meaning in term.meanings.items()},
    )


def on(method: Method, kind: str) -> Loss | None:
    """The loss of a method on a kind of feedback, if it has one."""
    return method.losses.get(kind) or (ON_PAIRS.get(method.name) if kind == "pairs" else None)


def unshared(text: str, given: Collection[str]) -> str:
    """A hyper-parameter that is not given and has no one default in a sum, as an error says it; empty if none is."""
    found: dict[str, dict[float | str, str]] = {}
    for written, term, _ in terms(text):
        for name, default in term.hyperparameters.items():
            found.setdefault(name, {}).setdefault(default, f"{written} ({default})")
    clash = next((name for name, owners in found.items() if len(owners) > 1 and name not in given), "")
    return f"{clash}: expected a value, since the defaults differ: {', '.join(found[clash].values())}" if clash else ""


def weighted(parts: Sequence[tuple[Loss, float]]) -> Loss:
    """Σ weight · loss, as a loss whose signature is the union of the signatures.

    Arguments and hyper-parameters are shared by name. A parameter is required if one loss requires it. Where a
    hyper-parameter is not given, each loss takes its own default; the signature shows the first.
    """

    def total(**given: Any) -> Tensor:
        values = [weight * loss(**{name: given[name] for name in names(loss) & given.keys()}) for loss, weight in parts]
        return sum(values[1:], start=values[0])

    parameters: dict[str, inspect.Parameter] = {}
    for loss, _ in parts:
        for name, parameter in inspect.signature(loss).parameters.items():
            if name not in parameters or parameter.default is parameter.empty:
                parameters[name] = parameter
    total.__name__ = " + ".join(f"{weight:g}·{loss.__name__}" for loss, weight in parts)
    total.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return total
