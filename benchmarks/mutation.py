"""Mutation testing: change one operator or number at a time and see whether the mirror tests notice.

    python benchmarks/mutation.py                       300 mutants, two at a time; run it again to resume
    python benchmarks/mutation.py --count 20            the first 20 of the same sample
    python benchmarks/mutation.py --show 7              the diff of one mutant of the sample

The sample is drawn with a seed from methods/, theory/, three modules of data/ and the arithmetic of the trainer. Each
mutant runs in a copy of the checkout: the mirror tests of its module, the quickest first, until one fails or the tests
of `BUDGET` seconds have passed. Results go to figures/runs/mutation.json after each mutant. A survivor keeps the note
that somebody wrote into that file; "equivalent: …" takes it out of the rate.
"""
# ruff: noqa: D102  the hooks of ast and pytest

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "figures" / "runs" / "mutation.json"
SEED, COUNT = 20261129, 300
BUDGET = 20.0
"""Seconds of tests for a mutant, by the durations of the unchanged code; the quickest tests come first."""
SHARES = {"methods": 0.45, "theory": 0.25, "data": 0.15, "training": 0.15}
"""Of the sample, by folder."""
DATA = ("batch", "conversions", "encoder")
TRAINING = ("batches", "experience", "losses", "loop", "metrics", "samplers", "stopping", "trainer")
"""Modules of data/, and those of training/ that have formulas; of the latter only lines with arithmetic."""
MORE = {
    "methods": ["methods/test_every_loss.py", "methods/test_registry.py", "methods/test_composition.py"],
    "methods/records": ["methods/test_registry.py", "methods/test_composition.py", "methods/test_taxonomy.py"],
    "theory/token_populations": ["methods/test_tokens.py"],
    "training/batches": ["training/test_losses.py", "training/test_loop.py"],
    "training/experience": ["methods/test_online.py", "training/test_loop.py"],
    "training/stopping": ["training/test_samplers.py"],
}
"""Tests beside the module of the same name: of a folder, or of a module without one."""


# ---- mutants

OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}
TOKENS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
SWAPS = {"min": "max", "amin": "amax", "argmin": "argmax", "minimum": "maximum"}
SWAPS |= {other: name for name, other in SWAPS.items()}


@dataclass(frozen=True)
class Mutant:
    """One change of a module: the bytes from `start` to `end` become `new`."""

    path: str
    line: int
    start: int
    end: int
    old: str
    new: str
    operator: str
    digest: str

    @property
    def id(self) -> str:
        """Stable while the module is unchanged."""
        return f"{self.path}:{self.start}:{self.new}:{self.digest}"

    @property
    def group(self) -> str:
        """The folder of the package."""
        return self.path.split("/")[1]

    def applied(self, source: bytes) -> bytes:
        """The mutated module."""
        return source[: self.start] + self.new.encode() + source[self.end :]


