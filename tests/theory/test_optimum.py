"""The exact optimum: hand-derived numbers, the identities of its docstring, zeros, and what is refused."""

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from una_ref.theory import (
    DIVERGENCES,
    bradley_terry,
    entropy,
    expected_reward,
    f_divergence,
    kl,
    log_partition,
    multiplier,
    nash_logps,
    objective,
    optimal_logps,
    preference_rewards,
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


def test_two_responses_by_hand():
    # ref = (1/2, 1/2), r = (1, 0), β = 1: Z = (e + 1)/2 = 1.859141, π* = (e/(e+1), 1/(e+1)) =
    # (.731059, .268941), max J = log Z = .620115. J(ref) = 1/2, so regret(ref) = .120115.
    ref, rewards = logs([0.5, 0.5]), torch.tensor([[1.0, 0.0]], dtype=F64)
    assert log_partition(ref, rewards, 1.0).exp().item() == pytest.approx((math.e + 1) / 2, abs=1e-15)
    assert log_partition(ref, rewards, 1.0).exp().item() == pytest.approx(1.859141, abs=5e-7)
    assert optimal_logps(ref, rewards, 1.0).exp()[0].tolist() == pytest.approx([0.731059, 0.268941], abs=5e-7)
    assert regret(ref, ref, rewards, 1.0).item() == pytest.approx(math.log((math.e + 1) / 2) - 0.5, abs=1e-15)


def test_the_multiplier_is_one_per_prompt():
    # EU3, EU4: r(x1) = (1, 0), r(x2) = (2, 0): Z = (e + 1)/2 = 1.859 and (e² + 1)/2 = 4.195, and the
    # mean of log Z, (.6201 + 1.4338)/2 = 1.0269, is not the log of the mean, 1.1075.
    log_z = log_partition(logs([0.5, 0.5], [0.5, 0.5]), torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64), 1.0)
    assert log_z.exp().tolist() == pytest.approx([1.859, 4.195], abs=5e-4)
    assert log_z.mean().item() == pytest.approx(1.0269, abs=5e-5)
    assert log_z.exp().mean().log().item() == pytest.approx(1.1075, abs=5e-5)


def test_implicit_reward_is_the_reward_only_up_to_log_z():
    # EU2: β·log π*/ref = (.380, −.620), not (1, 0); with β·log Z added it is.
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


def test_the_optimum_beats_a_thousand_policies():
    ref, rewards, beta = random_tables()
    best = objective(optimal_logps(ref, rewards, beta), ref, rewards, beta)
    torch.testing.assert_close(best, beta * log_partition(ref, rewards, beta), rtol=0, atol=1e-12)
    for scale in (0.1, 1.0, 3.0, 10.0):
        policies = (ref + scale * torch.randn(250, *ref.shape, dtype=F64)).log_softmax(-1)
        values = objective(policies.flatten(0, 1), ref.repeat(250, 1), rewards.repeat(250, 1), beta)
        assert (values < best.repeat(250)).all()


def test_an_offset_moves_nothing_but_log_z():
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


def test_probabilities_of_zero():
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
@pytest.mark.parametrize("draws", [1, 2, 4])
def test_the_estimate_of_log_z_by_all_its_samples(beta, draws):
    ref, rewards, _ = random_tables(3, 5)
    samples = torch.cartesian_prod(*[torch.arange(5)] * draws).view(-1, draws)  # (5^K, K)
    weights = ref[:, samples].sum(-1).exp()
    estimates = (rewards[:, samples] / beta).logsumexp(-1) - math.log(draws)
    mean = (weights * estimates).sum(-1)
    sd = (weights * (estimates - mean[:, None]) ** 2).sum(-1).sqrt()
    found = sampled_log_partition(ref, rewards, beta, draws)
    torch.testing.assert_close(found[0], mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], sd, rtol=1e-6, atol=1e-6)


