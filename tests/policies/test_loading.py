"""A model loads as it was saved, with its adapter merged. Anything that does not load is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from una_ref.data.batch import Example, collate
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.loading import byte_pair_tokenizer, disable_dropout, load, small_mistral, with_lora
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.policies.references import Policy

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_key_value_heads": 2}
BATCH = collate([Example((1, 4, 5), ((6, 7, 2), (2,)))])
TEXTS = ["hello world, says é≠", "another line\n\twith  spaces"] * 5


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def tokenizer():
    return byte_pair_tokenizer(TEXTS, 300)


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A small model on disk."""
    small_mistral(tokenizer, **SHAPE).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def adapter(folder, lora, tmp_path):
    """The folder of a trained adapter, without a tokenizer, and the log-probs of the adapted model."""
    model = lora(load(str(folder))[0])
    model.peft_config["default"].base_model_name_or_path = str(folder)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", sequence_logprobs(model, BATCH)


# ------------------------------------------------------------------------------------------------------- made here


def test_small_mistral_depends_on_its_seed_only(tokenizer):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    models = [small_mistral(tokenizer, seed, **SHAPE) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert same(models[0], models[1]) and not same(models[0], models[2])
    config = models[0].config
    assert (config.vocab_size, config.hidden_size, config.num_attention_heads) == (len(tokenizer), 32, 4)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 3)


