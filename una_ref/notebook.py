"""Helpers for the notebooks, and the command that executes them.

In a notebook: ``from una_ref.notebook import check, scale``. On the command line:

    python -m una_ref.notebook build [NAME ...]

executes ``notebooks/NAME.py`` (all of them without a name) and writes the twin ``notebooks/NAME.ipynb``. Twins are
never edited: the same source gives the same bytes, and a test checks that each twin is its executed source.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LARGEST_TWIN = 1_000_000
"""The size limit of a twin in bytes; GitHub does not render large ones."""


def scale(full: T, ci: T, smollm2: T | None = None) -> T:
    """The value for the scale that UNA_REF_SCALE names: heavy cells are scaled, not skipped.

    The committed twins and ``make test`` use ``ci``. It is also the default, so that an executed notebook shows what
    its twin shows.

    Args:
        full: ``UNA_REF_SCALE=full``, the paper's size where there is a GPU.
        ci: ``UNA_REF_SCALE=ci``, some seconds on any machine.
        smollm2: ``UNA_REF_SCALE=smollm2``, a language model of 135M parameters on two cores; None: as ``ci``.

    Raises:
        ValueError: the variable is set to anything else.
    """
    chosen = os.environ.get("UNA_REF_SCALE") or "ci"
    if chosen not in ("ci", "smollm2", "full"):
        raise ValueError(f"UNA_REF_SCALE: expected 'ci', 'smollm2' or 'full', got {chosen!r}")
    if chosen == "smollm2" and smollm2 is not None:
        return smollm2
    return full if chosen == "full" else ci


class check:  # noqa: N801 - read as a verb: check.close(...)
    """Checks that give one line of evidence each, or raise an ``AssertionError`` that names the claim.

    In a notebook the lines of a cell are folded: "9 checks passed" opens on a click. The negative checks stay visible.
    """

    @staticmethod
    def close(name: str, a: Any, b: Any, tol: float = 1e-12) -> None:
        """``a`` and ``b`` differ by at most ``tol`` everywhere.

        They are tensors, arrays, lists or numbers of the same shape, or ``b`` is one number for all of ``a``. The
        default ``tol`` is for float64. Equal infinities are equal; NaN equals nothing.
        """
        worst = _largest_difference(name, a, b)
        if not worst <= tol:
            raise AssertionError(f"{name}: max |diff| {worst:.3g}, expected at most {tol:g}")
        _fold(f"{name}  max |diff| {worst:.1e}")

    @staticmethod
    def differs(name: str, a: Any, b: Any, by: float) -> None:
        """The negative check: ``a`` and ``b`` differ by at least ``by`` somewhere."""
        worst = _largest_difference(name, a, b)
        if not worst >= by:
            raise AssertionError(f"{name}: max |diff| {worst:.3g}, expected at least {by:g}")
        print(f"{name}  max |diff| {worst:.3g}, at least {by:g} as it should")

    @staticmethod
    def true(name: str, condition: Any, evidence: str = "") -> None:
        """``condition`` holds; ``evidence`` is shown in the line, ideally with numbers."""
        if not bool(condition):
            raise AssertionError(f"{name}: does not hold{f' ({evidence})' if evidence else ''}")
        _fold(f"{name}  {evidence or 'holds'}")


_folded: list[str] = []
"""The evidence of the cell that is running."""


def _fold(line: str) -> None:
    """Keep a line for the end of the cell; outside of a notebook, print it."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel"):
        print(line)
        return
    if not _folded:
        shell.events.register("post_run_cell", _show_folded)
    _folded.append(line)


def _show_folded(_: Any) -> None:
    """Show the kept lines as one, which opens."""
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    shell: Any = get_ipython()
    shell.events.unregister("post_run_cell", _show_folded)
    passed = f"{len(_folded)} check{'s' * (len(_folded) > 1)} passed"
    lines = html.escape("\n".join(_folded), quote=False)
    _folded.clear()
    shown = f"<details><summary>{passed}</summary><pre>{lines}</pre></details>"
    display({"text/html": shown, "text/plain": passed}, raw=True)


def _largest_difference(name: str, a: Any, b: Any) -> float:
    """The largest |a - b|, in float64; NaN where either is NaN."""
    left, right = _float64(a), _float64(b)
    if left.shape != right.shape and right.ndim:
        raise AssertionError(f"{name}: shapes {tuple(left.shape)} and {tuple(right.shape)} are not equal")
    if not left.numel():
        raise AssertionError(f"{name}: nothing to compare, the values are empty")
    return float(torch.where(left == right, 0.0, (left - right).abs()).max())


