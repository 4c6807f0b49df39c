"""GPO's functions and their Taylor terms by hand, and what it reduces to."""

import math

import pytest
import torch

from una_ref.methods.gpo import MARGIN_SHAPES, gpo, margin_shape, rso, taylor
from una_ref.methods.pairs import ipo, una_pair
from una_ref.methods.shapes import linear

F64 = torch.float64
THREE = math.log(3)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # at the margins 0, log 3 and −2: e^−m = 1, 1/3, e²; σ(−m) = ½, ¼, σ(2)
        ("logistic", [math.log(2), math.log(4 / 3), math.log(1 + math.e**2)]),
        ("hinge", [1, 0, 3]),
        ("squared", [1, (THREE - 1) ** 2, 9]),
        ("exponential", [1, 1 / 3, math.e**2]),
        ("truncated_quadratic", [1, 0, 9]),
        ("savage", [1 / 4, 1 / 16, 1 / (1 + math.exp(-2)) ** 2]),
    ],
)
def test_margin_shape_values_by_hand(name, values):
    margins = torch.tensor([0, THREE, -2], dtype=F64)
    assert MARGIN_SHAPES[name](margins).tolist() == pytest.approx(values, abs=1e-14)


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("logistic", (math.log(2), -1 / 2, 1 / 4)),
        ("hinge", (1, -1, 0)),  # no offline regularisation (ES10)
        ("squared", (1, -2, 2)),
        ("exponential", (1, -1, 1)),
        ("truncated_quadratic", (1, -2, 2)),
        # f = s² with s = σ(−m) and s' = −s(1 − s): f' = −2s²(1 − s), f'' = (−4s + 6s²)·s', at s = ½
        ("savage", (1 / 4, -1 / 4, 1 / 8)),
        (lambda x: (-2 * x).exp() + 1, (2, -2, 4)),
    ],
)
def test_taylor_terms_by_hand(name, terms):
    assert taylor(name) == pytest.approx(terms, abs=1e-14)
    assert taylor(linear) == (0, -1, 0)  # its slope is a constant, without a graph


@pytest.mark.parametrize(("margin", "error"), [(1, 0.0049), (2, 0.066), (4, 0.68)])
def test_second_order_expansion_of_the_logistic_is_close_below_a_margin_of_one(margin, error):
    value, slope, curvature = taylor("logistic")
    expansion = value + slope * margin + curvature / 2 * margin**2
    assert expansion - math.log(1 + math.exp(-margin)) == pytest.approx(error, rel=0.02)


def test_logistic_gpo_is_dpo(random_arguments):
    arguments = random_arguments(gpo)
    torch.testing.assert_close(gpo(**arguments), una_pair(**arguments), rtol=0, atol=0)
    for shape in set(MARGIN_SHAPES) - {"logistic"}:
        assert (gpo(**arguments, function=shape) - una_pair(**arguments)).abs().max() > 0.01


def test_squared_gpo_is_beta_squared_times_ipo_at_half_the_beta(random_arguments):
    # (β·h − 1)² = β²·(h − 1/β)², and 1/β is IPO's target 1/(2·β/2).
    arguments = random_arguments(gpo) | {"beta": 0.3}
    expected = 0.3**2 * ipo(**arguments | {"beta": 0.15})
    torch.testing.assert_close(gpo(**arguments, function="squared"), expected, rtol=0, atol=1e-13)


def test_gpo_takes_any_falling_function(random_arguments):
    arguments = random_arguments(gpo)
    torch.testing.assert_close(gpo(**arguments, function=MARGIN_SHAPES["savage"]), gpo(**arguments, function="savage"))


def test_rso_losses_are_the_hinge_and_dpo(random_arguments):
    # Margin 0.7·(u_w − u_l): the hinge is 1 at a margin of 0 and 0 from a margin of 1 on.
    zero, one = torch.zeros(3, dtype=F64), torch.tensor([0.0, 1 / 0.7, -2 / 0.7], dtype=F64)
    sides = {"chosen_logps": one, "rejected_logps": zero, "ref_chosen_logps": zero, "ref_rejected_logps": zero}
    assert rso(**sides, beta=0.7).tolist() == pytest.approx([1, 0, 3], abs=1e-15)
    arguments = random_arguments(rso)
    torch.testing.assert_close(rso(**arguments), gpo(**arguments, function="hinge"), rtol=0, atol=0)
    torch.testing.assert_close(rso(**arguments, function="sigmoid_norm"), una_pair(**arguments), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("shape", MARGIN_SHAPES)
def test_every_margin_shape_is_finite_at_extreme_margins(shape, dtype):
    margins = torch.tensor([1e4, -1e4, 1e5, -1e5], dtype=dtype, requires_grad=True)
    values = MARGIN_SHAPES[shape](margins)
    (slopes,) = torch.autograd.grad(values.sum(), margins)
    assert values.isfinite().all() and slopes.isfinite().all() and (slopes <= 0).logical_or(values.diff()[0] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_exponential_is_exact_to_the_square_root_of_the_largest_float_and_straight_beyond(dtype):
    end = -math.log(torch.finfo(dtype).max) / 2
    margins = torch.tensor([end + 1, end, end - 2], dtype=dtype, requires_grad=True)
    values = MARGIN_SHAPES["exponential"](margins)
    (slopes,) = torch.autograd.grad(values.sum(), margins)
    torch.testing.assert_close(values[:2], (-margins[:2]).exp(), rtol=1e-5, atol=0)
    assert slopes[2].item() == pytest.approx(-values[1].item(), rel=1e-5)
    assert values[2].item() == pytest.approx(3 * values[1].item(), rel=1e-4)


@pytest.mark.parametrize("shape", MARGIN_SHAPES)
def test_every_margin_shape_has_the_gradient_of_its_value(shape):
    margins = torch.tensor([-3.0, -0.5, 0.0, 0.7, 2.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(MARGIN_SHAPES[shape], margins)


def test_unknown_and_rising_functions_are_refused():
    zero = torch.zeros(1, dtype=F64)
    sides = dict.fromkeys(("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"), zero)
    with pytest.raises(ValueError, match=r"function must be one of logistic, hinge, .*, got 'cubic'"):
        gpo(**sides, function="cubic")
    with pytest.raises(ValueError, match=r"function must fall at 0, got one with f'\(0\) = 1"):
        margin_shape(torch.exp)
    with pytest.raises(ValueError, match=r"function must fall at 0, got one with f'\(0\) = 0"):
        gpo(**sides, function=torch.square)
    with pytest.raises(ValueError, match="function must be one of hinge_norm, sigmoid_norm, got 'hinge'"):
        rso(**sides, function="hinge")
