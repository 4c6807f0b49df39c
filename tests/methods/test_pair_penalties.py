"""DPOP, R-DPO and β-DPO by hand, what they reduce to, and what they refuse."""

import math
from functools import partial

import pytest
import torch

from una_ref.methods.pair_penalties import LEAST_BETA, beta_dpo, dpop, dpop_printed, r_dpo, r_dpo_printed
from una_ref.methods.pairs import una_pair

F64 = torch.float64


def pair(chosen, rejected, **more):
    """A pair whose log-ratios are `chosen` and `rejected`, in nats; log π_ref is −2 and −3."""
    values = {
        "chosen_logps": chosen - 2,
        "rejected_logps": rejected - 3,
        "ref_chosen_logps": -2,
        "ref_rejected_logps": -3,
    }
    return {name: torch.tensor([float(value)], dtype=F64) for name, value in (values | more).items()}


def test_dpop_penalty_is_inside_the_sigmoid_and_times_beta():
    # u = (−1, 0), h = −1, β = 0.3, λ = 5: −log σ(0.3·(−1 − 5)) = log(1 + e^1.8). Printed: log(1 + e^0.3) + 5 (ES5).
    arguments = pair(-1, 0) | {"beta": 0.3, "lam": 5.0}
    assert dpop(**arguments).item() == pytest.approx(math.log(1 + math.exp(1.8)), abs=1e-14)
    assert dpop(**arguments).item() == pytest.approx(1.95298, abs=5e-6)
    assert dpop_printed(**arguments).item() == pytest.approx(5.85436, abs=5e-6)


@pytest.mark.parametrize("loss", [dpop, dpop_printed])
def test_dpop_is_dpo_while_the_chosen_response_is_not_less_likely_than_under_the_reference(loss):
    assert loss(**pair(0.5, 2), lam=5.0) == una_pair(**pair(0.5, 2), beta=0.3)
    assert loss(**pair(-0.5, 2), lam=0.0) == una_pair(**pair(-0.5, 2), beta=0.3)
    assert loss(**pair(-0.5, 2), lam=5.0) > una_pair(**pair(-0.5, 2), beta=0.3) + 0.1


def test_dpop_raises_the_chosen_response_where_dpo_only_widens_the_gap():
    # Below π_ref the chosen response has 1 + λ times the slope of the rejected one.
    arguments = pair(-1, 0)
    inputs = [arguments[name].requires_grad_() for name in ("chosen_logps", "rejected_logps")]
    chosen, rejected = torch.autograd.grad(dpop(**arguments, lam=4.0).sum(), inputs)
    assert (chosen / -rejected).item() == pytest.approx(5)


def test_dpop_starts_with_the_gradient_of_dpo():
    # Before the first step the policy is the reference, and no response is less likely than under it.
    arguments = pair(0, 0)
    logps = arguments["chosen_logps"].requires_grad_()
    slopes = [torch.autograd.grad(loss(**arguments, beta=0.3).sum(), logps)[0] for loss in (dpop, una_pair)]
    assert slopes[0] == slopes[1]


def test_printed_dpop_penalty_does_not_fade_on_a_pair_that_is_ranked_right():
    # u = (−1, −1001), β·h = 300: the corrected loss is σ(−(300 − 0.3·5)) ≈ 0, the printed one still has the slope −λ.
    arguments = pair(-1, -1001)
    logps = arguments["chosen_logps"].requires_grad_()
    assert torch.autograd.grad(dpop(**arguments, lam=5.0).sum(), logps)[0].abs() < 1e-100
    assert torch.autograd.grad(dpop_printed(**arguments, lam=5.0).sum(), logps)[0].item() == pytest.approx(-5)


def test_r_dpo_adds_the_length_difference_and_its_printed_form_subtracts_it():
    # h = 0, 100 and 20 tokens, α = 0.02: log(1 + e^−1.6) = 0.18390; printed log(1 + e^1.6) = 1.78390 (ES23).
    lengths = {"chosen_lengths": torch.tensor([100]), "rejected_lengths": torch.tensor([20])}
    assert r_dpo(**pair(0, 0), **lengths, alpha=0.02).item() == pytest.approx(math.log(1 + math.exp(-1.6)), abs=1e-14)
    assert r_dpo(**pair(0, 0), **lengths, alpha=0.02).item() == pytest.approx(0.18390, abs=5e-6)
    assert r_dpo_printed(**pair(0, 0), **lengths, alpha=0.02).item() == pytest.approx(1.78390, abs=5e-6)


