"""Exact mathematics in float64: tensors in, tensors out, nothing else of the package needed."""

from una_ref.theory.divergences import DIVERGENCES, Divergence, register
from una_ref.theory.fixed_points import (
    NotConverged,
    fixed_point,
    una_end,
    una_fixed_point,
    una_minima,
    una_regression,
)
from una_ref.theory.optimum import (
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
from una_ref.theory.worlds import Knobs, PrefixMLP, PrefixTree, SequenceWorld, TablePolicy, TableWorld

__all__ = [
    "DIVERGENCES",
    "Divergence",
    "Knobs",
    "NotConverged",
    "PrefixMLP",
    "PrefixTree",
    "SequenceWorld",
    "TablePolicy",
    "TableWorld",
    "bradley_terry",
    "entropy",
    "expected_reward",
    "f_divergence",
    "fixed_point",
    "kl",
    "log_partition",
    "multiplier",
    "nash_logps",
    "objective",
    "optimal_logps",
    "preference_rewards",
    "register",
    "regret",
    "sampled_log_partition",
    "una_end",
    "una_fixed_point",
    "una_minima",
    "una_regression",
]
