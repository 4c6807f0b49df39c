"""An LLM judge's scores as UNA-score reads them at the first step: how much of them is "lower this response"?

    UNA_REF_DATA=/path/to/data python benchmarks/score_weights.py --output figures/runs/score_weights.json

Reads alpaca_eval_scores.jsonl.gz, GPT-4-turbo's probability that a response beats a fixed strong baseline's. At the
start r_θ = 0, and the σ that the authors' code puts around r_θ makes the residual ½ − s: plain SFT with the weight
s − ½ (claim CU15). Only numbers are written, none of the text.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from datetime import date
from pathlib import Path

from una_ref.claims.released import score_weights
from una_ref.training.card import versions

FILE = "alpaca_eval_scores.jsonl.gz"


def main() -> int:
    """Compute the numbers and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/score_weights.json"))
    arguments = parser.parse_args()
    if "UNA_REF_DATA" not in os.environ:
        print("score_weights: set UNA_REF_DATA to the folder that holds the data files", file=sys.stderr)
        return 2
    with gzip.open(Path(os.environ["UNA_REF_DATA"]) / FILE, "rt", encoding="utf-8") as lines:
        scores = [json.loads(line)["score"] for line in lines]
    record = {
        "command": "UNA_REF_DATA=… python benchmarks/score_weights.py --output figures/runs/score_weights.json",
        "date": date.today().isoformat(),
        "versions": versions(),
        "data": "tatsu-lab/alpaca_eval, weighted_alpaca_eval_gpt4_turbo, 16 models: score = preference − 1",
        "numbers": {name: round(value, 6) for name, value in score_weights(scores).items()},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record["numbers"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
