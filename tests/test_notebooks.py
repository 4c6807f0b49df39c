"""The committed notebooks: each source has its executed twin, and each twin its source. nbmake runs them too."""

import json
import re

import jupytext
import pytest

from una_ref import notebook

FOLDER = notebook.folder()
SOURCES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_twin_is_the_executed_source(source):
    assert notebook.faults(source) == []


def test_every_twin_has_its_source():
    assert {twin.stem for twin in FOLDER.glob("*.ipynb")} <= {source.stem for source in SOURCES}


def test_every_notebook_has_a_number_of_its_own():
    numbers = [source.name[:2] for source in SOURCES]
    assert all(number.isdigit() for number in numbers) and len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_claims_in_a_twin_are_those_of_the_ledger(source):
    """A new or changed claim makes a twin stale, although the notebook's source stays the same."""
    from una_ref.claims import CLAIMS, markdown

    shown = re.findall(r"^\| [EC][UPS]\d+[ab]? \|.*$", printed(source.with_suffix(".ipynb")), flags=re.MULTILINE)
    whole = markdown(CLAIMS.values()).splitlines()
    assert [row for row in shown if row not in whole] == []
    own = {id for id, claim in CLAIMS.items() if claim.notebook == source.stem}
    ids = {row.split("|")[1].strip() for row in shown}
    assert not ids or own <= ids


def printed(twin):
    """The Markdown output of a twin's cells."""
    cells = json.loads(twin.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join("".join(output.get("data", {}).get("text/markdown", [])) for output in outputs)


def equations(paper: str, numbers: range) -> set[int]:
    """The equations of a paper that the text of the theory notebooks names, as in "UNA Eq. 3–5, 11 and 13"."""
    named = set()
    for number in numbers:
        (source,) = FOLDER.glob(f"{number:02}_*.py")
        for cell in jupytext.read(source, fmt="py:percent").cells:
            for listed in re.findall(rf"{paper} Eq\.\s*([\d,–\-\s]+(?:and \d+)?)", cell.source):
                for part in re.split(r",|and", listed):
                    ends = [int(end) for end in re.findall(r"\d+", part)]
                    named |= set(range(ends[0], ends[-1] + 1)) if ends else set()
    return named


@pytest.mark.parametrize(
    ("paper", "last", "notebooks"),
    [("UNA", 25, range(1, 5)), ("UPO", 26, range(5, 7)), ("survey", 67, range(14))],
)
def test_every_numbered_equation_is_in_a_notebook(paper, last, notebooks):
    assert set(range(1, last + 1)) - equations(paper, notebooks) == set()
