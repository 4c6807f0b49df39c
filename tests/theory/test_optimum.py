"""The exact optimum: numbers derived by hand, the identities of its docstring, general solvers, zeros."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.stats import binom

from una_ref.theory import (
    DIVERGENCES,
    entropy,
    expected_reward,
    f_divergence,
    kl,
    log_partition,
    multiplier,
    objective,
    optimal_logps,
    regret,
    sampled_log_partition,
)

F64 = torch.float64


def logs(*rows):
    return torch.tensor(rows, dtype=F64).log()


def random_tables(prompts=5, responses=7, seed=0):
    torch.manual_seed(seed)
    ref = torch.randn(prompts, responses, dtype=F64).log_softmax(-1)
    return ref, torch.randn(prompts, responses, dtype=F64) + torch.randn(prompts, 1, dtype=F64), 0.3


def test_optimum_of_two_responses_by_hand():
    # ref = (1/2, 1/2), r = (1, 0), β = 1: Z = (e + 1)/2 = 1.859141, π* = (e/(e+1), 1/(e+1)) =
    # (0.731059, 0.268941), max J = log Z = 0.620115. J(ref) = 1/2, so regret(ref) = 0.120115.
    ref, rewards = logs([0.5, 0.5]), torch.tensor([[1.0, 0.0]], dtype=F64)
    assert log_partition(ref, rewards, 1.0).exp().item() == pytest.approx((math.e + 1) / 2, abs=1e-15)
    assert log_partition(ref, rewards, 1.0).exp().item() == pytest.approx(1.859141, abs=5e-7)
    assert optimal_logps(ref, rewards, 1.0).exp()[0].tolist() == pytest.approx([0.731059, 0.268941], abs=5e-7)
    assert regret(ref, ref, rewards, 1.0).item() == pytest.approx(math.log((math.e + 1) / 2) - 0.5, abs=1e-15)


def test_each_prompt_has_its_own_partition_function():
    # r(x1) = (1, 0), r(x2) = (2, 0): Z = (e + 1)/2 = 1.859 and (e² + 1)/2 = 4.195. The mean of log Z,
    # (0.6201 + 1.4338)/2 = 1.0269, is not the log of the mean, 1.1075 (EU3, EU4).
    log_z = log_partition(logs([0.5, 0.5], [0.5, 0.5]), torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64), 1.0)
    assert log_z.exp().tolist() == pytest.approx([1.859, 4.195], abs=5e-4)
    assert log_z.mean().item() == pytest.approx(1.0269, abs=5e-5)
    assert log_z.exp().mean().log().item() == pytest.approx(1.1075, abs=5e-5)


def test_implicit_reward_is_the_reward_minus_beta_log_z():
    # β·log π*/ref = (0.380, −0.620), not (1, 0); with β·log Z added it is (EU2).
    ref, rewards = logs([0.5, 0.5]), torch.tensor([[1.0, 0.0]], dtype=F64)
    implicit = optimal_logps(ref, rewards, 1.0) - ref
    assert implicit[0].tolist() == pytest.approx([0.380, -0.620], abs=5e-4)
    torch.testing.assert_close(implicit + log_partition(ref, rewards, 1.0)[:, None], rewards, rtol=0, atol=1e-15)


def test_regret_is_beta_kl_to_the_optimum():
    ref, rewards, beta = random_tables()
    logps = torch.randn_like(ref).log_softmax(-1)
    best = optimal_logps(ref, rewards, beta)
    torch.testing.assert_close(regret(logps, ref, rewards, beta), beta * kl(logps, best), rtol=0, atol=1e-12)
    torch.testing.assert_close(regret(best, ref, rewards, beta), torch.zeros(5, dtype=F64), rtol=0, atol=1e-12)


def test_no_random_policy_has_a_higher_objective_than_the_optimum():
    ref, rewards, beta = random_tables()
    best = objective(optimal_logps(ref, rewards, beta), ref, rewards, beta)
    torch.testing.assert_close(best, beta * log_partition(ref, rewards, beta), rtol=0, atol=1e-12)
    for scale in (0.1, 1.0, 3.0, 10.0):
        policies = (ref + scale * torch.randn(250, *ref.shape, dtype=F64)).log_softmax(-1)
        values = objective(policies.flatten(0, 1), ref.repeat(250, 1), rewards.repeat(250, 1), beta)
        assert (values < best.repeat(250)).all()


def test_a_reward_offset_changes_log_z_and_nothing_else():
    ref, rewards, beta = random_tables()
    offset = torch.randn(5, 1, dtype=F64)
    policy = torch.randn_like(ref).log_softmax(-1)
    torch.testing.assert_close(optimal_logps(ref, rewards + offset, beta), optimal_logps(ref, rewards, beta))
    torch.testing.assert_close(regret(policy, ref, rewards + offset, beta), regret(policy, ref, rewards, beta))
    moved = log_partition(ref, rewards + offset, beta) - log_partition(ref, rewards, beta)
    torch.testing.assert_close(moved, offset[:, 0] / beta)


def test_kl_and_entropy_by_hand():
    # KL((1/2, 1/2) ‖ (1/4, 3/4)) = ½·log 2 + ½·log(2/3) = ½·log(4/3); H(uniform of 2) = log 2.
    half, quarter = logs([0.5, 0.5]), logs([0.25, 0.75])
    assert kl(half, quarter).item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-15)
    assert kl(half, half).item() == 0
    assert entropy(half).item() == pytest.approx(math.log(2), abs=1e-15)
    assert expected_reward(quarter, torch.tensor([[4.0, 8.0]], dtype=F64)).item() == pytest.approx(7.0)


def test_zero_probabilities_give_finite_values_and_gradients():
    ref, rewards = logs([0.5, 0.5, 0.0]), torch.tensor([[1.0, 0.0, 5.0]], dtype=F64)
    best = optimal_logps(ref, rewards, 1.0)
    assert best.exp()[0].tolist() == pytest.approx([0.731059, 0.268941, 0.0], abs=5e-7)
    assert regret(best, ref, rewards, 1.0).item() == pytest.approx(0, abs=1e-15)
    assert kl(ref, logs([0.2, 0.3, 0.5])).isfinite()
    assert kl(logs([0.2, 0.3, 0.5]), ref).item() == math.inf
    assert entropy(logs([1.0, 0.0])).item() == 0

    logits = torch.tensor([[0.3, -0.2]], dtype=F64, requires_grad=True)
    policy = torch.cat([logits.log_softmax(-1), torch.full((1, 1), -math.inf, dtype=F64)], dim=-1)
    (gradient,) = torch.autograd.grad(objective(policy, ref, rewards, 1.0).sum(), logits)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize("beta", [0.03, 0.3, 3.0])
@pytest.mark.parametrize("samples", [1, 2, 4])
def test_sampled_log_partition_is_the_mean_and_sd_over_all_samples(beta, samples):
    ref, rewards, _ = random_tables(3, 5)
    ys = torch.cartesian_prod(*[torch.arange(5)] * samples).view(-1, samples)  # (5^K, K)
    weights = ref[:, ys].sum(-1).exp()
    estimates = (rewards[:, ys] / beta).logsumexp(-1) - math.log(samples)
    mean = (weights * estimates).sum(-1)
    sd = (weights * (estimates - mean[:, None]) ** 2).sum(-1).sqrt()
    found = sampled_log_partition(ref, rewards, beta, samples)
    torch.testing.assert_close(found[0], mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], sd, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("beta", "p"), [(10.0, 0.5), (10.0, 0.01), (0.1, 0.5), (0.03, 0.01)])
@pytest.mark.parametrize("samples", [64, 1000, 100_000])
def test_sampled_log_partition_keeps_its_digits_for_many_samples(beta, p, samples):
    # Two responses, r = (1, 0): how many of the samples are the first one is binomial, and log Ẑ a function of it.
    centre, width = round(samples * p), round(40 * math.sqrt(samples * p)) + 40
    n = np.arange(max(0, centre - width), min(samples, centre + width) + 1)
    weights = binom.pmf(n, samples, p)
    estimates = 1 / beta + np.log(n / samples + (samples - n) / samples * math.exp(-1 / beta))
    mean = float((weights * estimates).sum() / weights.sum())
    sd = math.sqrt((weights * (estimates - mean) ** 2).sum() / weights.sum())
    found = sampled_log_partition(logs([p, 1 - p]), torch.tensor([[1.0, 0.0]], dtype=F64), beta, samples)
    assert found[0].item() == pytest.approx(mean, rel=1e-12)
    assert found[1].item() == pytest.approx(sd, rel=1e-6)


def test_sampled_log_partition_at_the_edges():
    ref, rewards = logs([0.5, 0.5, 0.0]), torch.tensor([[1.0, 0.0, 9.0]], dtype=F64)
    mean, sd = sampled_log_partition(ref, rewards, 1.0, 1)  # one sample: r/β itself, 0 or 1
    assert mean.item() == pytest.approx(0.5, abs=1e-12) and sd.item() == pytest.approx(0.5, abs=1e-9)
    mean, sd = sampled_log_partition(ref, rewards, 0.001, 10_000)  # one sample in two is the best response
    assert mean.item() == pytest.approx(1000 - math.log(2), abs=1e-3) and sd.item() == pytest.approx(0.01, abs=1e-4)
    constant = sampled_log_partition(ref, rewards * 0 + 7.0, 1.0, 3)
    assert constant[0].item() == pytest.approx(7.0, abs=1e-12) and constant[1].item() == pytest.approx(0, abs=1e-6)
    float32 = sampled_log_partition(ref.float() + 1e-5, rewards.float(), 1.0, 1)  # rows that sum to 1 + 1e-5
    assert float32[0].item() == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        sampled_log_partition(ref, rewards, 1.0, 0)


def test_gradients_are_the_derivatives():
    ref, rewards, beta = random_tables(2, 3)
    logits = torch.randn(2, 3, dtype=F64, requires_grad=True)
    for value in (
        lambda z: objective(z.log_softmax(-1), ref, rewards, beta),
        lambda z: regret(z.log_softmax(-1), ref, rewards, beta),
        lambda z: entropy(z.log_softmax(-1)),
        lambda z: kl(ref, z.log_softmax(-1)),
    ):
        assert torch.autograd.gradcheck(value, (logits,))


def test_lower_precision_is_computed_in_float64():
    ref, rewards, beta = random_tables()
    low = objective(ref.float(), ref.float(), rewards.float(), beta)
    assert low.dtype == F64
    torch.testing.assert_close(low, objective(ref, ref, rewards, beta), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------- any f-divergence

each = pytest.mark.parametrize("name", DIVERGENCES)


def solved(ref, rewards, beta, divergence):
    """π* (Y,) of one prompt from scipy's SLSQP, which knows the objective and its gradient and nothing else."""

    def loss(p):
        w = p / ref
        u = torch.tensor(w).clamp(min=1e-300).log()
        value = (p * rewards).sum() - beta * (ref * divergence.f(u).numpy()).sum()
        slope = rewards - beta * divergence.slope(u).numpy()
        return -value, -slope

    found = minimize(
        loss,
        ref,
        jac=True,
        method="SLSQP",
        bounds=[(1e-12, 1)] * len(ref),
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    return found.x


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "tv"])  # tv: the linear programme below
@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_optimum_agrees_with_a_general_solver(name, beta):
    ref, rewards, _ = random_tables(4, 5, seed=1)
    best = optimal_logps(ref, rewards, beta, name).exp()
    for x in range(4):
        found = solved(ref[x].exp().numpy(), rewards[x].numpy(), beta, DIVERGENCES[name])
        assert np.abs(found - best[x].numpy()).max() < 2e-5, (x, found, best[x])


