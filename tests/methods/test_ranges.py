"""Checks of hyper-parameters: the ends of a range belong to it, and an error names the value."""

import math
import re

import pytest

from una_ref.methods.ranges import at_least_zero, between, one_of, positive


def test_ends_of_a_range_are_in_it():
    between(0, 1, gamma=0, lam=1, whiten=0.5)
    at_least_zero(alpha=0, delta=math.inf)
    positive(beta=5e-324, tau=math.inf)
    one_of(("a", "b"), shape="b")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: between(0, 1, gamma=1, lam=1.5), "lam must be at least 0 and at most 1, got 1.5"),
        (lambda: between(0, 1, gamma=-1e-9), "gamma must be at least 0 and at most 1, got -1e-09"),
        (lambda: between(0, 1, gamma=math.nan), "gamma must be at least 0 and at most 1, got nan"),
        (lambda: at_least_zero(alpha=-1), "alpha must be at least 0, got -1"),
        (lambda: positive(tau=1, beta=0), "beta must be positive, got 0"),
        (lambda: positive(beta=math.nan), "beta must be positive, got nan"),
        (lambda: one_of(("a", "b"), shape="c"), "shape must be one of a, b, got 'c'"),
    ],
)
def test_value_outside_of_its_range_is_refused_by_name(check, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check()
