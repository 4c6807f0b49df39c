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
copybutton_selector = "div.highlight-python pre, div.highlight-ipython3 pre, div.highlight-sh pre, div.highlight-yaml pre, div.highlight-json pre"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}


def escaped(text: str) -> str:
    """A line of a docstring, with what reStructuredText would take for markup escaped outside code."""
    parts = re.split(r"(``.+?``|`[^`]+`(?:_\b)?)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*|]|(?<=\w)_(?=\W|$))", r"\\\1", part) for part in parts)


def plain(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with Google's sections: ``|y|`` and ``π_`` in them are no markup."""
    literal = False
    for i, line in enumerate(lines):
        literal = literal and (not line.strip() or line.startswith("    "))
        if not literal:
            lines[i] = escaped(line)
        literal = literal or line.rstrip().endswith("::")


def offline_mathjax(app: Any, error: Exception | None) -> None:
    """Copy MathJax and its fonts from their package into the finished site."""
    if error or app.builder.format != "html":
        return
    here = next(Path(str(f.locate())) for f in files("sphinx-mathjax-offline") or () if f.name == "tex-chtml.js")
    there = Path(app.outdir) / "_static" / "mathjax"
    there.mkdir(parents=True, exist_ok=True)
    shutil.copy(here, there)
    shutil.copytree(here.parent / "output" / "chtml" / "fonts", there / "output" / "chtml" / "fonts", dirs_exist_ok=True)


def setup(app: Any) -> None:
    """Connect the two."""
    app.connect("autodoc-process-docstring", plain, priority=400)
    app.connect("build-finished", offline_mathjax)
