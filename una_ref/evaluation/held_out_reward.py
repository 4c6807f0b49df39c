"""The reward of a model's answers to held-out prompts, and how often they beat another model's answers.

The reward is anything that an online run takes as its reward. A win is a higher reward, and a tie half a win. The
difference of the two rewards is paired by prompt. A source that compares two answers, such as an LLM, gives the
probability of a win, and no reward.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from una_ref.data.row_sets import held_out, split_name
from una_ref.data.rows import Row, prompt_key
from una_ref.data.sources import read
from una_ref.data.toysteer import ToySteer
from una_ref.errors import InputError
from una_ref.evaluation.generation import Decoding, Response, answers, item_names, limited
from una_ref.evaluation.paired import score
from una_ref.evaluation.store import Results, Values, completed
from una_ref.evaluation.subject import Subject
from una_ref.policies.answers import Answer, RewardSource, score_answers
from una_ref.policies.comparisons import checked
from una_ref.policies.reward_sources import reward_source
from una_ref.training.checkpoints import RECORD
from una_ref.training.config import Config
from una_ref.training.reading import read_rows, usable_rows
from una_ref.training.toysteer_base import is_toysteer

PREFIX, ANSWERS = "reward:", "reward.answers"
DECODING = Decoding(max_new=256)
METRICS = ("reward", "win_rate", "difference", "baseline_reward")
CHUNK = 64
"""Prompts whose answers are scored in one call of the reward."""


def prompts_of(name: str, file: str = "") -> list[Row]:
    """The prompts to answer, each once: those in a file, else those that a run held out.

    Args:
        name: folder of the run.
        file: any data that `una_ref.data.sources.read` takes; empty: the run's own data.

    Raises:
        InputError: no file and no run, or a run that held out no prompts.
    """
    if file:
        rows: Sequence[Row] = list(read(file, empty="keep", prompts=True, others=True))
    elif Path(name, RECORD).exists():
        rows = _held_out(Path(name, RECORD))
    else:
        raise InputError(f"reward: expected prompts for {name}, which is not a run. Fix: --prompts FILE")
    each = {prompt_key(row.prompt): row for row in rows}.values()
    return [Row(row.prompt, (), source=row.source, columns=row.columns) for row in each]


def _held_out(record: Path) -> Sequence[Row]:
    """The rows that the run did not train on; ToySteer's prompts are the same on both sides."""
    config = Config(**json.loads(record.read_text("utf-8"))["config"])
    rows = usable_rows(read_rows(config, others=True), config)[0]
    if is_toysteer(config):
        return rows
    if config.held_out:
        apart = rows.picked(held_out([split_name(row, config.seed) for row in rows], config.held_out))
        if len(apart):
            return apart
    got = f"held_out={config.held_out:g} of {len(rows)} rows"
    raise InputError(f"{record}: expected a run with held-out prompts, got {got}. Fix: --prompts FILE")


def evaluate(
    subject: Subject,
    results: Results,
    reward: str,
    *,
    against: Callable[[], Subject] | None = None,
    prompts: str = "",
    limit: int | None = None,
    decoding: Decoding = DECODING,
) -> dict[str, Any]:
    """Answer the prompts, score the answers, and return the record. It resumes.

    Args:
        subject: the model.
        results: where items and record go.
        reward: as in `una_ref.policies.reward_sources.reward_source`.
        against: loads the model whose answers are the baseline; None: rewards alone.
        prompts: file of prompts; empty: those that the run held out.
        limit: number of prompts.
        decoding: of both models' answers. Those of the baseline are kept in its own folder.

    Raises:
        InputError: no prompts, no such reward, a reward that compares without a baseline, or other settings.
        ConnectionError: a judge did not answer some calls. The other scores are kept.
    """
    task, began = f"{PREFIX}{reward}", time.perf_counter()
    rows = limited(prompts_of(subject.name, prompts), limit)
    source = reward_source(reward, world=_world(subject.name) if "toysteer" in reward.split(",") else None)
    pairwise = bool(getattr(source, "pairwise", False))
    if pairwise and against is None:
        raise InputError(f"{task}: expected a second model to compare with, got none. Fix: --against MODEL")
    endpoint = getattr(source, "endpoint", None)
    if endpoint is not None:
        endpoint.check(max_tokens=1)
    responses = answers(subject, rows, decoding, results, ANSWERS)
    other = against() if against else None
    others = answers(other, rows, decoding, Results(other.folder), ANSWERS) if other else None
    settings: dict[str, Any] = {**subject.identity, "decoding": asdict(decoding), "reward": reward}
    settings["against"] = other.identity if other else None
    items = _scored(task, source, rows, responses, others, results, settings)
    every = [response for several in responses for response in several]
    metrics = [metric for metric in METRICS if any(values.get(metric) for values in items)]
    if not metrics:
        raise InputError(f"{task}: expected scores, got none for any answer")
    more = {
        "model": subject.name,
        "against": other.name if other else None,
        "limit": limit,
        "batch": decoding.batch,
        "seconds": round(time.perf_counter() - began, 1),
        "answers_cut": sum(not response.ended for response in every),
        "answers": len(every),
        "answers_without_score": sum(values["unscored"] for values in items),
        "tokens": sum(response.tokens for response in every) / len(every),
    }
    return results.finish(task, [score(task, metric, items) for metric in metrics], settings, **more)


