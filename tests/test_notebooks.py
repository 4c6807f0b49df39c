"""The committed notebooks: each source has its executed twin, and each twin its source. nbmake runs them too."""

import json
import math
import re
from functools import cache

import jupytext
import pytest
from scipy import stats

from una_ref import notebook
from una_ref.claims.ledger import committed
from una_ref.data.published import HELPSTEER2_WEIGHTS
from una_ref.methods import METHODS
from una_ref.theory import TableWorld, bradley_terry, fixed_point, log_partition, sampled_log_partition
from una_ref.theory.populations import pairs

FOLDER = notebook.folder()
SOURCES = notebook.sources()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_twin_is_the_executed_source(source):
    assert notebook.faults(source) == []


def test_every_twin_has_its_source():
    assert {twin.stem for twin in FOLDER.glob("*.ipynb")} <= {source.stem for source in SOURCES}


def test_every_notebook_has_a_number_of_its_own_and_the_first_is_the_start():
    assert sorted(SOURCES) == sorted(FOLDER.glob("*.py"))
    numbers = [source.name[:2] for source in SOURCES[1:]]
    assert SOURCES[0].stem == "START" and len(set(numbers)) == len(numbers)


def reading_minutes(source) -> int:
    """130 words or 25 lines of code a minute up to the exercises, rounded to 5."""
    cells = jupytext.read(source, fmt="py:percent").cells
    ends = [i for i, cell in enumerate(cells) if re.search(r"(?m)^## Exercises", cell.source)]
    cells = cells[: ends[0]] if ends else cells
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    lines = sum(bool(line.strip()) for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines())
    return 5 * round((words / 130 + lines / 25) / 5)


@pytest.mark.parametrize("source", SOURCES[1:], ids=lambda path: path.stem)
def test_a_notebook_says_what_it_needs_how_long_it_takes_and_links_the_others(source):
    text = source.read_text("utf-8")
    assert "# **Needs.**" in text
    assert notebook.minutes(source) == reading_minutes(source)
    linked = set(re.findall(r"\((\d\d_\w+)\.ipynb", text))
    assert linked <= {source.stem for source in SOURCES}
    prose = "\n".join(c.source for c in jupytext.read(source, fmt="py:percent").cells if c.cell_type == "markdown")
    named = set(re.findall(r"[Nn]otebooks? (\d\d)\b", prose)) - {source.stem[:2]}
    assert named <= {stem[:2] for stem in linked}


