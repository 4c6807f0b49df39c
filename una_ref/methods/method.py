"""What a method is: a choice from five short lists, with its losses and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from una_ref.methods.arguments import REFERENCE_NEEDS, hyperparameters, needs
from una_ref.methods.papers import Paper
from una_ref.methods.rewards import Reward

Loss = Callable[..., Tensor]

KINDS = ("demos", "pairs", "labels", "scores", "lists")
"""The kinds of feedback: responses to imitate, a chosen and a rejected response, a binary label, a score, and the
scores of a prompt's responses compared as one list."""

Source = Literal["dataset", "policy", "reference"]
"""Where responses come from: the rows, the policy under training, or its reference."""
Keep = Literal["all", "best_and_worst", "best", "rejection"]
"""Which sampled responses of a prompt are trained on; "rejection" is statistical rejection sampling."""
Rivals = Literal["none", "samples", "mixture"]
"""What a response's score is its win rate against: nothing (the score is a reward), the prompt's other samples, or
responses of the geometric mixture of π and π_ref."""
Judge = Literal["reward", "self"]
"""Who scores samples by default: a reward source, or the policy itself."""
Reuse = Literal["replay", "passes", "none"]
"""Whether responses sampled earlier may be trained on: from any earlier policy, in the passes over one rollout, or
not at all."""
Baseline = Literal["none", "constant", "prompt"]
"""What is added to the reward: nothing, one number c, or one V(x) for each prompt."""

SAMPLES = MappingProxyType(
    {
        ("dataset", "all"): "a fixed data set",
        ("policy", "all"): "the current π",
        ("policy", "best_and_worst"): "the best and the worst of K",
        ("policy", "best"): "the best of K",
        ("reference", "rejection"): "accepted samples of π_ref",
    }
)
"""How tables name where the responses come from."""

HYPERPARAMETERS = MappingProxyType(
    {
        "beta": "scale of the method's reward; with a reference, the weight of staying near it",
        "desirable_weight": "weight of responses with a positive label",
        "undesirable_weight": "weight of responses with a negative label",
        "label_smoothing": "probability that a pair is labelled the wrong way round, below 0.5",
        "divergence": "the f-divergence between π and π_ref",
        "alpha": "parameter of divergence=alpha: towards 0 it is the reverse KL, towards 1 the forward KL",
        "ratio_clip": "largest distance of a token's probability ratio from 1 in the passes over a rollout",
        "value_clip": "largest change of a token's value in the passes over a rollout",
        "value_weight": "weight of the critic's loss",
        "ptx": "weight of demonstrations that are mixed in (PPO-ptx); 0: none",
        "gamma": "PPO: discount of rewards, per token; SimPO: target margin between the rewards of a pair",
        "lam": "λ of GAE: 1 is the return minus the value; a smaller λ relies more on the critic",
        "whiten": "1: advantages of a rollout are scaled to mean 0 and variance 1; 0: left as they are",
    }
)
"""What each hyper-parameter of a loss means, unless the method's record has a meaning of its own."""


@dataclass(frozen=True)
class Auxiliary:
    """A second loss on responses of the data set, added to the method's own with a weight.

    Attributes:
        kind: of feedback.
        loss: contains the weight.
        weight: the hyper-parameter that is the weight; at 0 the loss is not used.
    """

    kind: str
    loss: Loss
    weight: str


