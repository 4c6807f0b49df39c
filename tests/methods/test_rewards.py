"""Rewards and baselines, by hand."""

import pytest
import torch

from una_ref.methods.rewards import (
    centred_reward,
    implicit_reward,
    leave_one_out,
    log_likelihood,
    log_ratio,
    margin,
    per_example,
)


def test_rewards_by_hand():
    logps, ref = torch.tensor([-1.0, -4.0]), torch.tensor([-2.0, -2.0])
    assert log_likelihood(logps).tolist() == [-1, -4]
    assert log_ratio(logps, ref).tolist() == [1, -2]
    assert implicit_reward(logps, ref, 0.5).tolist() == [0.5, -1]  # β·(−1 + 2) and β·(−4 + 2)
    assert margin(logps, ref).tolist() == [1, -2]


def test_leave_one_out_by_hand():
    # Group 7 holds 1, 2 and 6: the others' means are 4, 3.5 and 1.5. Group −1 holds 10 and 20.
    values = torch.tensor([1.0, 10.0, 2.0, 20.0, 6.0], requires_grad=True)
    groups = torch.tensor([7, -1, 7, -1, 7])
    baseline = leave_one_out(values, groups)
    assert baseline.tolist() == [4, 20, 3.5, 10, 1.5]
    assert not baseline.requires_grad


def test_leave_one_out_needs_company():
    with pytest.raises(ValueError, match="1 of 2 groups have one: give `baseline`, or K >= 2 responses"):
        leave_one_out(torch.ones(3), torch.tensor([0, 0, 1]))


def test_centred_reward_by_hand():
    # β = 1/2: r_θ = (1/2, −1); s = (2, 3); s − r_θ = (3/2, 4), each the other's V: r_θ + V = (9/2, 1/2).
    logps, ref, scores = torch.tensor([-1.0, -4.0]), torch.tensor([-2.0, -2.0]), torch.tensor([2.0, 3.0])
    groups = torch.tensor([0, 0])
    assert centred_reward(logps, ref, scores, groups, beta=0.5).tolist() == [4.5, 0.5]
    given = centred_reward(logps, ref, scores, groups, baseline=torch.tensor([1.0, 2.0]), beta=0.5)
    assert given.tolist() == [1.5, 1.0]
    with pytest.raises(ValueError, match="needs `baseline`, one V\\(x\\) for each example, or `groups`"):
        centred_reward(logps, ref, scores)


def test_per_example_names_the_shapes():
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