def test_start_is_short_and_imports_nothing_of_the_package():
    cells = [cell.source for cell in jupytext.read(SOURCES[0], fmt="py:percent").cells if cell.cell_type == "code"]
    lines = [line for cell in cells for line in cell.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 80 and not [line for line in lines if "una_ref" in line]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_claims_in_a_twin_are_those_of_the_ledger(source):
    """A new or changed claim makes a twin stale, although the notebook's source stays the same."""
    from una_ref.claims import CLAIMS, markdown

    shown = re.findall(r"^\| [EC][UPS]\d+[ab]? \|.*$", printed(source.with_suffix(".ipynb")), flags=re.MULTILINE)
    whole = markdown(CLAIMS.values()).splitlines()
    assert [row for row in shown if row not in whole] == []
    own = {id for id, claim in CLAIMS.items() if claim.notebook == source.stem and not claim.misprint}
    ids = {row.split("|")[1].strip() for row in shown}
    assert not ids or own <= ids
    assert [id for id in ids if CLAIMS[id].misprint] == []  # docs/errata.md has those


NUMBERED = [source for source in SOURCES[1:] if source.stem[:2] <= "14"]
"""Notebooks 00 to 14, which teach; START has its own form, and 20 to 22 read records."""


def exercises(source):
    """The text of the exercises, and their items: number -> kind."""
    cells = jupytext.read(source, fmt="py:percent").cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = prose.partition("## Exercises")[2]
    asked = text.partition("<summary>Hints</summary>")[0]
    return text, {int(n): kind for n, kind in re.findall(r"^\*\*(\d+)\.\*\* \((\w+)\.\)", asked, flags=re.MULTILINE)}


@pytest.mark.parametrize("source", NUMBERED, ids=lambda path: path.stem)
def test_a_guess_is_asked_before_a_cell_that_decides_it(source):
    cells = jupytext.read(source, fmt="py:percent").cells
    asked = [i for i, cell in enumerate(cells) if "> **Guess first:**" in cell.source]
    assert asked and all(any(cell.cell_type == "code" for cell in cells[i + 1 : i + 3]) for i in asked)


@pytest.mark.parametrize("source", NUMBERED, ids=lambda path: path.stem)
def test_exercises_say_their_kind_and_hints_stand_before_answers(source):
    text, kinds = exercises(source)
    assert list(kinds) == list(range(1, len(kinds) + 1)) and len(kinds) >= 3
    assert {"Pencil", "Open"} <= set(kinds.values()) <= {"Pencil", "Code", "Open"}
    hints, end = text.index("<summary>Hints</summary>"), text.index("<summary>Answers</summary>")
    assert hints < end
    hinted = re.findall(r"\*\*(\d+)\.\*\*", text[hints:end])
    assert set(map(int, hinted)) >= {n for n, kind in kinds.items() if kind != "Open"}
    assert list(map(int, re.findall(r"^\*\*(\d+)\.\*\*", text[end:], flags=re.MULTILINE))) == list(kinds)


def answers(source) -> list[str]:
    """The code of each checked answer: the item's block of Python, or `mine = ` its first piece of code."""
    text, kinds = exercises(source)
    items = re.split(r"^\*\*\d+\.\*\* ", text.partition("<summary>Answers</summary>")[2], flags=re.MULTILINE)[1:]
    found = []
    for item, kind in zip(items, kinds.values(), strict=True):
        if kind != "Open":
            block = re.search(r"```python\n(.*?)```", item, flags=re.DOTALL)
            found.append(block[1] if block else "mine = " + re.search(r"`([^`]+)`", item)[1].replace("\n", " "))
    return found


ASKED = re.compile(r"^(\w+(?:, \w+)*) = \.\.\.(?:, \.\.\.)?(?:  #.*)?$", flags=re.MULTILINE)
"""The line of an exercise that the reader replaces."""


@pytest.mark.slow
@pytest.mark.parametrize("source", NUMBERED, ids=lambda path: path.stem)
def test_the_answers_pass_the_checks_of_their_exercises(source, tmp_path):
    from nbclient import NotebookClient

    book = jupytext.read(source, fmt="py:percent")
    cells = [cell for cell in book.cells if cell.cell_type == "code" and ASKED.search(cell.source)]
    for cell, answer in zip(cells, answers(source), strict=True):
        line = ASKED.search(cell.source)
        filled = f"import math\n{answer}\n{line[1]} = mine"
        cell.source = cell.source[: line.start()] + filled + cell.source[line.end() :]
    environment = notebook._environment() | {"UNA_REF_FIGURES": str(tmp_path)}
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute(env=environment)
    for cell in cells:
        assert any("passed" in output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def printed(twin):
    """The Markdown output of a twin's cells."""
    cells = json.loads(twin.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join("".join(output.get("data", {}).get("text/markdown", [])) for output in outputs)


def equations(paper: str, numbers: range) -> set[int]:
    """The equations of a paper that the text of the theory notebooks names, as in "UNA Eq. 3–5, 11 and 13"."""
    named = set()
    for number in numbers:
        (source,) = FOLDER.glob(f"{number:02}_*.py")
        for cell in jupytext.read(source, fmt="py:percent").cells:
            for listed in re.findall(rf"{paper} Eq\.\s*([\d,–\-\s]+(?:and \d+)?)", cell.source):
                for part in re.split(r",|and", listed):
                    ends = [int(end) for end in re.findall(r"\d+", part)]
                    named |= set(range(ends[0], ends[-1] + 1)) if ends else set()
    return named


@pytest.mark.parametrize(
    ("paper", "last", "notebooks"),
    [("UNA", 25, range(1, 5)), ("UPO", 26, range(5, 7)), ("survey", 67, range(14))],
)
def test_every_numbered_equation_is_in_a_notebook(paper, last, notebooks):
    assert set(range(1, last + 1)) - equations(paper, notebooks) == set()


def error_of_log_z(draws: int) -> float:
    """The mean error of notebook 02's estimate of β·log Z at β = 0.3, from this number of samples."""
    sixteen = TableWorld.random(0, prompts=16, responses=1000, beta=0.3)
    ref, rewards = sixteen.ref_logps[:1], sixteen.rewards[:1]
    mean, _ = sampled_log_partition(ref, rewards, 0.3, draws)
    return 0.3 * float(log_partition(ref, rewards, 0.3) - mean)


def discopop_share() -> float:
    """The share of π_ref's regret that discopop leaves in notebook 08's world, from π_ref at β = 0.5."""
    world = TableWorld.random(0, prompts=4, responses=5, beta=0.5)
    loss = pairs(METHODS["discopop"].loss, world, world.ref_logps.exp(), bradley_terry(world.rewards))
    end = fixed_point(loss, world.ref_logps, tolerance=1e-10)
    return float(world.regret(end).mean() / world.regret(world.ref_logps).mean())


DERIVED = {
    ("02_partition_function", "0.06"): lambda: 0.03 / 0.5,
    ("02_partition_function", "0.057"): lambda: error_of_log_z(128),
    ("02_partition_function", "0.032"): lambda: error_of_log_z(256),
    ("05_f_divergences", "0.6075"): lambda: (0.215 + 1) / 2,
    ("06_upo_and_iupo", "2.312"): lambda: math.asinh(5),
    ("08_pairs", "1.22"): discopop_share,
    ("09_single_responses_and_lists", "0.65"): lambda: 1.655 - 1,
    ("09_single_responses_and_lists", "10.564"): lambda: 2 * (8 - sum(1 / k for k in range(1, 9))),
    ("11_offline_alignment", "0.65"): lambda: HELPSTEER2_WEIGHTS["helpfulness"],
    ("13_online_alignment", "0.347"): lambda: math.log(4) / 4,
    ("14_exact_leaderboard", "2.201"): lambda: float(stats.t.ppf(0.975, 11)),
    ("20_mistral_offline", "1.386"): lambda: math.log(0.8 / 0.2),
    ("22_the_papers_tables", "29.69"): lambda: committed()["CU27"]["base_without"],
    ("22_the_papers_tables", "29.66"): lambda: committed()["CU27"]["score_without"],
}
"""Numbers in the text of a notebook that none of its cells prints or contains, and what they follow from."""
DECIMAL = re.compile(r"(?<![\w.,])\d[\d,]*\.\d{2,}(?!\w|\.\d)")
"""A number with two decimals or more."""


@cache
def shown(twin) -> frozenset[float]:
    """Every number in the code and in the printed output of a twin, as it is and as a percentage."""
    cells = [cell for cell in json.loads(twin.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    texts = ["".join(cell["source"]) for cell in cells]
    for output in (output for cell in cells for output in cell["outputs"]):
        texts.append("".join(output.get("text", [])))
        texts += ["".join(text) for kind, text in output.get("data", {}).items() if not kind.startswith("image/")]
    numbers = re.findall(r"\d[\d,]*\.?\d*(?:e[-+]?\d+)?", "\n".join(texts))
    values = [float(number.replace(",", "")) for number in numbers]
    return frozenset(values) | {100 * value for value in values}


def stated(source) -> dict[str, set[str]]:
    """The decimal numbers in the text of a notebook, without links, each with the notebooks that its cell names."""
    found: dict[str, set[str]] = {}
    for cell in jupytext.read(source, fmt="py:percent").cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"https?://\S+|arXiv[: ]\S+|Sec\. [\d.]+", "", cell.source)
            others = set(re.findall(r"[Nn]otebooks? (\d\d)\b", text))
            for number in DECIMAL.findall(text):
                found.setdefault(number, set()).update(others)
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_numbers_in_the_text_are_those_of_the_cells(source):
    """A number in the text is one that a cell prints or contains, here or in a notebook that the text names."""
    wrong = []
    for number, others in stated(source).items():
        pool = set(shown(source.with_suffix(".ipynb")))
        pool = pool.union(*(shown(twin) for other in others for twin in FOLDER.glob(f"{other}_*.ipynb")))
        if derived := DERIVED.get((source.stem, number)):
            pool = {derived()}
        half = 0.5000001 * 10.0 ** -len(number.split(".")[1])
        if not any(abs(value - float(number.replace(",", ""))) <= half for value in pool):
            wrong.append(number)
    assert wrong == []


def test_every_derived_number_is_in_a_text():
    texts = {source.stem: stated(source) for source in SOURCES}
    assert [key for key in DERIVED if key[1] not in texts[key[0]]] == []
