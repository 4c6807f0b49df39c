"""Measure a run up to its first step on many rows: CPU seconds, peak memory, bytes read and written.

    python benchmarks/first_step.py --before ../earlier-checkout --output figures/runs/first_step.json

This checkout and an earlier one prepare the same files in turns (`harness.py`). A case is a kind of data: pairs, or
binary labels, where two rows share a prompt and are gathered. The model is tiny. Most of the time is then the
tokenizer's, which is the same in both, so the time of everything else is measured as well. Each case and round prints a
line of JSON; the last line has the ratios of the two checkouts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture
import harness
from harness import Line, Meter

METHODS = {"pairs": "dpo", "labels": "una-binary-bce"}
HERE = Path(__file__).resolve().parents[1]
CASES = [f"{kind}, {when}" for kind in METHODS for when in ("before", "now")]
FEW = 200
"""Rows of the warm-up step, in which libraries are loaded."""


def main() -> int:
    """Run all cases; in a child process, one."""
    parser = harness.parser(__doc__, CASES, steps=1)
    parser.set_defaults(rounds=2, preset="tiny")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--before", type=Path, help="the earlier checkout; without one, this checkout alone")
    arguments = parser.parse_args()
    if arguments.child:
        case, folder = arguments.child
        checkout = json.loads((Path(folder) / "checkouts.json").read_text())[case.split(", ")[1]]
        sys.path.insert(0, checkout)  # una_ref is not imported yet
        harness.child(arguments, lambda case, folder, meter: measured(case, folder, meter))
        return 0
    if not arguments.before:
        arguments.cases = [case for case in arguments.cases if case.endswith("now")]
    lines = harness.rounds(__file__, arguments, lambda folder: make(folder, arguments))
    harness.record(arguments, lines, ratios=ratios(lines), rows=arguments.rows)
    return 0


def make(folder: Path, arguments: argparse.Namespace) -> None:
    """Write a model, files of few and of many rows of each kind, and the places of the checkouts."""
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
    """Prepare and make the first step: on few rows as the warm-up, then on many."""
    from una_ref.data.specials import Specials
    from una_ref.training.run import prepare

    try:
        from una_ref.data.examples import digest
        from una_ref.training.settings import resolve
    except ImportError:  # as they were called before
        from una_ref.training.fit import digest

        from una_ref.training.config import resolve

    Specials.ids = meter.timed("tokenizing", Specials.ids)
    kind = case.split(", ")[0]
    settings = ["held_out=0.05", "steps=1", "batch=8", "lora_r=4"]
    moved: dict[str, int] = {}
    for name in ("few", "many"):
        data, model = str(folder / f"{kind}-{name}.jsonl"), str(folder / "policy")
        config = resolve(METHODS[kind], settings, data=data, model=model)
        if name == "many":
            meter.start()
        meter.turn()
        before = _moved()
        job = prepare(config)
        named = digest(job.examples)  # what the training loop asks for before its first step
        meter.losses.append(job.step(0, record=True)["loss"])
        moved = {key: round((after - before[key]) / 2**20) for key, after in _moved().items()}
        meter.stop()
    # Read before the rates of the processor are measured, which takes memory as well.
    peak = round(harness.memory(meter.device, peak=True) / 2**20)
    return moved | {"peak_mb": peak, "digest": named, "trained": len(job.examples), "held_out": len(job.held_out)}


def _moved() -> dict[str, int]:
    """Bytes that this process has read and written so far (Linux only)."""
    about = Path("/proc/self/io").read_text()
    return {f"{name}_mb": int(re.search(rf"{name[0]}char: (\d+)", about)[1]) for name in ("read", "written")}


def ratios(lines: list[Line]) -> dict[str, Any]:
    """For each kind, this checkout over the earlier one within a round; empty without an earlier one.

    Raises:
        SystemExit: the checkouts do not train on the same examples.
    """
    rounds = [by for by in harness.by_round(lines) if len(by) == len(CASES)]
    for by in rounds:
        for kind in METHODS:
            now, before = by[f"{kind}, now"], by[f"{kind}, before"]
            for name in ("digest", "trained", "held_out", "losses"):
                if now[name] != before[name]:
                    got = f"{before[name]} and {now[name]}"
                    raise SystemExit(f"{kind}: expected the same {name} of both checkouts, got {got}")

    def each(value: Callable[[Line], float]) -> dict[str, dict[str, float]]:
        return {
            f"{kind}, now / {kind}, before": harness.over_rounds(
                rounds, lambda by, k=kind: value(by[f"{k}, now"]) / value(by[f"{k}, before"])
            )
            for kind in METHODS
        }

    if not rounds:
        return {}
    return {
        "CPU time to the first step": each(harness.cost),
        "CPU time without the tokenizer": each(lambda line: line["learning"]),
        "peak memory": each(lambda line: line["peak_mb"]),
        "peak memory beyond the loaded libraries": each(lambda line: max(1, line["peak_mb"] - line["loaded_mb"])),
        "bytes read": each(lambda line: line["read_mb"]),
        "bytes written": each(lambda line: line["written_mb"]),
    }


if __name__ == "__main__":
    sys.exit(main())
