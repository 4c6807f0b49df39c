"""Pages of the site that are drawn from the package: one for each method, claim, recipe, group of keys
and package.

`generated` gives them as Markdown by path. Nothing of them is committed: `docs/book.py` writes them where Sphinx reads.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import build
import pushes
from measured import RUNS, code, table

from una_ref.claims import CLAIMS, Claim
from una_ref.claims.ledger import committed
from una_ref.methods import METHODS, Method
from una_ref.methods.axes import AXES
from una_ref.methods.taxonomy import systems_of
from una_ref.studies.leaderboard import board_tables as tables
from una_ref.training.settings import STAGES, key_groups, loss_keys, recipe, recipes

PACKAGES = ("theory", "methods", "policies", "training", "evaluation", "studies")
"""The packages that have a page, from the bottom layer up."""
PAPERS = {"UNA": "2408.15339", "survey": "2407.16216"}
"""The papers of the ledger that arXiv has."""


def generated() -> dict[str, str]:
    """Every generated page as Markdown by its path on the site."""
    return {
        **{f"docs/methods/{name}.md": method_page(method) for name, method in METHODS.items()},
        **{f"docs/claims/{id.lower()}.md": claim_page(claim) for id, claim in CLAIMS.items()},
        **{f"docs/recipes/{name}.md": recipe_page(name) for name in recipes()},
        "docs/recipes.md": recipe_index(),
        **{f"docs/keys/{slug(group)}.md": key_page(group) for group in key_groups()},
        "docs/api.md": api_index(),
        **{f"docs/api/{package}.md": api_page(package) for package in PACKAGES},
    }


def page(title: str, above: str, blocks: Iterable[str]) -> str:
    """A page below another one, which it links; it is not in the sidebar, which would list hundreds."""
    return "\n\n".join(("---\norphan: true\n---", f"# {title}", above, *(block for block in blocks if block))) + "\n"


def section(title: str, *blocks: str) -> str:
    """A section, or nothing without content."""
    content = [block for block in blocks if block]
    return "\n\n".join((f"## {title}", *content)) if content else ""


def fenced(language: str, text: str) -> str:
    """A block of code."""
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def source(function: Callable[..., Any]) -> str:
    """The source of a function, or of what a wrapper or a partial calls."""
    function = inspect.unwrap(getattr(function, "func", function))
    return textwrap.dedent(inspect.getsource(function))


def slug(heading: str) -> str:
    """A heading as the name of a page: "baseline V(x)" -> "baseline-v-x"."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


# ---- methods


def method_page(method: Method) -> str:
    """What a method is, the data it takes, its loss as code, what it pushes, and what is known of it."""
    also = f" = {code(*method.aliases)}" if method.aliases else ""
    above = f"[Methods](../methods.md) › `{method.name}`{also}"
    return page(
        f"{method.name}: {method.title}",
        above,
        [
            idea(method),
            section("Command", fenced("sh", f"una-ref methods {method.name}\nuna-ref train {method.name}")),
            section("Data it takes", data_of(method)),
            section("Loss", *losses_of(method)),
            section("What it pushes", push_of(method)),
            section("Hyper-parameters", hyperparameters_of(method)),
            section("What it becomes", method.reductions and sentence(method.reductions)),
            section("What the papers say of it", claims_of(method)),
            section("Recipes", ", ".join(f"[`{name}`](../recipes/{name}.md)" for name in users()[method.name])),
            section("In the survey's Table 1", survey_of(method)),
            section("Its place on the board", board_of(method)),
        ],
    )


def sentence(text: str) -> str:
    """Text with a capital and a full stop; Greek letters and code stay."""
    return (text[0].upper() if text[0].isascii() else text[0]) + text[1:] + ("" if text.endswith(".") else ".")


def idea(method: Method) -> str:
    """The method in a table: equation, the five choices, optimum."""
    facts = {
        "paper": build.cited(method),
        "equation": method.equation,
        "reward of a response": method.formula,
        "comparison": method.comparison,
        "shape": method.shape,
        "regulariser": "" if method.regulariser == "none" else method.regulariser,
        "optimum": method.optimum_words,
        "responses come from": method.samples,
        "unchanged by r → r + g(x)": method.invariance,
        "needs a reference": "yes" if method.needs_reference else "no",
        "note": method.note,
        "in TRL": code(method.trl) if method.trl else "",
        "notebook": f"[{method.notebook}](../../notebooks/{method.notebook}.ipynb)" if method.notebook else "",
    }
    return table(("", ""), ((name, text) for name, text in facts.items() if text))


