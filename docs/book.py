"""Build the site: collect the pages, write the generated ones, and call Sphinx.

    python docs/book.py [FOLDER]        FOLDER/html is the site; by default build/site/html

Sphinx reads a copy, FOLDER/source, laid out as the repository. So every relative link of a page works on GitHub and on
the site alike, and the checkout stays as it is. Five things differ from the committed pages: README.md is the front
page of its folder, the sections of docs/methods.md and the rows of docs/claims.md are pages of their own, links lead
to those, notebooks name where they can be opened, and their saved figures are SVGs that follow dark mode.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import pages  # noqa: E402

from una_ref.claims import CLAIMS  # noqa: E402
from una_ref.methods import METHODS  # noqa: E402
from una_ref.notebook import minutes, sources  # noqa: E402
from una_ref.training.settings import key_groups  # noqa: E402

OWN_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages outside docs/."""
SECTIONS = {
    "How to": ("data", "training", "online", "evaluation", "judging", "larger"),
    "Reference": ("cli", "keys", "recipes", "options", "methods", "arguments", "claims", "errata", "api"),
    "Explanation": ("index", "map", "leaderboard", "studies", "benchmarks", "papers", "survey", "paper_tables"),
}
"""Heading of the sidebar -> its pages in docs/. Notebooks come before them, and `OWN_PAGES` last."""
ENTRIES = {id.lower() for id in CLAIMS}
"""The fragments of docs/claims.md."""
LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")
"""The target of a Markdown link, and its fragment."""
SAVED = re.compile(r'figures\.save\(\w+, "(\w+)"\)')
"""Where a notebook's cell saves a figure, and its name in figures/."""


# ---- from a committed page to a page of the site


def moved(path: str, place: Path) -> str:
    """The target of a link of the page `place`: README.md is index.md on the site, but for those of other folders."""
    if path.rpartition("/")[2] != "README.md":
        return path
    folder = (place.parent / path).resolve().parent
    return path.removesuffix("README.md") + "index.md" if folder in (ROOT, ROOT / "docs") else path


def linked(text: str, place: Path) -> str:
    """A page with its links as the site has them."""

    def target(match: re.Match[str]) -> str:
        path, fragment = match[1], (match[2] or "").lstrip("#")
        if re.match(r"\w+:", path):
            return match[0]
        file, folder = (place.parent / path).resolve() if path else place, path.rpartition("/")[0]
        below = f"{folder}/" if folder else ""
        if file == ROOT / "docs" / "methods.md" and fragment in METHODS:
            return f"{below}methods/{METHODS[fragment].name}.md"
        if file == ROOT / "docs" / "claims.md" and fragment in ENTRIES:
            return f"{below}claims/{fragment.lower()}.md"
        return moved(path, place) + (f"#{fragment}" if fragment else "")

    return LINK.sub(target, text)


def claims_page(text: str) -> str:
    """The ledger: the anchor of an entry becomes a link to its page."""
    return re.sub(r'<a id="(\w+)"></a>(\w+)', r"[\2](claims/\1.md)", text)


def methods_page(text: str) -> str:
    """The table of the methods, without the sections that have pages of their own."""
    start, end = "<!-- begin generated: method-details -->", "<!-- end generated -->"
    head, _, rest = text.partition(start)
    return re.sub(r"\n## [^\n]*\n+$", "\n", head.rstrip() + "\n") + rest.partition(end)[2]


def keys_page(text: str) -> str:
    """The keys: each group links to its page."""
    for group in key_groups():
        heading = f"## {group[0].upper()}{group[1:]}\n"
        text = text.replace(
            heading, f"{heading}\n[Each key, with the recipes that set it](keys/{pages.slug(group)}.md).\n"
        )
    return text


def training_page(text: str) -> str:
    """The guide: the names in its table of recipes link to their pages."""
    head, start, rest = text.partition("<!-- begin generated: recipes -->")
    block, end, tail = rest.partition("<!-- end generated -->")
    return head + start + re.sub(r"^\| `([\w/-]+)`", r"| [`\1`](recipes/\1.md)", block, flags=re.MULTILINE) + end + tail


REWRITTEN: dict[str, Callable[[str], str]] = {
    "docs/claims.md": claims_page,
    "docs/methods.md": methods_page,
    "docs/keys.md": keys_page,
    "docs/training.md": training_page,
}


HOSTED = ("START", "00_one_row_to_one_step", "04_una_losses", "11_offline_alignment")
"""Notebooks that run in Colab and Kaggle with one line of pip."""


