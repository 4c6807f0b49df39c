"""Exact self-play against the Nash policy: which iterations converge, to what, and which go round in circles."""

import pytest
import torch

from una_ref.theory import bradley_terry, fixed_point, nash_logps, optimal_logps
from una_ref.theory.games import (
    dno_step,
    exploitability,
    mixture_logps,
    nash_md_step,
    nash_md_step_printed,
    oracle_calls,
    play,
    sppo_step,
)
from una_ref.theory.populations import over_pairs

F64 = torch.float64
BETA = 0.2
# The first response beats the second, the second the third, and the third the first: no reward says so.
PREFERENCES = torch.tensor([[[0.5, 0.9, 0.3], [0.1, 0.5, 0.6], [0.7, 0.4, 0.5]]], dtype=F64)
REF = torch.tensor([[0.6, 0.3, 0.1]], dtype=F64).log()


def total_variation(logps, other):
    return float((logps.exp() - other.exp()).abs().sum(-1).max() / 2)


def iterated(step, rate, steps):
    logps = REF
    for _ in range(steps):
        logps = step(logps, PREFERENCES, REF, BETA, rate)
    return logps


def unregularised_nash():
    # All three responses win ½ against it: π ∝ (A23, A31, A12) for A = P − ½ = (0.1, 0.2, 0.4).
    return torch.tensor([[0.1, 0.2, 0.4]], dtype=F64).log().log_softmax(-1)


def test_mixture_by_hand():
    # π = (½, ½) and π_ref = (0.8, 0.2) at ½: ∝ (√0.4, √0.1), which is 2 to 1.
    mix = mixture_logps(torch.tensor([[0.5, 0.5]], dtype=F64).log(), torch.tensor([[0.8, 0.2]], dtype=F64).log(), 0.5)
    assert mix.exp()[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-15)
    torch.testing.assert_close(mixture_logps(REF, mix_of_ones(), 0.0), REF)
    torch.testing.assert_close(mixture_logps(REF, mix_of_ones(), 1.0), mix_of_ones())
    with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\], got 1.5"):
        mixture_logps(REF, REF, 1.5)


def mix_of_ones():
    return torch.full((1, 3), 1 / 3, dtype=F64).log()


def test_nash_md_converges_to_the_nash_policy_and_its_printed_form_to_that_of_twice_beta():
    # ES32: the Nash policies are (0.6823, 0.0992, 0.2185) at β = 0.2 and (0.6932, 0.1638, 0.1430) at 2β.
    nash, twice = nash_logps(PREFERENCES, REF, BETA), nash_logps(PREFERENCES, REF, 2 * BETA)
    assert nash.exp()[0].tolist() == pytest.approx([0.6823, 0.0992, 0.2185], abs=5e-5)
    assert twice.exp()[0].tolist() == pytest.approx([0.6932, 0.1638, 0.1430], abs=5e-5)
    corrected, printed = iterated(nash_md_step, 0.02, 3000), iterated(nash_md_step_printed, 0.02, 3000)
    assert total_variation(corrected, nash) < 4e-4 and total_variation(corrected, twice) > 0.07
    assert total_variation(printed, twice) < 4e-4 and total_variation(printed, nash) > 0.07


def test_bias_of_nash_md_is_proportional_to_its_constant_rate():
    nash = nash_logps(PREFERENCES, REF, BETA)
    errors = [total_variation(iterated(nash_md_step, rate, round(60 / rate)), nash) for rate in (0.2, 0.02)]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)
    logps = REF
    for step in range(1, 3000):  # with a rate that falls like 1/t the bias goes
        logps = nash_md_step(logps, PREFERENCES, REF, BETA, min(1.0, 20 / step))
    assert total_variation(logps, nash) < 2e-4


def test_nash_md_rate_above_one_over_beta_is_refused():
    with pytest.raises(ValueError, match="rate: expected at least 0 and at most 1/beta = 5, got 6"):
        nash_md_step(REF, PREFERENCES, REF, BETA, 6)


def test_nash_md_step_maximises_its_objective():
    # Eq. 59 for random deviations: α·P(π ≻ mix) − KL(π ‖ mix), and the printed form with P_β of Eq. 57.
    torch.manual_seed(0)
    mix, rate = mixture_logps(REF, mix_of_ones(), 0.0), 0.7
    wins = (PREFERENCES @ mix.exp()[..., None])[..., 0]

    def value(logps, printed):
        p = logps.exp()
        gain = (p * wins).sum() - (BETA * (p * (logps - REF)).sum() if printed else 0)
        return float(rate * gain - (p * (logps - mix)).sum())

    for step, printed in ((nash_md_step, False), (nash_md_step_printed, True)):
        best = step(REF, PREFERENCES, REF, BETA, rate)
        for _ in range(50):
            assert value((best + 0.1 * torch.randn(1, 3, dtype=F64)).log_softmax(-1), printed) < value(best, printed)


