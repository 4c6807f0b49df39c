"""``una-ref data``: an audit of data files before training. Exit code 1 where a run would be refused."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from una_ref.commands.inspect_command import method_of
from una_ref.errors import InputError

if TYPE_CHECKING:
    from una_ref.data.audit import Audit, Lengths, Tokens
    from una_ref.training.config import Config
    from una_ref.training.reading import ReadRows


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `data`."""
    add = parser.add_argument
    add("words", nargs="+", metavar="FILE or key=value", help="data as in train --data, and keys of train")
    add("--model", default="", help="as in train; lengths are then in tokens. Its weights are not loaded")
    add("--method", default="", help="method that would be trained (default: by the feedback; dpo for pairs)")
    add("--json", action="store_true", help="print JSON")


def data(arguments: argparse.Namespace) -> int:
    """Measure the rows, and say whether a run would start."""
    from una_ref.data.audit import audit, tokens
    from una_ref.data.items import is_pattern
    from una_ref.data.specials import special_names
    from una_ref.training.refusals import refusal, run_encoder, stand_in

    files = [word for word in arguments.words if "=" not in word or is_pattern(word) or os.path.exists(word)]
    settings = ["held_out=0", *(word for word in arguments.words if word not in files)]
    _check_files(files)
    config, rows, refused = _read(arguments, ",".join(files), settings)
    measured = cut = None
    reports: Sequence[str] = ()
    if rows is not None:
        model, tokenizer = stand_in(config)
        measured = audit(rows, special_names(tokenizer) if config.model else ())
        refused = refused or refusal(config, rows, model, tokenizer)
        usable, reports = _usable(rows, config)
        if config.model:
            cut = tokens(usable, run_encoder(config, model, tokenizer))
    method = arguments.method if rows is None else config.method  # without rows it is not known
    if arguments.json:
        record: dict[str, Any] = {"data": files, "method": method, "model": config.model, "refused": refused}
        record |= {"notes": [*(rows.notes if rows is not None else ()), *reports]}
        record |= {"audit": measured and asdict(measured), "tokens": cut and asdict(cut)}
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        for line in text(", ".join(files), config, rows, measured, cut, reports):
            print(line)
        verdict = f"would be refused: {refused}" if refused else "would start"
        print(f"a run{method and f' of {method}'} {verdict}")
    return 1 if refused else 0


def _check_files(files: Sequence[str]) -> None:
    """Refuse what cannot be audited at all: no file, a missing one, or a pipe, which is read once only."""
    from una_ref.data import items

    if not files:
        raise InputError("data: expected a file or the name of a data set, got none")
    for name in (file for word in files for file in items.files(word)):
        if name == items.STDIN:
            raise InputError("data: expected files, got standard input, which cannot be read twice. Fix: save it first")
        if not items.is_hub_name(name):
            items.items(name, "train")  # raises for a missing file


def _read(arguments: argparse.Namespace, data: str, settings: Sequence[str]) -> tuple[Config, ReadRows | None, str]:
    """The config of the run, the rows that can be read, and why the run would refuse the others."""
    from una_ref.training.reading import read_rows
    from una_ref.training.settings import resolve

    given: dict[str, Any] = {"data": data, "model": arguments.model or None}
    config = resolve(arguments.method or "sft", settings, **given)
    refused, rows = "", None
    try:
        rows = read_rows(config)
    except InputError as error:
        refused = str(error)
        if config.bad_rows == "error":
            try:
                rows = read_rows(replace(config, bad_rows="drop"))
            except InputError:  # no row can be read
                return config, None, refused
    if rows is not None and not arguments.method:
        method = method_of(rows[0])
        config = resolve(method, settings, **given)
    return config, rows, refused


def _usable(rows: ReadRows, config: Config) -> tuple[Sequence, Sequence[str]]:
    """The rows that the method learns from, and the conversions; all rows where it can learn from none."""
    from una_ref.training.reading import usable_rows

    try:
        return usable_rows(rows, config)
    except InputError:
        return rows, []


# ---- text


def text(
    files: str,
    config: Config,
    rows: ReadRows | None,
    measured: Audit | None,
    cut: Tokens | None,
    reports: Iterable[str],
) -> Iterator[str]:
    """The lines of an audit."""
    if rows is None or measured is None:
        yield f"{files}: no row can be read"
        return
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in measured.kinds.items())
    yield f"{files}: {measured.rows:,} rows ({kinds})"
    yield from (f"  {note}" for note in rows.notes)
    yield f"  prompts: {measured.prompts:,}; at most {measured.most_rows:,} rows of one prompt"
    yield from (f"  for {config.method}: {report}" for report in reports)
    for name, values in (("scores", measured.scores), ("labels", measured.labels)):
        if values:
            spread = f"from {values.lowest:.4g} to {values.highest:.4g}, mean {values.mean:.4g}, sd {values.sd:.4g}"
            yield f"  {name}: {values.count:,}, {spread}"
    pairs = next((lengths.count for lengths in measured.lengths if lengths.what == "chosen"), 0)
    if pairs:
        yield f"  the chosen response is the longer one in {measured.chosen_longer:,} of {pairs:,} pairs"
    yield ""
    yield from _table("characters", measured.lengths)
    if cut:
        yield from _table("tokens", cut.lengths)
        keys = ("max_length", "max_prompt", "max_response")
        limits = ", ".join(f"{key}={value}" for key in keys if (value := getattr(config, key)))
        yield f"  {limits}: {cut.dropped:,} rows dropped, since their prompt is too long"
        yield f"  {limits}: {cut.cut:,} responses cut, which lose {cut.lost:,} tokens ({cut.share:.2%} of all)"
        yield from (f"  {what}: {number:,}" for what, number in cut.said)
    yield ""
    for finding in measured.findings:
        yield f"  {finding.count:>8,}  {finding.what} (the first: {finding.first})"
    if not measured.findings and not (cut and any("dropped" in what for what, _ in cut.said)):
        yield "  nothing unusual found"
    yield ""


def _table(unit: str, lengths: Iterable[Lengths]) -> Iterator[str]:
    yield f"  {'length in ' + unit:<22}{'texts':>10}{'mean':>10}{'median':>10}{'95 %':>10}{'longest':>10}"
    for row in lengths:
        yield f"  {row.what:<22}{row.count:>10,}{row.mean:>10.1f}{row.median:>10.1f}{row.p95:>10.1f}{row.longest:>10,}"
