"""The judged tasks from the command line."""

import json

import pytest

from una_ref import cli
from una_ref.evaluation import judged


def length(answers):
    """The reward is the length of an answer."""
    return [float(len(answer.response)) for answer in answers]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with two questions of MT-Bench and one instruction of AlpacaEval; the current folder is beside it."""
    monkeypatch.delenv("UNA_REF_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"question_id": i, "category": "stem", "turns": [f"How is rain {i}?", "And now?"]} for i in (1, 2)]
    (folder / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps([{"instruction": "Rain?", "output": "Yes."}]))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Rain {i}"}) + "\n" for i in range(3)))
    return folder


def test_command_runs_the_judged_tasks_and_says_what_was_left_out(
    tiny_folder, data, judge_server, completion_body, capsys
):
    tokens = [("m", -0.1), ("M", -2.5)]
    reward = f"reward:{__name__}:length"
    options = ["--data-dir", str(data), "--prompts", str(data / "prompts.jsonl"), "--max-new", "4", "--output", "r"]
    with judge_server(lambda m, n: completion_body("[[7]]" if "rain 1" in str(m) else "Hm.", tokens)) as (url, _):
        command = ["evaluate", str(tiny_folder), "--tasks", f"mt-bench,alpaca-eval,{reward}", *options]
        assert cli.main([*command, "--judge", f"judge:m@{url}", "--against", str(tiny_folder)]) == 2
        assert "expected finished results of mt-bench" in capsys.readouterr().err
        assert cli.main([*command, "--judge", f"judge:m@{url}"]) == 0
        printed = capsys.readouterr().out
        only = ["evaluate", str(tiny_folder), "--tasks", reward, *options, "--against", str(tiny_folder), "--json"]
        assert cli.main([*only[:-4], "other", "--against", str(tiny_folder), "--json"]) == 0
    lines = {tuple(line.split()[:2]): line for line in printed.splitlines()}
    assert "7.00" in lines["mt-bench", "score"] and "%" not in lines["mt-bench", "score"]
    assert " %" in lines["alpaca-eval", "win_rate"] and "%" not in lines[reward, "reward"]
    assert "mt-bench: 2 replies without a rating, left out" in printed
    assert "alpaca-eval: no length-controlled win rate: task alpaca-eval: expected df_gamed.csv" in printed
    record = json.loads(capsys.readouterr().out)["results"][0]
    assert {s["metric"]: s["value"] for s in record["scores"]}["win_rate"] == 0.5


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["mt-bench"], 2, "task mt-bench: expected a judge, got none. Fix: --judge judge:MODEL@http://host:port/v1"),
        (["mt-bench", "--judge", "gpt-4"], 2, "judge 'gpt-4': expected judge:MODEL@http://host:port/v1"),
        (["mt-bench", "--judge", "judge:m@http://127.0.0.1:9/v1"], 2, "a chat completion, got Connection error"),
        (["alpaca-eval", "--judge", "judge:m@http://127.0.0.1:9/v1"], 2, "with top_logprobs, got Connection error"),
        (["reward:"], 2, "expected reward:NAME, got no name"),
        (["reward:none:here", "--prompts", "data/prompts.jsonl"], 2, "reward 'none:here': expected module:function"),
        (["mt-bnch"], 2, "task 'mt-bnch': unknown; did you mean mt-bench?"),
        (["reward:os:getcwd"], 2, "which is not a run. Fix: --prompts FILE"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(options, code, message, tiny_folder, data, no_retries, capsys):
    before = sorted(path.name for path in data.parent.iterdir())
    command = ["evaluate", str(tiny_folder), "--data-dir", str(data), "--output", "results", "--tasks"]
    assert cli.main([*command, *options]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(path.name for path in data.parent.iterdir()) == before


def test_judge_that_stops_while_it_is_asked_is_exit_code_1(tiny_folder, data, judge_server, no_retries, capsys):
    with judge_server(lambda m, n: "ok" if n == 1 else (500, {"error": {"message": "broken"}})) as (url, _):
        options = ["--data-dir", str(data), "--judge", f"judge:m@{url}", "--max-new", "4", "--output", "r"]
        assert cli.main(["evaluate", str(tiny_folder), "--tasks", "mt-bench", *options]) == 1
    assert "failed: task mt-bench: expected an answer about 2 questions, got none about 2. Fix: repeat" in capsys.readouterr().err


def test_unit_is_percent_for_shares_only():
    assert judged.unit("mt-bench", "score") == (1, "") == judged.unit("reward:x", "difference")
    assert judged.unit("reward:x", "win_rate") == (100, " %") == judged.unit("arc", "acc_norm")
