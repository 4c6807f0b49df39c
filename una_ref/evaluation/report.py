"""The papers' tables with our numbers beside the printed ones: which runs fill which cells, and what is not run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, variance

from una_ref.evaluation.collected import BASE, HELD_OUT, Measured
from una_ref.evaluation.printed import Column, PrintedRow, PrintedTable
from una_ref.evaluation.store import Score
from una_ref.evaluation.tasks import GROUPS

AVERAGE = "average"
_Z95 = 1.959964
_JUDGED, _JUDGE = {"mt-bench", "alpaca-eval"}, " --judge judge:MODEL@http://host:port/v1"
"""Tasks that need a judge, and the option that names it; the papers do not name theirs."""
_IN_PERCENT = {"alpaca-eval", "head-to-head"}
"""Tasks whose scores are stored in percent; accuracies are stored in [0, 1]."""


@dataclass(frozen=True)
class Cell:
    """Our number for one cell.

    value, half
        In the unit of the column, and half the width of its 95 % interval (None if no standard error is known).
    items, seeds
        Items for each seed, and seeds.
    metric, shots
        As measured; shots None if the record does not say.
    limited
        Whether the evaluation was limited to a part of the task.
    chat
        Whether the prompts went through a chat template; None if the record does not say.
    judge
        The model that judged the answers; empty for other tasks.
    date, folders
        The last date, and the folders of the records.
    """

    value: float
    half: float | None
    items: int
    seeds: int
    metric: str = ""
    shots: int | None = None
    limited: bool = False
    chat: bool | None = None
    judge: str = ""
    date: str = ""
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """The results of one model under one setting, for one row; `cells` by column."""

    model: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class ReportRow:
    """A row with the printed numbers, ours, and what would fill the rest.

    printed
        None for a method that the paper's table does not have.
    commands, needs
        The commands that would fill the cells without a number of ours; or what is lacking for that.
    """

    name: str
    method: str
    printed: PrintedRow | None
    lines: tuple[Line, ...] = ()
    commands: tuple[str, ...] = ()
    needs: str = ""


@dataclass(frozen=True)
class Report:
    """A printed table with our rows, and in what ours differ."""

    table: PrintedTable
    rows: tuple[ReportRow, ...]
    differences: tuple[str, ...] = field(default=())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names, the average among them."""
        return (*(column.name for column in self.table.columns), *([AVERAGE] if self.table.average else []))


def filled(table: PrintedTable, measured: Iterable[Measured]) -> Report:
    """A printed table with what was measured.

    Args:
        table: the printed table.
        measured: from `collect`; what does not belong to the table is left out.
    """
    mine = [m for m in measured if _belongs(m, table)]
    rows = [_row(table, row.method, row, mine) for row in table.rows]
    others = dict.fromkeys(m.method for m in mine if m.method not in {row.method for row in table.rows})
    rows += [_row(table, method, None, mine) for method in others]
    return Report(table, tuple(rows), tuple(_differences(table, rows)))


def _belongs(m: Measured, table: PrintedTable) -> bool:
    """Whether a measurement is of the table's tasks and of its study's kind of run."""
    if m.task not in {column.task for column in table.columns}:
        return False
    if m.method in {row.method for row in table.rows}:
        return m.online is None or table.study not in ("offline", "online") or m.online == (table.study == "online")
    if table.study == "upo":  # the other forms of the methods compared there
        return m.method.partition(".")[0] in ("ipo", "iupo")
    return m.method != BASE and table.study == ("online" if m.online else "offline")


def _row(table: PrintedTable, method: str, row: PrintedRow | None, measured: Sequence[Measured]) -> ReportRow:
    mine = [m for m in measured if m.method == method]
    groups: dict[tuple[str, str], list[Measured]] = {}
    for m in mine:
        groups.setdefault((m.model, "" if table.study == "upo" else m.setting), []).append(m)
    lines = [Line(_label(model, table, group, groups), _cells(table, group)) for (model, _), group in groups.items()]
    lines = [line for line in lines if line.cells]
    ran = {name for line in lines for name in line.cells}
    missing = [c for c in table.columns if row and c.name not in ran and row.cells[c.name] is not None]
    if not row or not missing:
        return ReportRow(row.name if row else method, method, row, tuple(lines))
    commands = () if row.lacks else tuple(_commands(row, missing, table))
    return ReportRow(row.name, method, row, tuple(lines), commands, row.lacks)


def _label(
    model: str, table: PrintedTable, group: Sequence[Measured], groups: Mapping[tuple[str, str], Sequence[Measured]]
) -> str:
    """The model's short name, with the run's folder where several settings of one model fill a row."""
    alike = [key for key in groups if key[0] == model]
    return short(model) if len(alike) == 1 else f"{short(model)}, {run_folder(group[0])}"


def short(model: str) -> str:
    """The last part of a model's name or folder."""
    return model.rstrip("/").rpartition("/")[2]


def run_folder(m: Measured) -> str:
    """The name of the run's folder: the record lies there or in its folder `evaluation`."""
    path = Path(m.folder)
    return path.parent.name if path.name == "evaluation" else path.name


