"""MT-Bench: 80 questions of two turns, each answer rated from 1 to 10 by an LLM.

Questions, temperatures, judging prompts, parsing and files are FastChat's, so that its tools read our files and our
numbers compare with published ones. The means are over both turns; a reply without a rating counts as −1 and is left
out.

Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", https://arxiv.org/abs/2306.05685;
https://github.com/lm-sys/FastChat, fastchat/llm_judge (Apache-2.0), from which `prompts/mt_bench.jsonl` comes.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from itertools import islice
from typing import Any

from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.evaluation import data_files
from una_ref.evaluation.generation import Decoding, limited, respond
from una_ref.evaluation.paired import score
from una_ref.evaluation.store import Results, Score, Values, completed
from una_ref.evaluation.subject import Subject
from una_ref.policies.endpoint import Endpoint, Messages, text
from una_ref.training.checkpoints import write_text

TASK, ANSWERS = "mt-bench", "mt-bench.answers"
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
"""Category -> temperature; 0 for the other four."""
WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose judge sees a reference answer."""
NO_RATING = -1
SOURCE = "https://github.com/lm-sys/FastChat/tree/main/fastchat/llm_judge/data/mt_bench"
QUESTIONS = ("mt_bench_questions.jsonl", "mt_bench/question.jsonl", "question.jsonl")
REFERENCES = ("mt_bench/reference_answer/gpt-4.jsonl", "reference_answer/gpt-4.jsonl")
DECODING = Decoding(max_new=1024)
"""FastChat's most tokens of an answer."""

_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


@dataclass(frozen=True)
class Question:
    """A question of two turns.

    Attributes:
        id: FastChat's number.
        category: one of eight.
        turns: what the user says.
        reference: answers to both turns that the judge is shown; empty if it is shown none.
    """

    id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()


def questions(data_dir: str = "") -> tuple[list[Question], str]:
    """The questions with their references, and where the references come from.

    FastChat's judge sees GPT-4's answers (reference_answer/gpt-4.jsonl). Where that file is missing, the references in
    the question file are taken. They lack one, of question 123, which is then judged without a reference.

    Raises:
        InputError: no question file, or a malformed one.
    """
    file = data_files.found(QUESTIONS, data_dir, TASK, f"--data-dir FOLDER with question.jsonl from {SOURCE}")
    rows = data_files.records(file, ("question_id", "category", "turns"))
    references = {row["question_id"]: row.get("reference") or () for row in rows}
    source = "question file"
    if answered := data_files.find(REFERENCES, data_dir):
        source = "gpt-4"
        for row in data_files.records(answered, ("question_id", "choices")):
            references[row["question_id"]] = row["choices"][0]["turns"]
    made = []
    for row in rows:
        reference = tuple(references[row["question_id"]]) if row["category"] in WITH_REFERENCE else ()
        if len(row["turns"]) != 2 or len(reference) not in (0, 2):
            raise InputError(
                f"{file}: question {row['question_id']}: expected two turns, and two reference answers or none, "
                f"got {len(row['turns'])} and {len(reference)}"
            )
        made.append(Question(row["question_id"], row["category"], tuple(row["turns"]), reference))
    return made, source


# ---- answers


def answer(subject: Subject, asked: Sequence[Question], decoding: Decoding, results: Results) -> dict[int, Values]:
    """Question id -> turns, ended and tokens of both answers. The second turn sees the first answer.

    Args:
        subject: the model.
        asked: the questions.
        decoding: its temperature is replaced by the category's.
        results: keeps the answers; those that are there are not generated again.
    """
    settings = {**subject.identity, "decoding": asdict(replace(decoding, temperature=0)), "temperatures": TEMPERATURES}

    def generated(missing: list[int]) -> Iterator[tuple[int, Values]]:
        heat = [TEMPERATURES.get(question.category, 0.0) for question in asked]
        for temperature in sorted({*heat}):
            group = [i for i in range(len(asked)) if heat[i] == temperature]
            group.sort(key=lambda i: -len(asked[i].turns[0]))
            for start in range(0, len(group), decoding.batch):
                chunk = group[start : start + decoding.batch]
                if {*chunk} & {*missing}:  # the whole batch again, so that the samples are the same
                    how = replace(
                        decoding, temperature=temperature, seed=decoding.seed * 1_000_003 + asked[chunk[0]].id
                    )
                    both = _two_turns(subject, [asked[i] for i in chunk], how)
                    yield from ((i, values) for i, values in zip(chunk, both, strict=True) if i in missing)

    items = completed(results, ANSWERS, settings, [str(q.id) for q in asked], generated, unit="question")
    return {question.id: values for question, values in zip(asked, items, strict=True)}


