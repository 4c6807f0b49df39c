"""SLiC, ORPO and CPO by hand, against SimPO and against TRL's functions."""

import math
from types import SimpleNamespace

import pytest
import torch

from una_ref.methods.gpo import gpo
from una_ref.methods.pairs import simpo, una_pair
from una_ref.methods.rewards import mean_log_odds
from una_ref.methods.singles import sft
from una_ref.methods.without_reference import cpo, cpo_printed, orpo, orpo_printed, slic

F64 = torch.float64


def logps(chosen, rejected):
    """One pair with these log-probabilities, or one for each entry."""
    values = {"chosen_logps": chosen, "rejected_logps": rejected}
    return {name: torch.as_tensor(value, dtype=F64).reshape(-1) for name, value in values.items()}


def lengths(chosen, rejected):
    return {"chosen_lengths": torch.tensor([chosen]), "rejected_lengths": torch.tensor([rejected])}


def test_slic_is_a_hinge_at_delta_plus_imitation():
    # log π = −3 and −3.5, a margin of 0.5: max(0, 1 − 0.5) + 0.5·3 = 2. At δ = 0.2 the hinge is 0.
    assert slic(**logps(-3.0, -3.5), delta=1.0, lam=0.5).item() == pytest.approx(2)
    assert slic(**logps(-3.0, -3.5), delta=0.2, lam=0.5).item() == pytest.approx(1.5)
    assert slic(**logps(-3.5, -3.0), delta=1.0, lam=0.0).item() == pytest.approx(1.5)


def test_slic_without_imitation_is_hinge_gpo_with_a_uniform_reference():
    pairs, zero = logps([-3, -1, -2], [-3.5, -4, -1]), torch.zeros(3, dtype=F64)
    expected = gpo(**pairs, ref_chosen_logps=zero, ref_rejected_logps=zero, beta=1.0, function="hinge")
    torch.testing.assert_close(slic(**pairs, delta=1.0, lam=0.0), expected, rtol=0, atol=1e-15)


def test_orpo_takes_the_logarithm_of_the_odds_ratio():
    # P = 0.3 and 0.2: odds ratio (3/7)/(1/4) = 12/7. −log σ(log OR) = log(1 + 7/12) = 0.45953. Printed: −log σ(12/7).
    # P = 0.001 and 0.999: OR = 1/999², log(1 + 999²) = 13.81; printed at most log 2, without a slope (ES20).
    near, far = logps(math.log(0.3), math.log(0.2)), logps(math.log(0.001), math.log(0.999))
    term = lambda loss, pair: (loss(**pair, **lengths(1, 1), lam=1.0) + pair["chosen_logps"]).item()  # noqa: E731
    assert term(orpo, near) == pytest.approx(math.log(1 + 7 / 12), abs=1e-14)
    assert term(orpo_printed, near) == pytest.approx(math.log(1 + math.exp(-12 / 7)), abs=1e-14)
    assert (term(orpo, near), term(orpo_printed, near)) == pytest.approx((0.45953, 0.16559), abs=5e-6)
    assert (term(orpo, far), term(orpo_printed, far)) == pytest.approx((math.log(1 + 999**2), 0.69315), abs=5e-6)


def test_printed_orpo_hardly_moves_a_pair_in_the_wrong_order():
    # P = 0.01·0.5/0.995 against ½: OR = 0.01. d/d log OR of −log σ(OR) is −OR·σ(−OR) = −0.005; of −log σ(log OR) −0.99.
    odds = torch.tensor([0.01, 1.0], dtype=F64)
    for loss, slope in ((orpo, -1 / 1.01), (orpo_printed, -0.01 / (1 + math.exp(0.01)))):
        pair = logps(*(odds / (1 + odds)).log())
        inputs = pair["chosen_logps"].requires_grad_()
        (gradient,) = torch.autograd.grad(loss(**pair, **lengths(1, 1), lam=1.0).sum(), inputs)
        # d log odds/d log P = 1/(1 − P) = 1 + odds; imitation has the slope −1.
        assert ((gradient + 1) / 1.01).item() == pytest.approx(slope, abs=1e-12)


def test_orpo_probability_is_a_mean_over_tokens():
    # −6 nats on 3 tokens is P = e^−2, −2 on 2 tokens P = e^−1: log odds −2 − log(1 − e^−2) and −1 − log(1 − e^−1).
    ratio = -2 - math.log(1 - math.exp(-2)) + 1 + math.log(1 - math.exp(-1))
    value = orpo(**logps(-6.0, -2.0), **lengths(3, 2), lam=0.5).item()
    assert value == pytest.approx(2 + 0.5 * math.log(1 + math.exp(-ratio)), abs=1e-14)


