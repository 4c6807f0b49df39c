"""Sphinx's configuration for the site. `python docs/book.py` collects the pages and calls Sphinx with it.

Notebooks are shown as committed: the build executes nothing. MathJax comes out of a package, so that the finished
site loads nothing from another host.
"""

from __future__ import annotations

import re
import shutil
from importlib.metadata import files
from pathlib import Path
from typing import Any

from sphinx import addnodes

import una_ref

project = "una_ref"
author = "the una_ref authors"
project_copyright = "Apache-2.0"
version = release = una_ref.__version__
html_title = f"una_ref {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx_copybutton"]
root_doc = "index"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div:not(.output) > div.highlight > pre"  # what is typed, not what came out

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}


def literal(lines: list[str]) -> list[str]:
    """Docstring lines with columns, and with what is indented below a colon and an empty line, as literal blocks."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        if re.match(r"\S+ {2,}\S", paragraph) and "\n" in paragraph:
            found += ["::", re.sub(r"^", "    ", paragraph, flags=re.MULTILINE)]
            continue
        if found and found[-1].endswith(":") and not found[-1].endswith("::") and re.match(r" {4}\S", paragraph):
            found[-1] += ":"
        found.append(paragraph)
    return "\n\n".join(found).split("\n")


def escaped(lines: list[str]) -> list[str]:
    """Docstring lines whose stars, bars and trailing underscores are no markup: ``|y|`` and ``π_`` stand for
    themselves outside code. Single backticks are code, as in Markdown."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)(?=(\w)?)", "\n".join(lines))
    text = ""
    for plain, span, follows in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
        text += re.sub(r"([*|]|(?<=\w)_(?=\W|$))", r"\\\1", plain)
        if span:
            text += f"``{span.strip('`')}``" + ("\\ " if follows else "")
    return text.split("\n")


def docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with Google's sections; make of it the reStructuredText that says the same."""
    text, code = literal(lines), False
    lines.clear()
    run: list[str] = []
    for line in text:
        code = code and (not line.strip() or line.startswith("    "))
        if code:
            lines += [*escaped(run), line] if run else [line]
            run = []
            continue
        run.append(line)
        code = line.rstrip().endswith("::")
    lines += escaped(run) if run else []


def unguessed(app: Any, doctree: Any) -> None:
    """Names in the lists of a docstring are text: Sphinx would link each to any attribute of that name."""
    for reference in list(doctree.findall(addnodes.pending_xref)):
        if reference.get("refdomain") != "py":
            continue
        name = next(iter(reference.findall(addnodes.literal_strong)), None)
        word = next(iter(reference.findall(addnodes.literal_emphasis)), None)
        if name is not None:
            reference.replace_self(name)
        elif word is not None and word.astext()[:1].islower():  # "name, alias": no type begins so but those of Python
            reference.replace_self(word)


def offline_mathjax(app: Any, error: Exception | None) -> None:
    """Copy MathJax and its fonts from their package into the finished site."""
    if error or app.builder.format != "html":
        return
    here = next(Path(str(f.locate())) for f in files("sphinx-mathjax-offline") or () if f.name == "tex-chtml.js")
    there = Path(app.outdir) / "_static" / "mathjax"
    there.mkdir(parents=True, exist_ok=True)
    shutil.copy(here, there)
    shutil.copytree(
        here.parent / "output" / "chtml" / "fonts", there / "output" / "chtml" / "fonts", dirs_exist_ok=True
    )


def setup(app: Any) -> None:
    """Connect them."""
    app.connect("autodoc-process-docstring", docstring, priority=400)
    app.connect("doctree-read", unguessed)
    app.connect("build-finished", offline_mathjax)
