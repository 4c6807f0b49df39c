import json

from una_ref.studies.leaderboard.board_summaries import summed
from una_ref.studies.leaderboard.board_tables import (
    alarms,
    best_rows,
    board,
    by_regret,
    condition,
    interval,
    mean,
    needed,
)


def test_an_interval_is_printed_behind_its_mean():
    assert interval({"mean": 0.3214, "low": 0.29, "high": 0.3551}) == "0.321 [0.290, 0.355]"
    assert interval(summed([0.5])) == "0.500"
    assert interval(summed([float("nan")])) == interval(None) == mean(None) == ""


def test_a_mean_is_never_minus_zero():
    assert mean(summed([-1e-9])) == "0.00"


def test_a_median_is_never_minus_zero(finished):
    results = json.loads(json.dumps(finished[1]["board"]))
    for row in results["references"]:
        row["regret"]["median"] = -1e-9
    cells = next(line for line in board(results) if line.startswith("| π_ref")).split(" | ")
    assert "0.000" in cells and "-0.000" not in cells


def test_labels_needed_say_which_side_they_are_on():
    assert needed({"labels": 16384, "bound": ">"}) == "> 16,384"
    assert needed({"labels": 256, "bound": "<="}) == "≤ 256"
    assert needed({"labels": 2048, "bound": ""}) == "2,048"
    assert needed(None) == ""


def test_rows_without_a_mean_come_last():
    rows = [{"name": name, "regret": summed([value])} for name, value in (("b", 0.5), ("n", float("nan")), ("a", 0.1))]
    assert [row["name"] for row in by_regret(rows)] == ["a", "b", "n"]


def test_an_axis_is_a_table_with_a_column_for_each_level():
    def row(name, level, value):
        return {"name": name, "title": name.upper(), "level": level, "regret": summed([value])}

    results = {
        "title": "noise",
        "levels": [0.0, "inf"],
        "labels": ["0", "∞"],
        "base": [row("base", 0.0, 1.0), row("base", "inf", 1.0)],
        "rows": [row("dpo", 0.0, 0.25), row("dpo", "inf", 0.5)],
    }
    assert condition(results)[2:] == [
        "Exact regret, in reward units.",
        "",
        "| method | 0 | ∞ |",
        "| --- | --- | --- |",
        "| BASE | 1.000 | 1.000 |",
        "| DPO | 0.250 | 0.500 |",
    ]


def test_the_best_row_of_each_kind_stands_with_those_that_do_not_differ_significantly():
    def row(name, *values):
        regret = summed(values)
        return {"name": name, "title": name.upper(), "budget": 64, "regret": regret, "to_dpo": None}

    rows = [
        row("b", 0.3, 0.35, 0.31),
        row("a", 0.1, 0.2, 0.15),
        row("c", 0.12, 0.19, 0.15),
        row("alone", 0.5, 0.5, 0.6),
    ]
    rows.append(row("d", 0.01, 0.01, 0.01))
    about = {
        name: {"feedback": "pairs" if name in "abcd" else "lists", "control": name == "d"}
        for name in ("a", "b", "c", "d", "alone")
    }
    table = best_rows({"rows": [*rows, {**row("a", 9.0), "budget": 16}], "main_budget": 64, "about": about})
    assert table[2:] == [
        "| pairs | A | 0.150 [0.026, 0.274] |  | `c` |",
        "| lists | ALONE | 0.533 [0.390, 0.677] |  |  |",
    ]


def test_a_monitor_whose_best_threshold_is_none_has_no_lead():
    def rule(name, threshold):
        measured = {"auroc": None, "kept": summed([0.5]), "gain": summed([0.3]), "gain_to_never": summed([0.1])}
        runs = {"count": 1, "of": 2, "share": 0.5}
        found = {"name": name, "title": name, "threshold": threshold, "hacked_runs": runs, "rang": runs, "lead": -0.25}
        return found | measured

    scenarios = [{"title": "a trap", "rules": [rule("kl", 0.5), rule("length", None)]}]
    rows = alarms({"scenarios": scenarios, "rows": ["rloo.rm"], "weak": 0.125, "fall": 0.05})
    assert "| kl |  | 0.50 | 0.30 | 0.10 | 1 of 2 | -25% |" in rows
    assert "| length |  | 0.50 | 0.30 | 0.10 |  |  |" in rows