def data_of(method: Method) -> str:
    """The columns of each kind of feedback, and what a run does by default."""
    from una_ref.methods.registry import defaults

    rows = [(build.FEEDBACK[kind][0], code(*build.FEEDBACK[kind][1])) for kind in method.kinds]
    if method.source != "dataset":
        rows = [("prompts; a reward scores the samples", code("prompt"))]
    more = "\n".join(f"- {code(key)}: {about}" for key, _, about in (text.partition(": ") for text in defaults(method)))
    link = "[Data](../data.md) has every layout, and what is converted to what."
    return "\n\n".join(filter(None, (table(("feedback", "columns"), rows), more, link)))


def losses_of(method: Method) -> Iterator[str]:
    """The code of each form of the loss, once."""
    forms: dict[str, Callable[..., Any] | None] = {
        **{f"on {build.FEEDBACK[kind][0]}": loss for kind, loss in method.losses.items()},
        "as printed in the paper": method.printed,
        "as in the authors' code": method.released,
        "advantages of a rollout": method.advantages,
        "auxiliary loss": method.auxiliary.loss if method.auxiliary else None,
    }
    shown: dict[str, list[str]] = {}
    for form, function in forms.items():
        if function is not None:
            inner = inspect.unwrap(getattr(function, "func", function))
            text = f"`{inner.__qualname__}` of {module_link(inner.__module__)}\n\n{fenced('python', source(function))}"
            shown.setdefault(text, []).append(form)
    for text, names in shown.items():
        yield f"**{sentence(', '.join(names))[:-1]}**: {text}"
    yield "[Loss arguments](../arguments.md) says what each argument is."


def push_of(method: Method) -> str:
    """The figure of the method with its legend."""
    figure = pushes.svg(method)
    if not figure:
        of = "all examples of a batch" if method.whole_batch else "whole next-token distributions"
        return f"The loss depends on {of}, so no curve of one number shows its push."
    names = pushes.arguments_of(method)
    other = " The prompt's other response has score 0.5 and stays at the start." if "groups" in names else ""
    kind = "rewards" if method.scorer else "log-probabilities"
    return (
        f"{figure}\n\n"
        f"*Push: minus the derivative of the loss by the {kind} of a response, by autograd on the code above. "
        f"Hyper-parameters have their defaults; running statistics are at their start.{other}*"
    )


def hyperparameters_of(method: Method) -> str:
    """Each with its default and meaning."""
    rows = [(code(key.name), code(key.default), key.about) for key in loss_keys(method.name)]
    return table(("key", "default", "meaning"), rows) if rows else ""


def claims_of(method: Method) -> str:
    """The errata of the method's record, and the claims whose check calls its loss or names it."""
    rows = [(claim_link(id), CLAIMS[id].says, f"**{CLAIMS[id].verdict}**") for id in known_claims(method.name)]
    return table(("entry", "claim", "verdict"), rows) if rows else ""


@cache
def known_claims(name: str) -> list[str]:
    """Errata of its record that are in the ledger, then every entry whose check names the method or its losses."""
    method = METHODS[name]
    words = [re.escape(f'"{name}"') for name in (method.name, *method.aliases)]
    words += [rf"\b{loss}\b" for loss in losses_by_name(method) if users_of_losses()[loss] == 1]
    pattern = re.compile("|".join(words))
    named = [id for id, text in checks().items() if pattern.search(text)]
    return list(dict.fromkeys([*(id for id in method.errata if id in CLAIMS), *named]))


def losses_by_name(method: Method) -> set[str]:
    """The names of the functions that are its losses."""
    return {inspect.unwrap(getattr(loss, "func", loss)).__name__ for loss in method.losses.values()}


@cache
def users_of_losses() -> Counter[str]:
    """Name of a loss -> how many methods use it; a loss of several names none of them."""
    return Counter(name for method in METHODS.values() for name in losses_by_name(method))


@cache
def checks() -> dict[str, str]:
    """Id -> the source of its check, without the entry that decorates it."""
    return {
        id: re.sub(r"^@claim\(.*?^(?=def )", "", source(claim.check), flags=re.DOTALL | re.MULTILINE)
        for id, claim in CLAIMS.items()
    }


def survey_of(method: Method) -> str:
    """The systems of Table 1 that the method runs, with the axes that are true of each."""
    systems = systems_of(method.name)
    if not systems:
        return ""
    rows = [(axis, about, *(system.axes[axis] for system in systems)) for axis, about in AXES.items()]
    where = " ".join(f"{system.name} ({system.where}): {system.because}" for system in systems if system.because)
    link = "[The survey's table](../survey.md) has all systems and the meaning of the values."
    return "\n\n".join(filter(None, (table(("axis", "about", *(s.name for s in systems)), rows), where, link)))


