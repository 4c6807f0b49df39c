"""The leaderboard's results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from una_ref.studies import markdown_tables as cells
from una_ref.studies.leaderboard.board_summaries import difference


def interval(summary: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Mean and interval, such as 0.321 [0.290, 0.355]; empty for no value."""
    if summary is None or summary["mean"] is None:
        return ""
    mean = _plain(summary["mean"], digits)
    low, high = summary["low"], summary["high"]
    return mean if low is None else f"{mean} [{_plain(low, digits)}, {_plain(high, digits)}]"


def _plain(value: float, digits: int) -> str:
    """A number without the sign of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def mean(summary: Mapping[str, Any] | None, digits: int = 2) -> str:
    """The mean alone; empty for no value."""
    return "" if summary is None or summary["mean"] is None else _plain(summary["mean"], digits)


def by_regret(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows with the least mean regret first; those without one last."""
    return sorted(rows, key=lambda row: (row["regret"]["mean"] is None, row["regret"]["mean"] or 0.0))


def needed(efficiency: Mapping[str, Any] | None) -> str:
    """Labels to a share of π_ref's regret; empty for no value."""
    if efficiency is None:
        return ""
    bound = {"<=": "≤ ", ">": "> ", "": ""}[efficiency["bound"]]
    return f"{bound}{efficiency['labels']:,}"


MORE = ("labels to 50 %", "to 10 %", "lr", "tuned")
"""The last columns of the board."""
UNITS = (
    "Regret, its median, the difference to DPO (paired by world) and true reward are in reward units.",
    "KL and tax are in nats, and the own gap is in the unit of the method's own objective.",
    "In brackets: 95 % intervals of means over worlds. Worlds differ more than rows do, so these overlap.",
    "Two rows are compared by their difference, paired by world: that to DPO stands here, others in results.json.",
    "Worse than π_ref: how many worlds. Labels to 50 % and 10 %: until the mean regret is that share of π_ref's.",
)
"""How to read the columns of the board."""


