"""The figures of notebooks 08 to 10, which draw what the survey's methods learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from una_ref import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR = figures.PALETTE
SHAPES: dict[str, tuple[str, str, tuple[float, float], tuple[float, float] | None]] = {
    "DPO": ("green", "-", (-5.9, 1.32), (4.1, 3.85)),
    "Savage": ("green", ":", (-5.9, 0.12), None),
    "exponential": ("sky", "-", (-2.95, 2.35), (4.1, 1.62)),
    "hinge": ("vermilion", "-", (1.1, 0.6), (4.1, 0.92)),
    "IPO": ("purple", "-", (-0.5, 2.35), (4.1, 0.42)),
    "cDPO": ("orange", "-", (3.4, -0.3), (4.1, 1.95)),
    "exo-pair": ("blue", "-", (-4.4, 0.42), (4.1, 2.28)),
    "robust-dpo": ("orange", "--", (3.4, 0.22), (0.1, 3.3)),
    "discopop": ("grey", "-", (0.15, -0.78), (-1.75, 0.5)),
}
"""Shape -> colour, dashes, and where its name stands in the two panels."""
PLACES = {
    "π_pre": (6, 2),
    "SFT, also after DPO": (8, -2),
    "DPO": (-10, 7),
    "SFT, then DPO, same β": (7, -2),
    "dpo:0.8,sft:0.2": (7, 5),
    "TIES, 20 %": (7, 3),
    "TIES, 50 %": (-12, 9),
    "DARE, 50 %": (7, 3),
}
"""Policy of notebook 10 -> where its name stands, in points from its dot."""


def draw_shapes(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """How hard a pair pushes, and which margin each shape learns.

    Args:
        results: ``margins`` (M,) in steps of 0.001; ``values``, shape of `SHAPES` -> its loss at each margin;
            ``deltas`` (D,), true differences; ``learned``, shape -> the margin learned for each, or NaN.
        folder: as `figures.save`.
    """
    return figures.filled(_shapes, results, folder, "08_pairs", (11.4, 4.7))


def draw_shares(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """The share of π_ref's regret that each method leaves.

    Args:
        results: part of DPO that is changed -> method -> ``shares``, one for each setting, the best first, and
            ``open``, whether the loss has no minimum.
        folder: as `figures.save`.
    """
    return figures.filled(_shares, results, folder, "08_pairs_regret", (8.6, 9.4))


def draw_single_responses(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """Estimates of KTO's reference point by batch size, and how far a rejected response falls.

    Args:
        results: ``sizes``; ``estimated``, estimator -> a number for each size; ``exact``; ``paths``, name -> the fall
            of log π at each step.
        folder: as `figures.save`.
    """
    return figures.filled(_single_responses, results, folder, "09_single_responses", (10.4, 4.0))


def draw_list_pushes(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """The push of each list loss on four responses; `results` is name -> (4,) tensor, eleven of them."""
    return figures.filled(_list_pushes, results, folder, "09_lists", (10.4, 6.6))


def draw_tokens(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """DPO's credit of each step, and what TDPO's target costs by length.

    Args:
        results: ``examples``, tuples of tokens; ``credits`` (E, T); ``lengths``; ``cost``, β -> a share a length.
        folder: as `figures.save`.
    """
    return figures.filled(_tokens, results, folder, "10_tokens", (10.2, 3.7))


def draw_games(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """Ways of self-play in the triangle of three responses, and how fast each nears an equilibrium.

    Args:
        results: ``ways``, name -> (N, 3) policies; ``marks``, name -> (3,) policy; ``curves``, (method, "last" or
            "average") -> what the best opponent wins beyond ½, after each round of three oracle calls.
        folder: as `figures.save`.
    """
    return figures.filled(_games, results, folder, "10_games", (10.4, 4.3))


def draw_merging(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """What SFT and alignment have left, and mean rewards along rounds of DPO.

    Args:
        results: ``curves``, name -> pairs (KL of SFT, regret); ``points``, name of `PLACES` -> one such pair;
            ``rounds``; ``values``, reward -> a mean for each round; ``estimates``, round -> (covariance, its error);
            ``best_round``.
        folder: as `figures.save`.
    """
    return figures.filled(_merging, results, folder, "10_merging", (10.4, 4.2))


def _shapes(fig: Figure, of: Mapping[str, Any]) -> None:
    push, link = fig.subplots(1, 2)
    for name, (hue, dashes, at_push, at_link) in SHAPES.items():
        values = of["values"][name]
        look: dict[str, Any] = {"color": COLOUR[hue], "fontsize": 9, "annotation_clip": False}
        push.plot(of["margins"][1:-1], -(values[2:] - values[:-2]) / 0.002, dashes, color=COLOUR[hue])
        link.plot(of["deltas"], of["learned"][name], dashes, color=COLOUR[hue], linewidth=2.2)
        arrow = {"xytext": at_push, "arrowprops": {"arrowstyle": "-", "color": COLOUR[hue], "linewidth": 0.8}}
        push.annotate(name, (-5.5, 1.0) if name == "DPO" else at_push, **look, **(arrow if name == "DPO" else {}))
        if at_link:
            link.annotate(name, at_link, **look)
    push.axhspan(-1, 0, color=COLOUR["vermilion"], alpha=0.07, linewidth=0)
    push.set(xlim=(-6, 6), ylim=(-1, 2.6), xlabel="margin m of the pair", ylabel="push on the margin, −f′(m)")
    push.set_title("How hard does a pair push?")
    link.set(xlim=(-4, 4), ylim=(-4, 4), xlabel="true difference Δ of rewards", ylabel="learned margin m")
    link.set_title("What does it ask for? (π* is the diagonal)")


def _shares(fig: Figure, of: Mapping[str, Any]) -> None:
    ax = fig.subplots()
    y, ticks = 0, {}
    for part, rows in of.items():
        ax.text(-0.02, y, f"changes {part}", fontsize=9.5, fontweight="bold", va="center", ha="left")
        y += 1
        for name, found in rows.items():
            shares = [min(share, 1.3) for share in found["shares"]]
            bar = {"linewidth": 4, "solid_capstyle": "round", "zorder": 1}
            ax.plot([min(shares), max(shares)], [y, y], color=figures.FAINT, **bar)
            ax.plot(shares, [y] * len(shares), "o", color=COLOUR["grey"], markersize=4, zorder=2)
            face = figures.CARD if found["open"] else COLOUR["blue"]
            ax.plot(shares[0], y, "o", markersize=9, zorder=3, color=COLOUR["blue"], markerfacecolor=face)
            ticks[y] = name
            y += 1
    ax.axvline(1, color=figures.INK, linewidth=0.8)
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    ax.set(ylim=(y - 0.2, -0.8), xlim=(-0.04, 1.36), xlabel="share of π_ref's regret that is left (1.3: or more)")
    ax.set_title("What each method learns from unlimited Bradley–Terry pairs")
    ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1, 1.2], ["0\nπ*", "0.2", "0.4", "0.6", "0.8", "1\nπ_ref", "1.2"])
    ax.grid(visible=False, axis="y")


def _single_responses(fig: Figure, of: Mapping[str, Any]) -> None:
    left, right = fig.subplots(1, 2)
    names = {
        "own response": ("green", (2.4, 0.59), "each prompt's own response"),
        "next response": ("blue", (4.3, 0.085), "next response (what KTO runs do)"),
        "every other response": ("purple", (4.3, -0.065), "every other response"),
    }
    for name, (hue, place, label) in names.items():
        left.plot(of["sizes"], of["estimated"][name], "o-", color=COLOUR[hue])
        left.text(*place, label, color=COLOUR[hue], fontsize=9)
    left.axhline(of["exact"], color=figures.INK, linewidth=1, linestyle="--")
    left.text(10.5, of["exact"] - 0.02, "exact KL", fontsize=9, ha="center", va="top")
    left.set_xscale("log", base=2)
    left.set_xticks(of["sizes"], of["sizes"])
    left.set(ylim=(-0.1, 0.75), xlabel="batch size m", ylabel=r"mean estimate of $z_0/\beta$, nats")
    left.set_title("KTO's reference point is 0 in a large batch")
    for (label, path), hue in zip(of["paths"].items(), ("vermilion", "blue", "sky"), strict=True):
        right.plot(path, color=COLOUR[hue])
        name = label.replace("gradient-", "gradient\n")
        right.text(2030, path[-1], name, color=COLOUR[hue], fontsize=9, va="center")
    right.set(xlim=(0, 2750), xticks=(0, 1000, 2000), xlabel="steps", ylabel=r"fall of $\log\pi(y_l)$, nats")
    right.set_title("Gradient ascent collapses, NPO slows down")


def _list_pushes(fig: Figure, of: Mapping[str, Any]) -> None:
    axes = fig.subplots(3, 4, sharex=True, sharey=True)
    for ax, (name, push) in zip(axes.flat, of.items(), strict=False):
        relative, total = push / push.abs().max(), push.sum().item()
        ax.bar(range(1, 5), relative, 0.7, color=[COLOUR["blue" if x > 0 else "vermilion"] for x in relative])
        ax.axhline(0, color=figures.INK, linewidth=0.8)
        ax.set_title(name, fontsize=10)
        zero = abs(total) < 1e-9
        label = "0" if zero else f"{total:.2f}".replace("-", "−")
        ink = figures.INK if zero else COLOUR["vermilion"]
        ax.text(4.45, 1.02, f"sum {label}", ha="right", fontsize=9, color=ink)
        ax.set(ylim=(-1.12, 1.3), xticks=range(1, 5))
        ax.grid(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("push, relative")
    axes[2, 3].axis("off")
    note = "labels 1, 0.7, 0.3, 0\npolicy's order: 2, 1, 4, 3\n\nblue: raised\norange: lowered\n\nsum 0: V(x) cancels"
    axes[2, 3].text(0.05, 0.5, note, transform=axes[2, 3].transAxes, va="center", fontsize=9.5)
    fig.supxlabel("response, best label first", fontsize=10)


def _tokens(fig: Figure, of: Mapping[str, Any]) -> None:
    left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
    left.set(xlim=(-0.5, 3.5), ylim=(4.5, -0.5))
    for i, tokens in enumerate(of["examples"]):
        for t, token in enumerate(tokens):
            value = float(of["credits"][i][t])
            shown = f"{'■✓✗'[token]}  {value + 0.0 if abs(value) > 5e-4 else 0.0:+.2f}".replace("+0.00", "0")
            shade = {"color": COLOUR["blue" if value > 0 else "vermilion"], "alpha": 0.45 * min(abs(value), 1.0)}
            left.bar(t, 1, 1, i - 0.5, linewidth=0, zorder=1, **shade)
            left.text(t, i, shown, ha="center", va="center")
    left.set_xticks(range(4), [f"step {t}" for t in range(1, 5)])
    left.set_yticks(range(5), ["all right", "third wrong", "second wrong", "first wrong", "stops early"])
    left.grid(False)
    left.set_title("DPO's credit of each step (reward at the end only)")
    for (beta, shares), hue in zip(of["cost"].items(), ("vermilion", "orange", "green", "blue"), strict=True):
        right.plot(of["lengths"], shares, "o-", color=COLOUR[hue])
        right.annotate(f"β = {beta:g}", (6.15, shares[-1]), color=COLOUR[hue], va="center", fontsize=9)
    right.set(xlim=(0.8, 7.3), xticks=list(of["lengths"]), xlabel="tokens of the longest response")
    right.set_yticks([0, 0.05, 0.1, 0.15, 0.2], ["0", "5 %", "10 %", "15 %", "20 %"])
    right.set_ylabel("regret, share of that of π_ref")
    right.set_title("What TDPO's target loses against π*")


def _games(fig: Figure, of: Mapping[str, Any]) -> None:
    left, right = fig.subplots(1, 2, width_ratios=(1, 1.2))
    corners = ((0.0, 0.0), (0.5, 0.866), (1.0, 0.0))

    def place(policy: Any) -> tuple[float, float]:
        x, y = (sum(float(p) * corner[axis] for p, corner in zip(policy, corners, strict=True)) for axis in (0, 1))
        return x, y

    left.plot(*zip(*(*corners, corners[0]), strict=True), color=figures.INK, linewidth=0.9)
    for label, where in {"A": (-0.05, -0.04), "B": (0.5, 0.9), "C": (1.05, -0.04)}.items():
        left.annotate(label, where, ha="center", fontsize=11)
    for (label, way), hue in zip(of["ways"].items(), ("blue", "sky", "vermilion", "orange"), strict=True):
        thin = {"linewidth": 0.8} if hue == "blue" else {}
        left.plot(*zip(*map(place, way), strict=True), "-", color=COLOUR[hue], label=label, **thin)
    offsets = (("*", (-70, 10)), ("o", (9, -2)), ("s", (9, -2)), ("X", (8, 3)))
    for (label, policy), (marker, offset) in zip(of["marks"].items(), offsets, strict=True):
        x, y = place(policy)
        left.plot(x, y, marker, color=figures.INK, markersize=9 if marker == "*" else 6, zorder=5)
        left.annotate(label, (x, y), offset, textcoords="offset points", fontsize=8.5)
    left.legend(loc="upper right", bbox_to_anchor=(1.16, 1.02), fontsize=8.5)
    left.set(xlim=(-0.1, 1.15), ylim=(-0.08, 0.98), aspect="equal")
    left.axis("off")
    left.set_title("Where the policies go")
    looks = {
        ("SPPO", "last"): ("blue", ":"),
        ("SPPO", "average"): ("sky", "-"),
        ("DNO", "last"): ("green", ":"),
        ("DNO", "average"): ("green", "-"),
        ("Nash-MD, β = 0.02", "last"): ("vermilion", "-"),
        ("optimistic", "last"): ("purple", "-"),
    }
    for key, (hue, dash) in looks.items():
        gaps = [max(float(gap), 1e-4) for gap in of["curves"][key][1:]]
        right.plot([3 * (n + 1) for n in range(len(gaps))], gaps, dash, color=COLOUR[hue], label=", ".join(key))
    right.set(xscale="log", yscale="log", ylim=(4e-4, 0.7), xlabel="oracle calls")
    right.set_ylabel("what the best opponent wins beyond ½")
    right.set_title("How many questions to an equilibrium?")
    right.legend(fontsize=8.5, loc="lower left")


def _merging(fig: Figure, of: Mapping[str, Any]) -> None:
    left, right = fig.subplots(1, 2)
    hues = dict(zip(of["curves"], ("grey", "vermilion", "orange", "blue", "green", "purple"), strict=True))
    for name, pairs in of["curves"].items():
        wide = 3.5 if hues[name] == "grey" else 1.6
        left.plot(*zip(*pairs, strict=True), "-", color=COLOUR[hues[name]], label=name, linewidth=wide, zorder=2)
    for name, (x, y) in of["points"].items():
        left.plot(x, y, "o", color=figures.INK, markersize=4.5, zorder=4)
        left.annotate(name, (x, y), PLACES[name], textcoords="offset points", fontsize=8)
    left.margins(x=0.09, y=0.06)
    left.set(xlabel="what SFT has left: KL(q ‖ π), nats", ylabel="what alignment has left: regret")
    left.set_title("SFT and alignment: one step, two, or a merge")
    left.legend(fontsize=8.5, loc="upper right")
    lines = {
        "proxy": ("grey", "-"),
        "truth": ("vermilion", "-"),
        "held-out proxy": ("blue", "--"),
        "held-out proxy, same trap": ("grey", ":"),
    }
    for name, (hue, dash) in lines.items():
        right.plot(of["rounds"], of["values"][name], dash, color=COLOUR[hue], label=name)
    for t in of["rounds"]:
        estimate, error = of["estimates"][t]
        mark = "^" if estimate > 2 * error else "v" if estimate < -2 * error else "o"
        right.plot(t, -0.35, mark, color=COLOUR["green"], markersize=6)
    key = "covariance of 200 fresh pairs: ▲ positive, ● unclear, ▼ negative"
    right.text(0, -0.27, key, fontsize=8.5, color=COLOUR["green"])
    right.plot([of["best_round"]] * 2, [-0.15, 0.87], color=figures.INK, linewidth=0.8)
    right.annotate("best round", (of["best_round"], 0.1), (5, 0), textcoords="offset points", fontsize=8.5)
    right.set(ylim=(-0.5, 2.6), xlabel="rounds of DPO, each from the last policy", ylabel="mean reward")
    right.set_title("When does iterating hurt?")
    right.legend(fontsize=8.5, loc="upper left")
