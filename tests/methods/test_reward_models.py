"""Reward models on ranked lists and with margins, by hand."""

import itertools
import math

import pytest
import torch

from una_ref.methods.pairs import reward_model
from una_ref.methods.reward_models import reward_model_lists, reward_model_margin

F64 = torch.float64


def ranked(rewards, scores=None, mask=None):
    rewards = torch.tensor(rewards, dtype=F64)
    scores = (
        torch.tensor(scores, dtype=F64) if scores else -torch.arange(rewards.shape[1], dtype=F64).expand_as(rewards)
    )
    return {"rewards": rewards, "scores": scores, "mask": torch.tensor(mask) if mask else torch.ones_like(rewards) > 0}


def test_list_loss_is_the_mean_over_the_pairs_of_a_list():
    # r = (2, 1, 0, −1): three gaps of 1, two of 2, one of 3. The survey's Eq. 1 divides by 6 once more: 0.0345 (ES1).
    expected = sum(n * math.log(1 + math.exp(-gap)) for n, gap in ((3, 1), (2, 2), (1, 3))) / 6
    value = reward_model_lists(**ranked([[2.0, 1, 0, -1]])).item()
    assert value == pytest.approx(expected, abs=1e-15) and value == pytest.approx(0.20704, abs=5e-6)


def test_list_of_two_is_a_pair():
    rewards = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([[2.0, 1.0]], dtype=F64).expand(5, 2)
    losses = reward_model_lists(rewards=rewards, scores=scores, mask=torch.ones(5, 2, dtype=torch.bool))
    expected = reward_model(chosen_rewards=rewards[:, 0], rejected_rewards=rewards[:, 1])
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-15)


def test_list_loss_compares_by_score_and_not_by_place():
    rewards, scores = [[0.3, -1.0, 2.0, 0.5]], [[1.0, 3.0, 0.5, 2.0]]
    pairs = [(i, j) for i, j in itertools.permutations(range(4), 2) if scores[0][i] > scores[0][j]]
    expected = sum(math.log(1 + math.exp(rewards[0][j] - rewards[0][i])) for i, j in pairs) / 6
    assert reward_model_lists(**ranked(rewards, scores)).item() == pytest.approx(expected, abs=1e-15)


def test_tied_pairs_are_left_out_of_a_list():
    # Scores 2, 1, 1: two pairs are left. A list of ties alone has no loss and no gradient.
    value = reward_model_lists(**ranked([[0.0, 1.0, 2.0]], [[2.0, 1.0, 1.0]])).item()
    assert value == pytest.approx((math.log(1 + math.e) + math.log(1 + math.e**2)) / 2, abs=1e-15)
    tied = ranked([[0.0, 1.0]], [[1.0, 1.0]])
    loss = reward_model_lists(**tied | {"rewards": tied["rewards"].requires_grad_()})
    (gradient,) = torch.autograd.grad(loss.sum(), tied["rewards"])
    assert loss.item() == 0 and gradient.tolist() == [[0, 0]]


def test_what_is_outside_the_mask_of_a_list_changes_nothing():
    plain = reward_model_lists(**ranked([[0.2, 1.0]]))
    for filler in (math.nan, math.inf, 7.0):
        padded = ranked([[0.2, 1.0, filler]], [[0.0, -1.0, filler]], [[True, True, False]])
        rewards = padded["rewards"].requires_grad_()
        loss = reward_model_lists(**padded)
        (gradient,) = torch.autograd.grad(loss.sum(), rewards)
        assert loss.item() == plain.item() and gradient.isfinite().all() and gradient[0, 2] == 0


def one_pair(chosen, rejected, margin):
    values = {"chosen_rewards": chosen, "rejected_rewards": rejected, "margins": margin}
    return {name: torch.tensor([float(value)], dtype=F64) for name, value in values.items()}


def test_margin_shifts_the_likelihood_and_centring_penalises_the_sum():
    # r = (2, 1), m = 1: −log σ(0) = log 2. c = 0.1: 0.1·(2 + 1)² more.
    assert reward_model_margin(**one_pair(2, 1, 1)).item() == pytest.approx(math.log(2), abs=1e-15)
    assert reward_model_margin(**one_pair(2, 1, 1), centring=0.1).item() == pytest.approx(math.log(2) + 0.9, abs=1e-15)


def test_margin_of_zero_is_the_plain_reward_model(random_arguments):
    arguments = random_arguments(reward_model)
    margins = torch.zeros(6, dtype=F64)
    assert torch.equal(reward_model_margin(**arguments, margins=margins), reward_model(**arguments))


def test_negative_centring_is_refused():
    with pytest.raises(ValueError, match="centring must be at least 0, got -1"):
        reward_model_margin(**one_pair(2, 1, 1), centring=-1)
