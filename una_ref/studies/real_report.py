"""The results of the offline study on a real language model, as a table and a figure, whatever part of it is finished.

An interval is over items: held-out pairs or sampled prompts. Each item's values are averaged over the seeds first, so
items of two seeds do not count twice. The mean of each seed stands beside it in results.json and in the figure. Two
seeds say how much the seed matters; a t interval over two numbers would be 12.7 standard errors wide, and is not drawn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from una_ref import figures
from una_ref.studies import markdown_tables as cells
from una_ref.studies import real_measures as measures

HEADINGS = {
    "scores": "UltraFeedback: GPT-4 scores, and the pairs and labels that follow from them",
    "pairs": "Anthropic HH helpful: human pairs, and the labels that follow from them",
}
MEASURES = {
    "accuracy": "pair accuracy",
    "margin": "margin, nats",
    "log_loss": "log loss",
    "kl": "KL to π_ref, nats",
    "length": "tokens",
    "win_rate": "win rate",
    "reward": "reward − base's",
}
"""What is measured of a policy, and its column in the table."""
JUDGED = {"hh": "HH helpful, other pairs", "ultrafeedback": "UltraFeedback", "llmbar": "LLMBar", "hhh": "HHH alignment"}
"""The sets on which the reward model's accuracy is measured."""


