"""What the pages of commands share: their style, light and dark, and the check of their file's name."""

from __future__ import annotations

from pathlib import Path

from una_ref.errors import InputError

STYLE = """
:root { color-scheme: light dark; --ink: #2b2f36; --page: #fbfbf8; --faint: #6a6f77; --up: 0 158 115;
  --down: 213 94 0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e4; --page: #1c1f24; --faint: #9aa0a8; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font: 13px/1.4 ui-monospace, monospace; }
td, th { padding: 1px .8rem 1px 0; text-align: right; white-space: pre; }
td:last-child, th:last-child { text-align: left; }
h2 { font-size: 1.05rem; margin-top: 2.5rem; }
h3 { font-size: .95rem; margin-bottom: .2rem; }
"""


def check_page(page: Path) -> None:
    """Refuse a page that cannot be written, and one whose name another file could have.

    Raises:
        InputError: the name does not end in .html, its folder does not exist, or nothing can be written there.
    """
    if page.suffix not in (".html", ".htm"):
        raise InputError(f"--html: expected a name that ends in .html, got {str(page)!r}")
    if not page.parent.is_dir():
        raise InputError(f"--html: expected a folder that exists, got {str(page.parent)!r}. Fix: make it first")
    there = page.exists()
    try:
        page.open("a").close()
    except OSError as error:
        raise InputError(
            f"--html: expected a file that can be written, got {str(page)!r} ({error.strerror}). Fix: choose another"
        ) from error
    if not there:
        page.unlink()
