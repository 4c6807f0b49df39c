"""The results of the online study on a real language model, as tables and a figure, whatever part of it is finished.

An interval is over prompts, or over updates for times. Values are averaged over the seeds first, see
`una_ref.studies.real_report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from una_ref import figures
from una_ref.studies import markdown_tables as cells
from una_ref.studies import real_measures as measures
from una_ref.studies.online_figures import solid
from una_ref.studies.online_tables import PHASES, held_models
from una_ref.studies.real_report import over_items, retrained

Line = Mapping[str, Any]
Values = Sequence[float]

REWARDS = {"rewards": "training RM", "held_out": "held-out RM"}
"""The two reward models (RM), by where a point has their rewards."""
MEASURES = {
    "rewards": "training RM − base's",
    "held_out": "held-out RM − base's",
    "win_rate": "win rate, held-out RM",
    "kl": "KL to π_ref, nats",
    "length": "tokens",
    "rewards_ppo": "training RM − PPO's",
    "held_out_ppo": "held-out RM − PPO's",
}
"""What is measured of a trained policy, and its column in the table."""


def rows(lines: Mapping[str, Sequence[Line]], titles: Mapping[str, str], seeds: int) -> list[dict[str, Any]]:
    """A row for each title from the finished lines of its runs, one a seed.

    Args:
        lines: by row; points have `rewards`, and `held_out` if the other reward model has judged them.
        titles: of all rows, by name. The first one is the base's.
        seeds: how many runs a row has.
    """
    base = {line["seed"]: line["points"][-1] for line in lines["base"]}
    ppo = {line["seed"]: line["points"][-1] for line in lines.get("ppo", ())}
    return [
        {"name": name, "title": title, "of": seeds, **_row(lines.get(name, ()), base, ppo)}
        for name, title in titles.items()
    ]


def _row(lines: Sequence[Line], base: Mapping[int, Line], ppo: Mapping[int, Line]) -> dict[str, Any]:
    last = [(line["seed"], line["points"][-1]) for line in lines]
    found: dict[str, Any] = {
        "finished": len(lines),
        "failed": [line["failed"] for line in lines if line["failed"]],
        "retrained": sum(line["retrained"] for line in lines),
        "lr": lines[0]["lr"] if lines else None,
        "kl": _over([point["kl"] for _, point in last]),
        "length": _over([point["lengths"] for _, point in last]),
    }
    for model in REWARDS:
        found[f"{model}_mean"] = _over([point[model] for _, point in last if model in point])
        differences = _differences(last, base, model)
        found[model] = _over(differences)
        if model == "held_out":
            found["win_rate"] = _over([measures.accuracies(values) for values in differences])
        found[f"{model}_ppo"] = _over(_differences(last, ppo, model))
    return found | {"curve": _curve(lines, base)} | (_cost(lines[-1]) if lines and lines[-1]["train_rewards"] else {})


def _differences(last: Sequence[tuple[int, Line]], other: Mapping[int, Line], model: str) -> list[Values]:
    """Reward minus another policy's, on the same prompts and with the same seed, for each seed that has both.

    A measurement before the end has the first prompts alone.
    """
    return [
        [own - its for own, its in zip(point[model], other[seed][model], strict=False)]
        for seed, point in last
        if model in point and seed in other and model in other[seed] and point is not other[seed]
    ]


def _over(seeds: Sequence[Values]) -> dict[str, Any] | None:
    return over_items(seeds) if seeds and all(seeds) else None


def _curve(lines: Sequence[Line], base: Mapping[int, Line]) -> list[dict[str, Any]]:
    """KL and both rewards above the base's at the updates at which every seed was measured, means over seeds."""
    known = [{point["update"]: point for point in line["points"]} for line in lines]
    points = []
    for update in sorted(set.intersection(*map(set, known))) if known else ():
        at = [(line["seed"], own[update]) for line, own in zip(lines, known, strict=True)]
        point: dict[str, Any] = {"update": update, "kl": over_items([one["kl"] for _, one in at])}
        points.append(point | {model: _over(_differences(at, base, model)) for model in REWARDS})
    return points


