"""The noise of online gradients against values by hand."""

import pytest

from una_ref.claims import online_noise
from una_ref.claims.example_worlds import TINY, shifted


@pytest.mark.parametrize(("how", "offset", "ratio"), [("eq10", 0, 1), ("eq10", 1, 9), ("v", 0, 0), ("v", 1, 0)])
def test_noise_to_signal_of_two_responses_by_hand(how, offset, ratio):
    # π = (½, ½), s = (1, 0), β = 1: ∇log π = ±(½, −½), g = 2(V − s)·∇log π. Without V: (−1, 1) and 0, mean (−½, ½) of
    # square ½, E‖g‖² = 1, so (1 − ½)/½. With s = (2, 1): (−2, 2), (1, −1), (5 − ½)/½. With V = ½ both are the mean.
    assert online_noise.noise(shifted(TINY, float(offset)), how) == pytest.approx(ratio, abs=1e-12)


def test_at_the_optimum_centred_una_has_no_noise_and_ppo_its_critics_error():
    factors = online_noise.noise_at_optimum(error=0.02)
    assert factors["centred"] < 1e-12
    assert factors["ppo"] == pytest.approx(0.02, rel=0.2)
    assert factors["ppo_whitened"] == pytest.approx(1, abs=0.01)
