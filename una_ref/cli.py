"""The command line: ``una-ref methods | claims | train | merge | score | compare``.

Exit codes: 0 done, 1 failed while running, 2 refused before anything began, 130 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from una_ref.errors import InputError, near

if TYPE_CHECKING:
    from una_ref.claims import Claim
    from una_ref.data.rows import Row
    from una_ref.training.settings import Key

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = _parsed(sys.argv[1:] if argv is None else list(argv))
    _quiet()
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _said(2, str(error))
    except KeyboardInterrupt as error:
        return _said(130, f"interrupted; {error}" if str(error) else "interrupted")
    except BrokenPipeError:  # the reader has closed the pipe, as in `una-ref methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _said(1, f"failed: {error}")


def _said(code: int, message: str) -> int:
    print(f"una-ref: {message}", file=sys.stderr)
    return code


def _quiet() -> None:
    """Silence two messages that libraries print on every run."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


# ---- the parser


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of the command that the first word names. Positional words may stand anywhere among options."""
    parser, commands = _parsers(words)
    command = commands.get(words[0]) if words else None
    if command is None:  # help, version, or an error
        return parser.parse_args(words)
    arguments, rest = command.parse_known_intermixed_args(words[1:])
    if rest:
        command.error(f"unrecognized arguments: {' '.join(rest)}{_hint(rest[0], arguments)}")
    return arguments


def _hint(word: str, arguments: argparse.Namespace) -> str:
    """What to write instead of an unknown option, in `train`: its keys are written key=value."""
    if not hasattr(arguments, "settings"):
        return ""
    from una_ref.training.hints import HINTS

    return f". Fix: {HINTS.get(word.lstrip('-').partition('=')[0], 'write keys as key=value, such as lr=1e-4')}"


def _parsers(words: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the program, and that of each command by its name."""
    from una_ref import __version__

    about = "LLM alignment from pairs, binary labels and scores, checked against exact optima."
    parser = argparse.ArgumentParser(prog="una-ref", description=about)
    parser.add_argument("--version", action="version", version=f"una_ref {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Command, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=about, description=about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(run=run)
        return sub

    add = command("methods", methods, "Print the table of methods, or everything about one.").add_argument
    add("name", nargs="?", help="a method, such as dpo")
    add("--json", action="store_true", help="print JSON")

    add = command("claims", claims, "Print the ledger of the papers' claims: claim, verdict, number.").add_argument
    add("id", nargs="?", help="a claim, such as EU14")
    add("--check", action="store_true", help="recompute the claims; exit code 1 if a verdict or a number changed")
    add("--json", action="store_true", help="print JSON")

    _train_arguments(command("train", train, "Train a policy. The same command again resumes the run."), words)

    add = command("merge", merge, "Merge adapters: one into its base, several into one.").add_argument
    add("runs", nargs="+", metavar="RUN", help="folder with a LoRA adapter; several need the same base")
    add("--method", default="linear", help="how several are combined: linear (default), slerp, ties or dare")
    add("--weights", default="", help="a number for each, such as 0.7,0.3 (default: their mean; 1 each for ties)")
    add("--density", type=float, help="share of entries that ties and dare keep (default: 0.2 and 0.5)")
    add(
        "--rank", type=int, default=0, help="rank of an adapter that ties or dare is reduced to (default: full weights)"
    )
    add("--seed", type=int, default=0, help="random seed of what dare drops")
    add("--dtype", default="float32", help="type of full weights")
    add("--output", required=True, help="folder of the result")
    add("--json", action="store_true", help="print the record of the merge")

    add = command("score", score, "Score stored responses with a reward, for una-score and una-centred.").add_argument
    add("--reward", required=True, help=_REWARD)
    add("--data", action="append", required=True, help="as in train")
    add("--output", required=True, help="the JSONL file to write: prompt, completions, scores")

    add = command("compare", compare, "Compare all methods with the exact optimum (UNA's Tables 1-3).").add_argument
    add("--online", action="store_true", help="the online methods, with one reward model for all (Tables 4-6)")
    add("--axis", choices=("methods", "offset", "proxy"), help="one axis of --online (default: all)")
    add("--quick", action="store_true", help="two seeds, with the settings that the committed study chose")
    add("--output", help="the study's folder (default: runs/compare, -online, -quick)")
    add("--base", help="folder of the base policy (default: ToySteer's, which ships with the package)")
    add("--workers", type=int, help="number of processes (default: one per core)")
    add("--json", action="store_true", help="print results.json")
    return parser, commands.choices


_REWARD = (
    "a function, module:function, that takes answers (.prompt .response .ended) and returns as many numbers; a "
    "sequence-classification model; preference:module:function, a function of two answers that returns the probability "
    "that the first is better; or judge:MODEL@http://host:port/v1, an LLM that compares the responses of one prompt. "
    "Several, separated by commas, are averaged"
)
_DATA = (
    "file (JSON Lines, also .gz; Parquet), quoted pattern such as 'data/*.jsonl', - (standard input), folder or hub "
    "name; repeat it to mix (default: ToySteer)"
)
_MODEL = "folder or hub name (default: ToySteer's base, or with other data a small Mistral made from them)"


def _train_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
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

    for heading, keys in key_groups().items():
        parser.add_argument_group(f"keys: {heading}", _key_lines(keys))
    what = next((word for word in words if word in METHODS or word in recipes()), "")
    if staged := stages_of(what):
        steps = {name: step.get("method") or f"do: {step.get('do')}" for name, step in staged[STAGES].items()}
        lines = "\n".join(f"{name:<28}{what}" for name, what in steps.items())
        parser.add_argument_group("steps, whose keys are written STEP.key=value", lines)
    method = None if staged else what if what in METHODS else recipe(what)["method"] if what else None
    keys = loss_keys(method) if method else []
    more = "see them with una-ref train METHOD --help" if method is None else ""
    parser.add_argument_group(f"keys: loss of {method or 'the method'}", _key_lines(keys) or more or "none")
    parser.epilog = _wrapped(f"recipes: {', '.join(recipes())}", 0)


def _key_lines(keys: Iterable[Key]) -> str:
    """A key with its default in the left column, what it means in the right one."""
    lines = []
    for key in keys:
        left, right = f"{key.name}={key.default}", _wrapped(key.about, 30).splitlines()
        first = [left] if len(left) > 27 else [f"{left:<28}{right.pop(0)}"]
        lines += [*first, *(f"{'':<28}{line}" for line in right)]
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> str:
    """Text in lines that fit the terminal behind so many columns."""
    width = max(40, min(shutil.get_terminal_size().columns, 120) - indent - 2)
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


# ---- the commands


def methods(arguments: argparse.Namespace) -> int:
    """Print the table of methods, or one method."""
    from una_ref.methods import METHODS, describe, table
    from una_ref.methods.axes import meaning

    found = describe(METHODS[arguments.name]) if arguments.name else table()
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    elif isinstance(found, dict):
        found["axes"] = [meaning(axis, value) for axis, value in found["axes"].items()]
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
    """Print the ledger or one claim, or recompute them."""
    from una_ref.claims import CLAIMS

    if arguments.id and arguments.id not in CLAIMS:
        hint = near(arguments.id.upper(), CLAIMS) or "; una-ref claims lists all of them"
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
    """The number of claims by verdict, such as "61 entries: 20 holds, …"."""
    kinds = Counter("holds if …" if v.startswith("holds if") else v for v in verdicts)
    return f"{sum(kinds.values())} entries: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())


def _recomputed(entries: Sequence[Claim], as_json: bool) -> int:
    import torch
    from tqdm import tqdm

    from una_ref.claims import recompute

    torch.set_num_threads(1)  # more threads do not help tables this small
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
    """A value of a method's record, as lines."""
    if isinstance(value, dict):
        return [f"{key}: {', '.join(v) if isinstance(v, list) else v}" for key, v in value.items()] or [""]
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


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
    from una_ref.training.trainer import NonFinite

    logging.disable_progress_bar()  # its bar for writing weights is over at once
    if arguments.dry_run:
        print(dry_run(config))
        return 0
    try:
        record = run(config)
    except (NonFinite, Unrewarded) as error:
        return _said(1, f"failed: {error}")
    if not record:  # only the main process reports
        return 0
    if arguments.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        for name, value in record["evaluation"].items():
            print(f"{name:<22} {value:.4f}")
        print(f"finished after {record['steps']} steps: {config.output}")
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
        return _said(1, f"failed: {error}")
    if record and arguments.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    elif record:
        for name, value in record["last"].get("evaluation", {}).items():
            print(f"{name:<22} {value:.4f}")
        print(f"finished {len(plan.steps)} steps: {record['result']}")
    return 0


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
    from una_ref.data.rows import group_by_prompt
    from una_ref.data.sources import read
    from una_ref.policies.answers import score_rows
    from una_ref.policies.reward_sources import reward_source
    from una_ref.training.checkpoints import replacing

    output = Path(arguments.output)
    if output.exists():
        raise InputError(f"output {output}: expected a new file, got one that exists")
    rows: Iterable[Row] = (row for name in arguments.data for file in files(name) for row in read(file))
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
    with replacing(output) as beside, open(beside, "w", encoding="utf-8") as file:
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


if __name__ == "__main__":
    sys.exit(main())
