"""The site: its pages, their links and anchors, and what they load."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

from una_ref.claims import CLAIMS
from una_ref.methods import METHODS
from una_ref.training.settings import key_groups, recipes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def docs():
    """The modules of docs/, by name."""
    sys.path.insert(0, str(ROOT / "docs"))
    yield {name: importlib.import_module(name) for name in ("book", "pages", "pushes")}
    sys.path.remove(str(ROOT / "docs"))


def test_every_page_of_the_documentation_stands_in_the_sidebar(docs):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}  # which is the index
    assert pages - {page for section in docs["book"].SECTIONS.values() for page in section} == set()


# ---- what a loss pushes


def test_push_of_dpo_is_beta_times_sigma_of_the_negative_margin(docs):
    _, x, lines = docs["pushes"].curves(METHODS["dpo"])
    expected = 0.1 * torch.sigmoid(-0.1 * x)  # −d/dm of −log σ(βm), by hand
    assert METHODS["dpo"].hyperparameters["beta"] == 0.1
    torch.testing.assert_close(lines["chosen"], expected)
    torch.testing.assert_close(lines["rejected"], -expected)


def test_push_of_una_on_scores_is_linear_and_vanishes_where_the_implicit_reward_is_the_score(docs):
    _, x, lines = docs["pushes"].curves(METHODS["una-score"])
    beta = METHODS["una-score"].hyperparameters["beta"]
    torch.testing.assert_close(lines["score 0.5"], 2 * beta * (0.5 - beta * x))  # of (βu − s)², by hand


@pytest.mark.parametrize("name", METHODS)
def test_every_figure_has_finite_curves_of_which_one_is_not_0(docs, name):
    found = docs["pushes"].curves(METHODS[name])
    if found is None:
        return
    _, x, lines = found
    assert all(y.shape == x.shape and bool(torch.isfinite(y).all()) for y in lines.values())
    assert any(float(y.abs().max()) > 0 for y in lines.values())


def test_losses_of_whole_distributions_and_batches_have_no_figure(docs):
    assert {name for name, method in METHODS.items() if not docs["pushes"].svg(method)} == {
        *("tdpo", "tdpo2", "cringe", "wpo"),
        *(name for name, method in METHODS.items() if method.whole_batch),
    }


def test_ticks_are_round_and_within_the_axis(docs):
    assert docs["pushes"].ticks(-40.0, 40.0) == [-40.0, -20.0, 0.0, 20.0, 40.0]
    assert docs["pushes"].ticks(-0.011, 0.104) == [0.0, 0.05, 0.1]


# ---- pages


def test_a_saved_figure_of_a_notebook_is_the_svg_that_follows_dark_mode(docs):
    path = ROOT / "notebooks" / "01_log_sum_inequality.ipynb"
    assert "image/png" in path.read_text("utf-8")  # what an editor shows
    page = json.loads(docs["book"].notebook_page(path))
    shown = [
        o["data"] for cell in page["cells"] for o in cell.get("outputs", []) if "image/svg+xml" in o.get("data", {})
    ]
    assert [data["image/svg+xml"] for data in shown] == [(ROOT / "figures" / f"{path.stem}.svg").read_text("utf-8")]
    assert "prefers-color-scheme: dark" in shown[0]["image/svg+xml"] and "image/png" not in shown[0]


def test_links_lead_to_the_generated_pages(docs):
    linked = docs["book"].linked
    assert linked("[a](claims.md#cu5)", ROOT / "docs/papers.md") == "[a](claims/cu5.md)"
    assert linked("[a](docs/methods.md#dpo)", ROOT / "README.md") == "[a](docs/methods/una-pair.md)"
    assert linked("[a](#ipo)", ROOT / "docs/methods.md") == "[a](methods/ipo.md)"
    assert linked("[a](../README.md#what-is-where)", ROOT / "docs/README.md") == "[a](../index.md#what-is-where)"
    assert linked("[a](https://arxiv.org/abs/1#cu5)", ROOT / "docs/claims.md") == "[a](https://arxiv.org/abs/1#cu5)"


def test_claims_of_a_method_are_its_errata_and_the_checks_that_call_its_loss(docs):
    known = docs["pages"].known_claims("una-score")
    assert set(METHODS["una-score"].errata) & CLAIMS.keys() <= set(known)
    assert "CU11" in known and "CU11" not in METHODS["una-score"].errata  # its check names "una-score"


# ---- where notebooks run


def test_notebook_is_opened_in_colab_and_kaggle_from_the_repository(docs):
    line = docs["book"].hosts("04_una_losses", "https://github.com/someone/una_ref")
    assert "(https://colab.research.google.com/github/someone/una_ref/blob/main/notebooks/04_una_losses.ipynb)" in line
    assert "?src=https://github.com/someone/una_ref/blob/main/notebooks/04_una_losses.ipynb)" in line
    assert docs["book"].hosts("04_una_losses", None) == docs["book"].hosts("05_f_divergences", "https://github.com/a/b")
    assert docs["book"].hosts("04_una_losses", "https://example.org/una_ref") == ""


def test_repository_is_that_of_pyproject_before_that_of_the_workflow(docs, monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/una_ref")
    named = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"].get("Repository")
    assert docs["book"].repository() == (named or "https://github.com/someone/una_ref")


def test_page_of_a_hosted_notebook_has_the_line_below_its_heading(docs, monkeypatch):
    monkeypatch.setattr(docs["book"], "repository", lambda: "https://github.com/someone/una_ref")
    cells = json.loads(docs["book"].notebook_page(ROOT / "notebooks" / "START.ipynb"))["cells"]
    heading, empty, line, *_ = cells[0]["source"].splitlines()
    assert heading.startswith("# ") and not empty and line.startswith("Open in [Colab](")


@pytest.mark.parametrize("stem", ["START", "00_one_row_to_one_step", "04_una_losses", "11_offline_alignment"])
def test_hosted_notebook_needs_what_colab_has_and_one_line_of_pip(docs, stem):
    assert stem in docs["book"].HOSTED
    text = (ROOT / "notebooks" / f"{stem}.py").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = (
        set(re.findall(r"^(?:import|from) (\w+)", text, flags=re.MULTILINE)) - sys.stdlib_module_names - {"IPython"}
    )
    if stem == "START":  # Colab and Kaggle have both
        assert needed <= {"torch", "matplotlib"} and "pip install" not in text
    else:
        ours = {re.split(r"\W", name.replace("-", "_"))[0] for name in project["dependencies"]}
        assert needed <= ours | {"una_ref", "sympy"}  # sympy comes with torch
        assert text.count(f"`%pip install {project['name']}`") == 1


# ---- the built site


class Page(HTMLParser):
    """Links, ids and loaded files of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.loads = [], set(), []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") not in ("canonical",) and found.get("href"):
            self.loads.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built with warnings as errors, and every page parsed."""
    for package in ("sphinx", "myst_nb", "furo", "sphinx_copybutton"):
        pytest.importorskip(package, reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "book.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-6000:]
    html = folder / "html"
    return html, {path.relative_to(html).as_posix(): Page(path) for path in html.rglob("*.html")}


@pytest.mark.slow
def test_site_builds_without_a_warning_and_has_every_page(site):
    _, pages = site
    wanted = {
        "index.html",
        "docs/index.html",
        *(f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.py")),
        *(f"docs/{path.stem}.html" for path in (ROOT / "docs").glob("*.md") if path.stem != "README"),
        *(f"docs/methods/{name}.html" for name in METHODS),
        *(f"docs/claims/{id.lower()}.html" for id in CLAIMS),
        *(f"docs/recipes/{name}.html" for name in recipes()),
    }
    assert wanted - pages.keys() == set()
    assert len([name for name in pages if name.startswith("docs/keys/")]) == len(key_groups())


@pytest.mark.slow
def test_no_link_or_anchor_of_the_site_is_dead(site):
    html, pages = site
    dead = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            file = ((html / name).parent / unquote(parts.path)).resolve() if parts.path else html / name
            if not file.exists():
                dead.append(f"{name}: {link}")
            elif parts.fragment and file.suffix == ".html":
                target = pages[file.relative_to(html.resolve()).as_posix()] if parts.path else page
                if unquote(parts.fragment) not in target.ids:
                    dead.append(f"{name}: {link}")
    assert dead == []


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host_and_everything_it_loads_is_there(site):
    html, pages = site
    missing = [
        f"{name}: {source}"
        for name, page in pages.items()
        for source in page.loads
        if not source.startswith("data:")
        and (urlsplit(source).netloc or not ((html / name).parent / unquote(urlsplit(source).path)).exists())
    ]
    assert missing == []
    styles = [
        path
        for path in html.rglob("*.css")
        if re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", path.read_text("utf-8"))
    ]
    assert styles == []
    fonts = html / "_static" / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2"
    assert (html / "_static" / "mathjax" / "tex-chtml.js").exists() and len(list(fonts.glob("*.woff"))) > 20
