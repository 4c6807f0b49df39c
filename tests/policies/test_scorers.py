"""A scorer's reward is read at the response's last token, in both layouts, and survives saving."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, CodeGenConfig, CodeGenForCausalLM

from una_ref.data.batch import Example, collate
from una_ref.data.encoder import Encoder
from una_ref.errors import InputError
from una_ref.policies.loading import byte_pair_tokenizer, small_mistral, with_lora
from una_ref.policies.scorers import CONFIG_KEY, Scorer, with_scalar_head

WORDS = ["red green blue cat dog bird runs sleeps eats now"]
FAMILIES = ["Mistral", "Llama", "Qwen2", "GPT2"]
# A long response beside short ones, so that padded rows have many pads; ended (2) and cut responses; one with the
# pad token (0) in its middle; one of a single token.
EXAMPLES = [
    Example((1, 9, 8), ((5, 6, 7, 2), (5, 6, 7), tuple(range(3, 40)))),
    Example((1, 9), ((4, 2), (4,), (4, 0, 0, 11))),
    Example((1, 30, 31, 32, 33, 34), ((2,), (40, 41, 42, 43, 2))),
]


@pytest.fixture
def encoder():
    return Encoder(byte_pair_tokenizer(WORDS, 300), max_length=64, max_response=8)


@pytest.fixture
def scorer(tiny, encoder):
    """scorer(family, dtype=torch.float32, **config): a scorer whose head is large enough to matter."""

    def make(family="Mistral", dtype=torch.float32, **config):
        model = with_scalar_head(tiny(family, **config).to(dtype), encoder)
        model.score.weight.data *= 30
        return model

    return make


def alone(model, examples):
    """Rewards by transformers' own forward, one sequence at a time and so without pads."""
    rows = [torch.tensor([[*e.prompt, *r]]) for e in examples for r in e.responses]
    with torch.no_grad():
        return torch.stack([model(row).logits[0, 0] for row in rows])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rewards_in_both_layouts_equal_the_models_own_forward(family, attention, scorer):
    model = scorer(family, attn_implementation=attention)
    by_hand = alone(model, EXAMPLES)
    assert by_hand.std() > 0.05
    for layout in ("packed", "padded"):
        for batches in ([e] for e in EXAMPLES), [EXAMPLES]:
            with torch.no_grad():
                rewards = torch.cat(
                    [Scorer(model)(collate(batch, layout, include_last_token=True)) for batch in batches]
                )
            torch.testing.assert_close(rewards, by_hand, rtol=1e-5, atol=1e-5)


def test_sliding_window_is_kept(scorer):
    model = scorer(sliding_window=4)
    rewards = Scorer(model)(collate(EXAMPLES, include_last_token=True))
    torch.testing.assert_close(rewards, alone(model, EXAMPLES), rtol=1e-5, atol=1e-5)
    assert (rewards - Scorer(scorer())(collate(EXAMPLES, include_last_token=True))).abs().max() > 1e-2


def test_reward_depends_on_the_last_token_and_not_on_other_responses(scorer):
    reward = Scorer(scorer())
    ended, cut, changed = (
        reward(collate([Example((1, 9), ((5, 6, *end), other))], include_last_token=True))[0].item()
        for end, other in (((2,), (7,)), ((), (7,)), ((2,), (8, 8, 8)))
    )
    assert abs(ended - cut) > 1e-3 and ended == pytest.approx(changed, abs=1e-6)


def test_batch_without_last_tokens_is_refused(scorer):
    with pytest.raises(ValueError, match="include_last_token=True"):
        Scorer(scorer())(collate(EXAMPLES))


def test_head_starts_small_and_depends_on_the_seed(tiny, encoder):
    heads = [with_scalar_head(tiny(hidden_size=512), encoder, seed=seed).score for seed in (0, 0, 1)]
    assert heads[0].weight.std().item() == pytest.approx(1 / 513, rel=0.1)
    assert heads[0].bias is None and heads[0].weight.shape == (1, 512)
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)


def test_transformer_is_shared_not_copied(tiny, encoder):
    model = tiny()
    assert with_scalar_head(model, encoder).model is model.model