@dataclass(frozen=True)
class Method:
    """One method: its losses by kind of feedback, the five choices that describe it, and what is known of it.

    Attributes:
        name, aliases, title: how it is called.
        losses: kind of feedback -> loss; the first is `loss`. A loss takes the arguments in `arguments.ARGUMENTS` by
            name and returns one number per example.
        reward: what the method calls the reward of a response; metrics report it.
        baseline: what is added to that reward.
        comparison, shape, regulariser: the other choices, as text. A test composes them.
        source, keep: where responses come from, and which sampled ones are trained on.
        reuse: whether earlier samples may be trained on again.
        trains: what is trained: a policy, or a scorer (text in, one number out).
        advantages: what a rollout becomes before its updates, where the loss is one of tokens: (B, T) advantages and
            returns, from the log-probabilities, values and scores of the rollout. None for all other methods.
        auxiliary: a second loss, or None.
        shift_invariant: whether every batch's gradient stays the same when one number g(x) is added to the reward of
            all responses of a prompt. β·log Z(x) is such a number, and so is an offset in the scores of a prompt. A
            V(x) that the loss itself learns is taken at its optimum; the values of a critic are taken as they are.
        invariant_in_expectation: of a method without that property, whether at least the expected gradient stays the
            same, over the responses that it samples from the current π. Then g(x) only adds noise to the steps. If
            that does not hold either, what the method learns depends on g(x).
        papers, equation, errata: where it comes from, the equation that is implemented, known errors of the papers.
        reductions: what it becomes in special cases.
        rivals: what the score of a sampled response is its win rate against.
        judge: who scores sampled responses, unless a run names a reward.
        printed, released: the equation as printed, and the authors' code, where they differ from `loss`.
        composes: whether the loss is shape(comparison(reward)) + regulariser.
        notebook: the notebook that derives it, or None.
        trl: what TRL calls it, as trainer and setting: ``DPOTrainer, loss_type=hinge``; empty where it has no name.
        optimum: kind of feedback -> what minimises its loss on an exact world, as a sentence that a test confirms. A
            condition stands before its result: "lam = 0: π*; …". Without one it holds for every fixed sampler that
            gives all responses, where feedback follows the rewards r: Bradley–Terry preferences, labels with
            P(y = 1) = σ(r), scores r, Plackett–Luce rankings. A kind that is not there has no known optimum.
        refresh: steps after which the reference moves to the policy, by default; 0: never.
        samples_per_prompt: responses that a run samples for each prompt in a step, by default.
        recipe: the recipe of several steps that ``una-ref train NAME`` runs; empty where it is one run.
        whole_batch: whether the loss compares all examples of a batch with each other, so that a batch is one forward
            pass in one process.
        meanings: what a hyper-parameter means in this method, where `HYPERPARAMETERS` does not say it.
        note: what the log of every run says: a scale of scores or of the loss that a user would not expect.
    """

    name: str
    title: str
    losses: Mapping[str, Loss]
    reward: Reward
    comparison: str
    shape: str
    shift_invariant: bool
    papers: tuple[Paper, ...]
    equation: str
    baseline: Baseline = "none"
    regulariser: str = "none"
    source: Source = "dataset"
    keep: Keep = "all"
    rivals: Rivals = "none"
    judge: Judge = "reward"
    reuse: Reuse = "replay"
    trains: Literal["policy", "scorer"] = "policy"
    advantages: Callable[..., tuple[Tensor, Tensor]] | None = None
    auxiliary: Auxiliary | None = None
    errata: tuple[str, ...] = ()
    reductions: str = ""
    printed: Loss | None = None
    released: Loss | None = None
    composes: bool = True
    notebook: str | None = None
    aliases: tuple[str, ...] = ()
    trl: str = ""
    optimum: Mapping[str, str] = field(default_factory=dict)
    refresh: int = 0
    samples_per_prompt: int = 4
    recipe: str = ""
    whole_batch: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict)
    invariant_in_expectation: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", MappingProxyType(dict(self.losses)))
        object.__setattr__(self, "meanings", MappingProxyType(dict(self.meanings)))
        object.__setattr__(self, "optimum", MappingProxyType(dict(self.optimum)))

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
        """Whether it trains a scorer and no policy."""
        return self.trains == "scorer"

    @property
    def samples(self) -> str:
        """Where the responses come from, as tables print it."""
        return SAMPLES[self.source, self.keep]

    @property
    def on_policy_only(self) -> bool:
        """Whether its losses are right for samples of the current policy at temperature 1 only."""
        return self.source == "policy" and self.keep == "all"

    @property
    def invariance(self) -> str:
        """Whether it ignores a number g(x) added to all rewards of a prompt, as tables print it."""
        return "yes" if self.shift_invariant else "in expectation" if self.invariant_in_expectation else "no"

    @property
    def formula(self) -> str:
        """The reward with what is added to it, as tables print it."""
        return self.reward.formula + {"none": "", "constant": " + c", "prompt": " + V(x)"}[self.baseline]

    @property
    def optimum_words(self) -> str:
        """The optimum of each kind of feedback, as tables print it."""
        if len({*self.optimum.values()}) == 1 and {*self.optimum} == {*self.kinds}:
            return next(iter(self.optimum.values()))
        return ". ".join(f"On {kind}: {text}" for kind, text in self.optimum.items())

    @property
    def paper(self) -> str:
        """Its papers, as tables cite them."""
        return "; ".join(paper.cited for paper in self.papers)

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """Every function that a run of the method may call: losses, advantages, auxiliary loss."""
        more = (self.advantages, self.auxiliary and self.auxiliary.loss)
        return (*self.losses.values(), *(function for function in more if function))

    @property
    def needs_reference(self) -> bool:
        """Whether any of its functions names an argument of the reference, or responses are sampled with it."""
        sampled = self.source == "reference" or self.rivals == "mixture"
        return sampled or bool(needs(self.functions) & REFERENCE_NEEDS)

    @property
    def hyperparameters(self) -> Mapping[str, float | str]:
        """Hyper-parameters of its functions and their defaults, from the signatures."""
        found = (item for function in self.functions for item in hyperparameters(function).items())
        return {name: default for name, default in found if isinstance(default, int | float | str)}

    def meaning(self, name: str) -> str:
        """What one of its hyper-parameters means."""
        return self.meanings.get(name) or HYPERPARAMETERS[name]
