"""The offline study's first panel again, on the base policy that this machine makes, at the settings that were chosen.

    python benchmarks/another_base.py --output figures/runs/another_base

The base is trained where it is used, and processors of other kinds round differently: 1,500 steps make another policy
of the same recipe of it. The study has intervals over worlds and one base. Here its six worlds, with another base: each
method at the learning rate and β that the study chose, and centred UNA at larger βs as well, on the tuning worlds too.
About 80 runs, 20 minutes of a core; stopped, it goes on where it was. On a processor of the study's kind it repeats it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean

import records

from una_ref.evaluation import compare
from una_ref.evaluation.report import summary
from una_ref.evaluation.runs import made, name_of
from una_ref.training.checkpoints import write_text

PANEL = "ratings"
BETAS = (0.1, 0.3, 1.0)
"""Of centred UNA; the study chose the first."""


def main() -> int:
    """Make the runs, or those that are missing, and write results.json beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/another_base"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worlds", type=int, default=6)
    arguments = parser.parse_args()
    settings, chosen, began = compare.Settings(), compare.committed(), time.time()
    worlds = settings.seeds[: arguments.worlds]
    lr = chosen[f"{PANEL}/una-centred"]["lr"]
    asked = {}
    for e in compare.ENTRIES:
        at = chosen[f"{PANEL}/{e.tuned_as or e.name}"]
        asked[e.name] = [compare.Run(PANEL, e.name, seed, at["lr"], at["beta"]) for seed in worlds]
    grid = {
        beta: [compare.Run(PANEL, "una-centred", seed, lr, beta) for seed in (*settings.tuning_seeds, *worlds)]
        for beta in BETAS
    }
    with compare.study(arguments.output, settings, arguments.workers) as runs:
        runs.of([run for several in (*asked.values(), *grid.values()) for run in several], "another base")
    base = [compare.measure(compare._world(seed, settings.scale)[2], seed, settings) for seed in worlds]
    rows = [{"name": "base"} | summary(base, base)]
    for e in compare.ENTRIES:
        first = asked[e.name][0]
        measured = [runs.done[run.key] for run in asked[e.name]]
        rows.append({"name": e.name, "lr": first.lr, "beta": first.beta} | summary(measured, base))
    tuned = len(settings.tuning_seeds)
    centred = [
        {"beta": beta, "lr": lr, "tuning_regret": fmean(runs.done[run.key]["regret"] for run in several[:tuned])}
        | summary([runs.done[run.key] for run in several[tuned:]], base)
        for beta, several in grid.items()
    ]
    record = {"command": f"python benchmarks/another_base.py --output {arguments.output}"}
    record |= {"base": name_of(compare.toysteer_base()), "rows": rows, "centred": centred, **made(runs, began)}
    record["hardware"] = records.processor()
    write_text(arguments.output / "results.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    for row in rows:
        print(f"{row['name']:<20} {row['regret']['mean']:.3f}")
    for row in centred:
        print(f"una-centred, β {row['beta']:<5} {row['regret']['mean']:.3f}, tuning worlds {row['tuning_regret']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
