"""An LLM judge, against a real local server that replies well, badly, late or not at all."""

import json
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from una_ref import cli
from una_ref.data.sources import read
from una_ref.errors import InputError
from una_ref.policies.answers import Answer
from una_ref.policies.endpoint import NAME
from una_ref.policies.judge import Judge
from una_ref.policies.reward_sources import reward_source


def completion(text):
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }


def longer(first, second, call):
    """The longer answer wins."""
    return completion("[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]")


@pytest.fixture
def served(loopback):
    """served(reply): a context with the URL of a judge and its calls; reply(first, second, call) is its answer."""

    @contextmanager
    def serve(reply):
        calls = []

        def answer(request, number):
            body = json.loads(request.body)
            user = body["messages"][-1]["content"]
            first, second = (re.search(rf"\[answer {x}\]\n(.*?)\n\[end", user, re.DOTALL)[1] for x in "AB")
            key = request.headers["Authorization"]
            calls.append({"path": request.path, "key": key, "first": first, "user": user} | body)
            return reply(first, second, number)

        with loopback(answer) as url:
            yield f"{url}/v1", calls

    return serve


def judge_at(url, **options):
    return Judge("some/model", url, **{"retries": 1, "wait": 0.01, "timeout": 5.0} | options)


ANSWERS = [Answer("Why?", text) for text in ("a", "bbb", "cc", "ddd")]


def test_score_is_the_mean_win_rate_over_the_other_answers(served, monkeypatch):
    # By length: bbb and ddd beat two and tie (2.5/3), cc beats a (1/3), a beats none.
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    with served(longer) as (url, calls):
        scores = judge_at(url)(ANSWERS)
    assert scores == pytest.approx([0, 2.5 / 3, 1 / 3, 2.5 / 3])
    assert sum(scores) == pytest.approx(4 / 2)
    assert len(calls) == 4 * 3 and len({(c["first"], c["user"]) for c in calls}) == 12
    for call in calls:
        assert call["path"] == "/v1/chat/completions" and call["model"] == "some/model" and call["temperature"] == 0
        assert call["key"] == "Bearer a-secret"
        assert call["user"].startswith("[prompt]\nWhy?\n")


@pytest.mark.parametrize("always", ["A", "B", "C"])
def test_judge_that_only_looks_at_the_position_gives_one_half(served, always):
    with served(lambda first, second, call: completion(f"[[{always}]]")) as (url, _):
        assert judge_at(url)(ANSWERS) == [0.5] * 4


def test_reversed_verdicts_reverse_the_scores(served):
    def shorter(first, second, call):
        return longer(second, first, call)

    with served(longer) as (url, _), served(shorter) as (other, _):
        assert judge_at(other)(ANSWERS) == pytest.approx([1 - score for score in judge_at(url)(ANSWERS)])


def test_answers_are_compared_within_their_prompt_and_group(served):
    talk = ({"role": "system", "content": "Be."}, {"role": "user", "content": "Why?"})
    answers = [
        *(Answer("p", "a"), Answer(talk, "bbbb"), Answer("p", "bb"), Answer(talk, "a")),
        *(Answer("p", "aaa", group=1), Answer("p", "a", group=1)),
    ]
    with served(longer) as (url, calls):
        assert judge_at(url)(answers) == [0, 1, 1, 0, 1, 0]
    assert len(calls) == 6
    assert sum("[prompt]\nsystem: Be.\n\nuser: Why?\n" in call["user"] for call in calls) == 2


def test_equal_answers_tie_without_a_call(served):
    with served(lambda first, second, call: completion("[[A]]")) as (url, calls):
        assert judge_at(url)([Answer("p", "same"), Answer("p", "same")]) == [0.5, 0.5]
    assert not calls


def test_single_answer_is_refused(served):
    with (
        served(longer) as (url, _),
        pytest.raises(InputError, match=r"expected two or more answers to compare, got one to 'Why\?'"),
    ):
        judge_at(url)([Answer("How?", "a"), Answer("How?", "b"), Answer("Why?", "c")])


