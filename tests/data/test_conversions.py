"""Conversions keep and drop what their report says, and `conform` leaves one kind of feedback per row."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from una_ref.data.conversions import (
    conform,
    labels_to_pairs,
    pairs_to_labels,
    scores_to_labels,
    scores_to_lists,
    scores_to_pairs,
    to_demos,
)
from una_ref.data.row_sets import group_by_prompt
from una_ref.data.rows import Row
from una_ref.errors import InputError


def scored(prompt, *scores, source="f.jsonl:1"):
    return Row(prompt, tuple(f"y{i}" for i in range(len(scores))), scores=scores, source=source)


def pair_texts(row):
    return [(row.responses[c], row.responses[r]) for c, r in row.pairs]


def test_the_best_response_is_paired_with_the_worst():
    (row,), report = scores_to_pairs([scored("p", 0.2, 0.9, 0.1, 0.9)])
    assert pair_texts(row) == [("y1", "y2")] and row.kinds == ("pairs",)
    assert row.responses == ("y1", "y2"), "responses in no pair are left out"
    assert str(report) == "scores -> pairs (best-worst): 1 pairs, 0 ties dropped"


def test_pairs_can_be_neighbours_in_the_ranking_or_all_pairs():
    row = scored("p", 2, 3, 1)
    assert pair_texts(scores_to_pairs([row], which="adjacent")[0][0]) == [("y1", "y0"), ("y0", "y2")]
    assert pair_texts(scores_to_pairs([row], which="all")[0][0]) == [("y1", "y0"), ("y1", "y2"), ("y0", "y2")]


def test_tied_pairs_are_dropped_and_counted_or_choose_the_first():
    rows = [scored("p", 1, 1), scored("q", 1, 2)]
    kept, report = scores_to_pairs(rows)
    assert [row.prompt for row in kept] == ["q"] and report.counts == {"pairs": 1, "ties dropped": 1}
    kept, report = scores_to_pairs(rows, ties="keep-first")
    assert pair_texts(kept[0]) == [("y0", "y1")] and pair_texts(kept[1]) == [("y1", "y0")]
    assert report.counts == {"pairs": 2, "of them ties, the first chosen": 1}


score_rows = st.lists(
    st.lists(st.integers(0, 3), min_size=2, max_size=5).map(lambda scores: scored("p", *scores)),
    min_size=1,
    max_size=6,
)


@given(score_rows, st.sampled_from(["best-worst", "adjacent", "all"]))
def test_pairs_are_ordered_by_score_and_counted(rows, which):
    kept, report = scores_to_pairs(rows, which=which)
    sizes = {"best-worst": lambda k: 1, "adjacent": lambda k: k - 1, "all": lambda k: k * (k - 1) // 2}
    assert sum(report.counts.values()) == sum(sizes[which](len(row.scores)) for row in rows)
    assert sum(len(row.pairs) for row in kept) == report.counts["pairs"]
    if which == "all":
        strict = sum(a > b for row in rows for a in row.scores for b in row.scores)
        assert report.counts["pairs"] == strict
    everything, _ = scores_to_pairs(rows, which=which, ties="keep-first")
    for row, new in zip(rows, everything, strict=True):
        score = dict(zip(row.responses, row.scores, strict=True))
        assert all(score[chosen] >= score[rejected] for chosen, rejected in pair_texts(new))


CONVERSIONS = {
    "pairs": scores_to_pairs,
    "labels": scores_to_labels,
    "numbers": lambda rows: scores_to_labels(rows, threshold=1.5),
    "demos": to_demos,
}


@given(score_rows, st.sampled_from(sorted(CONVERSIONS)), st.randoms())
def test_permuting_rows_permutes_results(rows, name, rng):
    convert = CONVERSIONS[name]
    order = rng.sample(range(len(rows)), len(rows))
    alone = [convert([row])[0] for row in rows]
    together, report = convert(rows)
    mixed, mixed_report = convert([rows[i] for i in order])
    assert together == [new for news in alone for new in news]
    assert mixed == [new for i in order for new in alone[i]]
    assert dict(report.counts) == dict(mixed_report.counts)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ((0.1, 0.9), (0, 1)),
        ((1, 2, 3), (0, 0, 1)),
        ((0, 0, 0, 1), (0, 0, 0, 1)),
        ((4, 1, 3, 2), (1, 0, 1, 0)),
        ((1, 2, 2, 2), (0, 1, 1, 1)),
        ((2, 1, 2), (1, 0, 1)),
        ((5, 8, 8, 8), (0, 1, 1, 1)),
        ((1, 9, 9), (0, 1, 1)),
        ((1, 2, 2, 3), (0, 0, 0, 1)),
    ],
)
def test_a_label_is_positive_above_the_median_or_at_the_highest_score(scores, labels):
    (row,), report = scores_to_labels([scored("p", *scores)])
    assert row.labels == labels and row.kinds == ("labels",)
    assert report.counts == {"positive": sum(labels), "negative": len(labels) - sum(labels)}
    assert str(report).startswith("scores -> labels (positive above the prompt's median, or highest): ")


@given(st.lists(st.integers(0, 3), min_size=2, max_size=7))
def test_the_best_response_is_positive_and_the_worst_negative_unless_all_are_equal(scores):
    for row in scores_to_labels([scored("p", *scores)])[0]:
        assert row.labels[scores.index(max(scores))] == 1 and row.labels[scores.index(min(scores))] == 0
        assert all(a <= b for s, a in zip(scores, row.labels, strict=True)
                   for t, b in zip(scores, row.labels, strict=True) if s <= t)  # fmt: skip


def test_a_prompt_of_equal_scores_is_dropped_or_its_first_response_is_positive():
    rows = [scored("p", 1, 1), scored("q", 1, 2)]
    kept, report = scores_to_labels(rows)
    assert len(kept) == 1 and report.counts["prompts of equal scores dropped"] == 1
    assert scores_to_labels(rows, ties="keep-first")[0][0].labels == (1, 0)


def test_a_label_is_positive_at_or_above_a_number():
    (row,), report = scores_to_labels([scored("p", 0.49, 0.5, 0.51)], threshold=0.5)
    assert row.labels == (0, 1, 1)
    assert str(report) == "scores -> labels (positive at or above 0.5): 2 positive, 1 negative"
    assert scores_to_labels([scored("p", 1)], threshold=1)[0][0].labels == (1,)


@pytest.mark.parametrize("convert", [scores_to_labels, scores_to_pairs, scores_to_lists])
def test_a_comparison_drops_and_counts_a_prompt_with_one_response(convert):
    rows, report = convert([scored("p", 1), scored("q", 1, 2)])
    assert [row.prompt for row in rows] == ["q"] and "1 prompts with one response dropped" in str(report)


@pytest.mark.parametrize(
    ("convert", "kind"),
    [
        (scores_to_pairs, "scores"),
        (scores_to_labels, "scores"),
        (pairs_to_labels, "pairs"),
        (labels_to_pairs, "labels"),
    ],
)
def test_a_conversion_names_a_row_of_another_kind(convert, kind):
    with pytest.raises(InputError, match=f"f:9 {kind}: expected a row of {kind}, got a row of demos"):
        convert([Row("p", ("a", "b"), source="f:9")])


def test_conform_ranks_scores_as_lists():
    rows = [scored("p", 1), scored("q", 5, 7), scored("p", 3)]
    out, (report,) = conform(rows, ("lists",))
    assert [(row.scores, row.responses) for row in out] == [((3, 1), ("y0", "y0")), ((7, 5), ("y1", "y0"))]
    assert all(row.kinds == ("lists",) and row.as_list for row in out)
    assert str(report) == "scores -> lists (best first): 2 lists, 4 responses"
    again, reports = conform(out, ("lists",))
    assert again == out and reports == ()


def test_pairs_keep_their_scores_if_the_loss_takes_margins():
    rows = [Row("p", ("a", "b"), scores=(3, 1), pairs=((0, 1),)), scored("q", 5, 9, 7)]
    out, _ = conform(rows, ("pairs",), margins=True)
    assert [(row.scores, row.pairs) for row in out] == [((3, 1), ((0, 1),)), ((5, 9), ((1, 0),))]
    assert [row.scores for row in conform(rows, ("pairs",))[0]] == [None, None]
    with pytest.raises(InputError, match="f:7 scores: expected scores beside pairs, .*, got none"):
        conform([Row("p", ("a", "b"), pairs=((0, 1),), source="f:7")], ("pairs",), margins=True)


def test_scores_of_a_prompt_become_one_list_best_first():
    rows = [scored("p", 1), scored("q", 5, 7), scored("p", 3), scored("p", 3)]
    (p, q), report = scores_to_lists(rows)
    assert p.scores == (3, 3, 1) and q.scores == (7, 5) and q.responses == ("y1", "y0")
    assert report.counts == {"lists": 2, "responses": 5}


def test_pairs_and_labels_become_lists_for_a_method_that_ranks():
    # A response of two pairs, one won and one lost, is between the others: its score is the share of pairs it won.
    chain = Row("p", ("b", "c", "a"), pairs=((2, 0), (0, 1)))
    (row,), (report,) = conform([chain], ("lists",))
    assert row.responses == ("a", "b", "c") and row.scores == (1, 0.5, 0) and row.kinds == ("lists",)
    assert str(report) == "pairs -> lists (scores: the share of pairs won): 1 lists, 3 responses"
    labelled = [Row("q", (text,), labels=(label,)) for text, label in (("a", False), ("b", True), ("c", 0.5))]
    (row,), _ = conform(labelled, ("lists",))
    assert row.responses == ("b", "c", "a") and row.scores == (1, 0.5, 0) and row.kinds == ("lists",)
    with pytest.raises(InputError, match="at least one usable row, got labels -> lists .*1 prompts with one response"):
        conform([Row("p", ("a",), labels=(1,), source="f:3")], ("lists",))


def test_a_label_is_the_share_of_its_pairs_that_a_response_won():
    (row,), report = pairs_to_labels([Row("p", ("a", "b", "unused"), pairs=((1, 0),))])
    assert row.responses == ("a", "b") and row.labels == (0, 1) and report.counts == {"labels": 2}
    (chain,), _ = pairs_to_labels([Row("p", ("a", "b", "c"), pairs=((0, 1), (1, 2)))])
    assert chain.labels == (1, 0.5, 0), "a response of two pairs gets the share it won"


def test_labels_to_pairs_needs_a_positive_and_a_negative():
    (row,), report = labels_to_pairs([Row("p", ("a", "b", "c"), labels=(0, 1, 0.7))])
    assert pair_texts(row) == [("b", "a")] and report.counts == {"pairs": 1}
    for labels in ((1, 0.5), (0, 0.4)):
        rows, report = labels_to_pairs([Row("p", ("a", "b"), labels=labels, source="f:2")])
        assert not rows and report.counts == {"prompts without a positive and a negative response dropped": 1}


def test_demonstrations_are_the_best_the_positive_or_the_chosen_responses():
    rows = [
        scored("s", 0, 2, 2),
        Row("l", ("a", "b", "c"), labels=(0, 0.5, 1)),
        Row("p", ("a", "b", "c"), pairs=((2, 0), (2, 1))),
        Row("d", ("a", "b")),
        Row("none", ("a",), labels=(0,)),
    ]
    demos, report = to_demos(rows)
    assert [row.responses for row in demos] == [("y1",), ("b", "c"), ("c",), ("a", "b")]
    assert all(row.kinds == ("demos",) for row in demos)
    assert report.counts == {"demos": 6, "prompts without a good response dropped": 1}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"ties": "keep"}, "ties"),
        ({"threshold": "mean"}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": True}, "threshold"),
    ],
)
def test_options_are_checked(options, field):
    with pytest.raises(InputError, match=f"options {field}: expected .* got"):
        conform([scored("p", 1, 2)], ("labels",), **options)


def test_an_unknown_choice_of_pairs_is_refused():
    with pytest.raises(InputError, match="options which: expected best-worst or adjacent or all, got 'best' "):
        scores_to_pairs([scored("p", 1, 2)], which="best")


WEIGHTED = Row("p", ("a", "b"), pairs=((0, 1),), weights=(2.0,), margins=(0.5,), source="f:3")


def test_pairs_keep_their_weights_and_margins():
    (out,), _ = conform([WEIGHTED], ("pairs",), margins=True)
    assert (out.weights, out.margins) == ((2.0,), (0.5,))
    assert replace(WEIGHTED, scores=(1.0, 0.0)).only("scores").margins is None


@pytest.mark.parametrize(
    ("kinds", "row", "options", "message"),
    [
        (("labels",), {"margins": None}, {}, "f:3 weight: expected a loss on pairs, each on its own, got .*labels"),
        (("labels",), {"weights": None}, {}, "f:3 margin: expected a loss on pairs that takes margins, got .*labels"),
        (("pairs",), {}, {}, "f:3 margin: expected a loss on pairs that takes margins.* use odpo .*columns.margin="),
        (("pairs",), {}, {"margins": True, "weights": False}, "f:3 weight: .*columns.weight= to leave it out"),
        (("scores", "pairs"), {"scores": (1.0, 0.0)}, {"margins": True}, "f:3 weight: .*another loss, on scores"),
    ],
)
def test_weights_and_margins_that_no_loss_takes_are_refused(kinds, row, options, message):
    with pytest.raises(InputError, match=message):
        conform([replace(WEIGHTED, **row)], kinds, **options)


def test_conform_keeps_native_rows_untouched():
    rows = [scored("p", 1), Row("p", ("a",), labels=(1,)), Row("p", ("a", "b"), pairs=((0, 1),))]
    out, reports = conform(rows, ("scores", "labels", "pairs"))
    assert out == rows and reports == ()


def test_conform_notes_every_row_of_the_result_in_order():
    noted = []
    rows = [scored("p", 1, 0), scored("q", 2, 2), scored("r", 0, 3)]  # the tie is dropped
    out, _ = conform(rows, ("pairs",), note=noted.append)
    assert noted == list(out) and [row.prompt for row in noted] == ["p", "r"]


def test_conform_prefers_the_first_kind_and_reports_the_others_left_out():
    row = Row("p", ("a", "b"), scores=(1, 0), pairs=((0, 1),))
    for first, second in (("scores", "pairs"), ("pairs", "scores")):
        out, reports = conform([row], (first, second))
        assert out == [row.only(first)]
        assert [str(report) for report in reports] == [f"{first} kept, the rest left aside: 1 rows"]


def test_conform_keeps_feedback_that_a_row_has_rather_than_convert_it():
    assert conform([Row("p", ("a", "b"), pairs=((0, 1),))], ("labels", "pairs"))[0][0].kinds == ("pairs",)


def test_conform_gathers_single_responses_before_it_compares_them():
    rows = [scored("p", 1, source="f:1"), scored("q", 3, source="f:2"), scored("p", 2), scored("q", 1)]
    out, (report,) = conform(rows, ("pairs",))
    assert [row.prompt for row in out] == ["p", "q"] and all(len(row.pairs) == 1 for row in out)
    assert str(report) == "scores -> pairs (best-worst): 2 pairs, 0 ties dropped"
    labels, _ = conform(rows, ("labels",))
    assert [row.labels for row in labels] == [(0, 1), (1, 0)]
    assert len(conform(rows, ("labels",), threshold=2)[0]) == 4, "a number needs no comparison"


def test_conform_keeps_the_order_of_mixed_rows():
    rows = [
        Row("p", ("a", "b"), pairs=((0, 1),)),
        scored("q", 2),
        Row("r", ("c",), labels=(1,)),
        scored("q", 1),
    ]
    out, reports = conform(rows, ("labels",))
    assert [row.prompt for row in out] == ["p", "q", "r"]
    assert [report.what.split(" (")[0] for report in reports] == ["pairs -> labels", "scores -> labels"]


@pytest.mark.parametrize(
    ("row", "kinds", "message"),
    [
        (
            scored("p", 1),
            ("pairs",),
            "data rows: expected at least one usable row, got .*1 prompts with one response dropped",
        ),
        (
            Row("p", ("a",), source="f:4"),
            ("pairs", "labels"),
            "f:4 feedback: expected pairs or labels, got a row of demos",
        ),
        (
            Row("p", ("a",), labels=(1,), source="f:4"),
            ("pairs",),
            "data rows: expected at least one usable row, got .*1 prompts with one response dropped",
        ),
        (
            Row("p", ("a",), labels=(1,), source="f:4"),
            ("scores",),
            "f:4 feedback: expected scores, got a row of labels",
        ),
        (
            Row("p", ("a", "b"), labels=(1, 1), source="f:4"),
            ("pairs",),
            "data rows: expected at least one usable row, got .*1 prompts without a positive and a negative",
        ),
        (scored("p", 1, 1), ("pairs",), "data rows: expected at least one usable row, got .*1 ties dropped"),
    ],
)
def test_conform_refuses_rows_that_it_cannot_convert(row, kinds, message):
    with pytest.raises(InputError, match=message):
        conform([row], kinds)


@pytest.mark.parametrize("kinds", [(), ("stars",), "pairs"])
def test_conform_refuses_unknown_kinds(kinds):
    with pytest.raises(InputError, match="options kinds: expected some of demos, pairs, labels, scores, lists, got"):
        conform([scored("p", 1)], kinds)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([Row("p", ("a",), source="f:4")], {}, "f:4 feedback: expected pairs for odpo, got a row of demos"),
        ([], {}, "data rows: expected at least one usable row for odpo, got none"),
        ([Row("p", ("a", "b"), pairs=((0, 1),))], {"margins": True}, "for the margins of the loss of odpo, got none"),
        ([WEIGHTED], {"margins": True, "weights": False}, "expected a loss .*, got another loss of odpo, on pairs"),
    ],
)
def test_refusals_name_the_method(rows, options, message):
    with pytest.raises(InputError, match=message):
        conform(rows, ("pairs",), method="odpo", **options)


def test_conform_refuses_no_rows():
    with pytest.raises(InputError, match="data rows: expected at least one usable row, got none"):
        conform([], ("pairs",))


@st.composite
def any_row(draw):
    count = draw(st.integers(1, 3))
    some = {
        "scores": st.tuples(*[st.integers(0, 2)] * count),
        "labels": st.tuples(*[st.sampled_from([0, 0.5, 1])] * count),
    }
    if count > 1:
        some["pairs"] = st.just(((0, 1),))
    chosen = draw(st.sets(st.sampled_from(sorted(some))))
    return Row(draw(st.sampled_from("pqr")), ("y",) * count, source="f:1", **{k: draw(some[k]) for k in chosen})


@given(
    st.lists(any_row(), min_size=1, max_size=8),
    st.lists(st.sampled_from(["scores", "labels", "pairs", "demos"]), min_size=1, unique=True),
    st.sampled_from(["median", 1]),
    st.sampled_from(["drop", "keep-first"]),
)
def test_conform_leaves_exactly_one_accepted_kind(rows, kinds, threshold, ties):
    try:
        out, reports = conform(iter(rows), kinds, threshold=threshold, ties=ties)
    except InputError as error:
        assert "expected" in str(error) and "got" in str(error)  # noqa: PT017
        return
    assert out and all(len(row.kinds) == 1 and row.kinds[0] in kinds for row in out)
    untouched = all(len(row.kinds) == 1 and row.kinds[0] in kinds for row in rows)
    assert (out == rows) if untouched else reports, "every change has a report"


def test_conform_is_independent_of_row_order_within_a_kind():
    rows = [scored(p, s) for p, s in zip("pqpqpq", (1, 2, 3, 4, 5, 6), strict=True)]
    mixed = random.Random(0).sample(rows, len(rows))
    pairs = [{(row.prompt, *row.responses) for row in conform(some, ("pairs",))[0]} for some in (rows, mixed)]
    assert pairs[0] == pairs[1] and len(group_by_prompt(mixed)) == 2


@pytest.mark.parametrize("kinds", [("pairs",), ("scores",), ("labels", "pairs"), ("demos",)])
def test_conform_refuses_a_prompt_without_responses(kinds):
    with pytest.raises(InputError, match=r"f:1 feedback: expected .*, got a prompt alone, which is for online runs"):
        conform([Row("p", (), source="f:1")], kinds)