class Finder(ast.NodeVisitor):
    """Collects the mutants of a module. Error messages, annotations and docstrings are left alone."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source, self.found = path, source, list[Mutant]()
        self.digest = hashlib.sha256(source).hexdigest()[:8]
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.parents: list[ast.AST] = []
        self.arithmetic: set[int] = set()

    def span(self, node: Any) -> tuple[int, int]:
        """Where a node begins and ends, in bytes."""
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def add(self, start: int, end: int, new: str, operator: str) -> None:
        """Enter a mutant."""
        line = self.source[:start].count(b"\n") + 1
        old = self.source[start:end].decode()
        self.found.append(Mutant(self.path, line, start, end, old, new, operator, self.digest))

    def between(self, left: Any, right: Any, token: str, new: str, operator: str) -> None:
        """A mutant of the operator between two nodes."""
        low, high = self.span(left)[1], self.span(right)[0]
        at = self.source.find(token.encode(), low, high)
        if at >= 0:
            self.add(at, at + len(token), new, operator)

    def visit(self, node: ast.AST) -> None:
        """Visit a node and what is in it, unless it holds no behaviour."""
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
            return
        self.parents.append(node)
        super().visit(node)
        self.parents.pop()

    def generic_visit(self, node: ast.AST) -> None:
        """Visit all fields but annotations and decorators."""
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        text = any(
            isinstance(x, ast.JoinedStr) or isinstance(getattr(x, "value", 0), str) for x in (node.left, node.right)
        )
        if type(node.op) in OPERATORS and not text:
            self.arithmetic |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            self.between(node.left, node.right, TOKENS[type(node.op)], OPERATORS[type(node.op)], "arithmetic")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            if type(op) in COMPARISONS:
                self.between(left, right, *COMPARISONS[type(op)], "comparison")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        token, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        self.between(node.values[0], node.values[1], token, new, "boolean")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start = self.span(node)[0]
        number = isinstance(node.operand, ast.Constant)
        index = number and isinstance(self.parents[-2], ast.Call | ast.keyword | ast.Slice | ast.Subscript | ast.Tuple)
        if isinstance(node.op, ast.USub) and not index:  # sum(-1) and x[-1] are places, not signs
            self.arithmetic.add(node.lineno)
            self.add(start, start + 1, "", "sign")
        elif isinstance(node.op, ast.Not):
            self.add(start, self.span(node.operand)[0], "", "boolean")
        if not index:
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value, (start, end) = node.value, self.span(node)
        default = any(isinstance(parent, ast.arguments) for parent in self.parents[-3:])
        operator = "default" if default else "constant"
        if isinstance(value, bool):
            self.add(start, end, str(not value), operator)
        elif isinstance(value, int):
            self.add(start, end, str(value + 1), operator)
        elif isinstance(value, float):
            self.add(start, end, repr(2 * value if value else 1.0), operator)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr == "detach" and not node.args:
            self.add(self.span(function.value)[1], self.span(node)[1], "", "detach")
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in SWAPS:
            end = self.span(function)[1]
            self.add(end - len(name), end, SWAPS[name], "min and max")
        for keyword in node.keywords:
            if name in ("clamp", "clip") and keyword.arg in SWAPS:
                start = self.span(keyword)[0]
                self.add(start, start + len(keyword.arg), SWAPS[keyword.arg], "min and max")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        functions = [parent for parent in self.parents if isinstance(parent, ast.FunctionDef)]
        kind = ast.unparse(functions[-1].returns) if functions and functions[-1].returns else ""
        if isinstance(node.value, ast.BinOp | ast.Call) and kind in ("Tensor", "float", "int"):
            start, end = self.span(node.value)
            self.add(start, end, f"-({self.source[start:end].decode()})", "sign")
        self.generic_visit(node)


def mutants_of(path: str) -> list[Mutant]:
    """All mutants of a module that are Python and differ from it."""
    source = (ROOT / path).read_bytes()
    finder = Finder(path, source)
    finder.visit(ast.parse(source))
    chosen = [m for m in finder.found if m.group != "training" or m.line in finder.arithmetic]
    removals = ("boolean", "detach")  # only what is left out can leave a bracket open
    return [m for m in chosen if m.operator not in removals or parses(m.applied(source))]


def parses(source: bytes) -> bool:
    """Whether it is Python."""
    try:
        return bool(ast.parse(source))
    except SyntaxError:
        return False


def modules() -> Iterator[str]:
    """The modules under test."""
    package = ROOT / "una_ref"
    for folder, names in (("methods", None), ("theory", None), ("data", DATA), ("training", TRAINING)):
        for path in sorted((package / folder).rglob("*.py")):
            if (names is None or path.stem in names) and path.stem not in ("__init__", "papers"):
                yield path.relative_to(ROOT).as_posix()


def sample(count: int = COUNT) -> list[Mutant]:
    """The first `count` mutants of the sample: shuffled within each folder, folders mixed by their shares."""
    chosen: list[tuple[float, Mutant]] = []
    for group, share in SHARES.items():
        found = [m for path in modules() if path.startswith(f"una_ref/{group}/") for m in mutants_of(path)]
        random.Random(f"{SEED} {group}").shuffle(found)
        chosen += [((i + 0.5) / share, mutant) for i, mutant in enumerate(found)]
    return [mutant for _, mutant in sorted(chosen, key=lambda item: (item[0], item[1].id))][:count]


def tests_of(path: str) -> list[str]:
    """The mirror tests of a module."""
    inside = Path(path).relative_to("una_ref").with_suffix("")
    own = f"{inside.parent}/test_{inside.name}.py"
    more = MORE.get(str(inside)) or MORE.get(str(inside.parent), [])
    names = dict.fromkeys([own, *more])
    return [f"tests/{name}" for name in names if (ROOT / "tests" / name).exists()]


# ---- running tests in a child of this process, which has torch loaded


class Order:
    """A pytest plugin: measures tests, or runs the quickest of those that passed first, within `BUDGET`."""

    def __init__(self, seconds: dict[str, float] | None) -> None:
        self.seconds, self.measured, self.failed = seconds, dict[str, float](), list[str]()

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        if self.seconds is None:
            return
        spent, kept = 0.0, []
        known = [item for item in items if item.nodeid in self.seconds]
        for item in sorted(known, key=lambda item: self.seconds[item.nodeid]):
            spent += self.seconds[item.nodeid]
            if spent <= BUDGET or not kept:
                kept.append(item)
        items[:] = kept

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.measured[report.nodeid] = self.measured.get(report.nodeid, 0.0) + report.duration
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)


def child(copy: Path, tests: list[str], seconds: dict[str, float] | None, answer: Path) -> None:
    """Run tests in a copy of the checkout and write what happened; never returns."""
    os.setsid()
    os.chdir(copy)
    log = os.open(copy / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)
    import pytest

    plugin = Order(seconds)
    code = 1
    try:
        options = ["-q", "-m", "not slow", "-p", "no:cacheprovider", *([] if seconds is None else ["-x"])]
        code = int(pytest.main([*options, *tests], plugins=[plugin]))
    finally:
        answer.write_text(json.dumps({"code": code, "failed": plugin.failed, "seconds": plugin.measured}))
        os._exit(0)


@dataclass
class Job:
    """Tests that run in a child."""

    pid: int
    copy: Path
    answer: Path
    deadline: float
    done: Callable[[dict[str, Any]], None]
    began: float


def workers(jobs: list[tuple[Any, ...]], count: int, folder: Path) -> None:
    """Run jobs (module, mutated source or None, durations or None, limit, callback), `count` at a time."""
    free = []
    for i in range(count):
        copy = folder / f"copy{i}"
        ignore = shutil.ignore_patterns("__pycache__", "runs", ".git", ".venv", "notebooks", "*.ipynb", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignore, symlinks=True)
        free.append(copy)
    running: list[Job] = []
    originals: dict[Path, tuple[Path, bytes]] = {}
    waiting = list(reversed(jobs))
    while waiting or running:
        while waiting and free:
            path, source, seconds, limit, done = waiting.pop()
            copy = free.pop()
            target = copy / path
            originals[copy] = target, target.read_bytes()
            if source is not None:
                target.write_bytes(source)
            answer = copy / "answer.json"
            answer.unlink(missing_ok=True)
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                child(copy, tests_of(path), seconds, answer)
            now = time.monotonic()
            running.append(Job(pid, copy, answer, now + limit, done, now))
        time.sleep(0.05)
        for job in list(running):
            ended = os.waitpid(job.pid, os.WNOHANG)[0] != 0
            late = not ended and time.monotonic() > job.deadline
            if late:
                os.killpg(job.pid, signal.SIGKILL)
                os.waitpid(job.pid, 0)
            if ended or late:
                running.remove(job)
                target, before = originals.pop(job.copy)
                target.write_bytes(before)
                free.append(job.copy)
                found = (
                    json.loads(job.answer.read_text()) if job.answer.exists() else {"code": 1, "failed": ["a crash"]}
                )
                took = round(time.monotonic() - job.began, 1)
                job.done({**found, "late": late, "took": took})


# ---- the run


def measured(paths: list[str], count: int, folder: Path) -> dict[str, dict[str, float]]:
    """Module -> test -> seconds on the unchanged code. Tests that fail there are left out, and named."""
    durations: dict[str, dict[str, float]] = {}

    def note(path: str) -> Callable[[dict[str, Any]], None]:
        def done(found: dict[str, Any]) -> None:
            passed = {test: s for test, s in found.get("seconds", {}).items() if test not in found["failed"]}
            if not passed:
                raise SystemExit(f"mutation: {path}: no mirror test passes on the unchanged code")
            durations[path] = passed
            print(f"{path}: {len(passed)} tests, {sum(passed.values()):.0f} s", *found["failed"], flush=True)

        return done

    workers([(path, None, None, 900.0, note(path)) for path in paths], count, folder)
    return durations


def load(report: Path) -> dict[str, dict[str, Any]]:
    """Results of earlier calls by the mutant's id."""
    return {row["id"]: row for row in json.loads(report.read_text())["mutants"]} if report.exists() else {}


