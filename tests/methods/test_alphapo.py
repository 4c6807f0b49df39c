"""AlphaPO's reward by hand, its limit SimPO, and the policy that unlimited data teach."""

import math

import pytest
import torch
from scipy.optimize import brentq

from una_ref.methods import METHODS
from una_ref.methods.alphapo import alpha_po, power_reward
from una_ref.theory import TableWorld, bradley_terry, fixed_point
from una_ref.theory.populations import pairs

F64 = torch.float64


def arguments():
    """Two responses of two tokens, of probability 1/4 and 1/16 each."""
    return {
        "chosen_logps": torch.tensor([-2 * math.log(4)], dtype=F64),
        "rejected_logps": torch.tensor([-2 * math.log(16)], dtype=F64),
        "chosen_lengths": torch.tensor([2]),
        "rejected_lengths": torch.tensor([2]),
    }


def test_alpha_po_by_hand():
    # α = ½: (1 − 4^½)/½ = −2 and (1 − 16^½)/½ = −6. The margin is 4, minus γ = 1: −log σ(3) = 0.048587.
    assert alpha_po(**arguments(), beta=1.0, gamma=1.0, alpha=0.5).item() == pytest.approx(0.048587, abs=1e-6)


def test_alpha_zero_is_simpo_and_its_limit():
    expected = METHODS["simpo"].loss(**arguments(), beta=1.3, gamma=0.4)
    assert torch.equal(alpha_po(**arguments(), beta=1.3, gamma=0.4, alpha=0.0), expected)
    near = alpha_po(**arguments(), beta=1.3, gamma=0.4, alpha=1e-9)
    torch.testing.assert_close(near, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("alpha", [0.25, -0.25])
def test_power_reward_is_continued_as_a_straight_line(dtype, alpha):
    # The power overflows in float32 at −1e4 nats a token. The reward still rises with log p there, at a fixed slope.
    logps = torch.tensor([-3e4, -2e4, -1e4, -1.0, 1e4], dtype=dtype, requires_grad=True)
    reward = power_reward(logps, torch.ones(5, dtype=torch.int64), 2.0, alpha)
    (slope,) = torch.autograd.grad(reward.sum(), logps)
    assert reward.isfinite().all() and slope.isfinite().all() and (reward.diff() >= 0).all()
    if alpha > 0:
        assert slope[0] == slope[1] == slope[2] > 0
        assert slope[3].item() == pytest.approx(2 * math.exp(0.25), rel=1e-6)  # dr/d log p = β·p^(−α)


@pytest.mark.parametrize("alpha", [0.25, 1.0, -0.5])
def test_alpha_po_without_a_target_margin_learns_a_power_of_the_reward(alpha):
    # At γ = 0 the margin is r(y) − r(y'), so β·(1 − p^(−α))/α = r − λ and π = p^|y| = (1 − α·(r − λ)/β)^(−|y|/α).
    torch.manual_seed(5)
    beta, lengths = 2.0, torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=F64)
    rewards, ref = torch.randn(2, 4, dtype=F64), torch.zeros(2, 4, dtype=F64).log_softmax(-1)
    a_world = TableWorld(ref, rewards, beta)
    sampler = torch.rand(2, 4, dtype=F64).softmax(-1)
    w, lost = (~torch.eye(4, dtype=torch.bool)).nonzero(as_tuple=True)

    def loss(*, ref_chosen_logps, ref_rejected_logps, **given):
        sizes = {"chosen_lengths": lengths[w].repeat(2), "rejected_lengths": lengths[lost].repeat(2)}
        return alpha_po(**given, **sizes, gamma=0.0, alpha=alpha)

    fitted = fixed_point(pairs(loss, a_world, sampler, bradley_terry(rewards)), ref)
    expected = []
    for row in rewards:

        def logps(shift, row=row):
            return -lengths / alpha * torch.log1p(-alpha * (row - shift) / beta)

        edge = (row.max() if alpha > 0 else row.min()).item() - beta / alpha  # 1 − α·(r − λ)/β is positive
        low, high = (edge + 1e-9, edge + 100) if alpha > 0 else (edge - 100, edge - 1e-9)
        shift = brentq(lambda x, f=logps: f(x).logsumexp(-1).item(), low, high, xtol=1e-14)
        expected.append(logps(shift))
    torch.testing.assert_close(fitted.exp(), torch.stack(expected).exp(), rtol=0, atol=1e-8)


def test_alpha_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="^alpha must be finite, got nan$"):
        alpha_po(**arguments(), alpha=math.nan)
