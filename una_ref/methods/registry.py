"""All methods by name. The tables of the docs, the command line and the notebooks are drawn from here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from una_ref.errors import InputError, near
from una_ref.methods.method import Method
from una_ref.methods.records import RECORDS
from una_ref.methods.taxonomy import axes_of_method, systems_of


class UnknownMethod(InputError, KeyError):
    """No method has that name; the message has the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put quotes around it


class Registry(Mapping[str, Method]):
    """Methods by name, read-only. A lookup also takes an alias; iteration gives each method once."""

    def __init__(self, records: Iterable[Method]) -> None:
        self._methods = {method.name: method for method in records}
        self._aliases = {alias: method.name for method in self._methods.values() for alias in method.aliases}

    def __getitem__(self, name: str) -> Method:
        found = self._methods.get(self._aliases.get(name, name))
        if found is None:
            known = [*self._methods, *self._aliases]
            hint = near(str(name).lower().replace("_", "-"), known) or f"; expected one of {', '.join(known)}"
            raise UnknownMethod(f"no method is called {name!r}{hint}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)


METHODS = Registry(RECORDS)


def table() -> list[dict[str, str]]:
    """One row for each method, all values text: names, feedback, the five choices, equation, errata."""
    return [
        {
            "name": " = ".join((method.name, *method.aliases)),
            "title": method.title,
            "feedback": ", ".join(method.kinds),
            "reward": method.formula,
            "comparison": method.comparison,
            "shape": method.shape,
            "regulariser": method.regulariser,
            "samples from": method.samples,
            "unchanged by r → r + g(x)": method.invariance,
            "equation": method.equation,
            "errata": ", ".join(method.errata),
        }
        for method in METHODS.values()
    ]


def describe(method: Method) -> dict[str, Any]:
    """The whole record, ready for JSON: its row of the table, hyper-parameters, arguments of each form, and facts."""
    row = next(row for row, known in zip(table(), METHODS.values(), strict=True) if known is method)
    forms = {
        **method.losses,
        "printed": method.printed,
        "released": method.released,
        "advantages": method.advantages,
        "auxiliary": method.auxiliary.loss if method.auxiliary else None,
    }
    return {
        **row,
        "papers": [f"{paper.cited}: {paper.title}{f', {paper.url}' if paper.url else ''}" for paper in method.papers],
        "hyper-parameters": {
            f"{name}={default}": method.meaning(name) for name, default in method.hyperparameters.items()
        },
        "arguments": {form: _arguments(loss) for form, loss in forms.items() if loss is not None},
        "needs a reference": "yes" if method.needs_reference else "no",
        "a composition of the five choices": "yes" if method.composes else "no",
        "recipe of several steps": method.recipe,
        "defaults of a run": defaults(method),
        "note": method.note,
        "reductions": method.reductions,
        "optimum": method.optimum_words,
        "in TRL": method.trl,
        "notebook": method.notebook or "",
        "in the survey's Table 1": [f"{system.name}: {system.where}" for system in systems_of(method.name)],
        "axes": axes_of_method(method.name),
    }


def defaults(method: Method) -> list[str]:
    """What a run of the method does unless its keys say otherwise, as key=value with its meaning."""
    found = []
    if method.source != "dataset":
        found += [f"samples={method.samples_per_prompt}: responses per prompt in a step, from {method.samples}"]
        found += ["reward=self: the policy scores its own samples"] if method.judge == "self" else []
    if method.refresh:
        found += [f"refresh_every={method.refresh}: steps after which the reference moves to the policy"]
    return found


def _arguments(function: Callable[..., Any]) -> list[str]:
    """The arguments of a function as text, with their defaults: "logps", "beta=0.03"."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters]
