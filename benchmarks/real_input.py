"""Real text through the whole path, every kind of feedback: does what should move on held-out prompts move right?

    UNA_REF_DATA=/path/to/data python benchmarks/real_input.py --output figures/runs/real_input.json

Reads alpaca_eval_scores.jsonl.gz (an LLM judge's scores, 16 responses a prompt) and hh_harmless_pairs.jsonl.gz (pairs
of dialogues). First a small Mistral and its BPE tokenizer are made from them and fine-tuned on the better responses;
then each run below starts from that. Held-out prompts are never trained on. Only numbers are written, none of the text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from una_ref.training.card import versions
from una_ref.training.config import resolve
from una_ref.training.run import train

SHAPE = [
    "shape.hidden_size=128",
    "shape.intermediate_size=384",
    "shape.num_hidden_layers=2",
    "shape.num_attention_heads=4",
    "shape.num_key_value_heads=2",
    "shape.max_position_embeddings=1024",
]
COMMON = ["max_length=96", "eval_every=50", "log_every=10", "held_out=0.1"]
RUNS = {
    # name: method, data, settings
    "pairs from scores": ("dpo", "alpaca", ["beta=0.1", "lr=2e-4", "batch=8"]),
    "pairs (HH)": ("dpo", "hh", ["beta=0.1", "lr=2e-4", "batch=8"]),
    "labels from scores": ("una-binary-bce", "alpaca", ["beta=0.1", "lr=2e-4", "batch=4"]),
    "labels from scores, kto": ("kto", "alpaca", ["beta=0.1", "lr=2e-4", "batch=4"]),
    "scores": ("una-score", "alpaca", ["beta=0.03", "lr=2e-4", "batch=4"]),
    "lists of scores, centred": ("una-centred", "alpaca", ["beta=0.03", "lr=2e-4", "batch=4"]),
    "scores and pairs mixed": ("una-centred", "alpaca,hh", ["beta=0.03", "lr=2e-4", "batch=4"]),
    "scores, pairs and labels mixed": (
        "una-centred",
        "alpaca,hh,labels",
        ["beta=0.03", "lr=2e-4", "batch=4", "baseline=learned"],
    ),
}


def main() -> int:
    """Run all and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/real_input.json"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--work", type=Path, help="folder for the runs themselves, to resume from (default: a temporary one)"
    )
    arguments = parser.parse_args()
    if "UNA_REF_DATA" not in os.environ:
        print("real_input: set UNA_REF_DATA to the folder that holds the data files", file=sys.stderr)
        return 2
    folder = Path(os.environ["UNA_REF_DATA"])
    began = time.time()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        files = {name: work / f"{name}.jsonl" for name in ("alpaca", "labels", "hh")}
        cut(folder, files)
        sft = resolve(
            "sft",
            [*SHAPE, *COMMON, "lora_r=0", "lr=3e-3", "batch=16", "vocabulary=2048"],
            data=f"{files['alpaca']},{files['hh']}",
            output=str(work / "sft"),
            steps=arguments.steps,
        )
        out = {"sft": {"method": "sft", "data": "alpaca,hh"} | summary(train(sft), work / "sft")}
        for name, (method, data, settings) in RUNS.items():
            output = work / name.replace(" ", "-").replace("(", "").replace(")", "").replace(",", "")
            config = resolve(
                method,
                [*COMMON, *settings],
                data=",".join(str(files[d]) for d in data.split(",")),
                model=str(work / "sft"),
                output=str(output),
                steps=arguments.steps,
            )
            out[name] = {"method": method, "data": data, "settings": settings} | summary(train(config), output)
            print(name, json.dumps(out[name]["held_out"]), file=sys.stderr)
    record = {
        "command": " ".join(["python", *sys.argv]),
        "steps": arguments.steps,
        "runs": out,
        "versions": versions(),
        "hardware": f"{os.cpu_count()} CPU cores",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(time.time() - began),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def cut(folder: Path, files: dict[str, Path]) -> None:
    """Files small enough for a small model: four responses of each prompt with scores; thumbs on two others of every
    second prompt, up where the judge's score is above 0.02; the pairs whose dialogue is short."""
    from una_ref.data.rows import group_by_prompt
    from una_ref.data.sources import read

    grouped = group_by_prompt(read(folder / "alpaca_eval_scores.jsonl.gz", empty="drop"))
    with files["alpaca"].open("w") as scores, files["labels"].open("w") as labels:
        for i, row in enumerate(grouped):
            judged = list(zip(row.responses, row.scores or (), strict=True))
            few = {"completions": [y for y, _ in judged[:4]], "scores": [s for _, s in judged[:4]]}
            scores.write(json.dumps({"prompt": row.prompt} | few) + "\n")
            for text, score in judged[4:6] if i % 2 == 0 else ():
                labels.write(json.dumps({"prompt": row.prompt, "completion": text, "label": score > 0.02}) + "\n")
    with files["hh"].open("w") as pairs:
        for row in read(folder / "hh_harmless_pairs.jsonl.gz", empty="drop"):
            if len(row.prompt) < 200:
                chosen, rejected = row.responses
                pairs.write(json.dumps({"prompt": row.prompt, "chosen": chosen, "rejected": rejected}) + "\n")


def summary(record: dict, output: Path) -> dict:
    """Held-out metrics before and after, what was converted and cut, and the curve of held-out loss."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "eval_loss" in line]
    keep = (
        "eval_loss",
        "eval_rewards/margins",
        "eval_rewards/accuracies",
        "eval_rewards/chosen",
        "eval_rewards/rejected",
    )
    return {
        "notes": record["notes"],
        "held_out": {k.removeprefix("eval_"): [evaluated[0][k], evaluated[-1][k]] for k in keep if k in evaluated[0]},
        "curve": {"step": [line["step"] for line in evaluated], "loss": [line["eval_loss"] for line in evaluated]},
    }


if __name__ == "__main__":
    sys.exit(main())