def test_the_estimate_of_log_z_at_the_edges():
    ref, rewards = logs([0.5, 0.5, 0.0]), torch.tensor([[1.0, 0.0, 9.0]], dtype=F64)
    mean, sd = sampled_log_partition(ref, rewards, 1.0, 1)  # one draw: r/β itself, 0 or 1
    assert mean.item() == pytest.approx(0.5, abs=1e-12) and sd.item() == pytest.approx(0.5, abs=1e-9)
    mean, sd = sampled_log_partition(ref, rewards, 0.001, 10_000)  # one draw in two is the best response
    assert mean.item() == pytest.approx(1000 - math.log(2), abs=1e-3) and sd.item() == pytest.approx(0.01, abs=1e-4)
    constant = sampled_log_partition(ref, rewards * 0 + 7.0, 1.0, 3)
    assert constant[0].item() == pytest.approx(7.0, abs=1e-12) and constant[1].item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        sampled_log_partition(ref, rewards, 1.0, 0)


def test_gradients():
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


def test_what_is_refused():
    ref, rewards = logs([0.5, 0.5]), torch.tensor([[1.0, 0.0]], dtype=F64)
    with pytest.raises(ValueError, match=r"beta must be positive and finite, one number, got 0"):
        log_partition(ref, rewards, 0)
    with pytest.raises(ValueError, match=r"one shape .*'ref_logps': \(1, 2\), 'rewards': \(2,\)"):
        optimal_logps(ref, rewards[0], 1.0)
    with pytest.raises(ValueError, match=r"ref_logps: each row must sum to one, row 1 sums to 0.9"):
        log_partition(logs([0.5, 0.5], [0.5, 0.4]), rewards.expand(2, 2), 1.0)
    with pytest.raises(ValueError, match=r"ref_logps: each row must sum to one, row 0 sums to 1.0003"):
        log_partition(logs([0.5, 0.5003]), rewards, 1.0)
    assert log_partition(logs([0.5, 0.50005]), rewards, 1.0).isfinite()  # what float32 may leave
    with pytest.raises(ValueError, match=r"logps: each row must sum to one, row 0 sums to nan"):
        regret(ref * math.nan, ref, rewards, 1.0)
    with pytest.raises(ValueError, match=r"rewards must be finite"):
        log_partition(ref, rewards / 0, 1.0)


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
def test_the_optimum_is_that_of_a_general_solver(name, beta):
    ref, rewards, _ = random_tables(4, 5, seed=1)
    best = optimal_logps(ref, rewards, beta, name).exp()
    for x in range(4):
        found = solved(ref[x].exp().numpy(), rewards[x].numpy(), beta, DIVERGENCES[name])
        assert np.abs(found - best[x].numpy()).max() < 2e-5, (x, found, best[x])


@pytest.mark.parametrize("beta", [0.1, 0.8, 3.0])
def test_the_optimum_of_total_variation_is_that_of_a_linear_programme(beta):
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
def test_kkt(name, beta):
    ref, rewards, _ = random_tables(30, 6, seed=3)
    rewards[:5], rewards[5:10, 0] = 0.7, rewards[5:10, 1]  # all alike, and two alike
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


def test_chi2_gives_up_responses_by_hand():
    # EP4: π* = π_ref·(1 + (r − λ)/(2β)) where that is positive. With r = (1, 0, −9), β = 1 and thirds: without the
    # third response Σ = 2/3 + (1 − 2λ)/6 = 1, so λ = −½, and π* = (1.75, 1.25, 0)/3; indeed −9 < λ − 2β.
    ref, rewards = logs([1 / 3, 1 / 3, 1 / 3]), torch.tensor([[1.0, 0.0, -9.0]], dtype=F64)
    assert optimal_logps(ref, rewards, 1.0, "chi2").exp()[0].tolist() == pytest.approx([1.75 / 3, 1.25 / 3, 0.0])
    assert multiplier(ref, rewards, 1.0, "chi2").item() == pytest.approx(-0.5)