def board_of(method: Method) -> str:
    """The method's rows on the committed leaderboard, or why it has none."""
    board = json.loads((RUNS / "leaderboard" / "results.json").read_text("utf-8"))["board"]
    if method.name in board["exclusions"]:
        return f"Not on [the leaderboard](../leaderboard.md): {board['exclusions'][method.name]}."
    rows = [row for row in board["rows"] if row["budget"] == board["main_budget"]]
    found = [
        (row["title"], kind, f"{place} of {len(own)}", tables.interval(row["regret"]), tables.interval(row["to_dpo"]))
        for kind, own in tables.by_kind(rows, board["about"]).items()
        for place, row in enumerate(own, 1)
        if board["about"][row["name"]]["method"] == method.name
    ]
    head = ("row", "feedback", "place", f"exact regret at {board['main_budget']:,} labels", "minus DPO's")
    return f"{table(head, found)}\n\nMeans with 95 % intervals over worlds: [the leaderboard](../leaderboard.md)."


@cache
def users() -> dict[str, list[str]]:
    """Method -> the recipes with a step that trains by it."""
    found: dict[str, list[str]] = {name: [] for name in METHODS}
    for name in recipes():
        keys = recipe(name)
        for step in keys[STAGES].values() if STAGES in keys else [keys]:
            if "method" in step and name not in found[METHODS[step["method"]].name]:
                found[METHODS[step["method"]].name].append(name)
    return found


def method_link(name: str, up: str = "..") -> str:
    """A link to the page of a method or of its alias."""
    return f"[`{name}`]({up}/methods/{METHODS[name].name}.md)"


# ---- claims


def claim_link(id: str) -> str:
    """A link to the page of an entry of the ledger."""
    return f"[{id}](../claims/{id.lower()}.md)"


def claim_page(claim: Claim) -> str:
    """The claim, its verdict, its numbers, and the check that gave them."""
    paper = f"[{claim.paper}](https://arxiv.org/abs/{PAPERS[claim.paper]})" if claim.paper in PAPERS else claim.paper
    facts = {
        "paper": f"{paper}, {claim.place}",
        "claim": claim.says,
        "verdict": f"**{claim.verdict}**",
        "correct": claim.instead,
        "number": claim.number,
        "notebook": f"[{claim.notebook}](../../notebooks/{claim.notebook}.ipynb)" if claim.notebook else "",
        "methods": ", ".join(method_link(name) for name in METHODS if claim.id in known_claims(name)),
    }
    numbers = [(code(name), f"{value:.6g}") for name, value in committed()[claim.id].items()]
    kind = build.LEDGER[claim.id[:2]]
    return page(
        f"{claim.id}: {claim.says}",
        f"[Claims](../claims.md) › {kind}",
        [
            table(("", ""), ((name, text) for name, text in facts.items() if text)),
            section("Compute it again", fenced("sh", f"una-ref claims {claim.id} --check")),
            section(
                "The check", fenced("python", checks()[claim.id]), f"Module: {module_link(claim.check.__module__)}."
            ),
            section("Its numbers", table(("name", "value"), numbers) if numbers else ""),
        ],
    )


# ---- recipes and keys


def recipe_text(name: str) -> str:
    """The file of a recipe."""
    return (resources.files("una_ref.training") / "recipes" / f"{name}.yaml").read_text("utf-8")


def about(name: str) -> str:
    """The first sentence of a recipe's comment, without the papers in brackets."""
    comment = re.match(r"(?:#.*\n)*", recipe_text(name))
    lines = (comment[0] if comment else "").splitlines()
    words = " ".join(line.lstrip("# ") for line in lines).partition("una-ref train")[0]
    return re.sub(r"\s*\([^()]*https?:[^()]*\)", "", words).strip()


def recipe_index() -> str:
    """All recipes with their first sentence."""
    rows = [(f"[`{name}`](recipes/{name}.md)", about(name)) for name in recipes()]
    return "\n\n".join(
        (
            "# Recipes",
            "A recipe is a YAML file of keys. `una-ref train RECIPE` runs it; keys on the command line come on top.",
            table(("recipe", "what it does"), rows),
        )
    )


