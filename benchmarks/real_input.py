"""Real text with every kind of feedback: do the metrics on held-out prompts improve?

    UNA_REF_DATA=/path/to/data python benchmarks/real_input.py --output figures/runs/real_input.json

Reads alpaca_eval_scores.jsonl.gz (an LLM judge's scores of 16 responses to each prompt) and hh_harmless_pairs.jsonl.gz
(pairs of dialogues). A small Mistral and its BPE tokenizer are made from them and fine-tuned on the better responses.
Each run starts from that, at una-ref's default learning rate unless it names another. No run is measured on a prompt
that it or the base was trained on. The record has numbers only, no text.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev

import records
import torch

from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.loop import fit
from una_ref.training.metrics import means, measure
from una_ref.training.prepare import prepare
from una_ref.training.run import train
from una_ref.training.settings import resolve

SHAPE = [
    "shape.hidden_size=128",
    "shape.intermediate_size=384",
    "shape.num_hidden_layers=2",
    "shape.num_attention_heads=4",
    "shape.num_key_value_heads=2",
    "shape.max_position_embeddings=1024",
]
BASE = [*SHAPE, "lora_r=0", "lr=3e-3", "batch=16", "vocabulary=2048", "held_out=0.3", "eval_every=50"]
"""A prompt's hash decides whether it is held out. The base holds out more, so all of the runs' held-out ones."""
RUN = ["batch=4", "held_out=0.2", "eval_every=50", "log_every=10"]
RUNS = {
    # name: (method, data, settings)
    "pairs from scores": ("dpo", "alpaca", ["beta=0.1"]),
    "pairs (HH)": ("dpo", "hh", ["beta=0.1"]),
    "labels from scores": ("una-binary-bce", "alpaca", ["beta=0.1"]),
    "labels from scores, kto": ("kto", "alpaca", ["beta=0.1"]),
    "scores": ("una-score", "alpaca", ["beta=0.03"]),
    "lists of scores, centred": ("una-centred", "alpaca", ["beta=0.03"]),
    "scores and pairs mixed": ("una-centred", "alpaca,hh", ["beta=0.03"]),
    "scores, pairs and labels mixed": ("una-centred", "alpaca,hh,labels", ["beta=0.03", "baseline=learned"]),
    # how the first run depends on its responses and their length, and the run on HH pairs on the learning rate
    "pairs from scores of four weak models": ("dpo", "weak", ["beta=0.1"]),
    "pairs of the weak, cut at 96 tokens": ("dpo", "weak", ["beta=0.1", "max_length=96"]),
    "pairs (HH), lr 2e-4": ("dpo", "hh", ["beta=0.1", "lr=2e-4"]),
    "pairs of the weak, cut at 96 tokens, lr 2e-4": ("dpo", "weak", ["beta=0.1", "max_length=96", "lr=2e-4"]),
    "pairs from scores, cut at 96 tokens": ("dpo", "alpaca", ["beta=0.1", "max_length=96"]),
}


def main() -> int:
    """Make all runs and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/real_input.json"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of the runs that name none")
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--only", nargs="*", default=[*RUNS], help="names of runs")
    parser.add_argument(
        "--work", type=Path, help="folder that keeps the runs, to continue later (default: a temporary one)"
    )
    arguments = parser.parse_args()
    folder = records.data_folder()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        files = {name: work / f"{name}.jsonl" for name in ("alpaca", "weak", "labels", "hh")}
        small_files(folder, files)

        def config(method: str, data: str, settings: Sequence[str], name: str, **options: str) -> Config:
            paths = ",".join(str(files[d]) for d in data.split(","))
            settings = [f"max_length={arguments.max_length}", *settings]
            return resolve(method, settings, data=paths, output=str(work / name), steps=arguments.steps, **options)

        sft = config("sft", "alpaca,hh", BASE, "sft")
        trained = train(sft)
        seen = {e.prompt for e in prepare(sft).examples}
        runs = {"base": {"method": "sft", "settings": BASE, "notes": trained["notes"], "loss": curve(work / "sft")}}
        for name in arguments.only:
            method, data, settings = RUNS[name]
            settings = [*RUN, f"lr={arguments.lr}", *settings]
            saved = work / f"{name}.json"
            if not saved.exists():
                job = prepare(config(method, data, settings, name, model=str(work / "sft")))
                run = {"method": method, "data": data, "settings": settings} | measured(job, work / name)
                run["held-out prompts that the base has seen"] = len({e.prompt for e in job.held_out} & seen)
                saved.write_text(json.dumps(run))
            runs[name] = json.loads(saved.read_text())
            print(name, json.dumps(runs[name]["held_out"]), file=sys.stderr)
    record = {
        "command": "UNA_REF_DATA=… python benchmarks/real_input.py",
        "steps": arguments.steps,
        "lr": arguments.lr,
        "max_length": arguments.max_length,
        "runs": runs,
        **records.provenance(),
    }
    records.write(arguments.output, record)
    return 0


