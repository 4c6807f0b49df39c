"""Write the generated blocks of README.md and docs/*.md, which are drawn from the package's own records.

    python docs/build.py            write them
    python docs/build.py --check    name the blocks that are out of date; exit 1 if there are any

A block stands between ``<!-- begin generated: NAME -->`` and ``<!-- end generated -->``; `BLOCKS` has its function.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from functools import cache, partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import measured  # noqa: E402
from measured import code, table  # noqa: E402

from una_ref.notebook import minutes, sources  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"(<!-- begin generated: ([\w-]+) -->\n)(.*?)(<!-- end generated -->)", re.DOTALL)
WAITING: set[str] = set()
"""Blocks that are not built or checked yet: `una_ref.methods.arguments` does not exist."""


# ---- the package: folders, notebooks, command line, keys


FOLDERS = {
    "notebooks/": "One question each: derivation, numbers, checks. Executed, so that they can be read here.",
    "docs/": "Guides and reference.",
    "tests/": "Mirror the modules.",
    "benchmarks/": "Speed and memory beside TRL; runs on real text.",
    "figures/": "Figures, and in runs/ the records behind every number.",
}
"""The other folders."""


def tree() -> str:
    """Every folder with a line about it: of the package, from the bottom layer up, the first line of its docstring."""
    import importlib
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    lines = {"una_ref/": "The package; each folder imports only from those above it."}
    for name in reversed(" | ".join(layers).split(" | ")):
        if (ROOT / "una_ref" / name / "__init__.py").exists():
            about = str(importlib.import_module(f"una_ref.{name}").__doc__).split("\n\n")[0]
            lines[f"  {name}/"] = " ".join(about.split())
    return "\n".join(["```text", *(f"{name:<14} {about}" for name, about in (lines | FOLDERS).items()), "```"])


def notebooks() -> str:
    """Every notebook with the question in its first heading, and how long it takes to read."""
    rows = []
    for path in sources():
        heading = re.search(r"^# # (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert heading, f"{path.name} has no heading"
        link = f"[{path.stem.replace('_', ' ')}](../notebooks/{path.stem}.ipynb)"
        rows.append((link, heading[1], str(minutes(path))))
    return table(("notebook", "question", "minutes"), rows)


@cache
def help_of(*command: str) -> str:
    """What ``una-ref COMMAND --help`` prints, a line for each option."""
    from una_ref.cli import main

    unwrapped = os.environ | {"COLUMNS": "100000", "NO_COLOR": "1"}
    with patch.dict(os.environ, unwrapped), redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
        main([*command, "--help"])
    return printed.getvalue()


def commands() -> str:
    """Every command with its options."""
    parts = []
    listed = r"^ {4}([a-z]+)(?: {2,}|\n +)(\S.*)$"  # a long name has its help below it
    for name, about in re.findall(listed, help_of(), flags=re.MULTILINE):
        line = r"^ {2}(--[\w-]+(?: [A-Z_]+| \{\S+\})?)(?: {2,}|\n +)(\S.*)$"  # a long option has its help below it
        options = re.findall(line, help_of(name), flags=re.MULTILINE)
        parts += [f"### {name}", "", about[0].upper() + about[1:]]
        parts += ["", table(("option", "meaning"), ((code(o), text) for o, text in options)), ""]
    return "\n".join(parts).rstrip()


def keys() -> str:
    """Every key of a training run by group, with default, values and meaning."""
    from una_ref.training.config import field_types
    from una_ref.training.settings import key_groups

    types, parts = field_types(), []
    for heading, found in key_groups().items():
        rows = []
        for key in found:
            default = code(key.default) if key.default not in ("", "{}") else ""
            rows.append((code(key.name), default, values(types[key.name]), plain(key.about.partition(" One of: ")[0])))
        parts += [f"## {heading[0].upper()}{heading[1:]}", "", table(("key", "default", "values", "meaning"), rows), ""]
    return "\n".join(parts).rstrip()


def plain(text: str) -> str:
    """Text whose tags are shown: Markdown would hide ``</s>``."""
    return re.sub(r"(`[^`]*`)|<(?=[/a-z])", lambda match: match[1] or "&lt;", text)


def values(kind: Any) -> str:
    """The values of a type: words, or a kind of number with its range."""
    from una_ref.training.fields import choices

    [first, *bounds] = get_args(kind) if get_origin(kind) is Annotated else [kind]
    if get_origin(first) in (Union, UnionType):
        return " or ".join(values(part) for part in get_args(first) if part is not NoneType)
    if words := choices(kind):
        return code(*words)
    names = {bool: "`true`, `false`", str: "text", int: "whole number", float: "number"}
    return " ".join([names.get(first, "`name=number`"), *map(str, bounds)])


def options() -> str:
    """The names of other packages' options, and what to write here."""
    from una_ref.training.hints import PEERS

    names = sorted({name for own in PEERS.values() for name in own})
    rows = ((code(name), ", ".join(peer for peer in PEERS if name in PEERS[peer]), *_here(name)) for name in names)
    return table(("option", "of", "here", "note"), rows)


