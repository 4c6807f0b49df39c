"""Speed on a GPU: Mistral-7B's shape with random weights, pairs of HelpSteer2's lengths, bfloat16.

    python benchmarks/gpu.py --output figures/runs/gpu.json

The cases:

- twenty offline steps of una_ref, with the reference in each step and cached;
- TRL's DPO with its defaults (gradient checkpointing), and tuned (none, lengths grouped, reference cached);
- ten updates each of online UNA, centred UNA and PPO.

The scripts are `offline_speed.py` and `online_speed.py`. To their lines this one adds tokens per second, the rate of
the arithmetic that the step needs, and its share of the rate of a large product. `--parts` selects some parts, for a
machine that is lent for minutes. Where TRL is not installed, its cases are left out, and a note says so.

It runs from a checkout, without installing una_ref. An image with torch, transformers (5.17 or later), peft and
accelerate also needs jsonargparse and docstring-parser, and trl and datasets for TRL's cases.

Without a GPU it runs the same cases at tiny size, and a note in its record says what that does not show.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import records

PARTS: dict[str, tuple[str, list[str], list[str]]] = {
    "una": (
        "offline_speed.py",
        ["--pairs=8", "--steps=20", "--micro-tokens=8192"],
        ["dpo", "dpo, cached", "una-score, cached"],
    ),
    "trl": ("offline_speed.py", ["--pairs=8", "--steps=20"], ["trl dpo, defaults"]),
    "trl tuned": (
        "offline_speed.py",
        ["--pairs=4", "--steps=20", "--micro-tokens=8192"],
        ["trl dpo, tuned", "dpo, cached"],
    ),
    "online": ("online_speed.py", ["--steps=10"], ["una-online", "una-centred", "ppo, 1 pass", "ppo, 4 passes"]),
}
"""Script, options and cases. Tuned TRL gets four pairs: eight padded ones without checkpointing would not fit."""
SIZE = {
    True: ["--preset=mistral-7b", "--lengths=helpsteer2", "--device=cuda", "--dtype=bfloat16"],
    False: ["--preset=tiny", "--steps=2"],
}
NOT_SHOWN = "no GPU here: this shows that every case runs, and nothing about speed or memory at 7B"


def main() -> int:
    """Run the parts and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=[*PARTS], choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, help="write a record; other parts in it are kept")
    arguments = parser.parse_args()
    import torch

    cuda, notes = torch.cuda.is_available(), []
    parts: dict[str, Any] = {}
    if arguments.output and arguments.output.exists():
        parts = json.loads(arguments.output.read_text("utf-8"))["parts"]
    for part in arguments.parts:
        script, options, cases = PARTS[part]
        if importlib.util.find_spec("trl") is None:
            without = [case for case in cases if not case.startswith("trl")]
            notes += [f"{part}: TRL is not installed"] if without != cases else []
            cases = without
        if cases:
            parts[part] = run(script, [*options, *SIZE[cuda]], cases)
            print(json.dumps({part: parts[part]["cases"]}), flush=True)
    notes += [] if cuda else [NOT_SHOWN]
    for note in notes:
        print(note)
    if arguments.output:
        about = {"command": "python benchmarks/gpu.py", "notes": notes, **records.provenance()}
        records.write(arguments.output, about | {"parts": parts})
    return 0


def run(script: str, options: list[str], cases: list[str]) -> dict[str, Any]:
    """A script's record of one round, with the rates of each case (see `rates`) in front."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        command = [sys.executable, str(Path(__file__).with_name(script)), "--rounds=1", *options, f"--output={record}"]
        subprocess.run([*command, "--cases", *cases], check=True)
        (result,) = json.loads(record.read_text("utf-8"))["runs"]
    return {"cases": {line["case"]: rates(line) for line in result["lines"]}} | result


def rates(line: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step, tokens (prompts once) and FLOPs per second, their share of a large product's rate, and memory.

    The FLOPs are the floor's (`floor.py`), so that a case that computes more than it needs has a low rate.
    """
    seconds = line["s_per_step"]
    tokens = (sum(line["prompt_tokens"]) + sum(line["response_tokens"])) / len(line["prompt_tokens"])
    flops = sum(part[0] for part in line["floor"].values())
    return {
        "s_per_step": seconds,
        "tokens_per_s": round(tokens / seconds, 1),
        "tflop_per_s": round(flops / seconds / 1e12, 3),
        "share_of_product": round(flops / seconds / line["rates"]["best_flops"], 3),
        "peak_mb": line["peak_mb"],
    }


if __name__ == "__main__":
    sys.exit(main())
