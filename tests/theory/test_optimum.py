"""The exact optimum: hand-derived numbers, the identities of its docstring, zeros, and what is refused."""

import math

import pytest
import torch

from una_ref.theory import (
    entropy,
    expected_reward,
    kl,
    log_partition,
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
    log_z = log_partition(
        logs([0.5, 0.5], [0.5, 0.5]), torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64), 1.0
    )
    assert log_z.exp().tolist() == pytest.approx([1.859, 4.195], abs=5e-4)
    assert log_z.mean().item() == pytest.approx(1.0269, abs=5e-5)
    assert log_z.exp().mean().log().item() == pytest.approx(1.1075, abs=5e-5)


def test_implicit_reward_is_the_reward_only_up_to_log_z():
    # EU2: β·log π*/ref = (.380, −.620), not (1, 0); with β·log Z added it is.
    ref, rewards = logs([0.5, 0.5]), torch.tensor([[1.0, 0.0]], dtype=F64)
    implicit = optimal_logps(ref, rewards, 1.0) - ref
    assert implicit[0].tolist() == pytest.approx([0.380, -0.620], abs=5e-4)
    torch.testing.assert_close(
        implicit + log_partition(ref, rewards, 1.0)[:, None], rewards, rtol=0, atol=1e-15
    )


def test_regret_is_beta_kl_to_the_optimum():
    ref, rewards, beta = random_tables()
    logps = torch.randn_like(ref).log_softmax(-1)
    best = optimal_logps(ref, rewards, beta)
    torch.testing.assert_close(regret(logps, ref, rewards, beta), beta * kl(logps, best), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        regret(best, ref, rewards, beta), torch.zeros(5, dtype=F64), rtol=0, atol=1e-12
    )


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
    torch.testing.assert_close(
        regret(policy, ref, rewards + offset, beta), regret(policy, ref, rewards, beta)
    )
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
    with pytest.raises(ValueError, match=r"logps: each row must sum to one, row 0 sums to nan"):
        regret(ref * math.nan, ref, rewards, 1.0)
    with pytest.raises(ValueError, match=r"rewards must be finite"):
        log_partition(ref, rewards / 0, 1.0)
