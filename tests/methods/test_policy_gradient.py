"""REINFORCE, RLOO and PPO: their gradients equal UNA's on every sample, and exactly ∇J in expectation."""

import itertools
import math

import pytest
import torch

from una_ref.methods import METHODS, policy_gradient
from una_ref.theory import TableWorld, objective

F64 = torch.float64
BETA = 0.5


def responses(seed=0, size=6):
    torch.manual_seed(seed)
    logps, ref_logps, scores = torch.randn(3, size, dtype=F64)
    return {"logps": logps.requires_grad_(), "ref_logps": ref_logps, "scores": scores, "beta": BETA}


def gradient(name, **arguments):
    return torch.autograd.grad(METHODS[name].loss(**arguments).sum(), arguments["logps"])[0]


def test_reinforce_gradient_by_hand():
    # u = −1 − (−2) = 1; s − β·u = 2 − 0.5 = 1.5; minus the baseline 0.5 it is 1: the gradient in log π is −1.
    arguments = {"ref_logps": torch.tensor([-2.0]), "scores": torch.tensor([2.0]), "beta": BETA}
    assert gradient("reinforce", logps=torch.tensor([-1.0], requires_grad=True), baseline=0.5, **arguments) == -1.0


def test_rloo_gradient_uses_leave_one_out_advantages():
    # π = π_ref, scores 3, 1, 2: the means of the other scores are 1.5, 2.5, 2, so the advantages are 1.5, −1.5, 0.
    logps = torch.zeros(3, dtype=F64, requires_grad=True)
    arguments = {"ref_logps": torch.zeros(3, dtype=F64), "scores": torch.tensor([3.0, 1.0, 2.0], dtype=F64)}
    groups = torch.zeros(3, dtype=torch.int64)
    expected = torch.tensor([-1.5, 1.5, 0.0], dtype=F64)
    rloo_gradient = gradient("rloo", logps=logps, groups=groups, beta=BETA, **arguments)
    torch.testing.assert_close(rloo_gradient, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("una", "policy_gradient", "more"),
    [
        ("una-score", "reinforce", {"baseline": 0.7}),
        ("una-online", "reinforce", {"baseline": 0.0}),
        ("una-centred", "rloo", {"groups": torch.tensor([0, 0, 0, 1, 1, 1])}),
    ],
)
def test_una_gradient_is_two_beta_times_policy_gradient_on_every_sample(una, policy_gradient, more):
    arguments = responses()
    twice = 2 * BETA * gradient(policy_gradient, **arguments, **more)
    torch.testing.assert_close(gradient(una, **arguments, **more), twice, rtol=0, atol=1e-14)


def test_rloo_expected_gradient_is_minus_the_gradient_of_j():
    # All triples of responses are enumerated with their probabilities. A sampler other than π has another expectation.
    torch.manual_seed(1)
    world = TableWorld(torch.randn(1, 4, dtype=F64).log_softmax(-1), torch.randn(1, 4, dtype=F64) + 2, BETA)
    logits = torch.randn(1, 4, dtype=F64, requires_grad=True)

    def expected(sampler):
        logps = logits.log_softmax(-1)[0]
        total = torch.zeros((), dtype=F64)
        for triple in itertools.product(range(4), repeat=3):
            y = list(triple)
            losses = METHODS["rloo"].loss(
                logps=logps[y],
                ref_logps=world.ref_logps[0, y],
                scores=world.rewards[0, y],
                groups=torch.zeros(3, dtype=torch.int64),
                beta=BETA,
            )
            total = total + sampler[y].prod() * losses.mean()
        return torch.autograd.grad(total, logits)[0]

    j = objective(logits.log_softmax(-1), world.ref_logps, world.rewards, BETA).sum()
    (up,) = torch.autograd.grad(j, logits)
    torch.testing.assert_close(expected(logits.softmax(-1)[0].detach()), -up, rtol=0, atol=1e-14)
    assert (expected(torch.full((4,), 0.25, dtype=F64)) + up).abs().max() > 0.05


# ---- PPO


def tokens(**rows):
    """(1, T) tensors of the rows given."""
    return {name: torch.tensor([row], dtype=F64) for name, row in rows.items()}