def over_items(seeds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Values of the same items under each seed as mean, ci95 (half the width of its 95 % interval), seeds, items.

    The interval is normal, over items whose values are averaged over seeds. It is NaN for a single item.
    """
    items = [statistics.fmean(values) for values in zip(*seeds, strict=True)]
    half = 1.96 * statistics.stdev(items) / math.sqrt(len(items)) if len(items) > 1 else math.nan
    means = [statistics.fmean(values) for values in seeds]
    return {"mean": statistics.fmean(items), "ci95": half, "seeds": means, "items": len(items)}


def row(name: str, title: str, lines: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """A row of the table from its runs' lines, one a seed; None for a run that is not finished.

    Args:
        name: of the entry.
        title: of the row.
        lines: as `una_ref.studies.real_offline` writes them, with the `rewards` of the samples or None.
    """
    done = [line for line in lines if line]
    found: dict[str, Any] = {"name": name, "title": title, "finished": len(done), "of": len(lines)}
    found["lr"] = done[0]["lr"] if done else None
    found["failed"] = [line["failed"] for line in done if line["failed"]]
    found["retrained"] = sum(line["retrained"] for line in done)
    values: dict[str, list[Sequence[float]]] = {measure: [] for measure in MEASURES}
    for line in done:
        if "margins" in line:
            values["margin"].append(line["margins"])
            values["accuracy"].append(measures.accuracies(line["margins"]))
            values["log_loss"].append(measures.log_losses(line["margins"]))
        values["kl"].append(line["kl"])
        values["length"].append(line["lengths"])
    found |= {measure: over_items(seeds) if seeds else None for measure, seeds in values.items()}
    found["rewards"] = {str(line["seed"]): line["rewards"] for line in done if line["rewards"]}
    return found


def against_base(rows: Sequence[dict[str, Any]]) -> None:
    """Put win rate and mean difference in reward into each row: its samples against the base's of the same seed."""
    base = next(each for each in rows if each["name"] == "base")["rewards"]
    for each in rows:
        rewards = each.pop("rewards")
        if each["name"] == "base":
            continue
        pairs = [
            [own - other for own, other in zip(rewards[seed], base[seed], strict=True)]
            for seed in rewards
            if seed in base
        ]
        each["win_rate"] = over_items([measures.accuracies(differences) for differences in pairs]) if pairs else None
        each["reward"] = over_items(pairs) if pairs else None


def finished(results: Mapping[str, Any]) -> int:
    """How many trained policies' runs or evaluations an axis has."""
    rows = [each for each in results["rows"] if each["name"] != "base"]
    return sum(each["finished"] if "finished" in each else len(each["differences"]) for each in rows)


def judge(hits: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The reward model's accuracy on each set of pairs."""
    return {name: over_items([values]) for name, values in hits.items()}


def table(results: Mapping[str, Any]) -> list[str]:
    """An axis as Markdown: rows in the order of the study, and how to read them."""
    s, part = results["settings"], results["part"]
    lines = [f"### {HEADINGS[part]}", ""]
    lines += cells.rows(["method", *MEASURES.values(), "lr", "seeds"], map(_cells, results["rows"]))
    done, of = sum(each["finished"] for each in results["rows"]), len(results["rows"]) * len(s["seeds"])
    size, state = s["sizes"][part], f"{done} of {of} runs are finished."
    lines += [
        "",
        f"{state} Mean ± 95 % interval over items, of {size['held_out']} held-out pairs and {s['prompts']} prompts. "
        f"{size['train']} training rows of two responses, one pass in steps of {s['batch']} rows; LoRA of rank "
        f"{s['lora_r']}; β = {s['beta']:g}. Margin: log π/π_ref of the chosen response minus the rejected one's. "
        f"Log loss: −log σ(margin), {math.log(2):.3f} for the base. KL, tokens, win rate: on one sampled response "
        f"to each prompt, of at most {s['new_tokens']} tokens. Win rate and reward: against the base's samples, by a "
        "reward model that no method saw. Each learning rate is the best of "
        f"{cells.listed(s['lrs'])} on {s['sizes']['tuning']['train']} other rows, by log loss on "
        f"{s['sizes']['tuning']['held_out']} more.",
    ]
    if results["judge"]:
        accuracy = ", ".join(f"{JUDGED[name]} {cells.mean(value)}" for name, value in results["judge"].items())
        lines += ["", f"The reward model's own accuracy: {accuracy}."]
    else:
        lines += ["", "The reward model is not trained yet, so there is no win rate."]
    return [*lines, *retrained("win rates", sum(each["retrained"] for each in results["rows"]))]


def retrained(what: str, count: int) -> list[str]:
    """A line of Markdown on adapters that were lost and came out differently when trained again, if there are any."""
    return ["", f"{count} of the {what} are of an adapter that was trained again, to other bytes."] if count else []


def _cells(each: Mapping[str, Any]) -> list[str]:
    if not each["finished"]:
        return [each["title"], "not run", *[""] * (len(MEASURES) + 1)]
    digits = {"kl": 2, "length": 1, "margin": 2}
    failed = " (stopped: not finite)" if each["failed"] else ""
    return [
        each["title"] + failed,
        *(cells.mean(each.get(measure), digits.get(measure, 3)) for measure in MEASURES),
        f"{each['lr']:g}" if each["lr"] else "",
        f"{each['finished']}",
    ]


def drawn(
    panels: Callable[[Any, Mapping[str, Any]], None], size: tuple[float, float] = (9.6, 4.2)
) -> Callable[..., Path]:
    """What draws an axis as a figure of its own, from what draws its panels; see `Axis.draw`. The size is in inches."""

    def draw(results: Mapping[str, Any], folder: str | Path | None = None, name: str = "real_offline") -> Path:
        return figures.filled(panels, results, folder, name, size)

    return draw


def panels(fig: Any, results: Mapping[str, Any]) -> None:
    """Accuracy, KL and win rate of each method: a dot a seed, and the interval over items.

    Args:
        fig: a figure or a part of one.
        results: of an axis.
    """
    rows = [each for each in reversed(results["rows"]) if each["finished"]]
    middle = {"accuracy": 0.5, "win_rate": 0.5, "kl": 0.0}
    titles = {"accuracy": "held-out pair accuracy", "kl": "KL to π_ref, nats", "win_rate": "win rate against the base"}
    looks = figures.looks({each["name"]: each["title"] for each in results["rows"]})
    every = fig.subplots(1, 3, sharey=True)
    done, of = sum(each["finished"] for each in rows), len(results["rows"]) * len(results["settings"]["seeds"])
    for axes, measure in zip(every, titles, strict=True):
        axes.axvline(middle[measure], color=figures.PALETTE["grey"], linestyle="--", linewidth=1)
        for y, each in enumerate(rows):
            if not each.get(measure):
                continue
            colour = looks[each["name"]]["color"]
            seeds = each[measure]["seeds"]
            axes.plot(seeds, [y] * len(seeds), "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
            axes.errorbar(each[measure]["mean"], y, xerr=each[measure]["ci95"], fmt="D", color=colour, markersize=5)
        axes.set_title(titles[measure])
    every[0].set_yticks(range(len(rows)), [looks[each["name"]]["label"] for each in rows])
    every[0].set_ylim(-0.6, max(len(rows), 1) - 0.4)
    every[1].set_xlabel(f"{results['part']}: {done} of {of} runs; interval over items, a dot a seed")


# ---- the choice of learning rates


def rate(lr: float, line: Mapping[str, Any] | None) -> dict[str, Any]:
    """A learning rate with what its run on the tuning rows measured; None for a run that is not finished."""
    margins = line["margins"] if line else []
    return {
        "lr": lr,
        "log_loss": over_items([measures.log_losses(margins)]) if margins else None,
        "accuracy": over_items([measures.accuracies(margins)]) if margins else None,
        "margin": over_items([margins]) if margins else None,
    }


def rates_table(results: Mapping[str, Any]) -> list[str]:
    """The grid as Markdown: a row for each method and learning rate."""
    s, size = results["settings"], results["settings"]["sizes"]["tuning"]
    every = [(row, each) for row in results["rows"] for each in row["rates"]]
    body = (
        [
            row["title"],
            f"{each['lr']:g}",
            *(
                cells.mean(each[name], digits) if each[name] else "not run"
                for name, digits in {"log_loss": 4, "accuracy": 3, "margin": 3}.items()
            ),
            "✓" if results["chosen"].get(row["name"], {}).get("lr") == each["lr"] else "",
        ]
        for row, each in every
    )
    done = sum(each["log_loss"] is not None for _, each in every)
    return [
        "### Learning rates, on AlpacaEval's scores",
        "",
        *cells.rows(["method", "lr", "log loss", "pair accuracy", "margin, nats", "chosen"], body),
        "",
        f"{done} of {len(every)} runs are finished. Mean ± 95 % interval over {size['held_out']} held-out pairs, after "
        f"{size['train']} rows in steps of {s['tuning_batch']}. The lowest log loss −log σ(margin) is "
        f"chosen; the base's is {math.log(2):.4f}. The other methods take the rate of their kind of feedback.",
    ]


def rates_panels(fig: Any, results: Mapping[str, Any]) -> None:
    """Log loss and accuracy by learning rate, a line a method."""
    looks = figures.looks({row["name"]: row["title"] for row in results["rows"]})
    titles = {"log_loss": "held-out log loss", "accuracy": "held-out pair accuracy"}
    for axes, (measure, title) in zip(fig.subplots(1, 2), titles.items(), strict=True):
        axes.axhline({"log_loss": math.log(2), "accuracy": 0.5}[measure], color=figures.PALETTE["grey"], linestyle="--")
        for row in results["rows"]:
            known = [each for each in row["rates"] if each[measure]]
            if known:
                means = [each[measure]["mean"] for each in known]
                axes.plot([each["lr"] for each in known], means, **looks[row["name"]])
        axes.set_xscale("log")
        axes.set_title(title)
        axes.set_xlabel("learning rate, on the tuning rows")
    if any(each["log_loss"] for row in results["rows"] for each in row["rates"]):
        fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