def save(report: Path, rows: list[dict[str, Any]]) -> None:
    """Write the report, with the rate of killed mutants."""
    equivalent = [row for row in rows if row.get("note", "").startswith("equivalent")]
    counted = [row for row in rows if row not in equivalent]
    killed = [row for row in counted if row["result"] != "survived"]
    groups = {}
    for name in SHARES:
        of = [row for row in counted if row["path"].startswith(f"una_ref/{name}/")]
        groups[name] = {"mutants": len(of), "killed": sum(row["result"] != "survived" for row in of)}
    record = {
        "command": "python benchmarks/mutation.py",
        "seed": SEED,
        "budget_s": BUDGET,
        "mutants_run": len(rows),
        "equivalent": len(equivalent),
        "killed": len(killed),
        "killed_share": round(len(killed) / max(len(counted), 1), 4),
        "by_folder": groups,
        "mutants": sorted(rows, key=lambda row: (row["result"] != "survived", row["path"], row["line"])),
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    unfinished = report.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, report)


def show(mutant: Mutant) -> str:
    """The diff of a mutant."""
    source = (ROOT / mutant.path).read_bytes()
    before, after = source.decode().splitlines(), mutant.applied(source).decode().splitlines()
    return "\n".join(difflib.unified_diff(before, after, mutant.path, mutant.operator, n=1, lineterm=""))


