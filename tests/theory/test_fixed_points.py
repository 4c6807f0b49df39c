"""The minimiser finds minima that are known, and says so where there is none."""

import pytest
import torch

from una_ref.theory import NotConverged, TableWorld, fixed_point, kl, objective, una_fixed_point, una_regression
from una_ref.theory.fixed_points import una_end, una_minima

F64 = torch.float64


def test_minus_j_has_its_minimum_at_the_optimum():
    torch.manual_seed(0)
    ref, start = torch.randn(2, 4, 6, dtype=F64).log_softmax(-1)
    world = TableWorld(ref, torch.randn(4, 6, dtype=F64), 1.0)
    found = fixed_point(lambda logps: -objective(logps, ref, world.rewards, 1.0).sum(), start)
    assert kl(found, world.optimum).max() < 1e-14
    assert not found.requires_grad


@pytest.mark.parametrize(
    "loss",
    [lambda logps: -logps.exp()[0, 0], lambda logps: -(logps.exp() ** 2).sum()],
    ids=["falls for ever", "is at its maximum"],
)
def test_a_flat_place_that_is_no_minimum(loss):
    with pytest.raises(NotConverged, match="curves upwards in"):
        fixed_point(loss, torch.zeros(1, 2, dtype=F64).log_softmax(-1))


def test_no_finite_minimum():
    start = torch.zeros(1, 2, dtype=F64).log_softmax(-1)
    with pytest.raises(NotConverged, match="the largest gradient in a logit is"):
        fixed_point(lambda logps: logps[0, 0], start)


@pytest.mark.parametrize("uniform", [False, True])
def test_the_minima_of_the_una_regression_are_all_there(uniform):
    # Descent from every corner and from π_ref ends in one of them.
    world = TableWorld.random(0, prompts=5, responses=4, beta=0.5, offset=-3.0)
    sampler = torch.full_like(world.ref_logps, 0.25).log() if uniform else world.ref_logps
    minima = una_minima(world.ref_logps, world.rewards, 0.5, sampler_logps=sampler)
    population = una_regression(world.ref_logps, world.rewards, 0.5, sampler_logps=sampler)
    assert not minima[:, :4].isnan().any() and minima[:, 4].isnan().all()
    assert (minima[:, :4].argmax(-1) == torch.arange(4)).all()
    for k in range(4):
        torch.testing.assert_close(fixed_point(population, minima[:, k]), minima[:, k], rtol=0, atol=1e-10)
    starts = [6 * torch.eye(4, dtype=F64)[k].expand(5, 4) for k in range(4)]
    for start in [*starts, world.ref_logps]:
        ends = fixed_point(population, start.log_softmax(-1))
        assert (ends.exp()[:, None] - minima.exp()).abs().amax(-1).nan_to_num(nan=9.0).amin(-1).max() < 1e-8


def test_one_minimum_and_it_is_the_one_with_no_response_below():
    # A little below log Z = 0 the minimum of `una_fixed_point` lives on; above, there is no other.
    world = TableWorld.random(0, prompts=5, responses=4, beta=0.5)
    baseline = 0.5 * world.log_partition[:, None]
    for shift, there in ((0.01, True), (-0.01, False)):
        minima = una_minima(world.ref_logps, world.rewards, 0.5, baseline=baseline + shift)
        assert minima[:, :4].isnan().all() and minima[:, 4].isnan().any() != there
    population = una_regression(world.ref_logps, world.rewards, 0.5, baseline=baseline + 0.01)
    last = una_minima(world.ref_logps, world.rewards, 0.5, baseline=baseline + 0.01)[:, 4]
    torch.testing.assert_close(fixed_point(population, world.ref_logps), last, rtol=0, atol=1e-10)


def test_where_the_una_regression_ends():
    # By descent as an optimiser finds it from π_ref in small steps; globally never with the greater loss.
    world = TableWorld.random(0, prompts=4, responses=4, beta=0.5, offset=-3.0)
    ends = una_end(world.ref_logps, world.rewards, 0.5)
    lowest = una_end(world.ref_logps, world.rewards, 0.5, which="global")
    population = una_regression(world.ref_logps, world.rewards, 0.5)
    logits = world.ref_logps.clone()
    for _ in range(1500):
        logits.requires_grad_()
        (slope,) = torch.autograd.grad(4 * population(logits.log_softmax(-1)), logits)
        logits = (logits - 0.5 * slope).detach()
    torch.testing.assert_close(logits.softmax(-1), ends.exp(), rtol=0, atol=1e-4)
    assert population(lowest) < population(ends)
    assert (population(ends) - population(logits.log_softmax(-1))).abs() < 1e-6
    above = una_end(world.ref_logps, world.rewards + 9, 0.5, which="global")
    torch.testing.assert_close(above, una_fixed_point(world.ref_logps, world.rewards + 9, 0.5))