def more_options() -> str:
    """Names of transformers and of earlier releases of TRL, and what to write here."""
    from una_ref.training.hints import HINTS, PEERS

    known = {name for names in PEERS.values() for name in names} | {"clip", "draws", "hyper"}
    rows = ((code(name), *_here(name)) for name in sorted(HINTS.keys() - known))
    return table(("option", "here", "note"), rows)


def _here(name: str) -> tuple[str, str]:
    """What to write for an option of another package, and how it differs."""
    from una_ref.training.hints import HINTS, SAME

    if name in SAME:
        return code(name), SAME[name]
    return (code(HINTS[name].use) if HINTS[name].use else "–"), HINTS[name].note


def recipes() -> str:
    """Every recipe of one run with its method, model and data, then those of several steps with their steps."""
    from una_ref.training.settings import STAGES, recipe
    from una_ref.training.settings import recipes as names

    found = {name: recipe(name) for name in names()}
    rows = (
        (code(name), code(values["method"]), values.get("model", "made here"), values.get("data", "ToySteer"))
        for name, values in found.items()
        if STAGES not in values
    )
    one = table(("recipe", "method", "model", "data"), rows)
    staged = (
        (
            code(name),
            ", ".join(f"{step} ({code(own.get('method') or own['do'])})" for step, own in values[STAGES].items()),
        )
        for name, values in found.items()
        if STAGES in values
    )
    return f"{one}\n\n{table(('recipe of several steps', 'steps'), staged)}"


# ---- methods, papers, claims

FEEDBACK = {
    "pairs": ("pairs", ("prompt", "chosen", "rejected")),
    "labels": ("binary labels (thumbs)", ("prompt", "completion", "label")),
    "scores": ("scores", ("prompt", "completion", "score")),
    "lists": ("ranked lists", ("prompt", "completions", "scores")),
    "demos": ("demonstrations", ("prompt", "completion")),
}
"""Kind of feedback -> what a reader calls it, and its columns."""


def shown(names: Sequence[str], most: int) -> str:
    """The first `most` methods with their aliases, and the number of the others."""
    from una_ref.methods import METHODS

    also = {name: f" (= {code(*METHODS[name].aliases)})" for name in names if METHODS[name].aliases}
    words = " ".join(code(name) + also.get(name, "") for name in names[:most])
    return words + (f" and [{len(names) - most} more](docs/methods.md)" if len(names) > most else "")


def feedback(most: int = 1000) -> str:
    """Kinds of feedback, their columns and the methods that learn from them; `most` names in a row."""
    from una_ref.methods import METHODS
    from una_ref.training.config import Config

    online = [name for name in METHODS if Config(method=name).on_policy]
    offline = {name: METHODS[name].kinds for name in METHODS if name not in online and not METHODS[name].scorer}
    rows = []
    for kind, (title, columns) in FEEDBACK.items():
        taken = {"lists", "scores"} if kind == "lists" else {kind}
        names = [name for name, kinds in offline.items() if taken & set(kinds)]
        rows.append((title, code(*columns), shown(names, most)))
    sampled = f"{shown(online, most)}; any method on scores with `--online`"
    return table(("feedback", "columns", "methods"), [*rows, ("a reward for samples", code("prompt"), sampled)])


