"""The README is short, and each kind of reader finds a way in. What it shows is tested with the rest of the docs."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_at_most_140_lines_and_9_kilobytes():
    assert len(README.splitlines()) <= 140
    assert len(README.encode()) <= 9_000


def test_readme_shows_the_exact_worlds_and_the_real_model():
    shown = ["figures/14_exact_leaderboard.svg", "figures/real_model.svg"]
    assert re.findall(r"!\[.+\]\((.+)\)", README) == shown


def test_readme_shows_the_two_commands_of_a_fresh_clone():
    assert re.findall(r"^make (\w+)", README, flags=re.MULTILINE) == ["demo", "test"]


def test_readme_gives_student_researcher_and_practitioner_a_first_link():
    [doors] = re.findall(r"^\| you want to \|.*?\n\n", README, flags=re.MULTILINE | re.DOTALL)
    for link in ("notebooks/START", "docs/claims.md", "docs/training.md"):
        assert link in doors


def test_readme_links_every_guide_or_the_index_that_lists_them():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert "(docs/README.md)" in README
    assert {page for page in pages if f"({page})" not in index} == set()


def test_readme_recommends_existing_methods_for_every_feedback_in_at_most_eleven_rows():
    from una_ref import METHODS

    [rows] = re.findall(r"^\| you have \|.*?\n\n", README, flags=re.MULTILINE | re.DOTALL)
    lines = rows.strip().splitlines()[2:]
    named = {word for line in lines for words in re.findall(r"`([^`]+)`", line) for word in words.split()[:1]}
    assert len(lines) <= 11
    cases = " ".join(line.split("|")[1] for line in lines)
    for feedback in ("pairs", "binary labels", "scores", "ranked lists", "demonstrations", "bad responses", "a reward"):
        assert feedback in cases
    assert {name for name in named if name not in METHODS} == set()
