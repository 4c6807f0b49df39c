"""The figure of the methods has a tile for each, where it belongs, and no text runs into another."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import una_ref
from una_ref import methods_figure
from una_ref.methods import METHODS
from una_ref.methods.rewards import Reward


def words(path):
    """What a figure's SVG says; matplotlib leaves each text as a comment before its outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"), flags=re.DOTALL)


def many():
    """75 records: those of the registry, and copies under other names, shapes, rewards and kinds of feedback."""
    records = list(METHODS.values())
    shapes = ("truncated quadratic", "λ-weighted logistic at γ", "group-normalised, clipped ratio")
    rewards = [Reward(f"β·log(π/π_ref) − α·{i}·|y|", None) for i in range(9)]
    models = [METHODS[name] for name in ("dpo", "dpo", "dpo", "kto", "una-score", "rloo", "ipo")]
    while len(records) < 75:
        i = len(records)
        changed = {"name": f"method-{i}-unpaired", "aliases": (), "shape": shapes[i % 3]}
        if i % 4 == 0:
            changed["reward"] = rewards[i // 4 % 9]
        records.append(replace(models[i % 7], **changed))
    return records


def test_figure_has_a_tile_for_every_method_with_name_shape_and_reward(tmp_path):
    text = " ".join(" ".join(words(methods_figure.draw(tmp_path))).split())
    for method in METHODS.values():
        assert f"{method.name} " in f"{text} "
        assert method.formula in text
        assert method.shape in text  # in one line or in two


def test_committed_figure_is_of_this_registry(tmp_path):
    committed = Path(una_ref.__file__).parents[1] / "figures" / "methods.svg"
    assert words(committed) == words(methods_figure.draw(tmp_path))


@pytest.mark.parametrize("records", [list(METHODS.values()), many()], ids=["registry", "75 methods"])
def test_no_text_of_the_figure_touches_another_or_leaves_the_page(records):
    fig = methods_figure.figure(records)
    fig.set_dpi(200)
    renderer = FigureCanvasAgg(fig).get_renderer()
    texts = [text for text in fig.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    page = fig.bbox
    for i, box in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, texts[i]
        for j in range(i):
            apart = box.x1 < boxes[j].x0 or boxes[j].x1 < box.x0 or box.y1 < boxes[j].y0 or boxes[j].y1 < box.y0
            assert apart, (texts[i], texts[j])
    tiles = [
        patch.get_window_extent(renderer)
        for patch in fig.axes[0].patches
        if patch.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    ]
    for text, box in zip(texts, boxes, strict=True):
        within = (t.x0 <= box.x0 and box.x1 <= t.x1 and t.y0 <= box.y0 and box.y1 <= t.y1 for t in tiles)
        assert text.get_gid() == "label" or any(within), text
    assert sum(text.get_gid() == "tile" and text.get_weight() == "bold" for text in texts) == len(records)
    assert min(text.get_fontsize() for text in texts) >= 5


@pytest.mark.parametrize(
    ("name", "group"),
    [("sft", "demos"), ("kto", "one"), ("una-score", "one"), ("dpo", "pairs"), ("ppo", "samples"), ("rloo", "samples")],
)
def test_column_is_the_feedback_or_the_samples(name, group):
    assert methods_figure.group_of(METHODS[name]) == group


def test_colour_says_what_is_true_in_expectation():
    looks = methods_figure._LOOKS
    assert looks[METHODS["una-online"].invariance][0] == looks[METHODS["rloo"].invariance][0] == "blue"
    assert looks[METHODS["una-online"].invariance][1] != looks[METHODS["rloo"].invariance][1]
    assert looks[METHODS["ppo"].invariance][0] == looks[METHODS["una-score"].invariance][0] == "vermilion"
