"""``una-ref inspect``: what the loss sees of the first rows, token by token, in the terminal or as a page."""

from __future__ import annotations

import argparse
import html
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from una_ref.commands.pages import STYLE, check_page
from una_ref.errors import InputError

if TYPE_CHECKING:
    from una_ref.data.rows import Row
    from una_ref.training.config import Config
    from una_ref.training.inspection import Inspected, Response, Token, Trained

METHOD_OF = {"pairs": "dpo", "lists": "lipo", "scores": "una-score", "labels": "kto", "demos": "sft"}
"""The method whose loss is shown if none is named, by the kind of feedback in the first row."""


def method_of(row: Row) -> str:
    """The method whose loss is shown for a row if none is named."""
    if row.margins is not None:
        return "odpo"
    return next((METHOD_OF[kind] for kind in METHOD_OF if kind in row.kinds), "sft")


def inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `inspect`."""
    add = parser.add_argument
    add("data", metavar="FILE", help="as in train --data")
    add("settings", nargs="*", metavar="key=value", help="keys of train, such as template=none or beta=0.1")
    add("--model", default="", help="as in train")
    add("--method", default="", help="method or recipe whose loss is shown (default: by the feedback; dpo for pairs)")
    add("--rows", type=int, default=3, help="number of rows")
    add("--html", metavar="PAGE", help="write a page to this file")
    add("--json", action="store_true", help="print JSON")


def inspect(arguments: argparse.Namespace) -> int:
    """Show rows as the loss sees them."""
    if arguments.rows < 1:
        raise InputError(f"--rows: expected at least 1, got {arguments.rows}")
    if arguments.html:
        check_page(Path(arguments.html))
    config = _config(arguments)
    from una_ref.training.inspection import inspected
    from una_ref.training.prepare import prepare

    job = prepare(config)
    rows = list(inspected(job, arguments.rows))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False))
        return 0
    about = f"{config.method} on {arguments.data}, model {config.model or 'made here'}"
    if arguments.html:
        Path(arguments.html).write_text(page(rows, about), "utf-8")
    for note in job.notes:
        print(note, file=sys.stderr)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in [about, "", *(line for row in rows for line in text(row, colour=colour))]:
        print(line)
    if arguments.html:
        print(f"page: {arguments.html}")
    return 0


def _config(arguments: argparse.Namespace) -> Config:
    """The config of the run that is shown. Few rows are read, and none is held out."""
    from una_ref.training.reading import read_rows
    from una_ref.training.settings import resolve

    settings = {"rows": 8 * arguments.rows, "held_out": 0, "batch": arguments.rows}
    words = [*(f"{key}={value}" for key, value in settings.items()), *arguments.settings]
    named = {"data": arguments.data, "model": arguments.model or None}
    method = arguments.method
    if not method:
        method = method_of(read_rows(resolve("sft", words, **named))[0])
    config = resolve(method, words, **named)
    return replace(config, output="")


# ---- text


def text(row: Inspected, *, colour: bool) -> Iterator[str]:
    """Lines: the prompt's tokens in a paragraph, and a line for each token of each response."""
    yield f"{row.source}: {row.kind}, loss {', '.join(f'{loss:.6f}' for loss in row.losses)}"
    yield f"  prompt, {len(row.prompt)} tokens, not trained"
    yield from _paragraph([f"{token.id} {token.text!r}" for token in row.prompt], colour)
    for response in row.responses:
        yield f"  {_heading(response, ':')}"
        yield f"    {'id':>7}  {'log π':>9}  {'log π_ref':>9}  {'a step':<6}  {'share':>6}  text"
        yield from (_line(token, colour) for token in response.tokens)
    yield ""


def _heading(response: Response, mark: str) -> str:
    """The feedback of a response, its number of tokens and their log-probs."""
    trained = response.trained
    context = len(response.tokens) - len(trained)
    beside = f" and {context} of context, not trained" if context else ""
    known = [token.ref_logp for token in trained if token.ref_logp is not None]
    reference = f", log π_ref {sum(known):.4f}" if known else ""
    total = sum(token.logp for token in trained)
    return f"{response.feedback}{mark} {len(trained)} tokens{beside}, log π {total:.4f}{reference}"