def test_total_variation_moves_what_is_beta_worse_to_the_best():
    # λ = max r − β/2. Who is less than β below the best keeps π_ref; the rest goes to the best.
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
    assert regret(others, *wide).tolist() == pytest.approx([0.0, 0.0, 0.05], abs=1e-12)  # less than its π_ref: not one
    # Exactly β below: anything from nothing to its π_ref is an optimum.
    rewards = torch.tensor([[2.0, 1.0, -5.0, -5.0]], dtype=F64)
    some = logs([0.8, 0.2, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])
    assert regret(some, ref.expand(3, 4), rewards.expand(3, 4), 1.0, "tv").abs().max() < 1e-12


@each
def test_a_reference_with_zeros(name):
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
def test_ten_thousand_prompts_are_one_at_a_time(name):
    torch.manual_seed(5)
    ref, rewards = torch.randn(10_000, 64, dtype=F64).log_softmax(-1), torch.randn(10_000, 64, dtype=F64)
    best, level = optimal_logps(ref, rewards, 0.5, name), multiplier(ref[:500], rewards[:500], 0.5, name)
    torch.testing.assert_close(best.exp().sum(-1), torch.ones(10_000, dtype=F64))
    for x in (0, 17, 471, 9_999):
        row = slice(x, x + 1)
        torch.testing.assert_close(best[row], optimal_logps(ref[row], rewards[row], 0.5, name), rtol=1e-12, atol=1e-12)
        one = multiplier(ref[row], rewards[row], 0.5, name)
        torch.testing.assert_close(level[row], one if x < 500 else level[row], rtol=1e-12, atol=1e-12)


def test_the_kl_by_the_way_of_any_other():
    # The Kullback–Leibler divergence in another name goes through root finding.
    ref, rewards, beta = random_tables()
    own = dataclasses.replace(DIVERGENCES["reverse_kl"])
    torch.testing.assert_close(optimal_logps(ref, rewards, beta, own), optimal_logps(ref, rewards, beta))
    torch.testing.assert_close(multiplier(ref, rewards, beta, own), beta * log_partition(ref, rewards, beta))
    policy = torch.randn_like(ref).log_softmax(-1)
    torch.testing.assert_close(f_divergence(policy, ref, own), kl(policy, ref))
    # A divergence that only borrows the name is not taken for it.
    chi2 = dataclasses.replace(DIVERGENCES["chi2"], name="reverse_kl")
    torch.testing.assert_close(optimal_logps(ref, rewards, beta, chi2), optimal_logps(ref, rewards, beta, "chi2"))


@each
def test_divergence_by_its_sum(name):
    divergence = DIVERGENCES[name]
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0], dtype=F64), torch.tensor([0.1, 0.6, 0.0, 0.3, 0.0], dtype=F64)
    found = float(f_divergence(p.log()[None], q.log()[None], name))
    f = {w: float(divergence.f(torch.tensor(math.log(w) if w else -math.inf, dtype=F64))) for w in (5.0, 0.5, 0.0)}
    by_hand = 0.1 * f[5.0] + 0.6 * f[0.5] + 0.2 * divergence.slope_at_infinity + 0.3 * f[0.0]
    assert found == pytest.approx(by_hand, rel=1e-14)
    assert math.isinf(found) == (name in ("reverse_kl", "chi2", "forward_kl"))
    assert float(f_divergence(q.log()[None], q.log()[None], name)) == 0


def test_known_divergences():
    p, q = logs([0.5, 0.3, 0.2]), logs([0.1, 0.6, 0.3])
    a, b = p.exp(), q.exp()
    assert float(f_divergence(p, q, "forward_kl")) == pytest.approx(float(kl(q, p)), rel=1e-14)
    assert float(f_divergence(p, q, "tv")) == pytest.approx(0.5 * float((a - b).abs().sum()), rel=1e-14)
    assert float(f_divergence(p, q, "chi2")) == pytest.approx(float(((a - b) ** 2 / b).sum()), rel=1e-14)
    assert float(f_divergence(p, q, "hellinger")) == pytest.approx(2 - 2 * float((a * b).sqrt().sum()), rel=1e-14)
    # EP3: the mean over π, as UPO's Eq. 13 prints it, is another number.
    assert float((a * DIVERGENCES["js"].f(p - q)).sum()) != pytest.approx(float(f_divergence(p, q, "js")), rel=0.1)


