"""Soft values on prefix trees: Bellman equation, telescoping, credit of tokens, and what TDPO's identity holds for."""

import math

import pytest
import torch

from una_ref.theory import PrefixTree, SequenceWorld, optimal_logps
from una_ref.theory.token_mdp import (
    credits,
    following,
    last_token_rewards,
    one_step_improvement,
    policy_values,
    sequential_kl,
    soft_values,
    tdpo_rewards,
    token_policy,
)

F64 = torch.float64
BETA = 0.5


@pytest.fixture
def world():
    """Three prompts over sequences of at most 3 tokens out of 4."""
    return SequenceWorld.random(0, prompts=3, vocabulary=4, length=3, beta=BETA, offset=2.0)


def rewards_of_tokens(tree, prompts=3):
    torch.manual_seed(1)
    return torch.randn(prompts, len(tree.prefixes), tree.vocabulary, dtype=F64)


def spread(values):
    """The largest difference between two sequences of a prompt."""
    return (values.amax(1) - values.amin(1)).max().item()


def two_steps():
    """Two letters without EOS, then two letters: reward ±2 after letter 1, 0.5 after letter 2; π_ref is uniform."""
    tree = PrefixTree.of(3, 2)
    ref = torch.tensor([-math.inf, math.log(0.5), math.log(0.5)], dtype=F64).expand(1, 3, 3)
    rewards = torch.zeros(1, len(tree), dtype=F64)
    for tokens, reward in (((1, 1), 2.0), ((1, 2), -2.0), ((2, 1), 0.5), ((2, 2), 0.5)):
        rewards[0, tree.index(tokens)] = reward
    return tree, ref, last_token_rewards(tree, rewards)


def test_rewards_at_last_tokens_sum_to_the_rewards_of_sequences(world):
    table = last_token_rewards(world.tree, world.rewards)
    assert torch.equal(world.tree.sequence_logps(table), world.rewards)
    assert (table != 0).sum() == world.rewards.numel()


def test_soft_values_solve_the_bellman_equation(world):
    rewards = rewards_of_tokens(world.tree)
    values = soft_values(world.tree, world.ref_next_logps, rewards, BETA)
    after = following(world.tree, values.v)
    torch.testing.assert_close(values.q, rewards + BETA * world.ref_next_logps + after)  # survey Eq. 22
    torch.testing.assert_close(BETA * values.next_logps, values.q - values.v[..., None])  # survey Eq. 21
    torch.testing.assert_close(values.next_logps.exp().sum(-1), torch.ones_like(values.v))


def test_nothing_follows_the_last_token(world):
    after = following(world.tree, torch.ones(3, len(world.prefixes), dtype=F64))
    deepest = world.tree.depths == world.tree.length - 1
    assert (after[..., 0] == 0).all() and (after[:, deepest] == 0).all() and (after[:, ~deepest, 1:] == 1).all()


def test_soft_optimal_token_policy_is_the_optimum_over_sequences(world):
    rewards = rewards_of_tokens(world.tree)
    values = soft_values(world.tree, world.ref_next_logps, rewards, BETA)
    best = optimal_logps(world.ref_logps, world.tree.sequence_logps(rewards), BETA)
    torch.testing.assert_close(world.sequence_logps(values.next_logps), best)
    at_end = soft_values(world.tree, world.ref_next_logps, last_token_rewards(world.tree, world.rewards), BETA)
    torch.testing.assert_close(world.sequence_logps(at_end.next_logps), world.optimum)
    torch.testing.assert_close(at_end.v[:, 0], BETA * world.log_partition)


def test_credits_of_a_sequence_sum_to_its_reward_minus_the_first_value(world):
    rewards = rewards_of_tokens(world.tree)
    values = soft_values(world.tree, world.ref_next_logps, rewards, BETA)
    credit = credits(values.next_logps, world.ref_next_logps, BETA)
    shaped = rewards + following(world.tree, values.v) - values.v[..., None]
    torch.testing.assert_close(credit, shaped)  # the line below survey Eq. 22
    total = world.tree.sequence_logps(rewards)
    torch.testing.assert_close(world.tree.sequence_logps(credit), total - values.v[:, :1])  # survey Eq. 23


