"""A small MLP on the prefix as a language model of a `SequenceWorld`, and its sampler.

It runs through the same `Batch`, log-probs, reference, critic and training loop as a 7B model. One token is the prompt,
the tokens after it are those of the world. All its responses can be enumerated, so its regret is exact.

The model is π_ref's next-token logits plus an MLP whose last layer starts at 0: training starts exactly at π_ref.

    logits(x, y_<t) = log π_ref(·|x, y_<t) + W·tanh(a_x + Σ_{s<t} b_{s, y_s}) + c

The sum over positions is a one-hot code of each earlier token at its position; it says the position t as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from una_ref.errors import InputError
from una_ref.policies.references import Policy
from una_ref.policies.rollout import Sample
from una_ref.theory.prefix_tree import EOS, PrefixTree
from una_ref.theory.worlds import SequenceWorld


class PrefixLM(nn.Module):
    """A policy of a `SequenceWorld`: a one-layer MLP on the prompt and the tokens so far, added to π_ref's logits.

    Args:
        world: gives π_ref, V tokens and the longest response, T tokens.
        hidden: width H of the tanh layer. There are (X + (T − 1)·V)·H + V·(H + 1) parameters for X prompts.
        seed: of the first layer; torch's random state stays as it is.
        dtype: of the parameters.
    """

    base_model_prefix = "trunk"

    def __init__(
        self, world: SequenceWorld, hidden: int = 160, *, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise InputError(f"hidden: expected a width of at least 1, got {hidden}")
        self.trunk = _Prefixes(world.tree, world.ref_next_logps.to(dtype), hidden, seed)
        self.head = _Logits(hidden, world.tree.vocabulary, dtype)

    def get_output_embeddings(self) -> nn.Module:
        """The last layer."""
        return self.head

    def next_logps(self) -> Tensor:
        """(X, N, V) log π of every next token at every prefix of the world's tree; differentiable."""
        return self.head(self.trunk.states()).log_softmax(-1)


@dataclass(frozen=True, eq=False)
class _Tables:
    """What a `PrefixLM` reads and does not train. Copies of the model share it.

    Attributes:
        ref: (X·N, V) π_ref's log-probabilities of next tokens.
        places: (R,) what each (position, token) adds to the row of `ref`.
        first: (T,) the first of the R rows of each position.
        rows: (N, T − 1) the rows of each prefix of the tree. used: (N, T − 1) 1 where there is a token, else 0.
    """

    ref: Tensor
    places: Tensor
    first: Tensor
    rows: Tensor
    used: Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> _Tables:
        return self

    def to(self, device: torch.device) -> _Tables:
        """The same tables on a device."""
        return _Tables(*(getattr(self, field.name).to(device) for field in fields(self)))


