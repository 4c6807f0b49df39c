"""Cells of a table without types (CSV): texts, numbers, lists and messages."""

import csv
import json

import pytest

from una_ref.data.sources import read
from una_ref.errors import InputError

USER = {"role": "user", "content": "q"}


@pytest.fixture
def table(tmp_path):
    """table(columns, *rows): a CSV file; what is no text is written as JSON."""

    def write(columns, *rows):
        with open(tmp_path / "a.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns.split())
            writer.writerows([cell if isinstance(cell, str) else json.dumps(cell) for cell in row] for row in rows)
        return tmp_path / "a.csv"

    return write


def test_lists_of_texts_numbers_and_objects_are_json(table):
    (row,) = read(table("prompt completions scores", ["p", ["a", "b"], [0.5, 1]]))
    assert (row.responses, row.scores, row.as_list) == (("a", "b"), (0.5, 1.0), False)
    (row,) = read(table("prompt answers", ["p", [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]]))
    assert (row.responses, row.scores) == (("a", "b"), (1.0, 0.0))
    (row,) = read(table("turns", [["a", "b"]]), prompts=True)
    assert row.prompt == "a"
    (row,) = read(table("prompt completion tools", ["p", "a", [{"name": "f", "default": None}]]))
    assert row.template_arguments == {"tools": [{"name": "f", "default": None}]}


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "{'a': x}", '["a", "b"]', '[{"a": 1}]', '[["a"]]', '{"content": "x"}', "[{"]
)
def test_json_is_text_where_text_is_expected(table, text):
    (row,) = read(table("prompt completion", [text, text]))
    assert (row.prompt, row.responses) == (text, (text,))


@pytest.mark.parametrize("message", [{"role": "assistant", "content": "a"}, {"content": "a", "role": "assistant"}])
def test_messages_are_json(table, message):
    (row,) = read(table("prompt completion", [[USER], message]))
    assert (row.prompt, row.responses) == ((USER,), ("a",))
    (row,) = read(table("messages", [[USER, message]]))
    assert (row.prompt, row.responses) == ((USER,), ("a",))


@pytest.mark.parametrize(
    ("columns", "row", "got"),
    [
        ("messages", ["[{'role': 'user', 'content': 'q'}]"], "messages: expected JSON"),
        ("prompt completion", ["[{'role': 'user', 'content': 'q'}]", "a"], "prompt: expected JSON"),
        ("prompt completions scores", ["p", "['a', 'b']", "[1, 0]"], "completions: expected JSON"),
        ("prompt completions scores", ["p", "a", "[1, 0]"], "completions: expected a list, got 'a' (str)"),
    ],
)
def test_what_pandas_writes_for_lists_is_refused(table, columns, row, got):
    with pytest.raises(InputError) as caught:
        list(read(table(columns, row)))
    assert got in str(caught.value)


def test_a_long_text_is_read(table):
    (row,) = read(table("prompt completion", ["p", "a" * 200_000]))
    assert len(row.responses[0]) == 200_000


@pytest.mark.parametrize("first", [0, 1])
def test_an_empty_input_of_alpaca_is_none(table, first):
    rows = [["Say.", "this", "a"], ["Say.", "", "b"]]
    rows = rows[first:] + rows[:first]
    prompts = {row.responses[0]: row.prompt for row in read(table("instruction input output", *rows))}
    assert prompts == {"a": "Say.\nthis", "b": "Say."}
    made = [{"instruction": "i", "output": "o", "input": None, "history": None}]
    made += [{"instruction": "i", "output": "o", "input": "x", "history": [["q", "a"]]}]
    assert [len(row.prompt) for row in read(made)] == [1, 3]