@pytest.mark.parametrize("beta", [0.1, 0.8, 3.0])
def test_optimum_of_total_variation_agrees_with_a_linear_programme(beta):
    # max Σ p·r − β/2·Σ t with t ≥ ±(p − ref).
    ref, rewards, _ = random_tables(6, 5, seed=2)
    best = optimal_logps(ref, rewards, beta, "tv")
    eye = np.eye(5)
    for x in range(6):
        p = ref[x].exp().numpy()
        found = linprog(
            np.concatenate([-rewards[x].numpy(), np.full(5, beta / 2)]),
            A_ub=np.block([[eye, -eye], [-eye, -eye]]),
            b_ub=np.concatenate([p, -p]),
            A_eq=[[1.0] * 5 + [0.0] * 5],
            b_eq=[1.0],
        )
        assert float(objective(best, ref, rewards, beta, "tv")[x]) == pytest.approx(-found.fun, abs=1e-12)
        torch.testing.assert_close(best[x].exp(), torch.tensor(found.x[:5]), rtol=0, atol=1e-9)  # here it is unique


@each
@pytest.mark.parametrize("beta", [1e-8, 0.01, 0.3, 1.0, 30.0, 1e8])
def test_optimum_and_multiplier_satisfy_the_kkt_conditions(name, beta):
    ref, rewards, _ = random_tables(30, 6, seed=3)
    rewards[:5], rewards[5:10, 0] = 0.7, rewards[5:10, 1]  # all equal, and two equal
    divergence = DIVERGENCES[name]
    best, level = optimal_logps(ref, rewards, beta, name), multiplier(ref, rewards, beta, name)
    torch.testing.assert_close(best.exp().sum(-1), torch.ones(30, dtype=F64))
    slope = (rewards - level[:, None]) / beta  # is f′ where π* > 0, and at most f′(0+) where π* = 0
    zero = best == -math.inf
    assert zero.any() == (divergence.allows_zeros and beta < 30)
    slack = 1e-7 * (1 + slope.abs())
    if name == "tv":  # f′ jumps at 1, over the whole of [−½, ½]
        assert (slope - 0.5 <= slack).all() and (slope + 0.5 >= -slack)[~zero].all()
        assert (slope < 0.5 - slack)[(best < ref - 1e-6) & ~zero].sum() == 0
        assert ((slope - 0.5).abs() <= slack)[best > ref + 1e-6].all()
    else:
        assert ((slope - divergence.slope(best - ref)).abs() <= slack)[~zero].all()
    assert (slope <= divergence.slope_at_zero + slack)[zero].all()
    torch.testing.assert_close(regret(best, ref, rewards, beta, name), torch.zeros(30, dtype=F64), rtol=0, atol=1e-7)
    assert (regret(ref, ref, rewards, beta, name) >= -1e-7).all()