@each
def test_a_probability_too_small_for_a_float(name):
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
def test_gradients_of_any_objective(name):
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
def test_what_is_true_of_any_world(world, t, seed):
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


# ------------------------------------------------------------------------------------------------- preferences, Nash


def test_bradley_terry_and_its_rewards_by_hand():
    rewards = torch.tensor([[1.0, 0.0, -1.0]], dtype=F64)
    p = bradley_terry(rewards)
    by_hand = [[0.5, 0.731059, 0.880797], [0.268941, 0.5, 0.731059], [0.119203, 0.268941, 0.5]]
    torch.testing.assert_close(p[0], torch.tensor(by_hand, dtype=F64), rtol=0, atol=5e-7)
    mu = logs([0.5, 0.3, 0.2])
    # Ψ = identity: g(y1) = .5·.5 + .3·.731059 + .2·.880797
    assert preference_rewards(p, mu)[0, 0].item() == pytest.approx(0.25 + 0.3 * 0.731059 + 0.2 * 0.880797, abs=5e-7)
    # Ψ = logit: g = r − E_μ r = r − .3 (UPO Eq. 7), so that the optimum is the one of r itself.
    g = preference_rewards(p, mu, torch.logit)
    torch.testing.assert_close(g, rewards - 0.3)
    ref = logs([0.2, 0.2, 0.6])
    torch.testing.assert_close(optimal_logps(ref, g, 0.3), optimal_logps(ref, rewards, 0.3))
    # The mean is over the loser: the transpose would be the share of losses.
    assert (preference_rewards(p, mu) + preference_rewards(p.mT, mu) - 1).abs().max() < 1e-15


def test_preferences_that_are_certain():
    p = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]], dtype=F64)
    assert preference_rewards(p, logs([0.5, 0.5]), torch.logit)[0].tolist() == [math.inf, -math.inf]
    # An opponent that never gives the other response says nothing of it: not 0·∞.
    assert preference_rewards(p, logs([1.0, 0.0]), torch.logit)[0].tolist() == [0.0, -math.inf]


