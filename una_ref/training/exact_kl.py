"""The exact KL of a finished ToySteer run beside estimates from samples: k1, k2, k3, with standard errors.

With u = log(π/π_ref) of a sample of π: k1 = u is unbiased and may be negative; k2 = u²/2 is biased and never negative;
k3 = e^(−u) − 1 + u is unbiased and never negative. Schulman 2020, http://joschu.net/blog/kl-approx.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from una_ref.data import toysteer
from una_ref.data.toysteer import TOYSTEER_BASE
from una_ref.policies import loading
from una_ref.theory.prefix_tree import PrefixTree
from una_ref.training.config import Config
from una_ref.training.toysteer_base import is_toysteer, reference_logps, toysteer_base

SAMPLES = 4096


@dataclass(frozen=True)
class Estimate:
    """A mean over samples and its standard error, in nats."""

    mean: float
    error: float


@dataclass(frozen=True)
class ExactKL:
    """KL(π ‖ π_ref), the mean over the prompts of the run's world, in nats; and estimates by name."""

    exact: float
    samples: int
    estimates: Mapping[str, Estimate]


def exact_kl(folder: str | Path, config: Config) -> ExactKL | None:
    """The KL of a run from its start, over all responses of its world; None where it cannot be listed.

    That is so if the run is not finished, its data are not ToySteer's, or it trains a scorer.
    """
    if not is_toysteer(config) or config.record.scorer or config.reference_model:
        return None
    if not any((Path(folder) / f"{name}.safetensors").exists() for name in ("adapter_model", "model")):
        return None
    start = loading.base_of(str(folder)) or config.model
    if start in ("", TOYSTEER_BASE):
        if config.shape:  # weights that were made for the run and trained as a whole: the start is gone
            return None
        start = str(toysteer_base())
    world, tree = toysteer.ToySteer(seed=config.seed), PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    logps, ref_logps = (
        tree.sequence_logps(reference_logps(loading.load(name)[0], world)) for name in (str(folder), start)
    )
    return compared(logps, ref_logps, SAMPLES, config.seed)


def compared(logps: torch.Tensor, ref_logps: torch.Tensor, samples: int, seed: int) -> ExactKL:
    """The exact KL and its estimates.

    Args:
        logps: (X, S) log π of every response to every prompt, in nats.
        ref_logps: (X, S) the same of π_ref.
        samples: responses of π that the estimates are made from, with equally many of each prompt.
        seed: of the samples.
    """
    each = max(1, samples // len(logps))
    chances = logps.exp()
    drawn = chances.multinomial(each, replacement=True, generator=torch.Generator().manual_seed(seed))
    u = (logps - ref_logps).gather(1, drawn)  # (X, each)
    values = {"k1": u, "k2": u.square() / 2, "k3": (-u).exp() - 1 + u}
    # Prompts are not sampled: the error is that of a mean over strata.
    estimates = {
        name: Estimate(float(k.mean()), float((k.var(1) / each).sum().sqrt() / len(k))) for name, k in values.items()
    }
    exact = (chances * (logps - ref_logps)).nan_to_num(0.0).sum(1).mean()
    return ExactKL(float(exact), each * len(logps), estimates)
