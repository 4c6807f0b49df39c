"""MT-Bench with FastChat's files and prompts, against a local server as the judge, and on 800 real judgments."""

import gzip
import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from una_ref.errors import InputError
from una_ref.evaluation import mt_bench
from una_ref.evaluation.generation import Decoding
from una_ref.evaluation.mt_bench import Question, judging_prompts, judging_request, means, rating, ratings
from una_ref.evaluation.store import Results
from una_ref.policies.endpoint import Endpoint

CATEGORIES = ("writing", "math", "stem", "coding")
HOW = Decoding(max_new=6, batch=2)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with four questions."""
    monkeypatch.delenv("UNA_REF_DATA", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"question_id": 81 + i, "category": category, "turns": [f"How is rain {i}?", "And a {spider}?"]}
        | ({"reference": [f"first {i}", f"second {i}"]} if category in ("math", "coding") else {})
        for i, category in enumerate(CATEGORIES)
    ]
    (folder / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def judge_at(url):
    return Endpoint("org/judge", url, retries=0, timeout=5.0)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("judgment", "expected"),
    [
        ("Good. Rating: [[8]]", 8),
        ("[[7.5]]", 7.5),
        ("I give [[3]], not [[9]].", 3),
        ("Point [1] is wrong. Rating: [[4]]", 4),
        ("Rating: [6]", 6),
        ("Rating: 6", -1),
        ("[[six]]", -1),
        ("", -1),
    ],
)
def test_rating_is_the_first_in_double_brackets_else_in_single_ones(judgment, expected):
    assert rating(judgment) == expected


def test_request_is_fastchats_for_the_category_and_the_turn():
    plain, math = Question(81, "writing", ("q1", "q2")), Question(111, "math", ("q1", "q2"), ("r1", "r2"))
    assert [judging_request(q, ("a1", "a2"), t)[0] for q in (plain, math) for t in (1, 2)] == [
        *("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
    ]
    _, (system, user) = judging_request(math, ("a{1}", "a2"), 1)
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    assert user["content"].endswith(
        "[Question]\nq1\n\n[The Start of Reference Answer]\nr1\n[The End of Reference Answer]\n\n"
        "[The Start of Assistant's Answer]\na{1}\n[The End of Assistant's Answer]"
    )
    assert "q2" not in user["content"] and "a2" not in user["content"]
    _, (system, user) = judging_request(plain, ("a1", "a2"), 2)
    assert "the assistant's answer to the second user question" in system["content"]
    talk = "### User:\nq1\n\n### Assistant A:\na1\n\n### User:\nq2\n\n### Assistant A:\na2\n\n"
    talk = f"<|The Start of X|>\n\n{talk}<|The End of X|>"
    assert user["content"] == talk.replace("X", "Assistant A's Conversation with User")


def test_judging_prompts_have_fastchats_fields():
    for name, prompt in judging_prompts().items():
        assert prompt["name"] == name and prompt["type"] == "single" and prompt["output_format"] == "[[rating]]"
        assert 'following this format: "[[rating]]", for example: "Rating: [[5]]".' in "".join(prompt.values())


def test_second_turn_sees_the_first_answer_at_the_categorys_temperature(tiny_subject, data, tmp_path, monkeypatch):
    seen = []
    respond = mt_bench.respond

    def recorded(subject, rows, decoding):
        seen.extend((row.prompt, decoding.temperature) for row in rows)
        return respond(subject, rows, decoding)

    monkeypatch.setattr(mt_bench, "respond", recorded)
    asked, source = mt_bench.questions(str(data))
    found = mt_bench.answer(tiny_subject, asked, HOW, Results(tmp_path / "r"))
    assert source == "question file" and len(seen) == 8
    temperatures = {"writing": 0.7, "math": 0.0, "stem": 0.1, "coding": 0.0}
    for question in asked:
        first, second = [(talk, t) for talk, t in seen if talk[0]["content"] == question.turns[0]]
        assert first[1] == second[1] == temperatures[question.category]
        answer = found[question.id]["turns"][0]
        assert [m["content"] for m in second[0]] == [question.turns[0], answer, question.turns[1]]


def test_whole_evaluation_writes_fastchats_files(tiny_subject, data, tmp_path, judge_server):
    def reply(messages, number):
        if number == 1:  # looks whether the judge is there
            return "m"
        turn = 2 if "Conversation with User" in messages[1]["content"] else 1
        return "No rating." if "rain 2" in messages[1]["content"] and turn == 2 else f"Fine. [[{3 * turn}]]"

    results = Results(tmp_path / "r")
    with judge_server(reply) as (url, requests):
        record = mt_bench.evaluate(tiny_subject, results, judge_at(url), data_dir=str(data), decoding=HOW)
    asked = requests[1:]
    assert len(asked) == 8 and all(r["temperature"] == 0 and r["max_tokens"] == 2048 for r in asked)
    scores = {score["metric"]: score for score in record["scores"]}
    assert scores["score"]["value"] == pytest.approx((4 * 3 + 3 * 6) / 7)
    assert scores["turn_1"]["value"] == 3 and scores["turn_2"]["value"] == 6 and scores["stem"]["value"] == 3
    assert scores["math"]["value"] == 4.5 and scores["score"]["items"] == 4
    assert record["replies_without_rating"] == 1 and record["answers"] == 8
    assert record["settings"]["judge"] == "org/judge" and record["settings"]["decoding"]["max_new"] == 6
    (answers,) = (results.folder / "mt_bench/model_answer").iterdir()
    model = answers.stem
    for line in lines(answers):
        assert {*line} == {"question_id", "answer_id", "model_id", "choices", "tstamp"} and line["model_id"] == model
        assert line["choices"][0]["index"] == 0 and len(line["choices"][0]["turns"]) == 2
    judgments = lines(results.folder / "mt_bench/model_judgment/org-judge_single.jsonl")
    assert [(j["question_id"], j["turn"]) for j in judgments] == [(81 + i, t) for i in range(4) for t in (1, 2)]
    fields = {"question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"}
    assert all({*j} == fields and j["model"] == model for j in judgments)
    assert judgments[5]["score"] == -1 and judgments[5]["judge"] == ["org/judge", "single-v1-multi-turn"]
    assert judgments[2]["judge"] == ["org/judge", "single-math-v1"] and "first 1" in judgments[2]["user_prompt"]


def test_judge_that_stops_in_the_middle_is_asked_for_the_rest_only(tiny_subject, data, tmp_path, judge_server):
    def breaks(messages, number):
        return (400, {"error": {"message": "too long"}}) if "rain 1" in messages[1]["content"] else "[[5]]"

    results = Results(tmp_path / "r")
    options = {"data_dir": str(data), "decoding": HOW}
    with (
        judge_server(lambda m, n: "ok" if n == 1 else breaks(m, n)) as (url, _),
        pytest.raises(ConnectionError, match="expected an answer about 4 questions, got none about 1. Fix: repeat"),
    ):
        mt_bench.evaluate(tiny_subject, results, judge_at(url), **options)
    assert results.record("mt-bench") is None and not (results.folder / "mt_bench").exists()
    with judge_server(lambda m, n: "[[5]]") as (url, requests):
        record = mt_bench.evaluate(tiny_subject, results, judge_at(url), **options)
    assert len(requests) == 1 + 2 and record["scores"][0]["items"] == 4
    again = mt_bench.evaluate(tiny_subject, results, judge_at(url), **options)  # needs no judge any more
    assert again["scores"] == record["scores"]


def test_no_judge_behind_the_url_is_refused_before_any_answer(tiny_subject, data, tmp_path, judge_server):
    with judge_server(lambda m, n: "") as (url, _):
        pass
    with pytest.raises(InputError, match=f"judge org/judge at {url}: expected a chat completion, got Connection error"):
        mt_bench.evaluate(tiny_subject, Results(tmp_path / "r"), judge_at(url), data_dir=str(data), decoding=HOW)
    assert not (tmp_path / "r").exists()


def test_judge_that_never_rates_is_refused_with_its_words(tiny_subject, data, tmp_path, judge_server):
    with (
        judge_server(lambda m, n: "I cannot say.") as (url, _),
        pytest.raises(InputError, match=r"expected ratings such as \[\[7\]\].*got none; 'I cannot say.'"),
    ):
        mt_bench.evaluate(tiny_subject, Results(tmp_path / "r"), judge_at(url), data_dir=str(data), decoding=HOW)


def test_gpt4s_reference_answers_come_before_those_of_the_question_file(data):
    folder = data / "reference_answer"
    folder.mkdir()
    (folder / "gpt-4.jsonl").write_text(json.dumps({"question_id": 82, "choices": [{"turns": ["g1", "g2"]}]}) + "\n")
    asked, source = mt_bench.questions(str(data))
    assert source == "gpt-4" and [q.reference for q in asked] == [(), ("g1", "g2"), (), ("first 3", "second 3")]


def test_missing_or_malformed_questions_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"expected mt_bench_questions.jsonl in .*, got no such file. Fix: --data-dir"):
        mt_bench.questions(str(tmp_path))
    file = data / "question.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace('["first 1", ', "["))
    with pytest.raises(InputError, match="question 82: expected two turns, and two reference answers .*, got 2 and 1"):
        mt_bench.questions(str(data))
    file.write_text("{half a")
    with pytest.raises(InputError, match="question.jsonl: expected JSON or JSON Lines"):
        mt_bench.questions(str(data))


@pytest.fixture(scope="module")
def judgments():
    """The 800 real judgments."""
    file = Path(os.environ.get("UNA_REF_DATA", ""), "preferences/mt_bench_judgments/gpt-4_single.jsonl.gz")
    if not os.environ.get("UNA_REF_DATA") or not file.exists():
        pytest.skip("UNA_REF_DATA has no preferences/mt_bench_judgments")
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def test_real_judgments_have_the_ratings_and_means_that_fastchat_recorded(judgments):
    assert len(judgments) == 800
    assert [rating(j["judgment"]) for j in judgments] == [j["score"] for j in judgments]
    category = {q.id: q.category for q in mt_bench.questions()[0]}
    models = defaultdict(lambda: defaultdict(dict))
    for judgment in judgments:
        models[judgment["model"]][judgment["question_id"]][judgment["turn"]] = judgment
    assert len(models) == 5
    for model, of_question in models.items():
        items = [ratings(category[i], [turns[1], turns[2]]) for i, turns in of_question.items()]
        found = {score.metric: score.value for score in means(items)}
        recorded = [j["score"] for j in judgments if j["model"] == model]
        assert found["score"] == pytest.approx(sum(recorded) / 160, abs=1e-12)
        second = [j["score"] for j in judgments if j["model"] == model and j["turn"] == 2]
        assert found["turn_2"] == pytest.approx(sum(second) / 80, abs=1e-12)
        assert len(found) == 3 + 8


def test_real_judgments_used_the_prompts_that_we_choose(judgments):
    asked = {q.id: q for q in mt_bench.questions()[0]}
    assert [q.id for q in asked.values() if q.category in mt_bench.WITH_REFERENCE and not q.reference] == [123]
    asked[123] = replace(asked[123], reference=("r", "r"))  # GPT-4's answer was there
    for judgment in judgments:
        name, _ = judging_request(asked[judgment["question_id"]], ("a", "b"), judgment["turn"])
        assert name == judgment["judge"][1]
