"""The online study's results as tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {
    "regret": "regret (proxy)",
    "true_regret": "regret (true)",
    "reward": "true reward",
    "proxy_reward": "proxy reward",
    "kl": "KL to π_ref",
    "win_rate": "win rate",
}
"""What is measured of a policy, and how a table calls it."""

PHASES = ("generation", "scoring", "learning")


# ---- tables


def table(results: Mapping[str, Any]) -> str:
    """All axes that there are, as Markdown."""
    make: dict[str, Callable[[Any], list[str]]] = {"methods": _methods, "offset": _offset, "proxy": _proxy}
    return "\n".join(line for axis, result in results.items() for line in [*make[axis](result), ""]).rstrip() + "\n"


def _methods(result: Mapping[str, Any]) -> list[str]:
    s, rows = result["settings"], result["rows"]
    timed = [r for r in rows if "seconds" in r]
    calls = s["steps"] * s["batch"] * s["draws"]
    return [
        "### Online methods",
        "",
        *_rows(
            ["method", *MEASURES.values(), "noise", "diverged", "lr"],
            (
                [
                    r["title"],
                    *(_pm(r[m]) for m in MEASURES),
                    _pm(r.get("noise"), 2),
                    f"{r['diverged']} of {len(s['seeds'])}" if "diverged" in r else "",
                    f"{r['lr']:g}" if "lr" in r else "",
                ]
                for r in sorted(rows, key=lambda r: (r["regret"]["mean"], r["true_regret"]["mean"]))
            ),
        ),
        "",
        f"Mean ± 95 % interval over {len(s['seeds'])} worlds. {s['steps']} rollouts of {s['batch']} prompts × "
        f"{s['draws']} responses, {calls:,} reward calls for each method; {_reward(s['reward'])}, one a world; "
        f"β = {s['beta']:g} for all. Regrets and rewards in reward units, the proxy's with mean 0 under π_ref; the win "
        "rate is against π_ref, by the true reward. Each method at its best learning rate of "
        f"{_listed(s['lrs'])}, by regret (proxy) on worlds {_listed(s['tuning_seeds'], ' and ')}. Noise: "
        "E‖g − E g‖² / (E g · u)² of the gradient g of a step's first update, at π_ref, u the direction of the exact "
        f"gradient of the objective; from {s['rollouts']} rollouts. Diverged: worse "
        "than π_ref by what it was asked to do, or stopped by a number that is none.",
        "",
        "### What a step costs",
        "",
        *_rows(
            ["method", "models held", "parameters", "updates", *(f"{p}, ms" for p in PHASES), "in all, ms"]
            + [f"{p}, MiB" for p in PHASES],
            (
                [
                    r["title"],
                    _models(r["models"]),
                    f"{sum(r['models'].values()):,}",
                    str(r["updates"]),
                    *(_pm(r["seconds"][p], 0, 1e3) for p in PHASES),
                    f"{1e3 * sum(r['seconds'][p]['mean'] for p in PHASES):.0f}",
                    *(_pm(r["memory"].get(p), 1) for p in PHASES),
                ]
                for r in sorted(timed, key=lambda r: sum(r["seconds"][p]["mean"] for p in PHASES))
            ),
        ),
        "",
        f"A step is a rollout of {s['batch'] * s['draws']} responses with all its updates; medians over {s['timed']} "
        f"steps, mean ± 95 % interval over {len(s['timed_seeds'])} runs, one at a time on one thread. MiB: the phase's "
        "peak beyond a process that has everything loaded but the run's models. π_ref is the policy with its adapter "
        "off.",
    ]


def _models(held: Mapping[str, int]) -> str:
    """Sets of weights and their names; a reference without weights of its own goes with the policy."""
    own = [name for name, size in held.items() if size]
    shared = [name for name, size in held.items() if not size]
    return f"{len(own)}: " + ", ".join([" = ".join([own[0], *shared]), *own[1:]])


def _offset(result: Mapping[str, Any]) -> list[str]:
    s, rows = result["settings"], result["rows"]

    def cells(what: str, digits: int, some: Sequence[Mapping[str, Any]]) -> list[str]:
        at = {r["offset"]: r for r in some}
        return [_pm(at[by].get(what), digits) for by in s["offsets"]]

    names = list(dict.fromkeys((r["name"], r["retuned"]) for r in rows))
    of = {key: [r for r in rows if (r["name"], r["retuned"]) == key] for key in names}
    columns = [f"{by:+g}" if by else "0" for by in s["offsets"]]
    return [
        "### A number added to every score",
        "",
        *_rows(
            ["regret (proxy) at offset", *columns, "diverged"],
            (
                [
                    some[0]["title"] + (", lr chosen at each offset" if again else ""),
                    *cells("regret", 3, some),
                    f"{sum(r['diverged'] for r in some)} of {len(some) * len(s['seeds'])}",
                ]
                for (_, again), some in of.items()
            ),
        ),
        "",
        *_rows(
            ["noise at offset", *columns],
            ([some[0]["title"], *cells("noise", 2, some)] for (_, again), some in of.items() if not again),
        ),
        "",
        f"The number changes nothing about what is best. The base's regret is {_pm(result['base']['regret'])}. "
        "Learning rates are those chosen at offset 0, but where it says otherwise; all else as in the first table.",
    ]


def _proxy(result: Mapping[str, Any]) -> list[str]:
    out = ["### Over-optimisation", ""]
    lines = []
    for said in result["rewards"]:
        best = said["optimum"]
        accuracies = [_pm(said["train_accuracy"]), _pm(said["test_accuracy"])]
        name = _short(said["reward"])
        gains = ("proxy_gain", "true_gain", "kl", "true_regret")
        lines.append([name, *accuracies, "π̂\\*, its optimum", *(_pm(best[m]) for m in gains), ""])
        for r in (r for r in result["rows"] if r["reward"] == said["reward"]):
            last = r["curve"][-1]
            peak = max(r["curve"], key=lambda point: point["true_gain"]["mean"])
            lines.append(
                ["", "", "", r["title"]]
                + [_pm(x) for x in (last["proxy_gain"], last["true_gain"], last["kl"], r["true_regret"])]
                + [f"{peak['true_gain']['mean']:.3f} at step {peak['step']}"]
            )
    columns = ["reward", "train accuracy", "test accuracy", "policy", "proxy gain", "true gain", "KL", "regret (true)"]
    out += _rows([*columns, "best true gain on the way"], lines)
    out += [
        "",
        "Gains in reward over π_ref. Accuracies on pairs that Bradley–Terry drew by the true reward (so the truth "
        "itself is not always right), of two different responses. Learning rates are those of the first table.",
    ]
    return out


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def _pm(value: Mapping[str, float] | None, digits: int = 3, scale: float = 1.0) -> str:
    """Mean ± half width; the mean alone where there is one value."""
    if value is None:
        return ""
    mean, half = round(scale * value["mean"], digits) + 0.0, scale * value["ci95"]  # no −0.000
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half == half else "")


def _reward(reward: str) -> str:
    return "the true reward" if reward == "truth" else f"a reward model of {int(reward):,} pairs"


def _short(reward: str) -> str:
    return "the truth" if reward == "truth" else f"{int(reward):,} pairs"


def _listed(values: Sequence[float], joint: str = ", ") -> str:
    return joint.join(f"{v:g}" for v in values)


# ---- figures


COLOURS = {
    "ppo": "purple",
    "rloo": "green",
    "una-online": "blue",
    "una-online.released": "sky",
    "una-centred": "orange",
    "una-centred.replay": "vermilion",
    "iterative-dpo": "grey",
}
MARKERS = dict(zip(COLOURS, "Ps^vodX", strict=True))


def _look(name: str) -> dict[str, Any]:
    from una_ref import figures

    return {"color": figures.PALETTE[COLOURS[name]], "marker": MARKERS[name]}


def draw(axis: str, result: Mapping[str, Any], folder: str | Path | None = None, name: str = "") -> Path:
    """An axis as a figure, under its own name or another."""
    from matplotlib.figure import Figure

    from una_ref import figures

    make: dict[str, Callable[[Any, Any], None]] = {
        "methods": _draw_methods,
        "offset": _draw_offset,
        "proxy": _draw_proxy,
    }
    with figures.style():
        fig = Figure()
        make[axis](fig, result)
        return figures.save(fig, name or axis, folder)


def _draw_methods(fig: Figure, result: Mapping[str, Any]) -> None:
    """Regret by both objectives; gradient noise; where a step's time goes. A row a method."""
    from una_ref import figures

    s, rows = result["settings"], sorted((r for r in result["rows"] if "lr" in r), key=lambda r: -r["regret"]["mean"])
    base = next(r for r in result["rows"] if r["name"] == "base")["regret"]["mean"]
    places = range(len(rows))
    fig.set_size_inches(10.4, 0.46 * len(rows) + 1.6)
    regret, noise, time = fig.subplots(1, 3, sharey=True, width_ratios=(5, 3, 4))
    right = min(2.2 * base, 1.15 * max(max(r[m]["values"]) for r in rows for m in ("regret", "true_regret")))
    for y, r in zip(places, rows, strict=True):
        colour = figures.PALETTE[COLOURS[r["name"]]]
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
    regret.set_yticks(places, [r["name"] for r in rows])
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


