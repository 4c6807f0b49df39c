"""What a `PrefixLM` makes of the prefix: states of an MLP or of a small transformer, beside π_ref's logits.

Position 0 holds the prompt's number, position t > 0 the response's t-th token. π_ref's logits stand in one table with a
row for each prompt and prefix. A row's number is a sum over the positions before, see `_places`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from una_ref.theory.prefix_tree import EOS, PrefixTree


@dataclass(frozen=True, eq=False)
class Tables:
    """What a `PrefixLM` reads and does not train. Copies of the model share it.

    Attributes:
        ref: (X·N, V) π_ref's log-probabilities of next tokens.
        places: (R,) what each (position, token) adds to the row of `ref`.
        first: (T,) the first of the R rows of each position.
        prefixes: (N, T − 1) the tokens of each prefix of the tree, negative behind its end.
    """

    ref: Tensor
    places: Tensor
    first: Tensor
    prefixes: Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Tables:
        return self

    def to(self, device: torch.device) -> Tables:
        """The same tables on a device."""
        return Tables(*(getattr(self, field.name).to(device) for field in fields(self)))


class Trunk(nn.Module, ABC):
    """Token ids to states, with π_ref's logits as the last V of their values.

    Attributes:
        hidden_size: values of a state, H + V.
        prompts: X. tables: of π_ref and of the tree.
    """

    def __init__(self, tree: PrefixTree, ref_next_logps: Tensor, hidden: int) -> None:
        super().__init__()
        self.prompts, self.hidden_size = len(ref_next_logps), hidden + tree.vocabulary
        self.first = [0, *(self.prompts + t * tree.vocabulary for t in range(tree.length - 1))]
        self.tables = Tables(
            ref=ref_next_logps.flatten(0, 1),
            places=_places(tree, self.prompts),
            first=torch.tensor(self.first),
            prefixes=tree.prefixes[:, : tree.length - 1],
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Trunk:
        """Move the tables with the parameters."""
        super()._apply(fn, recurse)
        self.tables = self.tables.to(next(self.parameters()).device)
        return self

    @abstractmethod
    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **_: Any
    ) -> tuple[Tensor]:
        """(R, L) ids -> (R, L, H + V) states.

        Without a mask a row is one prompt with one response. With a mask, 0 where a position sees another, it is what
        the mask says.
        """

    @abstractmethod
    def grown(self, tokens: Tensor, position: int, before: Any) -> Any:
        """What `read` makes the states (B, H + V) of, after the tokens (B,) at a position; `before` is what it was."""

    @abstractmethod
    def read(self, grown: Any) -> Tensor:
        """The states (B, H + V)."""

    @abstractmethod
    def states(self) -> Tensor:
        """(X, N, H + V) states at every prefix of the tree."""

    def with_ref(self, inner: Tensor, place: Tensor) -> Tensor:
        """States of their own values (…, H) and the rows (…) of π_ref's table."""
        return torch.cat([inner, self.tables.ref[place]], -1)

    def in_tree(self, inner: Tensor) -> Tensor:
        """States of their own values (X, N, H) at every prefix of the tree."""
        return torch.cat([inner, self.tables.ref.view(*inner.shape[:2], -1)], -1)

    def visible_places(self, rows: Tensor, sees: Tensor | None) -> Tensor:
        """(R, L) the row of π_ref's table at every position; `sees` (R, L, L) is all before where it is None."""
        own = self.tables.places[rows]
        return own.cumsum(1) if sees is None else (sees * own[:, None, :]).sum(-1)


