"""The ledger is complete, and a recomputed check that differs from the committed numbers is reported."""

import dataclasses
import json
import math
import re
import string
import subprocess
import sys

import pytest

from una_ref import cli, notebook
from una_ref.claims import CLAIMS, Evidence, markdown, recompute
from una_ref.claims.ledger import FAILS, HOLDS, claim, committed

IDS = [
    *(f"EU{n}" for n in range(1, 19)),
    *(f"EP{n}" for n in range(1, 12)),
    *(f"CU{n}" for n in range(1, 35)),
    *("CU5a", "CU5b", "CU22a", "CU22b"),
    *(f"CP{n}" for n in range(1, 11)),
    *(f"ES{n}" for n in range(1, 40)),
    *(f"CS{n}" for n in range(1, 29)),
]

SLOW = {"ES23", "CS1", "CS2", "CS5", "CS13", "CS14", "CS16", "CS24", "CS12", "ES32", "ES36"}
SAMPLE = ["EU4", "EU12", "EU13", "EP3", "EP7", "CU5", "CU18", "CU22a", "CU24", "CU25", "CP2"]
FAST = [id for id in IDS if id[1] == "S" and id not in SLOW]
"""The survey's entries that take well under a second."""


def test_the_ledger_has_every_erratum_and_claim_in_order():
    assert set(IDS) == set(CLAIMS)
    order = list(CLAIMS)
    assert order[:3] == ["EU1", "EU2", "EU3"] and order[-1] == "CS28" and len(order) >= 120
    assert order.index("EP11") + 1 == order.index("ES1") and order.index("ES39") + 1 == order.index("CU1")
    assert order.index("EU18") + 1 == order.index("EP1") and order.index("CU5") + 1 == order.index("CU5a")


def test_every_claim_has_finite_committed_numbers_and_shows_all_of_them():
    assert set(committed()) == set(CLAIMS)
    for id, entry in CLAIMS.items():
        numbers = committed()[id]
        assert all(map(math.isfinite, numbers.values())), id
        shown = {name for _, name, _, _ in string.Formatter().parse(entry.shows) if name}
        assert shown == set(numbers), id


def test_every_claim_that_does_not_simply_hold_has_a_correct_statement():
    for entry in CLAIMS.values():
        assert entry.verdict == HOLDS or entry.instead, entry.id
        assert entry.says and entry.place


def test_a_misprint_is_an_erratum_that_fails_as_printed():
    for id in ("CU5", "EU14"):  # a claim, and an erratum that holds under a condition
        with pytest.raises(ValueError, match="misprint"):
            dataclasses.replace(CLAIMS[id], misprint=True)
    assert CLAIMS["EU12"].misprint and not CLAIMS["EU7"].misprint


def test_the_page_of_misprints_lists_exactly_the_misprints():
    page = notebook.folder().parent / "docs" / "errata.md"
    listed = re.findall(r"^\| \[(\w+)\]\(claims\.md#(\w+)\)", page.read_text("utf-8"), flags=re.MULTILINE)
    assert [id for id, _ in listed] == [id for id, entry in CLAIMS.items() if entry.misprint]
    assert all(anchor == id.lower() for id, anchor in listed)


def test_the_notebooks_of_the_claims_exist():
    notebooks = {path.stem for path in notebook.folder().glob("*.py")}
    assert {entry.notebook for entry in CLAIMS.values()} - {None} <= notebooks


@pytest.mark.parametrize("id", [*SAMPLE, *FAST])
def test_recomputed_claims_have_the_committed_numbers(id):
    (again,) = recompute([CLAIMS[id]])
    assert again.faults == []


def faults(**evidence):
    """The faults of EU1 recomputed by a check that returns this evidence."""
    entry = dataclasses.replace(CLAIMS["EU1"], check=lambda: Evidence(**evidence))
    return next(recompute([entry])).faults


def test_false_statements_and_changed_numbers_are_faults():
    numbers = dict(committed()["EU1"])
    assert faults(numbers=numbers, stands={"a": True}) == []
    assert faults(numbers=numbers, stands={"a": True, "b": False}) == ["no longer true: b"]
    best = numbers["best"]
    moved = faults(numbers=numbers | {"best": best + 0.01}, stands={"a": True})
    assert moved == [f"best is {best + 0.01:.6g}, committed is {best:.6g}"]
    assert "committed are" in faults(numbers={"other": 1.0}, stands={"a": True})[0]
    assert faults(numbers=numbers | {"best": float("nan")}, stands={"a": True}) != []


def test_evidence_without_statements_unknown_verdicts_and_taken_ids_are_refused():
    with pytest.raises(ValueError, match="evidence: expected at least one statement"):
        Evidence({}, {})
    with pytest.raises(ValueError, match="EU1: expected a verdict of .*, got 'perhaps'"):
        dataclasses.replace(CLAIMS["EU1"], verdict="perhaps")
    enter = claim("EU1", paper="UNA", place="Eq. 1", says="a", verdict=HOLDS, shows="", notebook=None)
    before = CLAIMS["EU1"]
    with pytest.raises(ValueError, match="claim EU1: this id is in the ledger already"):
        enter(lambda: Evidence({}, {"a": True}))
    assert CLAIMS["EU1"] is before


def test_a_vertical_bar_in_a_claim_is_escaped_in_the_table():
    entry = dataclasses.replace(CLAIMS["EU1"], says="π(y|x)")
    assert "π(y\\|x)" in markdown([entry])


def test_the_command_line_prints_and_recomputes_claims(capsys):
    assert cli.main(["claims", "EU4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == FAILS
    assert cli.main(["claims"]) == 0
    assert f"{len(CLAIMS)} entries" in capsys.readouterr().out
    assert cli.main(["claims", "EU4", "--check"]) == 0
    said = capsys.readouterr().out
    number = CLAIMS["EU4"].number
    assert "1 claim recomputed, 0 changed" in said
    assert f"committed   {number}" in said
    assert f"recomputed  {number}" in said
    for statement in next(recompute([CLAIMS["EU4"]])).evidence.stands:
        assert f"true        {statement}" in said
    assert cli.main(["claims", "CU1"]) == 0
    assert all(len(line.split("  ")) > 1 for line in capsys.readouterr().out.splitlines()), "a field without a value"
    assert cli.main(["claims", "eu99"]) == 2
    assert "did you mean EU" in capsys.readouterr().err


def test_a_check_with_other_numbers_than_the_claim_shows_names_them(monkeypatch, capsys):
    check = lambda: Evidence({"other": 1.0}, {"a": True})  # noqa: E731
    monkeypatch.setitem(CLAIMS, "EU1", dataclasses.replace(CLAIMS["EU1"], check=check))
    assert cli.main(["claims", "EU1", "--check"]) == 1
    assert "recomputed  other\n" in capsys.readouterr().out


def test_the_command_line_fails_where_a_verdict_no_longer_stands(monkeypatch, capsys):
    check = lambda: Evidence(committed()["EU1"], {"the sky is green": False})  # noqa: E731
    monkeypatch.setitem(CLAIMS, "EU1", dataclasses.replace(CLAIMS["EU1"], check=check))
    assert cli.main(["claims", "EU1", "--check"]) == 1
    assert "EU1: no longer true: the sky is green" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_ledger_recomputes_to_the_committed_numbers():
    done = subprocess.run(
        [sys.executable, "-m", "una_ref", "claims", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "0 changed" in done.stdout
