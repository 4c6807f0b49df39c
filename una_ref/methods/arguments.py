"""The arguments that a loss may name, and what each asks of a training run.

A loss is a keyword-only function. Its signature and this table are all that the trainer reads to know what to compute.
The table names the argument of a single response. A loss on pairs names it once for each response: ``chosen_logps`` and
``rejected_logps`` for ``logps``, ``ref_chosen_logps`` and ``ref_rejected_logps`` for ``ref_logps``. A parameter that is
not in the table is a hyper-parameter and has a default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

Side = Literal["chosen", "rejected"]
SIDES: tuple[Side, Side] = ("chosen", "rejected")


class Need(Enum):
    """What a run has to compute or to hold for an argument."""

    REFERENCE = "log-probabilities of the reference"
    TOKENS = "log-probabilities of each token"
    SECOND_REFERENCE = "log-probabilities of a second reference"
    REFERENCE_TOKENS = "log-probabilities of each token under the reference"
    DISTRIBUTIONS = "the whole next-token distribution at each token"
    REFERENCE_DISTRIBUTIONS = "the reference's whole next-token distribution at each token"
    GROUP = "other responses of the prompt in the batch"
    SCORES = "a score of each response"
    KL = "a pass over mismatched prompts and responses"
    STATISTICS = "a number of the whole batch, computed before its gradients"
    BASELINE = "a V(x) that is learned, unless the argument has a default"
    ROLLOUT = "what was known of the tokens when they were sampled"
    CRITIC = "a critic's value of each token"


REFERENCE_NEEDS = frozenset(
    {Need.REFERENCE, Need.SECOND_REFERENCE, Need.REFERENCE_TOKENS, Need.REFERENCE_DISTRIBUTIONS}
)
"""What asks for a reference model."""

Shape = Literal["response", "pair", "token", "distribution", "batch"]
SHAPES: Mapping[Shape, Mapping[str, str]] = MappingProxyType(
    {
        "response": {"pairs": "(P,)", "responses": "(B,)", "lists": "(G, K)"},
        "pair": {"pairs": "(P,)"},
        "token": {"pairs": "(P, T)", "responses": "(B, T)"},
        "distribution": {"pairs": "(P, T, V)", "responses": "(B, T, V)"},
        "batch": {"pairs": "()", "responses": "()", "lists": "()"},
    }
)
"""The shape of an argument in a loss on P pairs, on B single responses, and on G lists of at most K responses.

