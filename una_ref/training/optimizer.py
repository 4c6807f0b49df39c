"""The optimizer of a run: the groups of what it trains, and the learning rate of each at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import nn

from una_ref.errors import InputError
from una_ref.training.config import Config

VALUES, CRITIC = "V(x)", "critic."
"""Names of trained parameters: the V(x) of all prompts, and the beginning of those of a critic."""


def optimizer_of(
    config: Config, trained: Mapping[str, nn.Parameter], *, sharded: bool = False
) -> torch.optim.Optimizer:
    """AdamW over the policy, V(x) and the critic; each is a group with its own peak learning rate, `peak`.

    In 8 bits, moments are quantised in blocks; those of tensors under 4096 numbers stay float32.
    Source: Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization", https://arxiv.org/abs/2110.02861.

    Args:
        config: of the run.
        trained: name -> parameter, all that a step changes.
        sharded: whether the weights are in shards over the processes.
    """
    policy = [p for name, p in trained.items() if not name.startswith((CRITIC, VALUES))]
    groups = [{"params": policy, "peak": config.learning_rate, "weight_decay": config.weight_decay}]
    if VALUES in trained:
        peak = 0.05 if config.value_lr is None else config.value_lr
        groups.append({"params": [trained[VALUES]], "peak": peak, "weight_decay": 0.0})
    if critic := [p for name, p in trained.items() if name.startswith(CRITIC)]:
        peak = config.value_lr or config.learning_rate
        groups.append({"params": critic, "peak": peak, "weight_decay": config.weight_decay})
    if config.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups)
    return torch.optim.AdamW(groups, foreach=False if sharded else None)


def check(config: Config) -> None:
    """Refuse an optimizer that this machine does not have.

    Raises:
        InputError: no bitsandbytes, or no CUDA device, whose kernels its 8-bit AdamW is made of.
    """
    if config.optimizer != "adamw8bit":
        return
    if find_spec("bitsandbytes") is None:
        raise InputError(
            "optimizer=adamw8bit: expected the package bitsandbytes, got none. "
            "Fix: pip install 'una_ref[qlora]', or optimizer=adamw"
        )
    if not torch.cuda.is_available():
        raise InputError("optimizer=adamw8bit: expected a CUDA device, got none. Fix: optimizer=adamw")


def rate(config: Config, step: int) -> float:
    """The share of the peak learning rate at a step (from 0): linear warm-up, then as `schedule` says."""
    rise = round(config.warmup * config.steps) if config.warmup_steps is None else config.warmup_steps
    if step < rise:
        return (step + 1) / (rise + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - rise) / (config.steps - rise)
    return 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
