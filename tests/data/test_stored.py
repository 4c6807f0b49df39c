"""A list on disk is a list: whatever is asked of it, and it holds none of its items."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from una_ref.data.batch import Example
from una_ref.data.rows import Row
from una_ref.data.stored import Stored

ITEMS = st.lists(st.text() | st.integers() | st.tuples(st.floats(allow_nan=False)), max_size=12)
PLACE = st.none() | st.integers(-15, 15)


@given(ITEMS, ITEMS, PLACE, PLACE, st.none() | st.sampled_from([-2, -1, 1, 2, 3]))
def test_it_is_the_list(items, more, start, stop, step):
    stored = Stored(items)
    assert list(stored) == items == stored and len(stored) == len(items) and stored != [*items, 0]
    part = slice(start, stop, step)
    assert stored[part] == items[part] and [stored[i - len(items)] for i in range(len(items))] == items
    keep = [i % 3 == 0 for i in range(len(items))]
    assert stored.picked(keep) == [item for item, kept in zip(items, keep, strict=True) if kept]
    first = stored[:2]
    stored.extend(more)
    first.extend(more)
    assert stored == items + more and first == items[:2] + more
    for index in (len(stored), -len(stored) - 1):
        with pytest.raises(IndexError):
            stored[index]


def test_rows_and_examples_come_back_as_they_were():
    rows = [
        Row(({"role": "user", "content": "é\n\U0001f600"},), ("a", ""), scores=(1 / 3, -1e300), source="f:1"),
        Row("p", ("a", "b"), pairs=((1, 0),)),
        Row("p", (), source="f:2"),
    ]
    examples = [
        Example((1, 70_000), ((5, 2), (2,)), labels=(1.0, 0.0), prompt_index=3, source="f:1"),
        Example((1,), ((2,),), experience={"old_values": ((0.1,),)}),
    ]
    assert Stored(rows) == rows and Stored(examples) == examples
    assert Stored(rows)[0].prompt[0] == {"role": "user", "content": "é\n\U0001f600"}


def test_it_holds_none_of_its_items():
    tracemalloc.start()
    try:
        stored = Stored("x" * 1000 + str(i) for i in range(10_000))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(stored) == 10_000
    assert held < 200_000 and peak < 400_000, "12 bytes each, of 10 MB"
