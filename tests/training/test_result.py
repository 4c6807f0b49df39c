"""The files of a finished run. A failure while they are written leaves nothing half-written."""

import hashlib
import json
import shlex
from pathlib import Path

import pytest
import torch

from una_ref.cli import main
from una_ref.policies.answers import Answer
from una_ref.policies.classifier import Classifier
from una_ref.training.card import EXAMPLE, card


@pytest.fixture
def words(tmp_path, data, tiny):
    """The command of a run of two steps into tmp_path/out."""
    return [
        "train",
        "dpo",
        "--data",
        data("pairs"),
        "--output",
        str(tmp_path / "out"),
        *tiny,
        "steps=2",
        "held_out=0.3",
    ]


FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "base", "metrics.jsonl", "run.json"} | {
    *("tokenizer.json", "tokenizer_config.json", ".lock")
}


def test_a_finished_folder_has_adapter_base_tokenizer_card_and_record_only(words, tmp_path):
    assert main(words) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    assert (tmp_path / "out" / "base" / "tokenizer.json").exists()


def test_the_card_has_template_data_and_metrics(words, tmp_path):
    assert main(words) == 0
    card, record = (tmp_path / "out" / "README.md").read_text(), json.loads((tmp_path / "out" / "run.json").read_text())
    assert card.startswith("---\nlibrary_name: peft\n")
    digest = hashlib.sha256((tmp_path / "pairs.jsonl").read_bytes()).hexdigest()
    for part in (
        *("**dpo**", "beta = 0.1", "pairs.jsonl", record["template"], "2 steps of 4 rows", "seed 0", digest),
        *(*record["notes"], "LoRA: r 4, alpha 16.0", "8 rows to train on, 4 held out", record["rows"]["digest"]),
        *(record["hardware"], f"torch {torch.__version__}", "una_ref 0."),
    ):
        assert part in card, part
    for name, value in record["evaluation"].items():
        assert f"| {name} | {value:.4f} |" in card
    assert set(record["versions"]) == {"python", "una_ref", "torch", "transformers", "peft", "accelerate"}


def test_the_hub_reads_the_card_and_finds_its_base_and_data_sets(words, tmp_path):
    from huggingface_hub import ModelCard

    assert main(words) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    here = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert here == {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["una_ref", "dpo"]}
    there = record | {
        "config": record["config"] | {"model": "org/base", "data": "org/rows,pairs.jsonl,a/b.jsonl,./a/b"}
    }
    assert ModelCard(card(there)).data.to_dict() == here | {"base_model": ["org/base"], "datasets": ["org/rows"]}
    toy = record | {"config": record["config"] | {"data": "toysteer/pairs"}}
    assert ModelCard(card(toy)).data.to_dict() == here


def fenced(card, language):
    """The card's lines in that language."""
    return card.split(f"```{language}\n")[1].split("\n```")[0]


@pytest.mark.parametrize(
    ("method", "kind", "settings"),
    [
        ("dpo", "pairs", ["beta=0.3", "held_out=0.3", "group=false", "reference=cache", "seed=3"]),
        ("una-centred", "scores", ["baseline=learned", "lora_dropout=0.2", "lora_targets=q_proj,v_proj", "epochs=1.5"]),
        ("una-score", "scores", ["form=released", "beta=0.5", "lora_r=0", "rows=20"]),
        ("reward-model", "pairs", ["lr=0.003"]),
    ],
)
def test_the_card_s_command_makes_the_same_bytes_elsewhere(method, kind, settings, data, tiny, tmp_path, monkeypatch):
    path = data(kind)  # with a name that a shell would take apart
    odd = tmp_path / "it's my data.jsonl"
    odd.write_bytes(Path(path).read_bytes())
    folders = [tmp_path / "here", tmp_path / "there"]
    given = ["train", method, "--data", str(odd), "--output", "runs/out", *tiny, "steps=3", *settings]
    for folder in folders:
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("UNA_REF_CACHE", str(folder / "cache"))
        assert main(given) == 0
        given = shlex.split(fenced((folder / "runs/out/README.md").read_text(), "sh"))
        assert given.pop(0) == "una-ref"
    here, there = ({p.name: p.read_bytes() for p in (f / "runs/out").glob("*.safetensors")} for f in folders)
    assert here == there and len(here) == 1
    assert (folders[0] / "runs/out/metrics.jsonl").read_text() == (folders[1] / "runs/out/metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("method", "kind", "settings"),
    [("dpo", "pairs", []), ("sft", "pairs", ["lora_r=0"]), ("reward-model", "pairs", [])],
)
def test_the_card_s_code_loads_the_result(method, kind, settings, data, tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert main(["train", method, "--data", data(kind), "--output", str(out), *tiny, "steps=2", *settings]) == 0
    lines = fenced((out / "README.md").read_text(), "python")
    assert "<s>What is 2 + 2?" in lines
    monkeypatch.chdir(out.rename(tmp_path / "moved"))
    capsys.readouterr()
    exec(lines, {})
    said = capsys.readouterr().out
    assert "tensor([[" in said if method == "reward-model" else said.startswith("What is 2 + 2?")


@pytest.mark.parametrize("template", ["", "{% for m in messages %}<s>{{ m['content'] }}</s>\n{% endfor %}"])
def test_the_code_in_a_reward_model_s_card_prints_its_score(template, data, tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = ["train", "reward-model", "--data", data("pairs"), "--output", str(out), *tiny, "steps=4", "lr=0.05"]
    assert main([*words, *([f"template={template}"] if template else [])]) == 0
    names = {}
    monkeypatch.chdir(out)
    exec(fenced((out / "README.md").read_text(), "python").replace("print(", "scores = ("), names)
    source = Classifier(str(out))
    score, other = source([Answer(*EXAMPLE), Answer(EXAMPLE[0], "It is 5.")])
    assert names["scores"].item() == pytest.approx(score, abs=1e-5) and abs(score - other) > 1e-3
    assert names["model"].config.pad_token_id == names["tokenizer"].pad_token_id is not None


@pytest.mark.parametrize("part", ["base", "adapter", "tokenizer", "card", "record"])
def test_a_failure_while_the_result_is_written_leaves_nothing_half_written(part, words, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        target = {
            "base": "transformers.PreTrainedModel.save_pretrained",
            "adapter": "peft.PeftModel.save_pretrained",
            "tokenizer": "transformers.PreTrainedTokenizerBase.save_pretrained",
            "card": "una_ref.training.result.card",
            "record": "una_ref.training.checkpoints.write_text",
        }[part]
        if part == "record":
            from una_ref.training import checkpoints

            true = checkpoints.write_text
            patch.setattr(target, lambda path, text: fail() if '"finished": true' in text else true(path, text))
        else:
            patch.setattr(target, fail)
        assert main(words) == 1
    out = tmp_path / "out"
    assert json.loads((out / "run.json").read_text())["finished"] is False
    visible = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    assert visible <= FILES if part == "record" else visible <= {"run.json", "metrics.jsonl", "base"}
    assert main(words) == 0
    assert {p.name for p in out.iterdir()} == FILES