def conventions() -> str:
    """The layouts that a file may have, in the order in which they are tried, with an example of each."""
    from una_ref.data.conventions import CONVENTIONS, PROMPTS

    rows = [(c.name, code(*c.optional), code(_json(c.example))) for c in CONVENTIONS]
    rows += [(f"{c.name}, in online runs", "", code(_json(c.example))) for c in PROMPTS]
    return table(("layout", "optional columns", "one row"), rows)


def variants() -> str:
    """Other forms of the same columns, as public data sets have them, and the layouts that read them."""
    from una_ref.data.conventions import VARIANTS

    rows = [(name, layout, code(_json(example))) for name, (layout, example) in VARIANTS.items()]
    return table(("form", "read as", "one row"), rows)


def aliases() -> str:
    """Columns and their other names in public data sets."""
    from una_ref.data.records import ALIASES

    return table(("column", "other names that are read"), [(code(name), code(*more)) for name, more in ALIASES.items()])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def methods() -> str:
    """One row a method."""
    from una_ref.methods import METHODS
    from una_ref.methods import table as rows_of

    columns = ("feedback", "reward", "shape", "samples from", "unchanged by r → r + g(x)")
    rows = []
    for method, row in zip(METHODS.values(), rows_of(), strict=True):
        names = " = ".join((f"[{code(method.name)}](#{method.name})", *map(code, method.aliases)))
        rows.append((names, row["title"], *(row[column] for column in columns)))
    return table(("method", "title", *columns), rows)


def method_details() -> str:
    """A section a method: source, equation, errata, arguments, hyper-parameters."""
    from una_ref.methods import METHODS, describe

    parts = []
    for method in METHODS.values():
        found = describe(method)
        lines = {
            "Title": method.title,
            "Paper": cited(method),
            "Equation": method.equation,
            "Errata": errata(method.errata),
            "Reduces to": method.reductions,
            "Optimum": method.optimum_words,
            "In TRL": method.trl,
            "Hyper-parameters": code(*found["hyper-parameters"]),
            **{f"Arguments, {form}": code(*names) for form, names in found["arguments"].items()},
            "Notebook": f"[{method.notebook}](../notebooks/{method.notebook}.ipynb)" if method.notebook else "",
        }
        parts += [f"### {method.name}", "", *(f"- {name}: {text}" for name, text in lines.items() if text), ""]
    return "\n".join(parts).rstrip()


def hyperparameters() -> str:
    """What each hyper-parameter means."""
    from una_ref.methods import METHODS
    from una_ref.methods.method import HYPERPARAMETERS

    users: dict[tuple[str, str], list[str]] = {}
    for method in METHODS.values():
        for name in method.hyperparameters:
            users.setdefault((name, method.meaning(name)), []).append(method.name)
    order = [*HYPERPARAMETERS, *sorted({name for name, _ in users} - {*HYPERPARAMETERS})]
    found = sorted(users.items(), key=lambda item: order.index(item[0][0]))
    rows = ((code(name), about, code(*methods)) for (name, about), methods in found)
    return table(("hyper-parameter", "meaning", "methods"), rows)


def arguments() -> str:
    """Every argument that a loss may name."""
    from una_ref.methods.arguments import ARGUMENTS

    rows = (
        (code(a.name), code(a.shape), a.meaning, a.requires.value if a.requires else "") for a in ARGUMENTS.values()
    )
    return table(("argument", "shape", "meaning", "what the run provides for it"), rows)


def cited(method: Any) -> str:
    """The papers of a method, each linked to where it can be read."""
    return "; ".join(f"[{p.cited}]({p.url})" if p.url else p.cited for p in method.papers)