def _cost(line: Line) -> dict[str, Any]:
    """Seconds and memory of an update by phase, and the models held."""
    known = {phase: line["memory"].get(phase) for phase in PHASES}
    return {
        "took": {name: over_items([line["took"][name]]) if line["took"][name] else None for name in (*PHASES, "wall")},
        "memory": {phase: peak for phase, peak in known.items() if peak is not None},
        "models": line["models"],
        "passes": line["passes"],
    }


def rate(lr: float, line: Line | None) -> dict[str, Any]:
    """A learning rate with the objective of its tuning run; None for a run that is not finished."""
    return {"lr": lr, "objective": line["objective"] if line else None, "failed": bool(line and line["failed"])}


# ---- the table


def table(results: Mapping[str, Any]) -> list[str]:
    """The results as Markdown: rewards, costs, learning rates."""
    return [*_rewards_table(results), "", *_cost_table(results), "", *_rates_table(results)]


def _rewards_table(results: Mapping[str, Any]) -> list[str]:
    s, every = results["settings"], results["rows"]
    done, calls = sum(each["finished"] for each in every), s["updates"] * s["rollout"] * s["samples"]
    base = every[0]
    lines = [
        "### Online methods on HH helpful prompts",
        "",
        *cells.rows(["method", *MEASURES.values(), "lr", "seeds"], map(_cells, every)),
        "",
        f"{done} of {sum(each['of'] for each in every)} runs are finished. Mean ± 95 % interval over {s['prompts']} "
        f"held-out prompts, the same for all; along a run over the first {s['curve_prompts']} of them. Differences are "
        "paired by prompt and seed. "
        f"{s['updates']} updates from {s['rollout']} prompts × {s['samples']} responses of at most "
        f"{s['new_tokens']} tokens, {calls} reward calls for each method; LoRA of rank {s['lora_r']}; "
        f"β = {s['beta']:g}. The released form's β is 1, which is only a step size there.",
    ]
    if base["rewards_mean"]:
        means = {name: base[f"{model}_mean"] for model, name in REWARDS.items() if base[f"{model}_mean"]}
        lines += ["", f"The base's rewards: {', '.join(f'{n} {cells.mean(value)}' for n, value in means.items())}."]
    if results["accuracies"]:
        accuracy = ", ".join(f"{name} {cells.mean(value)}" for name, value in results["accuracies"].items())
        lines += ["", f"Accuracy of the reward models on the same {_items(results)} held-out human pairs: {accuracy}."]
    else:
        lines += ["", "The reward models are not trained yet."]
    return [*lines, *retrained("rewards", sum(each["retrained"] for each in every))]


def _items(results: Mapping[str, Any]) -> int:
    return next(iter(results["accuracies"].values()))["items"]


def _cells(each: Mapping[str, Any]) -> list[str]:
    if not each["finished"]:
        return [each["title"], "not run", *[""] * (len(MEASURES) + 1)]
    digits = {"kl": 2, "length": 1}
    failed = " (stopped: not finite)" if each["failed"] else ""
    values = (cells.mean(each[measure], digits.get(measure, 3)) for measure in MEASURES)
    return [each["title"] + failed, *values, f"{each['lr']:g}" if each["lr"] else "", f"{each['finished']}"]


def _cost_table(results: Mapping[str, Any]) -> list[str]:
    head = ["method", "models held", "parameters", "passes", *(f"{phase}, s" for phase in PHASES), "in all, s"]
    head += ["on the clock, s", *(f"{phase}, MiB" for phase in PHASES)]
    return [
        "### What an update costs on a real model",
        "",
        *cells.rows(head, (_cost_cells(each, len(head)) for each in results["rows"][1:])),
        "",
        "An update is a rollout with all its passes. Each method's costs are those of its last run. Seconds are the "
        "processor's, except those on the clock, which depend on what else runs. Mean ± 95 % interval over updates; "
        "the first two of a run are left out. MiB: the phase's peak in these two, above a process that has everything "
        "loaded except the run's models. π_ref is the policy with its adapter off.",
    ]


def _cost_cells(each: Mapping[str, Any], width: int) -> list[str]:
    if not each.get("took") or not each["took"]["wall"]:
        return [each["title"], "not run", *[""] * (width - 2)]
    return [
        each["title"],
        held_models(each["models"]),
        f"{sum(each['models'].values()):,}",
        str(each["passes"]),
        *(cells.mean(each["took"][phase], 1) for phase in PHASES),
        f"{sum(each['took'][phase]['mean'] for phase in PHASES):.1f}",
        cells.mean(each["took"]["wall"], 1),
        *(f"{each['memory'][phase]:.0f}" if phase in each["memory"] else "" for phase in PHASES),
    ]


