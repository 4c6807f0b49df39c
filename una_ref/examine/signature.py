"""What a loss asks for: its arguments, its kind of feedback and its hyper-parameters, read from its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from una_ref.errors import InputError, near
from una_ref.methods import KINDS, METHODS, Method
from una_ref.methods.arguments import ARGUMENTS, PAIRED, Need, argument, hyperparameters, names, needs, sided
from una_ref.methods.method import HYPERPARAMETERS
from una_ref.named_function import named_function

Loss = Callable[..., Tensor]

TRAINED = frozenset(
    name
    for base in ("logps", "token_logps", "logits", "rewards")
    for name in (base, sided(base, "chosen"), sided(base, "rejected"))
)
"""The arguments that a policy or a scorer under training computes. A loss has a gradient in one of them."""

FORMS = ("printed", "released")
"""The other forms of a method that can be examined, as NAME.printed and NAME.released."""


@dataclass(frozen=True)
class Examinee:
    """A loss with what is known of it before it is called.

    Attributes:
        name: as the certificate calls it.
        loss: takes arguments of `arguments.ARGUMENTS` by name and returns one number per example.
        kind: of feedback.
        record: of the method, if the registry has it.
        settings: hyper-parameters that replace the loss's defaults.
        forced: arguments with a default that the examination gives nevertheless.
    """

    name: str
    loss: Loss
    kind: str
    record: Method | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    forced: tuple[str, ...] = ()

    def __call__(self, given: Mapping[str, Any]) -> Tensor:
        """The loss of those given arguments that it names."""
        known = names(self.loss)
        return self.loss(**{name: value for name, value in given.items() if name in known}, **self.settings)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of the vocabulary that it names, in its order."""
        return tuple(name for name in inspect.signature(self.loss).parameters if argument(name) is not None)

    @property
    def given(self) -> tuple[str, ...]:
        """The arguments that the examination gives: those without a default, and ``groups``."""
        parameters = inspect.signature(self.loss).parameters
        asked = {n for n in self.arguments if parameters[n].default is inspect.Parameter.empty}
        return tuple(n for n in self.arguments if n in asked or n == "groups" or n in self.forced)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Its hyper-parameters, with the settings in the place of defaults."""
        return hyperparameters(self.loss) | dict(self.settings)

    @property
    def trained(self) -> tuple[str, ...]:
        """The arguments that have a gradient."""
        return tuple(name for name in self.arguments if name in TRAINED)

    @property
    def needs(self) -> tuple[Need, ...]:
        """What a training run has to compute for it."""
        return tuple(need for need in Need if need in needs([self.loss]))

    @property
    def beta(self) -> float | None:
        """Its β, where it names one."""
        value = self.hyperparameters.get("beta")
        return float(value) if isinstance(value, int | float) else None

    def at(self, **settings: Any) -> Examinee:
        """The same loss at other hyper-parameters."""
        return replace(self, settings={**self.settings, **settings})


@dataclass(frozen=True)
class Signature:
    """What a loss asks for.

    Attributes:
        kind: of feedback.
        arguments: name -> meaning, with its shape.
        hyperparameters: name -> default.
        requires: what a run computes or holds for it.
        reference: whether it needs a reference model.
    """

    kind: str
    arguments: dict[str, str]
    hyperparameters: dict[str, Any]
    requires: tuple[str, ...]
    reference: bool

    def sentences(self) -> list[str]:
        """The findings, one a sentence."""
        settings = ", ".join(f"{name}={value}" for name, value in self.hyperparameters.items()) or "none"
        return [
            f"It learns from {KIND_NAMES[self.kind]}.",
            f"It takes {_listed(self.arguments)}.",
            f"Its hyper-parameters are {settings}." if self.hyperparameters else "It has no hyper-parameters.",
            f"A run computes for it: {'; '.join(self.requires)}."
            if self.requires
            else "A run computes nothing for it beyond the model's own output.",
        ]


KIND_NAMES = {
    "demos": "demonstrations",
    "pairs": "pairs of responses",
    "labels": "binary labels",
    "scores": "scores",
    "lists": "ranked lists",
}
"""Kind of feedback -> how a sentence names it."""


def read(examinee: Examinee) -> Signature:
    """The first section of a certificate."""
    from una_ref.methods.arguments import REFERENCE_NEEDS

    meanings = {name: cast(Any, argument(name)).meaning for name in examinee.arguments}
    record = examinee.record
    return Signature(
        kind=examinee.kind,
        arguments=meanings,
        hyperparameters={name: _plain(value) for name, value in hyperparameters(examinee.loss).items()},
        requires=tuple(need.value for need in examinee.needs),
        reference=bool({*examinee.needs} & REFERENCE_NEEDS) or (record is not None and record.needs_reference),
    )


def _plain(value: object) -> Any:
    """A default as JSON has it."""
    return value if isinstance(value, int | float | str | bool | None) else getattr(value, "name", repr(value))


def _listed(words: Mapping[str, object]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


# ---- what a user names


def examinee(target: str | Loss | Method, kind: str | None = None) -> Examinee:
    """The loss that is meant.

    Args:
        target: a function, a record, the name of a method, NAME.printed or NAME.released, ``module:function`` or
            ``file.py:function``.
        kind: of feedback; by default the first of a method, and what the arguments say of a function.

    Raises:
        InputError: nothing of that name, unknown arguments, or a kind that the arguments contradict or leave open.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"--kind: expected one of {', '.join(KINDS)}, got {kind!r}{near(kind, KINDS)}")
    if isinstance(target, str) and ":" in target:
        try:
            function = named_function(target)
        except Exception as error:  # whatever a user's module raises
            found = f"{'' if isinstance(error, ImportError | AttributeError) else f'{type(error).__name__}: '}{error}"
            raise InputError(
                f"{target}: expected module:function or file.py:function, got: {found}. "
                "Fix: name a function of a file, such as my_losses.py:my_loss"
            ) from error
        return _of_function(function, target, kind)
    if isinstance(target, str):
        if target.endswith(".py") or (target not in METHODS and Path(f"{target}.py").is_file()):
            file = target if target.endswith(".py") else f"{target}.py"
            raise InputError(f"{target}: expected a function, got a file. Fix: name a loss in it, as in {file}:my_loss")
        name, _, form = target.partition(".")
        record = METHODS[name]
        return _of_record(record, kind, form)
    return _of_record(target, kind, "") if isinstance(target, Method) else _of_function(target, "", kind)


