"""The table of all next-token log-probs equals plain forward passes and the training path."""

import pytest
import torch

from una_ref.data import toysteer
from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.policies.exact import next_logps
from una_ref.policies.loading import small_mistral, with_lora
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.theory import PrefixTree

WORLD = toysteer.ToySteer(seed=3, size=4)
TREE = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
PROMPTS = toysteer.encoded_prompts(WORLD, toysteer.tokenizer())


@pytest.fixture
def model():
    """A tiny policy of ToySteer whose weights matter, in training mode and with dropout."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = small_mistral(toysteer.tokenizer(), **shape, attention_dropout=0.5)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.generation_config.suppress_tokens = list(toysteer.NEVER_EMITTED)
    return model


def test_prompts_differ_in_length():
    assert len({len(p) for p in PROMPTS}) > 1  # so the prefix trees below are padded


def test_next_token_log_probs_equal_a_plain_forward(model):
    table = next_logps(model, PROMPTS, TREE, toysteer.VOCABULARY)
    assert table.shape == (4, 781, 6) and table.dtype == torch.float64 and not table.requires_grad
    assert model.training  # unchanged
    model.eval()
    rows = [0, 1, 2, 3, 4, 5, 6, 155, 156, 157, 400, 624, 778, 779, 780]
    for x, prompt in enumerate(PROMPTS):
        for n in rows:
            prefix = [t for t in TREE.prefixes[n].tolist() if t >= 0]
            logits = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1]
            expected = logits[: len(toysteer.VOCABULARY)].double().log_softmax(-1)
            torch.testing.assert_close(table[x, n], expected, rtol=0, atol=1e-5)


def test_probabilities_of_all_responses_sum_to_one(model):
    logps = TREE.sequence_logps(next_logps(model, PROMPTS, TREE, toysteer.VOCABULARY))
    assert logps.shape == (4, 3906)
    torch.testing.assert_close(logps.exp().sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-5)
    assert logps.exp().sum(1).sub(1).abs().max() > 0 and logps.std() > 1  # the table is not trivial
    model.generation_config.suppress_tokens = None
    unsuppressed = TREE.sequence_logps(next_logps(model, PROMPTS, TREE, toysteer.VOCABULARY))
    assert (unsuppressed.exp().sum(1) < 0.9).all()


def test_table_equals_the_training_path(model):
    model = with_lora(model, r=4)
    logps = TREE.sequence_logps(next_logps(model, PROMPTS, TREE, toysteer.VOCABULARY))
    columns = torch.randint(len(TREE), (16,), generator=torch.Generator().manual_seed(0)).tolist()
    responses = tuple(tuple(t for t in TREE.sequences[s].tolist() if t >= 0) for s in columns)
    batch = collate([Example(tuple(p), responses) for p in PROMPTS])
    trained = sequence_logprobs(model, batch).view(4, 16).double()
    torch.testing.assert_close(logps[:, columns], trained, rtol=0, atol=1e-4)


def test_vocabulary_may_be_any_token_ids_in_any_order(model):
    tree, vocabulary = PrefixTree.of(3, 2), [9, 2, 12]
    model.generation_config.suppress_tokens = [t for t in range(len(toysteer.WORDS)) if t not in vocabulary]
    table = next_logps(model.eval(), [[6, 3]], tree, vocabulary)
    expected = model(torch.tensor([[6, 3, 12]])).logits[0, -1][vocabulary].double().log_softmax(-1)
    torch.testing.assert_close(table[0, 2], expected, rtol=0, atol=1e-5)


def test_model_without_packed_batches_is_refused(model):
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match="prefix tree cannot be packed"):
        next_logps(model, PROMPTS, TREE, toysteer.VOCABULARY)
