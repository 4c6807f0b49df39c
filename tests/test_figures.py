"""Figures: same bytes for the same numbers, distinct looks, readable on any page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from una_ref import figures

DRAW = """
from matplotlib.figure import Figure
from una_ref import figures
with figures.style():
    fig = Figure()
    ax = fig.subplots()
    for i, (name, look) in enumerate(figures.looks(["dpo", "kto"]).items()):
        ax.plot([0, 1], [i, 2 * i], **look)
    ax.fill_between([0, 1], 0, 1, alpha=0.2)
    figures.label_ends(ax)
figures.save(fig, "00_example")
"""


def test_equal_numbers_give_equal_bytes_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setenv("UNA_REF_FIGURES", str(tmp_path / "here"))
    exec(DRAW, {})
    elsewhere = os.environ | {"UNA_REF_FIGURES": str(tmp_path / "there")}
    subprocess.run([sys.executable, "-c", DRAW], check=True, env=elsewhere)
    here, there = (tmp_path / name / "00_example.svg" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
    assert list(here.parent.iterdir()) == [here]  # nothing unfinished is left
    assert "<dc:date>" not in here.read_text()
    assert figures.CARD.lower() in here.read_text().lower()  # the card is drawn: no page shines through


def test_the_folder_is_the_checkouts_unless_the_environment_names_one(monkeypatch):
    monkeypatch.setenv("UNA_REF_FIGURES", "elsewhere")
    assert figures.home() == Path("elsewhere")
    monkeypatch.delenv("UNA_REF_FIGURES")
    assert figures.home() == Path(figures.__file__).parents[1] / "figures"


@pytest.mark.parametrize("name", ["a/b", "../b", "b.svg", "b.png"])
def test_a_name_with_a_folder_or_a_suffix_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        figures.save(None, name, tmp_path)


def test_looks_are_distinct_and_stable():
    names = [f"method-{i}" for i in range(4 * len(figures.PALETTE))]
    looks = figures.looks(names)
    assert len({(look["color"], look["linestyle"]) for look in looks.values()}) == len(names)
    assert looks["method-3"] == figures.looks(names[:4])["method-3"]


def luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_ink_and_colours_stand_out_from_the_card():
    card = luminance(figures.CARD) + 0.05
    assert card / (luminance(figures.INK) + 0.05) >= 7
    assert min(card / (luminance(colour) + 0.05) for colour in figures.PALETTE.values()) >= 2


def test_names_at_the_line_ends_do_not_overlap():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    for i in range(5):
        ax.plot([0, 1], [0, 1 + 0.001 * i], label=f"m{i}")
    ax.plot([0, 1], [0, 3])  # no label: no name
    figures.label_ends(ax, gap=0.06)
    assert [text.get_text() for text in ax.texts] == [f"m{i}" for i in range(5)]
    heights = [text.get_position()[1] for text in ax.texts]
    assert all(upper - lower >= 0.0599 for lower, upper in zip(heights, heights[1:], strict=False))
