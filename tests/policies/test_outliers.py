"""Outliers are states beyond the distance up to which a share of the known states lies."""

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.policies.outliers import Outliers, last_states

F64 = torch.float64


def test_distance_is_that_of_mahalanobis_by_hand():
    # The variances of (±2, 0) and (0, ±1) are 2 and ½: (x, y) is at x²/2 + 2·y² from the mean (1, 1).
    known = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=F64) + 1
    points = torch.tensor([[1.0, 1.0], [3.0, 1.0], [1.0, 3.0], [3.0, 3.0]], dtype=F64)
    distances = Outliers.of(known, 0.25).distances(points)
    torch.testing.assert_close(distances, torch.tensor([0.0, 2.0, 8.0, 10.0], dtype=F64), rtol=3e-3, atol=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_that_share_of_the_known_states_are_outliers(share):
    known = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    outliers = Outliers.of(known, share)
    assert int(outliers(known).sum()) == round(1000 * share)
    assert outliers(known[:1] + 20).all() and not outliers(known.mean(0, keepdim=True)).any()


def test_distance_is_finite_where_states_lie_in_a_plane():
    known = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=F64) @ torch.eye(2, 5, dtype=F64)
    outliers = Outliers.of(known, 0.1)
    off_the_plane = known[:1] + torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=F64)
    assert outliers.distances(known).isfinite().all() and outliers(off_the_plane).all()


@pytest.mark.parametrize("size", [1, 64])
def test_last_state_is_that_of_the_last_token_of_each_response(tiny, size):
    model = tiny()
    examples = [Example((3, 4), ((5, 6, 2), (7, 2))), Example((8,), ((9, 2),))]
    expected = [
        model.model(input_ids=torch.tensor([[*example.prompt, *response]]))[0][0, -1].double()
        for example in examples
        for response in example.responses
    ]
    torch.testing.assert_close(last_states(model, examples, size), torch.stack(expected), rtol=1e-4, atol=1e-5)
