"""Tables of different shapes, rows that are no distribution and rewards that are not finite are refused everywhere."""

import inspect
import math

import pytest
import torch

from una_ref.theory import (
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
    ("beta", 0.0, "beta: expected one positive, finite number, got 0.0"),
    ("beta", -1.0, "beta: .* got -1.0"),
    ("beta", math.nan, "beta: .* got nan"),
    ("beta", math.inf, "beta: .* got inf"),
    ("beta", torch.ones(2, 1), "beta: .* got tensor"),
    ("rewards", REWARDS.where(REWARDS < 2, math.nan), r"rewards: expected finite numbers, got nan at \(1, 0\)"),
    ("rewards", -REWARDS / 0, r"rewards: expected finite numbers, got -inf at \(0, 0\)"),
    ("rewards", REWARDS[0], r"expected the same shape \(prompts, responses\), got .*'rewards': \(2,\)"),
    ("rewards", REWARDS[None], r"expected the same shape \(prompts, responses\), got .*'rewards': \(1, 2, 2\)"),
    ("ref", logs([0.5, 0.5], [0.2, 0.7]), r"(logps|other): .* got row 1 whose probabilities sum to 0\.9"),
    ("ref", REF * math.nan, "row 0 whose probabilities sum to nan"),
    ("ref", REF.exp(), "row . whose probabilities sum to 3"),
]
SHAPES = [
    ("rewards", REWARDS[:, :1], r"the same shape .*'rewards': \(2, 1\)"),
    ("rewards", REWARDS[:1], r"the same shape .*'rewards': \(1, 2\)"),
    ("ref", REF[:1], r"the same shape .*\(1, 2\)|expected the shape \(1, 2, 2\) .*, got \(2, 2, 2\)"),
    ("ref", REF[0], r"the same shape .*\(2,\)"),
    ("ref", torch.zeros(2, 1), r"the same shape .*\(2, 1\)|expected the shape \(2, 1, 1\) .*, got \(2, 2, 2\)"),
]


@pytest.mark.parametrize("function", OF_REWARDS)
def test_every_function_refuses_tables_that_do_not_fit(function):
    taken = inspect.signature(OF_REWARDS[function]).parameters
    alone = len(taken) == 1 and function in ("bradley_terry", "entropy")
    OF_REWARDS[function]()
    for name, value, message in BAD + ([] if alone else SHAPES):
        if name in taken:
            with pytest.raises(ValueError, match=message):
                OF_REWARDS[function](**{name: value})


def test_rows_may_be_off_by_what_float32_leaves():
    rewards = torch.tensor([[1.0, 0.0]], dtype=F64)
    assert log_partition(logs([0.5, 0.50005]), rewards, 1.0).isfinite()
    with pytest.raises(ValueError, match=r"ref_logps: expected log-probabilities, .* sum to 1.0003. Fix: log_softmax"):
        log_partition(logs([0.5, 0.5003]), rewards, 1.0)


def test_an_unknown_divergence_is_refused_with_the_known_ones():
    for function in (optimal_logps, multiplier):
        with pytest.raises(ValueError, match="divergence: expected one of reverse_kl, .*, got 'kl'"):
            function(REF, REWARDS, 1.0, "kl")
    for function in (objective, regret):
        with pytest.raises(ValueError, match="got 'JS'"):
            function(REF, REF, REWARDS, 1.0, "JS")
    with pytest.raises(ValueError, match="got 'KL'"):
        f_divergence(REF, REF, "KL")
