"""Documentation that cannot go stale: generated tables, links, commands and code of README.md, docs/ and their kin."""

import importlib.util
import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from una_ref.cli import main
from una_ref.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def named(page):
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=named)


@cache
def builder():
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text, *languages):
    """The fenced blocks of a page in some languages; "" is a fence without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def commands(page, program):
    """The lines of a page's shell blocks that call a program, as words, without comments."""
    text = "\n".join(blocks(page.read_text(encoding="utf-8"), "", "sh")).replace("\\\n", " ")
    lines = (re.sub(r"\s#.*", "", line).split() for line in text.splitlines())
    return [words for words in lines if words[:1] == [program]]


@cache
def help_of(command):
    """What ``una-ref COMMAND --help`` prints."""
    with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    return printed.getvalue()


# ---- generated tables


def test_generated_tables_agree_with_the_records():
    found = {named(path): names for path, _, names in builder().outdated()}
    assert found == {}, "run `make docs` and commit the result"


def regrets(study):
    """Method -> its regret in each world, of a committed study of the first panel."""
    rows = builder().measured.record(f"{study}/results.json")["rows"]
    return {row["name"]: row["regret"]["values"] for row in rows if row.get("panel", "ratings") == "ratings"}


def another_base():
    """What docs/studies.md says of the second base policy, from the two records."""
    there, here = regrets("another_base"), regrets("compare")
    close = sum(abs(fmean(there[name]) - fmean(here[name])) <= 0.02 for name in there)
    made = builder().measured.record("another_base/results.json")
    centred = {row["beta"]: row["regret"]["values"] for row in made["centred"]}
    words = {2: "Two", 9: "Nine", 11: "eleven"}
    assert max(centred[0.3]) < 0.15
    return [
        f"{words[close]} of its {words[len(there)]} means are within 0.02 of those above.",
        f"One KTO run ended far off, with a regret of {max(there['kto']):.3f}.",
        f"{words[sum(value > 0.15 for value in centred[0.1])]} runs of centred UNA ended above 0.15.",
        f"at β = 1 its mean is {fmean(centred[1.0]):.3f}.",
    ]


def worse_than_base():
    """The two claims "in most of the six other worlds" of docs/studies.md."""
    offline = builder().measured.record("compare/results.json")["rows"]
    online = builder().measured.record("compare_online/results.json")["methods"]["rows"]
    (script,) = (row for row in offline if row["panel"] == "model" and row["name"] == "una-score.released")
    (iterative,) = (row for row in online if row["name"] == "iterative-dpo")
    counts = [row["worse_than_base"] for row in (script, iterative)]
    assert all(6 == count["of"] < 2 * count["count"] for count in counts), counts
    return ["most of the six other worlds."]


def self_rewarding():
    """What docs/online.md says of self-rewarding, from its record."""
    mean = builder().measured.record("self_rewarding.json")["mean"]
    rows = {"verdict": "the policy's verdicts", "shuffled": "(shuffled control)", "truth": "the true reward"}
    reward = {name: f"{run['reward']['mean']:.2f}" for name, run in mean.items()}
    return [
        f"orders {100 * mean['M1']['accuracy']['mean']:.0f} % of held-out pairs as the true reward does.",
        f"M1 has an exact reward of {reward['M1']}.",
        *(f"{row} | {reward[f'M2, {name}']} | {reward[f'M3, {name}']} |" for name, row in rows.items()),
    ]


def leaderboard():
    """Labels and worlds of the figure of README.md."""
    board = builder().measured.record("leaderboard/results.json")["board"]
    assert len(board["settings"]["seeds"]) == 12
    return [f"*Exact regret at {board['main_budget']:,} labels on twelve worlds:"]


def replay():
    """Regrets with exact scores."""
    rows = builder().measured.record("leaderboard/results.json")["exact_scores"]["rows"]
    ours, ppo = (next(r for r in rows if r["name"] == name)["regret"]["mean"] for name in ("una-centred.replay", "ppo"))
    return [f"are exact and few (regret {ours:.3f} against PPO's {ppo:.3f})."]


def published():
    """The published scores of SmolLM2 in docs/evaluation.md, from the record beside them."""
    arc, hellaswag = (task["published"] for task in builder().measured.record("smollm2_published.json")["tasks"])
    return [f"of its full-precision weights is {100 * arc:.1f} % and {100 * hellaswag:.1f} %."]