def test_gae_by_hand():
    # r = (0, 1, 2), V = (3, 4, 5), γ = 0.5, λ = 0.8: δ = (0 + 2 − 3, 1 + 2.5 − 4, 2 − 5) = (−1, −0.5, −3).
    # Backwards with γλ = 0.4: A_3 = −3, A_2 = −0.5 − 1.2 = −1.7, A_1 = −1 − 0.68 = −1.68. Position 4 is padding.
    x = tokens(rewards=[0, 1, 2, 9], values=[3, 4, 5, 7])
    mask = torch.tensor([[True, True, True, False]])
    advantages = policy_gradient.gae(x["rewards"] * mask, x["values"], mask, gamma=0.5, lam=0.8)
    torch.testing.assert_close(advantages, torch.tensor([[-1.68, -1.7, -3.0, 0.0]], dtype=F64))


def test_token_rewards_add_up_to_the_response_reward():
    torch.manual_seed(0)
    logps, ref = -torch.rand(2, 3, dtype=F64), -torch.rand(2, 3, dtype=F64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    scores = torch.tensor([2.0, -1.0], dtype=F64)
    rewards = policy_gradient.token_rewards(logps, ref, scores, mask, beta=0.5)
    implicit = 0.5 * ((logps - ref) * mask).sum(1)
    torch.testing.assert_close(rewards.sum(1), scores - implicit)
    assert rewards[1, 2] == 0
    # The score is added at the last token, not at the end of the row.
    torch.testing.assert_close(rewards[1, 1], -0.5 * (logps - ref)[1, 1] - 1.0)


def test_whitening_uses_only_tokens_in_the_mask():
    x = torch.tensor([[1.0, 3.0, 99.0], [5.0, 99.0, 99.0]], dtype=F64)
    mask = x < 99
    white = policy_gradient.whitened(x, mask)  # mean 3, standard deviation 2
    torch.testing.assert_close(white, torch.tensor([[-1, 0, 0], [1, 0, 0]], dtype=F64), atol=1e-7, rtol=0)
    # In float32 the mean of 96 equal numbers is rounded. That rounding must not count as spread.
    equal = torch.full((96, 1), 2.7)
    assert policy_gradient.whitened(equal, equal > 0).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.4, 0.0),
        (1.5, -2.0, 3.0, 3.0),
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.1, 2.0, -2.2, -2.2),
    ],
)
def test_ppo_clipped_ratio_loss_and_slope_by_hand(ratio, advantage, loss, slope):
    # The loss is max(−ρA, −clip(ρ, 0.8, 1.2)·A). Its derivative in log π is −ρA or 0.
    logps = torch.tensor([[math.log(ratio)]], dtype=F64, requires_grad=True)
    zero = torch.zeros(1, 1, dtype=F64)
    arguments = {"old_token_logps": zero, "values": zero, "old_values": zero, "returns": zero}
    value = METHODS["ppo"].loss(
        token_logps=logps, advantages=zero + advantage, mask=torch.ones(1, 1, dtype=torch.bool), **arguments
    )
    torch.testing.assert_close(value, torch.tensor([loss], dtype=F64))
    torch.testing.assert_close(torch.autograd.grad(value.sum(), logps)[0], torch.tensor([[slope]], dtype=F64))


@pytest.mark.parametrize("sign", [1, -1])
def test_ppo_value_is_clipped_on_both_sides_of_the_old_value(sign):
    # V_old = 0, R = 1: V = 0.1 is within ±0.2: 0.9²/2. V = 0.5 is cut to 0.2, where the error is larger: 0.8²/2.
    # With R = −1 the same holds for V = −0.1 and V = −0.5.
    zero = torch.zeros(1, 1, dtype=F64)
    for value, expected in ((0.1, 0.405), (0.5, 0.32)):
        loss = METHODS["ppo"].loss(
            token_logps=zero,
            old_token_logps=zero,
            advantages=zero,
            values=zero + sign * value,
            old_values=zero,
            returns=zero + sign,
            mask=zero == 0,
            value_weight=1.0,
        )
        torch.testing.assert_close(loss, torch.tensor([expected], dtype=F64))


def test_ppo_ignores_values_outside_the_mask(random_arguments):
    arguments = random_arguments(METHODS["ppo"].loss)
    outside = {
        n: x.masked_fill(~arguments["mask"], 50.0) for n, x in arguments.items() if torch.is_tensor(x) and x.dim() == 2
    }
    assert torch.equal(
        METHODS["ppo"].loss(**arguments | outside | {"mask": arguments["mask"]}), METHODS["ppo"].loss(**arguments)
    )