def small_files(folder: Path, files: dict[str, Path]) -> None:
    """Write data files small enough for a small model.

    - alpaca: of each prompt, four random responses with their scores.
    - weak: of each prompt, its first four responses in the data, to compare with these. They are from the same four
      models for every prompt, and their mean score is 0.04.
    - labels: of every second prompt, two other responses with a binary label: whether the score is above the median.
    - hh: the HH pairs whose dialogue has under 200 characters.
    """
    from una_ref.data.row_sets import group_by_prompt
    from una_ref.data.sources import read

    grouped = group_by_prompt(read(folder / "alpaca_eval_scores.jsonl.gz", empty="drop"))
    middle = median(score for row in grouped for score in row.scores or ())
    rng = random.Random(0)
    scored, weak, labels, pairs = [], [], [], []  # type: list[dict], list[dict], list[dict], list[dict]
    for i, row in enumerate(grouped):
        scored_responses = list(zip(row.responses, row.scores or (), strict=True))
        chosen = rng.sample(scored_responses, min(6, len(scored_responses)))
        for rows, four in ((scored, chosen[:4]), (weak, scored_responses[:4])):
            rows.append({"prompt": row.prompt, "completions": [y for y, _ in four], "scores": [s for _, s in four]})
        for text, score in chosen[4:] if i % 2 == 0 else ():
            labels.append({"prompt": row.prompt, "completion": text, "label": score > middle})
    for row in read(folder / "hh_harmless_pairs.jsonl.gz", empty="drop"):
        if len(row.prompt) < 200:
            pairs.append({"prompt": row.prompt, "chosen": row.responses[0], "rejected": row.responses[1]})
    for name, rows in {"alpaca": scored, "weak": weak, "labels": labels, "hh": pairs}.items():
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))


def measured(job: Job, output: Path) -> dict:
    """Train. Returns the notes on the data, the held-out metrics before and after, and the curve of their loss."""
    output.mkdir(parents=True, exist_ok=True)
    before = by_prompt(job)
    fit(job, output=output)
    after = by_prompt(job)
    return {
        "notes": list(job.notes),
        "held_out": {"prompts": len(after)} | {name: change(before, after, name) for name in after[0]},
        "curve": curve(output),
    }


@torch.no_grad()
def by_prompt(job: Job) -> list[dict[str, float]]:
    """The metrics of each held-out row. Its accuracy is 1 for a margin above 0, 0 below, and ½ at 0."""
    trainer, rows = job.trainer, []
    kl = trainer.evaluate(job.held_out).get("kl")  # KTO's KL is of the whole set
    trainer.policy.eval()
    for example in job.held_out:
        forward = trainer.forward([example], None if kl is None else torch.tensor(kl))
        metrics = means(measure(forward.batch, forward.values, forward.logps, forward.rewards))
        row = {"loss": metrics["loss"], "reward": metrics["rewards/mean"]}
        if "rewards/margins" in metrics:  # absent if all scores or labels are equal
            margin = metrics["rewards/margins"]
            row |= {"margin": margin, "accuracy": 0.5 + 0.5 * ((margin > 0) - (margin < 0))}
        rows.append(row)
    trainer.policy.train()
    return rows


def change(before: list[dict[str, float]], after: list[dict[str, float]], name: str) -> dict[str, float]:
    """A metric's mean before and after, over the rows that have it at both times; and the change's standard error."""
    both = [(b[name], a[name]) for b, a in zip(before, after, strict=True) if name in b and name in a]
    error = stdev(a - b for b, a in both) / math.sqrt(len(both))
    return {
        "rows": len(both),
        "before": round(mean(b for b, _ in both), 5),
        "after": round(mean(a for _, a in both), 5),
        "standard error of the change": round(error, 5),
    }


def curve(output: Path) -> dict[str, list[float]]:
    """The held-out loss by step."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "eval_loss" in line]
    return {"step": [line["step"] for line in evaluated], "loss": [round(line["eval_loss"], 5) for line in evaluated]}


if __name__ == "__main__":
    sys.exit(main())