def _draw_offset(fig: Figure, result: Mapping[str, Any]) -> None:
    """Regret and gradient noise by the number added to every score."""
    from una_ref import figures

    fig.set_size_inches(9.6, 4.3)
    regret, noise = fig.subplots(1, 2)
    names = list(dict.fromkeys((r["name"], r["retuned"]) for r in result["rows"]))
    methods = list(dict.fromkeys(name for name, _ in names))
    for name, again in names:
        rows = [r for r in result["rows"] if (r["name"], r["retuned"]) == (name, again)]
        # Side by side, so that what is equal can be seen to be.
        x = [r["offset"] + 0.12 * (methods.index(name) - (len(methods) - 1) / 2) for r in rows]
        line = {"linestyle": ":", "mfc": "none", "label": "_"} if again else {"label": name}
        for axes, what in ((regret, "regret"), (noise, "noise")):
            if what == "regret" or not again:
                mean, half = ([r[what][k] for r in rows] for k in ("mean", "ci95"))
                axes.errorbar(x, mean, yerr=half, **_look(name) | line, linewidth=1.4)
    base = result["base"]["regret"]["mean"]
    regret.axhline(base, color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
    regret.annotate("π_ref", (1, base), (-2, 6), xycoords=("axes fraction", "data"), **_beside, ha="right", fontsize=8)
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


def _draw_proxy(fig: Figure, result: Mapping[str, Any]) -> None:
    """What is gained along KL, truly and by the proxy, for each reward model."""
    from matplotlib.lines import Line2D

    from una_ref import figures

    rewards, ink, grey = result["rewards"], figures.INK, figures.PALETTE["grey"]
    fig.set_size_inches(2.7 * len(rewards) + 0.6, 4.2)
    panels = fig.subplots(1, len(rewards), sharex=True, sharey=True, squeeze=False)[0]
    reached = [point for r in result["rows"] for point in r["curve"]]
    far = 1.15 * max(point["kl"]["mean"] for point in reached)
    shown = [*reached, *(p for said in rewards for p in said["frontier"] if p["kl"]["mean"] <= far)]
    heights = [p[what]["mean"] for p in shown for what in ("proxy_gain", "true_gain")]
    room = 0.06 * (max(heights) - min(0.0, *heights))
    dashes = {"proxy_gain": "--", "true_gain": "-"}
    for axes, said in zip(panels, rewards, strict=True):
        for what, dash in dashes.items():
            x, y = ([0.0, *(point[k]["mean"] for point in said["frontier"])] for k in ("kl", what))
            axes.plot(x, y, dash, color=grey, linewidth=1)
            for r in (r for r in result["rows"] if r["reward"] == said["reward"]):
                look = _look(r["name"]) | ({"mfc": "none"} if dash == "--" else {})
                x, y = ([point[k]["mean"] for point in r["curve"]] for k in ("kl", what))
                axes.plot(x, y, dash, **look, linewidth=1.4, markevery=[len(x) - 1])
        axes.set_title(f"{_short(said['reward'])}: right on {100 * said['test_accuracy']['mean']:.0f} %", fontsize=10)
        axes.axhline(0, color=ink, linewidth=0.6)
        axes.set_xlabel("KL(π ‖ π_ref), nats")
    panels[0].set_xlim(0, far)
    panels[0].set_ylim(min(0.0, *heights) - room, max(heights) + room)
    panels[0].set_ylabel("reward above π_ref's")
    names = list(dict.fromkeys(r["name"] for r in result["rows"]))
    lines = [Line2D([], [], **_look(name), label=name) for name in names]
    lines += [
        Line2D([], [], color=ink, linestyle="-", label="true"),
        Line2D([], [], color=ink, linestyle="--", label="by the proxy"),
        Line2D([], [], color=grey, linewidth=1, label="best by the proxy, exact"),
    ]
    fig.legend(handles=lines, loc="outside lower center", ncols=4)
