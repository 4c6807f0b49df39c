"""Merging runs: into full weights that keep the adapter's log-probs, into one adapter, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.policies.combining import read_adapter
from una_ref.policies.loading import load
from una_ref.training.merges import Merge, merge

IDS = torch.tensor([[6, 9, 1, 2, 3, 9]])


@torch.no_grad()
def logps(folder):
    return load(str(folder))[0].eval()(input_ids=IDS).logits.double().log_softmax(-1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two finished runs on ToySteer's base."""
    folder = tmp_path_factory.mktemp("runs")
    few = ["steps=6", "rows=32", "batch=8", "lora_r=4", "lr=0.01"]
    for method, data in (("sft", "toysteer/demonstrations"), ("dpo", "toysteer/pairs")):
        assert main(["train", method, "--data", data, "--output", str(folder / method), *few]) == 0
    return folder


def test_one_run_becomes_full_weights_with_the_adapter_s_log_probs(runs, tmp_path, capsys):
    output = tmp_path / "merged"
    assert main(["merge", str(runs / "sft"), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "log-probs: within" in said and f"full weights: {output}" in said
    assert (output / "model.safetensors").exists() and not (output / "adapter_config.json").exists()
    effect = (logps(runs / "sft") - logps(runs / "sft" / "base")).abs().max()
    assert (logps(output) - logps(runs / "sft")).abs().max() < 1e-4 < effect
    record = json.loads((output / "run.json").read_text())
    assert record["gap"] < 1e-4 < record["effect"] and record["finished"]
    assert load(str(output))[0].generation_config.suppress_tokens  # ToySteer's prompts' words are never sampled


def test_a_dtype_that_rounds_the_adapter_away_is_refused(runs, tmp_path, capsys):
    adapter = read_adapter(str(runs / "sft"))
    young = tmp_path / "young"
    young.mkdir()
    from una_ref.policies.combining import save_adapter

    small = {layer: (a, b / 1000) for layer, (a, b) in adapter.factors.items()}
    save_adapter(small, adapter, young, adapter.base)
    words = ["merge", str(young), "--output", str(tmp_path / "out")]
    assert main([*words, "--dtype", "bfloat16"]) == 2
    assert "dtype=bfloat16: expected merged weights with the adapter's log-probs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(words) == 0


def test_several_runs_become_one_adapter(runs, tmp_path, capsys):
    output = tmp_path / "linear"
    words = ["merge", str(runs / "sft"), str(runs / "dpo"), "--output", str(output), "--weights", "0.25,0.75"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 8
    base = load(str(runs / "sft" / "base"))[0]
    plain = base.state_dict()
    own = {name: load(str(runs / name))[0].state_dict() for name in ("sft", "dpo")}
    summed = {k: v + 0.25 * (own["sft"][k] - v) + 0.75 * (own["dpo"][k] - v) for k, v in plain.items()}
    base.load_state_dict(summed)
    with torch.no_grad():
        expected = base.eval()(input_ids=IDS).logits.double().log_softmax(-1)
    assert (logps(output) - expected).abs().max() < 1e-4 < (logps(runs / "sft") - expected).abs().max()


def test_ties_at_full_rank_is_its_full_weights(runs, tmp_path):
    names = f"{runs / 'sft'},{runs / 'dpo'}"
    full = merge(Merge(names, str(tmp_path / "full"), how="ties", density=0.5))
    adapter = merge(Merge(names, str(tmp_path / "adapter"), how="ties", density=0.5, rank=64))
    reduced = merge(Merge(names, str(tmp_path / "reduced"), how="ties", density=0.5, rank=2))
    assert (full["result"], adapter["result"]) == ("weights", "adapter")
    assert (logps(tmp_path / "full") - logps(tmp_path / "adapter")).abs().max() < 1e-3
    assert adapter["share_kept"] == pytest.approx(1) and 0.2 < reduced["share_kept"] < 0.99


def test_a_merge_is_not_repeated_and_another_one_is_refused(runs, tmp_path, capsys):
    words = ["merge", str(runs / "sft"), str(runs / "dpo"), "--output", str(tmp_path / "out"), "--method", "slerp"]
    assert main(words) == 0
    before = (tmp_path / "out" / "adapter_model.safetensors").stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert main([*words, "--weights", "1,3"]) == 2
    assert "weights: expected '' as in the run that it holds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "mean"], "method: expected one of linear, slerp, ties, dare, got 'mean'"),
        (["--weights", "1"], "weights: expected 2 numbers, one for each adapter, got '1'"),
        (["--weights", "1,b"], "weights: expected 2 numbers"),
        (["--weights", "1,-1", "--method", "slerp"], "weights: expected 2 numbers"),
        (["--density", "2", "--method", "ties"], "density: expected a number at least 0 and at most 1 or null"),
        (["--density", "0.5"], "density: expected method=ties or dare, got linear"),
        (["--rank", "2"], "rank: linear: expected 0, since its result is an adapter already, got 2"),
        (["--dtype", "int8"], "dtype: expected one of float32"),
        (["--seed", "-1"], "seed: expected a whole number at least 0, got -1"),
    ],
)  # fmt: skip
def test_options_of_a_merge_are_checked_before_anything_is_read(words, message, tmp_path, capsys):
    assert main(["merge", "a", "b", "--output", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_merge_of_what_is_no_adapter_is_refused(runs, tmp_path, capsys):
    assert main(["merge", str(runs / "sft" / "base"), "--output", str(tmp_path / "out")]) == 2
    assert "expected a folder with adapter_config.json and adapter_model.safetensors" in capsys.readouterr().err
    with pytest.raises(InputError, match="method: expected several adapters to combine, got one"):
        Merge(str(runs / "sft"), how="ties")
    with pytest.raises(InputError, match="merge: expected different runs"):
        Merge("a,a")
    (tmp_path / "full").mkdir()
    Path(tmp_path / "full" / "mine.txt").write_text("mine")
    assert main(["merge", str(runs / "sft"), "--output", str(tmp_path / "full")]) == 2
    assert "expected an empty folder or an earlier run's, got one with other files" in capsys.readouterr().err


def test_the_l1_norm_makes_the_change_of_the_weights_smaller(tmp_path):
    few = ["--data", "toysteer/demonstrations", "steps=10", "rows=32", "batch=8", "lora_r=4", "lr=0.01"]
    sizes = {}
    for weight in ("0", "0.01"):
        folder = tmp_path / weight
        assert main(["train", "sft", "--output", str(folder), *few, f"l1={weight}"]) == 0
        sizes[weight] = sum(float((b @ a).abs().sum()) for a, b in read_adapter(str(folder)).factors.values())
    assert sizes["0.01"] < 0.6 * sizes["0"]
    assert main(["train", "sft", "--output", str(tmp_path / "x"), *few, "l1=0.1", "lora_r=0"]) == 2


def test_an_adapter_of_the_head_is_merged_though_the_base_shares_its_weight(runs, tmp_path, lora_on_head):
    folder, expected = lora_on_head
    record = merge(Merge(str(folder), str(tmp_path / "merged")))
    assert record["gap"] < 1e-4 < record["effect"]
    assert (logps(tmp_path / "merged") - expected).abs().max() < 1e-4


@pytest.fixture
def lora_on_head(runs, tmp_path):
    """The folder of an adapter on the head of a tied base, and the log-probs of the adapted model."""
    from una_ref.policies.loading import load_tokenizer, small_mistral, with_lora

    tokenizer = load_tokenizer(str(runs / "sft"))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    base = small_mistral(tokenizer, tie_word_embeddings=True, **sizes)
    base.save_pretrained(tmp_path / "tied")
    tokenizer.save_pretrained(tmp_path / "tied")
    model = with_lora(base, r=4, targets=["q_proj", "lm_head"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        expected = model(input_ids=IDS).logits.double().log_softmax(-1)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "tied")
    model.save_pretrained(tmp_path / "head", save_embedding_layers=False)
    return tmp_path / "head", expected