def test_byte_pair_tokenizer_decodes_what_it_encodes(tokenizer):
    assert 256 + 4 < len(tokenizer) <= 300
    for text in (*TEXTS, "日本語 \U0001f600 \x00 unseen"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert tokenizer.unk_token_id not in ids
    assert [tokenizer.convert_tokens_to_ids(t) for t in ("<unk>", "<s>", "</s>", "<pad>")] == [0, 1, 2, 3]


# -------------------------------------------------------------------------------------------------------- from disk


def test_folder_loads_as_it_was_saved(folder, tokenizer):
    model, words = load(str(folder))
    assert same(model, small_mistral(tokenizer, **SHAPE)) and not model.training
    assert words("hello world")["input_ids"] == tokenizer("hello world")["input_ids"]
    assert load(str(folder), "bfloat16")[0].dtype == torch.bfloat16


def refused(folder, got):
    with pytest.raises(InputError, match=rf"model '{folder}': expected .* got:? .*{got}"):
        load(str(folder))


def test_damaged_folder_is_refused_with_the_reason(folder, tmp_path):
    refused(tmp_path / "nothing", "nothing")
    shutil.copytree(folder, tmp_path / "config")
    (tmp_path / "config" / "config.json").write_text("{")
    refused(tmp_path / "config", "JSON")
    shutil.copytree(folder, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(tmp_path / "damaged", "file not fully covered")
    shutil.copytree(folder, tmp_path / "words")
    (tmp_path / "words" / "tokenizer.json").write_text('{"version": "1.0"}')
    refused(tmp_path / "words", "a tokenizer that does not load .KeyError: 'added_tokens'")


def test_pickled_weights_are_not_opened(folder, tmp_path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, "safetensors")


def test_weights_without_a_tensor_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "weights without lm_head.weight")


def test_remote_code_is_not_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    refused(folder, "custom code which must be executed")
    assert not (tmp_path / "ran").exists()


def test_token_without_an_embedding_is_refused(folder, tokenizer):
    load(str(folder))[1].save_pretrained(folder)
    wider = load(str(folder))[1]
    wider.add_special_tokens({"pad_token": "[PAD]"})  # a pad token never reaches the model
    wider.save_pretrained(folder)
    assert len(load(str(folder))[1]) == len(tokenizer) + 1
    wider.add_tokens(["<im_start>"])
    wider.save_pretrained(folder)
    refused(folder, f"{len(tokenizer) + 1} for '<im_start>'")
    tokenizer.save_pretrained(folder)
    first = load(str(folder))[1]
    first.add_tokens(["<im_start>"])
    first.save_pretrained(folder)
    refused(folder, f"{len(tokenizer)} for '<im_start>'")


# --------------------------------------------------------------------------------------------------------- adapters


def test_trained_adapter_is_merged_and_becomes_the_reference(adapter, tokenizer):
    folder, expected = adapter
    model, words = load(str(folder))
    assert not any("lora_" in name for name in model.state_dict())
    torch.testing.assert_close(sequence_logprobs(model, BATCH), expected, rtol=0, atol=1e-5)
    policy = Policy(with_lora(model, r=4))
    assert policy.check_start(BATCH) == 0.0
    torch.testing.assert_close(policy.reference(BATCH), expected, rtol=0, atol=1e-5)
    assert len(words) == len(tokenizer)  # the base's, since the adapter has none


def test_tokenizer_of_an_adapter_replaces_the_bases(adapter, tokenizer):
    folder, _ = adapter
    words = load(str(folder))[1]
    words.chat_template = "the adapter's"
    words.save_pretrained(folder)
    assert load(str(folder))[1].chat_template == "the adapter's"


def test_adapter_without_its_base_is_refused(adapter):
    folder, _ = adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone/base"}))
    refused(folder, "/gone/base")


def test_fresh_adapter_equals_the_base_and_depends_on_its_seed_only(tokenizer):
    base = small_mistral(tokenizer, **SHAPE).eval()
    expected = sequence_logprobs(base, BATCH)
    state = torch.get_rng_state()
    models = [with_lora(small_mistral(tokenizer, **SHAPE), r=4, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert same(models[0], models[1]) and not same(models[0], models[2])
    for model in models:
        assert torch.equal(sequence_logprobs(model, BATCH), expected) and not model.training
    trained = {name for name, p in models[0].named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 2 and all("lora_" in name for name in trained)  # 2 layers of 7 matrices, A and B
    queries = with_lora(small_mistral(tokenizer, **SHAPE), r=4, alpha=6.0, dropout=0.25, targets=["q_proj"])
    (layer,) = {type(m): m for m in queries.modules() if hasattr(m, "lora_A")}.values()
    assert (layer.scaling["default"], layer.lora_dropout["default"].p) == (1.5, 0.25)
    assert sum(p.requires_grad for p in queries.parameters()) == 2 * 2


# ---------------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("GPT2", {}),
        ("Mistral", {"attention_dropout": 0.5}),
        ("OPT", {"dropout": 0.5, "ffn_dim": 48, "word_embed_proj_dim": 32}),
        ("Phi", {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attention_dropout": 0.5}),
    ],
)
def test_dropout_of_the_model_is_turned_off(tiny, family, config):
    model = tiny(family, **config).train()
    assert not torch.equal(sequence_logprobs(model, BATCH), sequence_logprobs(model, BATCH))
    disable_dropout(model)
    assert torch.equal(sequence_logprobs(model, BATCH), sequence_logprobs(model.eval(), BATCH))
    model.train()
    assert torch.equal(sequence_logprobs(model, BATCH), sequence_logprobs(model, BATCH))


def test_loaded_model_scores_encoded_text(folder):
    model, words = load(str(folder))
    examples = Encoder(words).encode([Row("hello", (" world", ""))])
    logps = sequence_logprobs(model, collate(examples))
    assert logps.shape == (2,) and (logps < 0).all()


# QLoRA runs on CUDA only. These tests hold the options that it is given.


def test_4_bits_are_refused_without_cuda_or_bitsandbytes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="load_in_4bit: expected a CUDA device, .* got none"):
        loading.load("somebody/model", load_in_4bit=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"expected the package bitsandbytes, got none; pip install una_ref\[qlora\]"):
        loading.load("somebody/model", load_in_4bit=True)


def test_4_bit_options_are_nf4_with_quantised_scales_on_this_processs_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(loading, "find_spec", lambda name: name)
    options = loading.four_bit_options("bfloat16")
    config = options["quantization_config"]
    assert config.load_in_4bit and (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16 and options["device_map"] == {"": 3}


def test_weights_that_are_not_quantised_are_float32_beside_4_bits(tokenizer):
    model = small_mistral(tokenizer, **SHAPE).bfloat16()
    model.is_loaded_in_4bit = True  # transformers marks a quantised model so
    names = {name for name, p in with_lora(model, r=4).named_parameters() if p.dtype == torch.bfloat16}
    assert not names and not any(p.requires_grad for name, p in model.named_parameters() if "lora_" not in name)