@pytest.mark.parametrize("status", [500, 503, 429])
def test_temporary_error_is_retried_after_a_wait(served, status):
    def reply(first, second, call):
        return (status, {"error": {"message": "busy"}}) if call <= 2 else longer(first, second, call)

    with served(reply) as (url, calls):
        began = time.monotonic()
        assert judge_at(url, workers=1, retries=2)(ANSWERS[:2]) == [0, 1]
        assert time.monotonic() - began > 0.375 + 0.75, (
            "the client waits half a second and one second, minus a jitter of ¼"
        )
    assert len(calls) == 4


def test_lasting_error_gives_no_scores_and_few_calls(served, caplog):
    with served(lambda *_: (500, {"error": {"message": "broken"}})) as (url, calls), caplog.at_level(logging.WARNING):
        assert (
            judge_at(url, workers=2)([*ANSWERS[:2], Answer("q", "a"), Answer("q", "b"), Answer("q", "c")]) == [None] * 5
        )
    # Two tries of two parallel calls; the other pairs are not sent (one more may be under way).
    assert 4 <= len(calls) <= 6
    assert "judge some/model: 8 of 8 calls without a verdict: not sent, the server does not answer" in caplog.text


def test_failures_that_are_not_in_a_row_do_not_stop_the_calls(served, monkeypatch):
    # One thread and two failures in a row as the limit, so that the order of the calls is known.
    monkeypatch.setattr("una_ref.policies.endpoint.ThreadPoolExecutor", lambda workers: ThreadPoolExecutor(1))
    with served(lambda first, second, call: (500, "") if call % 2 else longer(first, second, call)) as (url, calls):
        judge_at(url, workers=2, retries=0)(ANSWERS[:3])
    assert len(calls) == 6


def test_failed_call_takes_the_scores_of_its_two_answers_only(served):
    # The call for bbb against cc always fails in one order. Both lose their scores; the others keep three opponents.
    def reply(first, second, call):
        return (500, "") if (first, second) == ("bbb", "cc") else longer(first, second, call)

    with served(reply) as (url, _):
        scores = judge_at(url)(ANSWERS)
    assert scores == [0, None, None, pytest.approx(2.5 / 3)]


def test_slow_server_is_called_again_and_then_given_up(served):
    def late(until):
        def reply(first, second, call):
            if call <= until:
                time.sleep(1.5)
            return longer(first, second, call)

        return reply

    with served(late(1)) as (url, calls):
        assert judge_at(url, timeout=0.5, workers=1)(ANSWERS[:2]) == [0, 1]
        assert len(calls) == 3
    with served(late(100)) as (url, _):
        began = time.monotonic()
        assert judge_at(url, timeout=0.5)(ANSWERS[:2]) == [None, None]
        assert time.monotonic() - began < 10


def test_server_that_is_gone_gives_no_scores(served):
    with served(longer) as (url, _):
        pass
    assert judge_at(url)(ANSWERS) == [None] * 4


@pytest.mark.parametrize(
    "nonsense",
    [
        completion("I like both."),
        completion("[[A]] or rather [[B]]"),
        completion(""),
        {"choices": []},
        {"object": "list"},
        [1, 2],
        "{half a",
        "<html>",
        "",
    ],
)
def test_reply_without_a_verdict_is_requested_again_and_never_scored(served, nonsense):
    with served(lambda first, second, call: nonsense if call <= 2 else longer(first, second, call)) as (url, calls):
        assert judge_at(url, workers=1, retries=2)(ANSWERS[:2]) == [0, 1]
        assert len(calls) == 4
    with served(lambda *_: nonsense) as (url, calls):
        assert judge_at(url)(ANSWERS[:2]) == [None, None]
        assert len(calls) == 4


def test_wait_before_each_repetition_doubles(served, monkeypatch):
    waits = []
    monkeypatch.setattr("una_ref.policies.endpoint.time", SimpleNamespace(sleep=waits.append))
    with served(lambda *_: completion("Hm.")) as (url, calls):
        assert judge_at(url, workers=1, retries=3, wait=0.5)(ANSWERS[:2]) == [None, None]
    assert waits == [0.5, 1.0, 2.0] * 2 and len(calls) == 8