def test_nash_of_rock_paper_scissors():
    p = torch.tensor([[[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]], dtype=F64)
    for beta in (0.01, 1.0):
        found = nash_logps(p, logs([1 / 3, 1 / 3, 1 / 3]), beta)
        assert found.exp()[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-12)
    # A reference that likes rock pulls towards it, and the game towards its answer: nearly none of it at β = .01.
    found = nash_logps(p, logs([0.8, 0.1, 0.1]), 0.01).exp()[0]
    assert (found - 1 / 3).abs().max() < 0.03
    assert (nash_logps(p, logs([0.8, 0.1, 0.1]), 1e4).exp()[0] - torch.tensor([0.8, 0.1, 0.1])).abs().max() < 1e-4


def test_nash_of_two_responses_by_hand():
    # P(y1 ≻ y2) = .9, ref = ½: π1 = σ(g1 − g2) with g1 − g2 = .5π1 + .9π2 − .1π1 − .5π2 = .4, whatever π is.
    p = torch.tensor([[[0.5, 0.9], [0.1, 0.5]]], dtype=F64)
    found = nash_logps(p, logs([0.5, 0.5]), 0.5)
    assert found.exp()[0, 0].item() == pytest.approx(1 / (1 + math.exp(-0.8)), abs=1e-14)


@pytest.mark.parametrize("beta", [0.001, 0.01, 0.3, 10.0])
@pytest.mark.parametrize("sharp", [1.0, 30.0])
def test_nash_cannot_be_exploited(beta, sharp):
    torch.manual_seed(7)
    ref = (2 * torch.randn(6, 7, dtype=F64)).log_softmax(-1)
    scores = sharp * torch.randn(6, 7, 7, dtype=F64)
    p = (scores - scores.mT).sigmoid()  # no reward behind it: it goes round in circles
    found = nash_logps(p, ref, beta)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(6, dtype=F64))
    g = preference_rewards(p, found)
    torch.testing.assert_close(found, optimal_logps(ref, g, beta), rtol=1e-11, atol=1e-11)  # the fixed point
    assert regret(found, ref, g, beta).abs().max() < 1e-12  # no deviation gains
    assert regret(ref, ref, g, beta).min() > 0
    torch.testing.assert_close(nash_logps(p[2:3], ref[2:3], beta), found[2:3], rtol=1e-11, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(world=worlds)
def test_nash_is_unique_and_keeps_its_place(world):
    ref, scores, _, beta, _ = world
    ref = ref.log_softmax(-1)
    around = (scores[:, :, None] * scores.roll(1, -1)[:, None, :]).sin()
    p = (scores[:, :, None] - scores[:, None, :] + around).sigmoid()
    p = (p + 1 - p.mT) / 2
    found = nash_logps(p, ref, beta)
    order = torch.arange(ref.shape[-1]).flip(0)
    torch.testing.assert_close(nash_logps(p[:, order][:, :, order], ref[:, order], beta), found[:, order])
    assert regret(found, ref, preference_rewards(p, found), beta).max() < 1e-12


# ---------------------------------------------------------------------------------------------------- what is refused

REF, REWARDS = logs([0.5, 0.5], [0.2, 0.8]), torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64)
PREFERENCES = bradley_terry(REWARDS)
OF_REWARDS = {
    "log_partition": lambda ref=REF, rewards=REWARDS, beta=1.0: log_partition(ref, rewards, beta),
    "sampled": lambda ref=REF, rewards=REWARDS, beta=1.0: sampled_log_partition(ref, rewards, beta, 2),
    "optimal_logps": lambda ref=REF, rewards=REWARDS, beta=1.0: optimal_logps(ref, rewards, beta),
    "optimal_logps chi2": lambda ref=REF, rewards=REWARDS, beta=1.0: optimal_logps(ref, rewards, beta, "chi2"),
    "multiplier": lambda ref=REF, rewards=REWARDS, beta=1.0: multiplier(ref, rewards, beta),
    "multiplier js": lambda ref=REF, rewards=REWARDS, beta=1.0: multiplier(ref, rewards, beta, "js"),
    "objective": lambda ref=REF, rewards=REWARDS, beta=1.0: objective(REF, ref, rewards, beta),
    "objective, policy": lambda ref=REF, rewards=REWARDS, beta=1.0: objective(ref, REF, rewards, beta, "tv"),
    "regret": lambda ref=REF, rewards=REWARDS, beta=1.0: regret(REF, ref, rewards, beta),
    "regret, policy": lambda ref=REF, rewards=REWARDS, beta=1.0: regret(ref, REF, rewards, beta, "js"),
    "expected_reward": lambda ref=REF, rewards=REWARDS: expected_reward(ref, rewards),
    "bradley_terry": lambda rewards=REWARDS: bradley_terry(rewards),
    "kl": lambda ref=REF: kl(ref, REF),
    "kl, other": lambda ref=REF: kl(REF, ref),
    "f_divergence": lambda ref=REF: f_divergence(ref, REF, "tv"),
    "entropy": lambda ref=REF: entropy(ref),
    "nash_logps": lambda ref=REF, beta=1.0: nash_logps(PREFERENCES, ref, beta),
    "preference_rewards": lambda ref=REF: preference_rewards(PREFERENCES, ref),
}
BAD = [
    ("beta", 0.0, "beta must be positive and finite, one number, got 0.0"),
    ("beta", -1.0, "beta .* got -1.0"),
    ("beta", math.nan, "beta .* got nan"),
    ("beta", math.inf, "beta .* got inf"),
    ("beta", torch.ones(2, 1), "beta .* one number, got tensor"),
    ("rewards", REWARDS.where(REWARDS < 2, math.nan), r"rewards must be finite, got nan at \(1, 0\)"),
    ("rewards", -REWARDS / 0, r"rewards must be finite, got -inf at \(0, 0\)"),
    ("rewards", REWARDS[0], r"(one|share one) shape \(prompts, responses\), got .*'rewards': \(2,\)"),
    ("rewards", REWARDS[None], r"one shape \(prompts, responses\), got .*'rewards': \(1, 2, 2\)"),
    ("ref", logs([0.5, 0.5], [0.2, 0.7]), r"logps|other: each row must sum to one, row 1 sums to 0\.9"),
    ("ref", REF * math.nan, "each row must sum to one, row 0 sums to nan"),
    ("ref", REF.exp(), "each row must sum to one, row . sums to 3"),
]
SHAPES = [
    ("rewards", REWARDS[:, :1], r"one shape .*'rewards': \(2, 1\)"),
    ("rewards", REWARDS[:1], r"one shape .*'rewards': \(1, 2\)"),
    ("ref", REF[:1], r"one shape .*\(1, 2\)|must be \(1, 2, 2\) \(prompts, winner, loser\), got \(2, 2, 2\)"),
    ("ref", REF[0], r"one shape .*\(2,\)"),
    ("ref", torch.zeros(2, 1), r"one shape .*\(2, 1\)|must be \(2, 1, 1\) \(prompts, winner, loser\), got \(2, 2, 2\)"),
]