def repository() -> str | None:
    """Where the project lies: the URL "Repository" of pyproject.toml, or the repository whose workflow is running."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    here = os.environ.get("GITHUB_REPOSITORY")
    return project["urls"].get("Repository") or (f"https://github.com/{here}" if here else None)


def hosts(stem: str, url: str | None) -> str:
    """A line that opens a notebook in Colab and Kaggle; empty for a notebook or a repository that they cannot open."""
    if stem not in HOSTED or not url or not url.startswith("https://github.com/"):
        return ""
    file = f"{url.removesuffix('/').removesuffix('.git')}/blob/main/notebooks/{stem}.ipynb"
    colab = "https://colab.research.google.com/github/" + file.removeprefix("https://github.com/")
    return f"Open in [Colab]({colab}) or [Kaggle](https://kaggle.com/kernels/welcome?src={file})."


def notebook_page(path: Path) -> str:
    """A twin, its links as the site has them, where it can be opened, and its figures as they follow dark mode."""
    twin = json.loads(path.read_text("utf-8"))
    if line := hosts(path.stem, repository()):
        first = twin["cells"][0]
        first["source"] = re.sub(r"(?m)^(# .+)$", rf"\1\n\n{line}", "".join(first["source"]), count=1)
    for cell in twin["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = linked("".join(cell["source"]), path)
        elif drawn := SAVED.search("".join(cell["source"])):
            figure = (ROOT / "figures" / f"{drawn[1]}.svg").read_text("utf-8")
            for output in cell["outputs"]:
                if output.get("data", {}).pop("image/png", None):
                    output["data"]["image/svg+xml"] = figure
    return json.dumps(twin, ensure_ascii=False, indent=1)


def sidebar() -> str:
    """The sections of the site, as hidden tables of contents of the front page."""
    tutorials = [f"{label(path.stem)} · {minutes(path)} min <notebooks/{path.stem}>" for path in sources()]
    tutorials.sort(key=lambda entry: not entry.startswith("START"))
    more = [name.removesuffix(".md") for name in OWN_PAGES if name != "README.md"]
    sections = {"Tutorials": tutorials}
    sections |= {heading: [f"docs/{name}" for name in names] for heading, names in SECTIONS.items()}
    sections["Project"] = more
    return "\n".join(
        "\n".join(("```{toctree}", ":hidden:", f":caption: {heading}", "", *entries, "```", ""))
        for heading, entries in sections.items()
    )


def label(stem: str) -> str:
    """The name of a notebook in the sidebar: "02_partition_function" -> "02 Partition function"."""
    number, _, words = stem.partition("_")
    words = re.sub(r"\b(una|upo|iupo)\b", lambda match: match[0].upper(), words.replace("_", " "))
    return f"{number} {words[:1].upper()}{words[1:]}".strip()


def committed() -> Iterator[tuple[str, str]]:
    """Path on the site and text of every page that is committed."""
    for path in (*(ROOT / name for name in OWN_PAGES), *sorted((ROOT / "docs").glob("*.md"))):
        name = str(path.relative_to(ROOT))
        text = linked(REWRITTEN.get(name, str)(path.read_text("utf-8")), path)
        yield re.sub(r"README\.md$", "index.md", name), text + ("\n" + sidebar() if name == "README.md" else "")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield str(path.relative_to(ROOT)), notebook_page(path)


def attached(texts: dict[str, str]) -> set[Path]:
    """Files of the repository that pages link or show and that are no pages themselves."""
    found = set()
    for name, text in texts.items():
        for path, _ in LINK.findall(text):
            file = (ROOT / name).parent / path
            if path and not re.match(r"\w+:", path) and file.is_file() and file.suffix not in (".ipynb",):
                found.add(file.resolve())
    return {file for file in found if file.is_relative_to(ROOT) and str(file.relative_to(ROOT)) not in texts}


# ---- building


def write(path: Path, text: str) -> None:
    """Write a file that has changed; Sphinx reads again only those."""
    if not path.exists() or path.read_text("utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def collect(source: Path) -> None:
    """Write everything that Sphinx reads into a folder, and remove from it what is no page any more."""
    texts = dict(committed())
    texts |= pages.generated()
    files = attached(texts)
    for name, text in texts.items():
        write(source / name, text)
    for file in files:
        there = source / file.relative_to(ROOT)
        if file.suffix == ".md":
            write(there, "---\norphan: true\n---\n\n" + linked(file.read_text("utf-8"), file))
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, there)
    wanted = {source / name for name in texts} | {source / file.relative_to(ROOT) for file in files}
    for page in (*source.rglob("*.md"), *source.rglob("*.ipynb")):
        if page not in wanted:
            page.unlink()


def main() -> int:
    """Collect and build; the exit code is Sphinx's, which is 1 if there was a warning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "site", metavar="FOLDER")
    folder = parser.parse_args().folder.resolve()
    collect(folder / "source")
    sphinx = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-c", str(ROOT / "docs")]
    done = subprocess.run(
        [*sphinx, "-d", str(folder / "doctrees"), str(folder / "source"), str(folder / "html")], check=False
    )
    if done.returncode == 0:
        print(f"Site: {folder / 'html' / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
