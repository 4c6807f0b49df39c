"""A LoRA adapter merged into its weights for as long as a policy decodes.

Decoding is many small matrix products, and an adapter triples their number; W + (α/r)·B·A is one. The merged layers are
new ones that stand in the LoRA layers' places, and the base weights beside them are never written to: what comes back
is what was there, bit for bit, whatever happened in between.

Merging rounds to the dtype of the weights, and bfloat16 has 8 bits: a young adapter vanishes in the rounding, and what
decodes is the base. So it is measured each time, on tokens of the prompts: an adapter is merged only where that moves
no log-prob by more than `TOLERANCE`, and moves them by little beside what the adapter itself does (`SHARE`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from una_ref.policies.anatomy import unwrapped

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Nats that the log-prob of any probed token may move by, by the dtype of the weights."""

SHARE = 0.1
"""And their root mean square, as a share of that by which the adapter moves them. A fresh adapter (B = 0) moves none,
and is merged without loss."""

PROBE = 64
"""Tokens that it is measured on."""


@dataclass(frozen=True, slots=True)
class Merging:
    """Whether the adapter is merged, and why, as a sentence for the log."""

    merged: bool
    why: str


@contextmanager
def merged(model: Any, prompts: Sequence[Sequence[int]]) -> Iterator[Merging]:
    """The model with its adapter merged where that keeps to the tolerance, and as it is where not.

    Costs a second copy of the adapted weights while it lasts, and three forward passes over `PROBE` tokens.

    Args:
        model: under PEFT or not.
        prompts: token ids; their first ones, joined, are what is measured on.
    """
    inner = unwrapped(model)
    places = _places(inner)
    if obstacle := _obstacle(places):
        yield Merging(False, f"decoding unmerged: {obstacle}")
        return
    layers = [_folded(layer) for _, _, layer in places]
    verdict = _verdict(inner, places, layers, [token for prompt in prompts for token in prompt][:PROBE])
    if not verdict.merged:
        del layers  # room for the draws
        yield verdict
        return
    with _standing(places, layers):
        yield verdict


def _places(inner: Any) -> list[tuple[nn.Module, str, Any]]:
    """Every adapted layer, with the module that it stands in and its name there."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [
        (parent, name, layer)
        for parent in inner.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, BaseTunerLayer)
    ]


def _obstacle(places: Sequence[tuple[nn.Module, str, Any]]) -> str:
    """What there is about the adapter that a plain linear layer could not stand for; empty if nothing."""
    from peft.tuners.lora import Linear

    if not places:
        return "no adapter"
    for _, name, layer in places:
        if type(layer) is not Linear or type(layer.get_base_layer()) is not nn.Linear:
            return f"{name} is no LoRA on a linear layer"
        adapters = _active(layer)
        if layer.disable_adapters or layer.merged or not adapters:
            return f"the adapter of {name} is off, or merged already"
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
def _folded(layer: Any) -> nn.Linear:
    """W + Σ scale·B·A as a layer of its own: added up in fp32 or better, rounded once."""
    base = layer.get_base_layer()
    wide = torch.promote_types(base.weight.dtype, torch.float32)
    weight = base.weight.to(wide)
    for name in _active(layer):
        a, b = layer.lora_A[name].weight.to(wide), layer.lora_B[name].weight.to(wide)
        weight = torch.addmm(weight, b, a, alpha=layer.scaling[name])
    folded = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    folded.weight = nn.Parameter(weight.to(base.weight.dtype), requires_grad=False)
    folded.bias = base.bias
    return folded


@contextmanager
def _standing(places: Sequence[tuple[nn.Module, str, Any]], layers: Sequence[nn.Module]) -> Iterator[None]:
    """Other layers in the adapted ones' places."""
    try:
        for (parent, name, _), layer in zip(places, layers, strict=True):
            setattr(parent, name, layer)
        yield
    finally:
        for parent, name, own in places:
            setattr(parent, name, own)


def _verdict(
    inner: Any, places: Sequence[tuple[nn.Module, str, Any]], layers: Sequence[nn.Module], tokens: Sequence[int]
) -> Merging:
    probe = torch.tensor([tokens], device=next(inner.parameters()).device)
    own = _logps(inner, probe)
    with _standing(places, layers):
        error = _logps(inner, probe) - own
    with _standing(places, [layer.get_base_layer() for _, _, layer in places]):
        effect = _logps(inner, probe) - own
    worst, off, moved = float(error.abs().max()), _rms(error), _rms(effect)
    limit = TOLERANCE[next(inner.parameters()).dtype]
    good = worst <= limit and off <= SHARE * moved
    said = f"decoding {'merged' if good else 'unmerged'}: merging moves log-probs by {off:.2g} nats a token"
    said += f" (at most {worst:.2g}; allowed {limit:g}), the adapter by {moved:.2g}"
    return Merging(good, said if good or worst > limit else f"{said}, of which it may be {SHARE:.0%}")


@torch.no_grad()
def _logps(inner: Any, probe: Tensor) -> Tensor:
    """(L,) the log-prob of each next token; the last one is followed by the first."""
    logits = inner(input_ids=probe, use_cache=False).logits[0]
    logps = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return logps.gather(-1, probe[0].roll(-1)[:, None])[:, 0].double()


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