class _Prefixes(nn.Module):
    """Token ids to states: the tanh layer, and π_ref's logits beside it.

    Position 0 holds the prompt's number, position t > 0 the response's t-th token. Each (position, token) has one row
    in two tables, and both tables are summed over what a position sees: the embeddings to the MLP's first layer, and
    `places` to the row of π_ref's table. In the tree's order a prefix's row is such a sum: see `_places`.
    """

    def __init__(self, tree: PrefixTree, ref_next_logps: Tensor, hidden: int, seed: int) -> None:
        super().__init__()
        prompts, self.hidden_size = len(ref_next_logps), hidden + tree.vocabulary
        rows = prompts + (tree.length - 1) * tree.vocabulary
        generator = torch.Generator().manual_seed(seed)
        scale = tree.length**-0.5  # up to `length` rows are summed: the tanh layer's input has an sd of about 1
        start = scale * torch.randn(rows, hidden, generator=generator, dtype=torch.float64)
        self.embedding = nn.Parameter(start.to(ref_next_logps.dtype))
        self.first = [0, *(prompts + t * tree.vocabulary for t in range(tree.length - 1))]
        self.prompts = prompts
        inner = slice(tree.length - 1)
        self.tables = _Tables(
            ref=ref_next_logps.flatten(0, 1),
            places=_places(tree, prompts),
            first=torch.tensor(self.first),
            rows=(tree.prefixes.clamp(min=EOS) + torch.tensor([*self.first[1:], 0]))[:, inner],
            used=(tree.prefixes >= 0)[:, inner].to(ref_next_logps.dtype),
        )

    def _apply(self, fn: Any, recurse: bool = True) -> _Prefixes:
        """Move the tables with the parameters."""
        super()._apply(fn, recurse)
        self.tables = self.tables.to(self.embedding.device)
        return self

    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **_: Any
    ) -> tuple[Tensor]:
        """(R, L) ids -> (R, L, H + V) states.

        Without a mask a row is one prompt with one response. With a mask, 0 where a position sees another, it is what
        the mask says.
        """
        places, first = self.tables.places, self.tables.first
        if attention_mask is None:
            rows = input_ids + first[: input_ids.shape[1]]
            summed, place = nn.functional.embedding(rows, self.embedding).cumsum(1), places[rows].cumsum(1)
        else:
            assert position_ids is not None
            rows = input_ids + first[position_ids]
            sees = (attention_mask[:, 0] == 0).to(self.embedding.dtype)
            summed = sees @ self.embedding[rows]
            place = ((attention_mask[:, 0] == 0) * places[rows][:, None, :]).sum(-1)
        return (self.read((summed, place)),)

    def grown(self, tokens: Tensor, position: int, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The two sums after the tokens (B,) at a position, from those before; what `read` makes states of."""
        rows = tokens + self.first[position]
        own = self.embedding[rows], self.tables.places[rows]
        return own if before is None else (before[0] + own[0], before[1] + own[1])

    def read(self, sums: tuple[Tensor, Tensor]) -> Tensor:
        """(…, H + V) states."""
        return torch.cat([sums[0].tanh(), self.tables.ref[sums[1]]], -1)

    def states(self) -> Tensor:
        """(X, N, H + V) states at every prefix of the tree."""
        tables = self.tables
        inside = (self.embedding[tables.rows] * tables.used[..., None]).sum(1)
        summed = self.embedding[: self.prompts, None] + inside
        return torch.cat([summed.tanh(), tables.ref.view(self.prompts, len(tables.rows), -1)], -1)


class _Logits(nn.Module):
    """The last layer: states (…, H + V) -> logits (…, V), the MLP's output plus π_ref's logits. It starts at π_ref."""

    def __init__(self, hidden: int, vocabulary: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary, hidden, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(vocabulary, dtype=dtype))
        self.out_features = vocabulary

    def forward(self, states: Tensor) -> Tensor:
        inner, ref = states.split([self.weight.shape[1], self.out_features], -1)
        return nn.functional.linear(inner, self.weight, self.bias) + ref


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


@dataclass(frozen=True)
class PrefixSampler:
    """An `Engine` that samples from a `PrefixLM`, token by token."""

    @torch.no_grad()
    def __call__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int
    ) -> list[list[Sample]]:
        """See `Engine`."""
        return _sampled([model], [1.0], prompts, k, max_new, seed)

    @torch.no_grad()
    def mixed(
        self, policy: Policy, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int, share: float
    ) -> list[list[Sample]]:
        """Samples of the mixture ∝ π^(1−share)·π_ref^share of every next token, as `HuggingFace.mixed`."""
        with policy.as_reference() as reference:
            return _sampled([policy.model, reference], [1 - share, share], prompts, k, max_new, seed)


def _sampled(
    models: Sequence[Any],
    shares: Sequence[float],
    prompts: Sequence[tuple[int, ...]],
    k: int,
    max_new: int,
    seed: int,
) -> list[list[Sample]]:
    """`k` samples for each prompt from the product of the models' next-token distributions to the powers `shares`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.tensor([x for (x,) in prompts for _ in range(k)])
    logps = torch.zeros(len(drawn), dtype=torch.float64)
    running = torch.ones(len(drawn), dtype=torch.bool)
    sums: list[Any] = [None] * len(models)
    columns = []
    for position in range(max_new):
        sums = [model.trunk.grown(drawn, position, before) for model, before in zip(models, sums, strict=True)]
        parts = [model.head(model.trunk.read(own)).log_softmax(-1) for model, own in zip(models, sums, strict=True)]
        table = (
            parts[0]
            if len(parts) == 1
            else torch.stack(parts).mul(parts[0].new_tensor(shares)[:, None, None]).sum(0).log_softmax(-1)
        )
        drawn = table.exp().multinomial(1, generator=generator)[:, 0]
        logps += table.gather(1, drawn[:, None])[:, 0].double() * running
        running &= drawn != EOS
        columns.append(drawn)
    samples = []
    for row, open_, logp in zip(torch.stack(columns, 1).tolist(), running.tolist(), logps.tolist(), strict=True):
        tokens = row if open_ else row[: row.index(EOS) + 1]
        samples.append(Sample(tuple(tokens), not open_, logp))
    return [samples[i : i + k] for i in range(0, len(samples), k)]
