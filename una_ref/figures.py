"""The style of all figures, and saving them so that equal numbers give equal bytes.

Figures have a solid light background: a transparent one could be read on a light or on a dark page only. Text is drawn
as paths, so that a figure looks the same everywhere. Matplotlib is imported where it is used, not by this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "grey": "#7A7F87",
}
"""The colours in the order of their use: Okabe and Ito's, which people with colour blindness can tell apart.

Their yellow is left out (too light on the background) and so is black (the colour of text).
"""
CARD = "#FBFBF8"
"""The background."""
INK = "#2B2F36"
"""Text and axes."""
FAINT = "#DADCDD"
"""The grid."""

_MARKERS = "osD^vPX"
_DASHES = ("-", "--", ":", "-.")


def _parameters() -> dict[str, Any]:
    from cycler import cycler

    return {
        "figure.figsize": (6.4, 3.8),
        "figure.dpi": 110,
        "figure.facecolor": CARD,
        "figure.constrained_layout.use": True,
        "savefig.facecolor": CARD,
        "savefig.edgecolor": "none",
        "axes.facecolor": CARD,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=list(PALETTE.values())),
        "grid.color": FAINT,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "errorbar.capsize": 2.5,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "font.family": "DejaVu Sans",  # part of matplotlib: the same glyphs everywhere
        "font.size": 10,
        "svg.fonttype": "path",
        "svg.hashsalt": "una_ref",  # the ids in the file, random otherwise
    }


def style() -> AbstractContextManager[None]:
    """The style within a ``with`` block; the caller's settings return after it. For library code."""
    import matplotlib

    return matplotlib.rc_context(_parameters())


def pyplot() -> Any:
    """``matplotlib.pyplot`` with the style set for the session. For notebooks."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(_parameters())
    return plt


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker, line style and label for each name, in order: ``ax.plot(x, y, **looks(names)[name])``.

    After seven names the colours repeat with another line style and shifted markers: 28 names have distinct looks.
    """
    colours = list(PALETTE.values())
    chosen = {}
    for i, name in enumerate(dict.fromkeys(names)):
        turn, place = divmod(i, len(colours))
        chosen[name] = {
            "color": colours[place],
            "marker": _MARKERS[(place + turn) % len(_MARKERS)],
            "linestyle": _DASHES[turn % len(_DASHES)],
            "label": name,
        }
    return chosen


def home() -> Path:
    """The folder of figures: ``UNA_REF_FIGURES`` if set, else the checkout's ``figures/``, else ``./figures``.

    With the variable a test can draw every figure and leave the committed ones as they are.
    """
    if chosen := os.environ.get("UNA_REF_FIGURES"):
        return Path(chosen)
    root = Path(__file__).resolve().parent.parent
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / "figures"


def records(study: str) -> Path:
    """The folder of a study's committed records: the checkout's ``figures/runs/STUDY``, else the copy in the wheel.

    The wheel has the records that notebooks 11 and 14 read. Raises FileNotFoundError for a study that is in neither.
    """
    package = Path(__file__).resolve().parent
    folders = [package.parent / "figures" / "runs" / study, package / "runs" / study]
    for folder in folders:
        if (folder / "results.json").is_file():
            return folder
    raise FileNotFoundError(f"study {study!r}: no results.json in {folders[0]} or {folders[1]}")


def save(fig: Figure, name: str, folder: str | Path | None = None) -> Path:
    """Write ``fig`` to ``<name>.svg`` in ``folder`` (default: `home`) and return the path.

    The file has no date and no random id, so equal numbers give equal bytes. It gets its name only when it is complete.
    Raises ValueError for a name with a folder or a suffix.
    """
    if Path(name).name != name or Path(name).suffix:
        raise ValueError(f"figure name: expected no folder and no suffix, like '02_partition', got {name!r}")
    target = (home() if folder is None else Path(folder)) / f"{name}.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{name}.{os.getpid()}.svg")
    with style():
        fig.savefig(unfinished, format="svg", metadata={"Date": None})
    os.replace(unfinished, target)
    return target


def filled(
    fill: Callable[[Figure, Any], None],
    results: Any,
    folder: str | Path | None,
    name: str,
    size: tuple[float, float] | None = None,
) -> Path:
    """A figure that `fill` draws from results, in the style of all figures; saved by `save`. `size` is in inches."""
    from matplotlib.figure import Figure

    with style():
        fig = Figure(figsize=size)
        fill(fig, results)
        return save(fig, name, folder)
