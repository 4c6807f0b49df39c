"""DPO with other shapes of the margin: values by hand, reductions, and what unlimited data teach."""

import functools
import math

import pytest
import torch
from scipy.optimize import brentq

from una_ref.methods import METHODS
from una_ref.methods.pair_shapes import (
    discopop,
    exo_pair,
    modulated,
    noise_corrected_logistic,
    reversed_divergence,
    robust_dpo,
    sigmoid_norm,
)
from una_ref.methods.shapes import logistic, smoothed_logistic
from una_ref.theory import TableWorld, bradley_terry, fixed_point
from una_ref.theory.populations import pairs

F64 = torch.float64
BETA = 0.5


def pair(margin):
    """A pair with β·(u(y_w) − u(y_l)) = margin at β = 1."""
    return {
        "chosen_logps": torch.tensor([margin - 3.0], dtype=F64),
        "rejected_logps": torch.tensor([-4.0], dtype=F64),
        "ref_chosen_logps": torch.tensor([-2.0], dtype=F64),
        "ref_rejected_logps": torch.tensor([-3.0], dtype=F64),
    }


def world(offset=0.0):
    """A table world and a sampler of responses, which is neither π_ref nor uniform."""
    torch.manual_seed(3)
    ref, sampler = torch.randn(2, 3, 4, dtype=F64).log_softmax(-1)
    return TableWorld(ref, torch.randn(3, 4, dtype=F64) + offset, BETA), sampler.exp()


def learned_margin(shape, p):
    """The margin that minimises the mean of a shape over a pair whose first response wins with probability p."""

    def slope(x):
        x = torch.tensor([x, -x], dtype=F64, requires_grad=True)
        (gradient,) = torch.autograd.grad((torch.tensor([p, 1 - p], dtype=F64) * shape(x)).sum(), x)
        return (gradient[0] - gradient[1]).item()

    return brentq(slope, -30, 30, xtol=1e-13)


def test_exo_pair_is_the_divergence_of_the_policy_from_the_smoothed_label():
    # ε = 0.2. At m = log 4, σ(m) = 0.8 is the label: 0. At m = 0: ½·log(½/0.8) + ½·log(½/0.2) = −½·log(0.64) = 0.2231.
    assert exo_pair(**pair(math.log(4)), beta=1.0, label_smoothing=0.2).item() == pytest.approx(0, abs=1e-15)
    assert exo_pair(**pair(0.0), beta=1.0, label_smoothing=0.2).item() == pytest.approx(0.223144, abs=5e-7)


def test_exo_pair_is_bounded_where_dpo_is_not():
    # The largest value is log(1/ε), for a pair that the policy ranks wrong with certainty; its gradient is 0 there.
    x = torch.tensor([-1e4], dtype=F64, requires_grad=True)
    value = reversed_divergence(x, 0.2)
    assert value.item() == pytest.approx(math.log(5))
    assert torch.autograd.grad(value.sum(), x)[0].item() == 0


@pytest.mark.parametrize("p", [1.0, 0.9, 0.6, 0.5])
def test_exo_pair_learns_a_margin_linear_in_the_preference(p):
    # The mean is q·log q + (1 − q)·log(1 − q) − q·(p·a + (1 − p)·b) − (1 − q)·(p·b + (1 − p)·a) with q = σ(m),
    # a = log(1 − ε), b = log ε. Its derivative in q is m − (2p − 1)·(a − b).
    shape = functools.partial(reversed_divergence, label_smoothing=0.1)
    assert learned_margin(shape, p) == pytest.approx((2 * p - 1) * math.log(9), abs=1e-9)


def test_exo_pair_does_not_learn_the_optimum():
    a_world, sampler = world()
    population = pairs(METHODS["exo-pair"].loss, a_world, sampler, bradley_terry(a_world.rewards))
    assert a_world.metrics(fixed_point(population, a_world.ref_logps))["regret"] > 0.01


def test_robust_dpo_is_dpo_minus_a_linear_term():
    # m = 0.5, ε = 0.1: −log σ(0.5) − 0.1·0.5/0.8 = 0.4741 − 0.0625 = 0.4116, and by the definition the same.
    value = robust_dpo(**pair(0.5), beta=1.0, label_smoothing=0.1).item()
    right, wrong = math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(0.5))
    assert value == pytest.approx(0.411577, abs=5e-7) == (0.9 * right - 0.1 * wrong) / 0.8