def _two_turns(subject: Subject, asked: Sequence[Question], decoding: Decoding) -> list[dict[str, list[Any]]]:
    """Turns, ended and tokens of the answers to each question."""
    talks: list[list[dict[str, str]]] = [[] for _ in asked]
    values: list[dict[str, list[Any]]] = [{"turns": [], "ended": [], "tokens": []} for _ in asked]
    for turn in range(2):
        for talk, question in zip(talks, asked, strict=True):
            talk.append({"role": "user", "content": question.turns[turn]})
        rows = [Row(tuple(talk), (), source=f"question {q.id}") for talk, q in zip(talks, asked, strict=True)]
        for i, (response,) in respond(subject, rows, decoding):
            talks[i].append({"role": "assistant", "content": response.text.strip()})
            values[i]["turns"].append(response.text.strip())
            values[i]["ended"].append(response.ended)
            values[i]["tokens"].append(response.tokens)
    return values


# ---- judgments


def rating(judgment: str) -> float:
    """The rating in a judge's reply: the first [[x]], else the first [x], else −1."""
    for pattern in _RATINGS:
        if match := pattern.search(judgment):
            return float(match[1])
    return NO_RATING


def judging_prompts() -> dict[str, dict[str, str]]:
    """FastChat's prompts for rating one answer, by name."""
    lines = (files("una_ref.evaluation") / "prompts" / "mt_bench.jsonl").read_text("utf-8").splitlines()
    return {prompt["name"]: prompt for prompt in map(json.loads, lines)}


def judging_request(question: Question, turns: Sequence[str], turn: int) -> tuple[str, Messages]:
    """Name of the prompt and the messages for the judge of one turn (1 or 2)."""
    name = f"single{'-math' if question.reference else ''}-v1{'-multi-turn' if turn == 2 else ''}"
    prompt = judging_prompts()[name]
    values = {"question": question.turns[0], "answer": turns[0]}
    for i in range(2):
        values |= {f"question_{i + 1}": question.turns[i], f"answer_{i + 1}": turns[i]}
        values |= {f"ref_answer_{i + 1}": question.reference[i]} if question.reference else {}
    messages = [
        {"role": "system", "content": prompt["system_prompt"]},
        {"role": "user", "content": prompt["prompt_template"].format(**values)},
    ]
    return name, messages


def judge(
    asked: Sequence[Question],
    turns: Mapping[int, Sequence[str]],
    model: str,
    endpoint: Endpoint,
    results: Results,
    settings: Mapping[str, Any],
) -> list[Values]:
    """The ratings of every question, those in `results` included; see `evaluate`.

    Args:
        asked: the questions.
        turns: question id -> both answers.
        model: name of the model, for FastChat's files.
        endpoint: the judge.
        results: keeps each question's ratings.
        settings: of the task.

    Raises:
        ConnectionError: the judge did not answer some calls. The other ratings are kept.
    """

    def rated(missing: list[int]) -> Iterator[tuple[int, Values | None]]:
        requests = [(turn, *judging_request(asked[i], turns[asked[i].id], turn)) for i in missing for turn in (1, 2)]
        replies = endpoint.ask(
            [messages for *_, messages in requests], lambda reply: text(reply) or None, temperature=0, max_tokens=2048
        )
        both = zip(requests, replies, strict=True)
        for i in missing:
            judgments = [judgment(asked[i], *request, reply) for request, reply in islice(both, 2)]
            yield i, ratings(asked[i].category, judgments) if all(judgments) else None

    def judgment(question: Question, turn: int, name: str, messages: Messages, reply: str | None) -> dict[str, Any]:
        """A line of FastChat's file; empty without a reply."""
        return (
            {}
            if reply is None
            else {
                "question_id": question.id,
                "model": model,
                "judge": [endpoint.model, name],
                "user_prompt": messages[1]["content"],
                "judgment": reply,
                "score": rating(reply),
                "turn": turn,
                "tstamp": time.time(),
            }
        )

    return completed(results, TASK, settings, [str(q.id) for q in asked], rated, unit="question")


