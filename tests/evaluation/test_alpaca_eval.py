"""AlpacaEval with its own prompt, order and files, against a local server as the judge."""

import csv
import gzip
import json
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from una_ref.errors import InputError
from una_ref.evaluation import alpaca_eval
from una_ref.evaluation.alpaca_eval import is_switched, judging_request, rates
from una_ref.evaluation.generation import Decoding
from una_ref.evaluation.length_controlled import win_rate
from una_ref.evaluation.store import Results
from una_ref.policies.endpoint import Endpoint

HOW = Decoding(max_new=8, batch=4)
COUNT = 6


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with six instructions, the baseline's answers and the gamed baselines."""
    monkeypatch.delenv("UNA_REF_DATA", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"dataset": "koala", "instruction": f"Rain {i}? {{output_1}}", "output": "word " * i, "generator": "gpt4"}
        for i in range(COUNT)
    ]
    (folder / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(rows))
    rng = np.random.default_rng(0)
    with (folder / "df_gamed.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"])
        out.writerows([rng.random(), i, rng.normal(), i / 3 - 1, False] for _ in range(2) for i in range(COUNT))
    return folder


def judge_at(url):
    return Endpoint("org/judge", url, retries=0, timeout=5.0)


def shown(messages):
    """Both outputs of a request, in its order."""
    parts = messages[-1]["content"].split('"output": """')
    return [part.split('"""')[0] for part in parts[1:]]


@pytest.fixture
def likes(completion_body):
    """likes(text): a judge that gives 0.8 to the output that contains the text, and 0.5 each without one."""

    def make(text):
        def reply(messages, number):
            outputs = shown(messages)
            share = 0.8 if outputs and text in outputs[0] else 0.2 if outputs and text in outputs[1] else 0.5
            return completion_body("m", [("m", math.log(share * 0.9)), ("M", math.log(0.9 - share * 0.9)), ("x", -3)])

        return reply

    return make


def test_order_is_a_function_of_the_instruction():
    # RandomSwitchTwoColumnsProcessor(seed=0) of AlpacaEval 0.6.6 draws these for the same instructions.
    assert [is_switched(text) for text in "abcdef"] == [True, True, False, False, False, True]
    assert 400 < sum(is_switched(str(i)) for i in range(1000)) < 600


def test_request_holds_both_outputs_in_order_and_reads_no_placeholder_in_them():
    for text in ("a", "c"):
        system, user = judging_request(text, "base {output_2}", "mine {instruction}")
        assert system["role"] == "system" and system["content"].startswith("You are a highly efficient assistant")
        outputs = ["base {output_2}", "mine {instruction}"]
        assert shown([system, user]) == (outputs[::-1] if is_switched(text) else outputs)
        assert f'"instruction": """{text}"""' in user["content"]
        assert user["content"].startswith("I require a leaderboard") and user["content"].endswith("Identifier")


def test_whole_evaluation_has_the_win_rate_of_the_judge_and_alpaca_evals_files(
    tiny_subject, data, tmp_path, judge_server, likes
):
    results = Results(tmp_path / "r")
    with judge_server(likes("word ")) as (url, requests):
        record = alpaca_eval.evaluate(tiny_subject, results, judge_at(url), data_dir=str(data), decoding=HOW)
    options = {"temperature": 1, "max_tokens": 1, "logprobs": True, "top_logprobs": 5}
    assert len(requests) == COUNT + 1 and all(options.items() <= request.items() for request in requests)
    scores = {score["metric"]: score for score in record["scores"]}
    # The baseline's answer is liked wherever it has a word; the first one is empty, so there the model's own counts.
    outputs = json.loads((results.folder / "alpaca_eval/model_outputs.json").read_text())
    first = 0.8 if "word " in outputs[0]["output"] else 0.5
    assert scores["win_rate"]["value"] == pytest.approx((first + 0.2 * (COUNT - 1)) / COUNT, abs=1e-6)
    assert 0 < scores["length_controlled_win_rate"]["value"] < 1 and record["no_length_controlled_win_rate"] == ""
    assert record["scores"][0]["metric"] == "win_rate" and record["answers"] == COUNT
    assert all({*line} == {"instruction", "output", "generator", "dataset"} for line in outputs)
    annotations = json.loads((results.folder / "alpaca_eval/annotations.json").read_text())
    for i, annotation in enumerate(annotations):
        assert annotation["output_1"] == "word " * i and annotation["generator_1"] == "gpt4"
        assert annotation["output_2"] == outputs[i]["output"] and annotation["dataset"] == "koala"
        assert 1 <= annotation["preference"] <= 2
    assert annotations[3]["preference"] == pytest.approx(1.2)


def test_reply_without_m_or_capital_m_is_counted_and_left_out(
    tiny_subject, data, tmp_path, judge_server, likes, completion_body
):
    def reply(messages, number):
        if "Rain 2" in messages[-1]["content"]:
            return completion_body("Both", [("Both", -0.1), ("The", -3)])
        return likes("word ")(messages, number)

    results = Results(tmp_path / "r")
    with judge_server(reply) as (url, _):
        record = alpaca_eval.evaluate(tiny_subject, results, judge_at(url), data_dir=str(data), decoding=HOW)
    assert record["replies_without_preference"] == 1 and record["scores"][0]["items"] == COUNT - 1
    annotations = json.loads((results.folder / "alpaca_eval/annotations.json").read_text())
    assert [a["preference"] is None for a in annotations] == [i == 2 for i in range(COUNT)]


