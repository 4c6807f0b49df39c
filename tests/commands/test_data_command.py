"""``una-ref data``: what is printed, and the exit codes."""

import json

import pytest

from una_ref.cli import main
from una_ref.training.toysteer_base import toysteer_base

PAIRS = [{"prompt": f"What is {n}?", "chosen": "It is that.", "rejected": "No.", "id": n} for n in range(4)]


@pytest.fixture
def file(tmp_path):
    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


def test_data_of_which_a_run_would_start_give_exit_code_0(file, capsys):
    assert main(["data", file(PAIRS)]) == 0
    said = capsys.readouterr().out
    assert "4 rows (pairs 4)" in said
    assert "columns used: prompt, chosen, rejected; not used: id" in said
    assert said.endswith("a run of dpo would start\n")


def test_a_bad_row_is_counted_and_gives_exit_code_1(file, capsys):
    rows = [*PAIRS, '{"prompt": "x", "chosen": "\\ud83d", "rejected": "a", "id": 5}', "not json"]
    assert main(["data", file(rows)]) == 1
    said = capsys.readouterr().out
    assert "left out 2 bad rows (the first: " in said and "rows.jsonl:5 chosen" in said
    assert "would be refused" in said.splitlines()[-1] and "valid Unicode text" in said.splitlines()[-1]


def test_bad_rows_that_the_run_drops_are_no_reason_to_refuse(file, capsys):
    assert main(["data", file([*PAIRS, "not json"]), "bad_rows=drop"]) == 0
    assert "left out 1 bad rows" in capsys.readouterr().out


def test_feedback_of_another_method_gives_exit_code_1(file, capsys):
    assert main(["data", file(PAIRS), "--method", "una-score", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert "expected scores for una-score, got a row of pairs" in record["refused"]
    assert record["audit"]["rows"] == 4 and record["tokens"] is None


def test_files_without_a_readable_row_give_exit_code_1(file, capsys):
    assert main(["data", file(["not json"])]) == 1
    said = capsys.readouterr().out
    assert "no row can be read" in said and "\na run would be refused: " in said


def test_with_a_model_lengths_are_in_tokens_too(file, capsys):
    rows = [{"prompt": "What is it?", "completion": "a b c d", "score": score} for score in (0, 1)]
    assert main(["data", file(rows), "--model", str(toysteer_base()), "max_response=3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["method"] == "una-score"
    assert {one["what"] for one in record["tokens"]["lengths"]} == {"prompts", "responses", "prompt and response"}
    assert record["tokens"]["cut"] == 2 and record["tokens"]["lost"] > 0


@pytest.mark.parametrize(
    ("word", "message"), [("nothing.jsonl", "no such file"), ("-", "cannot be read twice"), ("beta=1", "got none")]
)
def test_what_cannot_be_audited_gives_exit_code_2(word, message, capsys):
    assert main(["data", word]) == 2
    assert message in capsys.readouterr().err


def test_a_file_may_have_an_equals_sign_in_its_name_and_not_a_comma(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.jsonl", "a,b.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    assert main(["data", "a=b.jsonl"]) == 0
    assert main(["data", "a,b.jsonl"]) == 1
    assert "expected a name without a comma, which separates names, got 'a,b.jsonl'" in capsys.readouterr().out
    assert main(["data", ""]) == 2
    assert "data: expected the name of a file, a folder or a data set, got an empty name" in capsys.readouterr().err
    (tmp_path / "split=train").mkdir()
    (tmp_path / "a=b.jsonl").rename(tmp_path / "split=train" / "a.jsonl")
    assert main(["data", "split=train/*.jsonl"]) == 0
    assert capsys.readouterr().out.startswith("split=train/*.jsonl: 4 rows")
    assert main(["data", "split=test/*.jsonl"]) == 2


def test_a_template_is_checked_without_a_model(file, capsys):
    assert main(["data", file(PAIRS), "template=nope"]) == 2
    assert "template: expected a file, Jinja text or none, got 'nope'" in capsys.readouterr().err


def test_a_text_as_long_as_a_book_is_audited(file, capsys):
    """No attention over its bytes is computed: that would take 25 GB."""
    rows = [{"prompt": "Go on.", "chosen": "word " * 32_000, "rejected": "no"}, *PAIRS]
    assert main(["data", file(rows)]) == 0
    assert capsys.readouterr().out.endswith("a run of dpo would start\n")
