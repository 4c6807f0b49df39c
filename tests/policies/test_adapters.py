"""An adapter is merged without any change of the policy, on tied weights too, or it is refused."""

import pytest
import torch

from una_ref.errors import InputError
from una_ref.policies.adapters import split
from una_ref.policies.loading import byte_pair_tokenizer, load, small_mistral

IDS = torch.tensor([[6, 9, 1, 2, 3, 9]])
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_key_value_heads": 2}


@torch.no_grad()
def logps(model):
    return model.eval()(input_ids=IDS).logits.double().log_softmax(-1)


@pytest.fixture
def adapted(tmp_path, lora):
    """adapted(dtype, size, **lora): the folder of an adapter on a tied base, and the log-probs of the adapted model."""

    def make(dtype=torch.float32, size=0.1, **config):
        tokenizer = byte_pair_tokenizer(["hello world"], 300)
        model = small_mistral(tokenizer, tie_word_embeddings=True, **SHAPE).to(dtype)
        with torch.no_grad():
            model.lm_head.weight *= 5
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        wrapped = lora(load(str(tmp_path / "base"), str(dtype).removeprefix("torch."))[0], **config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            for name, parameter in wrapped.named_parameters():
                if "lora_embedding_A" in name or "lora_B" in name or "modules_to_save" in name:
                    parameter.data += size * torch.randn_like(parameter)
        wrapped.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return tmp_path / "adapter", logps(wrapped)

    return make


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["lm_head", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["embedding", "head", "both", "saved head"],
)
def test_an_adapter_on_a_tied_layer_is_merged_into_that_layer_alone(config, adapted, tmp_path):
    folder, expected = adapted(**config)
    model, tokenizer = load(str(folder))
    base = load(str(tmp_path / "base"))[0]
    assert (logps(model) - expected).abs().max() < 1e-5 < (logps(base) - expected).abs().max()
    assert not model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "merged")  # as the base of the next run
    tokenizer.save_pretrained(tmp_path / "merged")
    assert (logps(load(str(tmp_path / "merged"))[0]) - expected).abs().max() < 1e-5


def test_an_adapter_on_other_layers_leaves_the_weights_tied(adapted):
    folder, expected = adapted(target_modules=["q_proj"])
    model, _ = load(str(folder))
    assert (logps(model) - expected).abs().max() < 1e-5
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.model.embed_tokens.weight
    assert split(model.model.embed_tokens, model.lm_head, model.config)
    assert not split(model.model.embed_tokens, model.lm_head, model.config)


def test_a_merge_that_changes_the_policy_is_refused_with_the_gap(adapted, monkeypatch):
    folder, _ = adapted(target_modules=["lm_head"])
    monkeypatch.setattr("una_ref.policies.adapters.untie", lambda model: False)
    with pytest.raises(InputError, match=r"cannot be merged .* change by [0-9.e-]+ nats, where its own effect is"):
        load(str(folder))
