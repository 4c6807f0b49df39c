"""A run that sets no learning rate takes one that fits its model, and all that is written of it has that number."""

import json
from pathlib import Path

import pytest

from una_ref.cli import main
from una_ref.policies.loading import byte_pair_tokenizer, small_mistral
from una_ref.training.config import Config
from una_ref.training.dryrun import dry_run
from una_ref.training.prepare import prepare
from una_ref.training.settings import resolve

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def named(tmp_path):
    """The folder of a model that no run of this package has made."""
    tokenizer = byte_pair_tokenizer(["red green blue cat dog bird"], 300)
    small_mistral(tokenizer, num_key_value_heads=1, **SIZES).save_pretrained(tmp_path / "named")
    tokenizer.save_pretrained(tmp_path / "named")
    return str(tmp_path / "named")


@pytest.mark.parametrize(
    ("model", "lora_r", "expected"),
    [
        ("", 32, 1e-3),
        ("", 0, 1e-3),
        ("toysteer", 8, 1e-3),
        ("smollm2", 32, 1e-4),
        ("mistralai/Mistral-7B-v0.1", 1, 1e-4),
        ("smollm2", 0, 1e-5),
    ],
)
def test_the_default_learning_rate_fits_the_model(model, lora_r, expected):
    assert Config(method="dpo", model=model, lora_r=lora_r).learning_rate == expected
    for value in (0.5, 0.0, 1e-3):
        assert Config(method="dpo", model=model, lora_r=lora_r, lr=value).learning_rate == value


def test_a_run_that_starts_from_another_run_takes_the_rate_of_its_first_model(tmp_path):
    for model, expected in (("", 1e-3), ("toysteer", 1e-3), ("smollm2", 1e-4)):
        (tmp_path / "run.json").write_text(json.dumps({"config": {"model": model}}))
        assert Config(method="dpo", model=str(tmp_path)).learning_rate == expected


def test_the_optimizer_and_a_critic_have_the_default_rate(named, data):
    job = prepare(resolve("dpo", ["held_out=0", "lora_r=2", "batch=4"], data=data("pairs"), model=named))
    assert [group["peak"] for group in job.trainer.optimizer.param_groups] == [1e-4]


def test_record_log_dry_run_and_card_of_a_run_have_the_same_rate(named, data, tmp_path, capsys):
    words = ["train", "dpo", "--data", data("pairs"), "--model", named, "steps=1", "batch=4", "lora_r=2", "held_out=0"]
    out = tmp_path / "out"
    told = "the default for a named model with LoRA"
    assert main([*words, "--dry-run"]) == 0
    assert f"  lr           0.0001, {told}\n" in capsys.readouterr().out
    assert main([*words, "--output", str(out), "warmup=0", "schedule=constant"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"model: {named}, ") and said[1] == f"lr: 0.0001, {told}"
    assert json.loads((out / "run.json").read_text())["config"]["lr"] == 1e-4
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["lr"] == 1e-4
    assert " lr=0.0001 " in (out / "README.md").read_text()
    assert "lr:" not in dry_run(resolve("dpo", ["lr=0.01", "lora_r=2"], data=data("pairs"), model=named))


def test_a_run_from_before_with_the_rate_in_its_record_resumes(data, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["train", "dpo", "--data", data("pairs"), "--output", str(out), *tiny, "steps=2", "held_out=0"]
    assert main(words) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["lr"] == 1e-3  # what earlier versions wrote for every model
    for same in (words, [*words, "lr=1e-3"]):
        assert main(same) == 0
        assert "finished already" in capsys.readouterr().err
    assert main([*words, "lr=2e-3"]) == 2
    assert "lr: expected 0.001 as in the run that it holds, got 0.002" in capsys.readouterr().err


def test_a_recipe_of_several_steps_from_before_resumes(tmp_path, capsys):
    few = ["sft.steps=1", "sft.rows=8", "dpo.steps=1", "dpo.rows=8", "batch=4", "lora_r=2", "held_out=0"]
    words = ["train", "paft", "--output", str(tmp_path / "out"), *few]
    assert main(words) == 0
    record = tmp_path / "out" / "run.json"
    saved = json.loads(record.read_text())
    assert saved["config"]["sft.lr"] is None
    saved["config"] |= {"sft.lr": 1e-3, "dpo.lr": 1e-3}
    record.write_text(json.dumps(saved))
    before = {name: (tmp_path / "out" / name / "run.json").read_text() for name in ("sft", "dpo")}
    assert main(words) == 0
    assert {name: Path(tmp_path, "out", name, "run.json").read_text() for name in before} == before
    assert json.loads(before["sft"])["config"]["lr"] == 1e-3
