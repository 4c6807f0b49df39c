"""Losses on pairs, by hand; and the pairwise form of centred UNA against the leave-one-out form."""

import itertools
import math

import pytest
import torch

from una_ref.methods.pairs import ipo, ipo_printed, una_centred_pairwise, una_pair, una_pair_printed
from una_ref.methods.singles import una_centred

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


def test_una_pair_by_hand():
    # EU7, EU8: margin .5: −log σ(.5) = .4741; at margin 0 log 2; the missing σ would give −log .5 = .6931.
    assert una_pair(**pair(5), beta=0.1).item() == pytest.approx(math.log(1 + math.exp(-0.5)), abs=1e-15)
    assert una_pair(**pair(5), beta=0.1).item() == pytest.approx(0.4741, abs=5e-5)
    assert una_pair(**pair(0), beta=0.1).item() == pytest.approx(math.log(2), abs=1e-15)
    assert una_pair(**pair(-10), beta=0.1).item() == pytest.approx(math.log(1 + math.e), abs=1e-15)


def test_una_pair_as_printed_has_no_least():
    # EU7: a margin of 1000 costs −1000, and each pair pulls with the same force however right it already is.
    assert una_pair_printed(**pair(1e4), beta=0.1).item() == pytest.approx(-1000)
    arguments = pair(1e4, count=2)
    logps = arguments["chosen_logps"].requires_grad_()
    assert torch.autograd.grad(una_pair_printed(**arguments, beta=0.1).sum(), logps)[0].tolist() == [
        -0.1,
        -0.1,
    ]
    assert torch.autograd.grad(una_pair(**arguments, beta=0.1).sum(), logps)[0].abs().max() < 1e-300


def test_ipo_by_hand():
    # ES9: h = 2, β = .1: (2 − 5)² = 9, printed −9. The least is at h = 1/(2β).
    assert ipo(**pair(2), beta=0.1).item() == pytest.approx(9)
    assert ipo_printed(**pair(2), beta=0.1).item() == pytest.approx(-9)
    assert ipo(**pair(5), beta=0.1).item() == 0
    assert ipo(**pair(6), beta=0.1).item() == pytest.approx(1)


def test_ipo_is_the_pairwise_regression_of_a_constant():
    # (β'h − Δs)²/β'² with Δs = β'/(2β) is (h − 1/(2β))², whatever β'.
    torch.manual_seed(0)
    gap = torch.randn(5, dtype=F64)
    arguments, zero = pair(gap, count=5), torch.zeros(5, dtype=F64)
    scores = {"chosen_scores": zero + 0.7 / (2 * 0.2), "rejected_scores": zero}
    regression = una_centred_pairwise(**arguments, **scores, beta=0.7)
    torch.testing.assert_close(ipo(**arguments, beta=0.2), regression / 0.7**2)


def test_una_centred_pairwise_by_hand():
    # β·(u_w − u_l) = .5·3, scores 2 and 1: (1.5 − 1)². Exchanging the two responses changes nothing.
    scores = {"chosen_scores": torch.tensor([2.0]), "rejected_scores": torch.tensor([1.0])}
    assert una_centred_pairwise(**pair(3), **scores, beta=0.5).item() == pytest.approx(0.25)
    exchanged = {
        name.replace("chosen", "*").replace("rejected", "chosen").replace("*", "rejected"): value
        for name, value in (pair(3) | scores).items()
    }
    assert una_centred_pairwise(**exchanged, beta=0.5).item() == pytest.approx(0.25)


@pytest.mark.parametrize("responses", [2, 3, 5])
def test_pairwise_and_leave_one_out_have_one_gradient(responses):
    # With d_i = r_θ(y_i) − s_i and d̄ their mean, the leave-one-out residual is e_i = K/(K − 1)·(d_i − d̄),
    # so Σ_i e_i² with V held has the gradient 2K/(K − 1)·Σ_i (d_i − d̄)·∇r_θ(y_i). That of the pairs' sum,
    # Σ_{i<j} (d_i − d_j)², is 2·Σ_i ∇r_θ(y_i)·Σ_j (d_i − d_j) = 2K·Σ_i (d_i − d̄)·∇r_θ(y_i): K − 1 times the
    # other, the same for K = 2.
    torch.manual_seed(responses)
    logps = torch.randn(responses, dtype=F64, requires_grad=True)
    ref, scores = torch.randn(2, responses, dtype=F64)
    singles = una_centred(
        logps=logps, ref_logps=ref, scores=scores, groups=torch.zeros(responses, dtype=int), beta=0.3
    )
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
