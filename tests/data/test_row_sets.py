"""Gathering, shuffling and splitting lose no response and mix no prompts."""

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from una_ref.data.row_sets import group_by_prompt, merged, shuffled_scores, split
from una_ref.data.rows import Row
from una_ref.errors import InputError

PROMPTS = ("p", "q", ({"role": "user", "content": "p"},))


def scored(prompt, *scores, source="f:1"):
    return Row(prompt, tuple(f"{prompt} {i} {s}" for i, s in enumerate(scores)), scores=scores, source=source)


rows_of_scores = st.lists(
    st.builds(
        lambda prompt, scores: scored(prompt, *scores),
        st.sampled_from(PROMPTS),
        st.lists(st.integers(0, 3), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=12,
)


@given(rows_of_scores)
def test_gathering_keeps_every_response_with_its_score(rows):
    rows = [Row(row.prompt, (y,), scores=(v,)) for row in rows for y, v in zip(row.responses, row.scores, strict=True)]
    grouped = group_by_prompt(rows)

    def content(rows):
        return Counter((str(row.prompt), y, s) for row in rows for y, s in zip(row.responses, row.scores, strict=True))

    assert content(grouped) == content(rows)
    assert len(grouped) == len({str(row.prompt) for row in rows})
    assert [row.prompt for row in grouped] == list({str(row.prompt): row.prompt for row in rows}.values())
    assert group_by_prompt(grouped) == grouped  # what has several responses stays as it is
    twice = [row for row in grouped if len(row.responses) > 1] * 2
    assert group_by_prompt(twice) == twice


def test_merging_renumbers_pairs_and_gathering_keeps_kinds_apart():
    a, b = (
        Row("p", ("a", "b"), pairs=((0, 1),), source="f:1"),
        Row("p", ("c", "d"), pairs=((1, 0),), source="f:3"),
    )
    both = merged([a, b])
    assert both.pairs == ((0, 1), (3, 2)) and both.responses == ("a", "b", "c", "d")
    assert "f:1" in both.source and "+1" in both.source
    label, score = Row("p", ("e",), labels=(1,)), Row("p", ("e",), scores=(1,))
    assert group_by_prompt([label, score]) == [label, score]


def test_text_and_messages_are_never_gathered():
    text = '[{"content": "p", "role": "user"}]'
    assert len(group_by_prompt([scored(text, 1), scored(({"role": "user", "content": "p"},), 1)])) == 2


@given(rows_of_scores, st.integers(0, 5))
def test_the_shuffled_control_permutes_scores_over_all_responses(rows, seed):
    shuffled = shuffled_scores(rows, seed)
    assert [(row.prompt, row.responses) for row in shuffled] == [(row.prompt, row.responses) for row in rows]
    assert Counter(s for row in shuffled for s in row.scores) == Counter(s for row in rows for s in row.scores)
    assert shuffled == shuffled_scores(rows, seed)


def test_the_shuffled_control_moves_scores_between_prompts_by_seed():
    rows = [scored(str(i), i, -i) for i in range(200)]
    shuffled = shuffled_scores(rows, 0)
    assert shuffled != rows and shuffled != shuffled_scores(rows, 1)
    still = sum(
        a == b for new, old in zip(shuffled, rows, strict=True) for a, b in zip(new.scores, old.scores, strict=True)
    )
    assert still < 10  # a permutation of 400 has one fixed point on average
    crossed = [s for row in shuffled[:100] for s in row.scores if abs(s) >= 100]
    assert len(crossed) > 50  # scores move between prompts, not within one


def test_the_shuffled_control_permutes_labels_flips_pairs_and_refuses_demos():
    pairs = [Row(str(i), ("a", "b"), pairs=((0, 1),)) for i in range(100)]
    assert 25 < sum(row.pairs == ((0, 1),) for row in shuffled_scores(pairs, 0)) < 75
    labels = [Row(str(i), ("a",), labels=(i % 2,)) for i in range(100)]
    assert sum(row.labels[0] for row in shuffled_scores(labels, 0)) == 50
    with pytest.raises(InputError, match="feedback: expected scores, labels or pairs to shuffle, got none"):
        shuffled_scores([Row("p", ("a",))], 0)


@given(rows_of_scores, st.floats(0, 1), st.integers(0, 3), st.randoms())
def test_a_split_shares_no_prompt_whatever_the_order(rows, fraction, seed, random):
    prompts = {str(row.prompt) for row in rows}
    count = round(fraction * len(prompts))
    if not 0 < count < len(prompts):
        with pytest.raises(InputError, match="fraction: expected .* got"):
            split(rows, fraction, seed)
        return
    train, held = split(rows, fraction, seed)
    sides = [{str(row.prompt) for row in side} for side in (train, held)]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == prompts and len(sides[1]) == count
    positions = [[i for i, row in enumerate(rows) if row in side] for side in (train, held)]
    assert len(train) + len(held) == len(rows) and [rows[i] for i in positions[0]] == train
    mixed = random.sample(rows, len(rows))
    assert {str(row.prompt) for row in split(mixed, fraction, seed)[1]} == sides[1]


def test_a_split_depends_on_the_seed():
    rows = [scored(str(i), 1) for i in range(50)]
    assert split(rows, 0.5, 0) != split(rows, 0.5, 1)


def test_merged_pairs_are_shifted_by_the_responses_before_them():
    rows = [Row("p", tuple("ab" * k), pairs=((2 * k - 1, 0),)) for k in (1, 2, 3)]
    starts = list(accumulate([2, 4], initial=0))
    row = merged(rows)
    assert row.pairs == tuple((2 * k - 1 + s, s) for k, s in zip((1, 2, 3), starts, strict=True))


def test_merged_rows_stay_a_list():
    rows = [Row("p", ("a",), scores=(1.0,), as_list=True), Row("p", ("b",), scores=(2.0,), as_list=True)]
    row = merged(rows)
    assert (row.responses, row.scores, row.kinds) == (("a", "b"), (1.0, 2.0), ("lists",))


def test_shuffled_control_shuffles_the_scores_of_lists():
    rows = [Row(f"p{i}", ("a", "b"), scores=(2.0 * i, 2.0 * i + 1), as_list=True) for i in range(6)]
    shuffled = list(shuffled_scores(rows, 0))
    assert [row.scores for row in shuffled] != [row.scores for row in rows]
    assert sorted(score for row in shuffled for score in row.scores) == list(map(float, range(12)))
    assert {row.kinds for row in shuffled} == {("lists",)}
