"""An LLM judge, against a real server on this machine that answers well, badly, late or not at all."""

import itertools
import json
import logging
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from una_ref import cli
from una_ref.data.sources import read
from una_ref.errors import InputError
from una_ref.policies.judge import Judge, judge
from una_ref.policies.reward_sources import Answer, named


def said(text):
    """A chat completion."""
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
    return said("[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]")


@contextmanager
def served(reply):
    """The URL of a server that answers with reply(first, second, call): a body, or (status, body); and its calls."""
    calls, number = [], itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            user = asked["messages"][-1]["content"]
            first, second = (re.search(rf"\[answer {x}\]\n(.*?)\n\[end", user, re.DOTALL)[1] for x in "AB")
            calls.append(
                {"path": self.path, "key": self.headers["Authorization"], "first": first, "user": user} | asked
            )
            answer = reply(first, second, next(number))
            status, body = answer if isinstance(answer, tuple) else (200, answer)
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # who asked has gone
                self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asks(url, **options):
    return Judge("some/model", url, **{"retries": 1, "wait": 0.01, "timeout": 5.0} | options)


@pytest.fixture
def impatient(monkeypatch):
    """Judges by name ask once."""
    monkeypatch.setattr(Judge.__init__, "__kwdefaults__", Judge.__init__.__kwdefaults__ | {"retries": 0})


ANSWERS = [Answer("Why?", text) for text in ("a", "bbb", "cc", "ddd")]


def test_a_score_is_the_mean_win_rate_over_the_others(monkeypatch):
    # By length: bbb and ddd beat two and tie (2.5/3), cc beats a (1/3), a beats none.
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    with served(longer) as (url, calls):
        scores = asks(url)(ANSWERS)
    assert scores == pytest.approx([0, 2.5 / 3, 1 / 3, 2.5 / 3])
    assert sum(scores) == pytest.approx(4 / 2)
    assert len(calls) == 4 * 3 and len({(c["first"], c["user"]) for c in calls}) == 12
    for call in calls:
        assert call["path"] == "/v1/chat/completions" and call["model"] == "some/model" and call["temperature"] == 0
        assert call["key"] == "Bearer a-secret"
        assert call["user"].startswith("[prompt]\nWhy?\n")


@pytest.mark.parametrize("always", ["A", "B", "C"])
def test_a_judge_that_looks_at_the_place_gives_everybody_a_half(always):
    with served(lambda first, second, call: said(f"[[{always}]]")) as (url, _):
        assert asks(url)(ANSWERS) == [0.5] * 4


def test_a_judge_who_errs_reverses_the_scores():
    def shorter(first, second, call):
        return longer(second, first, call)

    with served(longer) as (url, _), served(shorter) as (other, _):
        assert asks(other)(ANSWERS) == pytest.approx([1 - score for score in asks(url)(ANSWERS)])


def test_answers_meet_those_to_their_own_prompt_and_group_only():
    talk = ({"role": "system", "content": "Be."}, {"role": "user", "content": "Why?"})
    answers = [
        *(Answer("p", "a"), Answer(talk, "bbbb"), Answer("p", "bb"), Answer(talk, "a")),
        *(Answer("p", "aaa", group=1), Answer("p", "a", group=1)),
    ]
    with served(longer) as (url, calls):
        assert asks(url)(answers) == [0, 1, 1, 0, 1, 0]
    assert len(calls) == 6
    assert sum("[prompt]\nsystem: Be.\n\nuser: Why?\n" in call["user"] for call in calls) == 2


def test_equal_answers_tie_without_being_asked_about():
    with served(lambda first, second, call: said("[[A]]")) as (url, calls):
        assert asks(url)([Answer("p", "same"), Answer("p", "same")]) == [0.5, 0.5]
    assert not calls


def test_a_single_answer_cannot_be_compared():
    with (
        served(longer) as (url, _),
        pytest.raises(InputError, match=r"expected two or more answers to compare, got one to 'Why\?'"),
    ):
        asks(url)([Answer("How?", "a"), Answer("How?", "b"), Answer("Why?", "c")])


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_error_that_passes_is_waited_for(status):
    def reply(first, second, call):
        return (status, {"error": {"message": "busy"}}) if call <= 2 else longer(first, second, call)

    with served(reply) as (url, calls):
        began = time.monotonic()
        assert asks(url, workers=1, retries=2)(ANSWERS[:2]) == [0, 1]
        assert time.monotonic() - began > 0.375 + 0.75, "the client's half and whole second, less its jitter of ¼"
    assert len(calls) == 4


def test_an_error_that_stays_leaves_no_score_and_a_bound_on_the_calls(caplog):
    with served(lambda *_: (500, {"error": {"message": "broken"}})) as (url, calls), caplog.at_level(logging.WARNING):
        assert asks(url, workers=2)([*ANSWERS[:2], Answer("q", "a"), Answer("q", "b"), Answer("q", "c")]) == [None] * 5
    # Two tries of as many calls as go at a time; the other pairs are not asked (one more may be under way).
    assert 4 <= len(calls) <= 6
    assert "judge some/model: 8 of 8 calls without a verdict: not asked, nobody answers" in caplog.text


def test_only_what_depends_on_a_lost_call_has_no_score():
    # What is asked of bbb against cc, in one order, always fails: both go; the others keep their three opponents.
    def reply(first, second, call):
        return (500, "") if (first, second) == ("bbb", "cc") else longer(first, second, call)

    with served(reply) as (url, _):
        scores = asks(url)(ANSWERS)
    assert scores == [0, None, None, pytest.approx(2.5 / 3)]


