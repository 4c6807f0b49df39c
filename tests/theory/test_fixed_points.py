"""Minimisers against known minima and closed forms, and the errors where there is no minimum."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import lambertw, wrightomega

from una_ref.methods import METHODS
from una_ref.theory import (
    NotConverged,
    TableWorld,
    fixed_point,
    kl,
    log_partition,
    objective,
    optimal_logps,
    una_fixed_point,
    una_regression,
)
from una_ref.theory.fixed_points import una_end, una_minima

F64 = torch.float64


def test_fixed_point_of_the_negative_objective_is_the_optimum():
    torch.manual_seed(0)
    ref, start = torch.randn(2, 4, 6, dtype=F64).log_softmax(-1)
    world = TableWorld(ref, torch.randn(4, 6, dtype=F64), 1.0)
    found = fixed_point(lambda logps: -objective(logps, ref, world.rewards, 1.0).sum(), start)
    assert kl(found, world.optimum).max() < 1e-14
    assert not found.requires_grad


@pytest.mark.parametrize(
    "loss",
    [lambda logps: -logps.exp()[0, 0], lambda logps: -(logps.exp() ** 2).sum()],
    ids=["falls for ever", "is at its maximum"],
)
def test_a_stationary_point_that_is_no_minimum_raises(loss):
    with pytest.raises(NotConverged, match="expected a loss that curves upwards in 1 directions"):
        fixed_point(loss, torch.zeros(1, 2, dtype=F64).log_softmax(-1))


def test_a_loss_without_a_finite_minimum_raises():
    start = torch.zeros(1, 2, dtype=F64).log_softmax(-1)
    with pytest.raises(NotConverged, match="expected gradients of at most 1e-12, got"):
        fixed_point(lambda logps: logps[0, 0], start)


@pytest.mark.parametrize("uniform", [False, True])
def test_una_minima_are_all_that_descent_finds(uniform):
    # Descent from every corner and from π_ref ends in one of them.
    world = TableWorld.random(0, prompts=5, responses=4, beta=0.5, offset=-3.0)
    sampler = torch.full_like(world.ref_logps, 0.25).log() if uniform else world.ref_logps
    minima = una_minima(world.ref_logps, world.rewards, 0.5, sampler_logps=sampler)
    population = una_regression(world.ref_logps, world.rewards, 0.5, sampler_logps=sampler)
    assert not minima[:, :4].isnan().any() and minima[:, 4].isnan().all()
    assert (minima[:, :4].argmax(-1) == torch.arange(4)).all()
    for k in range(4):
        torch.testing.assert_close(fixed_point(population, minima[:, k]), minima[:, k], rtol=0, atol=1e-10)
    starts = [6 * torch.eye(4, dtype=F64)[k].expand(5, 4) for k in range(4)]
    for start in [*starts, world.ref_logps]:
        ends = fixed_point(population, start.log_softmax(-1))
        assert (ends.exp()[:, None] - minima.exp()).abs().amax(-1).nan_to_num(nan=9.0).amin(-1).max() < 1e-8


def test_a_little_below_log_z_zero_the_one_minimum_has_no_response_on_the_lower_branch():
    # A little below log Z = 0 the minimum of `una_fixed_point` continues; above, there is no other.
    world = TableWorld.random(0, prompts=5, responses=4, beta=0.5)
    baseline = 0.5 * world.log_partition[:, None]
    for shift, exists in ((0.01, True), (-0.01, False)):
        minima = una_minima(world.ref_logps, world.rewards, 0.5, baseline=baseline + shift)
        assert minima[:, :4].isnan().all() and minima[:, 4].isnan().any() != exists
    population = una_regression(world.ref_logps, world.rewards, 0.5, baseline=baseline + 0.01)
    last = una_minima(world.ref_logps, world.rewards, 0.5, baseline=baseline + 0.01)[:, 4]
    torch.testing.assert_close(fixed_point(population, world.ref_logps), last, rtol=0, atol=1e-10)


def test_una_end_is_where_small_steps_from_the_reference_end():
    world = TableWorld.random(0, prompts=4, responses=4, beta=0.5, offset=-3.0)
    ends = una_end(world.ref_logps, world.rewards, 0.5)
    lowest = una_end(world.ref_logps, world.rewards, 0.5, which="global")
    population = una_regression(world.ref_logps, world.rewards, 0.5)
    logits = world.ref_logps.clone()
    for _ in range(1500):
        logits.requires_grad_()
        (slope,) = torch.autograd.grad(4 * population(logits.log_softmax(-1)), logits)
        logits = (logits - 0.5 * slope).detach()
    torch.testing.assert_close(logits.softmax(-1), ends.exp(), rtol=0, atol=1e-4)
    assert population(lowest) < population(ends)
    assert (population(ends) - population(logits.log_softmax(-1))).abs() < 1e-6
    above = una_end(world.ref_logps, world.rewards + 9, 0.5, which="global")
    torch.testing.assert_close(above, una_fixed_point(world.ref_logps, world.rewards + 9, 0.5))


# ------------------------------------------------------------------------------------------------ UNA as a regression


def tables(seed=0, prompts=3, responses=4):
    """π_ref, another sampler, rewards."""
    ref, sampler, rewards = torch.randn(3, prompts, responses, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return ref.log_softmax(-1), sampler.log_softmax(-1), rewards


def log_z(ref, rewards, beta):
    return beta * log_partition(ref, rewards, beta)[:, None]


@pytest.mark.parametrize("form", ["loss", "released"])
def test_una_regression_is_the_expectation_of_the_methods_loss(form):
    ref, sampler, rewards = tables()
    policy, scores, baseline = tables(1)[0], rewards.sigmoid(), torch.tensor([[0.3], [-1.0], [2.0]], dtype=F64)
    method = METHODS["una-score"]
    loss = method.loss if form == "loss" else method.released
    for b in (0.0, 0.7, baseline):
        each = loss(
            logps=policy.flatten(),
            ref_logps=ref.flatten(),
            scores=scores.flatten(),
            baseline=torch.as_tensor(b, dtype=F64).expand(3, 4).flatten() if torch.is_tensor(b) else b,
            beta=0.3,
        )
        normaliser = "identity" if form == "loss" else "sigmoid"
        for mu in (None, sampler):
            weights = (ref if mu is None else mu).exp()
            found = una_regression(ref, scores, 0.3, sampler_logps=mu, baseline=b, normaliser=normaliser)
            torch.testing.assert_close(found(policy), (weights * each.view(3, 4)).sum() / 3)


def test_constant_and_prompt_are_the_baselines_of_least_loss():
    ref, sampler, rewards = tables()
    policy = tables(1)[0]

    def value(baseline):
        return float(una_regression(ref, rewards, 0.3, sampler_logps=sampler, baseline=baseline)(policy))

    residual = sampler.exp() * (rewards - 0.3 * (policy - ref))
    per_prompt = residual.sum(-1, keepdim=True)
    assert value("prompt") == pytest.approx(value(per_prompt)) and value("constant") == pytest.approx(
        value(float(per_prompt.mean()))
    )
    step = torch.tensor([[0.1], [-0.2], [0.1]], dtype=F64)
    assert value("prompt") < value("constant") < value(float(per_prompt.mean()) + 0.1)
    assert value("prompt") < min(value(per_prompt + step), value(per_prompt - step))
    # It is a variance, so a constant added to a prompt's rewards changes nothing.
    moved = una_regression(ref, rewards + 10 * step, 0.3, sampler_logps=sampler, baseline="prompt")
    assert float(moved(policy)) == pytest.approx(value("prompt"), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_a_fitted_baseline_for_each_prompt_gives_the_optimum_and_one_for_all_does_not(offset):
    ref, sampler, rewards = tables()
    rewards = rewards + offset * torch.arange(3)[:, None]
    best = optimal_logps(ref, rewards, 0.5)
    for mu in (sampler, ref, torch.full_like(ref, 0.25).log()):
        centred = fixed_point(una_regression(ref, rewards, 0.5, sampler_logps=mu, baseline="prompt"), ref)
        torch.testing.assert_close(centred.exp(), best.exp(), rtol=0, atol=1e-9)
    # One c for all prompts cannot be β·log Z of each. (Its loss may have other minima; π* is none of them.)
    population = una_regression(ref, rewards, 0.5, sampler_logps=sampler, baseline="constant")
    at_best = best.clone().requires_grad_()
    (slope,) = torch.autograd.grad(population(at_best.log_softmax(-1)), at_best)
    assert slope.abs().max() > 0.01


def test_leave_one_out_of_two_has_the_gradient_of_the_fitted_baseline():
    # All pairs of samples of each prompt, with their probabilities, through the loss of the method.
    ref, sampler, rewards = tables()
    logits = tables(1)[0].clone().requires_grad_()
    logps = logits.log_softmax(-1)
    total = torch.zeros((), dtype=F64)
    for x in range(3):
        for pair in itertools.product(range(4), repeat=2):
            y = torch.tensor(pair)
            losses = METHODS["una-centred"].loss(
                logps=logps[x, y], ref_logps=ref[x, y], scores=rewards[x, y], groups=torch.tensor([x, x]), beta=0.3
            )
            total = total + sampler[x, y].sum().exp() * losses.mean() / 3
    (found,) = torch.autograd.grad(total, logits, retain_graph=True)
    centred = una_regression(ref, rewards, 0.3, sampler_logps=sampler, baseline="prompt")
    (expected,) = torch.autograd.grad(centred(logps), logits, retain_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    (plain,) = torch.autograd.grad(una_regression(ref, rewards, 0.3, sampler_logps=sampler)(logps), logits)
    assert (plain - expected).abs().max() > 0.01


def test_a_response_that_is_never_sampled_has_no_effect():
    ref, _, rewards = tables()
    sampler = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=F64).log().expand(3, 4)
    rewards[:, 2:] = 1e6
    gone = torch.where(sampler > -torch.inf, ref, -torch.inf).log_softmax(-1)
    for normaliser, baseline in (("identity", "prompt"), ("identity", 0.2), ("sigmoid", 0.2)):
        population = una_regression(ref, rewards, 0.3, sampler_logps=sampler, baseline=baseline, normaliser=normaliser)
        logits = tables(1)[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(population(logits.log_softmax(-1)), logits)
        assert slope.isfinite().all() and population(gone).isfinite()
    # π_ref may leave it out too; not what is sampled.
    una_regression(gone, rewards, 0.3, sampler_logps=sampler)
    with pytest.raises(ValueError, match=r"ref_logps: expected finite numbers where .*, got -inf at \(0, 2\)"):
        una_regression(gone, rewards, 0.3, sampler_logps=ref)


# ------------------------------------------------------------------------------------------------- the closed form


@pytest.mark.parametrize("own_sampler", [True, False])
@pytest.mark.parametrize("above", [0.05, 1.0, 20.0])
def test_una_fixed_point_is_the_minimiser(own_sampler, above):
    ref, sampler, rewards = tables()
    sampler = sampler if own_sampler else ref
    for baseline in (log_z(ref, rewards, 0.5) - above, float(log_z(ref, rewards, 0.5).min()) - above):
        arguments = {"sampler_logps": sampler if own_sampler else None, "baseline": baseline}
        closed = una_fixed_point(ref, rewards, 0.5, **arguments)
        found = fixed_point(una_regression(ref, rewards, 0.5, **arguments), ref)
        torch.testing.assert_close(closed.exp(), found.exp(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("beta", [0.01, 0.5, 30.0])
def test_una_fixed_point_is_lamberts_closed_form(beta):
    ref, sampler, rewards = tables(2, 5, 6)
    baseline = log_z(ref, rewards, beta) - 0.8 * beta
    closed = una_fixed_point(ref, rewards, beta, sampler_logps=sampler, baseline=baseline)
    a, u, tilt = (rewards - baseline) / beta, closed - ref, ref - sampler
    # One multiplier for each prompt, from the response where it has most digits; all others follow from Lambert's W.
    at = closed.argmax(-1, keepdim=True)
    log_nu = (a - u).gather(-1, at).log() - (u + tilt).gather(-1, at)  # log ν/β
    z = (log_nu + tilt + a).numpy()
    torch.testing.assert_close(u, a - torch.tensor(wrightomega(z)), rtol=1e-9, atol=1e-9)
    small = torch.tensor(z < 600)
    branch = torch.tensor(lambertw(np.exp(np.minimum(z, 600))).real)
    torch.testing.assert_close(u[small], (a - branch)[small], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(closed.exp().sum(-1), torch.ones(5, dtype=F64))


def test_baseline_beta_log_z_gives_the_optimum_and_a_large_offset_the_sampler():
    for beta, scale in ((0.5, 1.0), (0.01, 50.0), (20.0, 1.0)):
        ref, sampler, rewards = tables()
        rewards = scale * rewards
        exact = una_fixed_point(ref, rewards, beta, sampler_logps=sampler, baseline=log_z(ref, rewards, beta))
        torch.testing.assert_close(exact.exp(), optimal_logps(ref, rewards, beta).exp(), rtol=0, atol=1e-9)
        assert exact.isfinite().all()  # at β = 0.01 some probabilities underflow, their logarithms do not
    ref, sampler, rewards = tables()
    distances = [
        float(kl(una_fixed_point(ref, rewards + offset, 0.5, sampler_logps=sampler), sampler).max())
        for offset in (5.0, 50.0, 5e3, 5e6)
    ]
    assert distances == sorted(distances, reverse=True) and distances[0] > 1e-2 and distances[-1] < 1e-10
    # The difference is proportional to 1/offset, down to the last digits.
    near, far = (una_fixed_point(ref, rewards + c, 0.5, sampler_logps=sampler).exp() for c in (1e6, 1e9))
    torch.testing.assert_close(1e-3 * (near - sampler.exp()), far - sampler.exp(), rtol=1e-3, atol=1e-14)


def test_rounding_of_a_baseline_beta_log_z_is_not_taken_for_a_loss_that_is_not_convex():
    # Rewards of 10⁶ leave log Z(r − b) at about −10⁻¹⁰ in place of 0, though one reward of each prompt is 0.
    ref, _, rewards = tables(prompts=30)
    rewards = 1e6 * rewards
    rewards[:, 0] = 0.0
    baseline = log_z(ref, rewards, 0.5)
    assert (log_partition(ref, rewards - baseline, 0.5) < -1e-11).any()
    found = una_fixed_point(ref, rewards, 0.5, baseline=baseline)
    torch.testing.assert_close(found.exp(), optimal_logps(ref, rewards, 0.5).exp(), rtol=0, atol=1e-9)


def test_una_fixed_point_refuses_prompts_below_log_z_zero():
    ref, sampler, rewards = tables()
    shift = torch.tensor([[0.01], [-0.01], [0.01]], dtype=F64)
    for mu in (None, sampler):
        with pytest.raises(ValueError, match=r"expected log Z\(rewards - baseline\) >= 0, got -0.02 in prompt 1"):
            una_fixed_point(ref, rewards + shift, 0.5, sampler_logps=mu, baseline=log_z(ref, rewards, 0.5))
    zero = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=F64).log().expand(3, 4)
    for arguments in ({"sampler_logps": zero}, {"sampler_logps": zero, "ref_logps": zero}):
        with pytest.raises(ValueError, match="sampler_logps and ref_logps: expected finite numbers"):
            una_fixed_point(**{"ref_logps": ref, **arguments}, rewards=rewards + 9, beta=0.5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    prompts=st.integers(1, 4),
    responses=st.integers(2, 6),
    beta=st.floats(0.02, 20),
    above=st.floats(0, 30),
    sharp=st.sampled_from([0.3, 1.0, 4.0]),
    t=st.floats(0.1, 10),
)
def test_una_fixed_point_is_least_and_invariant_in_any_world(seed, prompts, responses, beta, above, sharp, t):
    ref, sampler, rewards = (sharp * x for x in tables(seed, prompts, responses))
    ref, sampler = ref.log_softmax(-1), sampler.log_softmax(-1)
    baseline = log_z(ref, rewards, beta) - above
    found = una_fixed_point(ref, rewards, beta, sampler_logps=sampler, baseline=baseline)
    population = una_regression(ref, rewards, beta, sampler_logps=sampler, baseline=baseline)

    def same(logps, other=found):
        torch.testing.assert_close(logps.exp(), other.exp(), rtol=1e-6, atol=1e-9)

    # No policy has a lower loss, and the gradient is 0.
    logits = found.clone().requires_grad_()
    (slope,) = torch.autograd.grad(population(logits.log_softmax(-1)), logits)
    assert slope.abs().max() <= 1e-10 * (1 + beta) * (1 + above + beta + rewards.abs().max())
    for other in (ref, sampler, optimal_logps(ref, rewards, beta)):
        assert population(found) <= population(other) * (1 + 1e-12) + 1e-12
    # An offset of a prompt's rewards cancels against its baseline; neither the unit nor the order matters.
    g = torch.randn(prompts, 1, generator=torch.Generator().manual_seed(seed), dtype=F64)
    same(una_fixed_point(ref, rewards + g, beta, sampler_logps=sampler, baseline=baseline + g))
    same(una_fixed_point(ref, t * rewards, t * beta, sampler_logps=sampler, baseline=t * baseline))
    order = torch.arange(responses).flip(0)
    flipped = una_fixed_point(
        ref[:, order], rewards[:, order], beta, sampler_logps=sampler[:, order], baseline=baseline
    )
    same(flipped, found[:, order])
    if above < 1e-3:
        torch.testing.assert_close(found.exp(), optimal_logps(ref, rewards, beta).exp(), rtol=0, atol=0.05)


# ---------------------------------------------------------------------------------------------------- what is refused

SQUARE = tables(0, 4, 4)  # as many prompts as responses, where (X,) would broadcast over the responses
WRONG = [
    ("baseline", torch.zeros(4), r"baseline: expected a number or the shape \(4, 1\) .*, got the shape \(4,\)"),
    ("baseline", torch.zeros(1, 4), r"baseline: .* got the shape \(1, 4\)"),
    ("baseline", torch.zeros(4, 4), r"baseline: .* got the shape \(4, 4\)"),
    ("baseline", torch.tensor([[0.0], [torch.nan], [0.0], [0.0]]), r"baseline: .* finite numbers, got nan at \(1, 0\)"),
    ("baseline", torch.inf, r"baseline: expected finite numbers, got inf"),
    ("beta", 0.0, "beta: expected one positive, finite number, got 0.0"),
    ("beta", torch.nan, "beta: .* got nan"),
    ("rewards", SQUARE[2] / 0, r"rewards: expected finite numbers, got -?inf at \(0, 0\)"),
    ("rewards", SQUARE[2][:, :1], r"the same shape .*'rewards': \(4, 1\)"),
    ("ref_logps", SQUARE[0] - 0.1, r"ref_logps: .* got row \d whose probabilities sum to 0\.904"),
    ("ref_logps", SQUARE[0][0], r"the same shape .*'ref_logps': \(4,\)"),
    ("sampler_logps", SQUARE[0].exp(), "sampler_logps: expected log-probabilities, got row"),
    ("sampler_logps", SQUARE[0][:1], r"the same shape .*'sampler_logps': \(1, 4\)"),
]


@pytest.mark.parametrize("function", [una_regression, una_fixed_point, una_minima, una_end])
def test_every_una_function_refuses_tables_that_do_not_fit(function):
    good = {"ref_logps": SQUARE[0], "rewards": SQUARE[2] + 20, "beta": 1.0, "sampler_logps": SQUARE[1], "baseline": 0.0}
    function(**good)
    function(**{**good, "baseline": torch.zeros(4, 1)})
    for name, value, message in WRONG:
        with pytest.raises(ValueError, match=message):
            function(**{**good, name: value})


def test_unknown_choices_and_bad_starts_are_refused():
    ref, _, rewards = tables()
    for wrong in ({"baseline": "best"}, {"baseline": "prompt", "normaliser": "sigmoid"}):
        with pytest.raises(
            ValueError, match="baseline: expected a number, a tensor, or .* 'constant' or 'prompt', got"
        ):
            una_regression(ref, rewards, 1.0, **wrong)
    with pytest.raises(ValueError, match="normaliser: expected 'identity' or 'sigmoid', got 'softmax'"):
        una_regression(ref, rewards, 1.0, normaliser="softmax")
    with pytest.raises(ValueError, match="which: expected 'descent' or 'global', got 'best'"):
        una_end(ref, rewards, 1.0, which="best")
    with pytest.raises(ValueError, match=r"logps: expected the shape \(3, 4\) \(prompts, responses\), got \(1, 4\)"):
        una_regression(ref, rewards, 1.0)(ref[:1])
    for wrong, message in (
        (ref[0], r"the same shape \(prompts, responses\), got {'start_logps': \(4,\)}"),
        (ref - 1, "start_logps: expected log-probabilities, got row 0"),
        (torch.tensor([[0.5, 0.5, 0.0]]).log(), r"start_logps: expected finite numbers, got -inf at \(0, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            fixed_point(lambda logps: logps.sum(), wrong)


def test_the_global_minimum_weighs_residuals_by_the_sampler():
    # With a sampler far from uniform, Σ μ·residual² and Σ residual² are least at different minima.
    world = TableWorld.random(0, prompts=6, responses=4, beta=0.5, offset=-3.0)
    sampler = (4 * world.rewards).log_softmax(-1)
    minima = una_minima(world.ref_logps, world.rewards, 0.5, sampler_logps=sampler)
    residuals = (0.5 * (minima - world.ref_logps[:, None]) - world.rewards[:, None]) ** 2
    weighted, plain = (sampler.exp()[:, None] * residuals).sum(-1), residuals.sum(-1)
    best, other = (loss.nan_to_num(nan=torch.inf).argmin(-1) for loss in (weighted, plain))
    assert (best != other).any()
    found = una_end(world.ref_logps, world.rewards, 0.5, sampler_logps=sampler, which="global")
    torch.testing.assert_close(found, minima[torch.arange(6), best], rtol=0, atol=0)


@pytest.mark.parametrize("which", ["descent", "global"])
def test_una_end_subtracts_the_baseline_from_the_rewards(which):
    # Some prompts are above log Z = 0 and some below, and the baseline moves each to the other side.
    world = TableWorld.random(1, prompts=4, responses=4, beta=0.5)
    offset = torch.tensor([[-3.0], [2.0], [-3.0], [2.0]], dtype=F64)
    told = una_end(world.ref_logps, world.rewards, 0.5, baseline=-offset, which=which)
    moved = una_end(world.ref_logps, world.rewards + offset, 0.5, which=which)
    torch.testing.assert_close(told, moved, rtol=0, atol=0)
    assert (told - una_end(world.ref_logps, world.rewards, 0.5, which=which)).abs().amax(-1).min() > 0.1


def test_fixed_point_of_una_score_has_a_gradient_in_the_rewards():
    # By finite differences, one reward at a time.
    world = TableWorld.random(0, prompts=2, responses=4)
    rewards = world.rewards.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: una_fixed_point(world.ref_logps, r, 0.7), (rewards,), atol=1e-5)
