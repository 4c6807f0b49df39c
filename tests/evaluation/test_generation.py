"""Answers: batched, sorted by length, stopped at every end token, kept one by one."""

import json

import pytest
import torch

from una_ref import cli
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.sources import read
from una_ref.errors import InputError
from una_ref.evaluation import generation
from una_ref.evaluation.generation import Decoding, answers, item_names, limited, respond
from una_ref.evaluation.store import Results
from una_ref.evaluation.subject import subject
from una_ref.policies import named_models
from una_ref.policies.anatomy import end_ids

PROMPTS = ["What is the capital of France?", "Rain", "Write a short poem about rain and legs.", "How many legs?"]
ROWS = [Row(prompt, (), source=f"row {i}") for i, prompt in enumerate(PROMPTS)]


def by_hand(subject, row, max_new):
    """Greedy tokens by the whole sequence again at every step."""
    tokens = list(Encoder(subject.tokenizer).prompt_ids(row))
    start, ends = len(tokens), {*end_ids(subject.model, subject.tokenizer)}
    with torch.no_grad():
        while len(tokens) < start + max_new and not (len(tokens) > start and tokens[-1] in ends):
            tokens.append(int(subject.model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[start:]


def test_greedy_answers_are_those_of_the_plain_model_whatever_the_batch(tiny_subject):
    for batch in (1, 3):
        found = dict(respond(tiny_subject, ROWS, Decoding(max_new=12, batch=batch)))
        assert sorted(found) == [0, 1, 2, 3]
        for i, (response,) in found.items():
            tokens = by_hand(tiny_subject, ROWS[i], 12)
            assert response.tokens == len(tokens)
            assert response.text == tiny_subject.tokenizer.decode(tokens, skip_special_tokens=True)


def test_answer_ends_at_every_end_token_of_the_generation_config(tiny_subject, monkeypatch):
    plain = {i: r for i, (r,) in respond(tiny_subject, ROWS, Decoding(max_new=12))}
    tokens = by_hand(tiny_subject, ROWS[0], 12)
    assert not plain[0].ended and plain[0].tokens == 12
    monkeypatch.setattr(tiny_subject.model.generation_config, "eos_token_id", [2, tokens[4]])
    stopped = {i: r for i, (r,) in respond(tiny_subject, ROWS, Decoding(max_new=12))}
    first = tokens.index(tokens[4]) + 1
    assert stopped[0].ended and stopped[0].tokens == first < 12


def test_longest_prompts_come_first_in_batches_of_similar_length(tiny_subject, monkeypatch):
    batches = []

    class Recorded(generation.HuggingFace):
        def __call__(self, model, prompts, **options):
            batches.append([len(prompt) for prompt in prompts])
            return super().__call__(model, prompts, **options)

    monkeypatch.setattr(generation, "HuggingFace", Recorded)
    list(respond(tiny_subject, ROWS, Decoding(max_new=2, batch=2)))
    lengths = sorted((len(Encoder(tiny_subject.tokenizer).prompt_ids(row)) for row in ROWS), reverse=True)
    assert batches == [lengths[:2], lengths[2:]]


def test_resumed_samples_are_those_of_an_uninterrupted_run(tiny_subject, tmp_path):
    how = Decoding(max_new=8, temperature=1.0, samples=2, seed=3, batch=2)
    whole = answers(tiny_subject, ROWS, how, Results(tmp_path / "whole"), "answers")
    results = Results(tmp_path / "part")
    settings, line, *_ = map(json.loads, (tmp_path / "whole/answers.items.jsonl").read_text().splitlines())
    results.begin("answers", settings["settings"])
    results.add("answers", line["item"], line["values"])
    assert answers(tiny_subject, ROWS, how, results, "answers") == whole
    assert len((tmp_path / "part/answers.items.jsonl").read_text().splitlines()) == 1 + len(ROWS)
    assert len({response.text for several in whole for response in several}) > 4


def test_seed_and_batch_decide_the_samples(tiny_subject):
    rows = [ROWS[0]] * 2
    first, again, other = (
        [response.text for _, (response,) in respond(tiny_subject, rows, Decoding(8, 1.0, seed=seed, batch=1))]
        for seed in (0, 0, 1)
    )
    assert first == again and first[0] != first[1]
    assert {*first}.isdisjoint(other)


def test_answers_under_other_settings_are_refused(tiny_subject, tmp_path):
    answers(tiny_subject, ROWS[:1], Decoding(max_new=2), Results(tmp_path), "answers")
    with pytest.raises(InputError, match="decoding: expected .*'max_new': 2"):
        answers(tiny_subject, ROWS[:1], Decoding(max_new=3), Results(tmp_path), "answers")


def test_larger_limit_keeps_the_answers_that_are_there(tiny_subject, tmp_path, monkeypatch):
    few = answers(tiny_subject, ROWS[:2], Decoding(max_new=4), Results(tmp_path), "answers")
    asked = []

    def recorded(subject, rows, decoding, finished):
        asked.append(finished)
        return respond(subject, rows, decoding, finished=finished)

    monkeypatch.setattr(generation, "respond", recorded)
    assert answers(tiny_subject, ROWS, Decoding(max_new=4), Results(tmp_path), "answers")[:2] == few
    assert asked == [{0, 1}]


def test_repeated_prompts_have_names_of_their_own():
    names = item_names([Row("a", ()), Row("b", ()), Row("a", ())])
    assert len({*names}) == 3 and names[2] == f"{names[0]}.1"


def test_limit_takes_the_same_items_in_their_order():
    items = list(range(100))
    assert limited(items, None) == items and limited(items, 200) == items
    ten, twenty = limited(items, 10), limited(items, 20)
    assert ten == sorted(ten) and {*ten} < {*twenty} and ten != items[:10]
    with pytest.raises(InputError, match="limit: expected a whole number of at least 1, got 0"):
        limited(items, 0)


def test_prompt_that_leaves_no_room_is_refused_with_its_place(tiny_subject):
    with pytest.raises(InputError, match="row 1: expected prompt and answer within the model's 2048 positions"):
        next(respond(tiny_subject, ROWS[1:], Decoding(max_new=2047)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new": 0}, "max_new: expected a number of at least 1, got 0"),
        ({"batch": 0}, "batch: expected a number of at least 1, got 0"),
        ({"temperature": -1.0}, "temperature: expected a number of at least 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"samples": 2}, "samples: expected 1 at temperature 0"),
    ],
)
def test_decoding_out_of_range_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Decoding(**options)


# ---- the command


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_command_answers_a_file_in_its_order_and_the_answers_are_data(tiny_folder, tmp_path, capsys):
    talk = [{"role": role, "content": "Rain"} for role in ("user", "assistant", "user")]
    data = write(tmp_path / "prompts.jsonl", [{"prompt": p} for p in (*PROMPTS, talk)])
    output = tmp_path / "new" / "answers.jsonl"
    command = ["generate", str(tiny_folder), "--data", data, "--output", str(output), "--max-new", "6", "--batch", "2"]
    assert cli.main(command) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [*PROMPTS, talk]
    assert all({"response", "ended", "tokens"} <= {*line} for line in lines)
    cut = sum(not line["ended"] for line in lines)
    assert f"5 answers to 5 prompts: {output}\n{cut} of 5 answers cut at 6 tokens" in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == ["answers.jsonl"]
    assert [row.responses[0] for row in read(output, empty="keep")] == [line["response"] for line in lines]
    assert cli.main(command) == 2
    assert "expected a new file, got one that exists" in capsys.readouterr().err


def test_command_answers_prompts_of_pairs(tiny_folder, tmp_path):
    data = write(tmp_path / "pairs.jsonl", [{"prompt": "Rain", "chosen": "yes", "rejected": "no"}])
    output = tmp_path / "answers.jsonl"
    assert cli.main(["generate", str(tiny_folder), "--data", data, "--output", str(output), "--max-new", "2"]) == 0
    assert json.loads(output.read_text())["prompt"] == "Rain"


def test_interrupted_command_resumes(tiny_folder, tmp_path, monkeypatch, capsys):
    data = write(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    whole, output = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    options = ["--data", data, "--max-new", "6", "--batch", "1", "--json"]
    assert cli.main(["generate", str(tiny_folder), *options, "--output", str(whole)]) == 0
    add, calls = Results.add, []

    def killed(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return add(*arguments)

    monkeypatch.setattr(Results, "add", killed)
    assert cli.main(["generate", str(tiny_folder), *options, "--output", str(output)]) == 130
    assert not output.exists()
    made = []
    monkeypatch.setattr(Results, "add", lambda *arguments: made.append(1) or add(*arguments))
    assert cli.main(["generate", str(tiny_folder), *options, "--output", str(output)]) == 0
    assert len(made) == 2 and output.read_bytes() == whole.read_bytes()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["answers"] == 4


def test_command_prints_the_answer_to_a_typed_line_and_says_that_it_was_cut(tiny_folder, tiny_subject, capsys):
    assert cli.main(["generate", str(tiny_folder), "Rain", "--max-new", "5"]) == 0
    printed = capsys.readouterr()
    ((_, (response,)),) = respond(tiny_subject, [Row("Rain", ())], Decoding(max_new=5))
    assert printed.out == response.text + "\n"
    assert ("1 of 1 answers cut at 5 tokens" in printed.err) is not response.ended


def test_command_writes_the_answer_to_a_typed_line(tiny_folder, tiny_subject, tmp_path, capsys):
    output = tmp_path / "answer.jsonl"
    command = ["generate", str(tiny_folder), "Rain", "--max-new", "5", "--output", str(output)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith(f"1 answers to 1 prompts: {output}\n")
    ((_, (response,)),) = respond(tiny_subject, [Row("Rain", ())], Decoding(max_new=5))
    (line,) = map(json.loads, output.read_text().splitlines())
    assert line == {"prompt": "Rain", "response": response.text, "ended": response.ended, "tokens": response.tokens}
    assert cli.main(command) == 2


def test_template_replaces_the_tokenizers_own(tiny_folder, tmp_path, capsys):
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}How many legs has {{ m['content'] }}{% endfor %}")
    texts = []
    for options in ([], ["--template", str(template)]):
        assert cli.main(["generate", str(tiny_folder), "Rain", "--max-new", "8", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected a line to answer or --data FILE, got neither"),
        (["Rain", "--data", "x.jsonl"], "got both"),
        (["--data", "x.jsonl"], "expected --output FILE for the answers, got none"),
        (["--data", "none.jsonl", "--output", "y.jsonl"], "none.jsonl"),
        (["Rain", "--max-new", "0"], "max_new: expected a number of at least 1, got 0"),
        (["Rain", "--template", "none.jinja"], "none.jinja"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(options, message, tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", str(tiny_folder), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_smollm2_names_the_capital_of_france(capsys):
    try:
        named_models.resolved("smollm2")
    except InputError as error:
        pytest.skip(str(error))
    assert cli.main(["generate", "smollm2", "What is the capital of France?", "--max-new", "32"]) == 0
    printed = capsys.readouterr()
    assert "Paris" in printed.out and not printed.err
    assert subject("smollm2").template
