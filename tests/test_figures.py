"""Figures: equal bytes for equal numbers, one look a method, enough contrast in light and dark mode."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from una_ref import METHODS, figures, notebook
from una_ref.studies import offline_report, online_figures, real_report

COMMITTED = sorted(p for p in (Path(figures.__file__).parents[1] / "figures").rglob("*.svg"))
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
    assert len(figures.looks([*names, "one more"])) == len(names) + 1


def test_a_known_method_has_its_look_in_any_company():
    alone = figures.look("kto")
    assert alone["label"] == "KTO"
    assert figures.looks({"other": "Other", "dpo": "a title", "kto": "a title"})["kto"] == alone
    assert figures.looks(["kto", "dro"])["dro"] == figures.looks(["dro", "ipo"])["dro"]
    assert figures.look("dpo") == figures.look("una-pair")


def test_a_form_of_a_method_has_its_colour_and_another_line_and_the_title_given():
    looks = figures.looks({"ppo": "", "ppo.rm": "PPO on a reward model", "new": "New"})
    assert looks["ppo.rm"]["color"] == looks["ppo"]["color"]
    assert looks["ppo.rm"]["linestyle"] != looks["ppo"]["linestyle"]
    assert looks["ppo.rm"]["label"] == "PPO on a reward model" and looks["new"]["label"] == "New"


def test_methods_with_a_look_are_in_the_registry_and_no_two_look_alike():
    assert {name for name in figures.METHODS if name.partition(".")[0] not in METHODS} == {"base"}
    assert {METHODS[name].name for name in figures.ALIASES} == set(figures.ALIASES.values())
    assert len({(colour, dash) for _, colour, _, dash in figures.METHODS.values()}) == len(figures.METHODS)
    assert len({(colour, marker) for _, colour, marker, _ in figures.METHODS.values()}) == len(figures.METHODS)
    assert len({label for label, *_ in figures.METHODS.values()}) == len(figures.METHODS)


def drawn_looks(fig) -> dict[str, str]:
    """Label -> colour, from the legend of a figure and from dots beside the labels of an axis."""
    from matplotlib.colors import to_hex

    found = {}
    for legend in fig.legends:
        found |= {text.get_text(): line for text, line in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    colours = {}
    for label, handle in found.items():
        line = handle[0] if isinstance(handle, tuple) else getattr(handle, "lines", [handle])[0]
        colours[label] = to_hex(line.get_color()).upper()
    for ax in fig.axes:
        names = {tick: text.get_text() for tick, text in zip(ax.get_yticks(), ax.get_yticklabels(), strict=False)}
        for line in ax.lines:
            if line.get_marker() == "D" and (label := names.get(line.get_ydata()[0])):
                colours[label] = to_hex(line.get_color()).upper()
    return colours


def test_a_method_has_the_same_colour_and_name_in_the_figures_of_all_studies(monkeypatch):
    """Read from what is drawn, of the committed records."""
    drawn = []
    monkeypatch.setattr(figures, "save", lambda fig, *_: drawn.append(fig))
    online, offline, real = (
        json.loads((figures.records(study) / "results.json").read_text("utf-8"))
        for study in ("compare_online", "compare", "real_offline")
    )
    offline_report.draw(offline)
    online_figures.draw_offset(online["offset"])
    online_figures.draw_proxy(online["proxy"])
    figures.filled(real_report.rates_panels, real["rates"], None, "rates")
    seen: dict[str, list[str]] = {}
    for fig in drawn:
        for label, colour in drawn_looks(fig).items():
            seen.setdefault(label, []).append(colour)
    wanted = {label: figures.PALETTE[colour].upper() for label, colour, *_ in figures.METHODS.values()}
    known = {label: set(colours) for label, colours in seen.items() if label in wanted}
    assert known == {label: {wanted[label]} for label in known}
    assert {"DPO", "KTO", "UNA-score", "PPO", "RLOO", "centred UNA", "SFT"} <= set(known)
    assert max(len(colours) for colours in seen.values()) >= 2


def luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(colour: str, background: str) -> float:
    lighter, darker = sorted((luminance(colour) + 0.05, luminance(background) + 0.05), reverse=True)
    return lighter / darker


def test_text_and_colours_contrast_with_the_background():
    assert contrast(figures.INK, figures.CARD) >= 7 and contrast(figures.AMBER, figures.CARD) >= 4.5
    assert min(contrast(colour, figures.CARD) for colour in figures.PALETTE.values()) >= 2


def test_in_dark_mode_every_colour_can_be_text_on_the_background_and_on_a_tile():
    areas = (figures.CARD, figures.TILE)
    for background in areas:
        dark = figures.DARK[background]
        for colour in (figures.INK, figures.AMBER, *figures.PALETTE.values()):
            assert contrast(figures.DARK[colour], dark) >= 4.5, (colour, background)
    assert luminance(figures.DARK[figures.CARD]) < 0.05
    palette = [figures.DARK[colour] for colour in figures.PALETTE.values()]
    assert len(set(palette)) == len(palette)


def sheet() -> str:
    return figures.in_both_modes("</style>")


def unswapped(svg: str) -> set[str]:
    """The colours in the styles of an SVG for which its sheet has no rule."""
    body = svg.partition("</style>")[2]
    used = set(re.findall(r"(?:fill|stroke|stop-color|flood-color)(?:: |=\")(?!none|url)[^;\"]+", body))
    return {declared for declared in used if f"[style*='{declared}']" not in svg}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_colour_of_a_committed_figure_has_a_dark_counterpart(path):
    svg = path.read_text("utf-8")
    assert sheet() in svg and svg.count("prefers-color-scheme") == 1
    assert unswapped(svg) == set()


def test_a_colour_outside_the_table_is_noticed(tmp_path):
    from matplotlib.figure import Figure

    with figures.style():
        fig = Figure()
        fig.subplots().plot([0, 1], color="#123456")
    assert unswapped(figures.save(fig, "other", tmp_path).read_text("utf-8")) == {"stroke: #123456"}


def test_the_light_figure_is_matplotlibs_own(tmp_path):
    """The sheet is all that `save` adds: without media queries nothing differs."""
    from matplotlib.figure import Figure

    with figures.style():
        fig = Figure()
        fig.subplots().plot([0, 1], color=figures.PALETTE["blue"])
        fig.savefig(tmp_path / "plain.svg", metadata={"Date": None})
        saved = figures.save(fig, "saved", tmp_path)
    assert saved.read_text("utf-8") == figures.in_both_modes((tmp_path / "plain.svg").read_text("utf-8"))
    assert saved.read_text("utf-8").replace(sheet(), "</style>") == (tmp_path / "plain.svg").read_text("utf-8")


@pytest.mark.parametrize("source", notebook.sources(), ids=lambda path: path.stem)
def test_svgs_in_twins_follow_dark_mode_too(source):
    cells = json.loads(source.with_suffix(".ipynb").read_text("utf-8"))["cells"]
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    assert all(sheet() in "".join(data["image/svg+xml"]) for data in shown if "image/svg+xml" in data)


def test_an_svg_without_a_style_is_refused():
    with pytest.raises(ValueError, match="by matplotlib"):
        figures.in_both_modes("<svg></svg>")