T is the number of tokens of the longest response and V the size of the vocabulary. What is missing is not available."""


@dataclass(frozen=True)
class Argument:
    """One argument of the vocabulary.

    Attributes:
        name: as a loss on single responses names it.
        kind: what it has one number for, a key of `SHAPES`.
        meaning: what it is, with its unit.
        requires: what the run computes or holds for it; None where the model's output or the row is enough.
    """

    name: str
    kind: Shape
    meaning: str
    requires: Need | None = None

    @property
    def shape(self) -> str:
        """The shape for single responses, or for pairs where only they have it."""
        return SHAPES[self.kind].get("responses") or SHAPES[self.kind]["pairs"]


ARGUMENTS: Mapping[str, Argument] = MappingProxyType(
    {
        argument.name: argument
        for argument in (
            Argument("logps", "response", "log π(y|x), summed over the response's tokens, in nats"),
            Argument("ref_logps", "response", "log π_ref(y|x), in nats", Need.REFERENCE),
            Argument("second_ref_logps", "response", "log π_ref⁻(y|x), a second reference", Need.SECOND_REFERENCE),
            Argument("old_logps", "response", "log π(y|x) when the response was sampled, in nats", Need.ROLLOUT),
            Argument("rewards", "response", "the output of a scorer under training"),
            Argument("lengths", "response", "tokens of the response, the end-of-sequence token included"),
            Argument("labels", "response", "binary label: bool, or a probability in [0, 1]"),
            Argument("scores", "response", "score of the response, in reward units", Need.SCORES),
            Argument("groups", "response", "index of the prompt: equal for responses of one prompt", Need.GROUP),
            Argument("win_rates", "response", "share of the prompt's other responses it beats, ties half", Need.GROUP),
            Argument("baseline", "response", "V(x) of the prompt, in reward units; or one number", Need.BASELINE),
            Argument("kl", "batch", "estimate of KL(π ‖ π_ref) over the batch, at least 0, in nats", Need.KL),
            Argument("mean_length", "batch", "mean number of tokens of the batch's responses", Need.STATISTICS),
            Argument("batch_gap", "batch", "mean of u(y_w) − u(y_l) over the batch, u = log π/π_ref", Need.STATISTICS),
            Argument("running_gap", "batch", "moving average of `batch_gap`, in nats", Need.STATISTICS),
            Argument("running_gap_sd", "batch", "moving standard deviation of u(y_w) − u(y_l), nats", Need.STATISTICS),
            Argument("running_gain", "batch", "moving average of u over responses, in nats", Need.STATISTICS),
            Argument("score_sd", "batch", "standard deviation of the batch's scores, in reward units", Need.STATISTICS),
            Argument("margins", "pair", "the column margin, or score of the chosen minus the other's", Need.SCORES),
            Argument("mask", "token", "True at a response's tokens; in a loss on lists, (G, K): at its responses"),
            Argument("token_ids", "token", "id of each token", Need.TOKENS),
            Argument("token_logps", "token", "log π of each token, in nats", Need.TOKENS),
            Argument("ref_token_logps", "token", "log π_ref of each token, in nats", Need.REFERENCE_TOKENS),
            Argument("old_token_logps", "token", "log π of each token when it was sampled, in nats", Need.ROLLOUT),
            Argument("advantages", "token", "advantage of each token, in reward units", Need.ROLLOUT),
            Argument("returns", "token", "return from each token on, in reward units", Need.ROLLOUT),
            Argument("old_values", "token", "the critic's value when the token was sampled", Need.ROLLOUT),
            Argument("values", "token", "the critic's value of each token, in reward units", Need.CRITIC),
            Argument("logits", "distribution", "log π of every next token, in nats", Need.DISTRIBUTIONS),
            Argument("ref_logits", "distribution", "log π_ref of every next token", Need.REFERENCE_DISTRIBUTIONS),
        )
    }
)
"""Every argument, by its name for a single response."""


def sided(name: str, side: Side) -> str:
    """The name of a single response's argument in a loss on pairs: ``ref_logps`` -> ``ref_chosen_logps``."""
    ref = next((prefix for prefix in ("ref_", "second_ref_") if name.startswith(prefix)), "")
    return f"{ref}{side}_{name.removeprefix(ref)}"


PAIRED: Mapping[str, tuple[str, Side]] = MappingProxyType(
    {
        sided(name, side): (name, side)
        for name, argument in ARGUMENTS.items()
        for side in SIDES
        if argument.kind not in ("pair", "batch")
    }
)
"""An argument of a loss on pairs -> the single response's argument and the response that it belongs to."""


@cache
def names(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters of a loss."""
    return frozenset(inspect.signature(function).parameters)


def argument(name: str) -> Argument | None:
    """The entry of an argument as a loss of any kind names it; None for a hyper-parameter."""
    return ARGUMENTS.get(PAIRED[name][0] if name in PAIRED else name)


def hyperparameters(function: Callable[..., Any]) -> dict[str, Any]:
    """A loss's hyper-parameters with their defaults.

    Raises TypeError for a parameter that is neither in the table nor has a default.
    """
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if argument(name) is None:
            if parameter.default is parameter.empty:
                known = ", ".join(ARGUMENTS)
                raise TypeError(
                    f"{function.__name__}: expected arguments out of {known} (pairs: chosen_… and rejected_…), or a "
                    f"hyper-parameter with a default, got {name!r}"
                )
            found[name] = parameter.default
    return found


def requires(function: Callable[..., Any], name: str) -> bool:
    """Whether a loss names an argument and gives it no default."""
    parameter = inspect.signature(function).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def needs(functions: Iterable[Callable[..., Any]]) -> frozenset[Need]:
    """What a run has to compute or to hold for some losses."""
    found = (argument(name) for function in functions for name in names(function))
    return frozenset(entry.requires for entry in found if entry is not None and entry.requires is not None)
