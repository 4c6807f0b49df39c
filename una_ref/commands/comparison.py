"""``una-ref compare``: the studies."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from una_ref.errors import InputError


def compare(arguments: argparse.Namespace) -> int:
    """Run a study, print its table, and say where table and figures are."""
    from una_ref.studies.engine import carry_out
    from una_ref.studies.offline_study import OFFLINE
    from una_ref.studies.online_study import ONLINE

    if arguments.axis and not arguments.online:
        raise InputError(f"axis {arguments.axis}: expected the online study, which has axes. Fix: add --online")
    name = f"compare{'-online' if arguments.online else ''}{'-quick' if arguments.quick else ''}"
    output, study = arguments.output or f"runs/{name}", ONLINE if arguments.online else OFFLINE
    axes = (arguments.axis,) if arguments.axis else tuple(study.axes)
    options = {"quick": arguments.quick, "workers": arguments.workers, "base": arguments.base}
    results = carry_out(study, output, axes=axes, **options)
    if arguments.json:
        print(json.dumps(results, ensure_ascii=False))
    else:
        print(Path(output, "table.md").read_text("utf-8"))
        drawn = ", ".join(f"{output}/{axis}.svg" for axis in axes)
        print(f"table: {output}/table.md   figure: {drawn}   numbers: {output}/results.json")
    return 0
