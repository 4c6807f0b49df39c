"""The optimizer: which parameters have which learning rate, at every step."""

import math

import pytest
import torch
from torch import nn

from una_ref.training.config import Config
from una_ref.training.optimizer import optimizer_of, rate


def test_learning_rate_warms_up_then_falls_or_stays_constant():
    cosine = Config(method="dpo", steps=10, warmup=0.2)
    by_hand = [1 / 3, 2 / 3, *(0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(8))]
    assert [rate(cosine, step) for step in range(10)] == pytest.approx(by_hand)
    constant = Config(method="dpo", steps=10, warmup=0.2, schedule="constant")
    assert [rate(constant, step) for step in range(10)] == pytest.approx([1 / 3, 2 / 3, *[1] * 8])
    linear = Config(method="dpo", steps=10, warmup_steps=2, schedule="linear")
    by_hand = [1 / 3, 2 / 3, *(1 - k / 8 for k in range(8))]
    assert [rate(linear, step) for step in range(10)] == pytest.approx(by_hand)
    assert rate(Config(method="dpo", steps=3, warmup=0), 0) == 1
    assert rate(Config(method="dpo", steps=3, warmup_steps=0), 0) == 1


def test_policy_values_and_critic_have_rates_of_their_own():
    trained = {name: nn.Parameter(torch.zeros(2)) for name in ("weight", "critic.head.weight", "V(x)")}
    for given, values, critic in ((None, 0.05, 0.3), (0.7, 0.7, 0.7)):
        config = Config(method="dpo", lr=0.3, value_lr=given, weight_decay=0.1)
        groups = optimizer_of(config, trained).param_groups
        found = [
            (group["params"][0] is trained[name], group["peak"], group["weight_decay"])
            for group, name in zip(groups, ("weight", "V(x)", "critic.head.weight"), strict=True)
        ]
        assert found == [(True, 0.3, 0.1), (True, values, 0.0), (True, critic, 0.1)]
