"""Loss shapes by hand and at the ends of the float range."""

import math

import pytest
import torch

from una_ref.methods.shapes import (
    bce,
    kahneman_tversky,
    linear,
    logistic,
    mse,
    prospect,
    smoothed_logistic,
    squared,
)

F64 = torch.float64
X = torch.tensor([0.0, math.log(3)], dtype=F64)  # σ = 1/2 and 3/4
Y = torch.tensor([1.0, 0.5], dtype=F64)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (linear(X), [0, -math.log(3)]),
        (logistic(X), [math.log(2), math.log(4 / 3)]),
        # log 2 for both labels; then −0.8·log(3/4) − 0.2·log(1/4)
        (smoothed_logistic(X, 0.2), [math.log(2), 0.8 * math.log(4 / 3) + 0.2 * math.log(4)]),
        (squared(X + 1), [1, (math.log(3) + 1) ** 2]),
        (squared(X, 2.0), [4, (math.log(3) - 2) ** 2]),
        (bce(X, Y), [math.log(2), -0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)]),
        (mse(X, Y), [1 / 4, 1 / 16]),
        # label 1: 2·(1 − σ) = 2·½; label ½: ½·2·(1 − ¾) + ½·3·¾ = 1/4 + 9/8
        (kahneman_tversky(X, Y, 2.0, 3.0), [1, 11 / 8]),
        (kahneman_tversky(X, 1 - Y), [1 / 2, 1 / 2]),  # label 0: σ(0); label ½: ½·¼ + ½·¾
    ],
)
def test_shape_values_by_hand(values, expected):
    assert values.tolist() == pytest.approx(expected, abs=1e-15)


def test_logistic_and_bce_keep_precision_at_extreme_inputs():
    far = torch.tensor([1e4, -1e4], dtype=F64, requires_grad=True)
    assert logistic(far).tolist() == [0, 1e4]
    assert bce(far, torch.tensor([0.0, 1.0])).tolist() == [1e4, 1e4]
    assert bce(far, torch.tensor([1.0, 0.0])).tolist() == [0, 0]
    assert bce(torch.tensor([50.0], dtype=F64), torch.ones(1)).item() == pytest.approx(math.exp(-50), rel=1e-12)
    (gradient,) = torch.autograd.grad(bce(far, torch.tensor([0.0, 1.0])).sum(), far)
    assert gradient.tolist() == [1, -1]


@pytest.mark.parametrize("shape", [bce, mse])
def test_bce_and_mse_are_minimal_at_the_label(shape):
    # With the soft label 0.7 BCE is minimal at σ(x) = 0.7, x = logit(0.7) = 0.8473 (EU17).
    x = torch.tensor([math.log(0.7 / 0.3)], dtype=F64, requires_grad=True)
    assert x.item() == pytest.approx(0.8473, abs=5e-5)
    (slope,) = torch.autograd.grad(shape(x, torch.tensor([0.7])).sum(), x)
    assert slope.item() == pytest.approx(0, abs=1e-7)
    for step in (-0.1, 0.1):
        assert shape(x + step, torch.tensor([0.7])) > shape(x, torch.tensor([0.7]))


def test_label_smoothing_puts_the_minimum_at_a_finite_margin():
    # At logit(1 − ε): the slope −(1 − ε)·σ(−x) + ε·σ(x) is −(1 − ε)·ε + ε·(1 − ε) = 0.
    x = torch.tensor([math.log(0.9 / 0.1)], dtype=F64, requires_grad=True)
    assert torch.autograd.grad(smoothed_logistic(x, 0.1).sum(), x)[0].item() == pytest.approx(0, abs=1e-16)
    assert (smoothed_logistic(x.detach() + torch.tensor([-1, 1]), 0.1) > smoothed_logistic(x, 0.1)).all()
    assert torch.equal(smoothed_logistic(X, 0.0), logistic(X))
    for wrong in (-0.1, 0.5, 1.0, math.nan):
        with pytest.raises(ValueError, match="label_smoothing must be at least 0 and below 0.5"):
            smoothed_logistic(X, wrong)


@pytest.mark.parametrize(("p", "sign"), [(0.3, 1), (0.49, 1), (0.51, -1), (0.7, -1)])
def test_kahneman_tversky_is_not_a_proper_score(p, sign):
    # With P(y = 1) = p the expected loss is p + (1 − 2p)·σ(x). It is monotone, so its minimum, at ±∞, does not give p.
    x = torch.linspace(-8, 8, 50, dtype=F64, requires_grad=True)
    expected = p * kahneman_tversky(x, torch.ones(50)) + (1 - p) * kahneman_tversky(x, torch.zeros(50))
    torch.testing.assert_close(expected, p + (1 - 2 * p) * x.sigmoid())
    (slope,) = torch.autograd.grad(expected.sum(), x)
    assert (slope.sign() == sign).all()


def test_value_function_of_prospect_theory_by_hand():
    # v(4) = 2, v(−4) = −λ·2, v(0) = 0 at α = ½. Losses weigh more than gains. At α = 1 it is two straight lines.
    gains_and_losses = torch.tensor([4.0, -4.0, 0.0], dtype=F64)
    assert prospect(gains_and_losses, 0.5, 3.0).tolist() == [2, -6, 0]
    assert prospect(gains_and_losses, 1.0, 2.0).tolist() == [4, -8, 0]
    # Tversky and Kahneman 1992: the median α is 0.88, the median λ 2.25.
    assert prospect(torch.tensor([10.0, -1.0], dtype=F64)).tolist() == pytest.approx([10**0.88, -2.25])
    for wrong in ({"alpha": 0}, {"alpha": 1.5}, {"loss_aversion": 0}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} must be"):
            prospect(X, **wrong)


def test_slope_of_the_value_function_is_infinite_at_the_reference_point():
    x = torch.tensor([1e-12, -1e-12], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(prospect(x, 0.5, 2.0).sum(), x)
    assert slope.tolist() == pytest.approx([0.5e6, 1e6])
    # KTO's σ has slope ¼ there.
    (smooth,) = torch.autograd.grad(kahneman_tversky(x, torch.zeros(2)).sum(), x)
    assert smooth.tolist() == pytest.approx([0.25, 0.25])
