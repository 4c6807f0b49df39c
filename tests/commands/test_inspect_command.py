"""``una-ref inspect``: the method by the kind of feedback, text, JSON and page."""

import json
import re
from html.parser import HTMLParser

import pytest

from una_ref.cli import main

TINY = ["shape.hidden_size=16", "shape.num_hidden_layers=1", "shape.intermediate_size=16", "vocabulary=300", "lora_r=2"]
ROWS = {
    "dpo": {"prompt": "What is it?", "chosen": "<b>4</b>", "rejected": "five"},
    "kto": {"prompt": "What is it?", "completion": "four", "label": True},
    "una-score": {"prompt": "What is it?", "completion": "four", "score": 0.5},
    "sft": {"prompt": "What is it?", "completion": "four"},
}


class Spans(HTMLParser):
    """The texts of a page's spans by their class, as a browser reads them."""

    def __init__(self):
        super().__init__()
        self.inside, self.texts = None, {}

    def handle_starttag(self, tag, attributes):
        self.inside = dict(attributes).get("class") if tag == "span" else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.texts.setdefault(self.inside, []).append(data)


def file(folder, row):
    path = folder / "rows.jsonl"
    others = [row | {"prompt": f"{row['prompt']} {n}"} for n in range(3)]
    path.write_text("".join(json.dumps(one) + "\n" for one in [row, *others]))
    return str(path)


@pytest.mark.parametrize("method", ROWS)
def test_the_loss_is_chosen_by_the_kind_of_feedback(method, tmp_path, capsys):
    assert main(["inspect", file(tmp_path, ROWS[method]), "--rows", "2", *TINY]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{method} on ")
    assert said.count("not trained") == 2


def test_json_has_every_token_with_its_numbers(tmp_path, capsys):
    assert main(["inspect", file(tmp_path, ROWS["dpo"]), "--rows", "1", "--json", *TINY]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    tokens = [token for response in row["responses"] for token in response["tokens"]]
    assert {*tokens[0]} == {"id", "text", "logp", "ref_logp", "push", "share"}
    assert sum(token["share"] for token in tokens) == pytest.approx(1)


def test_the_page_escapes_the_data_and_asks_the_network_for_nothing(tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["inspect", file(tmp_path, ROWS["dpo"]), "--rows", "1", "--html", str(page), *TINY]) == 0
    text = page.read_text()
    spans = Spans()
    spans.feed(text)
    assert "".join(spans.texts["up"]).startswith("<b>4</b>")
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)
    assert text.count('class="up"') == sum("raises" in line for line in capsys.readouterr().out.splitlines())


def test_context_within_a_response_is_faint_and_has_no_numbers(tmp_path, capsys):
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    said = (("assistant", "one"), ("user", "two"), ("assistant", "3"))
    row = {"prompt": "What is it?", "completion": [{"role": role, "content": text} for role, text in said]}
    page = tmp_path / "page.html"
    words = ["inspect", file(tmp_path, row), "--rows", "1", *TINY, f"template={template}"]
    assert main([*words, "--html", str(page)]) == 0
    printed = capsys.readouterr()
    assert re.search(r"demonstration: \d+ tokens and \d+ of context, not trained, log π", printed.out)
    lines = [line.split("context")[1].strip() for line in printed.out.splitlines() if re.match(r" +\d+  context", line)]
    assert "".join(line[1:-1] for line in lines) == "[user]two</s>[assistant]"
    assert "others are context (turns=all)" in printed.err
    spans = Spans()
    spans.feed(page.read_text())
    assert "".join(spans.texts["context"]).endswith("[assistant][user]two</s>[assistant]")
    assert main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert {frozenset(token) for token in row["responses"][0]["tokens"]} >= {frozenset({"id", "text"})}


def test_no_row_is_refused(tmp_path, capsys):
    assert main(["inspect", file(tmp_path, ROWS["sft"]), "--rows", "0"]) == 2
    assert "--rows: expected at least 1, got 0" in capsys.readouterr().err


def test_pairs_with_margins_are_shown_with_a_loss_that_takes_them():
    from una_ref.commands.inspect_command import method_of
    from una_ref.data.rows import Row

    assert method_of(Row("p", ("a", "b"), pairs=((0, 1),), margins=(0.5,))) == "odpo"
    assert method_of(Row("p", ("a", "b"), pairs=((0, 1),), weights=(0.5,))) == "dpo"
