"""The methods as a figure: ``python -m una_ref.methods_figure`` draws figures/methods.svg.

Down: what a method calls the reward of a response; rewards of one or two methods share the last row and stand in the
tile. Across: its feedback. In the tile: its name and its shape. The colour says whether a number added to all rewards
of a prompt changes what the method learns; a dashed border says that such a number adds noise to its steps.
"""

from __future__ import annotations

import inspect
import textwrap
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from una_ref import figures
from una_ref.methods import METHODS, Method
from una_ref.methods.arguments import argument

TILE, GAP, MARGIN = (2.3, 0.86), 0.1, 0.14
"""A tile's width and height, the space between two, and that around a cell, in units of the drawing."""
OWN, OWN_LINE = "a reward of its own", 0.26
"""The last row, and by how much its tiles are higher."""
ROOM = TILE[0] - 0.32
"""The width of the text in a tile; hinted letters are a little wider than their outlines."""
UNIT = 0.62
"""Inches of a unit."""
LABEL = 2.9
"""Width of the labels of rows."""
DEPTH = 5
"""Tiles one above the other in a cell, at most; a column is as wide as its fullest cell needs."""

GROUPS = {
    "demos": "demonstrations",
    "one": "one response",
    "pairs": "pairs",
    "lists": "lists",
    "tokens": "tokens of responses",
    "samples": "samples and games",
}
"""The columns, from left to right."""

_LOOKS = {
    "yes": ("blue", "-", "unchanged by r → r + g(x), in every step"),
    "in expectation": ("blue", (0, (3, 2)), "unchanged in expectation: g(x) only adds noise"),
    "no": ("vermilion", "-", "what it learns depends on g(x), and so on log Z(x)"),
}
"""`Method.invariance` -> colour, line of the border, words."""


def group_of(method: Method) -> str:
    """The column of a method: samples if it draws its responses, else its kind of feedback."""
    if method.source != "dataset":
        return "samples"
    if method.kinds[0] == "lists":  # its mask is one of responses
        return "lists"
    entries = (argument(name) for name in inspect.signature(method.loss).parameters)
    if any(entry is not None and entry.kind in ("token", "distribution") for entry in entries):
        return "tokens"
    kind = method.kinds[0]
    return kind if kind in GROUPS else "one"


def draw(folder: str | Path | None = None, records: Iterable[Method] | None = None) -> Path:
    """Write methods.svg to `folder` (default: the checkout's figures/) and return its path."""
    with figures.style():
        return figures.save(figure(METHODS.values() if records is None else records), "methods", folder)


