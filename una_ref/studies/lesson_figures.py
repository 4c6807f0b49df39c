"""The figures of notebooks 04 and 13 whose labels and axes take more lines than what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from una_ref import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREY = (figures.PALETTE[name] for name in ("blue", "orange", "vermilion", "grey"))
ROWS = {"eq10": "una-online", "released": "una-online.released", "ppo": "ppo", "centred": "una-centred"}
"""Gradient of notebook 13 -> the method whose look it has."""


def draw_regret_by_offset(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """What UNA learns from scores with a constant added, with one constant, and with one number for each prompt.

    Args:
        results: ``offsets`` (N,); ``descent`` and ``fitted``, a regret for each offset; ``lowest``, that of the global
            minimum, for the first offsets; ``reference``, the regret of π_ref.
        folder: as `figures.save`.
    """
    return figures.filled(_regret_by_offset, results, folder, "04_una_losses", (9.0, 4.7))


def draw_noise_and_training(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """Noise of online methods by offset, and their regret after training by learning rate.

    Args:
        results: ``offsets`` (N,); ``noise``, method -> a ratio for each offset; ``names``, method -> what a reader
            calls it; ``rates``; ``regret``, condition -> method -> (mean, half width) for each rate; ``reference``, the
            regret of π_ref; ``steps``.
        folder: as `figures.save`.
    """
    return figures.filled(_noise_and_training, results, folder, "13_online_alignment", (12.6, 4.2))


def draw_way(results: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """KL and regret of Eq. 10 and of the authors' script, by rollout.

    Args:
        results: ``kl`` and ``regret``, name -> a number for each rollout, the first before any; ``best_kl``, of π*.
        folder: as `figures.save`.
    """
    return figures.filled(_way, results, folder, "13_online_way", (9.6, 3.6))


def _regret_by_offset(fig: Figure, of: Mapping[str, Any]) -> None:
    offsets, descent, lowest, reference = of["offsets"], of["descent"], of["lowest"], of["reference"]
    best = min(descent)  # a constant c moves the curve sideways, so the best c reaches its lowest point
    ax = fig.subplots()
    ax.axhspan(reference, 1.0, color=figures.FAINT, alpha=0.45, linewidth=0)
    ax.axhline(reference, color=GREY, linestyle="--", linewidth=1.3)
    ax.axhline(best, color=ORANGE, linewidth=2.4)
    apart = [offset for offset in offsets if offset <= -0.5]
    ax.plot(apart, lowest[: len(apart)], color=BLUE, linestyle=(0, (1.2, 1.6)), linewidth=1.8)
    ax.plot(offsets, descent, color=BLUE, linewidth=3, solid_capstyle="round", solid_joinstyle="round")
    ax.plot(offsets, of["fitted"], color=RED, linewidth=3.6, clip_on=False, zorder=5)
    dot = {"markersize": 9, "zorder": 6, "markeredgecolor": figures.CARD, "markeredgewidth": 1.5}
    ax.plot([offsets[descent.index(best)]], [best], "o", color=ORANGE, **dot)
    ax.set(xlim=(-8, 16), ylim=(0, 1.0), xticks=range(-8, 17, 4))
    ax.set_xlabel("constant added to all scores  (1 = the standard deviation of a prompt's scores)")
    ax.set_ylabel("exact regret of the learned policy")
    label: dict[str, Any] = {"va": "center", "fontsize": 11}
    right = label | {"ha": "right"}
    small: dict[str, Any] = {"va": "center", "fontsize": 10, "color": BLUE, "linespacing": 1.45}
    ax.text(15.8, reference + 0.036, r"$\pi_\mathrm{ref}$: no training at all", color=GREY, **right)
    ax.text(15.8, 0.955, "worse than no training", color=GREY, style="italic", **right)
    ax.text(4.2, 0.455, "UNA Eq. 10", color=BLUE, weight="bold", **label)
    ax.text(4.2, 0.37, "high scores say “raise everything”:\nthe end is near $\\pi_\\mathrm{ref}$ again", **small)
    ax.text(-7.8, 0.47, "low scores say\n“lower everything”:\nsome response has to\ntake the mass", **small)
    alone = f"global minimum: one response alone,\nmostly the rarest (regret up to {max(lowest):.1f})"
    ax.text(-1.75, 0.875, alone, **small)
    ax.text(15.8, best + 0.036, "with the best constant $c$: the curve's lowest point", color=figures.AMBER, **right)
    fitted = "with a $V(x)$ fitted for each prompt: the optimum"
    ax.text(15.8, 0.036, fitted, color=RED, weight="bold", **right)
    ax.set_title("A constant in the scores decides what UNA learns, until each prompt has its own $V(x)$", fontsize=12)


def _noise_and_training(fig: Figure, of: Mapping[str, Any]) -> None:
    names, rates, reference = of["names"], of["rates"], of["reference"]
    noise, *training = fig.subplots(1, 1 + len(of["regret"]), gridspec_kw={"width_ratios": [1.25, 1, 1]})
    looks = {name: figures.look(ROWS[name]) | {"label": label} for name, label in names.items()}
    text: dict[str, Any] = {"fontsize": 10, "ha": "center"}
    places = {"eq10": (-6.3, 70, "online UNA"), "released": (0, 3e4, "online UNA, authors' code")}
    places["centred"] = (0, 1.7, "with V(x): centred UNA, PPO's critic")
    for name, (x, y, label) in places.items():
        noise.plot(of["offsets"], of["noise"][name], color=looks[name]["color"], linewidth=2.4)
        noise.text(x, y, label, color=looks[name]["color"], **text)
    noise.set(yscale="log", ylim=(1, 1e7), xlabel="constant added to all rewards (1 = their sd in a prompt)")
    noise.set(ylabel="noise / signal of one response's gradient", title="A constant in the rewards adds noise")
    for ax, (condition, regret) in zip(training, of["regret"].items(), strict=True):
        for place, name in enumerate(names):
            means, halves = zip(*regret[name], strict=True)
            low = [min(half, 0.7 * mean) for mean, half in zip(means, halves, strict=True)]
            at = [rate * 1.05 ** (place - 1.5) for rate in rates]  # side by side, to be seen
            ax.errorbar(at, means, yerr=[low, halves], **looks[name])
        _reference(ax, 0.32, reference, reference * 1.12, r"$\pi_\mathrm{ref}$")
        ax.set(xscale="log", yscale="log", ylim=(8e-4, 3), xlabel="learning rate")
        ax.set_title(f"Training, rewards {condition}")
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.minorticks_off()
    training[0].set_ylabel(f"exact regret after {of['steps']} steps")
    training[-1].legend(loc="lower right", fontsize=8)


def _way(fig: Figure, of: Mapping[str, Any]) -> None:
    left, right = fig.subplots(1, 2)
    for name, row in zip(of["kl"], ("una-online", "una-online.released"), strict=False):
        line = {"color": figures.look(row)["color"], "label": name}
        rollouts: Sequence[int] = range(1, len(of["kl"][name]))
        left.plot(rollouts, of["kl"][name][1:], **line)
        right.plot(rollouts, of["regret"][name][1:], **line)
    start = next(iter(of["regret"].values()))[0]
    _reference(left, 1.2, of["best_kl"], of["best_kl"] + 0.04, r"$\pi^*$")
    _reference(right, 1.2, start, start + 0.015, r"$\pi_\mathrm{ref}$")
    left.set(xscale="log", xlabel="rollouts", title="Distance from π_ref")
    left.set_ylabel(r"KL$(\pi\,\|\,\pi_\mathrm{ref})$, nats")
    right.set(xscale="log", xlabel="rollouts", ylabel="exact regret", title="Regret on the way", ylim=(0, None))
    right.legend()


def _reference(ax: Any, x: float, y: float, above: float, label: str) -> None:
    """A dashed grey line at `y` with its label."""
    ax.axhline(y, color=GREY, linestyle="--", linewidth=1.2)
    ax.text(x, above, label, color=GREY)
