"""``una-ref methods`` and ``una-ref claims``: what there is, as tables and as records."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from una_ref.commands.console import wrapped
from una_ref.errors import InputError, near

if TYPE_CHECKING:
    from una_ref.claims import Claim
    from una_ref.claims.ledger import Recomputed
    from una_ref.methods import Method


OFFLINE = {
    "demos": "demonstrations",
    "pairs": "pairs of responses",
    "labels": "binary labels of responses",
    "scores": "scores of responses",
    "lists": "ranked lists of responses",
}
"""Kind of feedback -> the heading of the methods on a data set of it. Methods on samples and scorers have their own."""
SAMPLED, SCORERS = "responses that it samples from a policy in each step", "pairs, to be a reward model"


def methods(arguments: argparse.Namespace) -> int:
    """Print the table of methods, or one method."""
    from una_ref.methods import METHODS, describe, table

    found = describe(METHODS[arguments.name]) if arguments.name else table()
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    elif isinstance(found, dict):
        _print_record(found)
    else:
        _print_table(found)
    return 0


def heading_of(method: Method) -> str:
    """What a method learns from, as a heading of the table."""
    if method.scorer:
        return SCORERS
    return OFFLINE[method.kinds[0]] if method.source == "dataset" else SAMPLED


def _print_record(found: dict[str, Any]) -> None:
    from una_ref.methods.axes import meaning

    found["axes"] = [meaning(axis, value) for axis, value in found["axes"].items()]
    found = {key: value for key, value in found.items() if value}
    width = max(map(len, found))
    for key, value in found.items():
        lines = _shown(value)
        if sys.stdout.isatty():  # a pipe gets whole lines, to search in
            lines = [part for line in lines for part in wrapped(line, width + 2, hang=2).split("\n")]
        for first, line in enumerate(lines):
            print(f"{'' if first else key:<{width}}  {line}".rstrip())


def _print_table(rows: list[dict[str, str]]) -> None:
    """One line for each method under the feedback that it learns from."""
    from una_ref.methods import METHODS

    groups: dict[str, list[dict[str, str]]] = {heading: [] for heading in (*OFFLINE.values(), SAMPLED, SCORERS)}
    for row, method in zip(rows, METHODS.values(), strict=True):
        groups[heading_of(method)].append(row)
    columns = ("name", "title", "reward", "shape")
    widths = {column: max(len(row[column]) for row in rows) for column in columns}
    for heading, members in groups.items():
        print(f"learns from {heading}")
        for row in members:
            print("  " + "  ".join(f"{row[column]:<{widths[column]}}" for column in columns).rstrip())
        print()
    print(f"{len(rows)} methods: name, what it is, the reward that it trains, how rewards become a loss.")
    print("una-ref methods NAME has the rest: equation, hyper-parameters, papers. una-ref train NAME trains it.")


def _shown(value: object) -> list[str]:
    """A value of a method's record, as lines."""
    if isinstance(value, dict):
        return [f"{key}: {', '.join(v) if isinstance(v, list) else v}" for key, v in value.items()]
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def claims(arguments: argparse.Namespace) -> int:
    """Print the ledger or one claim, or recompute them."""
    from una_ref.claims import CLAIMS

    if arguments.id and arguments.id not in CLAIMS:
        hint = near(arguments.id.upper(), CLAIMS) or "; una-ref claims lists all of them"
        raise InputError(f"claim {arguments.id!r}: unknown{hint}")
    entries = [CLAIMS[arguments.id]] if arguments.id else list(CLAIMS.values())
    if arguments.check:
        return _recomputed(entries, arguments.json)
    records = [entry.record() for entry in entries]
    if arguments.json:
        print(json.dumps(records[0] if arguments.id else records, indent=1, ensure_ascii=False))
    elif arguments.id:
        shown = {key: value for key, value in records[0].items() if value}
        width = max(map(len, shown))
        for key, value in shown.items():
            print(f"{key:<{width}}  {value}")
    else:
        for record in records:
            print(f"{record['id']:<5} {record['paper']} {record['place']}: {record['claim']}")
            print(f"      {record['verdict']}" + (f": {record['instead']}" if record["instead"] else ""))
            print(f"      {record['number']}\n" if record["number"] else "")
        print(_counted(record["verdict"] for record in records))
    return 0


def _counted(verdicts: Iterable[str]) -> str:
    """The number of claims by verdict, such as "61 entries: 20 holds, …"."""
    kinds = Counter("holds if …" if v.startswith("holds if") else v for v in verdicts)
    return f"{sum(kinds.values())} entries: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())


def _recomputed(entries: Sequence[Claim], as_json: bool) -> int:
    import torch
    from tqdm import tqdm

    from una_ref.claims import recompute

    torch.set_num_threads(1)  # more threads do not help tables this small
    again = list(tqdm(recompute(entries), total=len(entries), desc="checking", unit="claim", disable=None))
    changed = {r.claim.id: r.faults for r in again if r.faults}
    if as_json:
        found = [{"id": r.claim.id, "numbers": dict(r.evidence.numbers), "faults": r.faults} for r in again]
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        if len(again) == 1:
            _print_check(again[0])
        for id, faults in changed.items():
            print(f"{id}: {'; '.join(faults)}")
        print(f"{len(again)} claim{'s' if len(again) != 1 else ''} recomputed, {len(changed)} changed")
    return 1 if changed else 0


def _print_check(again: Recomputed) -> None:
    """One claim with its numbers before and now, and the statements that its verdict rests on."""
    print(f"claim       {again.claim.says}")
    print(f"committed   {again.claim.number}")
    print(f"recomputed  {again.number}")
    for statement, true in again.evidence.stands.items():
        print(f"{'true' if true else 'not true':<10}  {statement}")
