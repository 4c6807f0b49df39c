"""The command line: ``una-ref methods | claims | train | score | compare``.

Exit codes: 0 done, 1 failed while running, 2 refused before anything began, 130 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from una_ref.errors import InputError, near

if TYPE_CHECKING:
    from una_ref.claims import Claim
    from una_ref.data.rows import Row

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = _parsed(argv)
    _quiet()
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _said(2, str(error))
    except KeyboardInterrupt as error:
        return _said(130, f"interrupted; {error}" if str(error) else "interrupted")
    except BrokenPipeError:  # whoever reads has enough, as in `una-ref methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _said(1, f"failed: {error}")


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; key=value settings may stand anywhere among the options, which argparse alone refuses."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "settings")):
        parser.error(f"unrecognized arguments: {' '.join(rest)} (the keys of train are written key=value)")
    if rest:
        arguments.settings = [*arguments.settings, *rest]
    return arguments


def _said(code: int, message: str) -> int:
    print(f"una-ref: {message}", file=sys.stderr)
    return code


def _quiet() -> None:
    """Silence what libraries say about themselves on every run, and nothing else."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def _parser() -> argparse.ArgumentParser:
    from una_ref import __version__

    about = "LLM alignment from pairs, thumbs and scores, checked against exact optima."
    parser = argparse.ArgumentParser(prog="una-ref", description=about)
    parser.add_argument("--version", action="version", version=f"una_ref {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Command, about: str, epilog: str = "") -> Callable[..., argparse.Action]:
        raw = argparse.RawDescriptionHelpFormatter
        sub = commands.add_parser(name, help=about, description=about, epilog=epilog, formatter_class=raw)
        sub.set_defaults(run=run)
        return sub.add_argument

    add = command("methods", methods, "The table of methods, or everything about one.")
    add("name", nargs="?", help="a method, such as dpo")
    add("--json", action="store_true", help="for programs")

    add = command("claims", claims, "The ledger of what the papers say: claim, verdict, number.")
    add("id", nargs="?", help="a claim, such as EU14")
    add("--check", action="store_true", help="compute again; 1 if a verdict or a number changed")
    add("--json", action="store_true", help="for programs")

    add = command("train", train, "Train a policy; the same command again goes on with it.", _keys())
    add("what", help="a method (una-ref methods) or a recipe, such as toysteer/base")
    add("settings", nargs="*", metavar="key=value", help="see below; also the loss's own, such as beta=0.1")
    add(
        "--data",
        action="append",
        help="file (JSON Lines, .gz too; Parquet), a quoted pattern such as 'data/*.jsonl', - (standard input), folder "
        "or hub name; repeat it to mix (ToySteer)",
    )
    add("--model", help="folder or hub name (ToySteer's base; with other data a small Mistral made from it)")
    add("--output", help="folder of the result (runs/METHOD)")
    add("--reward", help="what scores the responses of an online run, see reward=")
    add("--steps", type=int, help="optimizer steps")
    add("--seed", type=int, help="of adapter, order of data, dropout and draws")
    add(
        "--online",
        action="store_true",
        default=None,
        help="draw the responses from the policy (una-online, rloo: always)",
    )
    add("--dry-run", action="store_true", help="show config, sizes, and the first row through the pipe")
    add("--json", action="store_true", help="print the finished run's record")

    add = command("score", score, "Stored responses scored by a reward: what una-score and una-centred train on.")
    add(
        "--reward",
        required=True,
        help="a function, module:function, that takes answers (.prompt .response .ended) and returns "
        "as many numbers, a sequence-classification model, or judge:MODEL@http://host:port/v1 (an LLM that compares "
        "the responses to a prompt); several, comma-separated, are averaged",
    )
    add("--data", action="append", required=True, help="as of train")
    add("--output", required=True, help="the JSONL file to write: prompt, completions, scores")

    add = command("compare", compare, "Every method on the same data beside the exact optimum (UNA's Tables 1-3).")
    add("--online", action="store_true", help="of the online methods, with one reward model for all (Tables 4-6)")
    add("--axis", choices=("methods", "offset", "proxy"), help="of --online, one alone (all, one after the other)")
    add("--quick", action="store_true", help="two seeds, with the settings that the committed study chose")
    add("--output", help="the study's folder (runs/compare, -online, -quick)")
    add("--base", help="folder of another base policy (ToySteer's, which ships with the package)")
    add("--workers", type=int, help="processes (one a core)")
    add("--json", action="store_true", help="print results.json")
    return parser


def _keys() -> str:
    """Every key of a config with its default and its line of the docstring, in groups."""
    from dataclasses import MISSING, fields

    from docstring_parser import parse

    from una_ref.training.config import GROUPS, Config, recipes

    about = {p.arg_name: " ".join((p.description or "").split()) for p in parse(Config.__doc__ or "").params}
    lines = ["keys and their defaults (a method's own, such as beta: una-ref methods NAME)"]
    for f in fields(Config):
        if f.name in GROUPS:
            lines += ["", f"{GROUPS[f.name]}:"]
        if f.name not in ("method", "hyper"):
            default = "{}" if f.default is MISSING else f.default
            lines.append(f"  {f'{f.name}={default}':<30} {about[f.name]}")
    return "\n".join([*lines, "", f"recipes: {', '.join(recipes())}"])


def methods(arguments: argparse.Namespace) -> int:
    """Print the registry, or one record of it."""
    from una_ref.methods import METHODS, describe, table

    found = describe(METHODS[arguments.name]) if arguments.name else table()
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    elif isinstance(found, dict):
        width = max(map(len, found))
        for key, value in found.items():
            for first, line in enumerate(_shown(value)):
                print(f"{'' if first else key:<{width}}  {line}".rstrip())
    else:
        columns = ("name", "feedback", "reward", "shape", "unchanged by r → r + g(x)", "equation")
        rows = [dict(zip(columns, columns, strict=True)), *found]
        widths = {c: max(len(row[c]) for row in rows) for c in columns}
        for row in rows:
            print("  ".join(f"{row[c]:<{widths[c]}}" for c in columns).rstrip())
    return 0


def claims(arguments: argparse.Namespace) -> int:
    """Print the ledger or one entry of it, or compute it again."""
    from una_ref.claims import CLAIMS

    if arguments.id and arguments.id not in CLAIMS:
        hint = near(arguments.id.upper(), CLAIMS) or "; una-ref claims lists them all"
        raise InputError(f"claim {arguments.id!r}: unknown{hint}")
    entries = [CLAIMS[arguments.id]] if arguments.id else list(CLAIMS.values())
    if arguments.check:
        return _recomputed(entries, arguments.json)
    records = [entry.record() for entry in entries]
    if arguments.json:
        print(json.dumps(records[0] if arguments.id else records, indent=1, ensure_ascii=False))
    elif arguments.id:
        width = max(map(len, records[0]))
        for key, value in records[0].items():
            print(f"{key:<{width}}  {value}".rstrip())
    else:
        for record in records:
            print(f"{record['id']:<5} {record['paper']} {record['place']}: {record['claim']}")
            print(f"      {record['verdict']}" + (f": {record['instead']}" if record["instead"] else ""))
            print(f"      {record['number']}\n" if record["number"] else "")
        print(_counted(record["verdict"] for record in records))
    return 0


def _counted(verdicts: Iterable[str]) -> str:
    """The number of entries by kind of verdict: "61 entries: 20 holds, …"."""
    kinds = Counter("holds if …" if v.startswith("holds if") else v for v in verdicts)
    return f"{sum(kinds.values())} entries: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())


def _recomputed(entries: Sequence[Claim], as_json: bool) -> int:
    import torch
    from tqdm import tqdm

    from una_ref.claims import recompute

    torch.set_num_threads(1)  # tables this small gain nothing from a second one, and lose on a busy machine
    again = list(tqdm(recompute(entries), total=len(entries), desc="checking", unit="claim", disable=None))
    changed = {r.claim.id: r.faults for r in again if r.faults}
    if as_json:
        found = [{"id": r.claim.id, "numbers": dict(r.evidence.numbers), "faults": r.faults} for r in again]
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        for id, faults in changed.items():
            print(f"{id}: {'; '.join(faults)}")
        print(f"{len(again)} claims recomputed, {len(changed)} changed")
    return 1 if changed else 0


def _shown(value: object) -> list[str]:
    """The lines of a value of a method's record."""
    if isinstance(value, dict):
        return [f"{key}: {', '.join(v) if isinstance(v, list) else v}" for key, v in value.items()] or [""]
    return [str(value)]


def train(arguments: argparse.Namespace) -> int:
    """Resolve a config and run it, or show what it would do."""
    from transformers.utils import logging

    from una_ref.training.config import output_of, resolve
    from una_ref.training.dryrun import dry_run
    from una_ref.training.run import train as run
    from una_ref.training.samplers import Unrewarded
    from una_ref.training.trainer import NonFinite

    config = resolve(
        arguments.what,
        arguments.settings,
        data=",".join(arguments.data) if arguments.data else None,
        model=arguments.model,
        output=arguments.output or output_of(arguments.what),
        reward=arguments.reward,
        steps=arguments.steps,
        seed=arguments.seed,
        online=arguments.online,
    )
    logging.disable_progress_bar()  # a bar for weights that are written in no time
    if arguments.dry_run:
        print(dry_run(config))
        return 0
    try:
        record = run(config)
    except (NonFinite, Unrewarded) as error:
        return _said(1, f"failed: {error}")
    if not record:  # the main process says it
        return 0
    if arguments.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        for name, value in record["evaluation"].items():
            print(f"{name:<22} {value:.4f}")
        print(f"finished after {record['steps']} steps: {config.output}")
    return 0


def score(arguments: argparse.Namespace) -> int:
    """Score stored responses and write them as ranked lists."""
    from tqdm import tqdm

    from una_ref.data.items import files
    from una_ref.data.rows import group_by_prompt
    from una_ref.data.sources import read
    from una_ref.policies.answers import score_rows
    from una_ref.policies.reward_sources import reward_source
    from una_ref.training.checkpoints import replacing

    output = Path(arguments.output)
    if output.exists():
        raise InputError(f"output {output}: expected a new file, got one that is there")
    rows: Iterable[Row] = (row for name in arguments.data for file in files(name) for row in read(file))
    first = next(iter(rows))  # what is wrong with the data is said before a reward model is loaded
    rows = chain([first], rows)
    source = reward_source(arguments.reward)
    if getattr(source, "pairwise", False):  # which of them are answers to one prompt, is to be known first
        rows = group_by_prompt(rows)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {output}: expected a file in a folder, got: {error.strerror}") from error
    count, counts = 0, Counter[str]()
    with replacing(output) as beside, open(beside, "w", encoding="utf-8") as file:
        scores = score_rows(rows, source, arguments.reward, counts=counts)
        for row in tqdm(scores, desc="scoring", unit="row", disable=None):
            item = {"prompt": row.prompt, "completions": row.responses, "scores": row.scores}
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
            count += 1
        if not count:
            raise InputError(f"reward {arguments.reward}: expected answers, got none for any response")
    print(f"{count} rows: {output}")
    for what, number in counts.items():
        if number:
            print(f"{what}: {number}")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Run a study and say where its table and figures are."""
    from una_ref.studies.engine import carry_out
    from una_ref.studies.offline_study import OFFLINE
    from una_ref.studies.online_study import ONLINE

    if arguments.axis and not arguments.online:
        raise InputError(f"axis {arguments.axis}: expected with --online, which has axes; got without")
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


if __name__ == "__main__":
    sys.exit(main())
