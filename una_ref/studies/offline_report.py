"""The offline study's results as a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from una_ref import figures
from una_ref.studies import markdown_tables as cells

PANELS = {
    "ratings": "Ratings, as the papers have them",
    "model": "Feedback sampled from the reward itself",
}
"""The two panels and their headings."""

MEASURES = {
    "regret": "exact regret",
    "reward": "true reward",
    "kl": "KL to π_ref",
    "exact": "right answers",
    "accuracy": "pair accuracy",
    "length": "letters",
}
"""What is measured of a policy, and its column in the table."""


def table(results: Mapping[str, Any]) -> list[str]:
    """The study as Markdown: a table for each panel, rows by regret, and how to read them."""
    s = results["settings"]
    regret, *others = MEASURES.values()
    lines = []
    for panel, heading in PANELS.items():
        rows = [row for row in results["rows"] if row["panel"] == panel]
        lines += [f"### {heading}", ""]
        lines += cells.rows(
            ["method", regret, "median", "worse than π_ref", *others, "lr", "β"],
            (
                [
                    row["title"],
                    cells.mean(row["regret"]),
                    cells.median(row["regret"]),
                    cells.count(row["worse_than_base"]) if row["lr"] else "",
                    *(cells.mean(row[measure]) for measure in list(MEASURES)[1:]),
                    *(f"{row[key]:g}" if row[key] else "" for key in ("lr", "beta")),
                ]
                for row in sorted(rows, key=lambda row: row["regret"]["mean"])
            ),
        )
        lines.append("")
    return [
        *lines,
        f"Mean ± 95 % interval over {len(s['seeds'])} worlds, and the median of the regret. {2 * s['rows']:,} labelled "
        f"responses, {s['steps']} steps of {s['batch']} rows of two. Regret and reward are in reward units "
        f"({s['scale']:g} a unit of score), judged at β = {s['beta']:g} for all. Worse than π_ref: runs that end with "
        "more regret than the base policy, or fail by a non-finite value. Each method at its best learning rate "
        f"({cells.listed(s['lrs'])}) and β ({cells.listed(s['betas'])}; times {s['scale']:g} in the second table), by "
        f"regret on worlds {cells.listed(s['tuning_seeds'], ' and ')}.",
    ]


def draw(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "compare") -> Path:
    """The study as a figure: each method's regret in both panels, a dot a world and the mean's interval."""
    from matplotlib.figure import Figure

    with figures.style():
        fig = Figure(figsize=(9.6, 4.6))
        titles = {"ratings": "ratings (the papers' setting)", "model": "feedback sampled from the reward"}
        looks = figures.looks({row["name"]: row["title"] for row in results["rows"]})
        for axes, panel in zip(fig.subplots(1, 2), PANELS, strict=True):
            rows = [row for row in results["rows"] if row["panel"] == panel and row["name"] != "optimum"]
            rows.sort(key=lambda row: -row["regret"]["mean"])
            base = next(row for row in rows if row["name"] == "base")["regret"]["mean"]
            axes.axvline(base, color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
            for y, row in enumerate(rows):
                colour = looks[row["name"]]["color"]
                axes.plot(
                    row["regret"]["values"],
                    [y] * len(row["regret"]["values"]),
                    "o",
                    color=colour,
                    alpha=0.35,
                    markersize=4,
                    markeredgewidth=0,
                )
                axes.errorbar(row["regret"]["mean"], y, xerr=row["regret"]["ci95"], fmt="D", color=colour, markersize=5)
            axes.set_yticks(range(len(rows)), [looks[row["name"]]["label"] for row in rows])
            axes.set_xlim(left=0)
            axes.set_title(titles[panel])
            axes.set_xlabel("exact regret J(π*) − J(π)")
        return figures.save(fig, name, folder)
