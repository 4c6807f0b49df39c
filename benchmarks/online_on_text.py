"""Online methods on real prompts: a small Mistral, a reward model trained on real pairs, a few hundred updates.

    UNA_REF_DATA=/path/to/data python benchmarks/online_on_text.py --output figures/runs/online_on_text.json

Reads alpaca_eval_scores.jsonl.gz: an LLM judge's scores of 16 responses to each prompt. A small Mistral and its BPE
tokenizer are made from it and fine-tuned on the better responses. A reward model is trained on the pairs of each of two
thirds of the prompts. The first one rewards the methods, the second only evaluates them (train and test reward model).
The last third has the prompts that the methods answer, and the held-out ones that the curves are measured on.

Every method starts from the same base and samples as many responses. The record has numbers only, no text.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev

import records

from una_ref.data.batch import Prompt
from una_ref.policies.answers import Answer
from una_ref.policies.classifier import Classifier
from una_ref.training.job import HELD_OUT, Job
from una_ref.training.loop import fit
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
BASE = [*SHAPE, "lora_r=0", "lr=3e-3", "batch=16", "vocabulary=2048", "held_out=0", "max_length=192"]
JUDGE = ["lora_r=0", "lr=3e-4", "batch=16", "held_out=0.1", "max_length=192", "eval_every=50"]
RUN = ["batch=8", "samples=4", "max_length=192", "max_response=48", "held_out=0.2", "log_every=10", "eval_every=20"]
RUNS = {
    "rloo": ("rloo", []),
    "centred UNA": ("una-centred", ["online=true"]),
    "centred UNA, replay": ("una-centred", ["online=true", "replay=8", "passes=2"]),
    "online UNA (Eq. 10)": ("una-online", []),
    "PPO": ("ppo", []),
}


def main() -> int:
    """Make all runs and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/online_on_text.json"))
    parser.add_argument("--steps", type=int, default=200, help="rollouts in each run")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--only", nargs="*", default=[*RUNS], help="names of runs")
    parser.add_argument(
        "--work", type=Path, help="folder that keeps the runs, to continue later (default: a temporary one)"
    )
    arguments = parser.parse_args()
    data = records.data_folder()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        split_prompts(data, work)
        base = str(work / "sft")
        train(resolve("sft", BASE, data=str(work / "first.jsonl"), output=base, steps=300))
        judges = {}
        for half in ("first", "second"):
            paths = {"data": str(work / f"{half}.jsonl"), "model": base, "output": str(work / half)}
            judges[half] = train(resolve("reward-model", JUDGE, steps=200, **paths))["evaluation"]
            print(half, judges[half], file=sys.stderr)
        runs = {}
        for name in arguments.only:
            method, settings = RUNS[name]
            options = [*RUN, f"lr={arguments.lr:g}", f"beta={arguments.beta:g}", f"reward={work / 'first'}", *settings]
            saved = work / f"{name}.json"
            if not saved.exists():
                start = {"data": str(work / "prompts.jsonl"), "model": base, "steps": arguments.steps}
                job = prepare(resolve(method, options, output=str(work / name), **start))
                shown = [option for option in options if not option.startswith("reward=")]
                saved.write_text(json.dumps({"method": method, "settings": shown} | measured(job, work, work / name)))
            runs[name] = json.loads(saved.read_text())
            print(name, json.dumps(runs[name]["held_out"]), file=sys.stderr)
    record = {
        "command": "UNA_REF_DATA=… python benchmarks/online_on_text.py",
        "steps": arguments.steps,
        "lr": arguments.lr,
        "beta": arguments.beta,
        "reward models": judges,
        "runs": runs,
        **records.provenance(),
    }
    records.write(arguments.output, record)
    return 0


def split_prompts(folder: Path, work: Path) -> None:
    """Write three files with a third of the prompts each: two for reward models, and one with prompts to answer.

    Each prompt has four random responses with their scores, whose best and worst become a pair.
    """
    from una_ref.data.row_sets import group_by_prompt
    from una_ref.data.sources import read

    rng = random.Random(0)
    grouped = group_by_prompt(read(folder / "alpaca_eval_scores.jsonl.gz", empty="drop"))
    rng.shuffle(grouped)
    third = len(grouped) // 3
    files: dict[str, list[dict]] = {"first": [], "second": [], "prompts": []}
    for i, row in enumerate(grouped):
        name = [*files][min(i // third, 2)]
        scored = list(zip(row.responses, row.scores or (), strict=True))
        four = rng.sample(scored, min(4, len(scored)))
        item = {"prompt": row.prompt, "completions": [y for y, _ in four], "scores": [s for _, s in four]}
        files[name].append(item)
    for name, rows in files.items():
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def measured(job: Job, work: Path, output: Path) -> dict:
    """Train. Returns the rewards of answers to held-out prompts by both models, before and after, and the curves."""
    output.mkdir(parents=True, exist_ok=True)
    before = rewards_of_answers(job, work)
    fit(job, output=output, progress=True)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    curve = [
        {
            "step": line["step"],
            "train reward": line["eval_reward"],
            "log π/π_ref": line.get("eval_rewards/mean", math.nan) / job.config.beta,
            "length": line["eval_response_length"],
        }
        for line in lines
        if "eval_reward" in line
    ]
    steps = job.config.steps
    return {
        "held_out": {"prompts": len(job.held_out), "before": before, "after": rewards_of_answers(job, work)},
        "curve": curve,
        "seconds a step": {phase: round(spent / steps, 4) for phase, spent in job.seconds.items()},
        "notes": list(job.notes),
    }


def rewards_of_answers(job: Job, work: Path) -> dict[str, dict[str, float]]:
    """Reward by each model and length of four answers a prompt: mean and standard error over held-out prompts."""
    prompts = [p for p in job.held_out if isinstance(p, Prompt)]
    assert job.rollouts is not None
    engine, max_new = job.rollouts.engine, job.rollouts.max_new
    sampled = engine(job.trainer.policy.model, [p.ids for p in prompts], k=4, max_new=max_new, seed=HELD_OUT + 1)
    answers = [
        Answer(p.text, job.tokenizer.decode(s.tokens[:-1] if s.ended else s.tokens), s.ended)
        for p, samples in zip(prompts, sampled, strict=True)
        for s in samples
    ]
    summaries = {}
    for name, half in (("train reward", "first"), ("test reward", "second")):
        scores = Classifier(str(work / half))(answers)
        summaries[name] = summary([fmean(scores[i : i + 4]) for i in range(0, len(scores), 4)])
    summaries["length"] = summary([fmean(len(s.tokens) for s in samples) for samples in sampled])
    return summaries


def summary(values: list[float]) -> dict[str, float]:
    """Mean and standard error."""
    return {"mean": round(fmean(values), 4), "se": round(stdev(values) / len(values) ** 0.5, 4)}


if __name__ == "__main__":
    sys.exit(main())
