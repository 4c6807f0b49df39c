"""Where generation stops, by the tokenizer and by a model's configs."""

from types import SimpleNamespace

import pytest

from una_ref.data.encoder import Encoder
from una_ref.policies.anatomy import end_ids
from una_ref.policies.loading import byte_pair_tokenizer, small_mistral
from una_ref.policies.scorers import with_scalar_head


def configured(generation, config):
    return SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=generation), config=SimpleNamespace(eos_token_id=config)
    )


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [([1, 107], 1, (1, 107)), (107, [1, 106], (1, 107, 106)), (None, None, (1,)), ([107], None, (1, 107))],
)
def test_ends_are_the_tokenizers_and_those_of_both_configs(generation, config, ends):
    assert end_ids(configured(generation, config), SimpleNamespace(eos_token_id=1)) == ends


def test_a_model_without_a_generation_config_ends_at_eos():
    assert end_ids(SimpleNamespace(), SimpleNamespace(eos_token_id=3)) == (3,)


def test_a_scorer_keeps_the_ends_that_its_texts_were_encoded_with():
    tokenizer = byte_pair_tokenizer(["a few words"], 300)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = Encoder(tokenizer, ends=(7,))
    scorer = with_scalar_head(small_mistral(tokenizer, num_key_value_heads=1, **size), encoder)
    assert end_ids(scorer, tokenizer) == encoder.ends == (tokenizer.eos_token_id, 7)
