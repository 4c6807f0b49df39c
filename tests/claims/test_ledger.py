"""The ledger is complete, its numbers are the committed ones, and a check that comes out otherwise is noticed."""

import dataclasses
import json
import subprocess
import sys

import pytest

from una_ref import cli, notebook
from una_ref.claims import CLAIMS, Evidence, markdown, recompute
from una_ref.claims.ledger import FAILS, HOLDS, Claim, committed

ASKED = [
    *(f"EU{n}" for n in range(1, 19)),
    *(f"EP{n}" for n in range(1, 12)),
    *(f"CU{n}" for n in range(1, 30)),
    *("CU5a", "CU5b", "CU22a", "CU22b"),
    *(f"CP{n}" for n in range(1, 11)),
]


def test_every_erratum_and_claim_is_in_it_and_decided():
    assert set(ASKED) <= set(CLAIMS)
    assert not any(claim.open for claim in CLAIMS.values())


def test_every_decided_claim_has_its_numbers_and_no_other_has():
    assert set(committed()) == {id for id, claim in CLAIMS.items() if not claim.open}
    for claim in CLAIMS.values():
        assert bool(claim.number) != claim.open
        assert "nan" not in claim.number
        assert "inf" not in claim.number.replace("information", "").replace("infinit", "")


def test_a_claim_that_fails_says_what_is_right_and_one_that_holds_need_not():
    for claim in CLAIMS.values():
        assert claim.verdict == HOLDS or claim.open or claim.instead, claim.id
        assert claim.says and claim.place


def test_its_notebooks_are_there():
    notebooks = {path.stem for path in notebook.folder().glob("*.py")}
    assert {claim.notebook for claim in CLAIMS.values()} - {None} <= notebooks


@pytest.mark.parametrize("id", ["EU4", "EU12", "EU13", "EP3", "EP7", "CU5", "CU18", "CU22a", "CU24", "CU25", "CP2"])
def test_computed_again_it_is_the_same(id):
    (again,) = recompute([CLAIMS[id]])
    assert again.faults == []


def changed(**what):
    """EU1 with another check, computed again."""
    claim = dataclasses.replace(CLAIMS["EU1"], check=lambda: Evidence(**what))
    return next(recompute([claim])).faults


def test_a_statement_that_is_no_longer_true_and_a_number_that_moved_are_faults():
    numbers = dict(committed()["EU1"])
    assert changed(numbers=numbers, stands={"so": True}) == []
    assert changed(numbers=numbers, stands={"so": True, "and so": False}) == ["no longer true: and so"]
    best = numbers["best"]
    moved = changed(numbers=numbers | {"best": best + 0.01}, stands={"so": True})
    assert moved == [f"best is {best + 0.01:.6g}, committed is {best:.6g}"]
    assert "committed are" in changed(numbers={"other": 1.0}, stands={"so": True})[0]
    assert changed(numbers=numbers | {"best": float("nan")}, stands={"so": True}) != []


def test_what_makes_no_entry():
    with pytest.raises(ValueError, match="at least one statement"):
        Evidence({}, {})
    with pytest.raises(ValueError, match="verdict must be"):
        Claim("EU0", "UNA", "Eq. 1", "so", "perhaps", "", "", None, None)
    with pytest.raises(ValueError, match="an open claim has no check"):
        Claim("EU0", "UNA", "Eq. 1", "so", FAILS, "", "", None, None)


def test_a_bar_in_a_claim_does_not_break_the_table():
    entry = dataclasses.replace(CLAIMS["EU1"], says="π(y|x)")
    assert "π(y\\|x)" in markdown([entry])


def test_the_command_line(capsys):
    assert cli.main(["claims", "EU4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == FAILS
    assert cli.main(["claims"]) == 0
    assert f"{len(CLAIMS)} entries" in capsys.readouterr().out
    assert cli.main(["claims", "EU4", "--check"]) == 0
    assert "1 decided claims computed again, 0 changed" in capsys.readouterr().out
    assert cli.main(["claims", "eu99"]) == 2
    assert "did you mean EU" in capsys.readouterr().err


def test_the_command_line_fails_where_a_verdict_changed(monkeypatch, capsys):
    check = lambda: Evidence(committed()["EU1"], {"the sky is green": False})  # noqa: E731
    monkeypatch.setitem(CLAIMS, "EU1", dataclasses.replace(CLAIMS["EU1"], check=check))
    assert cli.main(["claims", "EU1", "--check"]) == 1
    assert "EU1: no longer true: the sky is green" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_ledger_computed_again():
    done = subprocess.run(
        [sys.executable, "-m", "una_ref", "claims", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "0 changed" in done.stdout
