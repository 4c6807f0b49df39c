"""Losses on single responses, by hand."""

import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.rewards import leave_one_out
from una_ref.methods.singles import (
    dro,
    dro_labels,
    dro_printed,
    kto,
    sft,
    una_binary_bce,
    una_binary_bce_printed,
    una_binary_mse,
    una_binary_mse_printed,
    una_centred,
    una_centred_labels,
    una_score,
    una_score_printed,
    una_score_released,
)

F64 = torch.float64


def rewarded(*rewards, beta=0.5):
    """Responses with these implicit rewards: log π = log π_ref + r/β with log π_ref = −3."""
    ref = torch.full((len(rewards),), -3.0, dtype=F64)
    return {"logps": ref + torch.tensor(rewards, dtype=F64) / beta, "ref_logps": ref, "beta": beta}


def numbers(*values):
    return torch.tensor(values, dtype=F64)


LOGIT_9, LOGIT_8, LOGIT_7, LOGIT_6 = (math.log(p / (1 - p)) for p in (0.9, 0.8, 0.7, 0.6))


def test_sft_is_the_negative_log_likelihood():
    assert sft(logps=numbers(-1.5, -4)).tolist() == [1.5, 4]


def test_una_binary_mse_and_bce_by_hand():
    # σ(r_θ) = (0.9, 0.8, 0.7, 0.6), y = (1, 1, 1, 0): squares (0.01, 0.04, 0.09, 0.36), mean 0.125 (EU9).
    arguments = rewarded(LOGIT_9, LOGIT_8, LOGIT_7, LOGIT_6) | {"labels": numbers(1, 1, 1, 0)}
    mse, bce = una_binary_mse(**arguments), una_binary_bce(**arguments)
    assert mse.tolist() == pytest.approx([0.01, 0.04, 0.09, 0.36])
    assert mse.mean().item() == pytest.approx(0.125)
    assert bce.tolist() == pytest.approx([-math.log(p) for p in (0.9, 0.8, 0.7, 0.4)])
    # The printed form is −g². The mean of the squared squares is 0.03485.
    assert una_binary_mse_printed(**arguments).mean().item() == pytest.approx(-0.03485)
    torch.testing.assert_close(una_binary_bce_printed(**arguments), -(bce**2))


def test_una_binary_baseline_is_added_to_the_implicit_reward():
    with_baseline = rewarded(LOGIT_9 - 2, LOGIT_8 - 1) | {"labels": numbers(1, 0)}
    for loss in (una_binary_mse, una_binary_bce):
        expected = loss(**rewarded(LOGIT_9, LOGIT_8), labels=numbers(1, 0))
        torch.testing.assert_close(loss(**with_baseline, baseline=numbers(2, 1)), expected)


def test_una_centred_labels_have_the_loss_of_the_corrected_reward_by_hand():
    # r_θ + V(x) = logit 0.9 and logit 0.8, labels 1 and 0: −log 0.9 and −log 0.2.
    arguments = rewarded(LOGIT_9 - 2, LOGIT_8 - 1) | {"labels": numbers(1, 0), "baseline": numbers(2, 1)}
    assert una_centred_labels(**arguments).tolist() == pytest.approx([-math.log(0.9), -math.log(0.2)])


def test_una_score_corrected_and_printed_by_hand():
    # r_θ = 0.2, s = 0.9: (0.2 − 0.9)² = 0.49, printed −0.49 (EU12). The corrected slope in r_θ is 2·(0.2 − 0.9) = −1.4.
    arguments = rewarded(0.2, beta=1.0) | {"scores": numbers(0.9)}
    arguments["logps"].requires_grad_()
    assert una_score(**arguments).item() == pytest.approx(0.49)
    assert una_score_printed(**arguments).item() == pytest.approx(-0.49)
    for loss, slope in ((una_score, -1.4), (una_score_printed, 1.4)):
        assert torch.autograd.grad(loss(**arguments), arguments["logps"])[0].item() == pytest.approx(slope)
    assert una_score(**arguments, baseline=numbers(0.5)).item() == pytest.approx(0.04)
    assert una_score(**arguments, baseline=0.5).item() == pytest.approx(0.04)


def test_released_una_score_compares_sigmoid_with_score():
    # (σ(r_θ) − s)² with σ(r_θ) = 0.9 and ½, s = 0.7: both 0.04 (EU11).
    arguments = rewarded(LOGIT_9, 0) | {"scores": numbers(0.7, 0.7)}
    assert una_score_released(**arguments).tolist() == pytest.approx([0.04, 0.04])


def test_released_una_score_baseline_is_added_to_the_implicit_reward():
    with_baseline = rewarded(LOGIT_9 - 2, LOGIT_8 - 1) | {"scores": numbers(0.7, 0.6)}
    expected = [(0.9 - 0.7) ** 2, (0.8 - 0.6) ** 2]
    assert una_score_released(**with_baseline, baseline=numbers(2, 1)).tolist() == pytest.approx(expected)


def test_una_centred_uses_leave_one_out_baselines():
    # r_θ = (1, 0, 2, 5) in groups (0, 0, 1, 1), scores (3, 1, 1, 1): s − r_θ = (2, 1, −1, −4).
    # Each response's V is that of the other in its group: residuals 1 + 1 − 3, 0 + 2 − 1, 2 − 4 − 1, 5 − 1 − 1.
    arguments = rewarded(1, 0, 2, 5) | {"scores": numbers(3, 1, 1, 1)}
    assert una_centred(**arguments, groups=torch.tensor([0, 0, 1, 1])).tolist() == pytest.approx([1, 1, 9, 9])
    given = una_centred(**arguments, baseline=numbers(1, 1, 0, 0))
    assert given.tolist() == pytest.approx([1, 0, 1, 16])
    torch.testing.assert_close(given, una_score(**arguments, baseline=numbers(1, 1, 0, 0)))


