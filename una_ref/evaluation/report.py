"""A study's results as intervals, a table and a figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PANELS = {
    "ratings": "Ratings, as the papers have them",
    "model": "Feedback drawn from the reward itself",
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
"""What is measured of a policy, and how a table calls it."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t over seeds); NaN for one value, or an infinite one."""
    from scipy import stats

    mean = statistics.fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def summary(
    measured: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]], measures: Iterable[str] = MEASURES
) -> dict[str, Any]:
    """Each measure over seeds, and the paired difference in regret from the base policy: mean, ci95, values."""
    values = {m: [r[m] for r in measured] for m in measures}
    values["regret_against_base"] = [r["regret"] - b["regret"] for r, b in zip(measured, base, strict=True)]
    return {m: over(v) for m, v in values.items()}


def over(values: Sequence[float]) -> dict[str, Any]:
    """Numbers over seeds as mean, ci95, values."""
    return dict(zip(("mean", "ci95"), interval(values), strict=True)) | {"values": list(values)}


def table(results: dict[str, Any]) -> str:
    """The study as Markdown, one table a panel, rows by regret."""
    s = results["settings"]
    out = []
    for panel, heading in PANELS.items():
        out += [f"### {heading}", "", "| method | " + " | ".join(MEASURES.values()) + " | lr | β |"]
        out += ["| --- " * (len(MEASURES) + 3) + "|"]
        rows = [r for r in results["rows"] if r["panel"] == panel]
        for r in sorted(rows, key=lambda r: r["regret"]["mean"]):
            cells = [f"{round(r[m]['mean'], 3) + 0.0:.3f} ± {r[m]['ci95']:.3f}" for m in MEASURES]  # no −0.000
            settings = [f"{r[k]:g}" if r[k] else "" for k in ("lr", "beta")]
            out.append("| " + " | ".join([r["title"], *cells, *settings]) + " |")
        out.append("")

    def listed(values: Sequence[float], joint: str = ", ") -> str:
        return joint.join(f"{v:g}" for v in values)

    out.append(
        f"Mean ± 95 % interval over {len(s['seeds'])} worlds. {2 * s['rows']:,} labelled responses, {s['steps']} steps "
        f"of {s['batch']} rows of two; regret and reward in reward units ({s['scale']:g} a unit of score), judged at "
        f"β = {s['beta']:g} for all. Each method at its best learning rate ({listed(s['lrs'])}) and β "
        f"({listed(s['betas'])}; times {s['scale']:g} in the second table), by regret on worlds "
        f"{listed(s['tuning_seeds'], ' and ')}."
    )
    return "\n".join(out) + "\n"


def draw(results: dict[str, Any], folder: str | Path | None = None, name: str = "compare") -> Any:
    """The study as a figure: each method's regret in both panels, a dot a seed and the mean's interval."""
    from matplotlib.figure import Figure

    from una_ref import figures

    with figures.style():
        fig = Figure(figsize=(9.6, 4.6))
        titles = {"ratings": "ratings (the papers' setting)", "model": "feedback drawn from the reward"}
        for axes, panel in zip(fig.subplots(1, 2), PANELS, strict=True):
            rows = [r for r in results["rows"] if r["panel"] == panel and r["name"] != "optimum"]
            rows.sort(key=lambda r: -r["regret"]["mean"])
            base = next(r for r in rows if r["name"] == "base")["regret"]["mean"]
            axes.axvline(base, color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
            for y, r in enumerate(rows):
                ours = r["name"].startswith("una-centred")
                colour = figures.PALETTE["vermilion" if ours else "grey" if r["name"] == "base" else "blue"]
                axes.plot(
                    r["regret"]["values"],
                    [y] * len(r["regret"]["values"]),
                    "o",
                    color=colour,
                    alpha=0.35,
                    markersize=4,
                    markeredgewidth=0,
                )
                axes.errorbar(r["regret"]["mean"], y, xerr=r["regret"]["ci95"], fmt="D", color=colour, markersize=5)
            axes.set_yticks(range(len(rows)), [r["name"] for r in rows])
            axes.set_xlim(left=0)
            axes.set_title(titles[panel])
            axes.set_xlabel("exact regret J(π*) − J(π)")
        return figures.save(fig, name, folder)
