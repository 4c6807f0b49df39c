"""Rewards of tokens under a policy and its reference."""

import torch

from una_ref.data.batch import Example, collate
from una_ref.policies.references import Policy
from una_ref.policies.token_rewards import token_rewards_of

EXAMPLES = [
    Example((3, 4, 5), ((6, 7, 8, 9, 2), (2,), (11, 2))),
    Example((12, 13), ((18, 2), (19, 20, 21))),
]


def test_token_rewards_sum_to_the_implicit_reward(tiny, lora):
    policy = Policy(lora(tiny()))
    batch = collate(EXAMPLES)
    found = token_rewards_of(policy, batch, 0.3)
    assert found.shape == (5, 5) and not found.requires_grad
    expected = 0.3 * (policy(batch) - policy.reference(batch))
    torch.testing.assert_close(found.sum(1), expected.detach(), rtol=1e-4, atol=1e-5)
    assert found.abs().sum(1).min() > 1e-3
    assert (found[1, 1:] == 0).all() and (found[0] != 0).all()


def test_token_reward_depends_on_the_tokens_before_it_only(tiny, lora):
    policy = Policy(lora(tiny()))
    changed = [Example((3, 4, 5), ((6, 7, 30, 31, 2), (2,), (11, 2))), EXAMPLES[1]]
    one, other = (token_rewards_of(policy, collate(given), 0.3) for given in (EXAMPLES, changed))
    torch.testing.assert_close(one[0, :2], other[0, :2])
    assert (one[0, 2:] - other[0, 2:]).abs().min() > 1e-6


def test_token_rewards_are_zero_before_training(tiny, lora):
    policy = Policy(lora(tiny(), fresh=True))
    assert (token_rewards_of(policy, collate(EXAMPLES), 0.3) == 0).all()
