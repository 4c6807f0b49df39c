"""The cost of an offline step on a real model: SmolLM2-135M and Anthropic HH helpful, beside TRL's DPO and KTO.

    UNA_REF_DATA=/path/to/data python benchmarks/real_model.py --output figures/runs/real_model.json

The cases and conditions are those of `offline_speed.py`. The model is different: its head is tied and has 49,152 words,
a fifth of all weights. TRL gets the text of the chat template, and una_ref the turns. Both read the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import harness
import offline_speed
import records

CASES = ("trl dpo", "dpo", "trl dpo, cached", "dpo, cached", "trl kto", "kto")
GATE = {"time": 0.40, "memory": 0.50, "loss": 1e-4}
"""Limits: processor time and peak memory as a share of TRL's, and the difference of losses."""


def main() -> int:
    """Run all cases, or one as a child process."""
    parser = harness.parser(__doc__, CASES, steps=4)
    parser.set_defaults(preset="smollm2", rounds=2)
    parser.add_argument("--pairs", type=int, default=4, help="pairs in a step")
    parser.add_argument("--micro-tokens", type=int, default=offline_speed.MICRO, help="most tokens of a micro-batch")
    arguments = parser.parse_args()
    if arguments.child:
        harness.child(arguments, lambda case, folder, meter: offline_speed.measured(case, folder, arguments, meter))
        return 0
    lines = harness.rounds(__file__, arguments, lambda folder: make(folder, arguments))
    ratios = harness.compared(lines, offline_speed.RATIOS)
    gated = [pair for pair in offline_speed.RATIOS if set(pair) <= set(CASES)]
    gate = offline_speed.gate(lines, ratios, GATE, gated)
    harness.record(arguments, lines, ratios=ratios, gate=gate, pairs_a_step=arguments.pairs, lora_r=harness.R)
    return 0


def make(folder: Path, arguments: argparse.Namespace) -> None:
    """Write pairs.json, and a link to the model as policy/."""
    from una_ref.policies.loading import load_tokenizer
    from una_ref.policies.named_models import SMOLLM2
    from una_ref.studies.real_data import Size, parts
    from una_ref.studies.real_work import start_policy

    model = start_policy(SMOLLM2)
    os.symlink(model, folder / "policy")
    tokenizer = load_tokenizer(str(model))
    count = arguments.pairs * (harness.WARMUP + arguments.steps)
    rows = parts({"pairs": Size(count, 0)}, tokenizer, records.data_folder())["pairs"].train
    pairs = []
    for row in rows:
        turns = [{"role": "user", "content": row.prompt}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        chosen, rejected = (row.responses[i] for i in row.pairs[0])
        pairs.append({"prompt": prompt, "turns": turns, "chosen": chosen, "rejected": rejected})
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