def test_exploitability_is_zero_at_the_nash_policies_only():
    assert float(exploitability(unregularised_nash(), PREFERENCES)) == pytest.approx(0, abs=1e-15)
    # Against π_ref, P(y ≻ π_ref) = 0.6·(½, 0.1, 0.7) + 0.3·(0.9, ½, 0.4) + 0.1·(0.3, 0.6, ½) = (0.60, 0.27, 0.59).
    assert float(exploitability(REF, PREFERENCES)) == pytest.approx(0.1, abs=1e-15)
    nash = nash_logps(PREFERENCES, REF, BETA)
    assert float(exploitability(nash, PREFERENCES, REF, BETA)) == pytest.approx(0, abs=1e-14)
    assert float(exploitability(nash, PREFERENCES)) > 0.05
    assert float(exploitability(REF, PREFERENCES, REF, BETA)) > 0.01


def test_average_of_a_play_is_the_mean_of_the_start_and_of_every_step():
    def step(logps):
        return sppo_step(logps, PREFERENCES, 0.5)

    def gap(logps):
        return exploitability(logps, PREFERENCES)

    first, second = step(REF), step(step(REF))
    game = play(step, REF, gap, 2)
    mean = ((REF.exp() + first.exp() + second.exp()) / 3).log()
    torch.testing.assert_close(game.logps, second)
    torch.testing.assert_close(game.average, mean)
    assert game.gaps == pytest.approx([float(gap(logps)) for logps in (REF, first, second)])
    halfway = ((REF.exp() + first.exp()) / 2).log()
    assert game.average_gaps == pytest.approx([float(gap(logps)) for logps in (REF, halfway, mean)])


@pytest.mark.parametrize("eta", [0.1, 1.0, 5.0])
def test_last_policy_of_sppo_circles_while_the_average_approaches_nash(eta):
    game = play(
        lambda logps: sppo_step(logps, PREFERENCES, 1 / eta),
        REF,
        lambda logps: exploitability(logps, PREFERENCES),
        1200,
    )
    assert max(game.gaps[-500:]) > 0.3 > 2 * game.gaps[0]
    assert game.average_gaps[-1] < 0.015
    assert total_variation(game.average, unregularised_nash()) < 0.06
    assert game.steps_to(0.02) is None
    assert game.steps_to(0.02, average=True) <= 1000


def test_nash_md_needs_fewer_rounds_than_averaged_sppo():
    # Both are measured by what an opponent can win from them: with β·KL to π_ref for Nash-MD, without for SPPO.
    nash_md = play(
        lambda logps: nash_md_step(logps, PREFERENCES, REF, BETA, 0.3),
        REF,
        lambda logps: exploitability(logps, PREFERENCES, REF, BETA),
        300,
    )
    sppo = play(lambda logps: sppo_step(logps, PREFERENCES, 1), REF, lambda p: exploitability(p, PREFERENCES), 300)
    first, second = nash_md.steps_to(1e-2), sppo.steps_to(1e-2, average=True)
    assert first is not None and second is not None and 0 < first < second
    assert oracle_calls(first, 3) == 3 * first and oracle_calls(2, 4, opponents=8) == 64


def test_sppo_step_is_multiplicative_weights():
    # P(y ≻ π_ref) = (0.60, 0.27, 0.59), see above; η = 1/β = 5.
    wins = torch.tensor([[0.60, 0.27, 0.59]], dtype=F64)
    expected = REF + 5 * wins
    torch.testing.assert_close(sppo_step(REF, PREFERENCES, BETA), expected.log_softmax(-1))


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_dno_step_minimises_the_dpo_loss_anchored_at_the_last_policy(beta):
    from una_ref.methods.pairs import una_pair

    loss = over_pairs(una_pair, PREFERENCES, REF, REF, beta=beta)
    torch.testing.assert_close(dno_step(REF, PREFERENCES, beta), fixed_point(loss, REF), rtol=0, atol=1e-7)


def test_dno_step_on_bradley_terry_preferences_is_the_optimum_around_the_last_policy():
    rewards = torch.tensor([[1.0, 0.2, -0.5]], dtype=F64)
    found = dno_step(REF, bradley_terry(rewards), BETA)
    torch.testing.assert_close(found, optimal_logps(REF, rewards, BETA), rtol=0, atol=1e-9)


def test_dno_step_takes_the_mean_over_the_two_orders_of_a_pair():
    # A judge that favours the response it reads first by 0.05 gives the same step as one without that bias.
    biased = PREFERENCES + 0.05
    torch.testing.assert_close(dno_step(REF, biased, BETA), dno_step(REF, PREFERENCES, BETA), rtol=0, atol=1e-9)


def test_dno_rests_at_the_nash_policy_of_the_game_without_a_reference_but_does_not_find_it():
    nash = unregularised_nash()
    torch.testing.assert_close(dno_step(nash, PREFERENCES, 1.0), nash, rtol=0, atol=1e-9)
    game = play(lambda p: dno_step(p, PREFERENCES, 1.0), REF, lambda p: exploitability(p, PREFERENCES), 200)
    assert max(game.gaps[-100:]) > 0.3 and game.average_gaps[-1] < 0.02
