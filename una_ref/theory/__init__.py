"""Exact mathematics in float64: tensors in, tensors out, nothing else of the package needed."""

from una_ref.theory.fixed_points import NotConverged, fixed_point
from una_ref.theory.optimum import (
    entropy,
    expected_reward,
    kl,
    log_partition,
    objective,
    optimal_logps,
    regret,
)
from una_ref.theory.worlds import PrefixTree, SequenceWorld, TableWorld

__all__ = [
    "NotConverged",
    "PrefixTree",
    "SequenceWorld",
    "TableWorld",
    "entropy",
    "expected_reward",
    "fixed_point",
    "kl",
    "log_partition",
    "objective",
    "optimal_logps",
    "regret",
]