@pytest.mark.parametrize("text", ["[[A]]", "A", " A.\n", "[A]", "**A**", "The first. [[A]]"])
def test_verdict_is_read_in_common_spellings(served, text):
    with served(lambda first, second, call: completion(text if first == "bbb" else "[[B]]")) as (url, _):
        assert judge_at(url)(ANSWERS[:2]) == [0, 1]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_key_or_unknown_model_is_an_input_error_at_once(served, status):
    with served(lambda *_: (status, {"error": {"message": "no such thing"}})) as (url, calls):
        with pytest.raises(InputError, match="expected an endpoint that serves some/model, got: .*no such thing"):
            judge_at(url, retries=4)(ANSWERS[:2])
        assert len(calls) <= 2


def test_prompt_that_is_too_long_is_not_sent_again(served):
    too_long = (400, {"error": {"message": "maximum context length"}})
    with served(lambda *_: too_long) as (url, calls):
        assert judge_at(url, retries=4)(ANSWERS[:2]) == [None, None]
        assert len(calls) == 2


def test_calls_run_at_the_same_time(served):
    together = threading.Barrier(6, timeout=60)  # passed only by six calls at the same time

    def met(first, second, call):
        together.wait()
        return longer(first, second, call)

    with served(met) as (url, calls):
        assert None not in judge_at(url, workers=6)(ANSWERS[:3])
        assert len(calls) == 6


def test_name_gives_model_and_url():
    judge = reward_source("judge:Qwen/Qwen3-8B@2025:x@http://localhost:8000/v1")
    assert isinstance(judge, Judge) and judge.endpoint.model == "Qwen/Qwen3-8B@2025:x"
    assert str(judge.endpoint.client.base_url) == "http://localhost:8000/v1/"
    assert reward_source(f"{__name__}:by_length,judge:m@http://localhost:1/v1").pairwise
    for wrong in ("judge:m", "judge:m@ftp://x/v1", "judge:@http://x/v1", "judge:m@http://me:password@x/v1"):
        assert not NAME.fullmatch(wrong)
        with pytest.raises(InputError):
            reward_source(wrong)


def by_length(answers):
    """A reward function: no score for an empty response."""
    return [len(answer.response) or None for answer in answers]


def test_stored_responses_are_scored_by_a_judge(served, tmp_path, capsys, monkeypatch, no_retries):
    # Rows with one response are grouped by prompt; the pairs of the second file stay pairs.
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    lists, pairs, output = tmp_path / "lists.jsonl", tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    lists.write_text("".join(json.dumps({"prompt": "p", "completion": c}) + "\n" for c in ("a", "bbb", "cc")))
    pairs.write_text("".join(json.dumps({"prompt": "q", "chosen": c, "rejected": "dd"}) + "\n" for c in ("e", "bad")))

    def reply(first, second, call):
        return completion("Hm.") if "bad" in (first, second) else longer(first, second, call)

    with served(reply) as (url, _):
        command = ["score", "--reward", f"judge:m@{url}", "--output", str(output), "--data", str(lists)]
        assert cli.main([*command, "--data", str(pairs)]) == 0
    rows = list(read(output))
    assert [(row.prompt, row.scores) for row in rows] == [("p", (0.0, 1.0, 0.5)), ("q", (0.0, 1.0))]
    printed = capsys.readouterr()
    assert "responses dropped: no score: 2\n" in printed.out
    assert "a-secret" not in output.read_text() + printed.out + printed.err


def test_online_run_drops_responses_without_a_verdict(served, tmp_path, no_retries):
    def reply(first, second, call):
        return completion("Hm.") if call % 20 == 7 else longer(first, second, call)

    output = tmp_path / "run"
    with served(reply) as (url, _):
        options = ["batch=4", "samples=3", "log_every=1", "--steps", "3", "--output", str(output)]
        assert cli.main(["train", "rloo", f"reward=judge:m@{url}", *options]) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["step"]]
    assert sum(line["dropped"] for line in steps) > 0
    assert all(0 <= line["reward"] <= 1 for line in steps)
    assert (
        "responses dropped, because the reward gave no score"
        in json.loads((output / "run.json").read_text())["notes"][-1]
    )
