"""The online study's results as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from una_ref.studies import markdown_tables as cells

MEASURES = {
    "regret": "regret (proxy)",
    "true_regret": "regret (true)",
    "reward": "true reward",
    "proxy_reward": "proxy reward",
    "kl": "KL to π_ref",
    "win_rate": "win rate",
}
"""What is measured of a policy, and its column in the tables."""

PHASES = ("generation", "scoring", "learning")
"""Of a training step."""

Results = Mapping[str, Any]


def methods(results: Results) -> list[str]:
    """The axis methods: a table of regrets and one of costs."""
    s, rows = results["settings"], results["rows"]
    timed = [row for row in rows if "seconds" in row]
    calls = s["steps"] * s["batch"] * s["draws"]
    regret, *others = MEASURES.values()
    return [
        "### Online methods",
        "",
        *cells.rows(
            ["method", regret, "median", "worse than π_ref", *others, "noise", "lr"],
            (
                [
                    row["title"],
                    cells.mean(row["regret"]),
                    cells.median(row["regret"]),
                    cells.count(row["worse_than_base"]) if "lr" in row else "",
                    *(cells.mean(row[measure]) for measure in list(MEASURES)[1:]),
                    cells.mean(row.get("noise"), 2),
                    f"{row['lr']:g}" if "lr" in row else "",
                ]
                for row in sorted(rows, key=lambda row: (row["regret"]["mean"], row["true_regret"]["mean"]))
            ),
        ),
        "",
        f"Mean ± 95 % interval over {len(s['seeds'])} worlds, and the median of the regret (proxy). {s['steps']} "
        f"rollouts of {s['batch']} prompts × {s['draws']} responses, {calls:,} reward calls for each method; "
        f"{_reward(s['reward'])}, one a world; β = {s['beta']:g} for all. Regrets and rewards are in reward units, the "
        "proxy's with mean 0 under π_ref. The win rate is against π_ref, by the true reward. Worse than π_ref: runs "
        "that end with more regret (proxy) than the base policy, or fail by a non-finite value. Each method at its "
        f"best learning rate of {cells.listed(s['lrs'])}, by regret (proxy) on worlds "
        f"{cells.listed(s['tuning_seeds'], ' and ')}. Noise: E‖g − E g‖² / (E g · u)² of the gradient g of a step's "
        "first update, at π_ref, where u is the direction of the exact gradient of the objective; from "
        f"{s['rollouts']} rollouts.",
        "",
        "### What a step costs",
        "",
        *cells.rows(
            ["method", "models held", "parameters", "updates", *(f"{p}, ms" for p in PHASES), "in all, ms"]
            + [f"{p}, MiB" for p in PHASES],
            (
                [
                    row["title"],
                    held_models(row["models"]),
                    f"{sum(row['models'].values()):,}",
                    str(row["updates"]),
                    *(cells.mean(row["seconds"][p], 0, 1e3) for p in PHASES),
                    f"{1e3 * sum(row['seconds'][p]['mean'] for p in PHASES):.0f}",
                    *(cells.mean(row["memory"].get(p), 1) for p in PHASES),
                ]
                for row in sorted(timed, key=lambda row: sum(row["seconds"][p]["mean"] for p in PHASES))
            ),
        ),
        "",
        f"A step is a rollout of {s['batch'] * s['draws']} responses with all its updates. Medians over {s['timed']} "
        f"steps, mean ± 95 % interval over {len(s['timed_seeds'])} runs, one at a time on one thread. MiB: the phase's "
        "peak above a process that has everything loaded except the run's models. π_ref is the policy with its adapter "
        "off.",
    ]


def held_models(held: Mapping[str, int]) -> str:
    """Sets of weights and their names; a reference without weights of its own stands with the policy."""
    separate = [name for name, size in held.items() if size]
    shared = [name for name, size in held.items() if not size]
    return f"{len(separate)}: " + ", ".join([" = ".join([separate[0], *shared]), *separate[1:]])


def offset(results: Results) -> list[str]:
    """The axis offset: a table of regrets and one of gradient noise."""
    s, rows, base = results["settings"], results["rows"], results["base"]["regret"]
    lines: dict[tuple[str, bool], dict[float, Results]] = {}
    for row in rows:
        lines.setdefault((row["name"], row["retuned"]), {})[row["offset"]] = row
    columns = [f"{each:+g}" if each else "0" for each in s["offsets"]]
    table = []
    for (_, retuned), at in lines.items():
        title = at[s["offsets"][0]]["title"] + (", lr chosen at each offset" if retuned else "")
        regrets = [at[each]["regret"] for each in s["offsets"]]
        worse = [row["worse_than_base"] for row in at.values()]
        total = {name: sum(each[name] for each in worse) for name in ("count", "of")}
        table.append(
            [title, *(f"{cells.mean(regret)} ({cells.median(regret)})" for regret in regrets), cells.count(total)]
        )
    return [
        "### A number added to every score",
        "",
        *cells.rows(["regret (proxy) at offset", *columns, "worse than π_ref"], table),
        "",
        *cells.rows(
            ["noise at offset", *columns],
            (
                [at[s["offsets"][0]]["title"], *(cells.mean(at[each].get("noise"), 2) for each in s["offsets"])]
                for (_, retuned), at in lines.items()
                if not retuned
            ),
        ),
        "",
        f"In brackets: the median over worlds. The base's regret is {cells.mean(base)} ({cells.median(base)}). The "
        "number does not change which policy is best. Learning rates are those chosen at offset 0, except where "
        "stated; everything else is as in the first table.",
    ]


def proxy(results: Results) -> list[str]:
    """The axis proxy: for each reward model its best policy, and what each method made of it."""
    table = []
    for about in results["rewards"]:
        best, rows = about["optimum"], [row for row in results["rows"] if row["reward"] == about["reward"]]
        accuracies = [cells.mean(about["train_accuracy"]), cells.mean(about["test_accuracy"])]
        gains = [cells.mean(best[measure]) for measure in ("proxy_gain", "true_gain", "kl")]
        table.append([reward_name(about["reward"]), *accuracies, "π̂\\*, its optimum", *gains, *_truly(best), ""])
        for row in rows:
            last = row["curve"][-1]
            peak = max(row["curve"], key=lambda point: point["true_gain"]["mean"])
            gains = [cells.mean(last[measure]) for measure in ("proxy_gain", "true_gain", "kl")]
            best_gain = f"{peak['true_gain']['mean']:.3f} at step {peak['step']}"
            table.append(["", "", "", row["title"], *gains, *_truly(row), best_gain])
    head = ["reward", "train accuracy", "test accuracy", "policy", "proxy gain", "true gain", "KL", "regret (true)"]
    return [
        "### Over-optimisation",
        "",
        *cells.rows([*head, "median", "truly worse than π_ref", "best true gain on the way"], table),
        "",
        "Gains in reward over π_ref. The median is that of the regret (true); truly worse: with more of it than π_ref, "
        "or failed by a non-finite value. Accuracies are on pairs of two different responses that Bradley–Terry "
        "labelled by the true reward, so the truth itself is not always right. Learning rates are those of the first "
        "table.",
    ]


def _truly(row: Results) -> list[str]:
    regret = row["true_regret"]
    return [cells.mean(regret), cells.median(regret), cells.count(row["truly_worse_than_base"])]


def reward_name(reward: str) -> str:
    """A reward of the study in a table or a figure."""
    return "the truth" if reward == "truth" else f"{int(reward):,} pairs"


def _reward(reward: str) -> str:
    return "the true reward" if reward == "truth" else f"a reward model of {int(reward):,} pairs"
