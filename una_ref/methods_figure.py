"""The methods as a figure: ``python -m una_ref.methods_figure`` draws figures/methods.svg.

A method is a choice from five lists. Down: its reward. Across: what it compares. In the tile: its shape. The colour
says whether a number added to all rewards of a prompt changes what the method learns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from una_ref import figures
from una_ref.methods import METHODS, Method

TILE, GAP, MARGIN = (2.2, 0.94), 0.12, 0.18
"""A tile's width and height, the space between two, and that around a cell, in units of the drawing."""


def draw(folder: str | Path | None = None) -> Path:
    """Write methods.svg to `folder` (default: the checkout's figures/) and return its path."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    cells: dict[tuple[str, str], list[Method]] = {}
    for method in METHODS.values():
        cells.setdefault((method.formula, method.comparison), []).append(method)
    rows = list(dict.fromkeys(reward for reward, _ in cells))
    columns = list(dict.fromkeys(comparison for _, comparison in cells))
    across = {c: max(-(-len(m) // _down(rows, cells, r)) for (r, k), m in cells.items() if k == c) for c in columns}
    widths = [across[c] * (TILE[0] + GAP) - GAP + 2 * MARGIN for c in columns]
    heights = [_down(rows, cells, r) * (TILE[1] + GAP) - GAP + 2 * MARGIN for r in rows]
    width, height = sum(widths), sum(heights)
    with figures.style():
        fig = Figure(figsize=((width + 2.9) * 0.72, (height + 1.6) * 0.72))
        axes = fig.subplots()
        axes.set_axis_off()
        top = 0.0
        for reward, tall in zip(rows, heights, strict=True):
            axes.text(-0.15, top + tall / 2, reward, ha="right", va="center", fontsize=10.5)
            left = 0.0
            for comparison, wide in zip(columns, widths, strict=True):
                axes.add_patch(
                    FancyBboxPatch(
                        (left + 0.04, top + 0.04),
                        wide - 0.08,
                        tall - 0.08,
                        boxstyle="round,pad=0,rounding_size=0.1",
                        facecolor=figures.FAINT,
                        alpha=0.35,
                        edgecolor="none",
                    )
                )
                for i, method in enumerate(cells.get((reward, comparison), [])):
                    column, row = divmod(i, _down(rows, cells, reward))
                    x = left + MARGIN + column * (TILE[0] + GAP)
                    y = top + MARGIN + row * (TILE[1] + GAP)
                    _tile(axes, x, y, method)
                left += wide
            top += tall
        left = 0.0
        for comparison, wide in zip(columns, widths, strict=True):
            words = comparison.replace(" and ", "\nand ").replace(" of a", "\nof a")
            axes.text(left + wide / 2, -0.12, words, ha="center", va="bottom", fontsize=10.5)
            left += wide
        for i, (colour, says) in enumerate(_COLOURS.values()):
            axes.plot(i * 6.2 + 0.15, height + 0.42, "s", color=figures.PALETTE[colour], markersize=9)
            axes.text(i * 6.2 + 0.42, height + 0.42, says, va="center", fontsize=9.5)
        axes.set_xlim(-2.75, width + 0.05)
        axes.set_ylim(height + 0.7, -0.85)
        axes.set_aspect("equal")
        return figures.save(fig, "methods", folder)


_COLOURS = {
    True: ("blue", "the same for r + g(x): blind to log Z(x)"),
    False: ("vermilion", "not: what it learns depends on log Z(x)"),
}


def _down(rows: list[str], cells: dict[tuple[str, str], list[Method]], reward: str) -> int:
    """Tiles one above the other in a row: two where any of its cells has more than one."""
    return 2 if max(len(methods) for (r, _), methods in cells.items() if r == reward) > 1 else 1


def _tile(axes: Any, x: float, y: float, method: Method) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = figures.PALETTE[_COLOURS[method.shift_invariant][0]]
    box = FancyBboxPatch((x, y), *TILE, boxstyle="round,pad=0,rounding_size=0.08", facecolor="white", edgecolor=colour)
    axes.add_patch(box)
    name = method.name if not method.aliases else f"{method.name} = {method.aliases[0]}"
    axes.text(x + 0.1, y + 0.33, name, color=colour, va="center", fontsize=9.5, weight="bold")
    axes.text(x + 0.1, y + 0.68, method.shape, color=figures.INK, va="center", fontsize=8)


if __name__ == "__main__":
    print(draw())
