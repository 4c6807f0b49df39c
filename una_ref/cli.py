"""The command line: ``una-ref methods | train | compare``.

Exit codes: 0 done, 1 failed while running, 2 refused before anything began, 130 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from una_ref.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    # What is not there cannot be fetched halfway: models and data named by the user are, if the hub can be reached.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 2
    try:
        return arguments.run(arguments) or 0
    except InputError as error:
        print(f"una-ref: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"una-ref: interrupted{': ' + str(error) if str(error) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (RuntimeError, OSError) as error:
        print(f"una-ref: failed: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="una-ref", description="LLM alignment, checked against exact optima.")
    from una_ref import __version__

    parser.add_argument("--version", action="version", version=f"una_ref {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Callable[..., Any], help_: str, epilog: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_, epilog=epilog,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.set_defaults(run=run)
        return sub

    sub = command("methods", methods, "The table of methods, or everything about one.")
    sub.add_argument("name", nargs="?", help="a method, such as dpo")
    sub.add_argument("--json", action="store_true", help="for programs")

    sub = command("train", train, "Train a policy by a method or a recipe; the same command again resumes.", _keys())
    sub.add_argument("what", help="a method (una-ref methods) or a recipe (toysteer/base)")
    sub.add_argument("settings", nargs="*", metavar="key=value", help="anything below, and the loss's own, such as beta=0.1")
    sub.add_argument("--data", action="append", help="JSONL file (.gz too), folder or hub name; may be repeated (default: ToySteer)")
    sub.add_argument("--model", help="folder or hub name (default: ToySteer's base, or a small Mistral made from the data)")
    sub.add_argument("--output", help="folder of the result (default: runs/METHOD)")
    sub.add_argument("--steps", type=int, help="optimizer steps")
    sub.add_argument("--seed", type=int, help="of adapter, order of data and dropout")
    sub.add_argument("--dry-run", action="store_true", help="show the resolved config, sizes, and the first row through the pipe")
    sub.add_argument("--json", action="store_true", help="print the finished run's record")

    sub = command("compare", compare, "Every method on the same data beside the exact optimum (UNA's Tables 1-3, small).")
    sub.add_argument("--quick", action="store_true", help="two seeds, at the settings that the committed study chose")
    sub.add_argument("--output", default=None, help="the study's folder (default: runs/compare, or runs/compare-quick)")
    sub.add_argument("--workers", type=int, help="processes (default: one a core)")
    sub.add_argument("--json", action="store_true", help="print results.json")
    return parser


def _keys() -> str:
    from dataclasses import MISSING, fields

    from una_ref.training.config import Config, recipes

    described: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(Config.__doc__ or "").partition("Attributes:\n")[2].splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            name, _, described[name] = line.strip().partition(": ")
            described[line.strip().partition(": ")[0]] = line.strip().partition(": ")[2]
            name = line.strip().partition(": ")[0]
        elif line.strip():
            described[name] += " " + line.strip()
    lines = ["keys and their defaults:"]
    for f in fields(Config):
        if f.name not in ("method", "hyper"):
            default = f.default if f.default is not MISSING else f.default_factory()  # type: ignore[misc]
            lines.append(f"  {f.name}={default!s:<12} {described.get(f.name, '')}")
    return "\n".join([*lines, "", "recipes: " + ", ".join(recipes())])


def methods(arguments: argparse.Namespace) -> None:
    """Print the registry, or one record of it."""
    from una_ref.methods import METHODS
    from una_ref.methods.registry import describe, table

    if arguments.name:
        record = describe(METHODS[arguments.name])
        if arguments.json:
            print(json.dumps(record, indent=1, ensure_ascii=False))
            return
        width = max(map(len, record))
        for key, value in record.items():
            print(f"{key:<{width}}  {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
        return
    rows = table()
    if arguments.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    columns = ("name", "feedback", "reward", "shape", "unchanged by r → r + g(x)", "equation")
    widths = {c: max(len(c), *(len(r[c]) for r in rows)) for c in columns}
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        print("  ".join(f"{row[c]:<{widths[c]}}" for c in columns).rstrip())


def train(arguments: argparse.Namespace) -> None:
    """Resolve a config and run it, or show what it would do."""
    from una_ref.training.config import resolve
    from una_ref.training.dryrun import dry_run
    from una_ref.training.run import train as run

    data = ",".join(arguments.data) if arguments.data else None
    config = resolve(arguments.what, arguments.settings, data=data, model=arguments.model, output=arguments.output,
                     steps=arguments.steps, seed=arguments.seed)
    if not config.output:
        from dataclasses import replace

        config = replace(config, output=f"runs/{arguments.what.replace('/', '-')}")
    if arguments.dry_run:
        print(dry_run(config))
        return
    record = run(config)
    if arguments.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    elif record:
        for name, value in record["evaluation"].items():
            print(f"{name:<22} {value:.4f}")
        print(f"finished after {record['steps']} steps: {config.output}")


def compare(arguments: argparse.Namespace) -> None:
    """Run the study and say where its table and figure are."""
    from una_ref.evaluation.compare import compare as run

    output = arguments.output or ("runs/compare-quick" if arguments.quick else "runs/compare")
    results = run(output, quick=arguments.quick, workers=arguments.workers)
    if arguments.json:
        print(json.dumps(results, ensure_ascii=False))
        return
    from pathlib import Path

    print(Path(output, "table.md").read_text())
    print(f"table: {output}/table.md   figure: {output}/compare.svg   numbers: {output}/results.json")


if __name__ == "__main__":
    sys.exit(main())
