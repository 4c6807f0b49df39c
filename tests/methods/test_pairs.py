"""Pair losses by hand, and the pairwise form of centred UNA against its leave-one-out form."""

import itertools
import math

import pytest
import torch

from una_ref.methods.pairs import (
    cdpo,
    f_dpo,
    ipo,
    ipo_printed,
    iupo,
    iupo_printed,
    simpo,
    una_centred_pairwise,
    una_pair,
    una_pair_printed,
)
from una_ref.methods.singles import una_centred
from una_ref.theory import DIVERGENCES

F64 = torch.float64


def pair(gap, count=1):
    """A pair whose log-ratios differ by `gap` nats: u(y_w) = gap − 1, u(y_l) = −1."""
    one = torch.ones(count, dtype=F64)
    return {
        "chosen_logps": (gap - 3) * one,
        "rejected_logps": -4 * one,
        "ref_chosen_logps": -2 * one,
        "ref_rejected_logps": -3 * one,
    }


def test_una_pair_is_negative_log_sigmoid_of_the_margin():
    # −log σ(0.5) = 0.4741. Without σ, as in EU7 and EU8, the value would be −log 0.5 = 0.6931.
    assert una_pair(**pair(5), beta=0.1).item() == pytest.approx(math.log(1 + math.exp(-0.5)), abs=1e-15)
    assert una_pair(**pair(5), beta=0.1).item() == pytest.approx(0.4741, abs=5e-5)
    assert una_pair(**pair(0), beta=0.1).item() == pytest.approx(math.log(2), abs=1e-15)
    assert una_pair(**pair(-10), beta=0.1).item() == pytest.approx(math.log(1 + math.e), abs=1e-15)


def test_printed_una_pair_is_unbounded_below():
    # A margin of 1000 has loss −1000. Every pair has the same gradient, even where its margin is already large (EU7).
    assert una_pair_printed(**pair(1e4), beta=0.1).item() == pytest.approx(-1000)
    arguments = pair(1e4, count=2)
    logps = arguments["chosen_logps"].requires_grad_()
    assert torch.autograd.grad(una_pair_printed(**arguments, beta=0.1).sum(), logps)[0].tolist() == [
        -0.1,
        -0.1,
    ]
    assert torch.autograd.grad(una_pair(**arguments, beta=0.1).sum(), logps)[0].abs().max() < 1e-300


def test_ipo_target_is_half_inverse_beta():
    # At h = 2 and β = 0.1: (2 − 5)² = 9, printed −9 (ES9). The minimum is at h = 1/(2β) = 5.
    assert ipo(**pair(2), beta=0.1).item() == pytest.approx(9)
    assert ipo_printed(**pair(2), beta=0.1).item() == pytest.approx(-9)
    assert ipo(**pair(5), beta=0.1).item() == 0
    assert ipo(**pair(6), beta=0.1).item() == pytest.approx(1)


def test_ipo_equals_pairwise_regression_on_a_constant_score_gap():
    # (β'h − Δs)²/β'² with Δs = β'/(2β) is (h − 1/(2β))² for any β'.
    torch.manual_seed(0)
    gap = torch.randn(5, dtype=F64)
    arguments, zero = pair(gap, count=5), torch.zeros(5, dtype=F64)
    scores = {"chosen_scores": zero + 0.7 / (2 * 0.2), "rejected_scores": zero}
    regression = una_centred_pairwise(**arguments, **scores, beta=0.7)
    torch.testing.assert_close(ipo(**arguments, beta=0.2), regression / 0.7**2)


def test_una_centred_pairwise_is_squared_reward_gap_minus_score_gap():
    # β·(u_w − u_l) = 0.5·3, scores 2 and 1: (1.5 − 1)². Exchanging the two responses changes nothing.
    scores = {"chosen_scores": torch.tensor([2.0]), "rejected_scores": torch.tensor([1.0])}
    assert una_centred_pairwise(**pair(3), **scores, beta=0.5).item() == pytest.approx(0.25)
    exchanged = {
        name.replace("chosen", "*").replace("rejected", "chosen").replace("*", "rejected"): value
        for name, value in (pair(3) | scores).items()
    }
    assert una_centred_pairwise(**exchanged, beta=0.5).item() == pytest.approx(0.25)


