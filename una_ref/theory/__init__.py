"""Exact mathematics in float64: tensors in, tensors out; it imports nothing else of the package."""

from una_ref.theory.divergences import DIVERGENCES, Divergence, register
from una_ref.theory.fixed_points import (
    NotConverged,
    fixed_point,
    una_end,
    una_fixed_point,
    una_minima,
    una_regression,
)
from una_ref.theory.labelling import Knobs
from una_ref.theory.optimum import (
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
from una_ref.theory.preferences import bradley_terry, nash_logps, preference_rewards
from una_ref.theory.prefix_tree import PrefixTree
from una_ref.theory.worlds import SequenceWorld, TableWorld

__all__ = [
    "DIVERGENCES",
    "Divergence",
    "Knobs",
    "NotConverged",
    "PrefixTree",
    "SequenceWorld",
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