@pytest.mark.parametrize("function", OF_REWARDS)
def test_bad_tables_are_refused_by_all(function):
    taken = inspect.signature(OF_REWARDS[function]).parameters
    alone = len(taken) == 1 and function in ("bradley_terry", "entropy")
    OF_REWARDS[function]()
    for name, value, message in BAD + ([] if alone else SHAPES):
        if name in taken:
            with pytest.raises(ValueError, match=message):
                OF_REWARDS[function](**{name: value})


@pytest.mark.parametrize("function", [nash_logps, preference_rewards])
def test_bad_preferences_are_refused(function):
    rest = (REF, 1.0) if function is nash_logps else (REF,)
    for wrong, message in (
        (PREFERENCES[0], r"preferences must be \(2, 2, 2\) \(prompts, winner, loser\), got \(2, 2\)"),
        (PREFERENCES[:1], r"preferences must be \(2, 2, 2\) .*, got \(1, 2, 2\)"),
        (PREFERENCES[..., :1], r"preferences must be \(2, 2, 2\) .*, got \(2, 2, 1\)"),
        (PREFERENCES + 0.6, r"between 0 and 1, got 1.1 at \(0, 0, 0\)"),
        (PREFERENCES.where(PREFERENCES > 0.2, -0.25), r"between 0 and 1, got -0.25 at \(1, 1, 0\)"),
        (PREFERENCES.where(PREFERENCES > 0.2, math.nan), r"between 0 and 1, got nan at \(1, 1, 0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            function(wrong, *rest)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"must be 1, off by up to 0.2"):
        nash_logps((PREFERENCES - 0.1).clamp(0, 1), REF, 1.0)
    with pytest.raises(ValueError, match=r"ref_logps must be finite, got -inf at \(1, 0\)"):
        nash_logps(PREFERENCES, logs([0.5, 0.5], [0.0, 1.0]), 1.0)
    with pytest.raises(ValueError, match=r"psi must give a number for each preference, got .* \(2, 2\)"):
        preference_rewards(PREFERENCES, REF, lambda p: p.mean(-1))
    with pytest.raises(ValueError, match="psi must give a number"):
        preference_rewards(PREFERENCES, REF, lambda p: p * math.nan)
    for function in (optimal_logps, multiplier):
        with pytest.raises(ValueError, match="divergence must be one of reverse_kl, .*, got 'kl'"):
            function(REF, REWARDS, 1.0, "kl")
    for function in (objective, regret):
        with pytest.raises(ValueError, match="got 'JS'"):
            function(REF, REF, REWARDS, 1.0, "JS")
    with pytest.raises(ValueError, match="got 'KL'"):
        f_divergence(REF, REF, "KL")
