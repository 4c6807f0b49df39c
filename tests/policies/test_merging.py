"""A merged model decodes as the adapted one, or the adapter is not merged; the base weights never change."""

import hashlib

import pytest
import torch

from una_ref.policies import loading
from una_ref.policies.merging import SHARE, TOLERANCE, merged
from una_ref.policies.rollout import MERGE_ABOVE, HuggingFace

EOS = 2
PROMPTS = [(1, 5, 6, 7, 3), (1, 4), (1, 5, 6)]
IDS = torch.tensor([[1, 5, 6, 7, 3, 9, 11, 30]])


def digest(model):
    """Names, order, dtypes and bytes of a model's state."""
    held = {name: v.contiguous().view(torch.uint8).numpy().tobytes() for name, v in model.state_dict().items()}
    return [(name, v.dtype, hashlib.sha256(held[name]).hexdigest()) for name, v in model.state_dict().items()]


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def logps(model):
    return logits(model).double().log_softmax(-1)


def scaled(model, factor):
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.data *= factor
    return model


def linears(model):
    return [type(module).__name__ for module in model.modules() if "Linear" in type(module).__name__]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_model_has_plain_layers_and_the_adapted_log_probs(tiny, lora, dtype):
    model = lora(tiny().to(dtype))
    adapted = logps(model)
    with model.disable_adapter():
        base = logps(model)
    before = digest(model)
    with merged(model, PROMPTS) as verdict:
        assert verdict.merged, verdict.why
        assert not any("lora" in type(module).__module__ for module in model.get_base_model().modules())
        result = logps(model)
    assert (result - adapted).abs().max() <= TOLERANCE[dtype] < 1e-2 < (base - adapted).abs().max()
    assert digest(model) == before
    assert torch.equal(logps(model), adapted)


def test_exception_while_merged_restores_the_model(tiny, lora):
    model = lora(tiny())
    before, layers = digest(model), linears(model)

    def decode():
        with merged(model, PROMPTS) as verdict:
            assert verdict.merged and linears(model) != layers
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode()
    assert digest(model) == before and linears(model) == layers


def test_small_adapter_that_bfloat16_would_round_away_is_not_merged(tiny, lora):
    model = scaled(lora(tiny().to(torch.bfloat16)), 1e-3)
    with model.disable_adapter():
        base = logps(model)
    adapted = logps(model)
    assert not torch.equal(adapted, base), "the adapter has an effect"
    before = digest(model)
    with merged(model, PROMPTS) as verdict:
        assert not verdict.merged
        assert verdict.why.startswith("decoding unmerged: merging moves log-probs by ")
        assert torch.equal(logps(model), adapted)
    assert digest(model) == before
    # PEFT's own merge leaves most weights of the base unchanged, since it rounds in bfloat16.
    base_weights = {n: p.clone() for n, p in model.named_parameters() if "base_layer" in n}
    model.merge_adapter()
    kept = [torch.eq(p, base_weights[n]).double().mean() for n, p in model.named_parameters() if n in base_weights]
    assert min(kept) > 0.85


def test_large_adapter_is_merged_in_bfloat16(tiny, lora):
    model = lora(tiny().to(torch.bfloat16))
    before = digest(model)
    with merged(model, PROMPTS) as verdict:
        assert verdict.merged, verdict.why
    assert digest(model) == before


def test_fresh_adapter_is_merged_without_any_change(tiny, lora):
    model = lora(tiny().to(torch.bfloat16), fresh=True)
    adapted = logits(model)
    with merged(model, PROMPTS) as verdict:
        assert verdict.merged
        assert torch.equal(logits(model), adapted)


def test_each_of_the_two_limits_refuses_a_merge(tiny, lora, monkeypatch):
    model = lora(tiny())
    monkeypatch.setitem(TOLERANCE, torch.float32, 0.0)
    with merged(model, PROMPTS) as verdict:
        assert not verdict.merged and "allowed 0)" in verdict.why
    monkeypatch.undo()
    monkeypatch.setattr("una_ref.policies.merging.SHARE", 0.0)
    with merged(model, PROMPTS) as verdict:
        assert not verdict.merged and "of which it may be 0%" in verdict.why
    assert SHARE == 0.1


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_merging_a_tied_head_leaves_the_embedding_alone(tiny, lora):
    model = lora(tiny(tie_word_embeddings=True), target_modules=["lm_head", "q_proj"])
    before, adapted = digest(model), logps(model)
    with merged(model, PROMPTS) as verdict:
        assert verdict.merged, verdict.why
        assert (logps(model) - adapted).abs().max() <= 1e-4, "the embedding is the base's"
    assert digest(model) == before


