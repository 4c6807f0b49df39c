"""Figures of notebooks 08 to 10: what stands in them comes from what is given."""

import torch

from una_ref import figures
from una_ref.studies import survey_figures


def drawn(fill, results):
    """The figure's axes."""
    from matplotlib.figure import Figure

    with figures.style():
        fig = Figure()
        fill(fig, results)
    return fig.axes


def test_push_is_the_falling_slope_and_the_diagonal_is_a_right_margin():
    margins = torch.linspace(-1, 1, 2001)
    values = dict.fromkeys(survey_figures.SHAPES, -margins)
    deltas = torch.linspace(-1, 1, 5)
    learned = dict.fromkeys(survey_figures.SHAPES, deltas)
    push, link = drawn(
        survey_figures._shapes, {"margins": margins, "values": values, "deltas": deltas, "learned": learned}
    )
    assert all(abs(line.get_ydata()[0] - 1) < 1e-2 for line in push.lines)
    assert all((line.get_xdata() == line.get_ydata()).all() for line in link.lines)


def test_a_loss_without_a_minimum_has_an_open_dot_and_large_shares_stand_at_the_edge():
    rows = {"a": {"shares": [0.1, 0.4], "open": False}, "b": {"shares": [7.0], "open": True}}
    [ax] = drawn(survey_figures._shares, {"the shape": rows})
    best = [line for line in ax.lines if line.get_markersize() == 9]
    assert [line.get_xdata()[0] for line in best] == [0.1, 1.3]
    assert [line.get_markerfacecolor() == figures.CARD for line in best] == [False, True]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_sum_of_pushes_is_written_and_0_where_it_cancels():
    bars = {"free": torch.tensor([1.0, 0.0, 0.0, -1.0]), "not": torch.tensor([1.0, 0.0, 0.0, -0.5])}
    axes = drawn(survey_figures._list_pushes, bars)
    assert [ax.texts[0].get_text() for ax in axes[:2]] == ["sum 0", "sum 0.50"]


def test_single_responses_show_each_estimator_and_path():
    estimated = {name: [0.1, 0.2] for name in ("own response", "next response", "every other response")}
    paths = {"gradient-ascent": [0.0, 2.0], "npo": [0.0, 1.0], "npo, late": [0.0, 0.5]}
    results = {"sizes": (2, 4), "estimated": estimated, "exact": 0.3, "paths": paths}
    left, right = drawn(survey_figures._single_responses, results)
    assert len(left.lines) == 4 and [line.get_ydata()[-1] for line in right.lines] == [2.0, 1.0, 0.5]


def test_credits_are_written_with_their_sign_and_nothing_for_0():
    credits = [[0.25, -0.5, 0.0, 0.0]] * 5
    results = {"examples": [(1, 2, 1, 1)] * 5, "credits": credits, "lengths": range(1, 3)}
    left, right = drawn(survey_figures._tokens, results | {"cost": {key: [0.0, 0.1] for key in (0.25, 0.5, 1.0, 2.0)}})
    assert [text.get_text() for text in left.texts[:4]] == ["✓  +0.25", "✗  -0.50", "✓  0", "✓  0"]
    assert len(right.lines) == 4


def test_self_play_is_drawn_in_the_triangle_and_its_gaps_by_oracle_calls():
    middle = torch.full((3,), 1 / 3)
    ways = {name: torch.stack([torch.tensor([1.0, 0.0, 0.0]), middle]) for name in "abcd"}
    curves = {(name, kind): [0.4, 0.2, 0.0] for name in ("SPPO", "DNO") for kind in ("last", "average")}
    curves |= {("Nash-MD, β = 0.02", "last"): [0.4, 0.2, 0.1], ("optimistic", "last"): [0.4, 0.2, 0.1]}
    left, right = drawn(survey_figures._games, {"ways": ways, "marks": dict.fromkeys("wxyz", middle), "curves": curves})
    way = left.lines[1]
    assert [round(float(x), 3) for x in way.get_xdata()] == [0.0, 0.5]
    assert list(right.lines[0].get_xdata()) == [3, 6] and min(right.lines[0].get_ydata()) == 1e-4


def test_merging_marks_where_the_covariance_is_clear():
    results = {
        "curves": {key: [(0.0, 1.0), (1.0, 0.0)] for key in "abcdef"},
        "points": dict.fromkeys(survey_figures.PLACES, (0.5, 0.5)),
        "rounds": range(3),
        "values": {key: [0.0, 1.0, 2.0] for key in ("proxy", "truth", "held-out proxy", "held-out proxy, same trap")},
        "estimates": [(1.0, 0.1), (0.1, 0.1), (-1.0, 0.1)],
        "best_round": 1,
    }
    _, right = drawn(survey_figures._merging, results)
    marks = [line.get_marker() for line in right.lines if line.get_ydata()[0] == -0.35]
    assert marks == ["^", "o", "v"]
