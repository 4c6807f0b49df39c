"""Losses of games by hand, and what they learn from unlimited samples of a game that no reward describes."""

import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.games import dno, nash_md, nash_md_printed, sppo, sppo_printed
from una_ref.methods.pairs import una_pair
from una_ref.methods.policy_gradient import reinforce
from una_ref.theory import fixed_point, nash_logps, preference_rewards
from una_ref.theory.games import dno_step, mixture_logps, sppo_step
from una_ref.theory.populations import over_pairs

F64 = torch.float64
BETA = 0.2
PREFERENCES = torch.tensor([[[0.5, 0.9, 0.3], [0.1, 0.5, 0.6], [0.7, 0.4, 0.5]]], dtype=F64)
REF = torch.tensor([[0.6, 0.3, 0.1]], dtype=F64).log()
SAMPLER = torch.tensor([[0.2, 0.5, 0.3]], dtype=F64).log()


def one(**values):
    return {name: torch.tensor([value], dtype=F64) for name, value in values.items()}


def test_sppo_by_hand():
    # log π/π_t = 0.5 against (0.8 − 0.5)/0.5 = 0.6: (−0.1)². At β = 0.001 the target is 300 nats.
    arguments = one(logps=-2.5, old_logps=-3.0, scores=0.8)
    assert sppo(**arguments, beta=0.5).item() == pytest.approx(0.01, abs=1e-15)
    assert sppo(**arguments).item() == pytest.approx(299.5**2, rel=1e-12)


def test_printed_sppo_by_hand():
    # ES33: of K = 4 with means (0.65, 0.45, 0.55, 0.35) the sums are (2.6, 1.8, 2.2, 1.4), none a probability.
    # The mean over the other three is (4·mean − ½)/3. At η = 2: Ẑ = mean of e^{2·sum}.
    means = torch.tensor([0.65, 0.45, 0.55, 0.35], dtype=F64)
    sums = 4 * means
    z = (2 * sums).exp().mean()
    logps = torch.zeros(4, dtype=F64)
    arguments = {"logps": logps, "old_logps": logps, "scores": (sums - 0.5) / 3, "groups": torch.zeros(4).long()}
    torch.testing.assert_close(sppo_printed(**arguments, beta=0.5), (2 * sums - z) ** 2)
    # The estimate that the text describes: Ẑ = 2.7867 from the means, whose logarithm 1.0249 belongs into Eq. 61.
    assert float((2 * means).exp().mean()) == pytest.approx(2.7867, abs=5e-5)
    assert math.log(2.7867) == pytest.approx(1.0249, abs=5e-5)


def test_sppo_gradient_at_the_sampler_is_reinforce_on_win_rates():
    # At π = π_t: ∇ = −2·(s − ½)/β·∇log π. REINFORCE with baseline ½ and no KL, times 2/β, is the same.
    logps = torch.tensor([-1.0, -2.0], dtype=F64, requires_grad=True)
    scores = torch.tensor([0.9, 0.2], dtype=F64)
    (own,) = torch.autograd.grad(sppo(logps=logps, old_logps=logps.detach(), scores=scores, beta=0.4).sum(), logps)
    value = reinforce(logps=logps, ref_logps=logps.detach(), scores=scores, baseline=0.5, beta=0.4)
    (other,) = torch.autograd.grad(value.sum(), logps)
    torch.testing.assert_close(own, other * 2 / 0.4)


def test_dno_by_hand_and_as_dpo_around_the_sampler():
    # Margins 1 and −0.5 nats against π_t: −log σ(0.1·1.5) = log(1 + e^{−0.15}) = 0.6210.
    arguments = one(chosen_logps=-2.0, rejected_logps=-4.5, chosen_old_logps=-3.0, rejected_old_logps=-4.0)
    assert dno(**arguments).item() == pytest.approx(math.log(1 + math.exp(-0.15)), abs=1e-15)
    as_reference = {
        name.replace("chosen_old", "ref_chosen").replace("rejected_old", "ref_rejected"): value
        for name, value in arguments.items()
    }
    assert dno(**arguments).item() == una_pair(**as_reference).item()


def test_nash_md_by_hand():
    # Bracket: P − ½ − β·u = 0.8 − 0.5 − 0.1·1 = 0.2. Value −0.2·(−2) = 0.4, gradient −0.2. As printed: 0.8 − 0.5 − 0.2.
    arguments = one(logps=-2.0, ref_logps=-3.0, scores=0.8)
    logps = arguments["logps"].requires_grad_()
    value = nash_md(**arguments)
    assert value.item() == pytest.approx(0.4, abs=1e-15)
    assert torch.autograd.grad(value, logps)[0].item() == pytest.approx(-0.2, abs=1e-15)
    assert nash_md_printed(**arguments).item() == pytest.approx(0.2, abs=1e-15)


