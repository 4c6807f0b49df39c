"""Attention of packed rows, piece by piece.

A packed row holds prompts and responses. A token of a response sees its prompt, and what is before it in the response.
Under one mask for the whole row, attention computes all pairs of positions. With eight responses as long as their
prompt, five of six pairs do not see each other. A piece is a run of tokens that the same later tokens see (see
`una_ref.data.batch`). Here a piece attends to itself and to the earlier pieces that it sees.

Each piece costs a call of its own, so a batch is divided only where that pays. It is never divided on a GPU, under
attention other than sdpa, and with gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention

from una_ref.data.batch import Batch

WORTH = 30_000
"""Pairs of positions, times heads, that cost as much time as one more piece. Measured on one core."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens that the same later tokens see, or several that see only themselves.

    Attributes:
        size: number of its tokens.
        seen: numbers of the earlier pieces of the row that all its tokens see.
        alone: whether each token sees itself only, as padding does.
    """

    size: int
    seen: tuple[int, ...] = ()
    alone: bool = False


def pieces(until: Sequence[int]) -> list[Piece]:
    """The pieces of a row.

    Args:
        until: (L,) of a `Batch`: token i sees token j iff ``j <= i < until[j]``.
    """
    found: list[Piece] = []
    ends: list[int] = []
    start = 0
    for end, run in groupby(until):
        size = len(list(run))
        seen = tuple(number for number, other in enumerate(ends) if other > start)
        alone = not seen and end == start + 1
        if alone and found and found[-1].alone:
            found[-1] = Piece(found[-1].size + 1, alone=True)
        else:
            found.append(Piece(size, seen, alone))
            ends.append(end)
        start += size
    return found


def computed(row: Sequence[Piece]) -> int:
    """Pairs of positions that the pieces of a row compute."""
    return sum(p.size if p.alone else p.size * (p.size + sum(row[n].size for n in p.seen)) for p in row)


class Piecewise(torch.overrides.TorchFunctionMode):
    """A context in which attention under a batch's mask is computed piece by piece; other attention stays as it is."""

    def __init__(self, batch: Batch, mask: Tensor) -> None:
        super().__init__()
        self.rows = [pieces(row) for row in batch.until.tolist()]
        self.mask = mask
        self._causal: dict[tuple[int, int], Tensor] = {}

    @cached_property
    def saved(self) -> int:
        """Pairs of positions that are not computed."""
        return self.mask.numel() - sum(map(computed, self.rows))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer a call of `torch.nn.functional.scaled_dot_product_attention`."""
        kwargs = kwargs or {}
        if (
            func is attention
            and kwargs.get("attn_mask") is self.mask
            and not kwargs.get("dropout_p")
            and len(args) == 3
        ):
            return self._attention(*args, scale=kwargs.get("scale"), enable_gqa=kwargs.get("enable_gqa", False))
        return func(*args, **kwargs)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """(R, H, L, D) of (R, H, L, D) and (R, K, L, D), where K divides H."""
        rows = zip(self.rows, query.split(1), key.split(1), value.split(1), strict=True)
        return torch.cat([self._row(row, *tensors, **options) for row, *tensors in rows])

    def _row(self, row: Sequence[Piece], query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        sizes = [piece.size for piece in row]
        queries, keys, values = (whole.split(sizes, 2) for whole in (query, key, value))
        out = []
        for n, piece in enumerate(row):
            if piece.alone:  # the only value that it sees
                out.append(values[n].repeat_interleave(query.shape[1] // value.shape[1], 1))
            elif not piece.seen:
                out.append(attention(queries[n], keys[n], values[n], is_causal=True, **options))
            else:
                seen = [*piece.seen, n]
                k, v = (torch.cat([tensors[m] for m in seen], 2) for tensors in (keys, values))
                out.append(attention(queries[n], k, v, self._mask(piece.size, k.shape[2], query), **options))
        return torch.cat(out, 2)

    def _mask(self, size: int, length: int, like: Tensor) -> Tensor:
        """(size, length): the last `size` of `length` positions see all that is before them."""
        if (size, length) not in self._causal:
            lowest = like.new_full((size, length), torch.finfo(like.dtype).min)
            self._causal[size, length] = lowest.triu_(length - size + 1)
        return self._causal[size, length]


def divided(core: Any, batch: Batch, mask: Tensor, window: int | None) -> AbstractContextManager[Any]:
    """The context in which a transformer reads a packed batch: piece by piece where that is faster.

    Args:
        core: a transformer without its head.
        batch: packed.
        mask: (R, 1, L, L) additive, of the batch; what the transformer is given.
        window: of sliding attention, in positions.
    """
    config = getattr(core, "config", None)
    heads = getattr(config, "num_attention_heads", 0)
    length = batch.tokens.shape[1]
    recomputed = getattr(core, "is_gradient_checkpointing", False)  # layers, after the context has ended
    sdpa = getattr(config, "_attn_implementation", None) == "sdpa"
    if heads * length**2 < 2 * WORTH or mask.device.type != "cpu" or recomputed or not sdpa:
        return nullcontext()
    if window is not None and int(batch.positions.max()) >= window:
        return nullcontext()
    found = Piecewise(batch, mask)
    count = sum(not piece.alone for row in found.rows for piece in row)
    return found if heads * found.saved > WORTH * count else nullcontext()