@pytest.fixture
def language():
    """Two words, two positions: logits of the first word (2,), of the second after each (2, 2), and four scores."""
    torch.manual_seed(3)
    first, second = (torch.randn(*size, dtype=F64, requires_grad=True) for size in ((2,), (2, 2)))
    ref_logps = torch.randn(3, 2, dtype=F64).log_softmax(-1)
    ref = torch.stack([ref_logps[0][:, None].expand(2, 2), ref_logps[1:]], -1).view(4, 2)
    scores = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=F64)

    def token_logps():
        a, b = first.log_softmax(-1), second.log_softmax(-1)
        return torch.stack([a[:, None].expand(2, 2), b], -1).view(4, 2)  # 00, 01, 10, 11

    return (first, second), token_logps, ref, scores


def slopes(value, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])


def test_ppo_is_finite_with_nan_outside_the_mask(random_arguments):
    arguments = random_arguments(METHODS["ppo"].loss)
    mask = arguments["mask"]
    assert not mask.all()
    spoilt = {n: x.masked_fill(~mask, torch.nan) if n != "mask" else x for n, x in arguments.items()}
    spoilt["token_logps"].requires_grad_()
    losses = METHODS["ppo"].loss(**spoilt)
    torch.testing.assert_close(losses.detach(), METHODS["ppo"].loss(**arguments), rtol=0, atol=0)
    (slope,) = torch.autograd.grad(losses.sum(), spoilt["token_logps"])
    assert slope.isfinite().all() and slope.abs().max() > 0


def test_ppo_expected_gradient_is_the_policy_gradient(language):
    # At ratio 1, λ = 1, γ = 1 and without whitening, Σ_y π(y)·∇loss = −∇J for any critic of the prefix.
    # Rewards-to-go leave out only past rewards, and the value of a prefix is a baseline. The KL is over sequences.
    parameters, token_logps, ref, scores = language
    beta, mask = 0.7, torch.ones(4, 2, dtype=torch.bool)
    logps = token_logps()
    sequence = logps.sum(1)
    objective = (sequence.exp() * (scores - beta * (sequence - ref.sum(1)))).sum()
    old = logps.detach()
    # A critic sees the prompt before the first word and that word before the second.
    values = torch.tensor([[0.3, -1.0], [0.3, -1.0], [0.3, 2.0], [0.3, 2.0]], dtype=F64)
    more = {"ref_token_logps": ref, "old_values": values, "scores": scores, "mask": mask, "beta": beta}
    advantages, returns = METHODS["ppo"].advantages(old_token_logps=old, **more, lam=1.0, whiten=0)
    rollout = {"old_token_logps": old, "values": values, "old_values": values, "mask": mask, "value_weight": 0.0}
    loss = METHODS["ppo"].loss(token_logps=token_logps(), advantages=advantages, returns=returns, **rollout)
    expected = slopes((old.sum(1).exp() * loss).sum(), parameters)
    torch.testing.assert_close(expected, -slopes(objective, parameters), rtol=0, atol=1e-12)


def test_gradient_of_a_kl_estimate_is_not_the_gradient_of_the_kl(language):
    # E ∇(log π − log π_ref) = 0, and E ∇(ratio − 1 − log ratio) is the gradient of the other KL.
    # This is why the KL estimate belongs in the reward.
    parameters, token_logps, ref, _ = language
    sequence, reference = token_logps().sum(1), ref.sum(1)
    weight = sequence.detach().exp()
    kl = slopes((sequence.exp() * (sequence - reference)).sum(), parameters)
    sequence = token_logps().sum(1)
    k1 = slopes((weight * (sequence - reference)).sum(), parameters)
    sequence = token_logps().sum(1)
    k3 = slopes((weight * ((reference - sequence).exp() - 1 - (reference - sequence))).sum(), parameters)
    reverse = slopes((reference.exp() * (reference - token_logps().sum(1))).sum(), parameters)
    assert k1.abs().max() < 1e-12 < 1e-2 < kl.abs().max()
    torch.testing.assert_close(k3, reverse, rtol=0, atol=1e-12)
    assert (k3 - kl).abs().max() > 1e-2