def test_pad_token_that_is_the_eos_or_has_no_embedding_is_replaced(tiny, encoder):
    tokenizer = encoder.tokenizer
    pad = tokenizer.pad_token_id
    assert with_scalar_head(tiny(vocab_size=300), encoder).config.pad_token_id == pad
    assert with_scalar_head(tiny(vocab_size=pad), encoder).config.pad_token_id == tokenizer.unk_token_id
    tokenizer.pad_token = tokenizer.eos_token  # transformers would read the reward before the EOS
    assert with_scalar_head(tiny(vocab_size=300), encoder).config.pad_token_id == tokenizer.unk_token_id
    assert tokenizer.pad_token_id == tokenizer.unk_token_id  # what pads a batch is what the model looks for
    tokenizer.unk_token = tokenizer.pad_token = tokenizer.eos_token
    assert with_scalar_head(tiny(vocab_size=300), encoder).config.pad_token_id == tokenizer.bos_token_id


def test_architecture_without_a_linear_score_head_is_refused(encoder):
    config = CodeGenConfig(vocab_size=300, n_embd=32, n_layer=1, n_head=4, n_positions=32, rotary_dim=4)
    with pytest.raises(InputError, match="CodeGenForCausalLM: expected an architecture whose sequence classifier"):
        with_scalar_head(CodeGenForCausalLM(config), encoder)


def moved(model):
    """The model with an adapter and a head that differ from their initial values."""
    model = with_lora(model, r=4, task="SEQ_CLS")
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_with_lora_only_head_and_adapters_are_trained(scorer):
    model = with_lora(scorer(), r=4, task="SEQ_CLS")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    head = "base_model.model.score.modules_to_save.default.weight"
    assert {name for name in trained if "lora_" not in name} == {head}
    assert any("lora_A" in name for name in trained) and not any("score" in name for name in trained if "lora" in name)


@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize("family", ["Mistral", "GPT2"])
def test_saved_scorer_loads_with_the_same_rewards(adapters, family, scorer, tmp_path):
    reward_model = Scorer(moved(scorer(family)) if adapters else scorer(family))
    before = reward_model(collate(EXAMPLES, include_last_token=True)).detach()
    reward_model.merge()
    reward_model.model.save_pretrained(tmp_path)
    loaded, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    torch.testing.assert_close(reward_model(collate(EXAMPLES, include_last_token=True)), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone(loaded.eval(), EXAMPLES), before, rtol=1e-5, atol=1e-5)
    assert torch.equal(loaded.score.weight, reward_model.model.score.weight)
    settings = {"max_length": 64, "max_response": 8, "split_special_tokens": True}
    assert getattr(loaded.config, CONFIG_KEY) == settings and loaded.config.num_labels == 1


def test_small_adapter_survives_merging_into_a_bfloat16_base(scorer):
    # A change of 1e-4 is lost in the rounding of bfloat16 weights of order 0.1.
    model = with_lora(scorer(dtype=torch.bfloat16), r=4, task="SEQ_CLS")
    reward_model, layer = Scorer(model), model.base_model.model.model.layers[0].mlp.up_proj
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert reward_model(collate(EXAMPLES, include_last_token=True)).dtype == torch.float32
    layer.lora_B.default.weight.data += 1e-4
    base = layer.base_layer.weight.float()
    expected = base + layer.get_delta_weight("default")
    reward_model.merge()
    merged = reward_model.model.model.layers[0].mlp.up_proj.weight
    assert merged.dtype == torch.float32 and torch.equal(merged, expected.to(merged)) and not torch.equal(merged, base)
    reward_model.merge()
    assert reward_model.model.model.layers[0].mlp.up_proj.weight is merged, "a second merge changes nothing"


def test_rewards_are_float32_under_autocast(scorer):
    reward_model = Scorer(scorer())
    with torch.autocast("cpu", torch.bfloat16):
        assert reward_model(collate(EXAMPLES, include_last_token=True)).dtype == torch.float32


def test_rewards_of_a_new_scorer_are_near_zero(encoder):
    model = with_scalar_head(small_mistral(encoder.tokenizer), encoder)
    rewards = Scorer(model)(collate(EXAMPLES, include_last_token=True))
    assert 0 < rewards.abs().max() < 0.5
