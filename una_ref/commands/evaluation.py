"""``una-ref evaluate``: leaderboard and judged tasks for a run or a model, and paired differences of two of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from una_ref.errors import InputError

if TYPE_CHECKING:
    from una_ref.evaluation.paired import Difference
    from una_ref.evaluation.store import Results


_TASKS = (
    "names separated by commas: open-llm-v1, open-llm-v2, or tasks such as arc; mt-bench and alpaca-eval, which need "
    "--judge; reward:NAME with NAME as train's --reward"
)
_AGAINST = "print paired differences from another evaluated model; for reward:NAME the model to win against"


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `evaluate`."""
    add = parser.add_argument
    add("model", metavar="RUN-or-MODEL", help="folder of a finished run, adapter or model; hub name; GGUF; smollm2")
    add("--tasks", required=True, help=_TASKS)
    add("--data-dir", default="", help="folder of the tasks' data, see docs/evaluation.md (default: the hub)")
    add("--limit", type=int, help="number of items of each task, the same for every model (default: all)")
    add("--shots", type=int, help="few-shot examples instead of the task's own number, where that is not 0")
    add("--chat", default="auto", help="yes or no: use the chat template; auto (default): for ifeval only")
    add("--max-new", type=int, help="most new tokens of an answer (default: the task's own number)")
    add("--batch", type=int, default=8, help="sequences in a batch (default: 8)")
    add("--temperature", type=float, help="of answers that are judged (default: 0; mt-bench: by category)")
    add("--seed", type=int, help="random seed of answers that are judged (default: 0)")
    add("--judge", default="", help="judge:MODEL@http://host:port/v1, an OpenAI-compatible endpoint")
    add("--prompts", default="", metavar="FILE", help="prompts for reward:NAME (default: those that the run held out)")
    add("--dtype", default="float32", help="type of the weights: float32 (default), bfloat16 or float16")
    add("--output", default="", help="folder of the results (default: RUN/evaluation, or evaluations/NAME)")
    add("--against", default="", metavar="OTHER", help=_AGAINST)
    add("--json", action="store_true", help="print JSON")


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate a model, print a table of scores, and paired differences if asked for."""
    from una_ref.evaluation import harness, judged
    from una_ref.evaluation.store import Results
    from una_ref.evaluation.subject import subject
    from una_ref.evaluation.tasks import TASKS, task_names

    words = [word.strip() for word in arguments.tasks.split(",") if word.strip()]
    names = task_names(words, [*judged.NAMES, *filter(judged.is_judged, words)])
    judged.check(list(filter(judged.is_judged, names)), arguments.judge)
    if arguments.dtype not in ("float32", "bfloat16", "float16", "float64"):
        raise InputError(f"dtype: expected float32, bfloat16, float16 or float64, got {arguments.dtype!r}")
    options: dict[str, Any] = {key: getattr(arguments, key) for key in ("limit", "chat", "max_new", "batch")}
    harness.check_options(**options, shots=arguments.shots)
    paired = [name for name in names if not judged.compares_itself(name)]
    other = _results_of(arguments.against, paired) if arguments.against else None
    loaded = {
        name: harness.load_task(TASKS[name], arguments.data_dir, arguments.shots) for name in names if name in TASKS
    }
    model = subject(arguments.model, dtype=arguments.dtype, output=arguments.output)
    results = Results(model.folder)
    answers = {key: getattr(arguments, key) for key in ("limit", "max_new", "batch", "temperature", "seed")}
    answers |= {key: getattr(arguments, key) for key in ("judge", "prompts", "data_dir")}
    if arguments.against:
        answers["against"] = partial(subject, arguments.against, dtype=arguments.dtype)
    records = [
        harness.evaluate(model, loaded[name], results, **options)
        if name in loaded
        else judged.run(name, model, results, **answers)
        for name in names
    ]
    differences = _differences(results, other, paired) if other else []
    if arguments.json:
        found = {"model": model.name, "folder": str(model.folder), "results": records, "means": _means(results, words)}
        print(json.dumps(found | {"differences": [asdict(d) for d in differences]}, indent=1, ensure_ascii=False))
        return 0
    _print_scores(records, _means(results, words))
    if differences:
        _print_differences(model.name, arguments.against, differences)
    print(f"\nresults: {model.folder}")
    return 0


def _results_of(name: str, tasks: Sequence[str]) -> Results:
    """The results of an evaluated model, by its name or by their folder.

    Raises:
        InputError: a task is not finished there.
    """
    from una_ref.evaluation.store import Results
    from una_ref.evaluation.subject import results_folder

    results = Results(results_folder(name))
    if not results.folder.is_dir():
        results = Results(name)
    for task in tasks:
        if results.record(task) is None:
            raise InputError(
                f"against {name!r}: expected finished results of {task} in {results_folder(name)} or {Path(name)}, "
                f"got none. Fix: una-ref evaluate {name} --tasks {task}"
            )
    return results


def _differences(results: Results, other: Results, names: Iterable[str]) -> list[Difference]:
    from una_ref.evaluation.paired import difference

    return [difference(results, other, name) for name in names]


def _means(results: Results, words: Iterable[str]) -> list[dict[str, Any]]:
    """The mean of each group that was asked for."""
    from una_ref.evaluation.paired import mean_score
    from una_ref.evaluation.tasks import GROUPS

    groups = [word for word in words if word in GROUPS]
    return [asdict(mean_score(group, [results.scores(name)[0] for name in GROUPS[group]])) for group in groups]


def _print_scores(records: Iterable[dict[str, Any]], means: Iterable[dict[str, Any]]) -> None:
    """A line for each metric, the headline metric first; and the notes of judged tasks."""
    from una_ref.evaluation import judged

    print(f"{'task':<12} {'metric':<30} {'score':>16} {'items':>7} {'shots':>6} {'seconds':>8}")
    notes = []
    for record in records:
        for index, score in enumerate(record["scores"]):
            more = f"{record['settings'].get('shots', ''):>6} {record['seconds']:>8.0f}" if index == 0 else ""
            print(f"{_line(score)} {more}".rstrip())
        notes += judged.notes(record)
    for note in notes:
        print(note)
    for mean in means:
        print(_line(mean))


def _line(score: dict[str, Any]) -> str:
    return f"{score['task']:<12} {score['metric']:<30} {_shown(score):>16} {score['items']:>7}"


def _shown(score: dict[str, Any]) -> str:
    """A share in percent; a rating or a reward in its own unit."""
    from una_ref.evaluation.judged import unit

    scale, sign = unit(score["task"], score["metric"])
    error = "" if score["stderr"] is None else f" ± {scale * score['stderr']:.2f}"
    return f"{scale * score['value']:.2f}{error}{sign}"


def _print_differences(name: str, other: str, differences: Iterable[Difference]) -> None:
    from una_ref.evaluation.judged import unit

    print(f"\n{name} minus {other}, paired on the items that both have answered, with 95 % intervals")
    for d in differences:
        scale, sign = unit(d.task, d.metric)
        interval = f"[{scale * d.low:+.2f}, {scale * d.high:+.2f}]{sign}"
        left_out = f", {d.left_out} left out" if d.left_out else ""
        print(f"{d.task:<12} {d.metric:<30} {scale * d.value:>+8.2f} {interval:<18} {d.items} items{left_out}")
