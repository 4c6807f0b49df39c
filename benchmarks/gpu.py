"""Speed on a GPU: Mistral-7B's shape with random weights, pairs of HelpSteer2's lengths, bfloat16; and a whole run.

    python benchmarks/gpu.py --output figures/runs/gpu.json

The cases:

- twenty offline steps of una_ref, with the reference in each step and cached;
- TRL's DPO with its defaults (gradient checkpointing), and tuned (none, lengths grouped, reference cached);
- ten updates each of online UNA, centred UNA and PPO;
- SmolLM2-135M-Instruct: one epoch of DPO on HH helpful at full size, with the test pairs and leaderboard tasks before
  and after (the part smollm2). It needs UNA_REF_DATA, the folder with the data files.

The scripts of the steps are `offline_speed.py` and `online_speed.py`. To their lines this one adds tokens per second,
the rate of the arithmetic that the step needs, and its share of the rate of a large product. `--parts` selects some
parts, for a machine that is lent for minutes. Where TRL, lm-eval or the data are missing, their cases are left out, and
a note says so.

It runs from a checkout, without installing una_ref. An image with torch, transformers (5.17 or later), peft and
accelerate also needs jsonargparse and docstring-parser, and trl and datasets for TRL's cases.

Without a GPU it runs the same cases at tiny size, and a note in its record says what that does not show.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fixture
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
SMOLLM2 = "smollm2"
"""The part that trains and evaluates SmolLM2 with the command line."""
HH = "preferences/hh_helpful/{}.jsonl.gz"
RUN: dict[bool, list[str]] = {
    True: ["epochs=1", "batch=32", "micro_tokens=32768", "dtype=bfloat16", "lr=1e-4"],
    False: ["steps=2", "batch=4", "rows=12"],
}
TASKS: dict[bool, list[str]] = {
    True: ["--tasks=arc,hellaswag,winogrande,truthfulqa", "--limit=1000", "--shots=0", "--batch=64"],
    False: ["--tasks=arc", "--limit=2", "--shots=0"],
}
NOT_SHOWN = "no GPU here: this shows that every case runs, and nothing about speed or memory at 7B"


def main() -> int:
    """Run the parts and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts",
        nargs="*",
        default=[*PARTS, SMOLLM2],
        choices=[*PARTS, SMOLLM2],
        metavar="PART",
        help=", ".join([*PARTS, SMOLLM2]),
    )
    parser.add_argument("--output", type=Path, help="write a record; other parts in it are kept")
    arguments = parser.parse_args()
    import torch

    cuda, notes = torch.cuda.is_available(), []
    parts: dict[str, Any] = {}
    if arguments.output and arguments.output.exists():
        parts = json.loads(arguments.output.read_text("utf-8"))["parts"]
    for part in arguments.parts:
        if part == SMOLLM2 and "UNA_REF_DATA" not in os.environ:
            notes.append(f"{part}: UNA_REF_DATA is not set")
            continue
        if part == SMOLLM2:
            parts[part] = whole_run(cuda)
            notes += [] if "tasks" in parts[part] else [f"{part}: lm-eval is not installed"]
            print(json.dumps({part: parts[part]}), flush=True)
            continue
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


def whole_run(cuda: bool) -> dict[str, Any]:
    """Train on HH helpful and evaluate: seconds of each command, metrics on the test pairs, and scores on the tasks.

    The tasks are left out where lm-eval is not installed. Without a GPU, a tiny model takes SmolLM2's place.
    """
    data, found = records.data_folder().resolve(), {"settings": [*RUN[cuda], *TASKS[cuda]], "seconds": {}}
    with tempfile.TemporaryDirectory() as folder:
        model = "smollm2" if cuda else "policy"
        if not cuda:
            fixture.make(Path(folder), "tiny", prompts=8, endless=False)

        def una_ref(name: str, *words: str) -> str:
            began = time.perf_counter()
            env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
            command = [sys.executable, "-m", "una_ref", *words]
            done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True)
            found["seconds"][name] = round(time.perf_counter() - began, 1)
            return done.stdout

        files = ["--data", str(data / HH.format("train_gt")), f"eval_data={data / HH.format('test')}"]
        una_ref("train", "train", "dpo", *files, "--model", model, "--output", "dpo", *RUN[cuda])
        record = json.loads((Path(folder) / "dpo" / "run.json").read_text("utf-8"))
        found |= {"steps": record["steps"], "rows": record["rows"], "test pairs": record["evaluation"]}
        if importlib.util.find_spec("lm_eval"):
            tasks = [*TASKS[cuda], "--data-dir", str(data / "eval"), "--json"]
            una_ref("evaluate the start", "evaluate", model, *tasks)
            evaluated = una_ref("evaluate the result", "evaluate", "dpo", *tasks, "--against", model)
            found["tasks"] = json.loads(evaluated)
    return found


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