def _rates_table(results: Mapping[str, Any]) -> list[str]:
    s = results["settings"]
    every = [(row, each) for row in results["rates"] for each in row["rates"]]
    body = (
        [
            row["title"],
            f"{each['lr']:g}",
            "not run" if each["objective"] is None else f"{each['objective']:.3f}",
            "✓" if results["chosen"].get(row["name"], {}).get("lr") == each["lr"] else "",
        ]
        for row, each in every
    )
    return [
        "### Learning rates of the online methods",
        "",
        *cells.rows(["method", "lr", "reward − β·KL", "chosen"], body),
        "",
        f"By the training reward model after {s['tuning_updates']} updates with another seed, on {s['prompts']} other "
        "prompts. Centred UNA takes RLOO's rate: their gradients agree up to scale.",
    ]


# ---- the figure


def panels(fig: Any, results: Mapping[str, Any]) -> None:
    """Both rewards along KL, and an update's seconds and memory by phase; in a figure or a part of one."""
    above, below = fig.subfigures(2, 1)
    done = [each for each in results["rows"][1:] if each["finished"]]
    _along_kl(above, done)
    costs = [each for each in reversed(done) if each.get("took") and each["took"]["wall"]]
    seconds, memory = below.subplots(1, 2, sharey=True)
    _seconds(seconds, costs)
    for i, phase in enumerate(PHASES):
        peaks = [each["memory"].get(phase, 0.0) for each in costs]
        memory.barh([y + 0.25 * (1 - i) for y in range(len(costs))], peaks, 0.25, color=_colour(phase))
    memory.set_title("an update, peak MiB")
    below.legend(*seconds.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def summary(fig: Any, results: Mapping[str, Any]) -> None:
    """The reward that no method saw, at the end of a run, and an update's seconds; in a figure or a part of one."""
    done = [each for each in reversed(results["rows"][1:]) if each.get("held_out") and each.get("took")]
    rewards, seconds = fig.subplots(1, 2, sharey=True)
    rewards.axvline(0, color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
    for y, each in enumerate(done):
        look = solid(each["name"])
        rewards.errorbar(each["held_out"]["mean"], y, xerr=each["held_out"]["ci95"], **look, linewidth=2, capsize=3)
    rewards.set_title("held-out RM: reward above the base's")
    _seconds(seconds, done)
    seconds.legend(loc="upper right")


def _seconds(axes: Any, costs: Sequence[Mapping[str, Any]]) -> None:
    """An update's seconds by phase, a bar for each method."""
    places = range(len(costs))
    left = [0.0] * len(costs)
    for phase in PHASES:
        width = [each["took"][phase]["mean"] for each in costs]
        axes.barh(places, width, 0.6, left, color=_colour(phase), label=phase)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axes.set_yticks(places, [solid(each["name"])["label"] for each in costs])
    axes.set_ylim(-0.6, max(len(costs), 1) - 0.4)
    axes.set_title("an update, seconds of one core")


def _colour(phase: str) -> str:
    return figures.PALETTE[dict(zip(PHASES, ("sky", "orange", "blue"), strict=True))[phase]]


def _along_kl(fig: Any, done: Sequence[Mapping[str, Any]]) -> None:
    every = fig.subplots(1, 2, sharex=True, sharey=True)
    for axes, (model, name) in zip(every, REWARDS.items(), strict=True):
        axes.axhline(0, color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
        for each in done:
            points = [point for point in each["curve"] if point[model]]
            x = [0.0, *(point["kl"]["mean"] for point in points)]
            y = [0.0, *(point[model]["mean"] for point in points)]
            half = [0.0, *(point[model]["ci95"] for point in points)]
            axes.errorbar(x, y, yerr=half, **solid(each["name"]), linewidth=1.4, elinewidth=0.7)
        axes.set_title(f"{name}: reward above the base's")
        axes.set_xlabel("KL(π ‖ π_ref), nats")
    if done:
        fig.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(done))
