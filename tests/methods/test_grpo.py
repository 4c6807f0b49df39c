"""GRPO and its relatives: values by hand, reductions, and the exact expected gradient on a table world."""

import itertools
import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.grpo import CHOICES, group_advantages, grpo, k3, soft_gate, straight_exp
from una_ref.theory import TableWorld, objective, optimal_logps

F64 = torch.float64
PLAIN = {"scale_rewards": "none", "variant": "dr_grpo", "kl_estimate": "none"}
"""No scaling, no division by lengths, no KL."""


def rollout(logps, ratios=1.0, ref=None, scores=(1.0, 0.0), mask=None, dtype=F64):
    """Responses of one prompt, with a probability ratio for each token."""
    logps = torch.as_tensor(logps, dtype=dtype)
    mask = torch.ones_like(logps, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return {
        "token_logps": logps.requires_grad_(),
        "old_token_logps": (logps - torch.as_tensor(ratios, dtype=dtype).log()).detach(),
        "ref_token_logps": (logps if ref is None else torch.as_tensor(ref, dtype=dtype)).detach(),
        "mask": mask,
        "scores": torch.tensor(scores, dtype=dtype),
        "groups": torch.zeros(len(logps), dtype=torch.int64),
        "mean_length": mask.sum(1).to(dtype).mean(),
    }


def expected_gradient(logps, a_world, k, **kwargs):
    """The exact gradient in the logits of one prompt's policy: every group of k fresh one-token responses."""
    logits = logps.clone().requires_grad_()
    policy = logits.log_softmax(-1)
    drawn = torch.tensor(list(itertools.product(range(len(logps)), repeat=k)))
    weights = policy.detach()[drawn].sum(1).exp()
    flat = drawn.flatten()
    losses = grpo(
        token_logps=policy[flat][:, None],
        old_token_logps=policy.detach()[flat][:, None],
        ref_token_logps=a_world.ref_logps[0, flat][:, None],
        mask=torch.ones(len(flat), 1, dtype=torch.bool),
        scores=a_world.rewards[0, flat],
        groups=torch.arange(len(drawn)).repeat_interleave(k),
        mean_length=torch.ones((), dtype=F64),
        score_sd=torch.ones((), dtype=F64),
        **kwargs,
    )
    return torch.autograd.grad((losses.view(-1, k).mean(1) * weights).sum(), logits)[0]


def world(rewards=None, beta=0.4):
    torch.manual_seed(0)
    ref = torch.randn(1, 4, dtype=F64).log_softmax(-1)
    rewards = torch.randn(1, 4, dtype=F64) if rewards is None else torch.tensor([rewards], dtype=F64)
    return TableWorld(ref, rewards, beta)


def test_advantage_is_the_score_minus_the_mean_of_its_prompt():
    # Prompt 7: scores 3, 0, 0 with mean 1 and sample deviation √3. Prompt 2: 5 and 1 with mean 3 and deviation √8.
    scores, groups = torch.tensor([3.0, 5.0, 0.0, 0.0, 1.0], dtype=F64), torch.tensor([7, 2, 7, 7, 2])
    centred = torch.tensor([2.0, 2.0, -1.0, -1.0, -2.0], dtype=F64)
    assert group_advantages(scores, groups, "none").tolist() == centred.tolist()
    spread = torch.tensor([3.0, 8.0, 3.0, 3.0, 8.0], dtype=F64).sqrt()
    torch.testing.assert_close(group_advantages(scores, groups), centred / (spread + 1e-4), rtol=1e-14, atol=0)
    batch = group_advantages(scores, groups, "batch", torch.tensor(2.0, dtype=F64))
    torch.testing.assert_close(batch, centred / 2.0001, rtol=1e-14, atol=0)


def test_equal_scores_and_a_single_response_have_no_advantage():
    scores = torch.tensor([2.0, 2.0, 7.0], requires_grad=True)
    advantages = group_advantages(scores, torch.tensor([0, 0, 1]))
    assert advantages.tolist() == [0.0, 0.0, 0.0]
    assert torch.autograd.grad(advantages.sum(), scores)[0].isfinite().all()


def test_clipped_surrogate_by_hand():
    # A = ±½. Ratio 2 with A > 0: −min(1, 1.4·½) = −0.7. Ratio 2 with A < 0: −min(−1, −0.7) = 1.
    losses = grpo(**rollout([[-1.0], [-1.0]], ratios=[[2.0], [2.0]]), **PLAIN, ratio_clip_high=0.4)
    assert losses.tolist() == pytest.approx([-0.7, 1.0], abs=1e-14)
    # Ratio ½ with A > 0: −min(¼, 0.8·½) = −0.25. Ratio ½ with A < 0: −min(−¼, −0.4) = 0.4.
    losses = grpo(**rollout([[-1.0], [-1.0]], ratios=[[0.5], [0.5]]), **PLAIN, ratio_clip=0.2)
    assert losses.tolist() == pytest.approx([-0.25, 0.4], abs=1e-14)


@pytest.mark.parametrize(
    ("variant", "first", "second"),
    [("grpo", 0.5, 0.5), ("dr_grpo", 0.375, 0.125), ("dapo", 0.75, 0.25), ("bnpo", 0.75, 0.25)],
)
def test_sum_over_tokens_is_divided_by_length_constant_or_mean_length(variant, first, second):
    # Lengths 3 and 1 with A = ±½ at ratio 1: the sums are −1.5 and 0.5. They are divided by 3 and 1, by length_scale,
    # and by the mean length 2.
    arguments = rollout([[-1.0] * 3] * 2, mask=[[True] * 3, [True, False, False]])
    losses = grpo(**arguments, **PLAIN | {"variant": variant, "length_scale": 4.0})
    assert losses.tolist() == pytest.approx([-first, second], abs=1e-14)


def test_sequence_ratio_is_the_geometric_mean_of_the_tokens():
    # Ratios 4 and 1: the geometric mean is 2, clipped at 1.8 for A = ½: −0.9 for each token, −1.8 for the response.
    # Token by token it is −0.9 − 0.5. A third token, outside the mask, does not count in the mean.
    mask = [[True, True, False]] * 2
    arguments = rollout([[-1.0] * 3] * 2, ratios=[[4.0, 1.0, 9.0], [1.0] * 3], mask=mask) | {"ratio_clip_high": 0.8}
    assert grpo(**arguments, **PLAIN, ratio="sequence")[0].item() == pytest.approx(-1.8, abs=1e-14)
    assert grpo(**arguments, **PLAIN)[0].item() == pytest.approx(-1.4, abs=1e-14)


def test_cispo_keeps_the_gradient_of_a_token_whose_ratio_is_clipped():
    # Ratio 2, A = ½: the gradient of the clipped surrogate is 0, that of cispo −(1 + 0.2)·½.
    for variant, expected in (("dr_grpo", 0.0), ("cispo", -0.6)):
        arguments = rollout([[-1.0], [-1.0]], ratios=[[2.0], [1.0]])
        losses = grpo(**arguments, **PLAIN | {"variant": variant})
        (gradient,) = torch.autograd.grad(losses[0], arguments["token_logps"])
        assert gradient[0].item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("variant", CHOICES["variant"])
@pytest.mark.parametrize("ratio", CHOICES["ratio"])
def test_gradient_at_ratio_one_is_minus_the_advantage(variant, ratio):
    # One token a response, A = ±½: all relatives are the policy gradient on fresh samples.
    arguments = rollout([[-1.0], [-2.0]])
    losses = grpo(**arguments, **PLAIN | {"variant": variant, "ratio": ratio})
    (gradient,) = torch.autograd.grad(losses.sum(), arguments["token_logps"])
    assert gradient.flatten().tolist() == pytest.approx([-0.5, 0.5], abs=1e-14)


def test_soft_gate_is_bounded_where_the_ratio_is_not():
    ratio = torch.tensor([1.0, 1e30], dtype=F64, requires_grad=True)
    gate = soft_gate(ratio, torch.tensor([1.0, -1.0]), 1.0, 1.05)
    assert gate.tolist() == pytest.approx([2.0, 4 / 1.05], abs=1e-12)
    assert torch.autograd.grad(gate.sum(), ratio)[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_gradient_is_k_minus_one_kth_of_rloo_at_ratio_one(k):
    # s − mean over K is (K − 1)/K times s − mean over the others.
    torch.manual_seed(k)
    logps, scores = -torch.rand(2 * k, 3, dtype=F64), torch.randn(2 * k, dtype=F64)
    groups = torch.arange(2).repeat_interleave(k)
    arguments = rollout(logps, scores=scores.tolist()) | {"groups": groups}
    (ours,) = torch.autograd.grad(grpo(**arguments, **PLAIN).sum(), arguments["token_logps"])
    summed = logps.detach().sum(1).requires_grad_()
    rloo = METHODS["rloo"].loss(  # with π = π_ref the KL term in its reward is 0
        logps=summed, ref_logps=summed.detach(), scores=scores, groups=groups, beta=0.1
    )
    (theirs,) = torch.autograd.grad(rloo.sum(), summed)
    torch.testing.assert_close(ours, ((k - 1) / k * theirs)[:, None].expand(-1, 3), rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [2, 3])
def test_expected_gradient_without_scaling_is_a_share_of_the_policy_gradient(k):
    a_world = world()
    logps = torch.randn(4, dtype=F64).log_softmax(-1)
    ours = expected_gradient(logps, a_world, k, **PLAIN)
    logits = logps.clone().requires_grad_()
    reward = (logits.softmax(-1) * a_world.rewards[0]).sum()
    (policy_gradient,) = torch.autograd.grad(reward, logits)
    torch.testing.assert_close(ours, -(k - 1) / k * policy_gradient, rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [2, 3])
def test_grpo_without_scaling_learns_the_optimum_at_a_larger_beta(k):
    # 0.3·∇KL(π ‖ π_ref) balances (K − 1)/K·∇E s: the optimum of β = 0.3·K/(K − 1).
    a_world = world(beta=0.3 * k / (k - 1))
    settings = PLAIN | {"beta": 0.3, "kl_estimate": "weighted"}
    assert expected_gradient(a_world.optimum[0], a_world, k, **settings).abs().max() < 1e-14
    assert expected_gradient(a_world.ref_logps[0], a_world, k, **settings).abs().max() > 0.01
    logits = torch.randn(4, dtype=F64).log_softmax(-1)
    j = objective(logits.requires_grad_().log_softmax(-1)[None], a_world.ref_logps, a_world.rewards, a_world.beta)
    (expected,) = torch.autograd.grad(j.sum(), logits)
    ours = expected_gradient(logits.detach(), a_world, k, **settings)
    torch.testing.assert_close(ours, -(k - 1) / k * expected, rtol=0, atol=1e-14)


def test_plain_kl_estimate_learns_the_optimum_of_the_other_divergence():
    # E_π (1 − π_ref/π)·∇log π = −Σ π_ref·∇log π = ∇KL(π_ref ‖ π): the penalty of the GRPO paper is not its KL.
    a_world = world(beta=0.6)
    settings = PLAIN | {"beta": 0.3, "kl_estimate": "plain"}
    forward = optimal_logps(a_world.ref_logps, a_world.rewards, 0.6, "forward_kl")[0]
    assert expected_gradient(forward, a_world, 2, **settings).abs().max() < 1e-12
    assert expected_gradient(a_world.optimum[0], a_world, 2, **settings).abs().max() > 0.01


def test_k3_has_the_mean_of_the_divergence():
    a_world = world()
    logps = torch.randn(4, dtype=F64).log_softmax(-1)
    divergence = (logps.exp() * (logps - a_world.ref_logps[0])).sum()
    mean = (logps.exp() * k3(logps, a_world.ref_logps[0])).sum()
    torch.testing.assert_close(mean, divergence, rtol=0, atol=1e-14)
    assert k3(logps, a_world.ref_logps[0]).min() >= 0


def test_division_by_the_deviation_of_two_makes_the_objective_the_win_rate():
    # Two scores have the deviation |s − s'|/√2, so the advantage is ±1/√2 whatever the difference. A reward of 100
    # counts no more than one of 3, and the gradient is that of P(s > s') − P(s < s') against the sampler, over √2.
    logps = torch.tensor([0.1, 0.5, 0.3, 0.1], dtype=F64).log()
    settings = PLAIN | {"scale_rewards": "group"}
    small, large = (expected_gradient(logps, world([0.0, 1.0, 2.0, top]), 2, **settings) for top in (3.0, 100.0))
    torch.testing.assert_close(small, large, rtol=0, atol=1e-4)
    order = torch.arange(4)
    sign = (order[:, None] > order).double() - (order[:, None] < order).double()
    logits = logps.clone().requires_grad_()
    wins = logits.softmax(-1) @ sign @ logps.exp()
    (expected,) = torch.autograd.grad(wins, logits)
    torch.testing.assert_close(small, -expected / math.sqrt(2), rtol=0, atol=1e-3)
    unscaled = [expected_gradient(logps, world([0.0, 1.0, 2.0, top]), 2, **PLAIN) for top in (3.0, 100.0)]
    assert (unscaled[0] - unscaled[1]).abs().max() > 1


def test_division_by_the_deviation_changes_the_optimum():
    a_world = world([0.0, 0.1, 0.2, 0.3], beta=0.6)
    settings = PLAIN | {"beta": 0.3, "kl_estimate": "weighted"}
    assert expected_gradient(a_world.optimum[0], a_world, 2, **settings).abs().max() < 1e-14
    scaled = settings | {"scale_rewards": "group"}
    assert expected_gradient(a_world.optimum[0], a_world, 2, **scaled).abs().max() > 0.01


@pytest.mark.parametrize(("variant", "alike"), [("dr_grpo", True), ("dapo", True), ("grpo", False)])
def test_division_by_the_length_favours_the_shorter_of_two_equally_good_responses(variant, alike):
    # "a" has one token, "b c" two, of which the second is certain; both score 1. "d" scores 0. π is uniform.
    logits = torch.zeros(3, dtype=F64, requires_grad=True)
    policy = logits.log_softmax(-1)
    drawn = torch.tensor(list(itertools.product(range(3), repeat=2))).flatten()
    zero = torch.zeros(len(drawn), dtype=F64)
    tokens = torch.stack([policy[drawn], zero], 1)
    mask = torch.stack([torch.ones(len(drawn), dtype=torch.bool), drawn == 1], 1)
    losses = grpo(
        token_logps=tokens,
        old_token_logps=tokens.detach(),
        ref_token_logps=tokens.detach(),
        mask=mask,
        scores=(drawn < 2).double(),
        groups=torch.arange(9).repeat_interleave(2),
        mean_length=mask.sum(1).double().mean(),
        **PLAIN | {"variant": variant},
    )
    (gradient,) = torch.autograd.grad(losses.mean(), logits)
    assert gradient[0] < 0  # both good responses are pushed up
    assert (abs(gradient[0] - gradient[1]) < 1e-14) == alike
    assert alike or gradient[0] < gradient[1]


@pytest.mark.parametrize("variant", CHOICES["variant"])
@pytest.mark.parametrize("ratio", CHOICES["ratio"])
def test_values_outside_the_mask_do_not_matter_even_if_not_finite(variant, ratio):
    mask = [[True, True, False], [True, False, False]]
    kwargs = PLAIN | {"variant": variant, "ratio": ratio, "beta": 0.5, "kl_estimate": "weighted"}
    results = []
    for filler in (0.0, float("nan"), float("inf")):
        arguments = rollout([[-1.0, -2.0, -3.0], [-1.5, -2.5, -3.5]], ratios=1.1, mask=mask)
        for name in ("token_logps", "old_token_logps", "ref_token_logps"):
            filled = arguments[name].detach().masked_fill(~torch.tensor(mask), filler)
            arguments[name] = filled.requires_grad_(name == "token_logps")
        losses = grpo(**arguments, **kwargs)
        (gradient,) = torch.autograd.grad(losses.sum(), arguments["token_logps"])
        assert torch.equal(gradient[~torch.tensor(mask)], torch.zeros(3, dtype=F64))
        results.append((losses.detach(), gradient))
    for losses, gradient in results[1:]:
        assert torch.equal(losses, results[0][0]) and torch.equal(gradient, results[0][1])


def test_exponential_is_continued_as_its_tangent():
    x = torch.tensor([0.0, 1.0, 1e4], dtype=torch.float32, requires_grad=True)
    value = straight_exp(x)
    torch.testing.assert_close(value[:2], x[:2].exp())
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and slope[2].item() == pytest.approx(math.exp(math.log(3.4028235e38) / 3), rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"variant": "vespo"}, "variant must be one of grpo, dr_grpo, dapo, bnpo, cispo, sapo, got 'vespo'"),
        ({"ratio": "word"}, "ratio must be one of token, sequence, got 'word'"),
        ({"scale_rewards": "true"}, "scale_rewards must be one of group, batch, none, got 'true'"),
        ({"kl_estimate": "k1"}, "kl_estimate must be one of weighted, plain, none, got 'k1'"),
        ({"ratio_clip": 1.5}, "ratio_clip must be at least 0 and at most 1, got 1.5"),
        ({"ratio_clip_high": -0.1}, "ratio_clip_high must be at least 0, got -0.1"),
        ({"beta": 0.0}, "beta must be positive, got 0.0"),
        ({"length_scale": 0.0}, "length_scale must be at least 1e-06, got 0.0"),
        ({"temperature_positive": 0.0}, "temperature_positive must be at least 1e-06, got 0.0"),
        (
            {"scale_rewards": "batch"},
            "scale_rewards=batch needs score_sd, the standard deviation of the batch's scores",
        ),
    ],
)
def test_choice_or_number_out_of_range_is_refused(wrong, rule):
    with pytest.raises(ValueError, match=f"^{rule}$"):
        grpo(**rollout([[-1.0], [-1.0]]), **PLAIN | wrong)


def test_scores_of_another_number_of_responses_are_refused():
    arguments = rollout([[-1.0], [-1.0]]) | {"scores": torch.zeros(3), "groups": torch.zeros(3)}
    with pytest.raises(ValueError, match="scores and mask must share one shape, got 3 scores for 2 responses"):
        grpo(**arguments)