def _cells(table: PrintedTable, group: Sequence[Measured]) -> dict[str, Cell]:
    cells = {}
    for column in table.columns:
        if scored := _scored(column, group):
            cells[column.name] = _cell(column, scored)
    if table.average and len(cells) == len(table.columns):
        cells[AVERAGE] = _average(list(cells.values()))
    return cells


def _scored(column: Column, group: Sequence[Measured]) -> list[tuple[Measured, Score]]:
    """The column's score of every measurement that has it: of its metric, or the headline if the paper names none."""
    out = []
    for m in group:
        if m.task == column.task and column.beta in (None, m.beta):
            scores = [score for score in m.scores if column.metric in ("unsaid", score.metric)]
            out += [(m, score) for score in scores[:1]]
    return out


def _cell(column: Column, scored: Sequence[tuple[Measured, Score]]) -> Cell:
    """Seeds together: of those evaluated alike, the ones with most items; of one seed, the latest.

    The mean over seeds has the variance of its items, which all seeds share, and that between seeds over their number.
    """
    most = max(score.items for _, score in scored)
    latest = {m.seed: (m, score) for m, score in sorted(scored, key=lambda pair: pair[0].date) if score.items == most}
    chosen = list(latest.values())
    scale = 100.0 if column.unit == "percent" and column.task not in _IN_PERCENT else 1.0
    values = [scale * score.value for _, score in chosen]
    errors = [scale * score.stderr for _, score in chosen if score.stderr is not None]
    half = None
    if len(errors) == len(chosen):
        between = variance(values) / len(values) if len(values) > 1 else 0.0
        half = _Z95 * math.sqrt(fmean(error**2 for error in errors) + between)
    first = chosen[0][0]
    return Cell(
        fmean(values),
        half,
        items=most,
        seeds=len(chosen),
        metric=chosen[0][1].metric,
        shots=first.shots,
        limited=first.limit is not None,
        chat=first.chat,
        judge=first.judge or "",
        date=max(m.date for m, _ in chosen),
        folders=tuple(m.folder for m, _ in chosen),
    )


def _average(cells: Sequence[Cell]) -> Cell:
    """The plain mean of the tasks, as the papers have it; their errors are independent."""
    halves = [cell.half for cell in cells]
    known = [half for half in halves if half is not None]
    half = math.sqrt(sum(h * h for h in known)) / len(cells) if len(known) == len(cells) else None
    return Cell(fmean(cell.value for cell in cells), half, sum(cell.items for cell in cells), cells[0].seeds)


# ---- what is not run


def _commands(row: PrintedRow, missing: Sequence[Column], table: PrintedTable) -> list[str]:
    """The commands that fill the missing cells of a row. An evaluation resumes, so it is asked for the whole row."""
    from una_ref.training.settings import output_of

    tasks = tuple(dict.fromkeys(c.task for c in table.columns if row.cells[c.name] is not None))
    names = next((group for group, members in GROUPS.items() if members == tasks), ",".join(tasks))
    options = f"--tasks {names} --dtype bfloat16" + (_JUDGE if {*tasks} & _JUDGED else "")
    if row.method == BASE:
        return [f"una-ref evaluate {row.model} {options}"]
    output = output_of(row.train.partition(" ")[0])
    before = [f"una-ref train {row.after}"] if row.after else []
    if missing[0].beta is not None:
        runs = [f"una-ref train {row.train} beta={c.beta} --output {output}-{c.beta}" for c in missing]
        return [*before, *runs]
    return [*before, f"una-ref train {row.train}", f"una-ref evaluate {output} {options}"]


# ---- in what ours differ


def _differences(table: PrintedTable, rows: Sequence[ReportRow]) -> list[str]:
    """Everything beside the method in which our numbers are not the paper's, a sentence each."""
    lines = [line for row in rows for line in row.lines]
    out = [f"The paper: {table.setting}."]
    if not lines:
        return out
    models = ", ".join(dict.fromkeys(line.model.partition(",")[0] for line in lines))
    days = sorted({cell.date[:10] for line in lines for cell in line.cells.values() if cell.date})
    when = f", measured {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    out.append(f"Ours: {models}{when}.")
    for column in table.columns:
        cells = [line.cells[column.name] for line in lines if column.name in line.cells]
        if not cells or column.task == HELD_OUT:
            continue
        parts = []
        shots = sorted({cell.shots for cell in cells if cell.shots is not None})
        if shots and shots != [column.shots]:
            parts.append(f"{' and '.join(map(str, shots))} shots, the leaderboard has {column.shots}")
        if column.metric == "unsaid":
            parts.append(f"{', '.join(dict.fromkeys(cell.metric for cell in cells))}; the paper does not say which")
        if judges := sorted({cell.judge for cell in cells} - {""}):
            parts.append(f"judged by {' and '.join(judges)}")
        if any(cell.limited for cell in cells):
            parts.append("a part of the items")
        if any(cell.chat for cell in cells):
            parts.append("prompts in the chat template")
        if parts:
            out.append(f"{column.name}: {'; '.join(parts)}.")
    seeds = any(cell.seeds > 1 for line in lines for cell in line.cells.values())
    out.append(
        "±: half of a 95 % interval from the standard error over items"
        + (" and, over the seeds, from that of their mean." if seeds else ".")
        + " To compare two of our rows, pair their items: una-ref evaluate --against."
    )
    return out
