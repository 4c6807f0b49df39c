"""``python -m una_ref.claims [ID ...]``: recompute claims (default: all) and commit their numbers to evidence.json."""

from __future__ import annotations

import sys

from una_ref.claims import CLAIMS, recompute
from una_ref.claims.ledger import commit


def main(ids: list[str]) -> int:
    """0, or 1 where a statement that a verdict rests on is false: nothing is written then."""
    evidence = {}
    failed = False
    for again in recompute([CLAIMS[id] for id in ids] if ids else list(CLAIMS.values())):
        evidence[again.claim.id] = again.evidence
        print(f"{again.claim.id}: {again.claim.shows.format(**again.evidence.numbers)}  ({again.seconds:.1f} s)")
        for statement, true in again.evidence.stands.items():
            if not true:
                failed = True
                print(f"    false: {statement}", file=sys.stderr)
    if failed:
        return 1
    print(commit(evidence).name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
