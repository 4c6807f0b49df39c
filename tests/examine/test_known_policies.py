"""Known policies are recognised to 1e-6, those of another β too; else the nearest is named."""

import pytest
import torch

from una_ref.examine.enumeration import standard_setting
from una_ref.examine.known_policies import identity, kept, known_policies, per_token_optimum


def named(logps, kind="pairs"):
    world, sampler, feedback = standard_setting()
    return identity(logps, world, feedback, sampler, kind)


def test_every_known_policy_is_a_distribution_and_is_recognised():
    world, sampler, feedback = standard_setting()
    for name, policy in known_policies(world, feedback, sampler, "scores").items():
        torch.testing.assert_close(policy.exp().sum(-1), torch.ones(2, dtype=torch.float64))
        found = named(policy, "scores")
        assert found.same and found.kl == pytest.approx(0, abs=1e-9) and (found.name == name or "π_ref" in name)


def test_a_reward_per_token_is_the_reward_up_to_a_number_for_each_prompt():
    world, _, _ = standard_setting()
    logps = per_token_optimum(world, world.ref_logps)
    gap = world.rewards - world.beta * (logps - world.ref_logps) / world.lengths
    assert (gap - gap[:, :1]).abs().max() < 1e-9


def test_chosen_responses_are_those_that_beat_another_one():
    world, sampler, feedback = standard_setting()
    found = known_policies(world, feedback, sampler, "pairs")["the distribution of the chosen responses"].exp()
    chosen = torch.zeros_like(found)
    for x in range(2):
        for y in range(5):
            for z in range(5):
                if y != z:
                    chosen[x, y] += sampler[x, [y, z]].sum().exp() * feedback.preferences[x, y, z]
    torch.testing.assert_close(found, chosen / chosen.sum(-1, keepdim=True))


@pytest.mark.parametrize("beta", [0.25, 2.0])
def test_the_optimum_of_another_beta_is_named(beta):
    world, _, _ = standard_setting()
    assert named((world.ref_logps + world.rewards / beta).log_softmax(-1)).name == f"π* of β = {beta:g}"


def test_a_length_penalty_is_named():
    world, _, _ = standard_setting()
    policy = (world.ref_logps + (world.rewards - 0.2 * world.lengths) / 0.5).log_softmax(-1)
    assert named(policy).name == "π* for the reward r -0.2·|y|, at β = 0.5"


def test_an_unknown_policy_has_a_nearest_one():
    world, _, _ = standard_setting()
    noise = 0.05 * torch.randn(world.rewards.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = named((world.optimum + noise).log_softmax(-1))
    assert not found.same and found.name == "π*" and 0 < found.kl < 0.01


def test_responses_that_keep_probability_are_described():
    world, sampler, feedback = standard_setting()
    best = world.rewards == world.rewards.amax(-1, keepdim=True)
    positive = feedback.positive > 0.5
    for mask, words in (
        (best, "the best response of each prompt"),
        (positive, "the responses with P(positive) above ½"),
    ):
        end = torch.where(mask, 0.0, -50.0).to(torch.float64).log_softmax(-1)
        assert kept(end, world.ref_logps, world, feedback, sampler) == words
    assert kept(world.optimum, world.ref_logps, world, feedback, sampler) == ""
