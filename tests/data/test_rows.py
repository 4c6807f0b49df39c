"""A row is checked when it is made."""

import pytest

from una_ref.data.rows import Row
from una_ref.errors import InputError


def refused(*parts, **fields):
    with pytest.raises(InputError) as caught:
        Row(**{"prompt": "p", "responses": ("a", "b"), "source": "file.jsonl:7"} | fields)
    for part in ("file.jsonl:7", "expected", "got", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"prompt": ""}, ["prompt", "empty prompt"]),
        ({"prompt": " \n"}, ["prompt", "empty prompt"]),
        ({"prompt": ()}, ["prompt", "empty prompt"]),
        ({"prompt": ({"role": "user", "content": " "},)}, ["prompt", "empty prompt"]),
        ({"prompt": None}, ["prompt", "text or messages", "NoneType"]),
        ({"prompt": 3}, ["prompt", "text or messages", "3 (int)"]),
        ({"prompt": "\ud800"}, ["prompt", "valid Unicode", "ud800"]),
        ({"prompt": ("hi",)}, ["prompt[0]", "a message", "'hi' (str)"]),
        ({"prompt": ({"role": "user"},)}, ["prompt[0].content", "text", "None"]),
        ({"prompt": ({"role": 1, "content": "x"},)}, ["prompt[0].role", "text", "1 (int)"]),
        ({"prompt": ({"role": "user", "content": ["x"]},)}, ["prompt[0].content", "text", "list"]),
        ({"responses": (), "scores": ()}, ["responses", "at least one", "none"]),
        ({"responses": (), "labels": (1,)}, ["responses", "at least one", "none"]),
        ({"responses": "ab"}, ["responses", "a list", "'ab' (str)"]),
        ({"responses": ("a", 3)}, ["responses[1]", "text", "3 (int)"]),
        ({"responses": ("a", None)}, ["responses[1]", "text", "None"]),
        ({"responses": ("a", "\udc00")}, ["responses[1]", "valid Unicode"]),
        ({"scores": (1.0,)}, ["scores", "2, one per response", "got 1"]),
        ({"scores": ()}, ["scores", "at least one", "none"]),
        ({"scores": 1.0}, ["scores", "a list", "float"]),
        ({"scores": (1.0, float("nan"))}, ["scores[1]", "a finite number", "nan"]),
        ({"scores": (float("-inf"), 0)}, ["scores[0]", "a finite number", "-inf"]),
        ({"scores": (10**400, 0)}, ["scores[0]", "a finite number", "int"]),
        ({"scores": ("1", 0)}, ["scores[0]", "a finite number", "'1' (str)"]),
        ({"scores": (True, 0)}, ["scores[0]", "a finite number", "True (bool)"]),
        ({"labels": (1,)}, ["labels", "2, one per response", "got 1"]),
        ({"labels": (1, 1.5)}, ["labels[1]", "in [0, 1]", "1.5 (float)"]),
        ({"labels": (-0.1, 1)}, ["labels[0]", "in [0, 1]", "-0.1"]),
        ({"labels": (float("nan"), 1)}, ["labels[0]", "in [0, 1]", "nan"]),
        ({"labels": ("yes", 1)}, ["labels[0]", "in [0, 1]", "'yes' (str)"]),
        ({"pairs": ()}, ["pairs", "at least one", "none"]),
        ({"pairs": ((0, 2),)}, ["pairs", "below 2", "(0, 2)"]),
        ({"pairs": ((-1, 0),)}, ["pairs", "below 2", "(-1, 0)"]),
        ({"pairs": ((1, 1),)}, ["pairs", "two different", "(1, 1)"]),
        ({"pairs": ((0, 1, 1),)}, ["pairs", "two different", "(0, 1, 1)"]),
        ({"pairs": ((False, True),)}, ["pairs", "two different", "(False, True)"]),
        ({"pairs": (0, 1)}, ["pairs", "two different", "0 (int)"]),
    ],
)
def test_malformed_rows_are_named(fields, parts):
    refused(*parts, **fields)


def test_a_row_stores_tuples_and_floats():
    row = Row([{"role": "user", "content": "p"}], ["a", "b"], scores=[1, 0.5], labels=[True, 0], pairs=[[0, 1]])
    assert row.prompt == ({"role": "user", "content": "p"},)
    assert row.responses == ("a", "b") and row.scores == (1.0, 0.5) and row.pairs == ((0, 1),)
    assert row.labels == (1.0, 0.0) and all(type(v) is float for v in row.labels + row.scores)


def test_a_row_may_have_an_empty_response():
    assert Row("p", ("",), scores=(0.0,)).responses == ("",)


def test_kinds_name_the_feedback_and_only_keeps_one():
    row = Row("p", ("a", "b"), scores=(1, 0), pairs=((0, 1),))
    assert row.kinds == ("scores", "pairs")
    assert row.only("pairs").kinds == ("pairs",) and row.only("pairs").pairs == row.pairs
    assert row.only("demos").kinds == ("demos",)
    assert Row("p", ("a",)).kinds == ("demos",)


@pytest.mark.parametrize("value", [3.5e38, -1e300, 10**400])
def test_numbers_that_float32_does_not_hold_are_refused(value):
    refused("scores[0]", "a finite number of float32", scores=(value, 1))
    refused("margins[0]", "a finite number of float32", pairs=((0, 1),), margins=(value,))
    refused("weights[0]", "a finite number of at least 0", pairs=((0, 1),), weights=(value,))
    assert Row("p", ("a",), scores=(3.4e38,)).scores == (3.4e38,)
