"""How the layouts of published data sets are read: Anthropic HH, HelpSteer2, UltraFeedback, SHP and Alpaca."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from una_ref.data.dialogues import ASSISTANT, HUMAN
from una_ref.data.records import Record, Response
from una_ref.data.row_sets import merged
from una_ref.data.rows import Row, checked_score, refusal, shown
from una_ref.errors import InputError

HELPSTEER2_WEIGHTS = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45}
"""UNA Sec. 4.1. They sum to 1.9; complexity and verbosity have weight 0."""

RATINGS = (*HELPSTEER2_WEIGHTS, "complexity", "verbosity")
"""The columns of HelpSteer2's ratings, whole numbers from 0 to 4."""

Refuse = Callable[[InputError], None]
"""Raises the error, or counts the row as left out."""


def dialogues(record: Record, chosen: str, rejected: str) -> tuple[str, tuple[Response, Response]]:
    """Anthropic HH: the prompt ends with the last "Assistant:" up to which both dialogues agree.

    The longest common prefix would be wrong, since responses often begin with the same words. The prompt followed by
    the response is the dialogue, to the character.
    """
    at = chosen.rfind(ASSISTANT)
    while at >= 0 and not rejected.startswith(chosen[: at + len(ASSISTANT)]):
        at = chosen.rfind(ASSISTANT, 0, at)
    if at < 0:
        expected = f"two dialogues that agree up to an {ASSISTANT!r}, since there is no prompt"
        fix = "add a column prompt, or name it: columns.prompt=NAME"
        raise record.refusal("rejected", expected, "dialogues that do not", fix)
    end = at + len(ASSISTANT)
    for column, dialogue in (("chosen", chosen), ("rejected", rejected)):
        if HUMAN in dialogue[end:]:
            expected = "dialogues that differ in the last assistant turn only"
            raise record.refusal(column, expected, "a human turn after the place where they differ")
    first = record.as_response(chosen[end:], record.name("chosen"))
    return chosen[:end], (first, record.as_response(rejected[end:], record.name("rejected")))


def helpsteer2(record: Record) -> Row:
    """One response and its five ratings."""
    for column in RATINGS:
        rating = record.get(column)
        if not isinstance(rating, int) or isinstance(rating, bool) or not 0 <= rating <= 4:
            raise record.refusal(column, "a whole number from 0 to 4", shown(rating))
    weighted = sum(weight * record.get(column) for column, weight in HELPSTEER2_WEIGHTS.items())
    top = sum(HELPSTEER2_WEIGHTS.values()) if record.options.helpsteer_weights == "code" else 1
    return record.row(record.prompt(), (record.response("response"),), scores=(weighted / (4 * top),))


def two_by_two(rows: Iterator[Row], refuse: Refuse) -> Iterator[Row]:
    """HelpSteer2 lists the two responses of a prompt in consecutive rows."""
    fix = "replace the ratings by one column score"
    first = next(rows, None)
    while first is not None:
        second = next(rows, None)
        if second is None:
            expected = "a second row with the same prompt, as in HelpSteer2"
            refuse(refusal(first.source, "prompt", expected, "the end of the data", fix))
        elif first.key != second.key:
            expected = f"the prompt of {first.source}, since HelpSteer2 has two rows a prompt"
            refuse(refusal(second.source, "prompt", expected, "another prompt", fix))
            first = second
            continue
        else:
            yield merged((first, second))
        first = next(rows, None)


def ultrafeedback(record: Record) -> Row:
    """Responses of several models with GPT-4's overall score, 1 to 10, from which the binarized form is made."""
    completions, name = record.sequence("completions"), record.name("completions")
    if not completions and record.options.empty == "drop":
        return record.row(record.prompt("instruction"), (Response("", {}),))
    responses, scores = [], []
    for i, completion in enumerate(completions):
        if not isinstance(completion, Mapping):
            raise refusal(record.source, f"{name}[{i}]", "an object with response and overall_score", shown(completion))
        responses.append(record.as_response(completion.get("response"), f"{name}[{i}].response"))
        scores.append(checked_score(completion.get("overall_score"), record.source, f"{name}[{i}].overall_score"))
    return record.row(record.prompt("instruction"), responses, scores=tuple(scores))


def shp(record: Record) -> Row:
    """Two comments under a post; label 1 prefers A.

    Votes are not used as scores, since an older comment has had more time to collect them. But the preferred comment
    never has fewer votes.
    """
    label = record.get("labels")
    if label not in (0, 1):
        raise record.refusal("labels", "1 (A is preferred) or 0 (B is)", shown(label))
    best, other = ("score_A", "score_B") if label else ("score_B", "score_A")
    if record.has(best) and record.has(other) and record.score(best) < record.score(other):
        got = f"{label}, while score_A is {record.get('score_A')} and score_B {record.get('score_B')}"
        raise record.refusal("labels", "the comment with at least as many votes", got)
    responses = record.response("human_ref_A"), record.response("human_ref_B")
    return record.row(record.prompt("history"), responses, pairs=((0, 1) if label else (1, 0),))


def alpaca_prompt(record: Record) -> Any:
    """The instruction with its input on the next line, as LLaMA-Factory joins them, after the turns of a history."""
    prompt = record.text("instruction")
    if record.has("input") and record.text("input").strip():
        prompt = f"{prompt}\n{record.text('input')}"
    if not record.has("history") or not record.sequence("history"):
        return prompt
    messages = []
    for i, turn in enumerate(record.sequence("history")):
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise refusal(record.source, f"{record.name('history')}[{i}]", "[question, answer]", shown(turn))
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return (*messages, {"role": "user", "content": prompt})


def alpaca(record: Record) -> Row:
    """An instruction with its output."""
    if isinstance(record.get("output"), list | tuple):
        fix = "write two answers as columns chosen and rejected"
        raise record.refusal("output", "text", "a list", fix)
    return record.judged(alpaca_prompt(record), record.response("output"))