def ratings(category: str, judgments: Sequence[Any]) -> dict[str, Any]:
    """The two judgments of a question as an item: one list of ratings a metric. A reply without a rating adds none."""
    first, second = ([j["score"]] if j["score"] != NO_RATING else [] for j in judgments)
    ratings = {"score": first + second, "turn_1": first, "turn_2": second}
    return {**ratings, "category": category, "judgments": list(judgments)}


def means(items: Sequence[Values]) -> list[Score]:
    """Mean rating of both turns, of each turn and of each category; a question is one unit of the standard errors.

    Raises:
        InputError: no reply has a rating.
    """
    if not any(values["score"] for values in items):
        reply = items[0]["judgments"][0]["judgment"] if items else ""
        raise InputError(f"task {TASK}: expected ratings such as [[7]] in the judge's replies, got none; {reply!r:.60}")
    scores = [score(TASK, name, items) for name in ("score", "turn_1", "turn_2") if any(v[name] for v in items)]
    for category in dict.fromkeys(values["category"] for values in items):
        of_category = [{category: values["score"]} for values in items if values["category"] == category]
        if any(values[category] for values in of_category):
            scores.append(score(TASK, category, of_category))
    return scores


def evaluate(
    subject: Subject,
    results: Results,
    endpoint: Endpoint,
    *,
    data_dir: str = "",
    limit: int | None = None,
    decoding: Decoding = DECODING,
) -> dict[str, Any]:
    """Answer the questions, have them rated, write FastChat's files, and return the record. It resumes.

    Args:
        subject: the model.
        results: where items, record and FastChat's files (folder mt_bench) go.
        endpoint: the judge.
        data_dir: folder with the question file; else UNA_REF_DATA.
        limit: number of questions; None: all 80.
        decoding: temperatures are the categories'.

    Raises:
        InputError: no questions, no judge behind the URL, or results of other settings.
        ConnectionError: the judge did not answer some calls.
    """
    began = time.perf_counter()
    everything, references = questions(data_dir)
    asked = limited(everything, limit)
    if any(str(question.id) not in results.items(TASK) for question in asked):
        endpoint.check(max_tokens=1)
    answers = answer(subject, asked, decoding, results)
    settings = {
        **subject.identity,
        "decoding": asdict(replace(decoding, temperature=0)) | {"temperature": TEMPERATURES},
        "judge": endpoint.model,
        "references": references,
        "questions": _digest([asdict(question) for question in everything]),
        "judging_prompts": _digest(judging_prompts()),
    }
    turns = {i: values["turns"] for i, values in answers.items()}
    name = re.sub(r"[^\w.-]+", "-", subject.name).strip("-.")
    items = judge(asked, turns, name, endpoint, results, settings)
    scores = means(items)
    write_files(results, name, endpoint.model, answers, items)
    counts = Counter(ended for values in answers.values() for ended in values["ended"])
    judgments = [judgment for values in items for judgment in values["judgments"]]
    more = {
        "model": subject.name,
        "limit": limit,
        "batch": decoding.batch,
        "seconds": round(time.perf_counter() - began, 1),
        "judged_without_reference": [q.id for q in asked if q.category in WITH_REFERENCE and not q.reference],
        "answers_cut": counts[False],
        "answers": counts.total(),
        "replies_without_rating": sum(judgment["score"] == NO_RATING for judgment in judgments),
    }
    return results.finish(TASK, scores, settings, **more)


def write_files(
    results: Results, model: str, judge_model: str, answers: Mapping[int, Values], items: Sequence[Values]
) -> None:
    """FastChat's model_answer/MODEL.jsonl and model_judgment/JUDGE_single.jsonl, in the folder mt_bench."""
    lines = [
        {
            "question_id": number,
            "answer_id": _digest([model, values["turns"]]),
            "model_id": model,
            "choices": [{"index": 0, "turns": values["turns"]}],
            "tstamp": time.time(),
        }
        for number, values in sorted(answers.items())
    ]
    judgments = [judgment for values in items for judgment in values["judgments"]]
    name = re.sub(r"[^\w.-]+", "-", judge_model).strip("-.")
    for folder, file, rows in (
        ("model_answer", f"{model}.jsonl", lines),
        ("model_judgment", f"{name}_single.jsonl", judgments),
    ):
        path = results.folder / "mt_bench" / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