def test_chi2_optimum_with_a_zero_by_hand():
    # π* = π_ref·(1 + (r − λ)/(2β)) where that is positive (EP4). With r = (1, 0, −9), β = 1 and thirds: without the
    # third response Σ = 2/3 + (1 − 2λ)/6 = 1, so λ = −½, and π* = (1.75, 1.25, 0)/3; indeed −9 < λ − 2β.
    ref, rewards = logs([1 / 3, 1 / 3, 1 / 3]), torch.tensor([[1.0, 0.0, -9.0]], dtype=F64)
    assert optimal_logps(ref, rewards, 1.0, "chi2").exp()[0].tolist() == pytest.approx([1.75 / 3, 1.25 / 3, 0.0])
    assert multiplier(ref, rewards, 1.0, "chi2").item() == pytest.approx(-0.5)


def test_total_variation_moves_mass_from_responses_more_than_beta_worse():
    # λ = max r − β/2. Responses less than β below the best keep π_ref; the rest of the mass goes to the best.
    ref, rewards = logs([0.1, 0.2, 0.3, 0.4]), torch.tensor([[2.0, 1.5, 0.5, -3.0]], dtype=F64)
    assert optimal_logps(ref, rewards, 1.0, "tv").exp()[0].tolist() == pytest.approx([0.8, 0.2, 0.0, 0.0])
    assert multiplier(ref, rewards, 1.0, "tv").item() == pytest.approx(1.5)
    assert optimal_logps(ref, rewards, 9.0, "tv").exp()[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    # Several optima: two best responses may share in any way, and share as π_ref does.
    rewards = torch.tensor([[2.0, 2.0, 0.5, -3.0]], dtype=F64)
    best = optimal_logps(ref, rewards, 1.0, "tv")
    assert best.exp()[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0, 0.0])
    others = logs([0.1, 0.9, 0.0, 0.0], [0.8, 0.2, 0.0, 0.0], [0.05, 0.95, 0.0, 0.0])
    wide = ref.expand(3, 4), rewards.expand(3, 4), 1.0, "tv"
    assert regret(others, *wide).tolist() == pytest.approx([0.0, 0.0, 0.05], abs=1e-12)  # the last is no optimum
    # Exactly β below: anything from nothing to its π_ref is an optimum.
    rewards = torch.tensor([[2.0, 1.0, -5.0, -5.0]], dtype=F64)
    some = logs([0.8, 0.2, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])
    assert regret(some, ref.expand(3, 4), rewards.expand(3, 4), 1.0, "tv").abs().max() < 1e-12