def _world(run: str) -> ToySteer:
    record = Path(run, RECORD)
    seed = json.loads(record.read_text("utf-8"))["config"]["seed"] if record.exists() else 0
    return ToySteer(seed=seed)


def _scored(
    task: str,
    source: RewardSource,
    rows: Sequence[Row],
    responses: Sequence[Sequence[Response]],
    others: Sequence[Sequence[Response]] | None,
    results: Results,
    settings: dict[str, Any],
) -> list[Values]:
    """The item of each prompt: rewards of its answers and of the baseline's, wins, and how many have no score."""

    def scored(missing: list[int]) -> Iterator[tuple[int, Values | None]]:
        left = iter(missing)
        while chunk := list(islice(left, CHUNK)):
            mine = [[_answer(rows[i], response, i) for response in responses[i]] for i in chunk]
            theirs = [[_answer(rows[i], response, i) for response in others[i]] for i in chunk] if others else None
            for i, values in zip(chunk, _values(source, task, mine, theirs), strict=True):
                # A judge that did not answer is asked again by the next run.
                yield i, None if values["unscored"] and hasattr(source, "endpoint") else values

    return completed(results, task, settings, item_names(rows), scored, unit="prompt")


def _answer(row: Row, response: Response, group: int) -> Answer:
    return Answer(row.prompt, response.text, response.ended, group, row.columns, row.source)


def _values(
    source: Any, task: str, mine: Sequence[Sequence[Answer]], theirs: Sequence[Sequence[Answer]] | None
) -> list[dict[str, Any]]:
    name = task.removeprefix(PREFIX)
    if getattr(source, "pairwise", False):
        assert theirs is not None
        pairs = [pair for a, b in zip(mine, theirs, strict=True) for pair in zip(a, b, strict=True)]
        shares = iter(checked(pairs, source.compare, name))
        wins = [list(islice(shares, len(several))) for several in mine]
        return [{"win_rate": _known(w), "unscored": w.count(None)} for w in wins]
    scores = _scores(source, name, mine)
    if theirs is None:
        return [{"reward": _known(s), "unscored": s.count(None)} for s in scores]
    others = _scores(source, name, theirs)
    return [
        {
            "reward": _known(a),
            "baseline_reward": _known(b),
            "difference": [x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None],
            "win_rate": [_win(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None],
            "unscored": a.count(None),
        }
        for a, b in zip(scores, others, strict=True)
    ]


def _scores(source: RewardSource, name: str, groups: Sequence[Sequence[Answer]]) -> list[list[float | None]]:
    scores = iter(score_answers(source, [answer for several in groups for answer in several], name))
    return [list(islice(scores, len(several))) for several in groups]


def _known(scores: Sequence[float | None]) -> list[float]:
    return [score for score in scores if score is not None]


def _win(reward: float, other: float) -> float:
    return 1.0 if reward > other else 0.0 if reward < other else 0.5