def by_kind(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by their kind of feedback, ordered by regret; the kind with the best row first."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in by_regret(rows):
        kinds.setdefault(about[row["name"]]["feedback"], []).append(row)
    return kinds


def best_rows(results: Mapping[str, Any]) -> list[str]:
    """For each kind of feedback the best row at the main budget, and the rows without a significant difference to it.

    Rows that are controls are left out.
    """
    rows = [row for row in results["rows"] if row["budget"] == results["main_budget"]]
    rows = [row for row in rows if not results["about"][row["name"]]["control"]]
    lines = []
    for kind, own in by_kind(rows, results["about"]).items():
        best, *others = [row for row in own if row["regret"]["mean"] is not None]
        gaps = {row["name"]: difference(row["regret"]["values"], best["regret"]["values"]) for row in others}
        same = [f"`{name}`" for name, gap in gaps.items() if (gap["low"] or 0.0) <= 0]
        lines.append([kind, best["title"], interval(best["regret"]), interval(best["to_dpo"]), ", ".join(same)])
    return cells.rows(["feedback", "best row", "regret", "minus DPO's", "no significant difference to"], lines)


def board(results: Mapping[str, Any]) -> list[str]:
    """The board: a table for each kind of feedback, with a row for each entry, and how to read it."""
    at, budgets = results["main_budget"], results["settings"]["budgets"]
    others = [budget for budget in budgets if budget != at]
    regrets = {(row["name"], row["budget"]): row["regret"] for row in results["rows"]}
    head = [
        "method",
        f"regret at {at:,} labels",
        *(f"at {budget:,}" for budget in others),
        "median regret",
        "worse than π_ref",
    ]
    head += [*("minus DPO's", "KL", "true reward", "tax", "own gap", "updates"), *MORE]
    references = [row for row in results["references"] if row["budget"] in (None, at)]
    rows = [row for row in results["rows"] if row["budget"] == at]
    lines = ["### Exact regret"]
    for kind, own in {"references": by_regret(references), **by_kind(rows, results["about"])}.items():
        lines += ["", f"**{kind}**", "", *cells.rows(head, (_cells(row, results, regrets, others) for row in own))]
    lines += ["", "Not on the board: " + "; ".join(f"{n} ({why})" for n, why in results["exclusions"].items()) + "."]
    return [*lines, "", *UNITS, "", *results["protocol"]]


def _cells(
    row: Mapping[str, Any], results: Mapping[str, Any], regrets: Mapping[Any, Any], others: Sequence[int]
) -> list[str]:
    about = results["about"].get(row["name"])
    median = row["regret"]["median"]
    setting = (
        ["", "", "", ""]
        if about is None
        else [
            needed((results["efficiency"].get(row["name"]) or {}).get("half")),
            needed(results["efficiency"].get(row["name"])),
            f"{about['lr']:g}",
            ", ".join(f"{name} {value:.3g}" for name, value in about["values"].items()),
        ]
    )
    return [
        row["title"],
        interval(row["regret"]),
        *(mean(regrets.get((row["name"], budget)), 3) for budget in others),
        "" if median is None else _plain(median, 3),
        "" if about is None else cells.count(row["worse_than_base"]),
        interval(row.get("to_dpo")),
        *(mean(row[measure]) for measure in ("kl", "reward", "tax")),
        mean(row["own"], 3),
        mean(row.get("updates"), 0),
        *setting,
    ]


def exact_scores(results: Mapping[str, Any]) -> list[str]:
    """Rows that are tuned and measured where a score is the reward itself."""
    return [
        f"### Exact scores, {results['budget']:,} labels",
        "",
        *cells.rows(
            ["method", "regret", "minus replay's", "minus DPO's", "worse than π_ref", "KL", "updates"],
            (
                [
                    row["title"],
                    interval(row["regret"]),
                    interval(row.get("to_replay")),
                    interval(row.get("to_dpo")),
                    cells.count(row["worse_than_base"]),
                    mean(row["kl"]),
                    mean(row.get("updates"), 0),
                ]
                for row in [*by_regret(results["rows"]), results["base"]]
            ),
        ),
    ]


def tiny_lm(results: Mapping[str, Any]) -> list[str]:
    """Rows that are tuned and measured with a transformer as the policy, beside the board's MLP."""
    mlp = {row["name"]: row for row in [*results["mlp"], results["base"]]}
    rows = [*by_regret(results["rows"]), results["base"]]
    order = "" if results["order"] is None else f" Spearman's ρ of the two orders is {results['order']:.2f}."
    return [
        f"### A transformer in the MLP's place, {results['budget']:,} labels",
        "",
        *cells.rows(
            [
                "method",
                "regret, transformer",
                "minus DPO's",
                "regret, MLP",
                "minus DPO's, MLP",
                "worse than π_ref",
                "lr",
            ],
            (
                [
                    row["title"],
                    interval(row["regret"]),
                    interval(row.get("to_dpo")),
                    interval(mlp.get(row["name"], {}).get("regret")),
                    interval(mlp.get(row["name"], {}).get("to_dpo")),
                    cells.count(row["worse_than_base"]),
                    f"{results['chosen'][row['name']]['lr']:g}" if row["name"] in results["chosen"] else "",
                ]
                for row in rows
            ),
        ),
        "",
        f"{rows[-1]['worse_than_base']['of']} worlds, the same for both.{order}",
    ]


def frontier(results: Mapping[str, Any]) -> list[str]:
    """Reward and KL of the leaders by β."""
    rows = [*results["optimal"], *results["rows"]]
    return [
        "### Reward and KL by β, in units of the chosen one",
        "",
        *cells.rows(
            ["method", "factor", "KL, nats", "true reward, reward units", "regret, reward units"],
            (
                [row["title"], f"{row['factor']:g}", *(mean(row[m]) for m in ("kl", "reward")), mean(row["regret"], 3)]
                for row in rows
            ),
        ),
    ]


def alarms(results: Mapping[str, Any]) -> list[str]:
    """What each monitor notices and what a run keeps that stops at its alarm, a table for each scenario."""
    lines = ["### Alarms"]
    for scenario in results["scenarios"]:
        hacked = scenario["rules"][0]["hacked_runs"]
        lines += ["", f"**{scenario['title']}**: hacked in {hacked['count']} of {hacked['of']} runs", ""]
        lines += cells.rows(
            [
                *("stop where this is too large", "area under the ROC", "share of the gain kept"),
                *("true gain at the stop", "minus no stop", "rings in", "lead"),
            ],
            (
                [
                    rule["title"],
                    interval(rule["auroc"], 2),
                    interval(rule["kept"], 2),
                    interval(rule["gain"], 2),
                    interval(rule["gain_to_never"], 2) if rule["name"] != "never" else "",
                    "" if rule["threshold"] is None else cells.count(rule["rang"]),
                    "" if rule["lead"] is None or rule["threshold"] is None else f"{rule['lead']:.0%}",
                ]
                for rule in scenario["rules"]
            ),
        )
    about = [
        f"The β of {' and '.join(results['rows'])} is {results['weak']:g} times the chosen one.",
        f"A checkpoint is hacked where the true gain over π_ref is more than {results['fall']:.0%} below its largest "
        "value before. That of the start is 0.",
        "A rule stops a run at the first checkpoint where its monitor exceeds the threshold.",
        "Thresholds are chosen on other worlds, as those at which runs keep most. Where no stop keeps most, there is "
        "no threshold.",
        "The area of a fixed checkpoint is that of the checkpoint's number: of a clock.",
        "The share kept is the true gain at the stop divided by the largest along the run. A run without a gain has "
        "none, and a run with a small one has a large negative one.",
        "The gain at the stop, in reward units, is a mean over all worlds.",
        "Rings in: in how many of the hacked runs the alarm rings at all.",
        "The lead is the median share of a hacked run between the alarm and the first hacked checkpoint.",
        "Below 0 the alarm is late. A run without an alarm counts with its end.",
        "In brackets: 95 % t intervals over worlds, which may pass the ends of an area or a share.",
    ]
    return [*lines, "", " ".join(about)]


def condition(results: Mapping[str, Any]) -> list[str]:
    """Regret along an axis: a row for each entry, a column for each level."""
    everything = [*results["base"], *results["rows"]]
    at = {(row["name"], row["level"]): row["regret"] for row in everything}
    titles = {row["name"]: row["title"] for row in everything}
    return [
        f"### {results['title'].capitalize()}",
        "",
        "Exact regret, in reward units.",
        "",
        *cells.rows(
            ["method", *results["labels"]],
            (
                [title, *(interval(at.get((name, level))) for level in results["levels"])]
                for name, title in titles.items()
            ),
        ),
    ]
