"""Answers get one checked score each from a reward source, and stored rows are scored in the same way."""

import json
import math
from dataclasses import replace

import pytest

from una_ref import cli
from una_ref.data.rows import Row
from una_ref.data.sources import read
from una_ref.errors import InputError
from una_ref.policies.answers import Answer, check_scores, score_answers, score_rows

ANSWERS = [Answer("Is it?", "Yes, it is."), Answer("Why?", "No"), Answer("Is it?", "")]


def lengths(answers):
    """A reward function: the length in characters."""
    return [len(answer.response) for answer in answers]


def lengths_below_3(answers):
    """A reward function: no score for a response of three characters or more."""
    return [len(answer.response) if len(answer.response) < 3 else None for answer in answers]


def no_scores(answers):
    """A reward function: no score at all."""
    return [None] * len(answers)


def nan(answers):
    """A reward function: not a number."""
    return [math.nan for _ in answers]


def broken(answers):
    """A reward function: raises an exception."""
    return answers["first"]


def test_scored_rows_are_written_as_ranked_lists(tmp_path, capsys):
    data, output = tmp_path / "pairs.jsonl", tmp_path / "out" / "scored.jsonl"
    lines = [{"prompt": f"q{i}", "chosen": "x" * i, "rejected": "yy"} for i in range(1, 151)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["score", "--reward", f"{__name__}:lengths", "--data", str(data), "--output", str(output)]
    assert cli.main(command) == 0
    rows = list(read(output))
    assert [row.scores for row in rows] == [(i, 2.0) for i in range(1, 151)]
    assert [row.responses for row in rows] == [(line["chosen"], line["rejected"]) for line in lines]
    assert cli.main(command) == 2, "a file that is there is not written over"
    assert "expected a new file" in capsys.readouterr().err


def test_reward_that_fails_leaves_no_file(tmp_path):
    data, output = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    data.write_text(json.dumps({"prompt": "q", "chosen": "x", "rejected": "y"}) + "\n")
    assert cli.main(["score", "--reward", f"{__name__}:nan", "--data", str(data), "--output", str(output)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_responses_without_a_score_are_dropped_and_counted(tmp_path, capsys):
    data, output = tmp_path / "lists.jsonl", tmp_path / "scored.jsonl"
    lists = [["a", "xxx", "bb"], ["xxx", "xxxx"], ["d", "c"]]
    lines = [{"prompt": f"q{i}", "completions": some, "scores": [9] * len(some)} for i, some in enumerate(lists)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["score", "--data", str(data), "--output", str(output), "--reward"]
    assert cli.main([*command, f"{__name__}:lengths_below_3"]) == 0
    assert [(row.responses, row.scores) for row in read(output)] == [
        (("a", "bb"), (1.0, 2.0)),
        (("d", "c"), (1.0, 1.0)),
    ]
    printed = capsys.readouterr().out
    assert "responses dropped: no score: 3\n" in printed
    assert "rows dropped: no score for any response: 1\n" in printed
    output.unlink()
    assert cli.main([*command, f"{__name__}:no_scores"]) == 2
    assert "expected scores, got none for any response" in capsys.readouterr().err
    assert not output.exists()


def test_exception_of_a_reward_function_is_refused_by_name():
    with pytest.raises(InputError, match="reward mine: raised TypeError: list indices"):
        score_answers(broken, ANSWERS, "mine")


def solved(answers):
    """A reward function: compares with a column of the data."""
    return [float(answer.columns["solution"] == answer.response) for answer in answers]


def test_a_reward_function_reads_the_other_columns_of_the_row(tmp_path):
    data, output = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    rows = [{"prompt": "q", "completions": ["4", "5"], "solution": x, "level": 1} for x in ("4", "5")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["score", "--reward", f"{__name__}:solved", "--data", str(data), "--output", str(output)]) == 0
    assert [row.scores for row in read(output)] == [(1.0, 0.0), (0.0, 1.0)]


def test_exception_of_a_reward_function_keeps_its_traceback_and_names_the_row(tmp_path, capsys):
    data, output = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    rows = [{"prompt": "q", "completion": "4", "solution": "4"}, {"prompt": "r", "completion": "five", "level": 2}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["score", "--reward", f"{__name__}:solved", "--data", str(data), "--output", str(output)]) == 2
    first, *trace = capsys.readouterr().err.strip().splitlines()
    assert first.endswith(f"raised KeyError: 'solution', at {data}:2: the response 'five' to 'r'")
    assert trace[0] == "Traceback (most recent call last):" and trace[-1] == "KeyError: 'solution'"
    assert 'answer.columns["solution"]' in "".join(trace) and "score_answers" not in "".join(trace)
    assert not output.exists()


def test_exception_that_looks_at_no_answer_names_the_first_row_of_the_call():
    rows = [replace(answer, source=f"f:{i}") for i, answer in enumerate(ANSWERS)]
    with pytest.raises(InputError, match=r"list indices .*, one of 3 answers from f:0 on\nTraceback"):
        score_answers(broken, rows, "mine")


def test_score_that_is_not_finite_is_refused_with_its_answer():
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match=rf"got {bad} for the response 'No' to 'Why\?'"):
            check_scores(ANSWERS, [1.0, bad, None], "mine")
    assert check_scores(ANSWERS, [1, None, 2.5], "mine") == [1.0, None, 2.5]


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        ([1.0], "expected 3 numbers, got 1"),
        ([1.0, math.nan, 2.0], "finite"),
        (1.0, "expected a list of 3 numbers, got: 'float' object"),
        (["good", "bad", "ugly"], "expected a list of 3 numbers, got: could not convert"),
    ],
)
def test_malformed_scores_are_refused(scores, match):
    with pytest.raises(InputError, match=match):
        check_scores(ANSWERS, scores, "mine")


def test_row_without_responses_is_refused():
    with pytest.raises(InputError, match="f:1 responses: expected at least one to score, got a prompt alone"):
        list(score_rows([Row("p", (), source="f:1")], lengths, "mine"))


def test_scores_replace_the_feedback_of_a_row_and_keep_their_responses():
    rows = [
        Row("p", ("a", "long", "bb"), labels=(1.0, 0.0, 1.0)),
        Row("q", ("ccc", "dddd"), pairs=((0, 1),)),
        Row("p", ("d", "ee"), pairs=((1, 0),)),
    ]
    for batch in (1, 2, 64):
        scored = list(score_rows(rows, lengths_below_3, "mine", batch=batch))
        assert scored == [Row("p", ("a", "bb"), scores=(1.0, 2.0)), Row("p", ("d", "ee"), scores=(1.0, 2.0))]


def test_answers_of_each_row_are_one_group():
    groups = []

    def note(answers):
        groups.extend(answer.group for answer in answers)
        return lengths(answers)

    list(score_rows([Row("p", ("a", "b")), Row("p", ("c",))], note, "mine"))
    assert groups == [0, 0, 1]
