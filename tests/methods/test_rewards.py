"""Rewards and baselines, by hand."""

import math

import pytest
import torch

from una_ref.methods.rewards import (
    centred_reward,
    divergence_of,
    f_reward,
    f_slope,
    implicit_reward,
    leave_one_out,
    log_likelihood,
    log_ratio,
    margin,
    per_example,
)
from una_ref.theory import DIVERGENCES

F64 = torch.float64


def test_reward_functions_by_hand():
    logps, ref = torch.tensor([-1.0, -4.0]), torch.tensor([-2.0, -2.0])
    assert log_likelihood(logps).tolist() == [-1, -4]
    assert log_ratio(logps, ref).tolist() == [1, -2]
    assert implicit_reward(logps, ref, 0.5).tolist() == [0.5, -1]  # β·(−1 + 2) and β·(−4 + 2)
    assert margin(logps, ref).tolist() == [1, -2]


def test_leave_one_out_is_the_mean_of_the_other_values_in_a_group():
    # Group 7 holds 1, 2 and 6: the means of the others are 4, 3.5 and 1.5. Group −1 holds 10 and 20.
    values = torch.tensor([1.0, 10.0, 2.0, 20.0, 6.0], requires_grad=True)
    groups = torch.tensor([7, -1, 7, -1, 7])
    baseline = leave_one_out(values, groups)
    assert baseline.tolist() == [4, 20, 3.5, 10, 1.5]
    assert not baseline.requires_grad


def test_leave_one_out_of_a_single_response_is_refused():
    with pytest.raises(ValueError, match="1 of 2 groups have one: give `baseline`, or K >= 2 responses"):
        leave_one_out(torch.ones(3), torch.tensor([0, 0, 1]))


def test_centred_reward_adds_the_prompt_baseline():
    # β = 1/2: r_θ = (1/2, −1), s = (2, 3), s − r_θ = (3/2, 4). Each is the V of the other: r_θ + V = (9/2, 1/2).
    logps, ref, scores = torch.tensor([-1.0, -4.0]), torch.tensor([-2.0, -2.0]), torch.tensor([2.0, 3.0])
    groups = torch.tensor([0, 0])
    assert centred_reward(logps, ref, scores, groups, beta=0.5).tolist() == [4.5, 0.5]
    given = centred_reward(logps, ref, scores, groups, baseline=torch.tensor([1.0, 2.0]), beta=0.5)
    assert given.tolist() == [1.5, 1.0]
    with pytest.raises(ValueError, match="needs `baseline`, one V\\(x\\) for each example, or `groups`"):
        centred_reward(logps, ref, scores)


@pytest.mark.parametrize(
    ("divergence", "at_two", "at_half"),  # f′(2) and f′(½), from the table in `theory.divergences`
    [
        ("reverse_kl", math.log(2), -math.log(2)),
        ("forward_kl", 1 / 2, -1),
        ("js", math.log(4 / 3), math.log(2 / 3)),
        ("jsd", math.log(4 / 3) / 2, math.log(2 / 3) / 2),
        ("alpha", 2 - math.sqrt(2), 2 - 2 * math.sqrt(2)),  # (1 − w^−½)/½
        ("chi2", 2, -1),
        ("tv", 1 / 2, -1 / 2),
        ("hellinger", 1 - math.sqrt(1 / 2), 1 - math.sqrt(2)),
    ],
)
def test_f_reward_is_beta_times_the_divergence_slope(divergence, at_two, at_half):
    logps = torch.tensor([0.4, 0.1, 0.2], dtype=F64).log()
    ref = torch.tensor([0.2, 0.2, 0.2], dtype=F64).log()
    expected = torch.tensor([at_two, at_half, 0], dtype=F64)
    torch.testing.assert_close(f_slope(logps, ref, divergence), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(f_reward(logps, ref, 0.3, divergence), 0.3 * expected, rtol=0, atol=1e-15)


def test_alpha_only_affects_the_alpha_divergence():
    u, zero = torch.tensor([1.0], dtype=F64), torch.zeros(1, dtype=F64)
    assert f_slope(u, zero, "alpha", 0.3).item() == pytest.approx((1 - math.exp(-0.3)) / 0.3)
    assert f_slope(u, zero, "js", 0.3) == f_slope(u, zero, "js")
    assert f_slope(u, zero, divergence_of("alpha", 0.3)) == f_slope(u, zero, "alpha", 0.3)
    with pytest.raises(ValueError, match="divergence: expected one of reverse_kl, .*, got 'jss'"):
        divergence_of("jss")
    with pytest.raises(ValueError, match="alpha: expected a number between 0"):
        divergence_of("alpha", 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_f_slope_is_finite_and_non_decreasing(divergence, dtype):
    # e^(2e4) overflows in every dtype. The linear continuation still rises, and is u itself for the reverse KL.
    u = torch.tensor([-2e4, -1e3, -240, -40, -3, 0, 3, 40, 240, 1e3, 2e4], dtype=dtype, requires_grad=True)
    slope = f_slope(u, torch.zeros_like(u), divergence)
    (gradient,) = torch.autograd.grad(slope.sum(), u)
    assert slope.isfinite().all() and gradient.isfinite().all()
    assert (slope.diff() >= 0).all() and (gradient >= 0).all()
    near = u.detach()[3:8] if dtype is F64 else u.detach()[4:7]
    assert torch.equal(slope.detach()[torch.isin(u.detach(), near)], DIVERGENCES[divergence].slope(near))
    if divergence == "reverse_kl":
        torch.testing.assert_close(slope, u)
        assert torch.equal(gradient, torch.ones_like(u))


def test_per_example_error_names_the_shapes():
    three = torch.zeros(3)
    message = r"per-example tensors must share one shape, got \{'logps': \(3,\), 'scores': \(3, 1\)\}"
    with pytest.raises(ValueError, match=message):
        per_example(0.1, logps=three, scores=three[:, None])
    with pytest.raises(ValueError, match=r"got \{'logps': \(\)\}"):
        per_example(0.1, logps=torch.tensor(1.0))
    with pytest.raises(ValueError, match="beta must be positive, got -1"):
        per_example(-1, logps=three)
    per_example(0.1, logps=three, baseline=0.5, kl=torch.tensor(0.1), groups=None)
    per_example(0.1, logps=three, baseline=three, kl=three)
    with pytest.raises(ValueError, match=r"'baseline': \(1,\)"):
        per_example(0.1, logps=three, baseline=torch.zeros(1))
