from una_ref.studies import markdown_tables as cells
from una_ref.studies.summaries import over_worlds


def test_rows_are_lines_of_markdown():
    assert cells.rows(["a", "b"], [["1", ""]]) == ["| a | b |", "| --- | --- |", "| 1 |  |"]


def test_mean_shows_its_interval_where_there_is_one():
    assert cells.mean({"mean": 0.5, "ci95": 0.25}) == "0.500 ± 0.250"
    assert cells.mean({"mean": 0.0005, "ci95": 0.0002}, 1, 1e3) == "0.5 ± 0.2"
    assert cells.mean(over_worlds([0.5])) == "0.500" and cells.mean(None) == ""


def test_no_number_is_minus_zero():
    assert cells.mean({"mean": -1e-9, "ci95": 0.0}) == "0.000 ± 0.000"
    assert cells.median({"median": -1e-9}) == "0.000"


def test_runs_are_counted():
    assert cells.count({"count": 1, "of": 6, "share": 1 / 6}) == "1 of 6"


def test_numbers_are_listed_as_short_as_they_are():
    assert cells.listed([1e-3, 0.03]) == "0.001, 0.03" and cells.listed([100, 101], " and ") == "100 and 101"
