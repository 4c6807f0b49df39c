"""Accepted responses are samples of π* exactly if the greatest reward is known."""

import pytest
import torch

from una_ref.theory import TableWorld
from una_ref.theory.rejection import accepted_logps

F64 = torch.float64
WORLD = TableWorld.random(1, prompts=6, responses=8, beta=0.5)


def total_variation(logps, other):
    return (logps.exp() - other.exp()).abs().sum(-1) / 2


def test_accepted_responses_by_hand():
    # π_ref = (0.2, 0.3, 0.5), exp(r) = (6, 3, 1)/6 at β = 1: accepted with 1, ½, 1/6: 0.2 + 0.15 + 0.08333 = 0.43333.
    ref = torch.tensor([[0.2, 0.3, 0.5]], dtype=F64).log()
    rewards = torch.tensor([[6.0, 3.0, 1.0]], dtype=F64).log()
    logps, rate = accepted_logps(ref, rewards, 1.0)
    assert float(rate) == pytest.approx(0.43333, abs=5e-6)
    assert logps.exp()[0].tolist() == pytest.approx([0.2 / 0.433333, 0.15 / 0.433333, 0.083333 / 0.433333], abs=1e-5)
    # As printed, the bound is that of the response at hand: everything is accepted, and nothing changes (ES3).
    _, printed = accepted_logps(ref, rewards, 1.0, rewards.amin(-1))
    assert float(printed) == pytest.approx(1.0)


def test_true_maximum_gives_the_optimum_and_a_smaller_one_does_not():
    logps, rate = accepted_logps(WORLD.ref_logps, WORLD.rewards, WORLD.beta)
    assert total_variation(logps, WORLD.optimum).max() < 1e-15
    expected = (WORLD.log_partition - WORLD.rewards.amax(-1) / WORLD.beta).exp()
    torch.testing.assert_close(rate, expected, rtol=1e-13, atol=0)
    second = WORLD.rewards.topk(2, -1).values[:, 1]
    off = total_variation(accepted_logps(WORLD.ref_logps, WORLD.rewards, WORLD.beta, second)[0], WORLD.optimum)
    assert off.min() > 1e-3 and off.max() > 0.05
    torch.testing.assert_close(
        accepted_logps(WORLD.ref_logps, WORLD.rewards, WORLD.beta, WORLD.rewards.amin(-1))[0], WORLD.ref_logps
    )


def test_larger_bound_gives_the_optimum_at_a_lower_rate():
    logps, rate = accepted_logps(WORLD.ref_logps, WORLD.rewards, WORLD.beta, WORLD.rewards.amax(-1) + 1)
    assert total_variation(logps, WORLD.optimum).max() < 1e-15
    assert (rate < accepted_logps(WORLD.ref_logps, WORLD.rewards, WORLD.beta)[1]).all()
