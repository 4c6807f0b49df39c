"""The offline study's table and figure."""

import dataclasses
import json

from una_ref.studies.offline_report import MEASURES, PANELS, draw, table
from una_ref.studies.offline_study import OFFLINE
from una_ref.studies.summaries import over_worlds


def row(name, regret, lr=1e-3, worse=0):
    """A row of the ratings panel whose measures are all around one number."""
    measures = {measure: over_worlds([regret - 0.1, regret, regret + 0.1]) for measure in MEASURES}
    counts = {"worse_than_base": {"count": worse, "of": 3, "share": worse / 3}}
    return {"panel": "ratings", "name": name, "title": name, "lr": lr, "beta": None} | measures | counts


def test_the_table_is_ordered_by_regret_with_median_and_runs_worse_than_the_base():
    rows = [row("worse", 0.5, worse=2), row("base", 0.4, lr=None), row("better", 0.25)]
    results = {"settings": dataclasses.asdict(OFFLINE.settings), "rows": rows}
    head, better, base, worse = (line for line in table(results)[:8] if line.startswith(("| method", "| b", "| w")))
    assert head.startswith("| method | exact regret | median | worse than π_ref | true reward |")
    assert better.startswith("| better | 0.250 ± 0.248 | 0.250 | 0 of 3 | 0.250 ± 0.248 |") and "| 0.001 |" in better
    assert worse.startswith("| worse | 0.500 ± 0.248 | 0.500 | 2 of 3 |")
    assert base.startswith("| base | 0.400 ± 0.248 | 0.400 |  | 0.400")  # the base is not a run


def test_every_panel_has_its_heading():
    lines = table({"settings": dataclasses.asdict(OFFLINE.settings), "rows": []})
    assert [line for line in lines if line.startswith("###")] == [f"### {heading}" for heading in PANELS.values()]
    assert "2,048 labelled responses, 100 steps of 32 rows" in lines[-1]


def test_the_figure_is_the_same_bytes_for_the_same_numbers(records, tmp_path):
    results = json.loads((records / "compare" / "results.json").read_text())
    first, second = (draw(results, tmp_path, name).read_bytes() for name in ("a", "b"))
    assert first == second and first.count(b"<path") > 50
