"""``una-ref leaderboard``: every method on enumerable worlds, ordered by exact regret."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from una_ref.errors import InputError, near

AXES = (
    *("board", "exact_scores", "tiny_lm", "alarms", "frontier"),
    *("label_noise", "score_noise", "scale", "offset", "sharpness", "cycle", "positive_share"),
    *("shift", "unseen", "length_bias", "trap", "proxy_pairs", "proxy_tokens", "hidden"),
)
"""The axes by name, as the study has them; the study itself is loaded only when it runs."""
RETUNED = ("exact_scores", "tiny_lm")
"""Axes whose rows are tuned anew; the settings that --quick takes are others."""
PAGE = "board.html"


def leaderboard_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("--quick", action="store_true", help="three worlds and 14 rows at one budget, with the full board's settings")
    axes = f"{', '.join(AXES)} (docs/leaderboard.md says what); may be repeated (default: all)"
    add("--axis", action="append", metavar="AXIS", help=axes)
    add("--methods", help="rows, separated by commas, such as dpo,kto,ppo (default: all)")
    add("--output", help="the study's folder (default: runs/leaderboard, with -quick for the quick board)")
    add("--workers", type=int, help="number of processes (default: one per core)")
    add("--report", action="store_true", help="compute nothing, and draw what is finished")
    add("--json", action="store_true", help="print results.json")


def leaderboard(arguments: argparse.Namespace) -> int:
    """Run the study, print its tables, and say where the files are."""
    axes = tuple(dict.fromkeys(arguments.axis or (("board",) if arguments.quick else AXES)))
    for name in axes:
        if name not in AXES:
            raise InputError(f"axis {name}: expected one of {', '.join(AXES)}{near(name, AXES)}")
        if arguments.quick and name in RETUNED:
            raise InputError(f"axis {name}: expected no --quick, since its rows are tuned anew. Fix: leave --quick out")
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"workers: expected at least 1, got {arguments.workers}")
    from una_ref.studies.engine import carry_out
    from una_ref.studies.leaderboard.board_entries import entry_named
    from una_ref.studies.leaderboard.board_page import write_page
    from una_ref.studies.leaderboard.board_study import LEADERBOARD

    settings = LEADERBOARD.settings
    if arguments.methods is not None:
        asked = [name.strip() for name in arguments.methods.split(",") if name.strip()]
        if not asked:
            raise InputError("methods: expected rows separated by commas, got none. Fix: name some, as in dpo,kto")
        settings = replace(settings, entries=tuple(dict.fromkeys(entry_named(name).name for name in asked)))
    output = arguments.output or f"runs/leaderboard{'-quick' if arguments.quick else ''}"
    results = carry_out(
        LEADERBOARD,
        output,
        axes=axes,
        quick=arguments.quick,
        workers=arguments.workers,
        settings=settings,
        report=arguments.report,
    )
    if "board" in results:
        write_page(results, Path(output, PAGE))
    if arguments.json:
        print(json.dumps(results, ensure_ascii=False))
    else:
        print(Path(output, "table.md").read_text("utf-8"))
        page = f"   page: {output}/{PAGE}" if "board" in results else ""
        print(f"table: {output}/table.md{page}   figures: {output}/*.svg   numbers: {output}/results.json")
    return 0