def recipe_page(name: str) -> str:
    """The file of a recipe with those that it extends, and the keys that result."""
    keys, up = recipe(name), "/".join([".."] * (name.count("/") + 1))
    steps = keys.get(STAGES, {"": keys})
    methods = dict.fromkeys(METHODS[step["method"]].name for step in steps.values() if "method" in step)
    files, parent = [fenced("yaml", recipe_text(name))], _parent(name)
    while parent:
        files.append(f"It extends `{parent}`:\n\n{fenced('yaml', recipe_text(parent))}")
        parent = _parent(parent)
    groups = {key.name: slug(group) for group, found in key_groups().items() for key in found}

    def row(key: str, value: object) -> tuple[str, str]:
        linked = f"[`{key}`]({up}/keys/{groups[key]}.md#{slug(key)})" if key in groups else code(key)
        return linked, code(json.dumps(value, ensure_ascii=False).strip('"'))

    shared = {key: value for key, value in keys.items() if key != STAGES} if STAGES in keys else {}
    parts = [table(("key of every step", "value"), [row(*item) for item in shared.items()])] if shared else []
    for step, own in steps.items():
        parts += [f"### {step}"] if step else []
        parts.append(table(("key", "value"), [row(*item) for item in own.items()]))
    return page(
        name,
        f"[Recipes]({up}/recipes.md) › `{name}`",
        [
            about(name),
            fenced("sh", f"una-ref train {name} --dry-run    # the plan\nuna-ref train {name}"),
            "Methods: " + ", ".join(method_link(method, up) for method in methods) + "." if methods else "",
            section("The file", *files),
            section("The keys that result", *parts),
        ],
    )


def _parent(name: str) -> str:
    found = re.search(r"^extends: *(\S+)", recipe_text(name), flags=re.MULTILINE)
    return found[1] if found else ""


@cache
def settings() -> dict[str, list[tuple[str, str]]]:
    """Key -> the recipes that set it, each with its value."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in recipes():
        keys = recipe(name)
        layers: list[Mapping[str, Any]] = [keys, *keys.get(STAGES, {}).values()]
        for key, value in ((key, value) for layer in layers for key, value in layer.items()):
            entry = (name, json.dumps(value, ensure_ascii=False).strip('"'))
            if entry not in found.setdefault(key, []):
                found[key].append(entry)
    return found


def key_page(group: str) -> str:
    """Each key of a group with its default, its values, its meaning and the recipes that set it."""
    from una_ref.training.config import field_types

    types, parts = field_types(), []
    for key in key_groups()[group]:
        facts = {
            "default": code(key.default) if key.default else "empty",
            "values": build.values(types[key.name]),
        }
        used = "; ".join(
            f"[`{name}`](../recipes/{name}.md) {code(value)}" for name, value in settings().get(key.name, [])
        )
        meaning = key.about.partition(" One of: ")[0]
        parts.append(
            section(
                f"`{key.name}`",
                build.plain(sentence(meaning)),
                table(("", ""), facts.items()),
                used and f"Recipes that set it: {used}.",
            )
        )
    return page(f"Keys: {group}", f"[Keys](../keys.md) › {group}", parts)


# ---- modules


@cache
def modules(package: str) -> list[str]:
    """The modules of a package, itself first, without those that begin with an underscore."""
    found = importlib.import_module(f"una_ref.{package}")
    names = (info.name for info in pkgutil.walk_packages(found.__path__, f"una_ref.{package}."))
    return [f"una_ref.{package}", *(name for name in names if not name.rpartition(".")[2].startswith("_"))]


def module_link(module: str, folder: str = "../api") -> str:
    """A link to a module on the page of its package; only its name, where the package has no page."""
    package = module.split(".")[1]
    return f"[`{module}`]({folder}/{package}.md#{module.replace('.', '')})" if package in PACKAGES else f"`{module}`"


def first_line(module: str) -> str:
    """The first sentence of a module's docstring."""
    return " ".join(str(importlib.import_module(module).__doc__ or "").split("\n\n")[0].split())


def api_index() -> str:
    """All modules with the first line of their docstrings, a table for each package."""
    parts = ["# Modules", "The public modules, from the bottom layer up. Each imports only from those above it."]
    for package in PACKAGES:
        rows = [(module_link(name, "api"), build.plain(first_line(name))) for name in modules(package)]
        parts += [f"## {package}", table(("module", "about"), rows)]
    return "\n\n".join(parts)


def api_page(package: str) -> str:
    """What the docstrings and signatures of a package's modules say."""
    parts = []
    for module in modules(package):
        directive = f".. automodule:: {module}\n   :members:\n   :ignore-module-all:\n"
        parts.append(section(f"`{module}`", fenced("{eval-rst}", directive)))
    return page(f"`una_ref.{package}`", f"[Modules](../api.md) › `{package}`", parts)
