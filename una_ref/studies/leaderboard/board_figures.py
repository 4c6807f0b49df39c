"""The leaderboard's results as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from una_ref import figures
from una_ref.studies.leaderboard.board_tables import by_kind, by_regret

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 27
"""Rows of the board's figure: the best, with those that everybody asks for."""
ASKED = (
    "sft",
    "una-pair",
    "kto",
    "ipo",
    "una-score",
    "una-score.shuffled",
    "una-binary-bce",
    "ppo",
    "rloo",
    "una-online",
)


def draw_board(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "board") -> Path:
    """Regret at the main budget with intervals, and regret by budget for the leaders."""
    return figures.filled(_board, results, folder, name)


def draw_exact_scores(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "exact_scores") -> Path:
    """Regret where a score is the reward itself, with intervals."""
    return figures.filled(_exact_scores, results, folder, name)


def draw_tiny_lm(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "tiny_lm") -> Path:
    """The regret of each row with a transformer, over that with the MLP."""
    return figures.filled(_tiny_lm, results, folder, name)


def draw_frontier(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "frontier") -> Path:
    """True reward against KL along β."""
    return figures.filled(_frontier, results, folder, name)


def draw_condition(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "axis") -> Path:
    """Regret along an axis."""
    return figures.filled(_condition, results, folder, name)


def draw_alarms(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "alarms") -> Path:
    """The true gain, in reward units, of stopping at each alarm."""
    return figures.filled(_alarms, results, folder, name)


