"""What a run costs before and with its first step, at many rows: CPU seconds, memory, bytes read and written.

    python benchmarks/first_step.py --before ../earlier-checkout --output figures/runs/first_step.json

The same files are prepared by this checkout and by an earlier one, in turns (`harness.py`). A case is a kind of data:
pairs, or binary labels of which two rows share a prompt and are gathered. A tiny model is at hand, so that nearly all
of the time is the data's. A line of JSON for each case and round, then one with the ratios of the two checkouts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import fixture
import harness
from harness import Line, Meter

METHODS = {"pairs": "dpo", "labels": "una-binary-bce"}
HERE = Path(__file__).resolve().parents[1]
CASES = [f"{kind}, {when}" for kind in METHODS for when in ("before", "now")]
FEW = 200
"""Rows of the step that is not counted, in which libraries are loaded."""


def main() -> int:
    """Run all cases, or, as a child, one."""
    parser = harness.parser(__doc__, CASES, steps=1)
    parser.set_defaults(rounds=2, preset="tiny")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--before", type=Path, help="the earlier checkout; without one, this checkout alone")
    arguments = parser.parse_args()
    if arguments.child:
        case, folder = arguments.child
        checkout = json.loads((Path(folder) / "checkouts.json").read_text())[case.split(", ")[1]]
        sys.path.insert(0, checkout)  # before anything imports una_ref
        harness.child(arguments, lambda case, folder, meter: measured(case, folder, meter))
        return 0
    if not arguments.before:
        arguments.cases = [case for case in arguments.cases if case.endswith("now")]
    lines = harness.rounds(__file__, arguments, lambda folder: make(folder, arguments))
    found = ratios(lines)
    harness.record(arguments, lines, ratios=found, rows=arguments.rows)
    return 0


def make(folder: Path, arguments: argparse.Namespace) -> None:
    """A model, files of few and of many rows of each kind, and where the checkouts are."""
    fixture.make(folder, arguments.preset, prompts=8, endless=False)
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijkl", k=draw.randint(2, 8))) for _ in range(500)]

    def text(count: int, draw: random.Random = draw) -> str:
        return " ".join(draw.choices(words, k=count))

    rows = {
        "pairs": lambda i: {"prompt": f"{text(12)} {i}", "chosen": text(8), "rejected": text(8)},
        "labels": lambda i: {"prompt": text(12, random.Random(i // 2)), "completion": text(8), "label": i % 2 == 0},
    }
    for kind, row in rows.items():
        for name, count in (("few", FEW), ("many", arguments.rows)):
            with open(folder / f"{kind}-{name}.jsonl", "w") as file:
                file.writelines(json.dumps(row(i)) + "\n" for i in range(count))
    checkouts = {"now": str(HERE), "before": str((arguments.before or HERE).resolve())}
    (folder / "checkouts.json").write_text(json.dumps(checkouts))


def measured(case: str, folder: Path, meter: Meter) -> Line:
    """Everything up to and with the first step: of few rows, which is not counted, and of many."""
    from una_ref.training.fit import digest

    from una_ref.training.prepare import prepare
    from una_ref.training.settings import resolve

    kind = case.split(", ")[0]
    settings = ["held_out=0.05", "steps=1", "batch=8", "lora_r=4"]
    moved: dict[str, Any] = {}
    for name in ("few", "many"):
        config = resolve(
            METHODS[kind], settings, data=str(folder / f"{kind}-{name}.jsonl"), model=str(folder / "policy")
        )
        if name == "many":
            meter.start()
        meter.turn()
        before = _moved()
        job = prepare(config)
        named = digest(job.examples)  # `fit` resumes by it
        meter.losses.append(job.step(0, record=True)["loss"])
        moved = {name: round((after - before[name]) / 2**20) for name, after in _moved().items()}
        meter.stop()
    # Read here, since what is measured beside it, the rates of the processor, takes memory as well.
    peak = round(harness.memory(meter.device, peak=True) / 2**20)
    return moved | {"peak_mb": peak, "digest": named, "trained": len(job.examples), "held_out": len(job.held_out)}


def _moved() -> dict[str, int]:
    """Bytes that this process has read and written so far, by the name of a line's megabytes (Linux)."""
    about = Path("/proc/self/io").read_text()
    return {f"{name}_mb": int(re.search(rf"{name[0]}char: (\d+)", about)[1]) for name in ("read", "written")}


def ratios(lines: list[Line]) -> dict[str, Any]:
    """Of each kind: now over before, within a round; empty without an earlier checkout.

    Raises:
        SystemExit: the checkouts do not train on the same examples.
    """
    turns = [one for one in harness.by_round(lines) if len(one) == len(CASES)]
    for one in turns:
        for kind in METHODS:
            now, before = one[f"{kind}, now"], one[f"{kind}, before"]
            for name in ("digest", "trained", "held_out", "losses"):
                if now[name] != before[name]:
                    got = f"{before[name]} and {now[name]}"
                    raise SystemExit(f"{kind}: expected {name} of both checkouts to agree, got {got}")

    def each(value: Any) -> dict[str, dict[str, float]]:
        return {
            f"{kind}, now / {kind}, before": harness.over(
                turns, lambda one, k=kind: value(one[f"{k}, now"]) / value(one[f"{k}, before"])
            )
            for kind in METHODS
        }

    if not turns:
        return {}
    return {
        "CPU time to the first step": each(harness.cost),
        "peak memory": each(lambda line: line["peak_mb"]),
        "peak memory beyond the loaded libraries": each(lambda line: max(1, line["peak_mb"] - line["loaded_mb"])),
        "bytes read": each(lambda line: line["read_mb"]),
        "bytes written": each(lambda line: line["written_mb"]),
    }


if __name__ == "__main__":
    sys.exit(main())