@pytest.mark.parametrize(
    ("page", "sentences"),
    [
        ("README.md", leaderboard),
        ("CHANGELOG.md", replay),
        ("docs/studies.md", another_base),
        ("docs/studies.md", worse_than_base),
        ("docs/online.md", self_rewarding),
        ("docs/evaluation.md", published),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_numbers_in_sentences_are_those_of_the_committed_records(page, sentences):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [sentence for sentence in sentences() if sentence not in text] == []


def test_every_generated_block_has_a_place_in_the_docs():
    build = builder()
    used = {name for page in build.PAGES for _, name, _, _ in build.MARKED.findall(page.read_text(encoding="utf-8"))}
    assert used == set(build.BLOCKS)


def test_a_changed_block_is_found_and_the_text_around_it_stays():
    build = builder()
    text, changed = build.built("a\n<!-- begin generated: recipes -->\nold\n<!-- end generated -->\nb\n")
    assert changed == ["recipes"]
    assert text.startswith("a\n<!-- begin") and text.endswith("end generated -->\nb\n") and "toysteer/base" in text
    assert build.built(text) == (text, [])


def test_an_unknown_block_is_an_error():
    with pytest.raises(KeyError, match="nonsense"):
        builder().built("<!-- begin generated: nonsense -->\n<!-- end generated -->")


def test_every_method_cites_a_paper_with_a_title():
    assert all(method.papers and all(paper.title for paper in method.papers) for method in METHODS.values())
    table = builder().papers()
    assert all(paper.title in table for method in METHODS.values() for paper in method.papers)


def test_citation_cff_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license"} <= citation.keys()
    for paper in citation["references"]:
        assert {"type", "title", "authors", "year"} <= paper.keys()


# ---- links


def anchors(path):
    """The fragments that a link to a page may have: its headings, as GitHub names them, and its own ids."""
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)">', text))


@each_page
def test_links_and_figures_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, fragment = target.partition("#")
        file = page.parent / path if path else page
        if re.match(r"https?:", target):
            continue
        if not file.exists() or (fragment and file.suffix == ".md" and fragment not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_index_links_every_notebook():
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    notebooks = {f"../notebooks/{path.stem}.ipynb" for path in (ROOT / "notebooks").glob("*.py")}
    assert set(re.findall(r"\((\.\./notebooks/\w+\.ipynb)\)", text)) >= notebooks


def test_every_erratum_of_a_record_is_explained():
    pages = anchors(ROOT / "docs" / "papers.md") | anchors(ROOT / "docs" / "claims.md")
    assert {id for method in METHODS.values() for id in method.errata if id.lower() not in pages} == set()


# ---- commands and code


@each_page
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {word for words in commands(page, "make") for word in words[1:] if "=" not in word}
    assert {
        name for name in targets if not re.search(rf"^{name}:|^test {name}:", makefile, flags=re.MULTILINE)
    } == set()


@each_page
def test_commands_and_their_options_exist(page):
    for _, name, *words in commands(page, "una-ref"):
        known = set(re.findall(r"--[\w-]+", help_of(name)))
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"una-ref {name} has no {', '.join(sorted(used - known))}"


def test_every_option_of_every_command_is_listed():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in (
        "methods",
        "claims",
        "train",
        "evaluate",
        "merge",
        "score",
        "generate",
        "compare",
        "examine",
        "leaderboard",
    ):
        [section] = re.findall(rf"^### {name}\n(.*?)^(?:###|<!--)", text, flags=re.MULTILINE | re.DOTALL)
        listed = set(re.findall(r"^\| `(--[\w-]+)", section, flags=re.MULTILINE))
        assert listed == set(re.findall(r"^  (--[\w-]+)", help_of(name), flags=re.MULTILINE))


@each_page
def test_settings_of_training_commands_are_accepted(page):
    from una_ref.training import stages
    from una_ref.training.settings import resolve, stages_of

    for _, name, *words in commands(page, "una-ref"):
        if name == "train":
            options = {"online": True} if "--online" in words else {}
            settings = [word for word in words[1:] if re.match(r"[\w.]+=", word)]
            if stages_of(words[0]):
                assert stages.plan(words[0], settings, **options).steps
                continue
            assert resolve(words[0], settings, **options).method


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text("utf-8")], ids=named)
def test_python_runs_from_top_to_bottom(page, tmp_path):
    path = tmp_path / "page.py"
    path.write_text("\n".join(blocks(page.read_text(encoding="utf-8"), "python")), encoding="utf-8")
    asked = [sys.executable, path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