def shown_rows(ranked: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the board's figure, in the order given: the first ones and `ASKED`.

    A row with the regret of another one in every world, to 1e-3, is left out: it is the same method here.
    """
    others: list[Mapping[str, Any]] = []
    asked = [row for row in ranked if row["name"] in ASKED]
    for row in ranked:
        if row not in asked and not any(_same(row, other) for other in (*asked, *others)):
            others.append(row)
    kept = [row["name"] for row in (*asked, *others[: max(0, SHOWN - len(asked))])]
    return [row for row in ranked if row["name"] in kept]


def _same(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    pairs = zip(row["regret"]["values"], other["regret"]["values"], strict=True)
    return all(abs(a - b) < 1e-3 for a, b in pairs)


def _board(fig: Figure, results: Mapping[str, Any]) -> None:
    at, about = results["main_budget"], results["about"]
    ranked = [row for row in by_regret(results["rows"]) if row["budget"] == at and row["regret"]["mean"] is not None]
    kinds = by_kind(shown_rows(ranked), about)
    base = next(row for row in results["references"] if row["name"] == "base")["regret"]["mean"]
    lines: list[Any] = [line for kind, rows in kinds.items() for line in (_kind(kind), *rows)]
    fig.set_size_inches(11.0, 1.6 + 0.2 * len(lines))
    left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
    shown = dict.fromkeys([*results["leaders"], *(line["name"] for line in lines if not isinstance(line, str))])
    looks = figures.looks({name: about[name]["title"] for name in shown})
    for y, line in enumerate(lines):
        if isinstance(line, str):
            continue
        look, regret = looks[line["name"]], line["regret"]
        if regret["low"] is not None:
            left.plot([regret["low"], regret["high"]], [y, y], color=look["color"], lw=1.6)
        left.plot(regret["mean"], y, marker=look["marker"], color=look["color"])
        left.plot(regret["median"], y, "|", color=figures.INK, ms=7)
    left.set_ylim(len(lines) - 0.5, -0.5)
    left.axvline(base, color=figures.INK, lw=0.9, ls=":")
    left.text(base, 0, " π_ref", fontsize=8, ha="left", va="center")
    titles = [line if isinstance(line, str) else looks[line["name"]]["label"] for line in lines]
    left.set_yticks(range(len(lines)), titles, fontsize=7.5)
    for text, line in zip(left.get_yticklabels(), lines, strict=True):
        text.set_weight("bold" if isinstance(line, str) else "normal")
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter("{x:g}")
    left.tick_params(axis="x", which="minor", labelsize=7)
    left.set_xlabel("exact regret, reward units")
    left.set_title(f"{at:,} labels: mean with 95 % interval, median (bar)")
    budgets = results["settings"]["budgets"]
    for name in results["leaders"]:
        own = {row["budget"]: row["share"] for row in results["rows"] if row["name"] == name}
        known = [budget for budget in budgets if own.get(budget)]
        right.plot(known, [own[b] for b in known], **looks[name])
    right.axhline(0.1, color=figures.INK, lw=0.9, ls=":")
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("{x:g}")
    right.tick_params(which="minor", labelsize=7)
    right.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    right.xaxis.minorticks_off()
    right.set_xlabel("labels, or calls of the reward")
    right.set_title("regret as a share of π_ref's: the leaders")
    right.legend(fontsize=7.5)


def _kind(feedback: str) -> str:
    return {"calls": "reward calls, online", "reward model": "a reward model, online"}.get(feedback, feedback)


def _exact_scores(fig: Figure, results: Mapping[str, Any]) -> None:
    rows = [row for row in by_regret(results["rows"]) if row["regret"]["mean"] is not None]
    fig.set_size_inches(7.2, 1.4 + 0.26 * len(rows))
    axes = fig.subplots()
    for y, row in enumerate(rows):
        colour, regret = figures.PALETTE["green" if row["best_regret"] else "vermilion"], row["regret"]
        if regret["low"] is not None:
            axes.plot([regret["low"], regret["high"]], [y, y], color=colour, lw=1.6)
        axes.plot(regret["mean"], y, "o", color=colour)
    axes.axvline(results["base"]["regret"]["mean"], color=figures.INK, lw=0.9, ls=":")
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("exact regret, reward units; dotted: π_ref")
    axes.set_title(f"exact scores, {results['budget']:,} labels: online (green) and offline")


def _tiny_lm(fig: Figure, results: Mapping[str, Any]) -> None:
    fig.set_size_inches(5.6, 5.0)
    axes = fig.subplots()
    mlp = {row["name"]: row["regret"]["mean"] for row in results["mlp"]}
    rows = [row for row in results["rows"] if None not in (row["regret"]["mean"], mlp.get(row["name"]))]
    for name, look in figures.looks({row["name"]: row["title"] for row in rows}).items():
        regret = next(row["regret"] for row in rows if row["name"] == name)
        if regret["low"] is not None:
            axes.plot([mlp[name]] * 2, [regret["low"], regret["high"]], color=look["color"], lw=1.2)
        axes.plot(mlp[name], regret["mean"], **look)
    ends = (0.9 * min([*mlp.values()]), 1.1 * max([*mlp.values()])) if rows else (0, 1)
    axes.plot(ends, ends, color=figures.INK, lw=0.9, ls=":", label="equal")
    axes.set_xlabel("exact regret of the MLP, reward units")
    axes.set_ylabel("exact regret of a transformer, reward units")
    axes.legend(fontsize=7.5)


def _frontier(fig: Figure, results: Mapping[str, Any]) -> None:
    fig.set_size_inches(7.2, 4.6)
    axes = fig.subplots()
    best = results["optimal"]
    axes.plot(
        [row["kl"]["mean"] for row in best], [row["reward"]["mean"] for row in best], color=figures.INK, label="π* by β"
    )
    for name, look in figures.looks({row["name"]: row["title"] for row in results["rows"]}).items():
        own = [row for row in results["rows"] if row["name"] == name and row["kl"]["mean"] is not None]
        axes.plot([row["kl"]["mean"] for row in own], [row["reward"]["mean"] for row in own], **look)
    axes.set_xlabel("KL(π ‖ π_ref), nats")
    axes.set_ylabel("true reward")
    axes.set_title("reward and KL along β")
    axes.legend(fontsize=7.5)


def _alarms(fig: Figure, results: Mapping[str, Any]) -> None:
    scenarios = results["scenarios"]
    fig.set_size_inches(11.0, 3.4)
    for axes, scenario in zip(
        fig.subplots(1, max(1, len(scenarios)), sharey=True, squeeze=False)[0], scenarios, strict=False
    ):
        rules = scenario["rules"]
        for y, rule in enumerate(rules):
            colour = figures.PALETTE["blue" if rule["name"] in results["monitors"] else "grey"]
            if rule["gain"]["low"] is not None:
                axes.plot([rule["gain"]["low"], rule["gain"]["high"]], [y, y], color=colour, lw=1.6)
            if rule["gain"]["mean"] is not None:
                axes.plot(rule["gain"]["mean"], y, "o", color=colour)
        if rules[0]["gain"]["mean"] is not None:
            axes.axvline(rules[0]["gain"]["mean"], color=figures.INK, lw=0.9, ls=":")
        names = [rule["name"] if rule["name"] in results["monitors"] else rule["title"] for rule in rules]
        axes.set_yticks(range(len(rules)), [n.partition(" at ")[0] if n.startswith("stop") else n for n in names])
        axes.set_ylim(len(rules) - 0.5, -0.5)
        axes.set_title(scenario["title"], fontsize=9)
        axes.set_xlabel("true gain at the stop", fontsize=9)


def _condition(fig: Figure, results: Mapping[str, Any]) -> None:
    fig.set_size_inches(7.2, 4.2)
    axes = fig.subplots()
    levels = results["levels"]
    for name, look in figures.looks({row["name"]: row["title"] for row in results["rows"]}).items():
        own = [row for row in results["rows"] if row["name"] == name and row["regret"]["mean"] is not None]
        axes.plot([levels.index(row["level"]) for row in own], [row["regret"]["mean"] for row in own], **look)
    base = [(levels.index(row["level"]), row["regret"]["mean"]) for row in results["base"]]
    axes.plot([x for x, _ in base], [y for _, y in base], color=figures.INK, lw=0.9, ls=":", label="π_ref")
    axes.set_xticks(range(len(levels)), results["labels"])
    axes.set_xlabel(results["title"])
    axes.set_ylabel("exact regret, reward units")
    axes.legend(fontsize=7.5)