@pytest.mark.parametrize("responses", [2, 3, 5])
def test_pairwise_gradient_is_k_minus_1_times_leave_one_out(responses):
    # Let d_i = r_θ(y_i) − s_i and d̄ their mean. The leave-one-out residual is e_i = K/(K − 1)·(d_i − d̄).
    # With V constant, Σ_i e_i² has the gradient 2K/(K − 1)·Σ_i (d_i − d̄)·∇r_θ(y_i).
    # Over pairs, Σ_{i<j} (d_i − d_j)² has the gradient 2·Σ_i ∇r_θ(y_i)·Σ_j (d_i − d_j) = 2K·Σ_i (d_i − d̄)·∇r_θ(y_i).
    # That is K − 1 times the other; for K = 2 they are equal.
    torch.manual_seed(responses)
    logps = torch.randn(responses, dtype=F64, requires_grad=True)
    ref, scores = torch.randn(2, responses, dtype=F64)
    singles = una_centred(logps=logps, ref_logps=ref, scores=scores, groups=torch.zeros(responses, dtype=int), beta=0.3)
    i, j = torch.tensor(list(itertools.combinations(range(responses), 2))).T
    pairs = una_centred_pairwise(
        chosen_logps=logps[i],
        rejected_logps=logps[j],
        ref_chosen_logps=ref[i],
        ref_rejected_logps=ref[j],
        chosen_scores=scores[i],
        rejected_scores=scores[j],
        beta=0.3,
    )
    (leave_one_out,) = torch.autograd.grad(singles.sum(), logps)
    (pairwise,) = torch.autograd.grad(pairs.sum(), logps)
    torch.testing.assert_close(pairwise, (responses - 1) * leave_one_out, rtol=0, atol=1e-14)


def test_cdpo_adds_label_smoothing_times_margin_to_dpo():
    # −log σ(−m) = −log σ(m) + m, so the loss is DPO's plus ε·m: 0.4741 + 0.2·0.5 at the margin m = 0.5.
    assert cdpo(**pair(5), beta=0.1, label_smoothing=0.2).item() == pytest.approx(math.log(1 + math.exp(-0.5)) + 0.1)
    torch.testing.assert_close(cdpo(**pair(5), label_smoothing=0.0), una_pair(**pair(5)), rtol=0, atol=0)
    # At a margin of 50, where 1 − σ(50) is 0 in float64, the loss is ε·50 (ES38).
    assert cdpo(**pair(500), beta=0.1, label_smoothing=0.2).item() == pytest.approx(10)
    with pytest.raises(ValueError, match="label_smoothing must be at least 0 and below 0.5, got 0.5"):
        cdpo(**pair(1), label_smoothing=0.5)


def test_simpo_compares_mean_log_probs_with_a_target_margin():
    # −12 nats on 6 tokens, −6 on 2, β = 2, γ = 1: rewards −4 and −6, a margin of 2, −log σ(2 − 1) = log(1 + 1/e).
    arguments = {"chosen_logps": -12.0, "rejected_logps": -6.0, "chosen_lengths": 6, "rejected_lengths": 2}
    one = {name: torch.tensor([value], dtype=F64) for name, value in arguments.items()}
    assert simpo(**one).item() == pytest.approx(math.log(1 + 1 / math.e), abs=1e-15)


def pair_of(chosen, rejected, ref_chosen, ref_rejected):
    """A pair with these probabilities."""
    probabilities = torch.tensor([[chosen], [rejected], [ref_chosen], [ref_rejected]], dtype=F64).log()
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return dict(zip(names, probabilities, strict=True))


def test_f_dpo_compares_divergence_slopes():
    # w = 2 and ½, β = ½. JS: log(4/3) − log(2/3) = log 2, −log σ(½·log 2) = log(1 + 2^−½). χ²: 2·1 − 2·(−½) = 3.
    arguments = pair_of(0.6, 0.2, 0.3, 0.4) | {"beta": 0.5}
    assert f_dpo(**arguments, divergence="js").item() == pytest.approx(math.log(1 + math.sqrt(0.5)))
    assert f_dpo(**arguments, divergence="chi2").item() == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert f_dpo(**arguments, divergence=DIVERGENCES["js"]) == f_dpo(**arguments, divergence="js")


