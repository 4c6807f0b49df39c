"""The printed tables are complete, and their numbers are those of the papers."""

import math

import pytest
import yaml

from una_ref.evaluation import printed as module
from una_ref.evaluation.printed import printed

SUMS = {
    # Sums of a row's cells without its average, of the data file, whose cells were compared with the papers' texts.
    "1": [171.68, 171.19, 171.37, 173.25, 173.57, 185.53],
    "2": [365.56, 373.58, 376.45, 378.72, 378.36, 386.08],
    "3": [3.46, 9.77, 10.45, 12.32, 13.64, 15.50],
    "4": [174.82, 174.70, 174.92],
    "5": [350.02, 349.12, 351.41],
    "6": [17.14, 16.75, 17.25],
    "upo": [1.143, 1.187],
    "survey": [85.71, 28.53, 33.0, 67.2, 60.2],
}
CELLS = {"1": 42, "2": 42, "3": 12, "4": 21, "5": 21, "6": 6, "upo": 4, "survey": 9}
"""Numbers that a table prints, its averages among them."""


def cells(row):
    return [x for name, x in row.cells.items() if x is not None and name != "average"]


def test_every_table_has_all_of_its_numbers():
    found = {id: sum(x is not None for row in t.rows for x in row.cells.values()) for id, t in printed().items()}
    assert found == CELLS


@pytest.mark.parametrize("id", SUMS)
def test_rows_add_up_to_the_sums_of_the_printed_numbers(id):
    assert [sum(cells(row)) for row in printed()[id].rows] == pytest.approx(SUMS[id], abs=1e-9)


@pytest.mark.parametrize("id", ["1", "2", "4", "5"])
def test_printed_averages_are_the_means_of_their_rows(id):
    for row in printed()[id].rows:
        assert abs(sum(cells(row)) / 6 - row.cells["average"]) <= 0.005 + 1e-9, row.name


def test_tables_of_one_study_have_the_same_rows():
    rows = {}
    for table in printed().values():
        rows.setdefault(table.study, set()).add(tuple((row.name, row.method) for row in table.rows))
    assert {study: len(found) for study, found in rows.items()} == {"offline": 1, "online": 1, "upo": 1, "survey": 1}


def test_numbers_have_nan_where_the_paper_prints_nothing():
    numbers = printed()["upo"].numbers()
    assert numbers["IPO"][:2] == (0.595, 0.548) and math.isnan(numbers["IPO"][2])


def test_every_claim_about_a_table_is_in_the_ledger():
    from una_ref.claims import CLAIMS

    assert {id for table in printed().values() for id in table.claims} <= CLAIMS.keys()


def test_a_row_with_a_missing_cell_is_refused(monkeypatch):
    load = yaml.safe_load

    def without_a_cell(text):
        record = load(text)
        record["tables"]["2"]["cells"]["KTO"].pop()
        return record

    monkeypatch.setattr(module.yaml, "safe_load", without_a_cell)
    with pytest.raises(ValueError, match="table 2: expected a number or null for every row and column"):
        printed.__wrapped__()
