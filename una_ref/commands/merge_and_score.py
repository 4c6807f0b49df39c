"""``una-ref merge`` and ``una-ref score``: adapters into one, and rewards of stored responses."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from una_ref.errors import InputError

if TYPE_CHECKING:
    from una_ref.data.rows import Row


def merge(arguments: argparse.Namespace) -> int:
    """Merge adapters, and say what the result is."""
    from transformers.utils import logging

    from una_ref.training.fields import check
    from una_ref.training.merges import TYPES, Merge
    from una_ref.training.merges import merge as run

    logging.disable_progress_bar()
    values = {key: getattr(arguments, key) for key in ("weights", "density", "rank", "seed", "dtype", "output")}
    values |= {"models": ",".join(arguments.runs), "how": arguments.method}
    for key, value in values.items():
        check({"how": "method"}.get(key, key), value, TYPES[key])
    record = run(Merge(**values))
    if arguments.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return 0
    if "gap" in record:
        print(f"log-probs: within {record['gap']:.2g} nats of the adapter's, whose effect is {record['effect']:.2g}")
    if record.get("share_kept", 1) < 1:
        print(f"rank {record['rank']} keeps {record['share_kept']:.1%} of the squared change of the weights")
    print(f"{'an adapter' if record['result'] == 'adapter' else 'full weights'}: {arguments.output}")
    return 0


def score(arguments: argparse.Namespace) -> int:
    """Score stored responses and write them as ranked lists."""
    from tqdm import tqdm

    from una_ref.data.items import files
    from una_ref.data.row_sets import group_by_prompt
    from una_ref.data.sources import read
    from una_ref.policies.answers import score_rows
    from una_ref.policies.reward_sources import reward_source
    from una_ref.training.checkpoints import replacing

    output = Path(arguments.output)
    if output.exists():
        raise InputError(f"output {output}: expected a new file, got one that exists")
    rows: Iterable[Row] = (
        _plain(row) for name in arguments.data for file in files(name) for row in read(file, turns="last", others=True)
    )
    first = next(iter(rows))  # errors in the data come before the reward model is loaded
    rows = chain([first], rows)
    source = reward_source(arguments.reward)
    if getattr(source, "pairwise", False):  # it compares the responses of one prompt, so they have to be together
        rows = group_by_prompt(rows)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {output}: expected a file in a folder, got: {error.strerror}") from error
    count, counts = 0, Counter[str]()
    with replacing(output) as beside, open(beside, "w", encoding="utf-8", newline="\n") as file:
        scores = score_rows(rows, source, arguments.reward, counts=counts)
        for row in tqdm(scores, desc="scoring", unit="row", disable=None):
            item = {"prompt": row.prompt, "completions": row.responses, "scores": row.scores}
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
            count += 1
        if not count:
            raise InputError(f"reward {arguments.reward}: expected scores, got none for any response")
    print(f"{count} rows: {output}")
    for what, number in counts.items():
        if number:
            print(f"{what}: {number}")
    return 0


def _plain(row: Row) -> Row:
    """The row itself. Refuses what the file of scores has no columns for, and rewards do not see."""
    if row.template_arguments or row.response_fields:
        names = [*row.template_arguments, *(name for fields in row.fields_of_responses for name in fields)]
        raise InputError(f"{row.source}: expected responses of text alone, got {', '.join(dict.fromkeys(names))}")
    return row
