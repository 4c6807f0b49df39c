"""Figures of notebooks 04 and 13: what stands in them comes from what is given."""

from una_ref import figures
from una_ref.studies import lesson_figures


def drawn(fill, results):
    """The figure's axes, with the text of each."""
    from matplotlib.figure import Figure

    with figures.style():
        fig = Figure()
        fill(fig, results)
    return [(ax, [text.get_text() for text in ax.texts]) for ax in fig.axes]


OFFSETS = {"offsets": [-2, -1, 0, 1], "descent": [0.5, 0.4, 0.2, 0.3], "fitted": [0.0] * 4, "lowest": [1.4, 0.6, 0.2]}


def test_best_constant_is_the_lowest_point_of_the_curve():
    [(ax, texts)] = drawn(lesson_figures._regret_by_offset, OFFSETS | {"reference": 0.6})
    dot = next(line for line in ax.lines if line.get_marker() == "o")
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([0], [0.2])
    assert any("regret up to 1.4" in text for text in texts)


def test_every_condition_has_a_panel_with_a_line_for_each_method():
    names = {"eq10": "Eq. 10", "released": "script", "ppo": "PPO", "centred": "centred"}
    noise = {name: [2.0, 3.0] for name in names}
    regret = {name: [(0.1, 0.01), (0.2, 0.3)] for name in names}
    results = {"offsets": [0, 1], "noise": noise, "names": names, "rates": (0.1, 0.2), "reference": 0.5, "steps": 50}
    noise_ax, *panels = drawn(
        lesson_figures._noise_and_training, results | {"regret": {"around 0": regret, "all + 4": regret}}
    )
    assert [ax.get_title(loc="left") for ax, _ in panels] == ["Training, rewards around 0", "Training, rewards all + 4"]
    assert len(noise_ax[0].lines) == 3
    assert all(len(ax.containers) == len(names) for ax, _ in panels)


def test_the_way_starts_at_the_regret_of_the_reference():
    results = {"kl": {"a": [0.0, 1.0, 2.0]}, "regret": {"a": [0.4, 0.2, 0.1]}, "best_kl": 1.5}
    (left, _), (right, _) = drawn(lesson_figures._way, results)
    assert list(left.lines[0].get_ydata()) == [1.0, 2.0]
    assert [list(line.get_ydata()) for line in (left.lines[1], right.lines[1])] == [[1.5, 1.5], [0.4, 0.4]]
