"""Blocks of the documentation from the records of runs in figures/runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

RUNS = Path(__file__).resolve().parents[1] / "figures" / "runs"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [header, ["---"] * len(header), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(*words: str) -> str:
    """Words as code, separated by spaces."""
    return " ".join(f"`{word}`" for word in words)


def record(name: str) -> Any:
    """A committed record of runs."""
    return json.loads((RUNS / name).read_text(encoding="utf-8"))


def study(folder: str) -> Callable[[], str]:
    """The committed tables of a study, and what made them."""

    def block() -> str:
        runs = (RUNS / folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
        made = record(f"{folder}/results.json")
        last = made if "command" in made else next(iter(made.values()))
        last = last | {"command": re.sub(r" --axis \S+", "", last["command"])}  # the page has the runs of all axes
        about = f"{len(runs) - 1} runs. {made_by(last)}"
        return f"{(RUNS / folder / 'table.md').read_text(encoding='utf-8').rstrip()}\n\n{about}"

    return block


def made_by(run: Mapping[str, Any]) -> str:
    """When, where and with which versions something was measured."""
    versions = ", ".join(f"{name} {run['versions'][name]}" for name in ("torch", "transformers"))
    where = f"; {run['hardware']}" if "hardware" in run else ""
    return f"Made by `{run['command']}` on {run['date']}; {versions}{where}."


def another_base() -> str:
    """The first panel on the other base: mean, median and largest regret over worlds; centred UNA at other βs too."""
    made = record("another_base/results.json")
    values = {row["name"]: row["regret"]["values"] for row in made["rows"]}
    more = {f"una-centred, β = {row['beta']:g}": row["regret"]["values"] for row in made["centred"]}
    values |= {name: found for name, found in more.items() if found not in values.values()}
    rows = [
        (name, *(f"{number:.3f}" for number in (fmean(found), median(found), max(found))))
        for name, found in sorted(values.items(), key=lambda item: fmean(item[1]))
    ]
    note = f"{len(values['base'])} worlds. {made_by(made)}"
    return f"{table(('method', 'mean regret', 'median', 'largest'), rows)}\n\n{note}"


def real_text() -> str:
    """Each run on real text: held-out loss, margin and accuracy before and after."""
    made = record("real_input.json")
    rows = []
    for name, run in made["runs"].items():
        if "held_out" not in run:
            continue
        held = run["held_out"]
        cells = [f"{held['loss']['before']:.3f} → {held['loss']['after']:.3f}"]
        for what in ("margin", "accuracy"):
            cells.append(f"{held[what]['after']:.3f} ± {held[what]['standard error of the change']:.3f}")
        rows.append((name, code(run["method"]), held["prompts"], *cells))
    header = ("feedback", "method", "held-out prompts", "loss", "margin", "accuracy")
    note = f"{made['steps']} steps each, ± one standard error of the change. {made_by(made)}"
    return f"{table(header, rows)}\n\n{note}"


def online_text() -> str:
    """Each online run on real prompts: the two reward models before and after."""
    made = record("online_on_text.json")
    rows = []
    for name, run in made["runs"].items():
        cells = []
        for judge in ("train reward", "test reward"):
            before, after = (run["held_out"][when][judge] for when in ("before", "after"))
            cells.append(f"{before['mean']:.2f} ± {before['se']:.2f} → {after['mean']:.2f} ± {after['se']:.2f}")
        rows.append((name, *cells))
    prompts = next(iter(made["runs"].values()))["held_out"]["prompts"]
    note = f"{prompts} held-out prompts, {made['steps']} rollouts, ± one standard error. {made_by(made)}"
    return f"{table(('method', 'the reward that was trained on', 'a second reward model'), rows)}\n\n{note}"


def speed(name: str, *measures: str) -> Callable[[], str]:
    """The ratios of a record of speed: medians of each run in it."""

    def block() -> str:
        runs = record(name)["runs"]
        parts = []
        for measure in measures:
            pairs = [pair for pair in runs[-1]["ratios"][measure] if all(pair in r["ratios"][measure] for r in runs)]
            rows = []
            for pair in pairs:
                found = [run["ratios"][measure][pair] for run in runs]
                medians = ", ".join(f"{one['median']:.3f}" for one in found)
                spread = f"{min(one['least'] for one in found):.3f} to {max(one['largest'] for one in found):.3f}"
                rows.append((pair, medians, spread))
            parts += [table((measure, "median of each run", "range over steps or rounds"), rows), ""]
        gates = [run["gate"]["loss"]["measured"] for run in runs if "gate" in run]
        losses = f" Losses of the two sides differ by {max(gates):.1e} at most." if gates else ""
        return "\n".join([*parts, f"{len(runs)} run(s) of the benchmark.{losses} {made_by(runs[-1])}"])

    return block


def paper_tables() -> str:
    """The papers' tables with the committed evaluations beside the printed numbers: ``una-ref report``."""
    from una_ref.commands.reporting import markdown
    from una_ref.evaluation.collected import collect
    from una_ref.evaluation.printed import printed
    from una_ref.evaluation.report import filled

    found = collect([RUNS])
    return "\n\n".join(markdown(filled(table, found)) for table in printed().values())