def test_a_server_that_is_late_is_asked_again_and_then_given_up():
    def late(until):
        def reply(first, second, call):
            if call <= until:
                time.sleep(1.5)
            return longer(first, second, call)

        return reply

    with served(late(1)) as (url, calls):
        assert asks(url, timeout=0.5, workers=1)(ANSWERS[:2]) == [0, 1]
        assert len(calls) == 3
    with served(late(100)) as (url, _):
        began = time.monotonic()
        assert asks(url, timeout=0.5)(ANSWERS[:2]) == [None, None]
        assert time.monotonic() - began < 10


def test_nobody_there():
    with served(longer) as (url, _):
        pass
    assert asks(url)(ANSWERS) == [None] * 4


@pytest.mark.parametrize(
    "nonsense",
    [
        said("I like both."),
        said("[[A]] or rather [[B]]"),
        said(""),
        {"choices": []},
        {"object": "list"},
        [1, 2],
        "{half a",
        "<html>",
        "",
    ],
)
def test_nonsense_is_asked_again_and_never_scored(nonsense):
    with served(lambda first, second, call: nonsense if call <= 2 else longer(first, second, call)) as (url, calls):
        assert asks(url, workers=1, retries=2)(ANSWERS[:2]) == [0, 1]
        assert len(calls) == 4
    with served(lambda *_: nonsense) as (url, calls):
        assert asks(url)(ANSWERS[:2]) == [None, None]
        assert len(calls) == 4


@pytest.mark.parametrize("text", ["[[A]]", "A", " A.\n", "[A]", "**A**", "The first. [[A]]"])
def test_verdicts_are_read_as_models_write_them(text):
    with served(lambda first, second, call: said(text if first == "bbb" else "[[B]]")) as (url, _):
        assert asks(url)(ANSWERS[:2]) == [0, 1]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_an_error_at_once(status):
    with served(lambda *_: (status, {"error": {"message": "no such thing"}})) as (url, calls):
        with pytest.raises(InputError, match="expected an endpoint that serves some/model, got: .*no such thing"):
            asks(url, retries=4)(ANSWERS[:2])
        assert len(calls) <= 2


def test_what_the_judge_cannot_take_is_not_asked_twice():
    too_long = (400, {"error": {"message": "maximum context length"}})
    with served(lambda *_: too_long) as (url, calls):
        assert asks(url, retries=4)(ANSWERS[:2]) == [None, None]
        assert len(calls) == 2


def test_calls_go_together():
    together = threading.Barrier(6, timeout=60)  # passed by six calls that are there at once, and broken otherwise

    def met(first, second, call):
        together.wait()
        return longer(first, second, call)

    with served(met) as (url, calls):
        assert None not in asks(url, workers=6)(ANSWERS[:3])
        assert len(calls) == 6


def test_its_name():
    made = named("judge:Qwen/Qwen3-8B@2025:x@http://localhost:8000/v1")
    assert isinstance(made, Judge) and made.model == "Qwen/Qwen3-8B@2025:x"
    assert str(made.client.base_url) == "http://localhost:8000/v1/"
    assert named(f"{__name__}:by_length,judge:m@http://localhost:1/v1").pairwise
    for wrong in ("judge:m", "judge:m@ftp://x/v1", "judge:@http://x/v1", "judge:m@http://me:password@x/v1"):
        assert judge(wrong) is None
        with pytest.raises(InputError):
            named(wrong)


def by_length(answers):
    """A reward for the tests: none for the empty one."""
    return [len(answer.response) or None for answer in answers]


def test_stored_responses_are_judged(tmp_path, capsys, monkeypatch, impatient):
    # Rows of one response are gathered by prompt; the pairs of the second file stay as they are.
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    lists, pairs, output = tmp_path / "lists.jsonl", tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    lists.write_text("".join(json.dumps({"prompt": "p", "completion": c}) + "\n" for c in ("a", "bbb", "cc")))
    pairs.write_text("".join(json.dumps({"prompt": "q", "chosen": c, "rejected": "dd"}) + "\n" for c in ("e", "bad")))

    def reply(first, second, call):
        return said("Hm.") if "bad" in (first, second) else longer(first, second, call)

    with served(reply) as (url, _):
        command = ["score", "--reward", f"judge:m@{url}", "--output", str(output), "--data", str(lists)]
        assert cli.main([*command, "--data", str(pairs)]) == 0
    rows = list(read(output))
    assert [(row.prompt, row.scores) for row in rows] == [("p", (0.0, 1.0, 0.5)), ("q", (0.0, 1.0))]
    printed = capsys.readouterr()
    assert "responses dropped: no answer: 2\n" in printed.out
    assert "a-secret" not in output.read_text() + printed.out + printed.err


def test_a_run_learns_from_a_judge_that_fails_now_and_then(tmp_path, impatient):
    def reply(first, second, call):
        return said("Hm.") if call % 20 == 7 else longer(first, second, call)

    output = tmp_path / "run"
    with served(reply) as (url, _):
        options = ["batch=4", "samples=3", "log_every=1", "--steps", "3", "--output", str(output)]
        assert cli.main(["train", "rloo", f"reward=judge:m@{url}", *options]) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["step"]]
    assert sum(line["dropped"] for line in steps) > 0
    assert all(0 <= line["reward"] <= 1 for line in steps)
    assert (
        "responses dropped, because the reward had no answer"
        in json.loads((output / "run.json").read_text())["notes"][-1]
    )