def test_part_of_the_benchmark_has_no_length_controlled_rate(tiny_subject, data, tmp_path, judge_server, likes):
    with judge_server(likes("word ")) as (url, _):
        options = {"data_dir": str(data), "decoding": HOW, "limit": 3}
        record = alpaca_eval.evaluate(tiny_subject, Results(tmp_path / "r"), judge_at(url), **options)
    assert [score["metric"] for score in record["scores"]] == ["win_rate"]
    assert record["no_length_controlled_win_rate"] == "expected all 6 instructions, got 3"


def test_difficulties_are_found_by_instruction_whatever_the_order_of_the_rows(data):
    everything = alpaca_eval.instructions(str(data))
    rng = np.random.default_rng(2)
    items = []
    for each in everything:
        output = "x" * int(rng.integers(1, 50))
        win = float(expit(rng.normal()))
        annotation = {"instruction": each.text, "output_1": each.baseline, "output_2": output}
        items.append({"win_rate": [win], "annotation": annotation})
    in_order, reversed_order = (rates(rows, everything, str(data))[0] for rows in (items, items[::-1]))
    assert [s.value for s in in_order] == pytest.approx([s.value for s in reversed_order], abs=1e-7)


def test_missing_gamed_baselines_leave_the_win_rate_and_say_why(data, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (data / "df_gamed.csv").unlink()
    everything = alpaca_eval.instructions(str(data))
    annotation = {"output_1": "a", "output_2": "bb"}
    items = [{"win_rate": [0.5], "annotation": annotation | {"instruction": each.text}} for each in everything]
    scores, reason = rates(items, everything, str(data))
    assert [score.metric for score in scores] == ["win_rate"]
    assert "expected df_gamed.csv in the data folder or in tatsu-lab/alpaca_eval on the hub, got neither" in reason


def test_judge_without_token_probabilities_is_refused_before_any_answer(tiny_subject, data, tmp_path, judge_server):
    with (
        judge_server(lambda messages, number: "m") as (url, _),
        pytest.raises(InputError, match="expected a chat completion with top_logprobs, got a reply without it: 'm'"),
    ):
        alpaca_eval.evaluate(tiny_subject, Results(tmp_path / "r"), judge_at(url), data_dir=str(data), decoding=HOW)
    assert not (tmp_path / "r").exists()


def test_judge_that_fails_is_asked_for_the_rest_only(tiny_subject, data, tmp_path, judge_server, likes):
    def reply(messages, number):
        if "Rain 4" in messages[-1]["content"]:
            return 400, {"error": {"message": "too long"}}
        return likes("word ")(messages, number)

    results, options = Results(tmp_path / "r"), {"data_dir": str(data), "decoding": HOW}
    with (
        judge_server(reply) as (url, _),
        pytest.raises(ConnectionError, match="expected an answer about 6 instructions, got none about 1"),
    ):
        alpaca_eval.evaluate(tiny_subject, results, judge_at(url), **options)
    assert not (results.folder / "alpaca_eval").exists()
    with judge_server(likes("word ")) as (url, requests):
        alpaca_eval.evaluate(tiny_subject, results, judge_at(url), **options)
    assert len(requests) == 2


def test_instructions_that_repeat_or_are_missing_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="expected alpaca_eval_gpt4_baseline.json in .*, got neither"):
        alpaca_eval.instructions(str(tmp_path))
    file = data / "alpaca_eval_gpt4_baseline.json"
    file.write_text(json.dumps(json.loads(file.read_text()) * 2))
    with pytest.raises(InputError, match="expected every instruction once, got one twice"):
        alpaca_eval.instructions(str(data))


PUBLISHED = {
    "alpaca-7b": 2.59,
    "vicuna-7b-v1.5": 4.80,
    "gemma-7b-it": 6.94,
    "OpenHermes-2.5-Mistral-7B": 10.34,
    "Mixtral-8x7B-Instruct-v0.1_concise": 13.74,
    "FuseChat-Llama-3.2-1B-Instruct": 29.92,
    "FuseChat-Llama-3.2-3B-Instruct": 51.30,
    "FuseChat-Gemma-2-9B-Instruct": 70.50,
}
"""Win rates in percent on all 805 instructions, from AlpacaEval's leaderboard of weighted_alpaca_eval_gpt4_turbo."""


def test_real_preferences_give_the_published_win_rates_up_to_the_missing_instructions():
    # The file has 649 of the 805 instructions, so a rate differs by the sampling error of a finite population. It has
    # no answers of the baseline and no difficulties, so the length-controlled rates cannot be computed from it.
    file = Path(os.environ.get("UNA_REF_DATA", ""), "alpaca_eval_scores.jsonl.gz")
    if not os.environ.get("UNA_REF_DATA") or not file.exists():
        pytest.skip("UNA_REF_DATA has no alpaca_eval_scores.jsonl.gz")
    scores = defaultdict(list)
    for line in gzip.decompress(file.read_bytes()).splitlines():
        row = json.loads(line)
        scores[row["generator"]].append(row["score"])
    for model, published in PUBLISHED.items():
        rate = win_rate(np.array(scores[model]))
        assert rate.stderr is not None and len(scores[model]) == 649
        assert 100 * rate.value == pytest.approx(published, abs=300 * rate.stderr * math.sqrt(1 - 649 / 805))