@pytest.mark.parametrize("loss", [r_dpo, r_dpo_printed])
def test_r_dpo_without_alpha_is_dpo(loss, random_arguments):
    arguments = random_arguments(loss)
    of_dpo = {name: value for name, value in arguments.items() if not name.endswith("lengths")}
    torch.testing.assert_close(loss(**arguments, alpha=0.0), una_pair(**of_dpo), rtol=0, atol=0)
    assert (loss(**arguments, alpha=0.3) - una_pair(**of_dpo)).abs().max() > 0.01


STATISTICS = {"batch_gap": 3.0, "running_gap": 1.0, "running_gap_sd": 2.0}


def test_beta_dpo_scales_beta_by_the_gap_of_the_batch_and_weights_ordinary_pairs_more():
    # β = 0.1·[1 + 0.6·(3 − 1)] = 0.22; h = 5, M₀ = 1, σ = 2: w = exp(−½·(4/2)²) = e^−2.
    arguments = pair(2, -3) | STATISTICS
    plain = math.log(1 + math.exp(-0.22 * 5))
    assert beta_dpo(**arguments, filtering=0.0).item() == pytest.approx(plain, abs=1e-14)
    assert beta_dpo(**arguments).item() == pytest.approx(math.exp(-2) * plain, abs=1e-14)
    assert beta_dpo(**arguments, filtering=0.5).item() == pytest.approx(math.exp(-1) * plain, abs=1e-14)


def test_beta_dpo_keeps_beta_positive():
    # Mean gap −2, M₀ = 0, α = 0.6: β = 0.1·(1 − 1.2) = −0.02 as printed, which would reward wrong rankings (ES6).
    arguments = pair(2, -3) | {"batch_gap": -2.0, "running_gap": 0.0, "running_gap_sd": 1.0}
    assert beta_dpo(**arguments, filtering=0.0).item() == pytest.approx(
        math.log(1 + math.exp(-LEAST_BETA * 5)), abs=1e-14
    )


def test_beta_dpo_without_alpha_and_filtering_is_dpo(random_arguments):
    arguments = random_arguments(beta_dpo)
    of_dpo = {name: value for name, value in arguments.items() if not name.endswith(("gap", "sd"))}
    plain = beta_dpo(**arguments, alpha=0.0, filtering=0.0)
    torch.testing.assert_close(plain, una_pair(**of_dpo), rtol=0, atol=1e-15)


def test_beta_dpo_has_no_gradient_through_beta_and_weight():
    # w·β_batch·σ(−β_batch·h), the derivative with both held constant, and none in the statistics.
    arguments = pair(2, -3) | {name: torch.tensor(x, dtype=F64, requires_grad=True) for name, x in STATISTICS.items()}
    logps = arguments["chosen_logps"].requires_grad_()
    inputs = [logps, *(arguments[name] for name in STATISTICS)]
    slope, *others = torch.autograd.grad(beta_dpo(**arguments).sum(), inputs, allow_unused=True)
    assert slope.item() == pytest.approx(-math.exp(-2) * 0.22 / (1 + math.exp(0.22 * 5)), abs=1e-14)
    assert others == [None, None, None]


def test_beta_dpo_weight_is_one_before_the_first_step():
    # The policy is the reference: all gaps are 0, so is their standard deviation, and no pair is unusual.
    zero = {"batch_gap": 0.0, "running_gap": 0.0, "running_gap_sd": 0.0}
    assert beta_dpo(**pair(0, 0), **zero).item() == pytest.approx(math.log(2), abs=1e-15)


@pytest.mark.parametrize("filtering", [0.0, 1.0])
def test_beta_dpo_is_finite_in_float16_for_a_distant_pair(filtering):
    arguments = {name: value.half() for name, value in pair(500, -500).items()}
    statistics = {"batch_gap": 0.0, "running_gap": 0.0, "running_gap_sd": 1e-3}
    assert beta_dpo(**arguments, **statistics, filtering=filtering).isfinite().all()


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (dpop, {"lam": -1.0}),
        (dpop_printed, {"lam": math.nan}),
        (r_dpo, {"alpha": -0.1}),
        (r_dpo_printed, {"alpha": -0.1}),
        (partial(beta_dpo, **STATISTICS), {"alpha": -0.1}),
        (partial(beta_dpo, **STATISTICS), {"filtering": -1.0}),
    ],
)
def test_negative_weights_are_refused_by_name(loss, wrong):
    (name, value), lengths = *wrong.items(), {}
    if loss in (r_dpo, r_dpo_printed):
        lengths = {"chosen_lengths": torch.tensor([1]), "rejected_lengths": torch.tensor([1])}
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got {value}"):
        loss(**pair(0, 0), **lengths, **wrong)
