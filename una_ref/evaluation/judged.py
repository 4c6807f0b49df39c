"""The tasks whose answers are judged, by their names on the command line: mt-bench, alpaca-eval and reward:NAME."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from una_ref.errors import InputError
from una_ref.evaluation import alpaca_eval, held_out_reward, mt_bench
from una_ref.evaluation.store import Results
from una_ref.evaluation.subject import Subject
from una_ref.policies.endpoint import endpoint

NAMES = (mt_bench.TASK, alpaca_eval.TASK)
"""The judged tasks beside reward:NAME."""


def is_judged(name: str) -> bool:
    """Whether the name is that of a judged task."""
    return name in NAMES or name.startswith(held_out_reward.PREFIX)


def check(names: list[str], judge: str) -> None:
    """Refuse what can be refused before a model is loaded.

    Args:
        names: judged tasks.
        judge: name of the judge, or empty.

    Raises:
        InputError: a task without its judge, a judge's name that is none, or reward: without a name.
    """
    for name in names:
        if name in NAMES and not judge:
            raise InputError(f"task {name}: expected a judge, got none. Fix: --judge judge:MODEL@http://host:port/v1")
        if name == held_out_reward.PREFIX:
            raise InputError("task reward: expected reward:NAME, got no name, see una-ref train --help, --reward")
    if judge:
        endpoint(judge)


def compares_itself(name: str) -> bool:
    """Whether the task's own scores compare with the second model, so that no paired difference is needed."""
    return name.startswith(held_out_reward.PREFIX)


def unit(task: str, metric: str) -> tuple[int, str]:
    """Factor and sign of a score as it is printed: shares in percent, ratings and rewards in their own unit."""
    own = task == mt_bench.TASK or (task.startswith(held_out_reward.PREFIX) and metric != "win_rate")
    return (1, "") if own else (100, " %")


_COUNTS = {
    "answers_cut": "answers cut at the longest",
    "replies_without_rating": "replies without a rating, left out",
    "replies_without_preference": "replies without a preference, left out",
    "answers_without_score": "answers without a score, left out",
}


def notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader of a judged task's scores has to know: what was cut, left out or not computed."""
    told = [f"{record['task']}: {record[key]} {what}" for key, what in _COUNTS.items() if record.get(key)]
    if record.get("judged_without_reference"):
        numbers = ", ".join(map(str, record["judged_without_reference"]))
        told.append(f"{record['task']}: no reference answer to question {numbers}")
    if record.get("no_length_controlled_win_rate"):
        told.append(f"{record['task']}: no length-controlled win rate: {record['no_length_controlled_win_rate']}")
    return told


def run(
    name: str,
    subject: Subject,
    results: Results,
    *,
    judge: str = "",
    against: Callable[[], Subject] | None = None,
    prompts: str = "",
    data_dir: str = "",
    limit: int | None = None,
    **decoding: Any,
) -> dict[str, Any]:
    """Evaluate a model on a judged task and return the record.

    Args:
        name: mt-bench, alpaca-eval or reward:NAME.
        subject: the model.
        results: where items and record go.
        judge: judge:MODEL@http://host:port/v1, for mt-bench and alpaca-eval.
        against: loads the model to compare with, for reward:NAME.
        prompts: file of prompts, for reward:NAME.
        data_dir: folder with the files of mt-bench and alpaca-eval.
        limit: number of items.
        decoding: max_new, temperature, seed and batch that replace the task's own; None is the task's own.

    Raises:
        InputError: what is asked for is not there, or the results are of other settings.
        ConnectionError: a judge did not answer some calls.
    """
    given = {key: value for key, value in decoding.items() if value is not None}
    if name == mt_bench.TASK:
        given.pop("temperature", None)  # it is the category's
        how = replace(mt_bench.DECODING, **given)
        return mt_bench.evaluate(subject, results, endpoint(judge), data_dir=data_dir, limit=limit, decoding=how)
    if name == alpaca_eval.TASK:
        how = replace(alpaca_eval.DECODING, **given)
        return alpaca_eval.evaluate(subject, results, endpoint(judge), data_dir=data_dir, limit=limit, decoding=how)
    reward = name.removeprefix(held_out_reward.PREFIX)
    how = replace(held_out_reward.DECODING, **given)
    return held_out_reward.evaluate(
        subject, results, reward, against=against, prompts=prompts, limit=limit, decoding=how
    )
