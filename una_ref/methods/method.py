"""What a method is: a choice from five short lists, with the functions and the facts that go with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from torch import Tensor

from una_ref.methods.composition import compose
from una_ref.methods.rewards import SCALAR_OR_PER_EXAMPLE

Loss = Callable[..., Tensor]

KINDS = ("demos", "pairs", "labels", "scores")
"""The kinds of feedback a response can carry."""

HYPERPARAMETERS = MappingProxyType(
    {
        "beta": "weight of staying near π_ref: the reward is β·log(π/π_ref), or its f-divergence form",
        "desirable_weight": "of responses with a thumb up",
        "undesirable_weight": "of responses with a thumb down",
        "label_smoothing": "probability that a pair is labelled the wrong way round, below ½",
        "divergence": "the f-divergence that holds π near π_ref",
        "alpha": "of divergence=alpha, between 0 (reverse KL) and 1 (forward KL)",
        "ratio_clip": "how far a token's probability ratio may move from 1 in the passes over a rollout",
        "value_clip": "how far a token's value may move in the passes over a rollout",
        "value_weight": "of the critic's loss",
        "ptx": "weight of demonstrations mixed in (PPO-ptx); 0: none",
        "gamma": "discount of rewards, per token",
        "lam": "λ of GAE: 1 is the return less the value, smaller trusts the critic more",
        "whiten": "1: advantages of a rollout are brought to mean 0 and variance 1; 0: as they are",
    }
)
"""What each hyper-parameter of a loss means, whatever the method."""

AXES = MappingProxyType(
    {
        "RM1": "reward model: explicit or implicit",
        "RM2": "reward: point or preference",
        "RM3": "reward of: response or token",
        "RM4": "reward: positive or negative",
        "F1": "feedback: preference or binary",
        "F2": "feedback from: human or AI",
        "F3": "feedback on: pair or list",
        "RL1": "reference model: reference or free",
        "RL2": "length: control or uncontrol",
        "RL3": "divergence",
        "RL4": "policy: on or off",
        "O1": "optimisation: online or offline",
        "O2": "SFT and alignment: merge or separate",
    }
)
"""The 13 axes of the survey's Table 1."""


@dataclass(frozen=True)
class Method:
    """One method: the five choices, its losses by kind of feedback, and what is known of it.

    reward, comparison, shape, regulariser
        Keys of the lists in `composition`.
    samples_from
        Where the responses come from: "a fixed data set", "π_ref", "the current π", "a replay buffer", ...
    losses
        Kind of feedback -> loss; the first is `loss`. A loss takes the vocabulary's arguments by name and
        returns one number per example.
    shift_invariant
        True if the gradient of `loss`, summed over a batch, in the policy's log-probabilities (a scorer's rewards)
        does not change when one number g(x) is added to the reward, β·log(π/π_ref) or β·f′(π/π_ref) or the scorer's
        own, of all responses of a prompt, everything else held but a V(x) that is learned, which is at its best. A
        prompt's unknown β·log Z(x) is such a number, and so is an offset −g(x) in its scores: what a method learns
        that is not invariant depends on them.
    equation, errata
        The implemented equation, as numbered in `paper`, and the ids of the errata that bear on it.
    reductions
        What it becomes in special cases.
    printed, released
        The equation as printed and the authors' code, where these differ; with the arguments of `loss`, unless
        what differs is which they are.
    advantages
        What a rollout is made into before its updates, where the loss is one of tokens: the (B, T) advantages and
        returns that the loss names, from the rollout's log-probs, values and scores. None for all others.
    axes
        The survey's 13 axes, or empty where its Table 1 does not have the method.
    composes
        False if the loss is not shape(comparison(reward)) + regulariser.
    notebook
        The notebook that derives it, or None.
    """

    name: str
    title: str
    reward: str
    comparison: str
    shape: str
    regulariser: str
    samples_from: str
    losses: Mapping[str, Loss]
    needs_reference: bool
    shift_invariant: bool
    paper: str
    equation: str
    errata: tuple[str, ...] = ()
    reductions: str = ""
    printed: Loss | None = None
    released: Loss | None = None
    advantages: Callable[..., tuple[Tensor, Tensor]] | None = None
    axes: Mapping[str, str] = field(default_factory=dict)
    composes: bool = True
    notebook: str | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", MappingProxyType(dict(self.losses)))
        object.__setattr__(self, "axes", MappingProxyType(dict(self.axes)))

    @property
    def loss(self) -> Loss:
        """The loss of the method's own kind of feedback: a plain keyword-only function."""
        return next(iter(self.losses.values()))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of feedback it learns from, its own first."""
        return tuple(self.losses)

    @property
    def scorer(self) -> bool:
        """Whether what it trains is a scorer, text in and a number out, and no policy."""
        return self.reward == "a scalar head"

    @property
    def hyperparameters(self) -> Mapping[str, float | str]:
        """Hyper-parameters of its losses and advantages and their defaults, from the signatures."""
        functions = [*self.losses.values(), *([self.advantages] if self.advantages else [])]
        return {
            name: parameter.default
            for loss in functions
            for name, parameter in inspect.signature(loss).parameters.items()
            if isinstance(parameter.default, (int, float, str)) and name not in SCALAR_OR_PER_EXAMPLE
        }

    @property
    def composition(self) -> Loss | None:
        """The same loss made from the five choices, with its defaults, or None where it is not such a composition."""
        choices = self.reward, self.comparison, self.shape, self.regulariser
        return partial(compose(*choices), **self.hyperparameters) if self.composes else None