@each
def test_a_response_that_the_reference_never_gives_changes_nothing(name):
    ref, rewards, beta = random_tables(4, 5)
    wide = torch.cat([ref[:, :2], torch.full((4, 1), -math.inf, dtype=F64), ref[:, 2:]], -1)
    high = torch.cat([rewards[:, :2], torch.full((4, 1), 50.0, dtype=F64), rewards[:, 2:]], -1)
    best = optimal_logps(wide, high, beta, name)
    assert (best[:, 2] == -math.inf).all()
    torch.testing.assert_close(best[:, [0, 1, 3, 4, 5]], optimal_logps(ref, rewards, beta, name))
    torch.testing.assert_close(multiplier(wide, high, beta, name), multiplier(ref, rewards, beta, name))


@each
def test_very_small_and_very_large_beta(name):
    ref, rewards, _ = random_tables(5, 6)
    greedy = optimal_logps(ref, rewards, 1e-9, name).exp()
    assert (greedy.amax(-1) > 1 - 1e-4).all() and torch.equal(greedy.argmax(-1), rewards.argmax(-1))
    torch.testing.assert_close(optimal_logps(ref, rewards, 1e9, name), ref, rtol=0, atol=1e-7)
    middle = multiplier(ref, rewards, 1e9, name)
    if name != "tv":  # any λ within β/2 of all rewards is right
        torch.testing.assert_close(middle, expected_reward(ref, rewards), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["reverse_kl", "js", "chi2", "tv"])
