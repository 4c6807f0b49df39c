"""Figures: equal bytes for equal numbers, distinct looks, enough contrast."""

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
figures.save(fig, "00_example")
"""


def test_equal_numbers_give_equal_bytes_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setenv("UNA_REF_FIGURES", str(tmp_path / "here"))
    exec(DRAW, {})
    elsewhere = os.environ | {"UNA_REF_FIGURES": str(tmp_path / "there")}
    subprocess.run([sys.executable, "-c", DRAW], check=True, env=elsewhere)
    here, there = (tmp_path / name / "00_example.svg" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
    assert list(here.parent.iterdir()) == [here]  # no temporary file is left
    assert "<dc:date>" not in here.read_text()
    assert figures.CARD.lower() in here.read_text().lower()  # the background is solid


def test_the_folder_is_the_checkouts_unless_the_environment_variable_is_set(monkeypatch):
    monkeypatch.setenv("UNA_REF_FIGURES", "elsewhere")
    assert figures.home() == Path("elsewhere")
    monkeypatch.delenv("UNA_REF_FIGURES")
    assert figures.home() == Path(figures.__file__).parents[1] / "figures"


def test_records_are_those_of_the_checkout_and_an_unknown_study_is_named():
    assert figures.records("compare") == Path(figures.__file__).parents[1] / "figures" / "runs" / "compare"
    with pytest.raises(FileNotFoundError, match="'elsewhere'"):
        figures.records("elsewhere")


@pytest.mark.parametrize("name", ["a/b", "../b", "b.svg", "b.png"])
def test_a_name_with_a_folder_or_a_suffix_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        figures.save(None, name, tmp_path)


def test_looks_are_distinct_and_do_not_depend_on_later_names():
    names = [f"method-{i}" for i in range(4 * len(figures.PALETTE))]
    looks = figures.looks(names)
    assert len({(look["color"], look["linestyle"]) for look in looks.values()}) == len(names)
    assert looks["method-3"] == figures.looks(names[:4])["method-3"]


def luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_and_colours_contrast_with_the_background():
    card = luminance(figures.CARD) + 0.05
    assert card / (luminance(figures.INK) + 0.05) >= 7
    assert min(card / (luminance(colour) + 0.05) for colour in figures.PALETTE.values()) >= 2
