"""A LoRA adapter merged into its weights while a policy decodes.

Decoding is many small matrix products, and an adapter triples their number; the merged weight W + (α/r)·B·A is one
matrix. The merged layers are new layers in the places of the LoRA layers. The base weights are never written to, so
after decoding the model is the same bit for bit, even if decoding was interrupted.

Merging rounds to the dtype of the weights. In bfloat16 a small adapter vanishes in that rounding, and the base would
be sampled. So each merge is measured on tokens of the prompts. An adapter is merged only if that changes no log-prob by
more than `TOLERANCE`, and changes them little in comparison with the adapter itself (`SHARE`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from una_ref.policies.anatomy import unwrapped
from una_ref.policies.fused import FusedLora

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Largest change of any probed token's log-prob, in nats, by the dtype of the weights."""

SHARE = 0.1
"""Largest root mean square of these changes, as a share of that of the adapter's own effect. A fresh adapter (B = 0)
has no effect and is merged without any change."""

PROBE = 64
"""Tokens on which the changes are measured."""


@dataclass(frozen=True, slots=True)
class Merging:
    """Whether the adapter is merged, and why: a sentence for the log."""

    merged: bool
    why: str


@contextmanager
def merged(model: Any, prompts: Sequence[Sequence[int]]) -> Iterator[Merging]:
    """A context in which the model's adapter is merged, if that keeps to the tolerances.

    It costs a second copy of the adapted weights, and three forward passes over `PROBE` tokens.

    Args:
        model: under PEFT or not.
        prompts: token ids; merging is measured on the first `PROBE` of them, joined.
    """
    inner = unwrapped(model)
    places = _places(inner)
    if obstacle := _obstacle(places):
        yield Merging(False, f"decoding unmerged: {obstacle}")
        return
    layers = [_merged_layer(layer) for _, _, layer in places]
    verdict = _verdict(inner, places, layers, [token for prompt in prompts for token in prompt][:PROBE])
    if not verdict.merged:
        del layers  # their memory is needed for decoding
        yield verdict
        return
    with _replaced(places, layers):
        yield verdict


def _places(inner: Any) -> list[tuple[nn.Module, str, Any]]:
    """Every adapted layer as (parent module, name in it, layer)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [
        (parent, name, layer)
        for parent in inner.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, BaseTunerLayer)
    ]


def _obstacle(places: Sequence[tuple[nn.Module, str, Any]]) -> str:
    """Why plain linear layers cannot replace the adapted ones; empty if they can."""
    from peft.tuners.lora import Linear

    if not places:
        return "no adapter"
    for _, name, layer in places:
        if not (type(layer) is Linear or isinstance(layer, FusedLora)) or type(layer.get_base_layer()) is not nn.Linear:
            return f"{name} is no LoRA on a linear layer"
        adapters = _active(layer)
        if layer.disable_adapters or layer.merged or not adapters:
            return f"the adapter of {name} is off, or already merged"
        for adapter in adapters:
            if adapter in layer.lora_variant:
                return f"{name} is a variant of LoRA, {type(layer.lora_variant[adapter]).__name__}"
            if layer.lora_B[adapter].bias is not None:
                return f"the adapter of {name} has a bias"
            if layer.training and not isinstance(layer.lora_dropout[adapter], nn.Identity):
                return f"{name} has dropout"
    return ""


def _active(layer: Any) -> list[str]:
    return [name for name in layer.active_adapters if name in layer.lora_A]


@torch.no_grad()
def _merged_layer(layer: Any) -> nn.Linear:
    """A new layer with W + Σ scale·B·A, summed in fp32 or better and rounded once."""
    base = layer.get_base_layer()
    wide = torch.promote_types(base.weight.dtype, torch.float32)
    weight = base.weight.to(wide)
    for name in _active(layer):
        a, b = layer.lora_A[name].weight.to(wide), layer.lora_B[name].weight.to(wide)
        weight = torch.addmm(weight, b, a, alpha=layer.scaling[name])
    linear = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    linear.weight = nn.Parameter(weight.to(base.weight.dtype), requires_grad=False)
    linear.bias = base.bias
    return linear


@contextmanager
def _replaced(places: Sequence[tuple[nn.Module, str, Any]], layers: Sequence[nn.Module]) -> Iterator[None]:
    """A context in which other layers are in the places of the adapted ones."""
    try:
        for (parent, name, _), layer in zip(places, layers, strict=True):
            setattr(parent, name, layer)
        yield
    finally:
        for parent, name, layer in places:
            setattr(parent, name, layer)


def _verdict(
    inner: Any, places: Sequence[tuple[nn.Module, str, Any]], layers: Sequence[nn.Module], tokens: Sequence[int]
) -> Merging:
    """Whether the merged layers keep to the tolerances on the tokens."""
    probe = torch.tensor([tokens], device=next(inner.parameters()).device)
    adapted = probe_logps(inner, probe)
    with _replaced(places, layers):
        error = probe_logps(inner, probe) - adapted
    with _replaced(places, [layer.get_base_layer() for _, _, layer in places]):
        effect = probe_logps(inner, probe) - adapted
    largest, rms_error, rms_effect = float(error.abs().max()), _rms(error), _rms(effect)
    limit = TOLERANCE[next(inner.parameters()).dtype]
    keeps = largest <= limit and rms_error <= SHARE * rms_effect
    why = f"decoding {'merged' if keeps else 'unmerged'}: merging moves log-probs by {rms_error:.2g} nats a token"
    why += f" (at most {largest:.2g}; allowed {limit:g}), the adapter by {rms_effect:.2g}"
    return Merging(keeps, why if keeps or largest > limit else f"{why}, of which it may be {SHARE:.0%}")


@torch.no_grad()
def probe_logps(inner: Any, probe: Tensor) -> Tensor:
    """(L,) float64 log-prob of each next token; after the last one comes the first."""
    logits = inner(input_ids=probe, use_cache=False).logits[0]
    logps = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return logps.gather(-1, probe[0].roll(-1)[:, None])[:, 0].double()


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
