"""The tables that the papers print: every cell, what measures it, and which run would fill it (papers.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import nan
from typing import Any

import yaml

from una_ref.evaluation.tasks import TASKS


@dataclass(frozen=True)
class Column:
    """A column of a printed table.

    name
        As the paper writes it.
    task, metric, shots
        What measures it: the task's name in ``una-ref evaluate``, its metric ("unsaid" where the paper does not name
        it), and the number of few-shot examples.
    unit
        "percent", "share" or "of 10".
    beta
        The β of the runs that fill the column; None if any β does.
    """

    name: str
    task: str
    metric: str
    shots: int = 0
    unit: str = "percent"
    beta: float | None = None


@dataclass(frozen=True)
class PrintedRow:
    """A row of a printed table.

    name
        As the paper writes it.
    method
        The method of the runs that fill it, with its form behind a point unless it is the corrected one
        ("una-score.released"); "base" is the model before training.
    cells
        The printed numbers by column, "average" among them; None where nothing is printed.
    model
        The base model's name on the hub; of the row "base" only.
    train, after
        What stands behind ``una-ref train`` to make such a run, and for the run before it; empty if there is none.
    lacks
        What nobody has who wants to make such a run; empty if nothing is lacking.
    """

    name: str
    method: str
    cells: Mapping[str, float | None]
    model: str = ""
    train: str = ""
    after: str = ""
    lacks: str = ""


@dataclass(frozen=True)
class PrintedTable:
    """A table of a paper.

    id
        "1" to "6" (UNA), "upo" (its Figure 1), "survey".
    paper, place, title, setting
        Where it is, what it compares, and on which model and data.
    study
        "offline" or "online" (UNA), "upo", "survey": tables of one study have the same rows.
    columns, rows
        In the paper's order.
    average
        Whether it prints the plain mean of a row, as the last cell.
    digits
        Digits behind the point.
    remarks
        What the paper leaves open.
    claims
        Ids of the ledger's claims about it.
    """

    id: str
    paper: str
    place: str
    title: str
    setting: str
    study: str
    columns: tuple[Column, ...]
    rows: tuple[PrintedRow, ...]
    average: bool
    digits: int
    remarks: tuple[str, ...]
    claims: tuple[str, ...]

    def numbers(self) -> dict[str, tuple[float, ...]]:
        """Row -> its printed numbers in order, the average last; NaN where nothing is printed."""
        return {row.name: tuple(nan if x is None else x for x in row.cells.values()) for row in self.rows}


@cache
def printed() -> dict[str, PrintedTable]:
    """Every printed table by id.

    Raises:
        ValueError: a row of papers.yaml has more or fewer cells than its table has columns.
    """
    record = yaml.safe_load((resources.files("una_ref.evaluation") / "papers.yaml").read_text("utf-8"))
    columns = {name: _column(name, about) for name, about in record["columns"].items()}
    return {id: _table(id, dict(about), columns, record["rows"]) for id, about in record["tables"].items()}


def _column(name: str, about: Mapping[str, Any]) -> Column:
    task = TASKS.get(about["task"])
    measures: dict[str, Any] = {"metric": task.metrics[0], "shots": task.shots} if task else {}
    return Column(name, **(measures | dict(about)))


def _table(id: str, about: dict[str, Any], columns: Mapping[str, Column], rows: Mapping[str, Any]) -> PrintedTable:
    average = about.pop("average", False)
    cells = about.pop("cells")
    names = [*about.pop("columns"), *(["average"] if average else [])]
    if cells.keys() != rows[about["study"]].keys() or {len(row) for row in cells.values()} != {len(names)}:
        raise ValueError(f"papers.yaml, table {id}: expected a number or null for every row and column")
    return PrintedTable(
        id,
        columns=tuple(columns[name] for name in names if name != "average"),
        rows=tuple(
            PrintedRow(name, cells=dict(zip(names, cells[name], strict=True)), **keys)
            for name, keys in rows[about["study"]].items()
        ),
        average=average,
        remarks=tuple(" ".join(text.split()) for text in about.pop("remarks", ())),
        claims=tuple(about.pop("claims", ())),
        **about,
    )