def _paragraph(words: Iterable[str], colour: bool) -> Iterator[str]:
    """Words in lines that fit the terminal. No word is broken, since its blanks count."""
    width = max(40, min(shutil.get_terminal_size().columns, 120) - 4)
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 2 + len(word) > width:
            lines.append("")
        lines[-1] += f"  {word}" if lines[-1] else word
    for line in lines:
        yield f"    \033[2m{line}\033[0m" if colour else f"    {line}"


def _line(token: Token, colour: bool) -> str:
    from una_ref.training.inspection import Trained

    if not isinstance(token, Trained):
        line = f"    {token.id:>7}  {'context':<41}  {token.text!r}"
        return f"\033[2m{line}\033[0m" if colour else line
    reference = "" if token.ref_logp is None else f"{token.ref_logp:.4f}"
    numbers = f"{token.id:>7}  {token.logp:>9.4f}  {reference:>9}  {direction(token):<6}  {token.share:>6.1%}"
    shown = repr(token.text)
    if colour and token.push:
        shown = f"\033[{32 if token.push > 0 else 31}m{shown}\033[0m"
    return f"    {numbers}  {shown}"


def direction(token: Trained) -> str:
    """Whether a step raises or lowers the token's log-prob."""
    return "raises" if token.push > 0 else "lowers" if token.push < 0 else ""


# ---- page

_TOKENS_STYLE = """
.tokens { font: 14px/2.1 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.tokens span { padding: 2px 0; }
.tokens span:hover { outline: 1px solid var(--faint); }
.context { color: var(--faint); }
.up { background: rgb(var(--up) / var(--share)); }
.down { background: rgb(var(--down) / var(--share)); }
"""


def page(rows: Iterable[Inspected], about: str) -> str:
    """A self-contained page. The stronger a token's colour, the larger its share of the row's gradient."""
    body = "".join(_article(row) for row in rows)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>What the loss sees</title><style>{STYLE}{_TOKENS_STYLE}</style>\n<h1>What the loss sees</h1>\n"
        f"<p>{html.escape(about)}. A step raises the log-prob of green tokens and lowers that of orange ones. The "
        f"stronger the colour, the larger the token's share of the row's gradient. Grey tokens are not trained.</p>\n"
        f"{body}</html>\n"
    )


def _article(row: Inspected) -> str:
    losses = ", ".join(f"{loss:.6f}" for loss in row.losses)
    prompt = "".join(map(_context, row.prompt))
    parts = [
        f"<h2>{html.escape(row.source)}: {row.kind}, loss {losses}</h2>\n",
        f'<h3>Prompt, {len(row.prompt)} tokens</h3><div class="tokens">{prompt}</div>\n',
    ]
    largest = max((token.share for response in row.responses for token in response.trained), default=0.0)
    for response in row.responses:
        spans = "".join(_span(token, largest) for token in response.tokens)
        parts += [
            f'<h3>{html.escape(_heading(response, ","))}</h3><div class="tokens">{spans}</div>\n',
            f"<details><summary>Numbers</summary>{_table(response.trained)}</details>\n",
        ]
    return f"<article>{''.join(parts)}</article>\n"


def _span(token: Token, largest: float) -> str:
    from una_ref.training.inspection import Trained

    if not isinstance(token, Trained):
        return _context(token)
    kind = {"raises": "up", "lowers": "down"}.get(direction(token), "")
    strength = 0.6 * token.share / largest if largest else 0.0
    reference = "" if token.ref_logp is None else f", log π_ref {token.ref_logp:.4f}"
    title = f"{token.id}: log π {token.logp:.4f}{reference}, share {token.share:.1%}"
    return f'<span class="{kind}" style="--share: {strength:.3f}" title="{title}">{_visible(token.text)}</span>'


def _context(token: Token) -> str:
    return f'<span class="context" title="{token.id}">{_visible(token.text)}</span>'


def _table(tokens: Sequence[Trained]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("id", "log π", "log π_ref", "a step", "share", "text"))
    lines = []
    for token in tokens:
        reference = "" if token.ref_logp is None else f"{token.ref_logp:.4f}"
        cells = (token.id, f"{token.logp:.4f}", reference, direction(token), f"{token.share:.1%}", repr(token.text))
        lines.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _visible(text: str) -> str:
    """Text as HTML, with a sign for each line break."""
    return html.escape(text).replace("\n", "↵\n")