def _of_record(record: Method, kind: str | None, form: str) -> Examinee:
    if form:
        loss = getattr(record, form, None) if form in FORMS else None
        if loss is None:
            there = [known for known in FORMS if getattr(record, known)] or ["no other form"]
            raise InputError(f"{record.name}.{form}: expected {' or '.join(there)}, got {form!r}")
        return Examinee(f"{record.name}.{form}", loss, kind or record.kinds[0], record)
    chosen = kind or record.kinds[0]
    if chosen not in record.losses:
        raise InputError(f"{record.name}: expected --kind {' or '.join(record.kinds)}, got {chosen}")
    suffix = f":{chosen}" if chosen != record.kinds[0] else ""
    return Examinee(f"{record.name}{suffix}", record.losses[chosen], chosen, record)


def _of_function(function: object, name: str, kind: str | None) -> Examinee:
    name = name or getattr(function, "__name__", "the loss")
    if not callable(function):
        raise InputError(f"{name}: expected a function, got {type(function).__name__}. Fix: name the loss function")
    _check_parameters(function, name)
    record = next((r for r in METHODS.values() if function in r.losses.values()), None)
    found = Examinee(name, cast(Loss, function), kind or _inferred(function, name), record)
    if not found.trained:
        raise InputError(
            f"{name}: expected an argument to train, such as logps or chosen_logps, got "
            f"{', '.join(found.arguments) or 'none'}. Fix: name the log-probabilities that the policy computes"
        )
    paired = any(PAIRED.get(n) or n == "margins" for n in found.arguments)
    if paired != (found.kind == "pairs"):
        expected = "chosen_… and rejected_… arguments" if found.kind == "pairs" else "arguments of single responses"
        raise InputError(f"{name}: expected {expected} for --kind {found.kind}, got {', '.join(found.arguments)}")
    return found


def _check_parameters(function: Loss | Any, name: str) -> None:
    """Refuse a signature that no run can call: starred or positional-only parameters, unknown names."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected a Python function with a signature, got: {error}") from error
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InputError(
                f"{name}: expected arguments by name, got {parameter}. Fix: name each argument, such as "
                "def loss(*, chosen_logps, rejected_logps, beta=0.1)"
            )
        if argument(parameter.name) is None and parameter.default is parameter.empty:
            if parameter.name in HYPERPARAMETERS:
                raise InputError(
                    f"{name}: expected a default for the hyper-parameter {parameter.name}, got none. "
                    f"Fix: write {parameter.name}=NUMBER in the signature"
                )
            hint = near(parameter.name, [*ARGUMENTS, *PAIRED])
            raise InputError(
                f"{name}: expected a name of docs/arguments.md, such as {_EXAMPLES}, got "
                f"{parameter.name!r}{hint or '.'} Fix: rename it, or, if it is a hyper-parameter, give it a default"
            )


_EXAMPLES = "chosen_logps, ref_chosen_logps, logps, scores or labels"


def _inferred(function: Any, name: str) -> str:
    """The kind of feedback that the arguments name. Raises InputError where they name two, or mix their kinds."""
    found = {n for n in names(function) if argument(n) is not None}
    paired = {n for n in found if n in PAIRED or n == "margins"}
    single = {n for n in found - paired if cast(Any, argument(n)).kind != "batch"}
    if paired and single:
        raise InputError(
            f"{name}: expected arguments of pairs or of single responses, got {', '.join(sorted(paired))} with "
            f"{', '.join(sorted(single))}. Fix: write chosen_… and rejected_… for each"
        )
    if paired:
        return "pairs"
    tokens = {n for n in found if cast(Any, argument(n)).kind in ("token", "distribution")} - {"mask"}
    if "labels" in found and found & {"scores", "win_rates"}:
        raise InputError(f"{name}: expected one kind of feedback, got labels and scores. Fix: add --kind labels")
    if "labels" in found:
        return "labels"
    if "mask" in found and not tokens:
        return "lists"
    return "scores" if found & {"scores", "win_rates", "groups", "advantages"} else "demos"
