"""UPO's Figure 1 at small scale: IPO and JS-IUPO (as printed, and corrected) on HH pairs with a small GPT-2.

    UNA_REF_DATA=/path/to/data python benchmarks/iupo_on_text.py --output figures/runs/iupo_on_text.json

A GPT-2 of two layers and a BPE tokenizer are made from hh_harmless_pairs.jsonl.gz. For each seed it is fine-tuned on
the chosen responses (the paper's SFT), without the prompts that the seed holds out; from there each loss is trained at
β .1, .2 and .5. Every weight is trained, as in the paper. Finished runs are kept in --work and are not run again. Only
numbers are written, none of the text. The learning rate is the one of 3e-5, 1e-4 and 3e-4 at which IPO (β .1, seed 7)
had the highest held-out accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from una_ref.training.card import versions
from una_ref.training.checkpoints import write_text
from una_ref.training.run import train
from una_ref.training.settings import resolve

LOSSES = {
    # name in the record: method, form, settings
    "IPO": ("ipo", "corrected", []),
    "JS-IUPO as printed": ("iupo", "printed", ["divergence=js"]),
    "JS-IUPO corrected": ("iupo", "corrected", ["divergence=js"]),
}
BETAS = (0.1, 0.2, 0.5)
SEEDS = (0, 1, 2)
COMMON = ["max_length=128", "lora_r=0", "held_out=0.15"]


def main() -> int:
    """Run what is missing and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/iupo_on_text.json"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--work", type=Path, default=Path("runs/iupo_on_text"))
    arguments = parser.parse_args()
    if "UNA_REF_DATA" not in os.environ:
        print("iupo_on_text: set UNA_REF_DATA to the folder that holds the data files", file=sys.stderr)
        return 2
    began = time.time()
    work = arguments.work
    pairs = work / "pairs.jsonl"
    shown = cut(Path(os.environ["UNA_REF_DATA"]), pairs)
    base = gpt2(pairs, work / "gpt2")
    runs, learned = {}, {}
    for seed in SEEDS:
        # The seed names the held-out prompts too: a start of its own keeps them unseen.
        shared = {"data": str(pairs), "seed": seed}
        start = work / f"sft-{seed}"
        sft = resolve("sft", [*COMMON, "lr=1e-3", "batch=16"], model=str(base), output=str(start), steps=300, **shared)
        learned[seed] = train(sft)["evaluation"]["loss"]
        for name, (method, form, settings) in LOSSES.items():
            for beta in BETAS:
                own = [f"form={form}", f"beta={beta}", f"lr={arguments.lr}", "batch=16", "eval_every=10"]
                output = work / f"{method}-{form}-{beta}-{seed}"
                settled = [*COMMON, *settings, *own]
                train(resolve(method, settled, model=str(start), output=str(output), steps=arguments.steps, **shared))
                key = f"{name}, beta {beta}, seed {seed}"
                runs[key] = curves(output, beta)
                print(key, runs[key], file=sys.stderr, flush=True)
    record = {
        "command": f"python benchmarks/iupo_on_text.py --steps {arguments.steps} --lr {arguments.lr}",
        "pairs": shown,
        "sft_loss": learned,
        "betas": BETAS,
        "seeds": SEEDS,
        "losses": list(LOSSES),
        "runs": runs,
        "versions": versions(),
        "hardware": f"{os.cpu_count()} CPU cores",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds_this_time": round(time.time() - began),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output, json.dumps(record, indent=1) + "\n")
    return 0


def cut(folder: Path, pairs: Path) -> int:
    """Write the pairs whose dialogue is short; returns how many."""
    from una_ref.data.sources import read

    pairs.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for row in read(folder / "hh_harmless_pairs.jsonl.gz", empty="drop") if len(row.prompt) < 250]
    texts = [{"prompt": r.prompt, "chosen": r.responses[0], "rejected": r.responses[1]} for r in rows]
    pairs.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return len(texts)


def gpt2(pairs: Path, folder: Path) -> Path:
    """A random GPT-2 of two layers with a tokenizer made from the pairs, saved as any model is."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from una_ref.policies.loading import byte_pair_tokenizer

    if not (folder / "config.json").exists():
        texts = (text for line in pairs.read_text().splitlines() for text in json.loads(line).values())
        tokenizer = byte_pair_tokenizer(texts, vocabulary=2048)
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=256,
            n_embd=128,
            n_layer=2,
            n_head=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        GPT2LMHeadModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def curves(output: Path, beta: float) -> dict[str, list[float]]:
    """Step, train loss, held-out loss and accuracy, and the held-out margin in nats (the reward margin over β)."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    held = [line for line in lines if "eval_loss" in line]
    trained = [line for line in lines if "loss" in line]
    return {
        "train_step": [line["step"] for line in trained],
        "train_loss": [round(line["loss"], 4) for line in trained],
        "step": [line["step"] for line in held],
        "loss": [round(line["eval_loss"], 4) for line in held],
        "accuracy": [round(line["eval_rewards/accuracies"], 4) for line in held],
        "margin": [round(line["eval_rewards/margins"] / beta, 4) for line in held],
    }


if __name__ == "__main__":
    sys.exit(main())