def test_orpo_without_its_odds_ratio_is_sft_by_tokens():
    pair = logps(-6.0, -2.0)
    assert orpo(**pair, **lengths(3, 2), lam=0.0) == sft(logps=pair["chosen_logps"]) / 3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_log_odds_keep_their_digits_near_certainty_and_are_finite_at_it(dtype):
    # P = 1 − 1e−4: log odds = log(9999). In float32 log(1 − e^x) written plainly is off by 1e−3.
    value = mean_log_odds(torch.tensor([math.log1p(-1e-4)], dtype=dtype), torch.tensor([1]))
    assert value.item() == pytest.approx(math.log(9999), rel=1e-5)
    ends = torch.tensor([0.0, -1e4], dtype=dtype, requires_grad=True)
    odds = mean_log_odds(ends, torch.ones(2, dtype=torch.int64))
    assert odds[1].item() == pytest.approx(-1e4) and odds[0].item() == pytest.approx(-math.log(torch.finfo(dtype).eps))
    assert all(x.isfinite().all() for x in (odds, *torch.autograd.grad(odds.sum(), ends)))


def test_cpo_imitates_the_chosen_response_and_its_printed_form_unlearns_it():
    # log π = −1 and −9, β = 0.1: log(1 + e^−0.8) + 1 = 1.3711; printed 0.3711 − 1. At −30: 32.2 and −27.8 (ES31).
    near, far = logps(-1.0, -9.0), logps(-30.0, -9.0)
    assert cpo(**near).item() == pytest.approx(math.log(1 + math.exp(-0.8)) + 1, abs=1e-14)
    assert (cpo(**near).item(), cpo_printed(**near).item()) == pytest.approx((1.3711, -0.6289), abs=5e-5)
    assert (cpo(**far).item(), cpo_printed(**far).item()) == pytest.approx((32.2, -27.8), abs=0.05)


def test_preference_part_of_cpo_is_simpo_without_margin_and_dpo_with_a_uniform_reference(random_arguments):
    arguments = random_arguments(cpo)
    ones = torch.ones(6, dtype=torch.int64)
    of_simpo = simpo(**arguments, chosen_lengths=ones, rejected_lengths=ones, gamma=0.0)
    zero = torch.zeros(6, dtype=F64)
    of_dpo = una_pair(**arguments, ref_chosen_logps=zero, ref_rejected_logps=zero)
    torch.testing.assert_close(cpo(**arguments, lam=0.0), of_simpo, rtol=0, atol=1e-15)
    torch.testing.assert_close(cpo(**arguments, lam=0.0), of_dpo, rtol=0, atol=1e-15)


def test_odds_ratio_term_matches_trl():
    trainer = pytest.importorskip("trl.experimental.orpo").ORPOTrainer
    pair = logps([-0.2, -3, -1e-3], [-2, -0.4, -4])
    self = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    theirs = -trainer.odds_ratio_loss(self, pair["chosen_logps"], pair["rejected_logps"])[0]
    ones = torch.ones(3, dtype=torch.int64)
    ours = orpo(**pair, chosen_lengths=ones, rejected_lengths=ones, lam=0.3) + pair["chosen_logps"]
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("loss_type", "loss"), [("sigmoid", cpo), ("hinge", slic)])
def test_preference_term_of_cpo_and_slic_matches_trl(loss_type, loss):
    trainer = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    pair = logps([-2, -30, -1], [-20, -4, -4])
    beta = 0.3 if loss is cpo else 1.0
    self = SimpleNamespace(
        alpha=0.0, beta=beta, label_smoothing=0, loss_type=loss_type, accelerator=SimpleNamespace(device="cpu")
    )
    theirs = trainer.cpo_loss(self, pair["chosen_logps"], pair["rejected_logps"])[0]
    ours = loss(**pair, lam=0.0, **({"beta": beta} if loss is cpo else {"delta": 1.0}))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [(slic, "delta"), (slic, "lam"), (orpo, "lam"), (orpo_printed, "lam"), (cpo, "lam"), (cpo_printed, "lam")],
)
def test_negative_weights_are_refused_by_name(loss, wrong, random_arguments):
    with pytest.raises(ValueError, match=f"{wrong} must be at least 0, got -1"):
        loss(**random_arguments(loss), **{wrong: -1})