def test_credit_falls_on_the_token_that_decides_the_reward():
    # The reward is 1 unless the sequence holds token 2, and it is known at the end only. π_ref is uniform.
    # A sequence 1, 2, 1 fails with its second token: the first raises the value, the third changes nothing.
    tree = PrefixTree.of(3, 3)
    ref = torch.full((1, len(tree.prefixes), 3), -math.log(3), dtype=F64)
    rewards = 1.0 - (tree.sequences == 2).any(1).double()[None]
    values = soft_values(tree, ref, last_token_rewards(tree, rewards), BETA)
    credit = credits(values.next_logps, ref, BETA)[0]
    row = tree.index((1, 2, 1))
    first, second, third = credit[tree.steps[row], tree.sequences[row]].tolist()
    assert 0 < first < 0.1 and second < -0.5 and third == pytest.approx(0, abs=1e-15)


def test_soft_and_plain_values_of_a_tree_of_two_steps_by_hand():
    # After letter 1 the rewards are ±2: β = 1 gives V = log cosh 2 = 1.325, and the plain mean is 0 (ES12).
    tree, ref, rewards = two_steps()
    soft = soft_values(tree, ref, rewards, 1.0)
    assert soft.v[0, 1:].tolist() == pytest.approx([math.log(math.cosh(2)), 0.5])
    plain = policy_values(tree, ref, rewards)
    assert plain.q[0, 0, 1:].tolist() == pytest.approx([0, 0.5]) and plain.v[0, 0].item() == pytest.approx(0.25)


def test_one_step_improvement_takes_the_values_of_the_reference():
    # π_ref·exp(Q): with Q_ref = (0, 0.5) it is (0.378, 0.622). The survey prints the Q of the policy (ES12): after
    # letter 1 it prefers reward 2, Q = 2·tanh 2 = 1.928, which gives (0.807, 0.193).
    tree, ref, rewards = two_steps()
    improved = one_step_improvement(policy_values(tree, ref, rewards), 1.0)
    assert improved[0, 0, 1:].exp().tolist() == pytest.approx([0.378, 0.622], abs=5e-4)
    own = policy_values(tree, improved, rewards)
    assert own.q[0, 0, 1].item() == pytest.approx(2 * math.tanh(2))
    printed = (ref[0, 0] + own.q[0, 0]).softmax(-1)
    assert printed[1:].tolist() == pytest.approx([0.807, 0.193], abs=5e-4)


def test_tdpo_cancels_the_partition_function_for_the_one_step_improvement_only(world):
    rewards = last_token_rewards(world.tree, world.rewards)
    plain = policy_values(world.tree, world.ref_next_logps, rewards)
    improved = one_step_improvement(plain, BETA)
    optimum = soft_values(world.tree, world.ref_next_logps, rewards, BETA).next_logps

    def left_over(policy, with_kl):
        reward = tdpo_rewards(world.tree, policy, world.ref_next_logps, BETA)
        if not with_kl:
            reward = world.tree.sequence_logps(credits(policy, world.ref_next_logps, BETA))
        return world.rewards - reward

    torch.testing.assert_close(left_over(improved, True), plain.v[:, :1].expand_as(world.rewards))
    assert spread(left_over(improved, True)) < 1e-13 and spread(left_over(improved, False)) > 0.5
    assert spread(left_over(optimum, False)) < 1e-13 and spread(left_over(optimum, True)) > 0.5


def test_sequential_kl_adds_up_the_divergences_along_a_sequence():
    tree = PrefixTree.of(3, 2)
    torch.manual_seed(2)
    one, other = torch.randn(2, 1, 3, 3, dtype=F64).log_softmax(-1)
    parts = [sum(math.exp(p) * (p - q) for p, q in zip(one[0, n], other[0, n], strict=True)) for n in range(3)]
    found = sequential_kl(tree, one, other)[0]
    assert found[tree.index((0,))].item() == pytest.approx(parts[0])
    assert found[tree.index((2, 1))].item() == pytest.approx(parts[0] + parts[2])


def test_token_policy_inverts_the_log_probs_of_sequences(world):
    torch.testing.assert_close(token_policy(world.tree, world.ref_logps), world.ref_next_logps)
    logps = world.optimum.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_policy(world.tree, x.log_softmax(-1)), logps)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_that_is_not_positive_is_refused(world, beta):
    with pytest.raises(ValueError, match="beta: expected one positive, finite number"):
        soft_values(world.tree, world.ref_next_logps, rewards_of_tokens(world.tree), beta)


def test_table_of_another_shape_is_refused(world):
    with pytest.raises(ValueError, match=r"tables: expected the shape \(prompts, 13, 4\), got .*\(3, 12, 4\)"):
        policy_values(world.tree, world.ref_next_logps, rewards_of_tokens(world.tree)[:, 1:])
