"""``una-ref train``: a method, a recipe or a recipe of several steps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from una_ref.commands.console import said, wrapped

if TYPE_CHECKING:
    from una_ref.training.settings import Key


_DATA = (
    "file (JSON Lines, JSON, CSV or TSV, also .gz; Parquet), quoted pattern such as 'data/*.jsonl', - (standard "
    "input), folder or hub name; repeat it to mix (default: ToySteer)"
)
_MODEL = "folder or hub name (default: ToySteer's base, or with other data a small Mistral made from them)"


def train_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The options of `train`, and its keys in groups. Of the method or recipe in `words`, the loss's keys as well."""
    add = parser.add_argument
    add(
        "what",
        nargs="?",
        metavar="WHAT",
        help="a method (una-ref methods lists them), a recipe or a .yaml file",
    )
    add("settings", nargs="*", metavar="key=value", help="the keys below, and the loss's own, such as beta=0.1")
    add("--config", metavar="FILE", help="a YAML file with keys, on top of the method or recipe if one is named")
    add("--data", action="append", help=_DATA)
    add("--model", help=_MODEL)
    add("--output", help="folder of the result (default: runs/METHOD)")
    add("--reward", help="what scores the responses of an online run, see reward=")
    add("--steps", type=int, help="training steps")
    add("--seed", type=int, help="random seed of adapter, data order, dropout and sampling")
    add(
        "--online",
        action="store_true",
        default=None,
        help="sample the responses from the policy (una-online, rloo and others always do)",
    )
    add("--dry-run", action="store_true", help="show config, sizes, memory and the first row, and train nothing")
    add("--json", action="store_true", help="print the finished run's record")
    if words and words[0] == "train" and {"-h", "--help"} & {*words}:  # the keys are read from source, for the help
        _key_help(parser, words[1:])


def _key_help(parser: argparse.ArgumentParser, words: Iterable[str]) -> None:
    from una_ref.methods import METHODS
    from una_ref.training.settings import STAGES, key_groups, loss_keys, recipe, recipes, stages_of

    what = next((word for word in words if word in METHODS or word in recipes()), "")
    if staged := stages_of(what):
        steps = {name: step.get("method") or f"do: {step.get('do')}" for name, step in staged[STAGES].items()}
        lines = "\n".join(f"{name:<28}{what}" for name, what in steps.items())
        parser.add_argument_group("steps, whose keys are written STEP.key=value", lines)
    method = None if staged else what if what in METHODS else recipe(what)["method"] if what else None
    keys = loss_keys(method) if method else []
    more = "see them with una-ref train METHOD --help" if method is None else ""
    parser.add_argument_group(f"keys: loss of {method or 'the method'}", _key_lines(keys) or more or "none")
    for heading, keys in key_groups().items():
        parser.add_argument_group(f"keys: {heading}", _key_lines(keys))
    parser.epilog = wrapped(f"recipes: {', '.join(recipes())}", 0)


def _key_lines(keys: Iterable[Key]) -> str:
    """A key with its default in the left column, what it means in the right one."""
    lines = []
    for key in keys:
        left, right = f"{key.name}={key.default}", wrapped(key.about, 30).splitlines()
        first = [left] if len(left) > 27 else [f"{left:<28}{right.pop(0)}"]
        lines += [*first, *(f"{'':<28}{line}" for line in right)]
    return "\n".join(lines)


def train(arguments: argparse.Namespace) -> int:
    """Train, or show what would be trained."""
    from una_ref.training.settings import output_of, resolve, stages_of

    what, settings, file = arguments.what or "", arguments.settings, arguments.config or ""
    if "=" in what:  # no method or recipe is named, and the first setting stands in its place
        what, settings = "", [what, *settings]
    options = {name: getattr(arguments, name) for name in ("model", "output", "reward", "steps", "seed", "online")}
    options["data"] = ",".join(arguments.data) if arguments.data else None
    if stages_of(what, file):
        return _train_stages(arguments, what, settings, options)
    config = resolve(what, settings, file=file, **options)
    config = config if config.output else replace(config, output=output_of(what or file))

    from transformers.utils import logging  # slow to import: a mistyped key is refused without it

    from una_ref.training.dryrun import dry_run
    from una_ref.training.run import train as run
    from una_ref.training.samplers import Unrewarded
    from una_ref.training.stopping import described
    from una_ref.training.trainer import NonFinite

    logging.disable_progress_bar()  # its bar for writing weights is over at once
    if arguments.dry_run:
        print(dry_run(config))
        return 0
    try:
        record = run(config)
    except (NonFinite, Unrewarded) as error:
        return said(1, f"failed: {error}")
    if not record:  # only the main process reports
        return 0
    if arguments.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        for name, value in record["evaluation"].items():
            print(f"{name:<22} {value:.4f}")
        best = f"; the result is {described(record['best'])}" if record.get("best") else ""
        print(f"finished after {record['steps']} steps: {config.output}{best}")
    return 0


def _train_stages(arguments: argparse.Namespace, what: str, settings: Sequence[str], options: dict[str, Any]) -> int:
    """Run a recipe of several steps, or show them."""
    from transformers.utils import logging

    from una_ref.training import stages
    from una_ref.training.samplers import Unrewarded
    from una_ref.training.trainer import NonFinite

    logging.disable_progress_bar()
    plan = stages.plan(what, settings, file=arguments.config or "", **options)
    if arguments.dry_run:
        print(stages.dry_run(plan))
        return 0
    try:
        record = stages.run(plan)
    except (NonFinite, Unrewarded) as error:
        return said(1, f"failed: {error}")
    if record and arguments.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    elif record:
        for name, value in record["last"].get("evaluation", {}).items():
            print(f"{name:<22} {value:.4f}")
        print(f"finished {len(plan.steps)} steps: {record['result']}")
    return 0