def errata(ids: Iterable[str]) -> str:
    """Ids of errata, each a link to its entry."""
    return " ".join(f"[{id}](claims.md#{id.lower()})" for id in ids)


def papers() -> str:
    """Every paper with its title, where it can be read, and the methods that are drawn from it."""
    from una_ref.methods import METHODS
    from una_ref.methods import papers as sources

    known = [paper for paper in vars(sources).values() if isinstance(paper, sources.Paper)]
    rows = (
        (
            paper.cited,
            f"[{paper.title}]({paper.url})" if paper.url else paper.title,
            code(*(m.name for m in METHODS.values() if paper in m.papers)),
        )
        for paper in known
    )
    return table(("cited as", "title", "methods"), rows)


def paper_methods() -> str:
    """Every method with its equation, its recipes and the errata that concern it."""
    from una_ref.methods import METHODS
    from una_ref.training.settings import STAGES, recipe
    from una_ref.training.settings import recipes as names

    users: dict[str, list[str]] = {}
    for name in names():
        keys = recipe(name)
        steps = [step for step in keys[STAGES].values() if "method" in step] if STAGES in keys else [keys]
        for method in dict.fromkeys(METHODS[step["method"]].name for step in steps):
            users.setdefault(method, []).append(name)
    rows = (
        (f"[`{m.name}`](methods.md#{m.name})", m.equation, code(*users.get(m.name, [])), errata(m.errata))
        for m in METHODS.values()
    )
    return table(("method", "equation", "recipes", "errata"), rows)


def runs(names: Iterable[str]) -> str:
    """The command that trains the first of these methods and recipes that exists, or nothing."""
    from una_ref.methods import METHODS
    from una_ref.training.settings import recipes as known

    there = (name for name in names if name in METHODS or name in known())
    return next((code(f"una-ref train {name}") for name in there), "not yet")


def survey_systems() -> str:
    """The systems of the survey's Table 1: where, what runs them, and where the printed row is not true of them."""
    from una_ref.methods.taxonomy import SYSTEMS

    rows = ((s.name, s.cited, s.where, runs(s.runs), s.because) for s in SYSTEMS)
    return table(("system", "paper", "in the survey", "command", "where the printed row is not true"), rows)


def survey_axes() -> str:
    """Table 1 of the survey as printed, with the true value behind each cell that differs."""
    from una_ref.methods.axes import AXES
    from una_ref.methods.taxonomy import SYSTEMS

    def cell(printed: str, true: str) -> str:
        return printed if printed == true else f"{printed} → **{true}**"

    rows = ((s.name, *(cell(s.printed[axis], s.axes[axis]) for axis in AXES)) for s in SYSTEMS)
    return table(("system", *AXES), rows)


def axis_values() -> str:
    """The axes with the meaning of each value."""
    from una_ref.methods.axes import AXES, VALUES

    rows = (
        (axis, about, "; ".join(f"{v}: {text}" for v, text in VALUES[axis].items())) for axis, about in AXES.items()
    )
    return table(("axis", "about", "values"), rows)


def survey_without_a_row() -> str:
    """Papers that the survey reviews and its Table 1 leaves out."""
    from una_ref.methods.taxonomy import WITHOUT_A_ROW

    rows = ((name, where, runs((method,))) for name, (where, method) in WITHOUT_A_ROW.items())
    return table(("system", "in the survey", "command"), rows)


LEDGER = {
    "EU": "Errata of UNA",
    "EP": "Errata of UPO",
    "ES": "Errata of the survey",
    "CU": "Claims of UNA",
    "CP": "Claims of UPO",
    "CS": "Claims of the survey",
}


def claims() -> str:
    """The whole ledger, a table for each kind of entry."""
    from una_ref.claims import CLAIMS

    parts = []
    for prefix, title in LEDGER.items():
        rows = []
        for entry in (entry for id, entry in CLAIMS.items() if id.startswith(prefix)):
            verdict = f"**{entry.verdict}**" + (f": {entry.instead}" if entry.instead else "")
            anchor = f'<a id="{entry.id.lower()}"></a>{entry.id}'
            rows.append((anchor, entry.place, entry.says, verdict, entry.number, _notebook(entry.notebook)))
        header = ("id", "where", "claim", "verdict", "number", "notebook")
        parts += [f"## {title}", "", table(header, rows), ""]
    return "\n".join(parts).rstrip()


