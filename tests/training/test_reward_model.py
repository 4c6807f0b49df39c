"""A reward model, from training to `reward=FOLDER`: it reads the same text in training and when it scores."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from una_ref.cli import main
from una_ref.data.batch import Prompt, collate
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.policies.answers import Answer
from una_ref.policies.classifier import Classifier
from una_ref.policies.loading import byte_pair_tokenizer, small_mistral
from una_ref.policies.references import Policy
from una_ref.policies.rollout import HuggingFace
from una_ref.policies.scorers import Scorer
from una_ref.training.config import Config
from una_ref.training.loop import fit
from una_ref.training.prepare import prepare
from una_ref.training.reading import read_rows, usable_rows
from una_ref.training.samplers import Rollouts

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def reward_model(tmp_path, tiny):
    """reward_model(data, *settings): the folder of a reward model after a few steps."""

    def command(data, *settings, output="rm"):
        folder = tmp_path / output
        words = ["--data", data, "--output", str(folder)]
        assert main(["train", "reward-model", *words, *tiny, "steps=6", "held_out=0", "lr=0.02", *settings]) == 0
        return folder

    return command


def job_of(folder):
    return prepare(Config(**json.loads((folder / "run.json").read_text())["config"]))


def trained(folder):
    """The rewards of all training responses by the training forward, and the same responses as answers."""
    job = job_of(folder)
    fit(job)
    rows = {row.source: row for row in usable_rows(read_rows(job.config), job.config)[0]}
    job.trainer.policy.eval()
    with torch.no_grad():
        rewards = job.trainer.logps(job.examples)
    eos = job.tokenizer.eos_token_id
    answers = [
        Answer(rows[e.source].prompt, text, ids[-1] == eos)
        for e in job.examples
        for text, ids in zip(rows[e.source].responses, e.responses, strict=True)
    ]
    return rewards, answers


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("kind", ["pairs", "scores"])
def test_reward_source_gives_the_rewards_of_training(rank, kind, reward_model, data):
    folder = reward_model(data(kind), f"lora_r={rank}")
    rewards, answers = trained(folder)
    assert rewards.std() > 1e-3
    assert Classifier(str(folder))(answers) == pytest.approx(rewards.tolist(), abs=1e-5)


def test_learning_from_lists_trains_the_scorer_on_ranked_lists(reward_model, data):
    # Three scores of a prompt are one pair, best against worst, unless the run asks for lists.
    pairs, lists = (
        reward_model(data("scores"), "steps=20", "batch=12", *more, output=name)
        for name, more in {"pairs": (), "lists": ("learn_from=lists",)}.items()
    )
    said = ["\n".join(json.loads((folder / "run.json").read_text())["notes"]) for folder in (pairs, lists)]
    assert "scores -> pairs (best-worst)" in said[0] and "scores -> lists (best first): 12 lists, 36 resp" in said[1]
    assert [*job_of(lists).trainer.losses] == ["lists"] and [*job_of(pairs).trainer.losses] == ["pairs"]
    losses = [json.loads(line)["loss"] for line in (lists / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.05
    trained_on = [trained(folder)[0] for folder in (pairs, lists)]
    assert len(trained_on[0]) == 24 and len(trained_on[1]) == 36 and trained_on[1].std() > 1e-3


def test_reward_source_matches_training_with_and_without_eos(reward_model, toysteer_base):
    # Responses are cut at two tokens. Which samples reach ToySteer's length of five depends on the processor.
    folder = reward_model("toysteer/pairs", "rows=256", "shape={}", "seed=0", "max_response=2")
    rewards, answers = trained(folder)
    assert {answer.ended for answer in answers} == {True, False}
    source = Classifier(str(folder))
    assert source(answers) == pytest.approx(rewards.tolist(), abs=1e-5)
    ended = next(a for a in answers if a.ended)
    assert source.ids(ended)[-1] == source.tokenizer.eos_token_id
    assert source.ids(Answer(ended.prompt, ended.response, False)) == source.ids(ended)[:-1]


@pytest.mark.parametrize("template", [None, CHATML])
def test_reward_source_matches_training_with_a_template_and_cut_rows(template, reward_model, data, tmp_path):
    path = data("pairs")
    texts = [text for row in read_rows(Config("dpo", data=path)) for text in (row.prompt, *row.responses)]
    tokenizer = byte_pair_tokenizer(texts, 290)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    small_mistral(tokenizer, **shape, num_hidden_layers=1).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    folder = reward_model(path, f"model={tmp_path / 'base'}", "max_response=6")
    notes = json.loads((folder / "run.json").read_text())["notes"]
    assert any(note.startswith("responses cut") for note in notes)
    rewards, answers = trained(folder)
    source = Classifier(str(folder))
    assert source(answers) == pytest.approx(rewards.tolist(), abs=1e-5)
    # The text that training read, template included.
    read = source.tokenizer.decode(source.ids(Answer("red cat", " now")))
    golden = "<|im_start|>user\nred cat<|im_end|>\n<|im_start|>assistant\n now<|im_end|></s>"
    assert read == (golden if template else "<s>red cat now</s>")


def test_reward_source_reads_messages_as_in_training(reward_model, data):
    source = Classifier(str(reward_model(data("pairs"))))
    turns = ({"role": "user", "content": "red cat"},)
    encoder = Encoder(source.tokenizer)
    example = encoder(Row(turns, ("now",)))
    assert source.ids(Answer(turns, "now")) == [*example.prompt, *example.responses[0]]
    assert source.tokenizer.decode(example.prompt) == "<s>User: red cat\n\nAssistant: "


def test_reward_model_from_elsewhere_reads_plain_text(reward_model, data):
    folder = reward_model(data("pairs"))
    about = json.loads((folder / "config.json").read_text())
    del about["una_ref"]
    (folder / "config.json").write_text(json.dumps(about))
    source = Classifier(str(folder))
    assert source.tokenizer.decode(source.ids(Answer("red", " cat"))) == "red cat"  # no BOS, no EOS of ours


def test_prompt_that_leaves_no_room_for_a_response_is_refused(reward_model, data):
    source = Classifier(str(reward_model(data("pairs"), "shape.max_position_embeddings=32")))
    with pytest.raises(InputError, match="leaves room for a response in 32 tokens"):
        source([Answer("red cat " * 40, "now")])


def test_reward_model_reads_text_whatever_the_policy_token_ids(reward_model, data):
    # Policies with different tokenizers give the same text. The ids differ, the score does not (trap 36).
    path = data("pairs")
    source = Classifier(str(reward_model(path)))
    texts = ["red green blue cat dog bird runs sleeps eats now"]
    tokenizers = [source.tokenizer, byte_pair_tokenizer(texts, 262), byte_pair_tokenizer(texts * 5, 300)]
    ids = [tuple(t(" red cat now", add_special_tokens=False)["input_ids"]) for t in tokenizers]
    assert len(set(ids)) == 3
    scores = {source([Answer("green dog", t.decode(i))])[0] for t, i in zip(tokenizers, ids, strict=True)}
    assert len(scores) == 1
    # In a rollout the sampled text is scored.
    policy = tokenizers[1]
    model = small_mistral(policy, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                          num_key_value_heads=1)  # fmt: skip
    rollouts = Rollouts(HuggingFace(policy.eos_token_id), source, "mine", policy, 4, 6, 0)
    prompt = tuple(policy("green dog", add_special_tokens=False)["input_ids"])
    (example,), ((*samples,),) = rollouts(Policy(model, has_reference=False), [Prompt(prompt, "green dog")], 0)[:2]
    texts = [policy.decode(sample.tokens[:-1] if sample.ended else sample.tokens) for sample in samples]
    assert list(example.scores) == pytest.approx(
        source([Answer("green dog", text, sample.ended) for text, sample in zip(texts, samples, strict=True)]), abs=1e-6
    )


@pytest.mark.parametrize("rank", [0, 4])
def test_stock_transformers_loads_the_whole_reward_model(rank, reward_model, data):
    folder = reward_model(data("pairs"), f"lora_r={rank}")
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert {p.name for p in folder.iterdir()} == {
        *("README.md", "config.json", "metrics.jsonl", "model.safetensors", "run.json", ".lock"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    rewards, answers = trained(folder)
    source, tokenizer = Classifier(str(folder)), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        alone = [model.eval()(torch.tensor([source.ids(a)])).logits[0, 0].item() for a in answers]
        rows = tokenizer.pad({"input_ids": [source.ids(a) for a in answers]}, return_tensors="pt")
        together = model(**rows).logits[:, 0].tolist()
    assert alone == pytest.approx(rewards.tolist(), abs=1e-5)
    assert together == pytest.approx(rewards.tolist(), abs=1e-5)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification")


def test_reward_model_learns_the_preferences(reward_model, data):
    # Chosen responses end with "now" and rejected ones with "cat", so a perfect model exists.
    folder = reward_model(data("pairs", 40), "steps=60", "held_out=0.25")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["eval_loss"] == pytest.approx(0.6931, abs=0.02)
    assert lines[-1]["eval_rewards/accuracies"] == 1 and lines[-1]["eval_loss"] < 0.1
    assert lines[-1]["eval_rewards/margins"] > 2
    assert not [name for line in lines for name in line if "logps" in name]


def test_reward_head_is_trained_beside_the_adapter_and_no_base_is_saved(reward_model, data):
    folder = reward_model(data("pairs"))
    job = job_of(folder)
    start = job.trainer.policy
    assert isinstance(start, Scorer) and start.adapters and not start.has_reference
    with torch.no_grad():
        before = start(collate(job.examples, include_last_token=True))
    loaded = Scorer(Classifier(str(folder)).model)
    head = start.model.base_model.model.score.modules_to_save.default.weight
    assert not torch.equal(loaded.model.score.weight, head)
    assert (loaded(collate(job.examples, include_last_token=True)) - before).abs().max() > 1e-2
    assert not (folder / "base").exists() and not (folder / "adapter_model.safetensors").exists()


def test_online_run_uses_a_trained_reward_model(reward_model, data, tmp_path, tiny):
    folder = reward_model(data("pairs"))
    words = ["train", "una-online", "--data", data("pairs"), "--output", str(tmp_path / "online"), *tiny]
    assert main([*words, "steps=2", "samples=2", f"reward={folder}", "max_response=6"]) == 0
    line = json.loads((tmp_path / "online" / "metrics.jsonl").read_text().splitlines()[-1])
    assert abs(line["reward"]) < 20


def test_copied_reward_model_gives_the_same_scores(reward_model, data, tmp_path):
    # How text is read is stored in config.json, not in the run's record, so a copy without the record scores the same.
    folder = reward_model(data("pairs"))
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "moved").mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / "moved" / name)
    answers = [Answer("red", " cat"), Answer("blue", " now", False)]
    assert Classifier(str(tmp_path / "moved"))(answers) == Classifier(str(folder))(answers)


def test_reward_model_training_refuses_online_and_beta(reward_model, data, capsys):
    words = ["train", "reward-model", "--data", data("pairs"), "--dry-run"]
    assert main([*words, "--online"]) == 2
    assert "expected a method that learns from scores" in capsys.readouterr().err
    assert main([*words, "beta=0.1"]) == 2
    assert "beta: unknown key" in capsys.readouterr().err
