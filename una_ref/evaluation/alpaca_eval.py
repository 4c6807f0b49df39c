"""AlpacaEval 2: answers to 805 instructions, each compared with a baseline's by an LLM that says m or M.

Prompt, parsing, order of the two answers and files are those of `weighted_alpaca_eval_gpt4_turbo`, so that AlpacaEval's
tools read our files. Output 1 is the baseline's, output 2 the model's. A preference lies in [1, 2]: 1 + the judge's
probability that the model's answer is better.

Dubois et al. 2024, https://arxiv.org/abs/2404.04475; https://github.com/tatsu-lab/alpaca_eval (Apache-2.0), from which
`prompts/alpaca_eval.txt` comes. Its data are CC BY-NC 4.0, and are not part of this package.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.evaluation import data_files
from una_ref.evaluation.generation import Decoding, Response, answers, item_names, limited
from una_ref.evaluation.length_controlled import length_controlled, read_gamed, win_rate
from una_ref.evaluation.store import Results, Score, Values, completed
from una_ref.evaluation.subject import Subject
from una_ref.policies.endpoint import Endpoint, Messages
from una_ref.training.checkpoints import write_text

TASK, ANSWERS = "alpaca-eval", "alpaca-eval.answers"
HUB = "tatsu-lab/alpaca_eval"
BASELINE = ("alpaca_eval_gpt4_baseline.json", "alpaca_eval/alpaca_eval_gpt4_baseline.json")
GAMED = ("df_gamed.csv", "alpaca_eval/df_gamed.csv")
DECODING = Decoding(max_new=2048)
JUDGING = {"temperature": 1, "max_tokens": 1, "logprobs": True, "top_logprobs": 5}
"""AlpacaEval's options of a call. The probabilities of the first token are read, so nothing is sampled."""


@dataclass(frozen=True)
class Instruction:
    """An instruction with the baseline's answer; `index` is its place in the benchmark."""

    index: int
    text: str
    baseline: str
    generator: str
    dataset: str


def instructions(data_dir: str = "") -> list[Instruction]:
    """The benchmark: from the data folder or UNA_REF_DATA, else from the hub.

    Raises:
        InputError: no file, a malformed one, or an instruction that stands in it twice.
    """
    file = data_files.find(BASELINE, data_dir) or data_files.from_hub(HUB, BASELINE[0], TASK)
    rows = data_files.records(file, ("instruction", "output"))
    made = [
        Instruction(i, row["instruction"], row["output"], row.get("generator", "baseline"), row.get("dataset", ""))
        for i, row in enumerate(rows)
    ]
    if len({each.text for each in made}) < len(made):
        raise InputError(f"{file}: expected every instruction once, got one twice")
    return made


# ---- the judge


