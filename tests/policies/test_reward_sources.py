"""Reward sources see text: a truth, a function, a model with a tokenizer of its own, the mean of several."""

import json
import math
import sys

import pytest
import torch

from una_ref import cli
from una_ref.data.rows import Row
from una_ref.data.sources import read
from una_ref.data.toysteer import Knobs, ToySteer, rate
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.reward_sources import Answer, Classifier, Truth, checked, named, scored


def lengths(answers):
    """A reward for the tests: characters of the response."""
    return [len(answer.response) for answer in answers]


def but_the_long(answers):
    """A reward for the tests: none for a response of more than two characters."""
    return [len(answer.response) if len(answer.response) < 3 else None for answer in answers]


def silent(answers):
    """A reward for the tests: no answer at all."""
    return [None] * len(answers)


def nothing(answers):
    """A reward for the tests: not a number."""
    return [math.nan for _ in answers]


ANSWERS = [Answer("Is it?", "Yes, it is."), Answer("Why?", "No"), Answer("Is it?", "")]


@pytest.fixture
def folder(tmp_path):
    """A reward model of another vocabulary than any policy's, as a folder."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = loading.byte_pair_tokenizer(["Is it? Yes, it is.", "Why? No"], vocabulary=300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=None,
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_the_truth_is_the_worlds_reward():
    world = ToySteer(seed=3, knobs=Knobs(offset=1.0))
    prompt = world.prompts[2]
    answers = [Answer(prompt, "a b", True), Answer(prompt, "a b c d e", False)]
    weights = (0.65, 0.8, 0.45)
    by_hand = []
    for answer in answers:
        ratings = rate(prompt, answer.response.replace(" ", ""), answer.ended)
        score = sum(w * r for w, r in zip(weights, ratings[:3], strict=True)) / 7.6
        by_hand.append(4 * (score - 0.5) + float(world.offsets[2]))
    assert Truth(world)(answers) == pytest.approx(by_hand, abs=1e-12)
    with pytest.raises(InputError, match="expected a prompt of the world"):
        Truth(world)([Answer("sort a =", "a")])


def test_a_classifiers_score_is_that_of_the_answer_alone(folder):
    # Through the model's own forward, one answer at a time and so without pads; the batch has them.
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        alone = [
            float(model(torch.tensor([tokenizer(a.prompt + a.response)["input_ids"]])).logits[0, 0]) for a in ANSWERS
        ]
    source = Classifier(str(folder))
    assert source(ANSWERS) == pytest.approx(alone, abs=1e-5)
    assert Classifier(str(folder), tokens=12)(ANSWERS) == pytest.approx(alone, abs=1e-5)


def test_a_bfloat16_classifier_stays_one_and_its_scores_are_finer_than_that(folder):
    from transformers import AutoModelForSequenceClassification

    fine = Classifier(str(folder))(ANSWERS)
    AutoModelForSequenceClassification.from_pretrained(folder).bfloat16().save_pretrained(folder)
    source = Classifier(str(folder))
    scores = source(ANSWERS)
    assert source.model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert scores == pytest.approx(fine, abs=0.02)
    assert torch.tensor(scores).bfloat16().tolist() != scores


def test_a_classifier_reads_what_answers_open_with_once(folder):
    source = Classifier(str(folder))
    read = []
    source.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    prompt = "Is it? " * 20
    answers = [Answer(prompt, response) for response in ("Yes, it is.", "No", "Yes")]
    scores = source(answers)
    apart = [score for answer in answers for score in source([answer])]
    assert scores == pytest.approx(apart, abs=1e-5)
    assert read[0] < sum(read[1:]) / 2
    assert len(set(scores)) == 3


def test_a_classifier_has_its_own_chat_template(folder):
    source = Classifier(str(folder))
    source.tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    read = source.tokenizer.decode(source.text(Answer("Why?", "No")))
    assert read == "[user]Why?[assistant]No"
    turns = ({"role": "system", "content": "Be."}, {"role": "user", "content": "Why?"})
    assert source.tokenizer.decode(source.text(Answer(turns, "No"))) == "[system]Be.[user]Why?[assistant]No"


def test_a_tokenizer_that_does_not_fit_is_refused(folder):
    loading.byte_pair_tokenizer(["the quick brown fox jumps"] * 3, vocabulary=300)
    wide = loading.byte_pair_tokenizer(["the quick brown fox", "a lazy dog"], vocabulary=400)
    wide.add_tokens([f"<{i}>" for i in range(200)])
    wide.save_pretrained(folder)
    with pytest.raises(InputError, match="the rows of its embedding, got"):
        Classifier(str(folder))


def test_names():
    assert named(f"{__name__}:lengths") is lengths or named(f"{__name__}:lengths")(ANSWERS) == lengths(ANSWERS)
    both = named(f"{__name__}:lengths,{__name__}:lengths")
    assert both(ANSWERS) == lengths(ANSWERS)
    with pytest.raises(InputError, match="expected ToySteer's prompts"):
        named("toysteer")
    with pytest.raises(InputError, match="expected module:function"):
        named("math:no_such_thing")
    with pytest.raises(InputError, match="expected a sequence-classification model"):
        named("no/such-model-anywhere")
    with pytest.raises(InputError, match=r"expected module:function, got"):
        named("./rewards.py:mine")


@pytest.mark.parametrize("name", ["/no/where", "./rewards", "../rewards", "~/rewards", "runs/my/rewards"])
def test_a_misspelt_folder_is_no_hub_name(name, monkeypatch):
    # Nobody is asked for it: what would have to is taken away.
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    with pytest.raises(InputError, match=f"reward '{name}': .*, got a path where nothing is"):
        named(name)
    with pytest.raises(InputError, match=f"model '{name}': .*, got a path where nothing is"):
        loading.load(name)


def test_stored_responses_scored_are_rows_to_train_on(tmp_path, capsys):
    data, output = tmp_path / "pairs.jsonl", tmp_path / "out" / "scored.jsonl"
    lines = [{"prompt": f"q{i}", "chosen": "x" * i, "rejected": "yy"} for i in range(1, 151)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["score", "--reward", f"{__name__}:lengths", "--data", str(data), "--output", str(output)]
    assert cli.main(command) == 0
    rows = list(read(output))
    assert [row.scores for row in rows] == [(i, 2.0) for i in range(1, 151)]
    assert [row.responses for row in rows] == [(line["chosen"], line["rejected"]) for line in lines]
    assert cli.main(command) == 2, "a file that is there is not written over"
    assert "expected a new file" in capsys.readouterr().err


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    # As a console script has it: the script's own folder on the path in place of the current one.
    (tmp_path / "my_rewards_here.py").write_text("def long(answers):\n    return [len(a.response) for a in answers]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    assert named("my_rewards_here:long")(ANSWERS) == lengths(ANSWERS)


def test_a_reward_that_fails_leaves_nothing_half_written(tmp_path):
    data, output = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    data.write_text(json.dumps({"prompt": "q", "chosen": "x", "rejected": "y"}) + "\n")
    assert cli.main(["score", "--reward", f"{__name__}:nothing", "--data", str(data), "--output", str(output)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_no_answer_is_left_out_and_counted_never_scored(tmp_path, capsys):
    data, output = tmp_path / "lists.jsonl", tmp_path / "scored.jsonl"
    lists = [["a", "xxx", "bb"], ["xxx", "xxxx"], ["d", "xxx", "c"]]
    lines = [{"prompt": f"q{i}", "completions": some, "scores": [9] * len(some)} for i, some in enumerate(lists)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["score", "--data", str(data), "--output", str(output), "--reward"]
    assert cli.main([*command, f"{__name__}:but_the_long"]) == 0
    assert [(row.responses, row.scores) for row in read(output)] == [
        (("a", "bb"), (1.0, 2.0)),
        (("d", "c"), (1.0, 1.0)),
    ]
    printed = capsys.readouterr().out
    assert "responses dropped: no answer: 4\n" in printed
    assert "rows dropped: no answer for any response: 1\n" in printed
    output.unlink()
    assert cli.main([*command, f"{__name__}:silent"]) == 2
    assert "expected answers, got none for any response" in capsys.readouterr().err
    assert not output.exists()


def test_an_ensemble_has_no_answer_where_one_of_it_has_none():
    mean = named(f"{__name__}:but_the_long,{__name__}:twice")
    assert mean([Answer("q", ""), Answer("q", "xxx"), Answer("q", "xx")]) == [0.0, None, 3.0]


def twice(answers):
    """A reward for the tests: twice the length."""
    return [2 * len(answer.response) for answer in answers]


def short(answers):
    """A reward for the tests: one number too few."""
    return [1.0] * (len(answers) - 1)


@pytest.mark.parametrize(("other", "match"), [("short", "expected 3 numbers, got 2"), ("nothing", "a finite number")])
def test_an_ensemble_names_the_one_that_is_wrong(other, match):
    with pytest.raises(InputError, match=f":{other}: expected {match.removeprefix('expected ')}"):
        named(f"{__name__}:lengths,{__name__}:{other}")(ANSWERS)


def test_the_row_of_a_bad_number_is_named():
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match=rf"got {bad} for the response 'No' to 'Why\?'"):
            checked(ANSWERS, [1.0, bad, None], "mine")
    assert checked(ANSWERS, [1, None, 2.5], "mine") == [1.0, None, 2.5]


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        ([1.0], "expected 3 numbers, got 1"),
        ([1.0, math.nan, 2.0], "finite"),
        (1.0, "expected a list of 3 numbers, got: 'float' object"),
        (["good", "bad", "ugly"], "expected a list of 3 numbers, got: could not convert"),
    ],
)
def test_what_is_no_reward_is_refused(scores, match):
    with pytest.raises(InputError, match=match):
        checked(ANSWERS, scores, "mine")


def test_a_prompt_alone_has_nothing_to_score():
    with pytest.raises(InputError, match="f:1: responses: expected at least one to score, got a prompt alone"):
        list(scored([Row("p", (), source="f:1")], lengths, "mine"))
