"""The reward model of preference probabilities: a value by hand, its minimum, and the reward model as its limit."""

import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.soft_labels import soft_reward_model

F64 = torch.float64


def loss(margin, odds):
    """The loss of one pair with these differences of rewards and of scores."""
    sides = {"chosen_rewards": torch.tensor([margin], dtype=F64), "rejected_rewards": torch.zeros(1, dtype=F64)}
    return float(soft_reward_model(**sides, margins=torch.tensor([odds], dtype=F64)))


def test_soft_reward_model_by_hand():
    # p = σ(log 3) = 3/4 and σ(m) = 2/3 at m = log 2: −(3/4)·log(2/3) − (1/4)·log(1/3) = log 3 − (3/4)·log 2.
    assert loss(math.log(2), math.log(3)) == pytest.approx(math.log(3) - 0.75 * math.log(2))


def test_soft_reward_model_has_its_minimum_at_the_log_odds():
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert loss(math.log(3), math.log(3)) == pytest.approx(entropy)
    assert min(loss(math.log(3) + 0.1, math.log(3)), loss(math.log(3) - 0.1, math.log(3))) > entropy + 1e-4


def test_soft_reward_model_of_a_certain_preference_is_the_reward_model():
    for margin in (-50.0, -1.0, 0.0, 2.0):
        sides = {"chosen_rewards": torch.tensor([margin]), "rejected_rewards": torch.zeros(1)}
        certain = soft_reward_model(**sides, margins=torch.tensor([1000.0]))
        torch.testing.assert_close(certain, METHODS["reward-model"].loss(**sides))


def test_swapping_the_responses_of_a_pair_changes_nothing():
    assert loss(0.7, -0.4) == pytest.approx(loss(-0.7, 0.4))


def test_population_minimum_is_the_log_odds_whatever_the_pairs():
    # Every pair of 4 responses, the wrong order as often as the right one: rewards differ by the scores' differences.
    scores = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=F64)
    rewards = torch.zeros(4, dtype=F64, requires_grad=True)
    first, second = torch.combinations(torch.arange(4)).T
    optimizer = torch.optim.LBFGS([rewards], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        sides = {"chosen_rewards": rewards[first], "rejected_rewards": rewards[second]}
        total = soft_reward_model(**sides, margins=scores[first] - scores[second]).sum()
        total.backward()
        return total

    optimizer.step(closure)
    torch.testing.assert_close(rewards - rewards[0], scores - scores[0], rtol=0, atol=1e-4)
