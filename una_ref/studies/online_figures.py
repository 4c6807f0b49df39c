"""The online study's results as figures, one for each axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from una_ref import figures
from una_ref.studies.online_tables import PHASES, reward_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def solid(name: str) -> dict[str, Any]:
    """The look of a method with a solid line: the line style says something else in figures of online studies."""
    return figures.look(name) | {"linestyle": "-"}


def draw_methods(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "methods") -> Path:
    """Regret by both objectives; gradient noise; where a step's time goes. A row for each method."""
    return figures.filled(_methods, results, folder, name)


def draw_offset(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "offset") -> Path:
    """Regret and gradient noise by the number added to every score."""
    return figures.filled(_offset, results, folder, name)


def draw_proxy(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "proxy") -> Path:
    """What is gained along KL, truly and by the proxy, for each reward model."""
    return figures.filled(_proxy, results, folder, name)


def _methods(fig: Figure, result: Mapping[str, Any]) -> None:
    s, rows = result["settings"], sorted((r for r in result["rows"] if "lr" in r), key=lambda r: -r["regret"]["mean"])
    base = next(r for r in result["rows"] if r["name"] == "base")["regret"]["mean"]
    places = range(len(rows))
    fig.set_size_inches(10.4, 0.46 * len(rows) + 1.6)
    regret, noise, time = fig.subplots(1, 3, sharey=True, width_ratios=(5, 3, 4))
    right = min(2.2 * base, 1.15 * max(max(r[m]["values"]) for r in rows for m in ("regret", "true_regret")))
    for y, r in zip(places, rows, strict=True):
        colour = figures.look(r["name"])["color"]
        for measure, at, fill in (("regret", y + 0.15, colour), ("true_regret", y - 0.17, "none")):
            value = r[measure]
            regret.plot(value["values"], [at] * len(value["values"]), "o", color=colour, alpha=0.3, ms=3, mew=0)
            regret.errorbar(value["mean"], at, xerr=value["ci95"], fmt="o", color=colour, mfc=fill)
            if value["mean"] > right:
                far = {
                    "ha": "right",
                    "color": colour,
                    "fontsize": 8,
                    "bbox": {"fc": figures.CARD, "ec": "none", "pad": 1},
                }
                regret.annotate(f"{value['mean']:.2f} →", (right, at), (-3, 0), **_beside, **far)
        noise.errorbar(r["noise"]["mean"], y, xerr=r["noise"]["ci95"], fmt="o", color=colour)
    shades = dict(zip(PHASES, ("sky", "orange", "blue"), strict=True))
    left = [0.0] * len(rows)
    for phase in PHASES:
        width = [1e3 * r["seconds"][phase]["mean"] for r in rows]
        time.barh(places, width, 0.55, left, color=figures.PALETTE[shades[phase]], label=phase)
        left = [a + b for a, b in zip(left, width, strict=True)]
    for y, r, end in zip(places, rows, left, strict=True):
        time.annotate(f"{r['updates']} updates" if r["updates"] > 1 else "", (end, y), (4, 0), **_beside, fontsize=8)
    regret.axvline(base, color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
    regret.annotate("π_ref", (base, len(rows) - 0.62), (3, 0), **_beside, fontsize=8, color=figures.PALETTE["grey"])
    regret.set_yticks(places, [figures.look(r["name"])["label"] for r in rows])
    regret.set_ylim(-0.6, len(rows) - 0.4)
    regret.set_xlim(0, right)
    time.set_xlim(right=max(left) * 1.3)
    regret.set_title("regret by the proxy (filled), truly (open)")
    regret.set_xlabel("J(π*) − J(π), exact")
    noise.set_title("gradient noise at π_ref")
    noise.set_xlabel("E‖g − E g‖² / (E g · u)²")
    noise.set_xlim(left=0)
    time.set_title("a step")
    time.set_xlabel(f"ms for {s['batch'] * s['draws']} responses")
    fig.legend(*time.get_legend_handles_labels(), loc="outside lower right", ncols=3)


_beside = {"textcoords": "offset points", "va": "center"}


def _offset(fig: Figure, result: Mapping[str, Any]) -> None:
    fig.set_size_inches(9.6, 4.3)
    regret, noise = fig.subplots(1, 2)
    names = list(dict.fromkeys((r["name"], r["retuned"]) for r in result["rows"]))
    methods = list(dict.fromkeys(name for name, _ in names))
    for name, retuned in names:
        rows = [r for r in result["rows"] if (r["name"], r["retuned"]) == (name, retuned)]
        # Side by side, so that what is equal can be seen to be.
        x = [r["offset"] + 0.12 * (methods.index(name) - (len(methods) - 1) / 2) for r in rows]
        line = {"linestyle": ":", "mfc": "none", "label": "_"} if retuned else {}
        for axes, what in ((regret, "regret"), (noise, "noise")):
            if what == "regret" or not retuned:
                mean, half = ([r[what][k] for r in rows] for k in ("mean", "ci95"))
                axes.errorbar(x, mean, yerr=half, **solid(name) | line, linewidth=1.4)
    base = result["base"]["regret"]["mean"]
    regret.axhline(base, color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
    over = {"xycoords": ("axes fraction", "data"), "ha": "center", "fontsize": 8}
    regret.annotate("π_ref", (0.62, base), (0, 6), **_beside, **over)
    regret.set_title("regret (dotted: learning rate chosen at each offset)")
    regret.set_ylabel("J(π*) − J(π), exact, by the proxy")
    noise.set_title("gradient noise at π_ref")
    noise.set_ylabel("E‖g − E g‖² / (E g · u)²")
    for axes, what in ((regret, "regret"), (noise, "noise")):
        means = [r[what]["mean"] for r in result["rows"] if math.isfinite(r[what]["mean"])]
        axes.set_yscale("log")
        axes.set_ylim(0.6 * min(means), 2.5 * max(means))
        axes.set_xlabel("added to every score")
        axes.set_xticks(sorted({r["offset"] for r in result["rows"]}))
    fig.legend(*noise.get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))


def _proxy(fig: Figure, result: Mapping[str, Any]) -> None:
    from matplotlib.lines import Line2D

    rewards, ink, grey = result["rewards"], figures.INK, figures.PALETTE["grey"]
    fig.set_size_inches(2.7 * len(rewards) + 0.6, 4.2)
    panels = fig.subplots(1, len(rewards), sharex=True, sharey=True, squeeze=False)[0]
    reached = [point for r in result["rows"] for point in r["curve"]]
    far = 1.15 * max(point["kl"]["mean"] for point in reached)
    shown = [*reached, *(p for about in rewards for p in about["frontier"] if p["kl"]["mean"] <= far)]
    heights = [p[what]["mean"] for p in shown for what in ("proxy_gain", "true_gain")]
    room = 0.06 * (max(heights) - min(0.0, *heights))
    dashes = {"proxy_gain": "--", "true_gain": "-"}
    for axes, about in zip(panels, rewards, strict=True):
        for what, dash in dashes.items():
            x, y = ([0.0, *(point[k]["mean"] for point in about["frontier"])] for k in ("kl", what))
            axes.plot(x, y, dash, color=grey, linewidth=1)
            for r in (r for r in result["rows"] if r["reward"] == about["reward"]):
                drawn_as = solid(r["name"]) | {"linestyle": dash} | ({"mfc": "none"} if dash == "--" else {})
                x, y = ([point[k]["mean"] for point in r["curve"]] for k in ("kl", what))
                axes.plot(x, y, **drawn_as, linewidth=1.4, markevery=[len(x) - 1])
        accuracy = 100 * about["test_accuracy"]["mean"]
        axes.set_title(f"{reward_name(about['reward'])}: right on {accuracy:.0f} %", fontsize=10)
        axes.axhline(0, color=ink, linewidth=0.6)
        axes.set_xlabel("KL(π ‖ π_ref), nats")
    panels[0].set_xlim(0, far)
    panels[0].set_ylim(min(0.0, *heights) - room, max(heights) + room)
    panels[0].set_ylabel("reward above π_ref's")
    names = list(dict.fromkeys(r["name"] for r in result["rows"]))
    lines = [Line2D([], [], **solid(name)) for name in names]
    lines += [
        Line2D([], [], color=ink, linestyle="-", label="true"),
        Line2D([], [], color=ink, linestyle="--", label="by the proxy"),
        Line2D([], [], color=grey, linewidth=1, label="best by the proxy, exact"),
    ]
    fig.legend(handles=lines, loc="outside lower center", ncols=4)
