"""The committed notebooks: each source has its executed twin, each twin its source. nbmake runs them too."""

import pytest

from una_ref import notebook

FOLDER = notebook.folder()
SOURCES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_twin_is_the_executed_source(source):
    assert notebook.faults(source) == []


def test_every_twin_has_its_source():
    assert {twin.stem for twin in FOLDER.glob("*.ipynb")} <= {source.stem for source in SOURCES}


def test_numbers_are_the_reading_order():
    numbers = [source.name[:2] for source in SOURCES]
    assert all(number.isdigit() for number in numbers) and len(set(numbers)) == len(numbers)