def test_nash_md_is_reinforce_with_baseline_one_half():
    torch.manual_seed(0)
    logps, ref, scores = torch.randn(3, 5, dtype=F64)
    expected = reinforce(logps=logps, ref_logps=ref, scores=scores, baseline=0.5, beta=0.3)
    torch.testing.assert_close(nash_md(logps=logps, ref_logps=ref, scores=scores, beta=0.3), expected)


# ------------------------------------------------------------------------------------------- from unlimited samples


def sppo_population(offset=0.0):
    scores = preference_rewards(PREFERENCES, SAMPLER) + offset

    def population(logps):
        arguments = {"logps": logps.flatten(), "old_logps": SAMPLER.flatten(), "scores": scores.flatten()}
        return (SAMPLER.exp().flatten() * sppo(**arguments, beta=BETA)).sum()

    return population


def test_sppo_learns_the_multiplicative_weights_step_if_log_z_is_right():
    # The loss has log Z = 1/(2β). With scores moved by ½ − β·log Z its target is the step itself, with loss 0.
    expected = sppo_step(SAMPLER, PREFERENCES, BETA)
    log_z = (SAMPLER + preference_rewards(PREFERENCES, SAMPLER) / BETA).logsumexp(-1, keepdim=True)
    exact = sppo_population(0.5 - BETA * log_z)
    torch.testing.assert_close(fixed_point(exact, SAMPLER).exp(), expected.exp(), rtol=0, atol=1e-7)
    # As it is, the minimiser is near the step: the constant is off by log Z − 1/(2β), here a third of a nat.
    near = fixed_point(sppo_population(), SAMPLER)
    assert abs(float(log_z) - 0.5 / BETA) < 0.5
    assert 1e-3 < float((near.exp() - expected.exp()).abs().max()) < 0.1


def test_dno_learns_the_bradley_terry_fit_around_the_sampler():
    def loss(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
        old = {"chosen_old_logps": ref_chosen_logps, "rejected_old_logps": ref_rejected_logps}
        return dno(chosen_logps=chosen_logps, rejected_logps=rejected_logps, **old, beta=beta)

    fitted = fixed_point(over_pairs(loss, PREFERENCES, SAMPLER, SAMPLER, beta=BETA), SAMPLER)
    torch.testing.assert_close(fitted, dno_step(SAMPLER, PREFERENCES, BETA), rtol=0, atol=1e-6)


def expected_gradient(loss, logps, share):
    """In the logits, with y ~ π and the rival from the mixture of π and π_ref."""
    logits = logps.clone().requires_grad_()
    own = logits.log_softmax(-1)
    wins = preference_rewards(PREFERENCES, mixture_logps(own.detach(), REF, share))
    values = loss(logps=own.flatten(), ref_logps=REF.flatten(), scores=wins.flatten(), beta=BETA)
    return torch.autograd.grad((own.detach().exp().flatten() * values).sum(), logits)[0]


def mixture_equilibrium(share):
    """π ∝ π_ref·exp(P(y ≻ mixture of π and π_ref)/β), by damped iteration."""
    logps = REF
    for _ in range(2000):
        wins = preference_rewards(PREFERENCES, mixture_logps(logps, REF, share))
        logps = torch.lerp(logps, (REF + wins / BETA).log_softmax(-1), 0.05).log_softmax(-1)
    return logps


def test_nash_md_rests_at_the_nash_policy_if_rivals_are_its_own_samples():
    nash = nash_logps(PREFERENCES, REF, BETA)
    assert expected_gradient(nash_md, nash, 0.0).abs().max() < 1e-12
    assert expected_gradient(nash_md_printed, nash, 0.0).abs().max() > 1e-3
    assert expected_gradient(nash_md_printed, nash_logps(PREFERENCES, REF, 2 * BETA), 0.0).abs().max() < 1e-12


@pytest.mark.parametrize("share", [0.125, 0.5])
def test_nash_md_rests_at_the_best_reply_to_its_mixture(share):
    found = mixture_equilibrium(share)
    assert expected_gradient(nash_md, found, share).abs().max() < 1e-10
    distance = float((found.exp() - nash_logps(PREFERENCES, REF, BETA).exp()).abs().sum() / 2)
    assert 0.005 < distance < 0.2  # the price of a mixture with π_ref


def test_records_of_games_say_what_responses_are_compared_with():
    assert {name: METHODS[name].rivals for name in ("nash-md", "sppo", "dno", "iterative-dpo")} == {
        "nash-md": "mixture",
        "sppo": "samples",
        "dno": "samples",
        "iterative-dpo": "none",
    }
    assert METHODS["nash-md"].needs_reference and not METHODS["sppo"].needs_reference
    assert METHODS["rso"].source == "reference" and METHODS["rso"].samples == "accepted samples of π_ref"
    assert not METHODS["rso"].on_policy_only and METHODS["sppo"].on_policy_only
