"""A critic gives one value for each scored token, from the position before it, and starts at 0."""

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.methods.arguments import Need
from una_ref.policies.critics import Critic, copy_core
from una_ref.policies.loading import TableLM, small_mistral
from una_ref.policies.logprobs import token_logprobs
from una_ref.policies.references import Policy


def tokens(policy, batch):
    """(N,) log-probabilities and (N,) values of a batch's tokens."""
    known = policy.outputs(batch, frozenset({Need.TOKENS, Need.CRITIC}))
    return known["token_logps"], known["values"]


class Words:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self):
        return 12


@pytest.fixture
def model():
    return small_mistral(Words(), seed=3, num_hidden_layers=2, hidden_size=16, intermediate_size=32)


EXAMPLES = [Example((1, 5, 6), ((7, 8, 2), (9, 2)), (1.0, 2.0)), Example((1, 4), ((3, 2),), (0.0,))]


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("separate", [True, False])
def test_value_is_read_at_the_position_before_the_token(model, layout, separate):
    critic = Critic(model, copy_core(model) if separate else None)
    policy = Policy(model, critic=critic)
    batch = collate(EXAMPLES, layout)
    logps, values = tokens(policy, batch)
    assert values.shape == logps.shape == (7,) and values.abs().max() == 0
    torch.testing.assert_close(logps, token_logprobs(model, batch))
    with torch.no_grad():
        critic.head.weight.normal_()
        critic.head.bias.fill_(0.5)
        if separate:
            for parameter in critic.core.parameters():
                parameter.mul_(1.1)
    _, values = tokens(policy, batch)
    core = critic.core if separate else model.model
    expected = []
    for example in EXAMPLES:
        for response in example.responses:
            hidden = core(input_ids=torch.tensor([[*example.prompt, *response]]))[0][0]
            at_positions = critic.head(hidden)[:, 0]
            expected.append(at_positions[len(example.prompt) - 1 : -1])
    torch.testing.assert_close(values, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_values_are_at_least_float32(model):
    assert Critic(model.to(torch.bfloat16)).head.weight.dtype == torch.float32
    assert Critic(TableLM(torch.zeros(2, 3, dtype=torch.float64))).head.weight.dtype == torch.float64


@pytest.mark.parametrize("separate", [True, False])
def test_values_are_float32_under_autocast(model, separate):
    critic = Critic(model, copy_core(model) if separate else None)
    torch.nn.init.normal_(critic.head.weight)
    policy, batch = Policy(model, has_reference=False, critic=critic), collate(EXAMPLES)
    with torch.autocast("cpu", torch.bfloat16):
        _, values = tokens(policy, batch)
    assert values.dtype == torch.float32
    assert not torch.equal(values, values.bfloat16().float())


def test_copied_core_shares_no_weights_and_has_no_head(model):
    core = copy_core(model)
    assert {p.data_ptr() for p in core.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())
    assert not any("lm_head" in name for name, _ in core.named_parameters())


def test_critic_of_a_table_gives_values():
    model = TableLM(torch.randn(2, 3, dtype=torch.float64))
    policy = Policy(model, critic=Critic(model, copy_core(model)))
    _, values = tokens(policy, collate([Example((1,), ((0,), (2,)), (1.0, 2.0))]))
    assert values.tolist() == [0.0, 0.0]
