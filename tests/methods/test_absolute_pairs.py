"""Losses that judge each response of a pair by itself: values by hand, reductions, and what unlimited data teach."""

import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.absolute_pairs import apo_down, apo_zero, bco, bco_pairs, nca_pair, sppo_hard
from una_ref.theory import TableWorld, bradley_terry, fixed_point, preference_rewards
from una_ref.theory.populations import binary_labels, singles

F64 = torch.float64
BETA = 0.5


def pair(chosen, rejected):
    """A pair with u(y_w) = chosen and u(y_l) = rejected, in nats."""
    return {
        "chosen_logps": torch.tensor([chosen - 2.0], dtype=F64),
        "rejected_logps": torch.tensor([rejected - 3.0], dtype=F64),
        "ref_chosen_logps": torch.tensor([-2.0], dtype=F64),
        "ref_rejected_logps": torch.tensor([-3.0], dtype=F64),
    }


def world(beta=BETA, prompts=3, offset=0.0):
    torch.manual_seed(3)
    ref, sampler = torch.randn(2, prompts, 4, dtype=F64).log_softmax(-1)
    return TableWorld(ref, torch.randn(prompts, 4, dtype=F64) + offset, beta), sampler.exp()


def every_pair(loss, a_world, sampler, preferences, **settings):
    """The mean over independent y, y' ~ μ and over who wins, with pairs of a response with itself."""
    w, lost = torch.ones(4, 4, dtype=torch.bool).nonzero(as_tuple=True)
    weights = 2 * sampler[:, w] * sampler[:, lost] * preferences[:, w, lost]

    def population(logps):
        values = loss(
            chosen_logps=logps[:, w].flatten(),
            rejected_logps=logps[:, lost].flatten(),
            ref_chosen_logps=a_world.ref_logps[:, w].flatten(),
            ref_rejected_logps=a_world.ref_logps[:, lost].flatten(),
            beta=a_world.beta,
            **settings,
        )
        return (weights.flatten() * values).sum()

    return population


def gradient_in_logits(population, logps):
    """The gradient of a population loss in the logits of a policy."""
    logits = logps.clone().requires_grad_()
    return torch.autograd.grad(population(logits.log_softmax(-1)), logits)[0]


def test_nca_pair_by_hand():
    # r_w = 1, r_l = −1 with softplus(−1) = 0.313262, softplus(1) = 1.313262:
    # 0.313262 + ½·1.313262 + ½·0.313262 = 1.126523. The last: −½·log σ(−r_l) = ½·softplus(−1).
    assert nca_pair(**pair(1.0, -1.0), beta=1.0).item() == pytest.approx(1.126523, abs=1e-6)


def test_nca_pair_learns_twice_the_reference_times_the_win_rate_at_beta_one():
    # A response is chosen with weight 2μP and seen with weight 2μ, so 2μ·[P·softplus(−r) + ½·softplus(r)] is minimal
    # at σ(r) = P/(P + ½), r = log 2P. With μ = π_ref and β = 1, Σ π_ref·2P = 2·½ = 1: the policy is normalised.
    a_world, _ = world(beta=1.0)
    preference, ref = bradley_terry(a_world.rewards), a_world.ref_logps.exp()
    wins = preference_rewards(preference, a_world.ref_logps)
    fitted = fixed_point(every_pair(nca_pair, a_world, ref, preference), a_world.ref_logps)
    torch.testing.assert_close(fitted.exp(), 2 * ref * wins, rtol=0, atol=1e-8)
    assert a_world.metrics(fitted)["regret"] > 0.01


def test_sppo_hard_by_hand():
    # β = ½: the targets are ±1. (2 − 1)² + (−1 + 1)² = 1.
    assert sppo_hard(**pair(2.0, -1.0), beta=0.5).item() == pytest.approx(1, abs=1e-15)