def is_switched(instruction: str) -> bool:
    """Whether the judge sees the model's answer first: AlpacaEval's random order, a function of the instruction."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


def judging_request(instruction: str, baseline: str, output: str) -> Messages:
    """The messages for the judge."""
    first, second = (output, baseline) if is_switched(instruction) else (baseline, output)
    values = {"instruction": instruction, "output_1": first, "output_2": second}
    prompt = (files("una_ref.evaluation") / "prompts" / "alpaca_eval.txt").read_text("utf-8")
    messages = []
    for turn in prompt.split("<|im_start|>")[1:]:
        role, _, content = turn.partition("\n")
        content = content.split("<|im_end|>")[0].strip()
        content = re.sub(r"\{(instruction|output_[12])\}", lambda match: values[match[1]], content)
        messages.append({"role": role.strip(), "content": content.strip()})
    return messages


def first_is_better(completion: Any) -> float:
    """P(m) / (P(m) + P(M)) of a reply's first token; NaN where neither is among its most probable tokens.

    Raises:
        TypeError: a reply without the probabilities of tokens.
    """
    logps = {token.token: token.logprob for token in completion.choices[0].logprobs.content[0].top_logprobs}
    first, second = (math.exp(logps[letter]) if letter in logps else 0.0 for letter in "mM")
    return first / (first + second) if first + second else math.nan


def annotate(
    model: str,
    asked: Sequence[Instruction],
    outputs: Sequence[str],
    endpoint: Endpoint,
    results: Results,
    settings: Mapping[str, Any],
) -> list[Values]:
    """The annotation of every answer, in AlpacaEval's format; those in `results` are not asked for again.

    A reply without m or M has no preference; such an answer is left out of the win rate and counted.

    Raises:
        ConnectionError: the judge did not answer some calls. The other annotations are kept.
    """

    def compared(missing: list[int]) -> Iterator[tuple[int, Values | None]]:
        requests = [judging_request(asked[i].text, asked[i].baseline, outputs[i]) for i in missing]
        shares = endpoint.ask(requests, first_is_better, **JUDGING)
        for i, share in zip(missing, shares, strict=True):
            yield i, None if share is None else annotation(i, share if is_switched(asked[i].text) else 1 - share)

    def annotation(i: int, win: float) -> Values:
        each = asked[i]
        line = {
            "instruction": each.text,
            "output_1": each.baseline,
            "generator_1": each.generator,
            "output_2": outputs[i],
            "generator_2": model,
            "dataset": each.dataset,
            "annotator": f"weighted_alpaca_eval {endpoint.model}",
            "preference": None if math.isnan(win) else 1 + win,
        }
        return {"win_rate": [] if math.isnan(win) else [win], "index": each.index, "annotation": line}

    names = item_names([Row(each.text, ()) for each in asked])
    return completed(results, TASK, settings, names, compared, unit="instruction")


# ---- rates


def rates(items: Sequence[Values], everything: Sequence[Instruction], data_dir: str = "") -> tuple[list[Score], str]:
    """The scores, as shares in [0, 1], and why there is no length-controlled one; empty if there is one.

    Rows are matched with their difficulty by instruction. The length-controlled rate is fitted on the whole benchmark
    only: on a part of it, or without the gamed baselines, it would be off by up to three points.

    Args:
        items: the annotations, see `annotate`.
        everything: the whole benchmark.
        data_dir: folder with df_gamed.csv; else UNA_REF_DATA or the hub.

    Raises:
        InputError: no reply has a preference.
    """
    shares = np.array([values["win_rate"][0] if values["win_rate"] else math.nan for values in items])
    known = shares[~np.isnan(shares)]
    if not len(known):
        raise InputError(f"task {TASK}: expected m or M in the judge's replies, got neither in any of {len(items)}")
    rate = win_rate(known)
    scores = [Score(TASK, "win_rate", rate.value, rate.stderr, len(known))]
    if len(items) < len(everything):
        return scores, f"expected all {len(everything)} instructions, got {len(items)}"
    try:
        gamed = read_gamed(data_files.find(GAMED, data_dir) or data_files.from_hub(HUB, GAMED[0], TASK))
        places = {each.text: each.index for each in everything}
        annotations = [values["annotation"] for values in items]
        index = [places[annotation["instruction"]] for annotation in annotations]
        differences = np.array([len(a["output_1"]) - len(a["output_2"]) for a in annotations], float)
        fit = length_controlled(shares, differences, gamed.difficulties(len(everything))[index], gamed)
    except InputError as error:
        return scores, str(error)
    controlled = Score(TASK, "length_controlled_win_rate", fit.rate.value, fit.rate.stderr, len(items))
    return [*scores, controlled], ""


def evaluate(
    subject: Subject,
    results: Results,
    endpoint: Endpoint,
    *,
    data_dir: str = "",
    limit: int | None = None,
    decoding: Decoding = DECODING,
) -> dict[str, Any]:
    """Answer the instructions, have them compared, write AlpacaEval's files, and return the record. It resumes.

    Args:
        subject: the model.
        results: where items, record and AlpacaEval's files (folder alpaca_eval) go.
        endpoint: the judge; it has to return the probabilities of tokens.
        data_dir: folder with the baseline's answers and df_gamed.csv; else UNA_REF_DATA or the hub.
        limit: number of instructions; None: all 805.
        decoding: of the answers.

    Raises:
        InputError: no data, no judge behind the URL, or results of other settings.
        ConnectionError: the judge did not answer some calls.
    """
    began = time.perf_counter()
    everything = instructions(data_dir)
    asked = limited(everything, limit)
    rows = [Row(each.text, (), source=f"instruction {each.index}") for each in asked]
    if any(name not in results.items(TASK) for name in item_names(rows)):
        endpoint.check(lambda completion: completion.choices[0].logprobs.content[0].top_logprobs, **JUDGING)
    responses = [response for (response,) in answers(subject, rows, decoding, results, ANSWERS)]
    settings = {
        **subject.identity,
        "decoding": asdict(decoding),
        "judge": endpoint.model,
        "baseline": everything[0].generator,
        "instructions": len(everything),
    }
    name = re.sub(r"[^\w.-]+", "-", subject.name).strip("-.")
    items = annotate(name, asked, [response.text for response in responses], endpoint, results, settings)
    scores, reason = rates(items, everything, data_dir)
    write_files(results, name, asked, responses, items)
    more = {
        "model": subject.name,
        "limit": limit,
        "batch": decoding.batch,
        "seconds": round(time.perf_counter() - began, 1),
        "answers_cut": sum(not response.ended for response in responses),
        "answers": len(responses),
        "replies_without_preference": sum(not values["win_rate"] for values in items),
        "average_length": sum(len(response.text) for response in responses) / len(responses),
        "no_length_controlled_win_rate": reason,
    }
    return results.finish(TASK, scores, settings, **more)


def write_files(
    results: Results, model: str, asked: Sequence[Instruction], responses: Sequence[Response], items: Sequence[Values]
) -> None:
    """AlpacaEval's model_outputs.json and annotations.json, in the folder alpaca_eval."""
    outputs = [
        {"instruction": each.text, "output": response.text, "generator": model, "dataset": each.dataset}
        for each, response in zip(asked, responses, strict=True)
    ]
    folder = results.folder / "alpaca_eval"
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in (
        ("model_outputs.json", outputs),
        ("annotations.json", [values["annotation"] for values in items]),
    ):
        write_text(folder / file, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
