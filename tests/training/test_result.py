"""What a finished folder holds, and that a failure while writing it leaves nothing half-written."""

import json

import pytest

from una_ref.cli import main


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


def test_a_finished_folder_has_adapter_base_tokenizer_card_and_record_and_no_more(words, tmp_path):
    assert main(words) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    assert (tmp_path / "out" / "base" / "tokenizer.json").exists()


def test_the_card_has_the_template_the_data_and_the_numbers(words, tmp_path):
    assert main(words) == 0
    card, record = (tmp_path / "out" / "README.md").read_text(), json.loads((tmp_path / "out" / "run.json").read_text())
    assert card.startswith('---\nlibrary_name: "peft"\n')
    for part in ("**dpo**", "beta = 0.1", "pairs.jsonl", record["template"], "2 steps of 4 rows", *record["notes"]):
        assert part in card
    for name, value in record["evaluation"].items():
        assert f"| {name} | {value:.4f} |" in card
    assert set(record["versions"]) == {"python", "una_ref", "torch", "transformers", "peft", "accelerate"}


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