def published() -> str:
    """SmolLM2 beside its published scores, with 95 % intervals."""
    made = record("smollm2_published.json")
    rows = []
    for task in made["tasks"]:
        score = task["scores"][0]
        interval = f"{100 * score['value']:.1f} ± {196 * score['stderr']:.1f}"
        rows.append((f"`{task['task']}`", score["items"], interval, f"{100 * task['published']:.1f}"))
    return f"{table(('task', 'items', 'here, acc_norm in %', 'published'), rows)}\n\n{made_by(made)}"


def reliability() -> str:
    """Kills, full disks, processes and ten thousand steps: ``benchmarks/reliability.py``."""
    made = record("reliability.json")
    parts = made["parts"]
    rows = []
    for name, run in parts["kills"].items():
        when = ", ".join(f"{count} {phase}" for phase, count in run["killed"].items())
        bytes_ = "the same bytes" if run["same_bytes"] else "**other bytes**"
        rows.append((f"SIGKILL, {name} run", f"{run['kills']} ({when})", f"{run['ends']} ends: {bytes_}"))
    disk = parts["disk"]
    named = sum(one["error"].startswith("una-ref: failed: ") for one in disk)
    whole = sum(one["resumed"] and not one["half_written"] for one in disk)
    rows.append(("full disk", f"{len(disk)} moments", f"{named} name the file, {whole} resume to the same bytes"))
    gaps = ", ".join(f"{count}: {gap:.1e}" for count, gap in parts["processes"]["largest_difference"].items())
    largest = parts["processes"]["largest_weight"]
    found = f"largest difference of a weight {gaps} (largest weight {largest:.2f})"
    rows.append(("processes", "2 and 4 beside 1", found))
    long = parts["steps"]["measured"]
    grown = f"{long[0]['resident_mb']:.0f} MB at step {long[0]['step']:,}, {long[-1]['resident_mb']:.0f} MB at the end"
    files = sorted({one["open_files"] for one in long})
    rows.append(("memory", "10,000 steps", f"{grown}; open files {files[0]} to {files[-1]}"))
    return f"{table(('what', 'how often', 'result'), rows)}\n\n{made_by(made)}"


def leaderboard() -> str:
    """The best row for each kind of feedback, and what made the board."""
    from una_ref.studies.leaderboard.board_tables import best_rows

    board = record("leaderboard/results.json")["board"]
    runs = (RUNS / "leaderboard" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join([*best_rows(board), "", f"{len(runs) - 1:,} runs. {made_by(board)}"])


def exact_scores() -> str:
    """Rows that are tuned for exact scores and few labels."""
    from una_ref.studies.leaderboard import board_tables

    return "\n".join(board_tables.exact_scores(record("leaderboard/results.json")["exact_scores"])[2:])


def tiny_lm() -> str:
    """The leaders with a transformer as the policy."""
    from una_ref.studies.leaderboard import board_tables

    return "\n".join(board_tables.tiny_lm(record("leaderboard/results.json")["tiny_lm"])[2:])


def axes() -> str:
    """The axes of the leaderboard by the name that the command takes."""
    from una_ref.studies.leaderboard.board_study import FROZEN

    others = {
        "board": "every row, at each number of labels",
        "exact_scores": "few labels, and scores without noise; settings are chosen anew",
        "tiny_lm": "a transformer as the policy; settings are chosen anew",
        "alarms": "when to stop on a wrong reward model",
        "frontier": "reward by KL, at five values of β",
    }
    rows = [(code(name), what, "") for name, what in others.items()]
    rows += [(code(name), condition.title, ", ".join(condition.labels)) for name, condition in FROZEN.items()]
    return table(("axis", "what it measures or varies", "levels"), rows)


def alarms() -> str:
    """What each monitor against reward hacking notices and keeps."""
    from una_ref.studies.leaderboard import board_tables

    return "\n".join(board_tables.alarms(record("leaderboard/results.json")["alarms"])[2:])


BLOCKS: dict[str, Callable[[], str]] = {
    "paper-tables": paper_tables,
    "published-scores": published,
    "offline-study": study("compare"),
    "online-study": study("compare_online"),
    "real-offline-study": study("real_offline"),
    "real-online-study": study("real_online"),
    "leaderboard": leaderboard,
    "exact-scores": exact_scores,
    "tiny-lm": tiny_lm,
    "alarms": alarms,
    "axes": axes,
    "another-base": another_base,
    "real-text": real_text,
    "online-text": online_text,
    "offline-speed": speed("offline_speed.json", "time of a step", "peak memory", "time over the floor"),
    "offline-speed-bf16": speed("offline_speed_bf16.json", "time of a step", "peak memory"),
    "reliability": reliability,
    "real-model-speed": speed("real_model.json", "time of a step", "peak memory", "time over the floor"),
    "online-speed": speed("online_speed.json", "time of a step", "peak memory", "time over the floor"),
}
"""Every block by name."""