def misprints() -> str:
    """Errata that no trained policy depends on: printed and correct form, a table for each paper."""
    from una_ref.claims import CLAIMS

    parts = []
    for prefix, title in LEDGER.items():
        entries = [entry for id, entry in CLAIMS.items() if id.startswith(prefix) and entry.misprint]
        rows = [(f"[{e.id}](claims.md#{e.id.lower()})", e.place, e.says, e.instead, e.number) for e in entries]
        if rows:
            header = ("id", "where", "printed", "correct", "in numbers")
            parts += [f"## {title.removeprefix('Errata of ')}", "", table(header, rows), ""]
    return "\n".join(parts).rstrip()


def _notebook(name: str | None) -> str:
    return f"[{name.split('_')[0]}](../notebooks/{name}.ipynb)" if name else ""


def claim_counts() -> str:
    """How many entries have which verdict."""
    from una_ref.claims import CLAIMS

    counts = Counter(re.sub(r" if .*", " if …", entry.verdict) for entry in CLAIMS.values())
    rows = [(f"**{verdict}**", count) for verdict, count in counts.most_common()]
    return table(("verdict", "entries"), [*rows, ("all", counts.total())])


def mutation() -> str:
    """Mutants by folder: how many the tests noticed, out of the record of benchmarks/mutation.py."""
    path = ROOT / "figures" / "runs" / "mutation.json"
    if not path.exists():
        return "No record yet."
    record = json.loads(path.read_text("utf-8"))
    rows = [
        (f"{name}/", folder["mutants"], folder["killed"], f"{folder['killed'] / max(folder['mutants'], 1):.1%}")
        for name, folder in record["by_folder"].items()
    ]
    total = record["mutants_run"] - record["equivalent"]
    rows.append(("all", total, record["killed"], f"{record['killed_share']:.1%}"))
    return table(("folder", "mutants", "noticed", "share"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "tree": tree,
    "notebooks": notebooks,
    "commands": commands,
    "keys": keys,
    "options": options,
    "more-options": more_options,
    "recipes": recipes,
    "feedback": feedback,
    "feedback-in-short": partial(feedback, 5),
    "conventions": conventions,
    "variants": variants,
    "aliases": aliases,
    "methods": methods,
    "method-details": method_details,
    "hyperparameters": hyperparameters,
    "arguments": arguments,
    "papers": papers,
    "paper-methods": paper_methods,
    "survey-systems": survey_systems,
    "survey-axes": survey_axes,
    "axis-values": axis_values,
    "survey-without-a-row": survey_without_a_row,
    "claims": claims,
    "claim-counts": claim_counts,
    "misprints": misprints,
    "mutation": mutation,
    **measured.BLOCKS,
}
"""Every block by name."""


def built(text: str) -> tuple[str, list[str]]:
    """A page with its blocks built again, and the names of those that changed."""
    changed = []

    def block(match: re.Match[str]) -> str:
        begin, name, before, end = match.groups()
        if name in WAITING:
            return match[0]
        now = f"\n{BLOCKS[name]()}\n\n"
        if now != before:
            changed.append(name)
        return begin + now + end

    return MARKED.sub(block, text), changed


def outdated() -> Iterator[tuple[Path, str, list[str]]]:
    """Each page that has blocks to build: path, new text, names of the blocks that changed."""
    for path in PAGES:
        text, changed = built(path.read_text(encoding="utf-8"))
        if changed:
            yield path, text, changed


def main() -> int:
    """Build or check every page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a block is out of date")
    check = parser.parse_args().check
    found = list(outdated())
    for path, text, changed in found:
        print(f"{path.relative_to(ROOT)}: {', '.join(changed)}{' out of date; run make docs' if check else ' written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
