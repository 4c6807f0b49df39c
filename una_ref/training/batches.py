"""Which examples a step takes, and the mismatched ones that KTO estimates its KL on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from una_ref.data.batch import Example
from una_ref.errors import InputError


def order(examples: int, step: int, batch: int, seed: int) -> list[int]:
    """The indices that step `step` (from 0) takes. Every epoch has its own order, a function of seed and epoch."""
    places = range(step * batch, (step + 1) * batch)
    return [int(_epoch(examples, place // examples, seed)[place % examples]) for place in places]


@lru_cache(maxsize=4)
def _epoch(examples: int, epoch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(examples, generator=generator)


def mismatched(examples: Sequence[Example]) -> Iterator[Example]:
    """Each prompt with the responses of the next example that has another prompt.

    KTO estimates KL(π ‖ π_ref) on them (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306).

    Raises:
        InputError: all examples have the same prompt.
    """
    n = len(examples)
    for i, example in enumerate(examples):
        following = (examples[(i + k) % n] for k in range(1, n))
        other = next((e for e in following if e.prompt != example.prompt), None)
        if other is None:
            raise InputError(
                "kto: expected at least two different prompts in a batch to estimate its KL, got one. "
                "Fix: raise batch, or give more prompts"
            )
        yield Example(example.prompt, other.responses, trained=other.trained, source=example.source)