def test_a_prompt_solved_alone_has_the_same_optimum(name):
    torch.manual_seed(5)
    ref, rewards = torch.randn(1000, 64, dtype=F64).log_softmax(-1), torch.randn(1000, 64, dtype=F64)
    best, level = optimal_logps(ref, rewards, 0.5, name), multiplier(ref, rewards, 0.5, name)
    torch.testing.assert_close(best.exp().sum(-1), torch.ones(1000, dtype=F64))
    for x in (0, 17, 471, 999):
        alone = ref[x : x + 1], rewards[x : x + 1], 0.5, name
        torch.testing.assert_close(best[x], optimal_logps(*alone)[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(level[x], multiplier(*alone)[0], rtol=1e-12, atol=1e-12)


@each
def test_references_that_sum_to_one_up_to_rounding_are_solved(name):
    # Nearly all mass is on equal rewards, so the sign of log Σ π at an end of the bracket is that of the rounding.
    thirds = [1 / 3, 1 / 3, 1 / 3, 1e-30]
    for other in (-1.0, 1.0):
        ref, rewards = logs(thirds, thirds[::-1]), torch.tensor([[0.0, 0.0, 0.0, other]] * 2, dtype=F64)
        rewards[1] = rewards[1].flip(0)
        for rounding in (0.0, 1e-5, -1e-5):
            best = optimal_logps(ref + rounding, rewards, 5.0, name).exp()
            torch.testing.assert_close(best, ref.exp(), rtol=1e-9, atol=1e-12)
            if name != "tv":  # λ is not unique
                assert multiplier(ref + rounding, rewards, 5.0, name).abs().max() < 1e-3
    torch.testing.assert_close(multiplier(ref, 0 * rewards + 7, 5.0, name), torch.full((2,), 7.0, dtype=F64))


def test_root_finding_reproduces_the_closed_form_of_the_kl():
    # A copy of the KL is not the registered one, and so goes through root finding.
    ref, rewards, beta = random_tables()
    copy = dataclasses.replace(DIVERGENCES["reverse_kl"])
    torch.testing.assert_close(optimal_logps(ref, rewards, beta, copy), optimal_logps(ref, rewards, beta))
    torch.testing.assert_close(multiplier(ref, rewards, beta, copy), beta * log_partition(ref, rewards, beta))
    policy = torch.randn_like(ref).log_softmax(-1)
    torch.testing.assert_close(f_divergence(policy, ref, copy), kl(policy, ref))
    # Nor is another divergence of the same name taken for the KL.
    chi2 = dataclasses.replace(DIVERGENCES["chi2"], name="reverse_kl")
    torch.testing.assert_close(optimal_logps(ref, rewards, beta, chi2), optimal_logps(ref, rewards, beta, "chi2"))


@each
def test_f_divergence_is_its_sum_with_the_limit_where_the_reference_is_zero(name):
    divergence = DIVERGENCES[name]
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0], dtype=F64), torch.tensor([0.1, 0.6, 0.0, 0.3, 0.0], dtype=F64)
    found = float(f_divergence(p.log()[None], q.log()[None], name))
    f = {w: float(divergence.f(torch.tensor(math.log(w) if w else -math.inf, dtype=F64))) for w in (5.0, 0.5, 0.0)}
    by_hand = 0.1 * f[5.0] + 0.6 * f[0.5] + 0.2 * divergence.slope_at_infinity + 0.3 * f[0.0]
    assert found == pytest.approx(by_hand, rel=1e-14)
    assert math.isinf(found) == (name in ("reverse_kl", "chi2", "forward_kl"))
    assert float(f_divergence(q.log()[None], q.log()[None], name)) == 0


