"""The authors' online loss against its first step by hand."""

import math

import pytest

from una_ref.claims.example_worlds import TINY
from una_ref.claims.released_online import released_descent


def test_the_first_step_is_reinforce_on_sigmoid_scores_minus_one_half():
    # ∂/∂log π of (σ(u) − σ(s))² at u = 0 is −½·(σ(s) − ½): −½·0.2311 for s = 1, 0 for s = 0. Times π = ½ and
    # ∇log π = (½, −½) the logits move by ±⅛·0.2311 at rate 1, and their gap by twice that.
    first = released_descent(TINY, 1, 1.0)[-1]
    assert float(first[0, 0] - first[0, 1]) == pytest.approx((1 / (1 + math.exp(-1)) - 0.5) / 4, abs=1e-12)
