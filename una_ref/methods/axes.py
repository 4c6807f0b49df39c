"""The 13 axes of the survey's Table 1, their values, and what each value means here."""

from __future__ import annotations

from types import MappingProxyType

AXES = MappingProxyType(
    {
        "RM1": "reward model",
        "RM2": "kind of reward",
        "RM3": "reward of a",
        "RM4": "learns from",
        "F1": "feedback",
        "F2": "feedback from",
        "F3": "feedback on a",
        "RL1": "reference model",
        "RL2": "length",
        "RL3": "divergence",
        "RL4": "responses",
        "O1": "labels",
        "O2": "SFT and alignment",
    }
)
"""The 13 axes of the survey's Table 1: label -> what it is about."""

VALUES = MappingProxyType(
    {
        "RM1": {
            "Explicit": "a model other than π scores responses",
            "Implicit": "the likelihoods of π are the reward",
            "Hybrid": "a model labels samples of π, and the likelihoods of π are the reward in the loss",
        },
        "RM2": {
            "Point": "one number for a response",
            "Preference": "the probability that one response beats another",
        },
        "RM3": {"Response": "one reward for a response", "Token": "one reward for each token"},
        "RM4": {"Positive": "good responses are learned from", "Negative": "only bad responses are learned from"},
        "F1": {
            "Preference": "which response is better",
            "Binary": "whether a response is good or bad",
            "Score": "how good a response is, as a number",
        },
        "F2": {
            "Human": "people, or a model of people's labels",
            "AI": "a language model or a metric",
            "Hybrid": "people and models",
        },
        "F3": {"Pair": "two responses at a time", "List": "all responses of a prompt at a time"},
        "RL1": {"Reference": "needs π_ref", "Free": "needs no π_ref"},
        "RL2": {
            "Control": "the reward is per token, or charges for length",
            "Uncontrol": "the reward has no term for length",
        },
        "RL3": {
            "KL": "the KL divergence from π_ref",
            "Multiple": "any of several f-divergences from π_ref",
        },
        "RL4": {
            "On": "responses of the current policy",
            "Off": "responses written earlier, or by another policy",
            "Hybrid": "each iteration samples from its first policy and then trains for many steps",
        },
        "O1": {
            "Online": "new responses get new labels during training",
            "Offline": "all labels are from before training",
            "Hybrid": "first without, later with new labels",
        },
        "O2": {
            "Separate": "starts from a policy after SFT",
            "Merge": "SFT is part of the same training",
        },
    }
)
"""What each value of each axis means; "-" means that the axis does not apply."""


def cells_of(row: str) -> dict[str, str]:
    """A row of 13 cells, separated by spaces, in the order of `AXES`."""
    return dict(zip(AXES, row.split(), strict=True))


def meaning(axis: str, value: str) -> str:
    """A cell in words: "RM1 reward model: Implicit (the likelihoods of π are the reward)"."""
    about = "does not apply" if value == "-" else f"{value} ({VALUES[axis][value]})"
    return f"{axis} {AXES[axis]}: {about}"
