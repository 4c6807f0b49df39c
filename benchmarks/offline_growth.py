"""una_ref's cost against sizes: tokens of a prompt, responses to a prompt, size of the model, rows.

    python benchmarks/offline_growth.py --output figures/runs/offline_growth.json

Prints a line of JSON for each point: seconds of a step, that over the floor, microseconds of a token, and milliseconds
to prepare a row.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import fixture
import floor
import offline_speed
import records
from harness import WARMUP, Line

GROWTH = {
    "tokens of a prompt": [{"prompt": n} for n in (64, 128, 256, 512, 1024)],
    "responses to a prompt": [{"responses": k} for k in (1, 2, 4, 8, 16)],
    "size of the model": [
        {"hidden": hidden, "inter": 7 * hidden // 2, "layers": layers}
        for hidden, layers in ((192, 3), (384, 6), (768, 12))
    ],
    "rows": [{"rows": n} for n in (64, 512, 4096)],
}
"""What is varied, one axis at a time; the rest is as in `START`."""
START = {"prompt": 128, "response": 64, "responses": 2, "rows": 64}


def main() -> int:
    """Measure every point and write the record."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="balanced", choices=fixture.PRESETS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=4, help="prompts in a step")
    parser.add_argument("--micro-tokens", type=int, default=offline_speed.MICRO, help="most tokens of a micro-batch")
    parser.add_argument("--output", type=Path, help="write a record")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates = floor.rates(arguments.device, arguments.dtype)
    lines = []
    for axis, points in GROWTH.items():
        for point in points:
            lines.append({"axis": axis, **point, **measured(START | point, arguments, rates)})
            print(json.dumps(lines[-1]), flush=True)
    if arguments.output:
        command = f"python benchmarks/offline_growth.py --output {arguments.output}"
        record = {"command": command, "start": START, **records.provenance(), "rates": rates, "lines": lines}
        records.write(arguments.output, record)
    return 0


def measured(point: dict[str, int], arguments: argparse.Namespace, rates: dict[str, float]) -> Line:
    """The cost at a point: the median of three steps, each of `arguments.pairs` prompts, after a warm-up step."""
    import torch
    from transformers import AutoTokenizer

    from una_ref.data.rows import Row
    from una_ref.training.batches import order
    from una_ref.training.metrics import seconds

    sizes = {name: size for name, size in point.items() if name in fixture.NAMES}
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        fixture.make(Path(folder), arguments.preset, prompts=8, endless=False, **sizes)
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "policy")
        words = [word for text in json.loads((Path(folder) / "prompts.json").read_text()) for word in text.split()]

        def text(tokens: int) -> str:
            return fixture.text(rng, words, tokenizer, tokens)

        texts = [
            (text(point["prompt"]), tuple(text(point["response"]) for _ in range(point["responses"])))
            for _ in range(64)
        ]
        method = "una-centred" if point["responses"] > 1 else "una-score"  # centring needs a second response
        rows = []
        for i in range(point["rows"]):
            prompt, responses = texts[i % len(texts)]
            scores = tuple(rng.random() for _ in responses)
            rows.append(Row(f"{i} {prompt}", responses, scores, source=f"row {i}"))
        total, cpu = WARMUP + 3, torch.device("cpu")
        began = seconds(cpu)
        job = offline_speed.prepared(method, rows, Path(folder), arguments, reference="cache", steps=total)
        preparation = seconds(cpu) - began
    steps = [[job.examples[i] for i in order(len(rows), step, arguments.pairs, 0)] for step in range(total)]
    job.trainer.remember_reference([e for step in steps for e in step])
    taken = []
    for step in range(total):
        began = seconds(job.trainer.accelerator.device)
        job.step(step, record=False)
        taken.append(seconds(job.trainer.accelerator.device) - began)
    shape = replace(offline_speed.shape(arguments), **sizes)
    counted = steps[WARMUP:]
    least = median(floor.seconds(floor.offline(shape, *offline_speed.lengths(step)), rates) for step in counted)
    tokens = median(sum(e.tokens for e in step) for step in counted)
    cost = median(taken[WARMUP:])
    line = {"s_per_step": cost, "over the floor": cost / least, "us_per_token": 1e6 * cost / tokens}
    line["prepare_ms_per_row"] = 1e3 * preparation / len(rows)
    return {name: round(value, 4) for name, value in line.items()}


if __name__ == "__main__":
    sys.exit(main())
