"""The mutants of benchmarks/mutation.py change behaviour, one place at a time, and the sample is always the same."""

import ast
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import mutants
import mutation

ROOT = mutants.ROOT
SOURCE = '''
def loss(x: Tensor, beta: float = 0.1, whiten: bool = True) -> Tensor:
    """A docstring with 1 + 1."""
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta - 1}")
    best = x.detach().amax(-1)
    return -beta * (x - best).clamp(min=0)
'''


def mutated(source):
    """(operator, the mutated lines) of every mutant of a module."""
    finder = mutants.Finder("una_ref/methods/example.py", source.encode())
    finder.visit(ast.parse(source))
    lines = source.splitlines()
    found = []
    for mutant in finder.found:
        after = mutant.applied(source.encode()).decode().splitlines()
        found.append((mutant.operator, next(b.strip() for a, b in zip(lines, after, strict=True) if a != b)))
    return found


def test_every_operator_makes_its_mutants():
    assert set(mutated(SOURCE)) == {
        ("default", "def loss(x: Tensor, beta: float = 0.2, whiten: bool = True) -> Tensor:"),
        ("default", "def loss(x: Tensor, beta: float = 0.1, whiten: bool = False) -> Tensor:"),
        ("boolean", "if beta > 0:"),
        ("comparison", "if not beta >= 0:"),
        ("constant", "if not beta > 1:"),
        ("detach", "best = x.amax(-1)"),
        ("min and max", "best = x.detach().amin(-1)"),
        ("sign", "return -(-beta * (x - best).clamp(min=0))"),
        ("sign", "return beta * (x - best).clamp(min=0)"),
        ("arithmetic", "return -beta / (x - best).clamp(min=0)"),
        ("arithmetic", "return -beta * (x + best).clamp(min=0)"),
        ("min and max", "return -beta * (x - best).clamp(max=0)"),
        ("constant", "return -beta * (x - best).clamp(min=1)"),
    }


def test_sample_is_reproducible_and_every_mutant_is_python_that_differs():
    chosen = mutants.sample(300)
    assert chosen == mutants.sample(300) and chosen[:20] == mutants.sample(20)
    assert len({mutant.id for mutant in chosen}) == 300
    for mutant in chosen[::15]:
        before = (ROOT / mutant.path).read_bytes()
        assert ast.dump(ast.parse(mutant.applied(before))) != ast.dump(ast.parse(before))
    counts = {group: sum(mutant.group == group for mutant in chosen) for group in mutants.SHARES}
    assert all(abs(counts[group] - 300 * share) <= 2 for group, share in mutants.SHARES.items())


def test_every_module_of_the_sample_has_mirror_tests():
    paths = {mutant.path for mutant in mutants.sample(300)}
    assert all(mutation.tests_of(path) for path in paths)
    assert "tests/methods/test_pairs.py" in mutation.tests_of("una_ref/methods/pairs.py")
    assert mutation.tests_of("una_ref/theory/optimum.py") == ["tests/theory/test_optimum.py"]
    assert mutation.tests_of("una_ref/methods/credit.py")[0] == "tests/methods/test_tokens.py"


def test_report_counts_survivors_and_leaves_out_equivalent_mutants(tmp_path):
    rows = [
        {"id": "a", "path": "una_ref/methods/pairs.py", "line": 1, "result": "killed", "note": ""},
        {"id": "b", "path": "una_ref/methods/pairs.py", "line": 2, "result": "timeout", "note": ""},
        {"id": "c", "path": "una_ref/theory/optimum.py", "line": 3, "result": "survived", "note": ""},
        {"id": "d", "path": "una_ref/theory/optimum.py", "line": 4, "result": "survived", "note": "equivalent: x + 0"},
    ]
    mutation.save(tmp_path / "report.json", rows)
    loaded = mutation.load(tmp_path / "report.json")
    assert [key for key, row in loaded.items() if mutation.open_survivor(row)] == ["c"]
    assert list(loaded) == ["c", "d", "a", "b"] and loaded["d"]["note"] == "equivalent: x + 0"
    record = json.loads((tmp_path / "report.json").read_text())
    assert (record["killed"], record["equivalent"], record["killed_share"]) == (2, 1, 0.6667)
    assert record["by_folder"]["theory"] == {"mutants": 1, "killed": 0}
