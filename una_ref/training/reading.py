"""The rows of a run: read from what the config names, made usable by its method, and in part held out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np

from una_ref.data import conversions
from una_ref.data.row_sets import gathered, held_out, shuffled_scores, split_name
from una_ref.data.rows import Row
from una_ref.data.storage import DiskList, GroupedList
from una_ref.errors import InputError
from una_ref.methods.arguments import Need, needs
from una_ref.policies import reward_sources
from una_ref.training.config import Config
from una_ref.training.distributed import processes
from una_ref.training.toysteer_base import is_toysteer, toysteer_rows


class ReadRows(DiskList[Row]):
    """Rows as read, and what was said while they were read.

    Attributes:
        notes: the columns used and what was left out, a sentence each; equal ones of several files once.
    """

    notes: Sequence[str] = ()


def gives_columns(config: Config) -> bool:
    """Whether rows carry the columns that no layout reads: a Python function scores the samples, and may read them."""
    return config.on_policy and reward_sources.reads_columns(config.judge)


def read_rows(config: Config, *, others: bool = False) -> ReadRows:
    """All rows that the config names, whatever columns each file has.

    Args:
        config: of the run.
        others: whether rows carry the columns that no layout reads, for reward functions.
    """
    if is_toysteer(config):
        return ReadRows(toysteer_rows(config))
    from una_ref.data.items import STDIN, files
    from una_ref.data.sources import read

    if "," in config.data and os.path.exists(config.data):
        raise InputError(
            f"data: expected a name without a comma, which separates names, got {config.data!r}. Fix: rename it"
        )
    names = [file for name in config.data.split(",") for file in files(name)]
    if STDIN in names and processes().num_processes > 1:
        raise InputError("data: expected files, since several processes read them, got standard input")
    same = ("columns", "split", "subset", "revision", "empty", "bad_rows", "turns")
    options: dict[str, Any] = {name: getattr(config, name) for name in same}
    options |= {"limit": config.rows, "prompts": config.on_policy, "others": others}
    said: dict[str, None] = {}
    options["note"] = lambda sentence: said.setdefault(sentence)
    rows = ReadRows(row for name in names for row in read(name, **options))
    asked = {"split": config.split if config.split != "train" else "", "subset": config.subset}
    if any(name == STDIN or os.path.isfile(os.path.expanduser(name)) for name in names):
        said |= {f"{key}={value}: not used for files, which have none": None for key, value in asked.items() if value}
    rows.notes = list(said)
    return rows


def usable_rows(
    rows: Sequence[Row], config: Config, note: Callable[[Row], object] | None = None
) -> tuple[GroupedList[Row], list[str]]:
    """Rows that the method can learn from, and what was done to get them.

    Offline, each has one kind of feedback that the method takes. Online, where only prompts are used, they are the last
    row of each prompt with the same other columns, in the place of the first.

    Args:
        rows: as read.
        config: of the run.
        note: called with each of the resulting rows, in order.
    """
    if config.on_policy:
        last = gathered(rows, [lambda row: (row.key, repr(row.columns))], itemgetter(-1))
        if note:
            for row in last:
                note(row)
        return last, []
    if not rows:
        raise InputError(f"data {config.data}: expected at least one row, got none")
    threshold = config.threshold if config.threshold == "median" else float(config.threshold)
    losses = config.losses_by_kind
    options: dict[str, Any] = {"threshold": threshold, "ties": config.ties, "group": config.group}
    options |= {"which": config.pairs, "weights": not config.whole_batch, "method": config.method}
    options["margins"] = "pairs" in losses and Need.SCORES in needs([losses["pairs"]])
    if not config.shuffle:
        kept, reports = conversions.conform(rows, tuple(losses), note=note, **options)
        return kept, [str(report) for report in reports]
    kept, reports = conversions.conform(rows, tuple(losses), **options)
    shuffled: GroupedList[Row] = GroupedList(shuffled_scores(kept, config.seed))
    if note:
        for row in shuffled:
            note(row)
    return shuffled, [*map(str, reports), "feedback shuffled over the whole data set (the shuffled control)"]


def eval_rows(config: Config, names: set[int]) -> tuple[Sequence[Row], list[str]]:
    """The rows of ``eval_data``, and what was said of them.

    Args:
        config: of the run.
        names: of the prompts that are trained on; a prompt on both sides is kept and counted.
    """
    theirs = replace(config, data=config.eval_data, eval_data="", shuffle=False)
    rows, both = read_rows(theirs, others=gives_columns(config)), 0

    def count(row: Row) -> None:
        nonlocal both
        both += split_name(row, config.seed) in names

    try:
        kept, notes = usable_rows(rows, theirs, note=count)
    except InputError as error:
        raise InputError(f"eval_data: {error}") from None
    if both:
        notes = [*notes, f"rows whose prompt is trained on as well: {both}"]
    return kept, [f"eval_data: {note}" for note in (*rows.notes, *notes)]


def held_out_rows(names: Sequence[int], config: Config) -> np.ndarray:
    """(rows,) bool: whether a row is held out for evaluation.

    No prompt is on both sides, and fewer than two prompts are not held out. ToySteer's worlds have few prompts: there
    the last rows are held out, which have new responses to the same prompts.
    """
    count = len(names)
    if is_toysteer(config):
        return np.arange(count) >= count - round(config.held_out * count)
    if config.eval_data or round(config.held_out * len(np.unique(np.array(names, np.uint64)))) < 2:
        return np.zeros(count, bool)
    return held_out(names, config.held_out)
