"""UNA-score's first step on an LLM judge's scores: the share of it that says "lower this response".

    UNA_REF_DATA=/path/to/data python benchmarks/score_weights.py --output figures/runs/score_weights.json

Reads alpaca_eval_scores.jsonl.gz: GPT-4-turbo's probability that a response beats that of a fixed, strong baseline. At
the start r_θ = 0. The authors' code puts a σ around r_θ, so the residual is ½ − s: plain SFT with the weight s − ½
(claim CU15). The record has numbers only, no text.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path

import records

from una_ref.claims.released import score_weights

FILE = "alpaca_eval_scores.jsonl.gz"


def main() -> int:
    """Compute the numbers and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/score_weights.json"))
    arguments = parser.parse_args()
    with gzip.open(records.data_folder() / FILE, "rt", encoding="utf-8") as lines:
        scores = [json.loads(line)["score"] for line in lines]
    record = {
        "command": "UNA_REF_DATA=… python benchmarks/score_weights.py --output figures/runs/score_weights.json",
        **records.provenance(),
        "data": "tatsu-lab/alpaca_eval, weighted_alpaca_eval_gpt4_turbo, 16 models: score = preference − 1",
        "numbers": {name: round(value, 6) for name, value in score_weights(scores).items()},
    }
    records.write(arguments.output, record)
    print(json.dumps(record["numbers"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