def test_sppo_hard_is_una_score_on_win_rates():
    # y is chosen with weight 2μP and rejected with 2μ(1 − P), so with c = 1/(2β) its mean is
    # 2μ·[u² − 2c·(2P − 1)·u + c²]: the gradient of 2μ·(u − (P − ½)/β)², which is 2/β² times μ·(βu − (P − ½))².
    a_world, sampler = world()
    preference = bradley_terry(a_world.rewards)
    wins = preference_rewards(preference, sampler.log())
    score = singles(METHODS["una-score"].loss, a_world, sampler, scores=wins - 0.5)
    population = every_pair(sppo_hard, a_world, sampler, preference)
    logps = torch.randn(3, 4, dtype=F64).log_softmax(-1)
    expected = 2 / BETA**2 * gradient_in_logits(score, logps)
    torch.testing.assert_close(gradient_in_logits(population, logps), expected, rtol=0, atol=1e-12)


def test_sppo_hard_does_not_learn_the_optimum_of_ipo():
    a_world, sampler = world()
    preference = bradley_terry(a_world.rewards)
    fitted = fixed_point(every_pair(sppo_hard, a_world, sampler, preference), a_world.ref_logps)
    ipo = fixed_point(every_pair(METHODS["ipo"].loss, a_world, sampler, preference), a_world.ref_logps)
    same = fixed_point(
        singles(
            METHODS["una-score"].loss, a_world, sampler, scores=preference_rewards(preference, sampler.log()) - 0.5
        ),
        a_world.ref_logps,
    )
    torch.testing.assert_close(fitted.exp(), same.exp(), rtol=0, atol=1e-8)
    assert (fitted.exp() - ipo.exp()).abs().max() > 0.01


def test_apo_zero_by_hand():
    # r_w = 0, r_l = log 3: 1 − ½ + ¾ = 1.25.
    assert apo_zero(**pair(0.0, math.log(3)), beta=1.0).item() == pytest.approx(1.25, abs=1e-15)


def test_apo_zero_is_kto_on_both_responses_at_kl_zero():
    arguments = pair(0.7, -0.4)
    kto = METHODS["kto"].loss
    one = torch.ones(1, dtype=F64)
    chosen = kto(logps=arguments["chosen_logps"], ref_logps=arguments["ref_chosen_logps"], labels=one, kl=0.0)
    rejected = kto(logps=arguments["rejected_logps"], ref_logps=arguments["ref_rejected_logps"], labels=0 * one, kl=0.0)
    torch.testing.assert_close(apo_zero(**arguments), chosen + rejected, rtol=0, atol=1e-15)


def test_apo_zero_takes_all_mass_from_responses_that_lose_more_than_half():
    # The mean is Σ 2μ·[P + (1 − 2P)·σ(r)]. It falls with r where P > ½ and rises where P < ½: at any policy, mass
    # moved from a loser to a winner lowers it.
    a_world, sampler = world()
    preference = bradley_terry(a_world.rewards)
    population = every_pair(apo_zero, a_world, sampler, preference)
    wins = preference_rewards(preference, sampler.log()) > 0.5
    for seed in range(5):
        torch.manual_seed(seed)
        logps = torch.randn(3, 4, dtype=F64).log_softmax(-1)
        mass = torch.where(wins, logps.exp(), 0.0)
        moved = torch.where(wins, logps, logps - 1.0).exp()
        moved = moved + mass / mass.sum(-1, keepdim=True) * (1 - moved.sum(-1, keepdim=True))
        assert population(moved.log()) < population(logps) - 1e-3
    fitted = fixed_point(population, a_world.ref_logps, tolerance=1e-5).exp()
    assert torch.where(wins, 0.0, fitted).max() < 1e-3


def test_apo_down_by_hand():
    # r_w = log 3, r_l = 0: ¾ + 1 − ¾ = 1. With r_l = log 3 as well: ¾ + ½ = 1.25.
    assert apo_down(**pair(math.log(3), 0.0), beta=1.0).item() == pytest.approx(1, abs=1e-15)
    assert apo_down(**pair(math.log(3), math.log(3)), beta=1.0).item() == pytest.approx(1.25, abs=1e-15)


