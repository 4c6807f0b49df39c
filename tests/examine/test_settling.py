"""Where training ends: the minimum of `theory`, a root of the expected gradient, or nowhere."""

import math

import pytest
import torch

from una_ref.examine.enumeration import Enumeration, at_examined_beta, standard_setting
from una_ref.examine.settling import _flow, best_values, expected_gradient, learns_values, settled
from una_ref.examine.signature import examinee
from una_ref.theory import una_end


def enumerated(name, sampler="other", feedback=None):
    world, other, known = standard_setting()
    who = {"other": other, "reference": world.ref_logps, "policy": None}[sampler]
    return Enumeration(at_examined_beta(examinee(name)), world, feedback or known, who)


def test_una_score_ends_at_its_closed_form():
    world, other, _ = standard_setting()
    expected = una_end(world.ref_logps, world.rewards, world.beta, sampler_logps=other)
    torch.testing.assert_close(settled(enumerated("una-score")).logps.exp(), expected.exp(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["una-online", "reinforce", "rloo"])
def test_a_policy_gradient_ends_at_the_optimum_though_it_is_no_derivative_of_its_value(name):
    world, _, _ = standard_setting()
    end = settled(enumerated(name, "policy"))
    assert end.settles
    torch.testing.assert_close(end.logps.exp(), world.optimum.exp(), rtol=0, atol=1e-9)


def test_the_expected_gradient_of_reinforce_on_policy_is_that_of_the_objective():
    world, _, _ = standard_setting()
    logits = torch.randn(world.rewards.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = expected_gradient(enumerated("reinforce", "policy"))(logits)
    leaf = logits.clone().requires_grad_()
    logps = leaf.log_softmax(-1)
    objective = (logps.exp() * (world.rewards - world.beta * (logps - world.ref_logps))).sum(-1).mean()
    torch.testing.assert_close(ours, -torch.autograd.grad(objective, leaf)[0], rtol=0, atol=1e-14)


def test_a_margin_that_grows_for_ever_runs_off_however_small_its_gradient():
    _, _, feedback = standard_setting()
    end = settled(enumerated("dpo", feedback=feedback.certain()))
    assert end.outcome == "runs off" and end.largest > 20


@pytest.mark.parametrize(("sign", "outcome"), [(1.0, "settles"), (-1.0, "unsettled")])
def test_a_point_without_gradient_is_an_end_only_where_the_loss_rises_around_it(sign, outcome):
    at = torch.tensor([[0.01, -0.01, 0.0]], dtype=torch.float64)

    def field(logits):  # of ±½·‖logits − at‖², up to a number for the prompt
        return sign * (logits - logits.mean(-1, keepdim=True) - at)

    assert _flow(field, torch.zeros_like(at), coupled=False).outcome == outcome


def test_a_plateau_is_no_run_off():
    def capped(*, chosen_logps, rejected_logps):
        return -(chosen_logps - rejected_logps).clamp(max=2)

    world, other, feedback = standard_setting()
    end = settled(Enumeration(examinee(capped), world, feedback.certain(), other))
    assert end.outcome == "flat" and end.largest < 40


def test_a_descent_around_a_kink_does_not_run_off(own):
    world, other, feedback = standard_setting()
    subject = at_examined_beta(examinee(own.tightly_clamped_dpo))
    end = settled(Enumeration(subject, world, feedback.certain(), other))
    assert end.outcome == "unsettled"


def test_a_finite_end_far_away_settles():
    world, other, feedback = standard_setting()
    end = settled(Enumeration(examinee("rebel"), world, feedback, other))  # η = 10: log-ratios of 30 nats
    assert end.settles and end.largest > 25


def test_best_values_of_a_squared_loss_are_the_mean_residual_and_move_with_the_policy():
    world, other, _ = standard_setting()
    logps = torch.randn(world.rewards.shape, dtype=torch.float64).log_softmax(-1).requires_grad_()
    residual = world.rewards - world.beta * (logps - world.ref_logps)
    expected = (other.exp() * residual).sum(-1)
    values = best_values(enumerated("dro"), logps)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(v.square().sum(), logps, retain_graph=True)[0] for v in (values, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_only_a_loss_that_is_curved_in_its_baseline_learns_it():
    assert learns_values(examinee("dro")) and not learns_values(examinee("una-score"))

    def score_function(*, logps, scores, baseline):
        return -(scores - baseline).detach() * logps

    assert not learns_values(examinee(score_function))
    assert math.isclose(float(best_values(enumerated(score_function), standard_setting()[0].ref_logps).sum()), 0.0)
