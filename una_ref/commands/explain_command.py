"""``una-ref explain``: which curves of a run are as theory says, which deserve a look, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from una_ref.commands.console import wrapped

if TYPE_CHECKING:
    from una_ref.training.explanation import Explanation


def explain_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `explain`."""
    parser.add_argument("folder", metavar="RUN", help="a run's folder, finished or not")
    parser.add_argument("--json", action="store_true", help="print JSON")


def explain(arguments: argparse.Namespace) -> int:
    """Print every rule that applies to the run, those that deserve a look first."""
    from una_ref.training.curves import read_curves
    from una_ref.training.exact_kl import exact_kl
    from una_ref.training.explanation import explained

    curves = read_curves(arguments.folder)
    found = sorted(explained(curves), key=lambda one: one.verdict == "ok")
    kl = exact_kl(arguments.folder, curves.config)
    if arguments.json:
        record = {"rules": [asdict(one) for one in found], "kl": kl and asdict(kl)}
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return 0
    last = max((line["step"] for line in (*curves.lines, *curves.evaluations)), default=0)
    looks = sum(one.verdict == "look" for one in found)
    about = f"{arguments.folder}: {curves.config.method}, {last:g} steps"
    print(f"{about}; {len(found)} rules apply, {looks} deserve a look")
    for line in text(found):
        print(line)
    if kl:
        known = ", ".join(f"{name} {one.mean:.4g} ± {one.error:.2g}" for name, one in kl.estimates.items())
        print(f"\nKL(π ‖ π_ref) at the end: {kl.exact:.4g} nats, exact; from {kl.samples:,} samples: {known}")
    return 0


def text(found: Sequence[Explanation]) -> Iterator[str]:
    """Four to six lines for each rule: verdict, what is seen, why, and what the ledger says."""
    for one in found:
        yield ""
        yield f"{one.verdict:<5} {one.name}: {one.seen}"
        yield _below(one.reason)
        if one.fix:
            yield _below(f"Try: {one.fix}")
        yield from (_below(evidence(name)) for name in one.evidence)


def evidence(name: str) -> str:
    """What a claim of the ledger says, or where a notebook is."""
    from una_ref.claims import CLAIMS

    entry = CLAIMS.get(name)
    if entry is None:
        return f"Shown in notebooks/{name}.ipynb"
    said = entry.record()
    instead = f"; {said['instead']}" if said["instead"] else ""
    return f"{name}, {said['paper']} {said['place']}: “{said['claim']}” {said['verdict']}{instead}"


def _below(paragraph: str) -> str:
    return "      " + wrapped(paragraph, 6).replace("\n", "\n      ")
