"""Which layouts a model can be given, and that each of them gives the log-probs of a plain forward pass."""

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.policies.layouts import layouts
from una_ref.policies.loading import TableLM
from una_ref.policies.logprobs import check_scorable, sequence_logprobs
from una_ref.policies.references import Policy

CLOSE = {"sdpa": 1e-10, "eager": 1e-6}
"""Nats, in float64. The softmax of transformers' eager attention is float32, so rounding depends on the layout."""

EXAMPLES = [
    Example((3, 4, 5), ((6, 7, 8, 9, 10, 2), (2,), (11, 2))),
    Example((12, 13, 14, 15, 16, 17), ((18, 2), (19, 20, 21))),
    Example((22,), ((2,),)),
    Example((23, 24), ((2,), (25, 26, 27, 28, 29, 30, 31, 32, 33, 2), (34, 2), (35, 36, 2))),
]

WITHOUT_PACKING = [
    ("Bloom", {"n_layer": 2, "n_head": 4}),  # raises ValueError for a 4-D mask
    ("Falcon", {"alibi": True, "num_kv_heads": 4, "new_decoder_architecture": False}),  # the same
    ("OpenAIGPT", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),  # raises RuntimeError
    ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}),  # ignores positions
    ("Rwkv", {"attention_hidden_size": 32}),  # ignores the mask
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_window_is_kept_in_both_layouts(tiny, plain, attention):
    model = tiny("Mistral", attention, sliding_window=4).double()
    assert layouts(model) == ("packed", "padded")
    expected = plain(model, EXAMPLES)
    for layout in layouts(model):
        logps = sequence_logprobs(model, collate(EXAMPLES, layout))
        torch.testing.assert_close(logps, expected, rtol=0, atol=CLOSE[attention])
    model.config.sliding_window = None  # without it, the packed log-probs differ
    assert (sequence_logprobs(model, collate(EXAMPLES)) - expected).abs().max() > 1e-3


def test_model_with_full_and_sliding_layers_is_padded(tiny, plain):
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    model = tiny("Qwen2", **windows).double()
    assert layouts(model) == ("padded",)
    logps = sequence_logprobs(model, collate(EXAMPLES, "padded"))
    torch.testing.assert_close(logps, plain(model, EXAMPLES), rtol=0, atol=1e-10)
    wrong = sequence_logprobs(model, collate(EXAMPLES, "packed"))
    assert (wrong - plain(model, EXAMPLES)).abs().max() > 1e-3


def test_window_that_no_layer_uses_is_not_applied(tiny, plain):
    model = tiny("Qwen2").double()
    model.config.sliding_window = 2
    assert set(model.config.layer_types) == {"full_attention"}
    logps = sequence_logprobs(model, collate(EXAMPLES))
    torch.testing.assert_close(logps, plain(model, EXAMPLES), rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_without_additive_masks_is_padded(tiny, attention):
    model = tiny()
    model.config._attn_implementation = attention
    assert layouts(model) == ("padded",)


def test_model_with_local_attention_layers_is_padded(tiny):
    model = tiny("GPTNeo", attention_types=[[["global", "local"], 1]], num_layers=2, num_heads=4)
    assert layouts(model) == ("padded",)


@pytest.mark.parametrize(("family", "config"), WITHOUT_PACKING, ids=[family for family, _ in WITHOUT_PACKING])
def test_model_that_cannot_be_packed_is_scored_in_padded_rows(tiny, plain, family, config):
    model = tiny(family, **config).double().train()
    assert layouts(model) == ("padded",)
    assert model.training
    policy = Policy(model.eval(), has_reference=False)
    assert policy.layout == "padded"
    logps = policy(collate(EXAMPLES, policy.layout))
    torch.testing.assert_close(logps, plain(model, EXAMPLES), rtol=0, atol=1e-5)


def test_model_whose_forward_ignores_the_packed_mask_is_padded(tiny, plain):
    model = tiny()
    forward = model.model.forward

    def without_mask(**inputs):
        return forward(**inputs | {"attention_mask": None, "position_ids": None})

    model.model.forward = without_mask
    assert layouts(model) == ("padded",)
    check_scorable(model)
    logps = sequence_logprobs(model, collate(EXAMPLES, "padded"))
    torch.testing.assert_close(logps, plain(model, EXAMPLES), rtol=0, atol=1e-5)


def test_each_model_is_tried_once_also_under_an_adapter(tiny, lora):
    model, passes = tiny(), []
    model.model.register_forward_hook(lambda *_: passes.append(1))
    assert layouts(model) == layouts(lora(model)) == ("packed", "padded")
    assert len(passes) == 2  # a packed and a padded batch


def test_layouts_on_the_meta_device_need_no_weights(tiny):
    assert layouts(tiny().to("meta")) == ("packed", "padded")
    assert layouts(tiny("Bloom", n_layer=2, n_head=4).to("meta")) == ("padded",)


def test_table_takes_both_layouts():
    assert layouts(TableLM(torch.zeros(2, 2))) == ("packed", "padded")
