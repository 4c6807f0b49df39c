"""KTO's reference points: by hand, and what they estimate."""

import pytest
import torch

from una_ref.methods.reference_points import ESTIMATORS
from una_ref.theory import TableWorld, kl

F64 = torch.float64


def test_reference_points_by_hand():
    # m = 3, u(x_i, y_j) = 3i + j + 1 = ((1, 2, 3), (4, 5, 6), (7, 8, 9)).
    # Next: (1,2), (2,3), (3,1): (2 + 6 + 7)/3 = 5. Others: (2 + 3 + 4 + 6 + 7 + 8)/6 = 5, printed 30/3. Own: 15/3.
    u = torch.arange(1, 10, dtype=F64).view(3, 3)
    u[0, 1] += 3  # tells the next response from the others
    expected = {"next response": 6, "every other response": 5.5, "every other response, printed": 11}
    expected |= {"own response": 5, "zero": 0}
    assert {name: float(estimate(u)) for name, estimate in ESTIMATORS.items()} == expected
    assert all(estimate(-u) == 0 for estimate in ESTIMATORS.values())
    assert not any(estimate(u.clone().requires_grad_()).requires_grad for estimate in ESTIMATORS.values())
    with pytest.raises(ValueError, match=r"log_ratios must be \(m, m\) with m >= 2, got \(2, 3\)"):
        ESTIMATORS["every other response"](u[:2])


def test_printed_reference_point_grows_with_the_batch():
    # m = 4, u = 1 at β = 0.1: printed 0.3, right 0.1 (ES16).
    u = torch.ones(4, 4, dtype=F64)
    assert 0.1 * float(ESTIMATORS["every other response, printed"](u)) == pytest.approx(0.3)
    assert 0.1 * float(ESTIMATORS["every other response"](u)) == pytest.approx(0.1)


def test_mismatched_reference_points_are_near_zero_where_the_kl_is_not():
    # A response to another prompt is likely under neither π(·|x) nor π_ref(·|x). For responses q that do not depend on
    # x, the mean of u is KL(q ‖ π_ref) − KL(q ‖ π), here negative. The maximum with 0 then hides it, the more so the
    # larger the batch. Each prompt's own response has the right mean.
    world = TableWorld.random(0, prompts=64, responses=8, beta=0.85)
    policy, u = world.optimum, world.optimum - world.ref_logps
    exact = float(kl(policy, world.ref_logps).mean())
    assert exact == pytest.approx(0.48, abs=0.01)
    table = policy.exp() @ u.T  # [j, i] the mean of u(x_i, y) over y ~ π(·|x_j)
    raw = float((table.sum() - table.trace()) / (64 * 63))
    assert raw < -0.4 and float(table.trace() / 64) == pytest.approx(exact)

    generator = torch.Generator().manual_seed(0)

    def mean_estimates(m, batches=1000):
        sums = dict.fromkeys(ESTIMATORS, 0.0)
        for _ in range(batches):
            prompts = torch.randperm(64, generator=generator)[:m]
            responses = torch.multinomial(policy[prompts].exp(), 1, generator=generator)[:, 0]
            for name, estimate in ESTIMATORS.items():
                sums[name] += float(estimate(u[prompts][:, responses])) / batches
        return sums

    estimates = {m: mean_estimates(m) for m in (2, 8, 32)}
    following = [estimates[m]["next response"] for m in (2, 8, 32)]
    assert 0.1 < following[0] < 0.25 and 0.01 < following[1] < 0.06 and following[2] < 0.003
    assert estimates[8]["every other response"] < following[1] / 4
    assert estimates[32]["own response"] == pytest.approx(exact, abs=0.02)