def test_iupo_corrected_and_printed_values_by_hand():
    # π = (0.6, 0.2), π_ref = (0.3, 0.4), JS divergence, target 1/(2β) = 1 (EP7).
    # Corrected: f′(2) − f′(½) = log 2 = 0.6931. Printed: f′(3) − f′(¾) = log(3/2) − log(6/7) = log(7/4) = 0.5596.
    arguments = pair_of(0.6, 0.2, 0.3, 0.4) | {"beta": 0.5}
    assert iupo(**arguments).item() == pytest.approx((math.log(2) - 1) ** 2)
    assert iupo_printed(**arguments).item() == pytest.approx((math.log(7 / 4) - 1) ** 2)
    assert math.log(7 / 4) == pytest.approx(0.5596, abs=5e-5)


def test_printed_iupo_has_a_positive_lower_bound():
    # With uniform π_ref and β = 0.1 the loss falls towards (5 − log 2)² as log π_w/π_l grows (EP8).
    # At log π_w/π_l = 1 the loss of IPO is 16 (EP9).
    gaps = torch.tensor([0.0, 1, 5, 50], dtype=F64)
    zero = torch.zeros(4, dtype=F64)
    arguments = {"rejected_logps": zero, "ref_chosen_logps": zero, "ref_rejected_logps": zero, "beta": 0.1}
    printed = iupo_printed(chosen_logps=gaps, **arguments)
    assert printed.tolist() == pytest.approx([25, 21.35, 18.61, 18.549], abs=5e-3)
    assert printed[3].item() == pytest.approx((5 - math.log(2)) ** 2)
    assert ipo(chosen_logps=gaps, **arguments)[1].item() == pytest.approx(16)
    # ρ = π_ref(y_w)/π_ref(y_l) = 4: (5 − log 1.25)² = 22.818.
    far = iupo_printed(**pair_of(1 - 1e-9, 1e-9, 0.8, 0.2), beta=0.1)
    assert far.item() == pytest.approx((5 - math.log(5 / 4)) ** 2) and far.item() == pytest.approx(22.818, abs=5e-4)


@pytest.mark.parametrize(
    ("general", "special"), [(f_dpo, una_pair), (iupo, ipo), (iupo_printed, ipo)], ids=["f-dpo", "iupo", "iupo.printed"]
)
def test_reverse_kl_reduces_f_dpo_to_dpo_and_iupo_to_ipo(general, special, random_arguments):
    # UPO Sec. 2.4 and Proposition 4.1. The printed form rounds differently: it orders the differences another way.
    arguments = random_arguments(special)
    atol = 1e-13 if general is iupo_printed else 0
    torch.testing.assert_close(general(**arguments, divergence="reverse_kl"), special(**arguments), rtol=0, atol=atol)
    assert (general(**arguments, divergence="js") - special(**arguments)).abs().min() > 1e-4


def test_printed_and_corrected_iupo_differ_unless_reverse_kl(random_arguments):
    arguments = random_arguments(iupo)
    for divergence in set(DIVERGENCES) - {"reverse_kl", "tv"}:  # for tv both forms are 0, ½ or 1 and may agree
        forms = iupo(**arguments, divergence=divergence), iupo_printed(**arguments, divergence=divergence)
        assert (forms[0] - forms[1]).abs().max() > 0.1, divergence


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("loss", [f_dpo, iupo, iupo_printed])
def test_divergence_loss_gradient_is_the_derivative_of_its_value(loss, divergence, random_arguments):
    arguments = random_arguments(loss) | {"divergence": divergence, "alpha": 0.3}
    values = [arguments.pop(name).requires_grad_() for name in list(arguments) if name.endswith("logps")]
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")

    def of_values(*tensors):
        return loss(**dict(zip(names, tensors, strict=True)), **arguments)

    assert torch.autograd.gradcheck(of_values, tuple(values))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("loss", [f_dpo, iupo, iupo_printed])
def test_divergence_losses_are_finite_at_extreme_log_probs(loss, divergence, dtype):
    # All four corners: f′ of either response may be flat or unbounded.
    corners = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=dtype) * 1e4
    chosen, rejected = (corners[:, i].clone().requires_grad_() for i in (0, 1))
    for ref in (-corners, torch.zeros_like(corners)):
        values = loss(
            chosen_logps=chosen,
            rejected_logps=rejected,
            ref_chosen_logps=ref[:, 0],
            ref_rejected_logps=ref[:, 1],
            divergence=divergence,
        )
        gradients = torch.autograd.grad(values.sum(), (chosen, rejected))
        assert values.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