def test_robust_dpo_without_noise_is_dpo():
    assert torch.equal(robust_dpo(**pair(0.7), label_smoothing=0.0), METHODS["dpo"].loss(**pair(0.7)))


def test_robust_dpo_has_the_mean_of_dpo_over_flipped_labels():
    x = torch.linspace(-3, 3, 7, dtype=F64)
    mean = 0.7 * noise_corrected_logistic(x, 0.3) + 0.3 * noise_corrected_logistic(-x, 0.3)
    torch.testing.assert_close(mean, logistic(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("flipped", [0.0, 0.1, 0.3])
def test_robust_dpo_learns_the_optimum_if_its_share_of_labels_is_flipped(flipped):
    a_world, sampler = world()
    clean = bradley_terry(a_world.rewards)
    noisy = (1 - flipped) * clean + flipped * (1 - clean)
    loss = functools.partial(METHODS["robust-dpo"].loss, label_smoothing=flipped)
    fitted = fixed_point(pairs(loss, a_world, sampler, noisy), a_world.ref_logps)
    torch.testing.assert_close(fitted.exp(), a_world.optimum.exp(), rtol=0, atol=1e-8)
    if flipped:  # cDPO and DPO learn something else from these labels
        for other in ("dpo", "cdpo"):
            fitted = fixed_point(pairs(METHODS[other].loss, a_world, sampler, noisy), a_world.ref_logps)
            assert a_world.metrics(fitted)["regret"] > 1e-3


def test_robust_dpo_is_unbounded_below_on_a_certain_pair():
    assert robust_dpo(**pair(1e3), beta=1.0, label_smoothing=0.1).item() == pytest.approx(-125)
    assert METHODS["cdpo"].loss(**pair(1e3), beta=1.0, label_smoothing=0.1).item() == pytest.approx(100)


def test_discopop_is_half_logistic_and_half_exponential_at_zero():
    # m = 0: ½·log 2 + ½·e⁰ = 0.84657.
    assert discopop(**pair(0.0), beta=1.0).item() == pytest.approx(0.846574, abs=5e-7)


def test_discopop_is_logistic_below_zero_and_exponential_above():
    x = torch.tensor([-4.0, 4.0], dtype=F64)
    expected = torch.stack([logistic(x[0]), (-x[1]).exp()])
    torch.testing.assert_close(modulated(x), expected, rtol=1e-12, atol=1e-12)


def test_discopop_rises_between_a_minimum_below_zero_and_a_maximum_above_zero():
    x = torch.linspace(-1, 1, 2001, dtype=F64)
    rising = x[1:][modulated(x).diff() > 0]
    assert -0.2 < rising.min() < 0 < rising.max() < 0.2


def test_discopop_drives_two_equally_good_responses_apart():
    # ½·f(m) + ½·f(−m) is 0.8466 at m = 0 and smaller at ±0.1, where logistic and exponential losses are larger.
    x = torch.tensor([0.0, 0.1, 0.3], dtype=F64)
    mean = (modulated(x) + modulated(-x)) / 2
    assert mean[1] < mean[0] - 0.01
    tie = (logistic(x) + logistic(-x)) / 2
    assert tie[1] > tie[0]


def test_discopop_falls_everywhere_and_keeps_ties_if_its_tau_is_large():
    x = torch.linspace(-60, 60, 60001, dtype=F64)
    assert (modulated(x, 0.1).diff() > 0).any() and not (modulated(x, 0.12).diff() > 0).any()

    def curvature_at_a_tie(tau):
        x = torch.tensor([0.0, 1e-3], dtype=F64)
        return (modulated(x, tau) + modulated(-x, tau)).diff()

    assert curvature_at_a_tie(0.39) < 0 < curvature_at_a_tie(0.41)


def test_sigmoid_norm_divides_each_log_ratio_by_its_length():
    # u(y_w) = 2 over 4 tokens, u(y_l) = −1 over 2 tokens: −log σ(0.5 + 0.5) = 0.3133 at β = 1.
    arguments = {
        "chosen_logps": torch.tensor([-3.0], dtype=F64),
        "rejected_logps": torch.tensor([-4.0], dtype=F64),
        "ref_chosen_logps": torch.tensor([-5.0], dtype=F64),
        "ref_rejected_logps": torch.tensor([-3.0], dtype=F64),
        "chosen_lengths": torch.tensor([4]),
        "rejected_lengths": torch.tensor([2]),
    }
    assert sigmoid_norm(**arguments, beta=1.0).item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-15)
    arguments |= {"ref_chosen_logps": torch.zeros(1, dtype=F64), "ref_rejected_logps": torch.zeros(1, dtype=F64)}
    free = {name: x for name, x in arguments.items() if not name.startswith("ref_")}
    assert torch.equal(sigmoid_norm(**arguments, beta=1.0), METHODS["simpo"].loss(**free, beta=1.0, gamma=0.0))


@pytest.mark.parametrize("lengths", [[3.0, 3.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
def test_sigmoid_norm_learns_rewards_in_proportion_to_length(lengths):
    # The margin β·(u/|y| − u'/|y'|) is r − r', so u(y) = |y|·(r(y) − λ)/β, and λ makes the probabilities sum to 1.
    # With responses of one length it is π* at β/3; else the policy depends on the lengths.
    a_world, sampler = world()
    lengths = torch.tensor(lengths, dtype=F64)
    w, lost = (~torch.eye(4, dtype=torch.bool)).nonzero(as_tuple=True)
    loss = functools.partial(
        METHODS["sigmoid-norm"].loss,
        chosen_lengths=lengths[w].repeat(3),
        rejected_lengths=lengths[lost].repeat(3),
    )
    fitted = fixed_point(pairs(loss, a_world, sampler, bradley_terry(a_world.rewards)), a_world.ref_logps)
    expected = []
    for ref, rewards in zip(a_world.ref_logps, a_world.rewards, strict=True):

        def logps(shift, ref=ref, rewards=rewards):
            return ref + lengths * (rewards - shift) / BETA

        expected.append(logps(brentq(lambda shift, f=logps: f(shift).logsumexp(-1).item(), -50, 50, xtol=1e-14)))
    torch.testing.assert_close(fitted.exp(), torch.stack(expected).exp(), rtol=0, atol=1e-8)
    if lengths.std() == 0:
        optimum = TableWorld(a_world.ref_logps, a_world.rewards, BETA / 3).optimum
        torch.testing.assert_close(fitted.exp(), optimum.exp(), rtol=0, atol=1e-8)
    else:
        assert a_world.metrics(fitted)["regret"] > 0.1


@pytest.mark.parametrize(
    ("loss", "wrong", "rule"),
    [
        (exo_pair, {"label_smoothing": 0.0}, "label_smoothing must be above 0 and below 0.5, got 0.0"),
        (exo_pair, {"label_smoothing": 0.5}, "label_smoothing must be above 0 and below 0.5, got 0.5"),
        (robust_dpo, {"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5, got 0.5"),
        (robust_dpo, {"label_smoothing": -0.1}, "label_smoothing must be at least 0 and below 0.5, got -0.1"),
        (discopop, {"tau": 0.0}, "tau must be above 0 and at most 1, got 0.0"),
        (discopop, {"tau": 1.5}, "tau must be above 0 and at most 1, got 1.5"),
    ],
)
def test_hyperparameter_out_of_range_is_refused(loss, wrong, rule):
    with pytest.raises(ValueError, match=f"^{rule}$"):
        loss(**pair(0.0), **wrong)


def test_cdpo_and_exo_are_the_two_directions_of_one_divergence():
    # KL((1 − ε, ε) ‖ (σ, 1 − σ)) is cDPO minus the entropy of the label; both are 0 at the label.
    x = torch.linspace(-3, 3, 7, dtype=F64)
    label = torch.tensor([0.8, 0.2], dtype=F64)
    policy = torch.stack([x.sigmoid(), (-x).sigmoid()], 1)
    forward = (label * (label / policy).log()).sum(1)
    backward = (policy * (policy / label).log()).sum(1)
    entropy = -(label * label.log()).sum()
    torch.testing.assert_close(smoothed_logistic(x, 0.2) - entropy, forward, rtol=0, atol=1e-14)
    torch.testing.assert_close(reversed_divergence(x, 0.2), backward, rtol=0, atol=1e-14)
