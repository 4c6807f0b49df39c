"""The command line: ``una-ref train``, ``evaluate``, ``generate`` and others; see `una_ref.commands`.

Exit codes: 0 done, 1 failed while running, 2 refused before anything began, 130 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from una_ref.commands.comparison import compare
from una_ref.commands.console import said
from una_ref.commands.data_command import data, data_arguments
from una_ref.commands.evaluation import evaluate, evaluate_arguments
from una_ref.commands.examine_command import examine, examine_arguments
from una_ref.commands.explain_command import explain, explain_arguments
from una_ref.commands.generation import generate, generate_arguments
from una_ref.commands.inspect_command import inspect, inspect_arguments
from una_ref.commands.leaderboard_command import leaderboard, leaderboard_arguments
from una_ref.commands.listing import claims, methods
from una_ref.commands.merge_and_score import merge, score
from una_ref.commands.reporting import report
from una_ref.commands.training_command import train, train_arguments
from una_ref.errors import InputError

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
        return said(2, str(error))
    except KeyboardInterrupt as error:
        return said(130, f"interrupted; {error}" if str(error) else "interrupted")
    except BrokenPipeError:  # the reader has closed the pipe, as in `una-ref methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return said(1, f"failed: {error}")


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

    train_arguments(command("train", train, "Train a policy. The same command again resumes the run."), words)

    evaluate_arguments(command("evaluate", evaluate, "Evaluate a run or a model. The same command again resumes."))
    data_arguments(command("data", data, "Audit data before training; exit code 1 if a run would be refused."))
    inspect_arguments(command("inspect", inspect, "Show rows of a file as the loss sees them, token by token."))
    examine_arguments(command("examine", examine, "Examine a loss: what it is, what it ignores, what it learns."))
    explain_arguments(command("explain", explain, "Say which curves of a run are as theory says, and why."))

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

    generate_arguments(command("generate", generate, "Answer a file of prompts, or a line typed by hand."))

    add = command("compare", compare, "Compare all methods with the exact optimum (UNA's Tables 1-3).").add_argument
    add("--online", action="store_true", help="the online methods, with one reward model for all (Tables 4-6)")
    add("--model", help="a real language model in place of ToySteer's: folder, hub name or smollm2; needs UNA_REF_DATA")
    axes = ("methods", "offset", "proxy", "rates", "scores", "pairs", "tasks")
    about = "one axis: methods, offset or proxy of --online; rates, scores, pairs or tasks of --model (default: all)"
    add("--axis", choices=axes, help=about)
    add("--report", action="store_true", help="with --model: train nothing, and draw what is finished")
    add("--quick", action="store_true", help="two seeds, with the settings that the committed study chose")
    add("--output", help="the study's folder (default: its name in runs/, such as runs/compare or runs/real-online)")
    add("--base", help="folder of the base policy (default: ToySteer's, which ships with the package)")
    add("--workers", type=int, help="number of processes (default: one per core; one on a GPU)")
    add("--json", action="store_true", help="print results.json")

    about = "Order all methods by exact regret on enumerable worlds. The same command again resumes."
    leaderboard_arguments(command("leaderboard", leaderboard, about))

    add = command("report", report, "Print the papers' tables, our numbers beside the printed ones.").add_argument
    add("what", nargs="*", metavar="TABLE or FOLDER", help=_REPORT)
    add("--table", action="append", help="1 to 6 (UNA), upo or survey; the same as naming it")
    add("--json", action="store_true", help="print JSON")
    add("--markdown", action="store_true", help="print Markdown")
    return parser, commands.choices


_REWARD = (
    "a function, module:function, that takes answers (.prompt .response .ended .columns) and returns as many numbers; "
    "a sequence-classification model; preference:module:function, a function of two answers that returns the "
    "probability that the first is better; or judge:MODEL@http://host:port/v1, an LLM that compares the responses of "
    "one prompt. Several, separated by commas, are averaged"
)
_REPORT = (
    "tables to print: 1 to 6 (UNA), upo (its Figure 1), survey (default: all); and folders of runs and evaluations "
    "(default: runs, evaluations and figures/runs, where they exist)"
)


if __name__ == "__main__":
    sys.exit(main())
