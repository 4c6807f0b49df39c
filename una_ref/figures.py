"""How the figures look and how they are saved: equal numbers give equal bytes.

Figures stand on a solid light card, because a transparent one has to choose the page, light or dark, on which
it can be read. Text is drawn as paths, so that a figure looks the same wherever it is opened. Matplotlib is
imported where it is used, never by this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The colours by name, in the order in which they are given out: Okabe and Ito's, which every common colour
#: blindness can tell apart, without their yellow (too light for a line on the card) and black (the ink's).
PALETTE = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "grey": "#7A7F87",
}
CARD = "#FBFBF8"
INK = "#2B2F36"
FAINT = "#DADCDD"

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
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
        "font.size": 10,
        "svg.fonttype": "path",
        "svg.hashsalt": "una_ref",  # the ids inside the file, random otherwise
    }


def style() -> AbstractContextManager[None]:
    """The house style within a ``with`` block, and the caller's settings after it: what library code uses."""
    import matplotlib

    return matplotlib.rc_context(_parameters())


def pyplot() -> Any:
    """``matplotlib.pyplot`` with the house style on for the session: how a notebook that draws begins."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(_parameters())
    return plt


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour, a marker and a dash for each name, in their order: ``ax.plot(x, y, **looks(names)[name])``.

    Past the palette the colours begin again with another dash and markers shifted by one, so that 7 x 4 names
    stay distinct, none by its colour alone.
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


def label_ends(ax: Axes, gap: float = 0.05) -> None:
    """Write each labelled line's name at its right end, in its colour, instead of a legend.

    Call it when the axes are complete. Names that would overlap are moved up until they are ``gap``, a
    fraction of the axes' height, apart.
    """
    lines = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    ax.get_xlim(), ax.get_ylim()  # brings the limits up to date, on which the transform depends
    to_axes = ax.transData - ax.transAxes
    ends = [float(to_axes.transform(line.get_xydata()[-1])[1]) for line in lines]
    height = -float("inf")
    for end, line in sorted(zip(ends, lines, strict=True), key=lambda pair: pair[0]):
        height = max(end, height + gap)
        name = str(line.get_label())
        ax.text(1.02, height, name, color=line.get_color(), va="center", transform=ax.transAxes)


def home() -> Path:
    """Where figures go: ``UNA_REF_FIGURES`` if set, else the checkout's ``figures/``, else ``./figures``.

    The variable lets a test run draw every figure without touching the committed ones.
    """
    if chosen := os.environ.get("UNA_REF_FIGURES"):
        return Path(chosen)
    root = Path(__file__).resolve().parent.parent
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / "figures"


def save(fig: Figure, name: str, folder: str | Path | None = None) -> Path:
    """Write ``fig`` to ``<name>.svg`` in ``folder`` (default: `home`) and return the path.

    No date and no random id is written, so equal numbers give equal bytes. The file appears under its name
    only when it is whole.
    """
    if Path(name).name != name or Path(name).suffix:
        raise ValueError(f"a figure's name has no folder and no suffix, like '02_partition'; got {name!r}")
    target = (home() if folder is None else Path(folder)) / f"{name}.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{name}.{os.getpid()}.svg")
    with style():
        fig.savefig(unfinished, format="svg", metadata={"Date": None})
    os.replace(unfinished, target)
    return target
