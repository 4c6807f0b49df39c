"""UPO's Figure 1 at small scale: IPO and JS-IUPO (as printed, and corrected) on HH pairs with a small GPT-2.

    UNA_REF_DATA=/path/to/data python benchmarks/iupo_on_text.py --output figures/runs/iupo_on_text.json

A GPT-2 with two layers and a BPE tokenizer are made from hh_harmless_pairs.jsonl.gz. For each seed, it is fine-tuned on
the chosen responses (the paper's SFT), without the prompts that the seed holds out. From there each loss is trained at
β = 0.1, 0.2 and 0.5. Every weight is trained, as in the paper. The learning rate is the one of 3e-5, 1e-4 and 3e-4 at
which IPO (β = 0.1, seed 7) had the highest held-out accuracy.

Finished runs are kept in --work and are not repeated. The record has numbers only, no text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import records

from una_ref.training.config import resolve
from una_ref.training.run import train

LOSSES = {
    # name in the record: (method, form, settings)
    "IPO": ("ipo", "corrected", []),
    "JS-IUPO as printed": ("iupo", "printed", ["divergence=js"]),
    "JS-IUPO corrected": ("iupo", "corrected", ["divergence=js"]),
}
BETAS = (0.1, 0.2, 0.5)
SEEDS = (0, 1, 2)
COMMON = ["max_length=128", "lora_r=0", "held_out=0.15"]


def main() -> int:
    """Make the missing runs and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/iupo_on_text.json"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--work", type=Path, default=Path("runs/iupo_on_text"))
    arguments = parser.parse_args()
    began, work = time.time(), arguments.work
    pairs = work / "pairs.jsonl"
    count = short_pairs(records.data_folder(), pairs)
    base = gpt2(pairs, work / "gpt2")
    runs, sft_losses = {}, {}
    for seed in SEEDS:
        # The seed also decides which prompts are held out; a start for each seed keeps them unseen.
        shared = {"data": str(pairs), "seed": seed}
        start = work / f"sft-{seed}"
        sft = resolve("sft", [*COMMON, "lr=1e-3", "batch=16"], model=str(base), output=str(start), steps=300, **shared)
        sft_losses[seed] = train(sft)["evaluation"]["loss"]
        for name, (method, form, settings) in LOSSES.items():
            for beta in BETAS:
                options = [f"form={form}", f"beta={beta}", f"lr={arguments.lr}", "batch=16", "eval_every=10"]
                output = work / f"{method}-{form}-{beta}-{seed}"
                options = [*COMMON, *settings, *options]
                train(resolve(method, options, model=str(start), output=str(output), steps=arguments.steps, **shared))
                key = f"{name}, beta {beta}, seed {seed}"
                runs[key] = curves(output, beta)
                print(key, runs[key], file=sys.stderr, flush=True)
    record = {
        "command": f"python benchmarks/iupo_on_text.py --steps {arguments.steps} --lr {arguments.lr}",
        "pairs": count,
        "sft_loss": sft_losses,
        "betas": BETAS,
        "seeds": SEEDS,
        "losses": list(LOSSES),
        "runs": runs,
        **records.provenance(),
        "seconds_this_time": round(time.time() - began),
    }
    records.write(arguments.output, record)
    return 0


def short_pairs(folder: Path, pairs: Path) -> int:
    """Write the pairs whose dialogue has under 250 characters. Returns their number."""
    from una_ref.data.sources import read

    pairs.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for row in read(folder / "hh_harmless_pairs.jsonl.gz", empty="drop") if len(row.prompt) < 250]
    texts = [{"prompt": r.prompt, "chosen": r.responses[0], "rejected": r.responses[1]} for r in rows]
    pairs.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return len(texts)


def gpt2(pairs: Path, folder: Path) -> Path:
    """The folder of a random GPT-2 with two layers and a tokenizer trained on the pairs."""
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
    """Train loss, held-out loss and accuracy by step, and the held-out margin in nats (the reward margin over β)."""
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
