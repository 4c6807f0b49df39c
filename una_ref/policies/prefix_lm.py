"""A small MLP or transformer on the prefix as a language model of a `SequenceWorld`, and its sampler.

It runs through the same `Batch`, log-probs, reference, critic and training loop as a 7B model. One token is the prompt,
the tokens after it are those of the world. All its responses can be enumerated, so its regret is exact.

The model is π_ref's next-token logits plus a network whose last layer starts at 0: training starts exactly at π_ref.

    logits(x, y_<t) = log π_ref(·|x, y_<t) + W·h(x, y_<t) + c
    MLP: h = tanh(a_x + Σ_{s<t} b_{s, y_s})

The MLP's sum over positions is a one-hot code of each earlier token at its position; it says the position t as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from una_ref.errors import InputError
from una_ref.policies.prefix_trunks import MLP, Transformer, Trunk
from una_ref.policies.references import Policy
from una_ref.policies.rollout import Sample
from una_ref.theory.prefix_tree import EOS
from una_ref.theory.worlds import SequenceWorld


class PrefixLM(nn.Module):
    """A policy of a `SequenceWorld`: a small network on the prompt and the tokens so far, added to π_ref's logits.

    Args:
        world: gives π_ref, V tokens and the longest response, T tokens.
        hidden: width H of the network. The MLP has (X + (T − 1)·V)·H + V·(H + 1) parameters for X prompts.
        layers: of a Mistral transformer with four heads; 0: a one-layer MLP.
        seed: of all layers but the last, which is 0; torch's random state stays as it is.
        dtype: of the parameters.

    Raises:
        InputError: a width below 1, or one of a transformer that is no multiple of 8.
    """

    base_model_prefix = "trunk"

    def __init__(
        self,
        world: SequenceWorld,
        hidden: int = 160,
        *,
        layers: int = 0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise InputError(f"hidden: expected a width of at least 1, got {hidden}")
        if layers and hidden % 8:
            raise InputError(f"hidden: expected a multiple of 8 for a transformer of 4 heads, got {hidden}")
        ref = world.ref_next_logps.to(dtype)
        self.trunk: Trunk = (
            Transformer(world.tree, ref, hidden, layers, seed) if layers else MLP(world.tree, ref, hidden, seed)
        )
        self.head = _Logits(hidden, world.tree.vocabulary, dtype)

    def get_output_embeddings(self) -> nn.Module:
        """The last layer."""
        return self.head

    def next_logps(self) -> Tensor:
        """(X, N, V) log π of every next token at every prefix of the world's tree; differentiable."""
        return self.head(self.trunk.states()).log_softmax(-1)


class _Logits(nn.Module):
    """The last layer: states (…, H + V) -> logits (…, V), the network's output plus π_ref's. It starts at π_ref."""

    def __init__(self, hidden: int, vocabulary: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary, hidden, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(vocabulary, dtype=dtype))
        self.out_features = vocabulary

    def forward(self, states: Tensor) -> Tensor:
        inner, ref = states.split([self.weight.shape[1], self.out_features], -1)
        return nn.functional.linear(inner, self.weight, self.bias) + ref


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
