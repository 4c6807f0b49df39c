"""The minimiser finds minima that are known, and says so where there is none."""

import pytest
import torch

from una_ref.theory import NotConverged, TableWorld, fixed_point, kl, objective

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
