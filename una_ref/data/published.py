"""How the layouts of published data sets are read, such as Anthropic HH, HelpSteer2, UltraFeedback and Nectar."""

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
    ratings = {column: record.whole_number(column, 0, 4) for column in RATINGS}
    weighted = sum(weight * ratings[column] for column, weight in HELPSTEER2_WEIGHTS.items())
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
    completions, name = record.objects("completions", "response", "overall_score"), record.name("completions")
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
    label = record.whole_number("labels", 0, 1, "1 (A is preferred) or 0 (B is)")
    best, other = ("score_A", "score_B") if label else ("score_B", "score_A")
    if record.has(best) and record.has(other) and record.score(best) < record.score(other):
        got = f"{label}, while score_A is {record.get('score_A')} and score_B {record.get('score_B')}"
        raise record.refusal("labels", "the comment with at least as many votes", got)
    responses = record.response("human_ref_A"), record.response("human_ref_B")
    return record.row(record.prompt("history"), responses, pairs=((0, 1) if label else (1, 0),))


def pku_safe_rlhf(record: Record) -> Row:
    """Two responses, compared by helpfulness and by safety. The pair follows `better_response_id`, helpfulness.

    ``columns.better_response_id=safer_response_id`` compares them by safety.

    Ji et al. (2024), https://arxiv.org/abs/2406.15513
    """
    chosen = record.whole_number("better_response_id", 0, 1, "0 or 1, the number of a response")
    responses = record.response("response_0"), record.response("response_1")
    return record.row(record.prompt(), responses, pairs=((chosen, 1 - chosen),))


def helpsteer3(record: Record) -> Row:
    """Two responses and by how much the second is preferred, from -3 to 3; their scores differ by that number.

    Wang et al. (2025), https://arxiv.org/abs/2505.11475
    """
    preference = record.whole_number("overall_preference", -3, 3)
    responses = record.response("response1"), record.response("response2")
    return record.row(record.prompt("context"), responses, scores=(-preference / 2, preference / 2))


def webgpt(record: Record) -> Row:
    """Two answers, each with the preference for it, from -1 to 1.

    Nakano et al. (2021), https://arxiv.org/abs/2112.09332
    """
    answers = record.response("answer_0"), record.response("answer_1")
    return record.row(record.prompt(), answers, scores=(record.score("score_0"), record.score("score_1")))


def nectar(record: Record) -> Row:
    """K answers of several models with GPT-4's ranks, from 1, the best, to K. The score is (K − rank)/(K − 1).

    Zhu et al. (2023), https://huggingface.co/datasets/berkeley-nest/Nectar
    """
    answers, name = record.objects("answers", "answer", "rank"), record.name("answers")
    responses, scores = [], []
    for i, answer in enumerate(answers):
        if not isinstance(answer, Mapping) or "answer" not in answer:
            got = f"one with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else shown(answer)
            fix = "write columns prompt, completions (texts) and scores (numbers)"
            raise refusal(record.source, f"{name}[{i}]", "an object with answer and rank", got, fix)
        responses.append(record.as_response(answer.get("answer"), f"{name}[{i}].answer"))
        rank = checked_score(answer.get("rank"), record.source, f"{name}[{i}].rank")
        if not 1 <= rank <= len(answers):
            raise refusal(record.source, f"{name}[{i}].rank", f"a rank from 1 to {len(answers)}", shown(rank))
        scores.append((len(answers) - rank) / max(len(answers) - 1, 1))
    return record.row(record.prompt(), responses, scores=tuple(scores))


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