def test_una_centred_gradient_skips_the_leave_one_out_baseline(random_arguments):
    arguments = random_arguments(una_centred)
    logps = arguments["logps"].requires_grad_()
    reward = arguments["beta"] * (logps - arguments["ref_logps"])
    baseline = leave_one_out(arguments["scores"] - reward, arguments["groups"])
    (leave_one_out_gradient,) = torch.autograd.grad(una_centred(**arguments).sum(), logps)
    (given,) = torch.autograd.grad(una_centred(**arguments, baseline=baseline).sum(), logps)
    torch.testing.assert_close(leave_one_out_gradient, given, rtol=0, atol=0)


def test_una_centred_gradient_reaches_a_learned_baseline():
    arguments = rewarded(1, 0) | {"scores": numbers(3, 1)}
    baseline = numbers(0, 0).requires_grad_()
    una_centred(**arguments, baseline=baseline).sum().backward()
    assert baseline.grad.tolist() == pytest.approx([2 * (1 - 3), 2 * (0 - 1)])


def test_una_centred_without_baseline_or_second_response_is_refused():
    arguments = rewarded(1, 0) | {"scores": numbers(3, 1)}
    with pytest.raises(ValueError, match="needs `baseline`"):
        una_centred(**arguments)
    with pytest.raises(ValueError, match="2 of 2 groups have one: give `baseline`, or K >= 2"):
        una_centred(**arguments, groups=torch.tensor([0, 1]))


def test_dro_corrected_and_printed_by_hand():
    # β = 0.1, u = 1, s = 1, V = 0.2: ½·(1 − 0.2 − 0.1)² = 0.245; slope −0.07 in log π and −0.7 in V (Eq. 39).
    # As printed, Eq. 38 has the slope −[(s − V) − β·u] = −0.7 in log π (ES18).
    arguments = rewarded(0.1, beta=0.1) | {"scores": numbers(1), "baseline": numbers(0.2)}
    logps, baseline = arguments["logps"].requires_grad_(), arguments["baseline"].requires_grad_()
    assert dro(**arguments).item() == pytest.approx(0.245)
    slopes = torch.autograd.grad(dro(**arguments), (logps, baseline))
    assert [slope.item() for slope in slopes] == pytest.approx([-0.07, -0.7])
    assert torch.autograd.grad(dro_printed(**arguments), logps)[0].item() == pytest.approx(-0.7)
    torch.testing.assert_close(2 * dro(**arguments), una_centred(**arguments))


def test_dro_binary_labels_are_rewards_of_plus_and_minus_one():
    arguments = rewarded(0.3, 0.3, -0.2) | {"baseline": 0.1}
    scores = dro(**arguments, scores=numbers(1, -1, 0))
    torch.testing.assert_close(dro_labels(**arguments, labels=numbers(1, 0, 0.5)), scores)
    assert scores.tolist() == pytest.approx([0.6**2 / 2, 1.4**2 / 2, 0.1**2 / 2])
    assert METHODS["dro"].losses["labels"] is dro_labels


def test_dro_has_other_minimisers_if_a_response_is_never_sampled():
    # π_ref = ⅓ each, s = (1, 0, −1), β = 1, and the third response is never sampled (ES19).
    # On the first two, both π = (0.5, 0.1839, 0.3161) with V = 0.5945 and π* = (0.6652, 0.2447, 0.0900) with
    # V = log Z = 0.3089 have loss 0.
    ref, scores = torch.full((3,), 1 / 3, dtype=F64).log(), numbers(1, 0, -1)
    other, best = numbers(0.5, 0.5 / math.e, 0.5 - 0.5 / math.e), (ref + scores).softmax(-1)
    assert other.tolist() == pytest.approx([0.5, 0.1839, 0.3161], abs=5e-5)
    assert best.tolist() == pytest.approx([0.6652, 0.2447, 0.0900], abs=5e-5)
    for policy, value in ((other, 1 - math.log(1.5)), (best, (ref + scores).logsumexp(-1))):
        losses = dro(logps=policy.log(), ref_logps=ref, scores=scores, baseline=float(value), beta=1.0)
        assert losses[:2].max() < 1e-30
        assert (losses[2] > 0.5) == (policy is other)


def test_kto_weights_desirable_and_undesirable_responses():
    # β·kl = 0.5·2 = 1. Label 1 with r_θ = 1 + logit 0.9: λ_D·(1 − 0.9). Label 0 with r_θ = 1 + logit 0.8: λ_U·0.8.
    arguments = rewarded(1 + LOGIT_9, 1 + LOGIT_8) | {"labels": torch.tensor([True, False])}
    weights = {"desirable_weight": 2.0, "undesirable_weight": 3.0}
    assert kto(**arguments, kl=2.0).tolist() == pytest.approx([0.1, 0.8])
    assert kto(**arguments, kl=2.0, **weights).tolist() == pytest.approx([0.2, 2.4])
    for kl in (torch.tensor(2.0), torch.tensor([2.0, 2.0])):
        torch.testing.assert_close(kto(**arguments, kl=kl), kto(**arguments, kl=2.0))


@pytest.mark.parametrize("loss", [una_binary_mse, una_binary_bce, dro_labels, kto])
def test_bool_labels_equal_float_labels(loss, random_arguments):
    arguments = random_arguments(loss)
    labels = arguments["labels"] > 0.5
    as_numbers = loss(**arguments | {"labels": labels.to(F64)})
    torch.testing.assert_close(loss(**arguments | {"labels": labels}), as_numbers, rtol=0, atol=0)
    assert any(loss in method.losses.values() for method in METHODS.values())
