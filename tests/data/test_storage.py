"""Both lists behave as lists and hold none of their items: one is on disk, one is made from others when read."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from una_ref.data.batch import Example
from una_ref.data.rows import Row
from una_ref.data.storage import DiskList, GroupedList

ITEMS = st.lists(st.text() | st.integers() | st.tuples(st.floats(allow_nan=False)), max_size=12)
SLICE = st.builds(
    slice,
    st.none() | st.integers(-15, 15),
    st.none() | st.integers(-15, 15),
    st.none() | st.sampled_from([-2, -1, 1, 2, 3]),
)


@given(ITEMS, ITEMS, SLICE)
def test_a_disk_list_behaves_as_the_list(items, more, part):
    stored = DiskList(items)
    assert list(stored) == items == stored and len(stored) == len(items) and stored != [*items, 0]
    assert stored[part] == items[part] and [stored[i - len(items)] for i in range(len(items))] == items
    stored.extend(more)
    assert stored == items + more
    for index in (len(stored), -len(stored) - 1):
        with pytest.raises(IndexError):
            stored[index]


@given(st.lists(st.lists(st.integers(), min_size=1, max_size=3), max_size=6), SLICE, st.randoms())
def test_a_grouped_list_behaves_as_the_list_of_what_is_made(groups, part, random):
    flat = [item for group in groups for item in group]
    places = random.sample(range(len(flat)), len(flat))  # the place of each item in the grouped list
    items = [0] * len(flat)
    for place, item in zip(places, flat, strict=True):
        items[place] = item
    sizes = [len(group) for group in groups]
    starts = np.cumsum([0, *sizes[:-1]])[: len(groups)].astype(int)
    made = GroupedList(items, sum, np.array(places, int), starts)
    expected = [sum(group) for group in groups]
    assert list(made) == expected == made and len(made) == len(expected) and made != [*expected, 0]
    assert made[part] == expected[part]
    assert made[part].map(len) == sizes[part]
    keep = [i % 3 == 0 for i in range(len(groups))]
    assert made.picked(keep) == [value for value, kept in zip(expected, keep, strict=True) if kept]
    for index in (len(made), -len(made) - 1):
        with pytest.raises(IndexError):
            made[index]


def test_a_list_without_groups_is_the_list_itself():
    assert GroupedList("abc") == ["a", "b", "c"]


def test_an_error_while_an_item_is_made_does_not_end_the_list_early():
    def make(group):
        raise IndexError("of the maker")

    with pytest.raises(IndexError, match="of the maker"):
        list(GroupedList("abc", make))


def test_rows_and_examples_come_back_as_they_were():
    rows = [
        Row(({"role": "user", "content": "é\n\U0001f600"},), ("a", ""), scores=(1 / 3, -1e38), source="f:1"),
        Row("p", ("a", "b"), pairs=((1, 0),)),
        Row("p", (), source="f:2"),
    ]
    examples = [
        Example((1, 70_000), ((5, 2), (2,)), labels=(1.0, 0.0), prompt_index=3, source="f:1"),
        Example((1,), ((2,),), experience={"old_values": ((0.1,),)}),
    ]
    assert DiskList(rows) == rows and DiskList(examples) == examples
    assert DiskList(rows)[0].prompt[0] == {"role": "user", "content": "é\n\U0001f600"}


def test_neither_list_holds_its_items():
    tracemalloc.start()
    try:
        stored = DiskList("x" * 1000 + str(i) for i in range(10_000))
        grouped = GroupedList(stored)
        last = list(map(len, grouped))[-1]
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(stored) == len(grouped) == 10_000 and last == 1004
    assert held < 400_000 and peak < 600_000, "12 bytes each and 12 a group, of 10 MB"
