"""The mutants of una_ref: one operator or number changed, in methods/, theory/, data/ and the trainer's arithmetic.

`mutation.py` runs them.
"""
# ruff: noqa: D102  the hooks of ast

from __future__ import annotations

import ast
import difflib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SEED, COUNT = 20261129, 300
SHARES = {"methods": 0.45, "theory": 0.25, "data": 0.15, "training": 0.15}
"""Of the sample, by folder."""
DATA = ("batch", "conversions", "encoder")
TRAINING = ("batches", "experience", "losses", "loop", "metrics", "samplers", "stopping", "trainer")
"""Modules of data/, and those of training/ that have formulas; of the latter only lines with arithmetic."""

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


def show(mutant: Mutant) -> str:
    """The diff of a mutant."""
    source = (ROOT / mutant.path).read_bytes()
    before, after = source.decode().splitlines(), mutant.applied(source).decode().splitlines()
    return "\n".join(difflib.unified_diff(before, after, mutant.path, mutant.operator, n=1, lineterm=""))