def _float64(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().double()
    return torch.as_tensor(value, dtype=torch.float64)  # with its dtype: a list would pass through float32


def folder() -> Path:
    """The folder of notebooks: the checkout's ``notebooks/``, else ``./notebooks``."""
    root = Path(__file__).resolve().parent.parent
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / "notebooks"


def sources() -> list[Path]:
    """The notebooks in the order of reading: START, then by number."""
    found = [*folder().glob("START.py"), *folder().glob("[0-9][0-9]_*.py")]
    return sorted(found, key=lambda path: (path.stem != "START", path.stem))


def minutes(source: Path) -> int:
    """How long a notebook takes to read, in minutes, as it says itself after **Time.**"""
    found = re.search(r"\*\*Time\.\*\* (?:About )?(\d+) minutes", source.read_text(encoding="utf-8"))
    assert found, f"{source.name} does not say its time"
    return int(found[1])


def build(source: Path) -> Path:
    """Execute ``source`` (py:percent) at the scale ``ci`` and write its twin beside it.

    Raises:
        NotebookError: a cell failed, or its output differs from run to run; nothing is written. The message begins with
            ``file:line``.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    text = source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name=KERNEL["name"],
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(source.parent)}},
    )
    shown = f"{source.parent.name}/{source.name}"
    lines = _first_lines(text, notebook.cells)
    try:
        client.execute(env=_environment())
    except CellExecutionError as error:
        place = _place(shown, notebook.cells, lines, error.traceback)
        raise NotebookError(f"{place}: {error.ename}: {error.evalue}") from error
    except CellTimeoutError as error:
        raise NotebookError(f"{shown}: {error}") from error
    notebook.metadata = nbformat.NotebookNode(kernelspec=KERNEL)  # without the versions that the kernel added
    for cell, line in zip(notebook.cells, lines, strict=True):
        if cell.cell_type == "code":
            _settle(cell, f"{shown}:{line}", source.parent.parent)
    twin = source.with_suffix(".ipynb")
    unfinished = twin.with_name(f".{twin.name}.{os.getpid()}")
    unfinished.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    os.replace(unfinished, twin)
    return twin


class NotebookError(RuntimeError):
    """A notebook has no twin: a cell failed or its output cannot be reproduced."""


def _environment() -> dict[str, str]:
    """The kernel's environment: this package, and output that does not depend on cores, date or terminal."""
    package = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return os.environ | {
        "PYTHONPATH": path,
        "UNA_REF_SCALE": "ci",
        "OMP_NUM_THREADS": "1",
        "SOURCE_DATE_EPOCH": "0",
        "COLUMNS": "120",
        "NO_COLOR": "1",
    }


def _first_lines(text: str, cells: Sequence[Any]) -> list[int]:
    """The line on which each cell begins; for a cell that is not in the text as it is, where the last one ended."""
    lines, position, numbers = text.splitlines(), 0, []
    for cell in cells:
        wanted = cell.source.splitlines()
        if cell.cell_type == "code" and wanted:
            starts = (i for i in range(position, len(lines)) if lines[i : i + len(wanted)] == wanted)
            start = next(starts, None)
            if start is not None:
                numbers.append(start + 1)
                position = start + len(wanted)
                continue
        numbers.append(position + 1)
    return numbers


def _place(source: str, cells: Sequence[Any], lines: Sequence[int], traceback: str) -> str:
    """``source:line`` of the traceback's innermost line in the notebook."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", traceback)
    mentioned = re.findall(r"Cell In\s?\[(\d+)\], line (\d+)", plain)
    executed = {str(cell.get("execution_count")): line for cell, line in zip(cells, lines, strict=True)}
    if not mentioned or mentioned[-1][0] not in executed:
        return source
    cell, line = mentioned[-1]
    return f"{source}:{executed[cell] + int(line) - 1}"


def _settle(cell: Any, place: str, root: Path) -> None:
    """Remove stderr from the output (and print it here), and raise NotebookError for what cannot be reproduced."""
    for output in cell.outputs:
        if output.get("name") == "stderr":
            print(f"{place}: stderr, not in the twin:\n{output.text[-1000:]}", file=sys.stderr)
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    cell.metadata.pop("execution", None)
    for output in cell.outputs:
        data = output.get("data", {})
        text = str([output.get("text"), *(data[kind] for kind in data if not kind.startswith("image/"))])
        if found := re.search(r"\bat 0x[0-9a-f]{6,}", text):
            raise NotebookError(f"{place}: output has a memory address ({found[0]}). Fix: end the last line with ';'")
        if str(root) in text:
            raise NotebookError(f"{place}: output has a folder of this machine ({root})")


def faults(source: Path) -> list[str]:
    """The faults of the twin of ``source``; empty if it is this source, executed without an error."""
    import jupytext
    import nbformat

    twin = source.with_suffix(".ipynb")
    again = f"Fix: run python -m una_ref.notebook build {source.stem}"
    if not twin.is_file():
        return [f"{twin.name}: is missing. {again}"]
    wanted = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook = nbformat.read(twin, as_version=4)
    problems = []
    if [(c.cell_type, c.source) for c in wanted.cells] != [(c.cell_type, c.source) for c in notebook.cells]:
        problems.append(f"{twin.name}: was not made from the current {source.name}. {again}")
    for name, metadata in ((source.name, wanted.metadata), (twin.name, notebook.metadata)):
        if metadata.get("kernelspec", {}).get("name") != KERNEL["name"]:
            problems.append(f"{name}: kernelspec {metadata.get('kernelspec')}, expected the name python3")
    codes = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in codes] != list(range(1, len(codes) + 1)):
        problems.append(f"{twin.name}: was not executed from top to bottom. {again}")
    if any(output.output_type == "error" for cell in codes for output in cell.outputs):
        problems.append(f"{twin.name}: a cell ended in an error. {again}")
    if not any("check" in cell.metadata.get("tags", []) for cell in codes):
        problems.append(f"{source.name}: no cell is tagged as a check")
    if twin.stat().st_size > LARGEST_TWIN:
        problems.append(f"{twin.name}: {twin.stat().st_size:,} bytes, expected at most {LARGEST_TWIN:,}")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 if every twin was written, 1 if a cell failed; an unknown name exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m una_ref.notebook")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build", help="execute notebooks and write their twins")
    command.add_argument("names", nargs="*", metavar="NAME", help="a notebook's file name (default: all)")
    names = [Path(name).stem for name in parser.parse_args(arguments).names]
    known = {path.stem: path for path in sources()}
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no notebook {', '.join(unknown)} in {folder()}; known are {', '.join(known) or 'none'}")
    for name in names or known:
        start = time.perf_counter()
        try:
            twin = build(known[name])
        except NotebookError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{twin.parent.name}/{twin.name}  {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
