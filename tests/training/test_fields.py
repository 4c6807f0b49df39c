"""The types of config fields: what text means, which values fit, and what is said of one that does not."""

import math
from typing import Annotated, Literal

import pytest

from una_ref.errors import InputError
from una_ref.training.fields import Count, CountOrZero, NonNegative, Range, Share, check, choices, read

Word = Literal["auto", "packed"]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", Count, 3),
        ("3", float, 3.0),
        ("3e-5", NonNegative, 3e-5),
        ("no", bool, False),
        ("True", bool, True),
        ("null", Count | None, None),
        ("None", NonNegative | None, None),
        ("7", Count | None, 7),
        ("2.5", float | Literal["median"], 2.5),
        ("median", float | Literal["median"], "median"),
        ("packed", Word, "packed"),
        ("12", str, "12"),
        ("null", str, "null"),
        ("{a: 1}", dict[str, Count], {"a": 1}),
        ("{}", dict[str, Count], {}),
        ("{a: 1e-5, b: js}", dict[str, float | str], {"a": 1e-5, "b": "js"}),
        (3, NonNegative, 3.0),  # YAML reads lora_alpha: 16 as a whole number
        ("3e-5", float, 3e-5),  # and lr: 3e-5 as text
        (None, Count | None, None),
        (True, bool, True),
    ],
)
def test_text_and_yaml_values_become_values_of_the_type(text, kind, value):
    found = read(text, kind)
    assert found == value and type(found) is type(value)
    check("key", found, kind)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("many", Count, "key: expected a whole number at least 1, got 'many'"),
        ("1.5", Count, "key: expected a whole number at least 1, got '1.5'"),
        (1.5, Count, "key: expected a whole number at least 1, got 1.5"),
        ("0", Count, "key: expected a whole number at least 1, got 0"),
        (True, Count, "key: expected a whole number at least 1, got True"),
        ("x", Count | None, "key: expected a whole number at least 1 or null, got 'x'"),
        ("nan", float, "key: expected a finite number, got nan"),
        ("1.01", Share, "key: expected a number at least 0 and at most 1, got 1.01"),
        ("0", Annotated[float, Range(above=0)], "key: expected a number above 0, got 0.0"),
        ("1", Annotated[float, Range(0, below=1)], "key: expected a number at least 0 and below 1, got 1.0"),
        ("perhaps", bool, "key: expected true or false, got 'perhaps'"),
        (1, bool, "key: expected true or false, got 1"),
        ("pack", Word, "key: expected one of auto, packed, got 'pack'; did you mean packed?"),
        ("high", float | Literal["median"], "key: expected a finite number or median, got 'high'"),
        (["a"], str, "key: expected text, got ['a']"),
        ("3", dict[str, Count], "key: expected names with values, each a whole number at least 1, got 3"),
        ("{a: {", dict[str, Count], "key: expected names with values, each a whole number at least 1, got '{a: {'"),
        ({"a": 0}, dict[str, Count], "key: expected names with values, each a whole number at least 1, got {'a': 0}"),
        ({1: 1}, dict[str, Count], "key: expected names with values, each a whole number at least 1, got {1: 1}"),
    ],
)
def test_other_values_are_refused_in_words(text, kind, message):
    with pytest.raises(InputError) as refused:
        check("key", read(text, kind), kind)
    assert str(refused.value) == message


@pytest.mark.parametrize("kind", [NonNegative, CountOrZero, float])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_range_holds_infinity_or_nan(kind, value):
    with pytest.raises(InputError, match="key: expected"):
        check("key", value, kind)


def test_choices_are_the_words_of_a_literal():
    assert choices(Word) == ("auto", "packed")
    assert choices(float | Literal["median"]) == ("median",)
    assert choices(Count) == ()