def figure(records: Iterable[Method]) -> Any:
    """The figure of some methods. Texts have the gid "tile" in tiles and "label" elsewhere."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    records = list(records)
    uses = Counter(method.formula for method in records)
    cells: dict[tuple[str, str], list[Method]] = {}
    for method in sorted(records, key=lambda method: uses[method.formula] <= 2):
        row = OWN if uses[method.formula] <= 2 else method.formula
        cells.setdefault((row, group_of(method)), []).append(method)
    rows = list(dict.fromkeys(reward for reward, _ in cells))
    tall_tile = {r: TILE[1] + (OWN_LINE if r == OWN else 0.0) for r in rows}
    columns = [group for group in GROUPS if any(group == column for _, column in cells)]
    across = {c: max(-(-len(m) // DEPTH) for (_, column), m in cells.items() if column == c) for c in columns}
    down = {r: max(-(-len(m) // across[c]) for (row, c), m in cells.items() if row == r) for r in rows}
    widths = [across[c] * (TILE[0] + GAP) - GAP + 2 * MARGIN for c in columns]
    heights = [down[r] * (tall_tile[r] + GAP) - GAP + 2 * MARGIN for r in rows]
    width, height = sum(widths), sum(heights)
    with figures.style():
        fig = Figure(figsize=((width + LABEL + 0.1) * UNIT, (height + 2.1) * UNIT))
        fig.set_layout_engine("none")
        axes = fig.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        top = 0.0
        for number, (reward, tall) in enumerate(zip(rows, heights, strict=True)):
            if number % 2 == 0:
                band = FancyBboxPatch(
                    (-LABEL + 0.1, top), width + LABEL - 0.15, tall, boxstyle="square,pad=0", facecolor=figures.FAINT
                )
                band.set(alpha=0.35, edgecolor="none")
                axes.add_patch(band)
            label = "\n".join(textwrap.wrap(reward, 20))
            axes.text(-0.12, top + tall / 2, label, ha="right", va="center", fontsize=8.5, gid="label")
            left = 0.0
            for group, wide in zip(columns, widths, strict=True):
                for i, method in enumerate(cells.get((reward, group), [])):
                    place, column = divmod(i, across[group])
                    x = left + MARGIN + column * (TILE[0] + GAP)
                    _tile(axes, x, top + MARGIN + place * (tall_tile[reward] + GAP), method, own=reward == OWN)
                left += wide
            top += tall
        left = 0.0
        for group, wide in zip(columns, widths, strict=True):
            words = GROUPS[group] if wide > 3 else GROUPS[group].replace(" ", "\n", 1)
            axes.text(left + wide / 2, -0.15, words, ha="center", va="bottom", fontsize=9.5, weight="bold", gid="label")
            axes.plot([left, left], [0, height], color=figures.FAINT, linewidth=0.8)
            left += wide
        axes.text(-0.12, -0.15, "reward", ha="right", va="bottom", fontsize=9.5, weight="bold", gid="label")
        for i, (colour, line, says) in enumerate(_LOOKS.values()):
            x, y = -LABEL + 0.15, height + 0.28 + 0.34 * i
            ends = {"color": figures.PALETTE[colour], "linestyle": line, "linewidth": 1.8}
            axes.plot([x, x + 0.5], [y, y], **ends)
            axes.text(x + 0.65, y, says, va="center", fontsize=8.5, gid="label")
        axes.set_xlim(-LABEL, width + 0.1)
        axes.set_ylim(height + 1.2, -0.9)
        return fig


@cache
def _wide(text: str, size: float, weight: str) -> float:
    """The width of a text in units of the drawing."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, size=size, prop=FontProperties(family="DejaVu Sans", weight=weight))
    return float(path.get_extents().width) / 72 / UNIT


def _lines(text: str, size: float, weight: str = "normal") -> str:
    """The text in one line, or in two where it is wider than a tile."""
    if _wide(text, size, weight) <= ROOM or " " not in text:
        return text
    spaces = [i for i, letter in enumerate(text) if letter == " "]
    cut = min(spaces, key=lambda i: max(_wide(text[:i], size, weight), _wide(text[i + 1 :], size, weight)))
    return f"{text[:cut]}\n{text[cut + 1 :]}"


def _fitting(text: str, size: float, weight: str = "normal") -> float:
    """The font size at which the lines of a text fit into a tile, at most `size`."""
    return min(size, size * ROOM / max(_wide(line, size, weight) for line in text.split("\n")))


def _tile(axes: Any, x: float, y: float, method: Method, *, own: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    name, line, _ = _LOOKS[method.invariance]
    colour, ink = figures.PALETTE[name], figures.INK
    height = TILE[1] + (OWN_LINE if own else 0.0)
    box = FancyBboxPatch(
        (x, y), TILE[0], height, boxstyle="round,pad=0,rounding_size=0.08", facecolor=figures.TILE, edgecolor=colour
    )
    box.set_linestyle(line)
    axes.add_patch(box)
    title = method.name if not method.aliases else f"{method.name} = {method.aliases[0]}"
    shape = _lines(method.shape, 7)
    texts = [(0.22, title, 8.5, "bold", colour), (0.56, shape, 7.0, "normal", ink)]
    if own:
        texts.append((TILE[1] + 0.08, method.formula, 7.0, "normal", figures.PALETTE["grey"]))
    for below, text, size, weight, shade in texts:
        axes.text(
            x + 0.1,
            y + below,
            text,
            color=shade,
            fontsize=_fitting(text, size, weight),
            weight=weight,
            va="center",
            linespacing=0.95,
            gid="tile",
        )


if __name__ == "__main__":
    print(draw())
