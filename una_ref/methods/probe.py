"""Arguments with which a loss can be called, made from its signature: for checks before a run, and for tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from una_ref.methods.arguments import PAIRED, argument, names

VOCABULARY = 5
"""Size of the last dimension of whole distributions."""


def example_arguments(
    loss: Callable[..., Any], kind: str, size: int = 2, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Any]:
    """Random arguments of a loss by name; hyper-parameters are left out. See `examples_of`."""
    return examples_of(inspect.signature(loss).parameters, kind, size, dtype=dtype, seed=seed)


def examples_of(
    wanted: Iterable[str], kind: str, size: int = 2, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Any]:
    """Random arguments by name; names that are not in `arguments.ARGUMENTS` are left out.

    Neighbours share a prompt: ``groups`` is 0, 0, 1, 1, …. Labels, win rates and margins are in [0, 1]. Lengths are 1,
    2, 3, 1, … and those of rejected responses 3, 1, 2, …, so that the two responses of a pair differ. Tensors of
    tokens are (size, 3) with responses of 1, 2 and 3 tokens in turn, whole distributions (size, 3, `VOCABULARY`) and
    normalised. In a loss on lists what belongs to a response is (size, 3), with lists of 2 and 3 responses in turn, and
    scores are in [0, 1], which every ranking loss takes.

    Args:
        wanted: names of arguments, in the order in which they are drawn.
        kind: the kind of feedback.
        size: number of pairs, responses or lists.
        dtype: of the tensors.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = {"response": (size, 3) if kind == "lists" else (size,), "pair": (size,), "token": (size, 3), "batch": ()}
    made: dict[str, Any] = {}
    for name in wanted:
        entry = argument(name)
        if entry is None:
            continue
        base = PAIRED[name][0] if name in PAIRED else name
        if entry.kind == "distribution":
            logits = torch.randn((size, 3, VOCABULARY), generator=generator, dtype=torch.float64)
            made[name] = logits.log_softmax(-1).to(dtype)
            continue
        shape = shapes[entry.kind]
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        integers = INTEGERS.get(name) or INTEGERS.get(base)
        made[name] = integers(shape, kind) if integers else _values(base, kind, uniform, normal).to(dtype)
        if kind == "lists" and base == "scores":  # rows come with the best response first
            made[name] = made[name].sort(dim=1, descending=True).values
    return made


def _values(name: str, kind: str, uniform: Tensor, normal: Tensor) -> Tensor:
    """Plausible values of a floating-point argument."""
    if name.endswith("token_logps"):
        return normal
    if name.endswith("logps"):
        return -5 * uniform
    if name in ("labels", "win_rates", "margins") or name.endswith("_sd") or (name, kind) == ("scores", "lists"):
        return uniform
    if name == "kl":
        return 0.3 + 0 * uniform
    return normal


def _mask(shape: tuple[int, ...], kind: str) -> Tensor:
    """(size, 3) True at tokens, or at the responses of a list, which has two at least."""
    least = 1 if kind == "lists" else 0
    return torch.arange(shape[1]) <= (torch.arange(shape[0]) % (shape[1] - least))[:, None] + least


def _cycle(shape: tuple[int, ...], kind: str) -> Tensor:
    """1, 2, 3, 1, …"""
    return (torch.arange(torch.Size(shape).numel()) % 3 + 1).view(shape)


INTEGERS: Mapping[str, Callable[[tuple[int, ...], str], Tensor]] = {
    "mask": _mask,
    "lengths": _cycle,
    "rejected_lengths": lambda shape, kind: (_cycle(shape, kind) - 2) % 3 + 1,
    "groups": lambda shape, kind: torch.arange(shape[0]) // 2,
    "token_ids": lambda shape, kind: _cycle(shape, kind) % VOCABULARY,
}
"""The arguments that are no floating-point numbers -> what makes them."""


def call(loss: Callable[..., Any], kind: str, hyperparameters: Mapping[str, Any]) -> Any:
    """The loss of example arguments at some hyper-parameters; or the advantages, of a function that makes these.

    Raises:
        ValueError: from the loss, where a hyper-parameter is out of its range.
    """
    known = {name: value for name, value in hyperparameters.items() if name in names(loss)}
    return loss(**example_arguments(loss, kind), **known)