def main() -> int:
    """0, or 1 where fewer than 92 % of a complete sample are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--show", type=int, help="print one mutant of the sample and stop")
    options = parser.parse_args()
    chosen = sample(options.count)
    if options.show is not None:
        print(show(chosen[options.show]))
        return 0
    rows, notes = [], load(options.report)
    todo = []
    for mutant in chosen:
        if mutant.id in notes:
            rows.append(notes[mutant.id])
        else:
            todo.append(mutant)
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.dont_write_bytecode = True
    import pytest  # noqa: F401  loaded once, for all children
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        paths = list(dict.fromkeys(mutant.path for mutant in todo))
        durations = measured(paths, options.workers, Path(name) / "plain") if paths else {}

        def note(mutant: Mutant) -> Callable[[dict[str, Any]], None]:
            def done(found: dict[str, Any]) -> None:
                result = "timeout" if found["late"] else "killed" if found["code"] != 0 else "survived"
                row = {
                    "id": mutant.id,
                    "path": mutant.path,
                    "line": mutant.line,
                    "operator": mutant.operator,
                    "old": mutant.old if len(mutant.old) < 80 else mutant.old[:77] + "...",
                    "new": mutant.new if len(mutant.new) < 80 else mutant.new[:77] + "...",
                    "result": result,
                    "by": next(iter(found["failed"]), ""),
                    "seconds": found["took"],
                    "note": "",
                }
                rows.append(row)
                save(options.report, rows)
                print(
                    f"{len(rows)}/{len(chosen)} {result}: {mutant.path}:{mutant.line} {row['old']} → {row['new']}",
                    flush=True,
                )

            return done

        jobs = []
        for mutant in todo:
            source = mutant.applied((ROOT / mutant.path).read_bytes())
            spent = min(BUDGET, sum(durations[mutant.path].values()))
            jobs.append((mutant.path, source, durations[mutant.path], 30 + 4 * spent, note(mutant)))
        workers(jobs, options.workers, Path(name) / "mutants")
    save(options.report, rows)
    survivors = [row for row in rows if row["result"] == "survived" and not row["note"].startswith("equivalent")]
    for row in survivors:
        print(f"survived: {row['path']}:{row['line']} ({row['operator']}) {row['old']} → {row['new']}")
    share = json.loads(options.report.read_text())["killed_share"]
    print(f"{share:.1%} of {len(rows)} killed, {time.monotonic() - began:.0f} s")
    return 0 if share >= 0.92 or len(rows) < COUNT else 1


if __name__ == "__main__":
    sys.exit(main())
