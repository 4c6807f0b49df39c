"""``una-ref compare``: the studies."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from una_ref.errors import InputError


def compare(arguments: argparse.Namespace) -> int:
    """Run a study, print its table, and say where table and figures are."""
    from una_ref.studies.engine import carry_out

    name, study = _study(arguments)
    if arguments.axis and len(study.axes) < 2:
        fix = "leave it out" if arguments.online or arguments.model else "add --online or --model"
        raise InputError(f"axis {arguments.axis}: expected a study with axes. Fix: {fix}")
    if arguments.report and not arguments.model:
        raise InputError("report: expected the study of a real model. Fix: add --model smollm2")
    if arguments.model and arguments.base:
        raise InputError("model: expected no --base, which is for ToySteer's studies")
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"workers: expected at least 1, got {arguments.workers}")
    output = arguments.output or f"runs/{name}{'-quick' if arguments.quick else ''}"
    axes = (arguments.axis,) if arguments.axis else tuple(study.axes)
    options = {"quick": arguments.quick, "workers": arguments.workers, "base": arguments.model or arguments.base}
    results = carry_out(study, output, axes=axes, report=arguments.report, **options)
    if arguments.json:
        print(json.dumps(results, ensure_ascii=False))
    else:
        print(Path(output, "table.md").read_text("utf-8"))
        drawn = ", ".join(f"{output}/{axis}.svg" for axis in axes)
        print(f"table: {output}/table.md   figure: {drawn}   numbers: {output}/results.json")
    return 0


def _study(arguments: argparse.Namespace) -> tuple[str, Any]:
    """The study that is asked for, and the name of its default folder."""
    if arguments.model and arguments.online:
        from una_ref.studies.real_online import REAL_ONLINE

        return "real-online", REAL_ONLINE
    if arguments.model:
        from una_ref.studies.real_offline import REAL_OFFLINE

        return "real-offline", REAL_OFFLINE
    if arguments.online:
        from una_ref.studies.online_study import ONLINE

        return "compare-online", ONLINE
    from una_ref.studies.offline_study import OFFLINE

    return "compare", OFFLINE
