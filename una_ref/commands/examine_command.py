"""``una-ref examine``: the certificate of a loss function, as text, JSON and a page."""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from una_ref.commands.console import wrapped
from una_ref.commands.pages import STYLE, check_page

if TYPE_CHECKING:
    from una_ref.examine import Certificate


def examine_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `examine`."""
    add = parser.add_argument
    add(
        "loss",
        metavar="LOSS",
        help="file.py:function or module:function; a method such as dpo; or one of its forms, such as ipo.printed",
    )
    add("--kind", help="its feedback: demos, pairs, labels, scores or lists (default: as its arguments say)")
    add("--board", action="store_true", help="run it on the quick leaderboard, too, which takes minutes")
    add("--html", metavar="PAGE", help="write a page to this file")
    add("--json", action="store_true", help="print JSON")


def examine(arguments: argparse.Namespace) -> int:
    """Print the certificate of a loss."""
    if arguments.html:
        check_page(Path(arguments.html))
    import torch
    from tqdm import tqdm

    from una_ref.examine import examine as examined

    torch.set_num_threads(1)  # more threads do not help tables this small
    with tqdm(total=6, unit="section", disable=None, leave=False) as bar:

        def progress(heading: str) -> None:
            bar.set_description(heading)
            bar.update()

        certificate = examined(arguments.loss, arguments.kind, board=arguments.board, progress=progress)
    if arguments.html:
        Path(arguments.html).write_text(page(certificate), "utf-8")
    if arguments.json:
        print(json.dumps(certificate.record(), indent=1, ensure_ascii=False))
        return 0
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in text(certificate, colour=colour):
        print(line)
    if arguments.html:
        print(f"page: {arguments.html}")
    return 0


def text(certificate: Certificate, *, colour: bool) -> Iterator[str]:
    """Lines: the name, and a paragraph for each section."""
    yield f"Certificate of {certificate.name}"
    for heading, sentences in certificate.sections.items():
        yield ""
        yield f"\033[1m{heading}\033[0m" if colour else heading
        for sentence in sentences:
            yield "  " + (wrapped(sentence, 2, hang=2).replace("\n", "\n  ") if sys.stdout.isatty() else sentence)


_MORE_STYLE = """
dl { display: grid; grid-template-columns: minmax(8rem, 13rem) 1fr; gap: 1.2rem 2rem; }
dt { font-weight: 600; } dd { margin: 0; } dd p { margin: 0 0 .35rem; }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2), td:nth-child(4) { text-align: left; }
td:last-child { white-space: normal; min-width: 14rem; }
h1 { overflow-wrap: anywhere; }
.bar { display: inline-block; height: .6rem; background: rgb(var(--down)); vertical-align: baseline; }
.none { color: rgb(var(--down)); }
div.wide { overflow-x: auto; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: .2rem; } dd { margin-bottom: 1rem; } }
"""


def page(certificate: Certificate) -> str:
    """A self-contained page: the sections, and what the loss learns as a table with a bar for the regret."""
    sections = "".join(
        f"<dt>{html.escape(heading)}</dt><dd>{''.join(f'<p>{html.escape(one)}</p>' for one in sentences)}</dd>\n"
        for heading, sentences in certificate.sections.items()
    )
    title = f"Certificate of {html.escape(certificate.name)}"
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}{_MORE_STYLE}</style>\n<h1>{title}</h1>\n"
        f"<dl>\n{sections}</dl>\n{_table(certificate)}</html>\n"
    )


def _table(certificate: Certificate) -> str:
    """What it learns by setting: outcome, regret, distances, policy."""
    optima, robust = certificate.optima, certificate.robustness
    more = (optima.with_values, optima.with_offset, robust.certain, robust.noisy)
    rows = [*optima.learned, *(learned for learned in more if learned is not None)]
    if not rows:
        return ""
    largest = max(row.regret for row in rows) or 1.0
    head = "".join(f"<th>{name}</th>" for name in ("data", "training", "regret", "", "KL to π_ref", "policy"))
    lines = []
    for row in rows:
        bar = f'<span class="bar" style="width: {max(0.0, 6 * row.regret / largest):.2f}rem"></span>'
        known = row.policy
        name = "" if known is None else known.name if known.same else f"near {known.name}"
        cells = [html.escape(re.sub(r"^(From|With) ", "", row.setting)), row.outcome, f"{row.regret:.4f}", bar]
        cells += [f"{row.kl_to_reference:.4f}", html.escape(name or (f"mass on {row.kept}" if row.kept else ""))]
        kind = "" if row.outcome == "settles" else ' class="none"'
        lines.append(f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    note = (
        "Regret is J(π*) − J(π), in reward units, and KL is in nats; of the last policy where training does not "
        "settle. It runs off where no finite minimum was found."
    )
    table = f"<table><tr>{head}</tr>{''.join(lines)}</table>"
    return f'<h2>What it learns, by data</h2>\n<div class="wide">{table}</div><p>{note}</p>\n'