def test_apo_down_moves_all_mass_to_responses_that_are_in_no_pair():
    # Three responses, the pair (1, 2) always won by 1. With π(1) = e^(−t), π(2) = e^(−2t) the loss tends to 0.
    ref = torch.full((3,), 1 / 3, dtype=F64).log()
    losses = []
    for t in (2.0, 10.0, 100.0):
        chosen, rejected = (torch.tensor([x], dtype=F64) for x in (-t, -2 * t))
        losses.append(
            apo_down(
                chosen_logps=chosen,
                rejected_logps=rejected,
                ref_chosen_logps=ref[:1],
                ref_rejected_logps=ref[1:2],
                beta=1.0,
            ).item()
        )
    assert losses[0] > losses[1] > losses[2] and losses[2] < 1e-12
    logits = torch.zeros(3, dtype=F64)

    def population(logps):
        sides = {"chosen_logps": logps[:, 0], "rejected_logps": logps[:, 1]}
        return apo_down(**sides, ref_chosen_logps=ref[:1], ref_rejected_logps=ref[1:2], beta=1.0).sum()

    assert fixed_point(population, logits[None].log_softmax(-1), tolerance=1e-6).exp()[0, 2] > 0.99


def test_bco_is_una_binary_bce_with_the_running_gain_as_baseline():
    torch.manual_seed(0)
    logps, ref = -torch.rand(2, 5, dtype=F64)
    labels = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=F64)
    gain = torch.tensor(0.4, dtype=F64)
    expected = METHODS["una-binary-bce"].loss(logps=logps, ref_logps=ref, labels=labels, baseline=-0.7 * 0.4, beta=0.7)
    ours = bco(logps=logps, ref_logps=ref, labels=labels, running_gain=gain, beta=0.7)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-15)


def test_bco_by_hand():
    # u = 1, β = 1, δ = 2: σ(−1) for a positive label, softplus(1) = 1.3133; for a negative one softplus(−1) = 0.3133.
    arguments = {"logps": torch.tensor([-1.0, -1.0], dtype=F64), "ref_logps": torch.tensor([-2.0, -2.0], dtype=F64)}
    labels, gain = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor(2.0, dtype=F64)
    losses = bco(**arguments, labels=labels, running_gain=gain, beta=1.0)
    assert losses.tolist() == pytest.approx([1.313262, 0.313262], abs=1e-6)
    assert bco_pairs(**pair(1.0, 1.0), running_gain=gain, beta=1.0).item() == pytest.approx(1.626523, abs=1e-6)


def test_bco_takes_the_running_gain_as_a_constant():
    gain = torch.tensor(0.4, dtype=F64, requires_grad=True)
    arguments = {"logps": torch.tensor([-1.0], dtype=F64), "ref_logps": torch.tensor([-2.0], dtype=F64)}
    assert not bco(**arguments, labels=torch.tensor([1.0], dtype=F64), running_gain=gain).requires_grad
    assert not bco_pairs(**pair(1.0, 1.0), running_gain=gain).requires_grad


@pytest.mark.parametrize("mean_reward", [0.0, 2.0])
def test_bco_learns_the_optimum_of_one_prompt_only_if_its_rewards_have_mean_zero(mean_reward):
    # At π*, r_θ = r − β·log Z, so δ = E r − β·log Z. σ(r_θ − δ) is P(y = 1) = σ(r) if and only if E r = 0.
    a_world, sampler = world(prompts=1)
    rewards = a_world.rewards - (sampler * a_world.rewards).sum() + mean_reward
    a_world = TableWorld(a_world.ref_logps, rewards, BETA)
    gain = (sampler * (a_world.optimum - a_world.ref_logps)).sum()

    def at(gain):
        def loss(**arguments):
            return bco(**arguments, running_gain=gain)

        return binary_labels(loss, a_world, sampler, rewards.sigmoid())

    gradient = gradient_in_logits(at(gain), a_world.optimum).abs().max()
    if mean_reward:
        assert gradient > 1e-3
    else:
        assert gradient < 1e-12
        torch.testing.assert_close(
            fixed_point(at(gain), a_world.ref_logps).exp(), a_world.optimum.exp(), rtol=0, atol=1e-8
        )