class MLP(Trunk):
    """A tanh layer on the sum of one-hot codes of all earlier tokens at their positions.

    Each (position, token) has a row of weights. A prefix's sum is that of its rows.

    Args:
        tree: of the responses. ref_next_logps: (X, N, V) of π_ref, in the dtype of the parameters.
        hidden: width H. seed: of the weights.
    """

    def __init__(self, tree: PrefixTree, ref_next_logps: Tensor, hidden: int, seed: int) -> None:
        super().__init__(tree, ref_next_logps, hidden)
        rows = self.prompts + (tree.length - 1) * tree.vocabulary
        generator = torch.Generator().manual_seed(seed)
        scale = tree.length**-0.5  # up to `length` rows are summed: the tanh layer's input has an sd of about 1
        start = scale * torch.randn(rows, hidden, generator=generator, dtype=torch.float64)
        self.embedding = nn.Parameter(start.to(ref_next_logps.dtype))

    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **_: Any
    ) -> tuple[Tensor]:
        """See `Trunk`."""
        first = self.tables.first
        if attention_mask is None:
            sees, rows = None, input_ids + first[: input_ids.shape[1]]
            summed = nn.functional.embedding(rows, self.embedding).cumsum(1)
        else:
            assert position_ids is not None
            sees, rows = attention_mask[:, 0] == 0, input_ids + first[position_ids]
            summed = sees.to(self.embedding.dtype) @ self.embedding[rows]
        return (self.read((summed, self.visible_places(rows, sees))),)

    def grown(self, tokens: Tensor, position: int, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The sums of rows, of the layer and of π_ref's table."""
        rows = tokens + self.first[position]
        own = self.embedding[rows], self.tables.places[rows]
        return own if before is None else (before[0] + own[0], before[1] + own[1])

    def read(self, grown: tuple[Tensor, Tensor]) -> Tensor:
        """States of such sums."""
        return self.with_ref(grown[0].tanh(), grown[1])

    def states(self) -> Tensor:
        """See `Trunk`."""
        prefixes = self.tables.prefixes
        rows = prefixes.clamp(min=EOS) + self.tables.first[1:]
        inside = (self.embedding[rows] * (prefixes >= 0)[..., None]).sum(1)
        return self.in_tree((self.embedding[: self.prompts, None] + inside).tanh())


class Transformer(Trunk):
    """A small Mistral: causal attention over the prompt's number and the tokens so far.

    Args:
        tree: of the responses. ref_next_logps: (X, N, V) of π_ref, in the dtype of the parameters.
        hidden: width H, a multiple of 8. layers: of the transformer. seed: of the weights; torch's random state stays
            as it is.
    """

    def __init__(self, tree: PrefixTree, ref_next_logps: Tensor, hidden: int, layers: int, seed: int) -> None:
        from transformers import MistralConfig, MistralModel

        super().__init__(tree, ref_next_logps, hidden)
        config = MistralConfig(
            vocab_size=self.prompts + tree.vocabulary,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=tree.length + 1,
            sliding_window=None,
            attn_implementation="eager",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.core = MistralModel(config).to(ref_next_logps.dtype)

    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **_: Any
    ) -> tuple[Tensor]:
        """See `Trunk`."""
        length = input_ids.shape[1]
        sees = None if attention_mask is None else attention_mask[:, 0] == 0
        at = torch.arange(length, device=input_ids.device) if position_ids is None else position_ids
        ids = input_ids + self.prompts * (at > 0)  # the prompts' numbers come first
        positions = None if position_ids is None else {"position_ids": position_ids}
        out = self.core(input_ids=ids, attention_mask=attention_mask, use_cache=False, **(positions or {}))
        rows = input_ids + self.tables.first[at]
        return (self.with_ref(out[0], self.visible_places(rows, sees)),)

    def grown(self, tokens: Tensor, position: int, before: Tensor | None) -> Tensor:
        """(B, position + 1) the tokens so far."""
        return tokens[:, None] if before is None else torch.cat([before, tokens[:, None]], 1)

    def read(self, grown: Tensor) -> Tensor:
        """The states at the last of the tokens."""
        return self(grown)[0][:, -1]

    def states(self) -> Tensor:
        """See `Trunk`."""
        prefixes = self.tables.prefixes
        ends = (prefixes >= 0).sum(1)
        prompts = torch.arange(self.prompts, device=prefixes.device)
        heads = prompts.repeat_interleave(len(prefixes))[:, None]
        rows = torch.cat([heads, prefixes.clamp(min=EOS).repeat(self.prompts, 1)], 1)
        (states,) = self(rows)
        at_end = states[torch.arange(len(rows), device=prefixes.device), ends.repeat(self.prompts)]
        return at_end.view(self.prompts, len(prefixes), -1)


def _places(tree: PrefixTree, prompts: int) -> Tensor:
    """What each (position, token) adds to the row of π_ref's table (X·N, V).

    A prompt x adds x·N. In depth-first preorder the child of a prefix by token t ≥ 1 stands 1 + (t − 1)·S rows behind
    it, where S is the size of a subtree at that depth. EOS and padding add 0, since nothing is predicted there.
    """
    parts = [torch.arange(prompts) * len(tree.prefixes)]
    for depth in range(1, tree.length):
        size = sum((tree.vocabulary - 1) ** below for below in range(tree.length - depth))
        tokens = torch.arange(tree.vocabulary)
        parts.append((1 + (tokens - 1) * size) * (tokens > EOS))
    return torch.cat(parts)
