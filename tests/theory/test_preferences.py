"""Preferences in the place of rewards, against values by hand, and the Nash policy against every deviation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from una_ref.theory import bradley_terry, nash_logps, optimal_logps, preference_rewards, regret

F64 = torch.float64


def logs(*rows):
    return torch.tensor(rows, dtype=F64).log()


def test_preference_rewards_by_hand():
    rewards = torch.tensor([[1.0, 0.0, -1.0]], dtype=F64)
    p = bradley_terry(rewards)
    by_hand = [[0.5, 0.731059, 0.880797], [0.268941, 0.5, 0.731059], [0.119203, 0.268941, 0.5]]
    torch.testing.assert_close(p[0], torch.tensor(by_hand, dtype=F64), rtol=0, atol=5e-7)
    mu = logs([0.5, 0.3, 0.2])
    # Ψ = identity: g(y1) = 0.5·0.5 + 0.3·0.731059 + 0.2·0.880797
    assert preference_rewards(p, mu)[0, 0].item() == pytest.approx(0.25 + 0.3 * 0.731059 + 0.2 * 0.880797, abs=5e-7)
    # Ψ = logit: g = r − E_μ r = r − 0.3 (UPO Eq. 7), so the optimum is that of r.
    g = preference_rewards(p, mu, torch.logit)
    torch.testing.assert_close(g, rewards - 0.3)
    ref = logs([0.2, 0.2, 0.6])
    torch.testing.assert_close(optimal_logps(ref, g, 0.3), optimal_logps(ref, rewards, 0.3))
    # The mean is over the loser: the transpose would be the share of losses.
    assert (preference_rewards(p, mu) + preference_rewards(p.mT, mu) - 1).abs().max() < 1e-15


def test_psi_may_be_infinite_where_preferences_are_certain():
    p = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]], dtype=F64)
    assert preference_rewards(p, logs([0.5, 0.5]), torch.logit)[0].tolist() == [math.inf, -math.inf]
    # An opponent that never gives the other response adds 0, not 0·∞.
    assert preference_rewards(p, logs([1.0, 0.0]), torch.logit)[0].tolist() == [0.0, -math.inf]


def test_nash_policy_of_rock_paper_scissors():
    p = torch.tensor([[[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]], dtype=F64)
    for beta in (0.01, 1.0):
        found = nash_logps(p, logs([1 / 3, 1 / 3, 1 / 3]), beta)
        assert found.exp()[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-12)
    # A reference with much rock changes the policy little at β = 0.01, and decides it at large β.
    found = nash_logps(p, logs([0.8, 0.1, 0.1]), 0.01).exp()[0]
    assert (found - 1 / 3).abs().max() < 0.03
    assert (nash_logps(p, logs([0.8, 0.1, 0.1]), 1e4).exp()[0] - torch.tensor([0.8, 0.1, 0.1])).abs().max() < 1e-4


def test_nash_policy_of_two_responses_by_hand():
    # P(y1 ≻ y2) = 0.9, ref = ½, β = ½: π1 = σ((g1 − g2)/β), and g1 − g2 = 0.5π1 + 0.9π2 − 0.1π1 − 0.5π2 = 0.4 for
    # every π.
    p = torch.tensor([[[0.5, 0.9], [0.1, 0.5]]], dtype=F64)
    found = nash_logps(p, logs([0.5, 0.5]), 0.5)
    assert found.exp()[0, 0].item() == pytest.approx(1 / (1 + math.exp(-0.8)), abs=1e-14)


@pytest.mark.parametrize("beta", [0.001, 0.01, 0.3, 10.0])
@pytest.mark.parametrize("sharp", [1.0, 30.0])
def test_no_policy_gains_against_the_nash_policy(beta, sharp):
    torch.manual_seed(7)
    ref = (2 * torch.randn(6, 7, dtype=F64)).log_softmax(-1)
    scores = sharp * torch.randn(6, 7, 7, dtype=F64)
    p = (scores - scores.mT).sigmoid()  # cyclic: no reward gives these preferences
    found = nash_logps(p, ref, beta)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(6, dtype=F64))
    g = preference_rewards(p, found)
    torch.testing.assert_close(found, optimal_logps(ref, g, beta), rtol=1e-11, atol=1e-11)  # the fixed point
    assert regret(found, ref, g, beta).abs().max() < 1e-12  # no deviation gains
    assert regret(ref, ref, g, beta).min() > 0
    torch.testing.assert_close(nash_logps(p[2:3], ref[2:3], beta), found[2:3], rtol=1e-11, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    prompts=st.integers(1, 4),
    responses=st.integers(2, 6),
    sharp=st.sampled_from([0.3, 1.0, 3.0]),
    beta=st.floats(0.05, 20.0),
)
def test_nash_policy_does_not_depend_on_the_order_of_responses(seed, prompts, responses, sharp, beta):
    ref, scores = sharp * torch.randn(2, prompts, responses, generator=torch.Generator().manual_seed(seed), dtype=F64)
    ref = ref.log_softmax(-1)
    cyclic = (scores[:, :, None] * scores.roll(1, -1)[:, None, :]).sin()
    p = (scores[:, :, None] - scores[:, None, :] + cyclic).sigmoid()
    p = (p + 1 - p.mT) / 2
    found = nash_logps(p, ref, beta)
    order = torch.arange(ref.shape[-1]).flip(0)
    torch.testing.assert_close(nash_logps(p[:, order][:, :, order], ref[:, order], beta), found[:, order])
    assert regret(found, ref, preference_rewards(p, found), beta).max() < 1e-12


REF, REWARDS = logs([0.5, 0.5], [0.2, 0.8]), torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64)
PREFERENCES = bradley_terry(REWARDS)


@pytest.mark.parametrize("function", [nash_logps, preference_rewards])
def test_preferences_that_are_no_table_of_probabilities_are_refused(function):
    rest = (REF, 1.0) if function is nash_logps else (REF,)
    for wrong, message in (
        (PREFERENCES[0], r"preferences: expected the shape \(2, 2, 2\) \(prompts, winner, loser\), got \(2, 2\)"),
        (PREFERENCES[:1], r"preferences: expected the shape \(2, 2, 2\) .*, got \(1, 2, 2\)"),
        (PREFERENCES[..., :1], r"preferences: expected the shape \(2, 2, 2\) .*, got \(2, 2, 1\)"),
        (PREFERENCES + 0.6, r"expected probabilities in \[0, 1\], got 1.1 at \(0, 0, 0\)"),
        (PREFERENCES.where(PREFERENCES > 0.2, -0.25), r"expected probabilities in \[0, 1\], got -0.25 at \(1, 1, 0\)"),
        (PREFERENCES.where(PREFERENCES > 0.2, math.nan), r"expected probabilities in \[0, 1\], got nan at \(1, 1, 0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            function(wrong, *rest)


def test_a_game_without_a_nash_policy_of_full_support_is_refused():
    with pytest.raises(ValueError, match=r"expected P\(y over y'\) \+ P\(y' over y\) = 1, got sums off by up to 0.2"):
        nash_logps((PREFERENCES - 0.1).clamp(0, 1), REF, 1.0)
    with pytest.raises(ValueError, match=r"ref_logps: expected finite numbers, got -inf at \(1, 0\)"):
        nash_logps(PREFERENCES, logs([0.5, 0.5], [0.0, 1.0]), 1.0)
    with pytest.raises(ValueError, match=r"psi: expected a number for each preference, .* got .* \(2, 2\)"):
        preference_rewards(PREFERENCES, REF, lambda p: p.mean(-1))
    with pytest.raises(ValueError, match="psi: expected a number"):
        preference_rewards(PREFERENCES, REF, lambda p: p * math.nan)
