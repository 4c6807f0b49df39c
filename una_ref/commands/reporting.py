"""``una-ref report``: the papers' tables with our numbers beside the printed ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from una_ref.commands.console import said, wrapped
from una_ref.errors import InputError, near

if TYPE_CHECKING:
    from una_ref.evaluation.printed import PrintedTable
    from una_ref.evaluation.report import Line, Report, ReportRow

FOLDERS = ("runs", "evaluations", "figures/runs")
"""Where runs and evaluations are looked for, if they are there and no folder is named."""
WIDTH = 120
NOT_RUN, NOT_PRINTED = "not run", "–"
JUDGE_BELOW = " \\\n        --judge"
"""A line with a judge is too long for a terminal; a shell takes both lines as one."""


def report(arguments: argparse.Namespace) -> int:
    """Print the tables, or one of them."""
    from una_ref.evaluation.collected import collect
    from una_ref.evaluation.printed import printed
    from una_ref.evaluation.report import filled

    tables, folders = _asked([*arguments.what, *(arguments.table or [])], printed())
    measured = collect(folders or [folder for folder in FOLDERS if Path(folder).is_dir()])
    if folders and not measured:
        said(0, f"no evaluation and no finished run in {', '.join(folders)}; see una-ref evaluate --help")
    reports = [filled(table, measured) for table in tables]
    if arguments.json:
        print(json.dumps([as_record(found) for found in reports], indent=1, ensure_ascii=False))
    else:
        print("\n\n".join((markdown if arguments.markdown else text)(found) for found in reports))
    return 0


def _asked(words: Sequence[str], known: dict[str, PrintedTable]) -> tuple[list[PrintedTable], list[str]]:
    """The tables that are named, all without a name, and the folders.

    Raises:
        InputError: a word that is neither a table nor a folder.
    """
    names = [word for word in words if word in known]
    folders = [word for word in words if word not in known]
    for folder in folders:
        if not Path(folder).is_dir():
            hint = near(folder, known) or f". Fix: name a folder, or one of {', '.join(known)}"
            raise InputError(f"report {folder!r}: expected a table or a folder with runs or evaluations{hint}")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values()), folders


# ---- text


def text(found: Report) -> str:
    """A table of at most 120 columns: a line for the paper's numbers of each row, and lines for ours."""
    lines: list[list[str]] = [["", *found.columns]]
    for row in found.rows:
        lines.append([row.name, *_printed(row, found)])
        for line in row.lines:
            lines.append([f"  {line.model}", *(_ours(line, row, column, found) for column in found.columns)])
            lines.append(["    items", *(_items(line, column) for column in found.columns)])
        if row.printed and not row.lines:
            lines.append([f"  {NOT_RUN}"])
    columns = range(1, len(found.columns) + 1)
    widths = [max(len(line[k]) for line in lines if len(line) > k) for k in columns]
    room = WIDTH - sum(2 + width for width in widths)
    first = min(room, max(len(line[0]) for line in lines))
    body = [
        "".join([f"{_shortened(name, first):<{first}}", *(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=False))])
        for name, *cells in lines
    ]
    body = [line.rstrip() for line in body]
    notes = [wrapped(f"- {note}", 0, hang=2) for note in _notes(found)]
    return "\n".join([_heading(found), *body, *notes, *_to_run(found)])


def _shortened(name: str, width: int) -> str:
    """A name that fits, with its beginning and, where the run's folder stands, its end."""
    return name if len(name) <= width else f"{name[: width // 2]}…{name[len(name) - (width - width // 2 - 1) :]}"


def _heading(found: Report) -> str:
    table = found.table
    return f"{table.paper} {table.place}: {table.title}"


def _printed(row: ReportRow, found: Report) -> list[str]:
    numbers = row.printed.cells if row.printed else {}
    return [NOT_PRINTED if numbers.get(c) is None else f"{numbers[c]:.{found.table.digits}f}" for c in found.columns]


def _ours(line: Line | None, row: ReportRow, column: str, found: Report) -> str:
    """Our number with half its interval; "not run" where the paper has the number of a task and we have none."""
    units = {c.name: c.unit for c in found.table.columns}  # without the average
    cell = line.cells.get(column) if line else None
    if cell is None:
        is_open = row.printed and column in units and row.printed.cells[column] is not None
        return NOT_RUN if is_open else ""
    digits = {"percent": 1, "share": 3}.get(units.get(column, "percent"), 2)
    return f"{cell.value:.{digits}f}" + ("" if cell.half is None else f" ± {cell.half:.{digits}f}")


def _items(line: Line, column: str) -> str:
    """The number of items and, if there are several, of seeds."""
    cell = line.cells.get(column)
    return "" if cell is None else f"{cell.items}" + (f" × {cell.seeds}" if cell.seeds > 1 else "")


def _notes(found: Report) -> list[str]:
    claims = found.table.claims
    ledger = [f"Claims about this table: {', '.join(claims)}; una-ref claims {claims[0]} prints one."] if claims else []
    return [*found.differences, *found.table.remarks, *ledger]


def _to_run(found: Report) -> list[str]:
    """The commands for what is not run, to be copied, and what is lacking for the rest."""
    lines = []
    for row in found.rows:
        if row.commands:
            lines += [f"  {row.name}", *(f"    {command}".replace(" --judge", JUDGE_BELOW) for command in row.commands)]
        elif row.needs:
            lines.append(f"  {row.name}: needs {row.needs}")
    return ["To run what is not run:", *lines] if lines else []


# ---- Markdown and JSON


def markdown(found: Report) -> str:
    """The table in Markdown: the printed number, and ours under it."""
    from una_ref.studies.markdown_tables import rows

    body = []
    for row in found.rows:
        cells = []
        for column, paper in zip(found.columns, _printed(row, found), strict=True):
            ran = [line for line in row.lines if column in line.cells]
            ours = [f"**{_ours(line, row, column, found)}** (n = {_items(line, column)})" for line in ran]
            cells.append("<br>".join(filter(None, [paper, *(ours or [_ours(None, row, column, found)])])))
        body.append(["<br>".join([row.name, *(f"**{line.model}**" for line in row.lines)]), *cells])
    head = ["method", *found.columns]
    parts = [f"### {_heading(found)}", "", *rows(head, body), "", *(f"- {note}" for note in _notes(found))]
    parts += [f"- {row.name}: needs {row.needs}." for row in found.rows if row.needs]
    open_rows = [row for row in found.rows if row.commands]
    code = [line for row in open_rows for line in (f"# {row.name}", *row.commands)]
    return "\n".join([*parts, "", "```sh", *code, "```"] if code else parts)


def as_record(found: Report) -> dict[str, Any]:
    """The table as plain values; a cell that nobody has run has no entry in `ours`."""
    table = found.table
    return {
        "table": table.id,
        "paper": table.paper,
        "place": table.place,
        "title": table.title,
        "setting": table.setting,
        "columns": [asdict(column) for column in table.columns],
        "rows": [
            {
                "name": row.name,
                "method": row.method,
                "printed": dict(row.printed.cells) if row.printed else {},
                "ours": [
                    {"model": line.model, "cells": {name: asdict(cell) for name, cell in line.cells.items()}}
                    for line in row.lines
                ],
                "commands": list(row.commands),
                "needs": row.needs,
            }
            for row in found.rows
        ],
        "differences": list(found.differences),
        "remarks": list(table.remarks),
        "claims": list(table.claims),
    }
