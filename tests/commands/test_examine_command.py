"""``una-ref examine``: text, JSON, page and exit codes."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest

from una_ref.cli import main

LOSSES = '''
"""Losses of one's own."""
import torch


def hinge(*, chosen_logps, rejected_logps, beta=0.3):
    return (1 - beta * (chosen_logps - rejected_logps)).relu()


def mean(*, chosen_logps, rejected_logps):
    return (rejected_logps - chosen_logps).mean()


def unknown(*, chosen_logps, rejected_logps, weights):
    return rejected_logps - chosen_logps
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(LOSSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("own_losses", None)
    return tmp_path


class Page(HTMLParser):
    """Counts the tags of a page and collects its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_text_and_page_have_every_section_in_order(folder, capsys):
    assert main(["examine", "own_losses:hinge", "--html", "hinge.html"]) == 0
    said = capsys.readouterr().out
    headings = re.findall(r"^(\w.*)$", said, flags=re.MULTILINE)
    assert headings == [
        "Certificate of own_losses:hinge",
        "What it asks for",
        "Numbers",
        "Gradient",
        "What it ignores",
        "What it reduces to",
        "What it learns",
        "Certain and noisy feedback",
        "page: hinge.html",
    ]
    page = Page()
    page.feed((folder / "hinge.html").read_text("utf-8"))
    assert page.open == [] or page.open == ["html"]
    assert page.tags.count("dt") == 7 and page.tags.count("tr") == 6
    for line in said.splitlines():
        assert line.strip().removeprefix("page: hinge.html") in page.text
    source = (folder / "hinge.html").read_text("utf-8")
    assert "prefers-color-scheme: dark" in source and not re.findall(r"(?:src|href)=", source)


def test_json_has_the_typed_fields(folder, capsys):
    assert main(["examine", "sft", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["name"] == "sft" and record["soundness"]["conservative"] is True
    assert record["optima"]["learned"][1]["policy"]["gap"] < 1e-6


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["own_losses:mean"], "own_losses:mean: expected the shape (6,), got (). Fix: return one number per example"),
        (["own_losses:unknown"], "expected a name of docs/arguments.md, such as chosen_logps"),
        (["own_losses:hnge"], "expected module:function"),
        (["no_such_module:loss"], "expected module:function"),
        (["dpoo"], "did you mean dpo?"),
        (["dpo", "--kind", "labels"], "expected --kind pairs"),
        (["dpo", "--html", "page.txt"], "--html: expected a name that ends in .html"),
        (["dpo", "--html", "none/page.html"], "--html: expected a folder that exists"),
        (["dpo", "--html", "folder.html"], "--html: expected a file that can be written, got 'folder.html'"),
        (["own_losses.py"], "expected a function, got a file. Fix: name a loss in it, as in own_losses.py:my_loss"),
    ],
)
def test_bad_input_is_refused_with_its_fix(words, part, folder, capsys):
    (folder / "folder.html").mkdir()
    assert main(["examine", *words]) == 2
    found = capsys.readouterr()
    assert part in found.err and found.out == ""