def test_per_token_kl_penalty_loses_the_cross_terms_of_a_sequence_kl(language):
    # If each token sees only its own log-ratio (γ = 0 for the KL), later tokens' KL does not reach the first word.
    parameters, token_logps, ref, _ = language
    logps = token_logps()
    sequence = logps.sum(1)
    kl = slopes((sequence.exp() * (sequence - ref.sum(1))).sum(), parameters)
    gaps = (logps - ref).detach()
    weight = sequence.detach().exp()[:, None]
    alone = slopes((weight * gaps * token_logps()).sum(), parameters)
    to_go = slopes((weight * gaps.flip(1).cumsum(1).flip(1) * token_logps()).sum(), parameters)
    torch.testing.assert_close(to_go, kl, rtol=0, atol=1e-12)
    assert (alone - kl).abs().max() > 1e-2


def test_prompt_offset_known_to_the_critic_leaves_ppo_advantages_unchanged():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    logps, ref, values = (torch.randn(3, 3, dtype=F64) for _ in range(3))
    scores, offset = torch.randn(3, dtype=F64), 5.0
    arguments = {"old_token_logps": logps, "ref_token_logps": ref, "mask": mask, "whiten": 0}
    plain, _ = METHODS["ppo"].advantages(old_values=values, scores=scores, **arguments)
    known, returns = METHODS["ppo"].advantages(old_values=values + offset, scores=scores + offset, **arguments)
    unknown, _ = METHODS["ppo"].advantages(old_values=values, scores=scores + offset, **arguments)
    torch.testing.assert_close(known, plain, rtol=0, atol=1e-12)
    assert (unknown - plain).abs().max() > 1
    torch.testing.assert_close(returns, (known + values + offset) * mask)


@pytest.mark.parametrize(("whiten", "unchanged"), [(0.0, True), (1.0, False)])
def test_prompt_offset_unknown_to_the_critic_changes_the_expected_step_of_whitened_advantages(whiten, unchanged):
    # Rollouts of one word for each of two prompts, all nine of them; the critic says 0. Without whitening the offsets
    # are two baselines, which the expected score function removes. The scale of whitening contains them.
    ppo, logits = METHODS["ppo"], torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    rewards = torch.tensor([[1.0, 0.0, -1.0], [0.5, -0.5, 2.0]], dtype=F64)
    mask = torch.ones(2, 1, dtype=torch.bool)

    def expected_step(offset):
        trained = logits.clone().requires_grad_()
        logps, total = trained.log_softmax(-1), 0.0
        for words in torch.cartesian_prod(torch.arange(3), torch.arange(3)):
            sampled = logps.gather(1, words[:, None])
            old, scores = sampled.detach(), rewards.gather(1, words[:, None])[:, 0] + offset
            advantages, _ = ppo.advantages(
                old_token_logps=old, ref_token_logps=old, old_values=0 * old, scores=scores, mask=mask, whiten=whiten
            )
            total = total - old.sum().exp() * (advantages * (sampled - old).exp()).sum()
        return torch.autograd.grad(total, trained)[0]

    offset = torch.tensor([3.0, -2.0], dtype=F64)
    assert torch.allclose(expected_step(offset), expected_step(0 * offset), rtol=0, atol=1e-12) == unchanged
    assert ppo.hyperparameters["whiten"] == 1 and ppo.invariance == "no"


def test_ptx_is_a_weighted_negative_log_likelihood():
    logps = torch.tensor([-2.0, -3.0])
    assert METHODS["ppo"].auxiliary.loss(logps=logps, ptx=0.5).tolist() == [1.0, 1.5]


def test_released_una_online_uses_the_rollout_policy_as_reference():
    # In the first pass log π = log π_rollout: r = 0, and the gradient is 2·(½ − σ(s))·¼·β·∇log π. π_ref does not occur.
    logps = torch.tensor([-2.0, -5.0], dtype=F64, requires_grad=True)
    scores = torch.tensor([0.0, 2.0], dtype=F64)
    loss = METHODS["una-online"].released(logps=logps, old_logps=logps.detach(), scores=scores, beta=3.0)
    expected = 2 * (0.5 - scores.sigmoid()) * 0.25 * 3.0
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logps)[0], expected)