def test_bias_of_a_merged_layer_is_kept(tiny, lora):
    model = lora(tiny("Qwen2"))
    adapted = logps(model)
    with merged(model, PROMPTS) as verdict:
        assert verdict.merged
        assert (logps(model) - adapted).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "is a variant of LoRA, DoraLinearVariant"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens is no LoRA on a linear layer"),
    ],
)
def test_adapter_that_is_not_lora_on_a_linear_layer_is_not_merged(tiny, lora, config, reason):
    model = lora(tiny(), **config)
    adapted = logps(model)
    with merged(model, PROMPTS) as verdict:
        assert not verdict.merged and reason in verdict.why
        assert torch.equal(logps(model), adapted)


def test_adapter_that_is_off_missing_or_has_dropout_is_not_merged(tiny, lora):
    model = lora(tiny(), lora_dropout=0.5)
    with merged(model.eval(), PROMPTS) as verdict:
        assert verdict.merged
    with merged(model.train(), PROMPTS) as verdict:
        assert not verdict.merged and "has dropout" in verdict.why
    with model.eval().disable_adapter(), merged(model, PROMPTS) as verdict:
        assert not verdict.merged and "is off" in verdict.why
    with merged(tiny(), PROMPTS) as verdict:
        assert not verdict.merged and "no adapter" in verdict.why


# -------------------------------------------------------------------------------------------------------- in a rollout


def test_rollout_merges_for_long_responses_and_gives_the_reason(tiny, lora):
    model = lora(tiny())
    before = digest(model)
    model.train()
    auto, never = HuggingFace(EOS), HuggingFace(EOS, merge="never")
    samples = auto(model, PROMPTS, k=3, max_new=MERGE_ABOVE + 1, seed=0)
    assert auto.merging.merged and auto.merging.why.startswith("decoding merged: ")
    plain = never(model, PROMPTS, k=3, max_new=MERGE_ABOVE + 1, seed=0)
    assert never.merging == type(never.merging)(False, "decoding unmerged: merge=never, 17 tokens at most")
    assert [[s.tokens for s in of_prompt] for of_prompt in samples] == [
        [s.tokens for s in of_prompt] for of_prompt in plain
    ]
    assert digest(model) == before and all(module.training for module in model.modules())
    auto(model, PROMPTS, k=3, max_new=MERGE_ABOVE, seed=0)
    assert auto.merging.why == "decoding unmerged: merge=auto, 16 tokens at most"


def test_interrupted_rollout_restores_the_base(tiny, lora, monkeypatch):
    model = lora(tiny())
    before = digest(model)

    def stops(**more):
        assert "Linear" in linears(model) and not any("lora_" in n for n, _ in model.get_base_model().named_modules())
        raise KeyboardInterrupt

    monkeypatch.setattr(model.get_base_model(), "generate", stops)
    with pytest.raises(KeyboardInterrupt):
        HuggingFace(EOS)(model, PROMPTS, k=3, max_new=MERGE_ABOVE + 1, seed=0)
    monkeypatch.undo()
    assert digest(model) == before


def test_every_adapted_layer_is_replaced_while_merged():
    class Words:
        bos_token_id, eos_token_id, pad_token_id = 1, EOS, 0

        def __len__(self):
            return 40

    model = loading.with_lora(loading.small_mistral(Words(), num_hidden_layers=3, hidden_size=16, intermediate_size=32))
    with merged(model, PROMPTS):
        assert sum(kind == "Linear" for kind in linears(model.get_base_model())) == 3 * 7 + 1
    assert sum("lora" in type(m).__module__ and type(m).__name__ == "Linear" for m in model.modules()) == 3 * 7
