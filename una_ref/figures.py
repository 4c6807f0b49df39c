"""The style of all figures, and saving them so that equal numbers give equal bytes.

A saved figure has a solid background and follows its reader's light or dark mode: `save` adds one style sheet, which
swaps each colour of `DARK` for its dark counterpart. A viewer without media queries shows the light figure.
A method has one colour, marker and name in all figures: `looks` knows them. Text is drawn as paths, so that a figure
looks the same everywhere. Matplotlib is imported where it is used, not by this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from types import MappingProxyType
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
"""The grid and other faint areas."""
TILE = "#FFFFFF"
"""A tile on the background."""
AMBER = "#9A6800"
"""Text beside something orange: orange itself is too light for letters."""

DARK: Mapping[str, str] = MappingProxyType(
    {
        CARD: "#17191D",
        INK: "#E6E7E8",
        FAINT: "#3A3E45",
        TILE: "#22252B",
        AMBER: "#F0B840",
        PALETTE["blue"]: "#4C9FE8",
        PALETTE["vermilion"]: "#FF7A3D",
        PALETTE["green"]: "#2FCF9F",
        PALETTE["purple"]: "#E58CC2",
        PALETTE["orange"]: "#F0B840",
        PALETTE["sky"]: "#A3DBFA",
        PALETTE["grey"]: "#A8ADB5",
    }
)
"""Every colour of a figure, and what it becomes in dark mode. Draw with no other colour: it would stay light."""

_MARKERS = "osD^vPX"
_DASHES = ("-", "--", ":", "-.")

METHODS: Mapping[str, tuple[str, str, str, str]] = MappingProxyType(
    {
        "base": ("π_ref", "grey", "o", "--"),
        "sft": ("SFT", "grey", "s", "-"),
        "una-pair": ("DPO", "green", "o", "-"),
        "iterative-dpo": ("iterative DPO", "green", "X", "--"),
        "una-score": ("UNA-score", "blue", "o", "-"),
        "una-score.released": ("UNA-score, authors' code", "purple", "^", "--"),
        "una-score.shuffled": ("UNA-score, shuffled", "grey", "X", ":"),
        "una-online": ("online UNA", "blue", "s", "--"),
        "una-online.released": ("online UNA, authors' code", "purple", "v", ":"),
        "una-binary-bce": ("UNA-binary, BCE", "blue", "^", ":"),
        "una-binary-mse": ("UNA-binary, MSE", "sky", "v", "-."),
        "una-centred": ("centred UNA", "vermilion", "D", "-"),
        "una-centred.replay": ("centred UNA, replay", "vermilion", "v", "--"),
        "ipo": ("IPO", "purple", "s", "-"),
        "iupo": ("IUPO", "vermilion", "X", "-."),
        "cdpo": ("cDPO", "orange", "D", ":"),
        "simpo": ("SimPO", "purple", "P", "-."),
        "dro": ("DRO", "green", "v", ":"),
        "kto": ("KTO", "orange", "s", "-"),
        "ppo": ("PPO", "orange", "P", "--"),
        "rloo": ("RLOO", "sky", "^", "-"),
        "grpo": ("GRPO", "sky", "s", "--"),
        "reinforce": ("REINFORCE", "sky", "o", ":"),
    }
)
"""The methods that many figures show, by name in the registry: name in figures, colour, marker, line style.

A name after a dot is a form of the method. No two methods share both a colour and a line style.
"""
ALIASES: Mapping[str, str] = MappingProxyType({"dpo": "una-pair"})
"""Names of rows that are another method of `METHODS`."""


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


def looks(names: Iterable[str] | Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour, marker, line style and label for each name, in order: ``ax.plot(x, y, **looks(names)[name])``.

    A name of `METHODS` has the same look in every figure. Another form of such a method, with a name after a dot, has
    the method's colour with another line style, as far as there are line styles. The others take what is left, in
    order: each colour with a solid line, then with the next line style. Looks of 28 names are distinct.

    Args:
        names: names of methods or of anything else; a mapping gives labels to names that `METHODS` does not know.
    """
    labels = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    fixed = {name: METHODS[ALIASES.get(name, name)] for name in labels if ALIASES.get(name, name) in METHODS}
    taken = {(colour, dash) for _, colour, _, dash in fixed.values()}
    every = [(colour, dash) for dash, colour in product(_DASHES, PALETTE)]
    chosen = {}
    for name, label in labels.items():
        if name in fixed:
            label, colour, marker, dash = fixed[name]
        else:
            method = name.partition(".")[0]
            _, wanted, *_ = METHODS.get(ALIASES.get(method, method), ("", ""))
            if taken.issuperset(every):  # more names than looks: begin again
                taken.clear()
            free = [pair for pair in every if pair not in taken]
            colour, dash = next((pair for pair in free if pair[0] == wanted), free[0])
            taken.add((colour, dash))
            marker = _MARKERS[(list(PALETTE).index(colour) + _DASHES.index(dash)) % len(_MARKERS)]
        chosen[name] = {"color": PALETTE[colour], "marker": marker, "linestyle": dash, "label": label}
    return chosen


def look(name: str) -> dict[str, Any]:
    """The look of one method that `METHODS` knows, as `looks` has it; of any other name, the first free look."""
    return looks([name])[name]


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
    unfinished.write_text(in_both_modes(unfinished.read_text("utf-8")), "utf-8", newline="\n")
    os.replace(unfinished, target)
    return target


def in_both_modes(svg: str) -> str:
    """The text of matplotlib's SVG with the style sheet of dark mode, after the rule that matplotlib writes.

    An SVG in an ``<img>`` follows the ``color-scheme`` of that element. Raises ValueError for an SVG without a style.
    """
    before, end, after = svg.partition("</style>")
    if not end:
        raise ValueError("figure: expected an SVG by matplotlib, with a <style> element")
    rules = [
        f"[style*='{what}: {light.lower()}'] {{{what}: {dark.lower()} !important}}"
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    ]
    return "\n".join([before, "@media (prefers-color-scheme: dark) {", *rules, "}"]) + end + after


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