def test_f_divergences_agree_with_their_textbook_formulas():
    p, q = logs([0.5, 0.3, 0.2]), logs([0.1, 0.6, 0.3])
    a, b = p.exp(), q.exp()
    assert float(f_divergence(p, q, "forward_kl")) == pytest.approx(float(kl(q, p)), rel=1e-14)
    assert float(f_divergence(p, q, "tv")) == pytest.approx(0.5 * float((a - b).abs().sum()), rel=1e-14)
    assert float(f_divergence(p, q, "chi2")) == pytest.approx(float(((a - b) ** 2 / b).sum()), rel=1e-14)
    assert float(f_divergence(p, q, "hellinger")) == pytest.approx(2 - 2 * float((a * b).sqrt().sum()), rel=1e-14)
    # The mean over π, as UPO's Eq. 13 prints it, is another number (EP3).
    assert float((a * DIVERGENCES["js"].f(p - q)).sum()) != pytest.approx(float(f_divergence(p, q, "js")), rel=0.1)


@each
def test_a_reference_probability_that_underflows_counts_as_zero(name):
    # π_ref = e^−800 is 0 as a number, and f(e^799) is ∞: D_f is not 0·∞, but the limit π·f′(∞).
    ref = torch.tensor([[-800.0, 0.0]], dtype=F64)
    logits = torch.tensor([[0.3, -0.2]], dtype=F64, requires_grad=True)
    policy = logits.log_softmax(-1)
    found = f_divergence(policy, ref, name)
    gone = f_divergence(policy, logs([0.0, 1.0]), name)
    assert not found.isnan().any()
    if name == "reverse_kl":
        torch.testing.assert_close(found, kl(policy, ref))
    else:
        torch.testing.assert_close(found, gone)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    assert slope.isfinite().all() or name == "chi2"


@each
def test_gradients_of_objective_and_regret(name):
    ref, rewards, beta = random_tables(2, 4)
    logits = torch.randn(2, 4, dtype=F64, requires_grad=True)
    for value in (objective, regret):
        assert torch.autograd.gradcheck(lambda z, v=value: v(z.log_softmax(-1), ref, rewards, beta, name), (logits,))


worlds = st.builds(
    lambda seed, prompts, responses, sharp, beta, name: (
        *(torch.randn(3, prompts, responses, generator=torch.Generator().manual_seed(seed), dtype=F64) * sharp),
        beta,
        name,
    ),
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(2, 6),
    st.sampled_from([0.3, 1.0, 3.0]),
    st.floats(0.05, 20.0),
    st.sampled_from(list(DIVERGENCES)),
)


@settings(max_examples=40, deadline=None)
@given(world=worlds, t=st.floats(0.1, 10.0), seed=st.integers(0, 1000))
def test_optimum_is_best_and_invariant_in_any_world(world, t, seed):
    ref, rewards, policy, beta, name = world
    ref, policy = ref.log_softmax(-1), policy.log_softmax(-1)
    best, level = optimal_logps(ref, rewards, beta, name), multiplier(ref, rewards, beta, name)
    j = objective(best, ref, rewards, beta, name)
    size = 1e-9 * (1 + beta + rewards.abs().max())
    for other in (policy, ref, (best.exp() / 2 + ref.exp() / 2).log()):
        assert (j >= objective(other, ref, rewards, beta, name) - size).all()
        gap = regret(other, ref, rewards, beta, name)
        assert (gap >= -size).all()
        assert not gap.isnan().any()
    assert (f_divergence(policy, ref, name) >= 0).all()
    torch.testing.assert_close(regret(best, ref, rewards, beta, name), torch.zeros_like(j), rtol=0, atol=float(size))

    def same(logps, other=best):
        torch.testing.assert_close(logps.exp(), other.exp(), rtol=1e-6, atol=1e-8)

    g = torch.randn(len(ref), 1, generator=torch.Generator().manual_seed(seed), dtype=F64)
    near_tie = name == "tv" and ((rewards.amax(-1, keepdim=True) - rewards) / beta - 1).abs().min() < 1e-6
    if not near_tie:
        same(optimal_logps(ref, rewards + g, beta, name))
        same(optimal_logps(ref, t * rewards, t * beta, name))
    order = torch.randperm(ref.shape[-1], generator=torch.Generator().manual_seed(seed))
    same(optimal_logps(ref[:, order], rewards[:, order], beta, name), best[:, order])
    if not near_tie:
        moved = multiplier(ref, rewards + g, beta, name) - g.squeeze(-1)
        torch.testing.assert_close(moved, level, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(multiplier(ref, t * rewards, t * beta, name), t * level, rtol=1e-8, atol=1e-8)
