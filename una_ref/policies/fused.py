"""LoRA layers and RMS norms that read and write memory less often than their modules do; the mathematics is the same.

peft adds (α/r)·B·A·x to W·x by a product, a scaling and a sum, each into new memory, and autograd does as much again.
Here the product is added to W·x in place, and so are its gradients. In a small model that saves a tenth of a step.

A layer becomes a subclass of its own class. So names, state dicts, adapters that are turned off, and merging stay as
they are. Hooks on the parts of a layer (`base_layer`, `lora_A`, `lora_B`) do not run, there are no second derivatives,
and a fused model cannot be pickled. A norm is fused only if it gives the result of its own module on a probe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PROBE = 5
"""Positions on which a fused norm is compared with the module's own."""


class _LoraLinear(torch.autograd.Function):
    """x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ for (N, D) inputs; W and the bias are frozen.

    A and B may have a wider dtype than W. The adapter's part is then computed in it, and the sum is rounded to W's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        inner = x.to(a.dtype) @ a.t()
        ctx.save_for_backward(x, inner, weight, a, b)
        ctx.scale = scale
        return _plus_product(nn.functional.linear(x, weight, bias), inner, b.t(), scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, weight, a, b = ctx.saved_tensors
        wide = slope.to(b.dtype)
        slope_inner = (wide @ b).mul_(ctx.scale)
        of_x = _plus_product(slope @ weight, slope_inner, a) if ctx.needs_input_grad[0] else None
        of_b = (wide.t() @ inner).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        of_a = slope_inner.t() @ x.to(a.dtype) if ctx.needs_input_grad[3] else None
        return of_x, None, None, of_a, of_b, None


def _plus_product(total: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """Add scale·left·right to a tensor in place."""
    if total.dtype == left.dtype:
        return total.addmm_(left, right, alpha=scale)
    return total.add_(left @ right, alpha=scale)


class _RmsNorm(torch.autograd.Function):
    """weight · x / √(mean(x²) + ε) over the last dimension: normalised in float32, rounded to x's dtype, weighted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight = ctx.saved_tensors
        normed = x.float() * scale
        of_weight = (
            (slope * normed).reshape(-1, len(weight)).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        )
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        own = (slope * weight).float()
        along = (own * normed).mean(-1, keepdim=True)
        return own.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), of_weight, None


def fuse(model: nn.Module) -> int:
    """Fuse every layer of a model that can be fused, and return how many there are now.

    Args:
        model: under peft or not; changed in place. Calling this again changes nothing.
    """
    return sum(_fused_lora(module) or _fused_norm(module) for module in model.modules())


def _fused_lora(layer: Any) -> bool:
    """Fuse peft's layer for LoRA on a linear layer."""
    if isinstance(layer, FusedLora):
        return True
    if type(layer).__module__ != "peft.tuners.lora.layer":  # peft is slow to import
        return False
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or type(layer.base_layer) is not nn.Linear:
        return False
    layer.__class__ = _subclass(Linear, FusedLora)
    return True


def _fused_norm(layer: Any) -> bool:
    """Fuse a layer that is named an RMS norm and computes one."""
    weight, eps = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", None)
    if isinstance(layer, FusedNorm):
        return True
    if not type(layer).__name__.endswith("RMSNorm") or weight is None or eps is None:
        return False
    if [name for name, _ in layer.named_parameters()] != ["weight"]:
        return False
    if not weight.is_meta and not _is_norm(layer):
        return False
    layer.__class__ = _subclass(type(layer), FusedNorm)
    return True


@torch.no_grad()
def _is_norm(layer: Any) -> bool:
    """Whether a layer computes what a fused norm would."""
    weight = layer.weight
    numbers = torch.randn(PROBE, weight.numel(), generator=torch.Generator().manual_seed(0))
    probe = numbers.to(weight.device, weight.dtype)
    own, fused = layer(probe), _RmsNorm.apply(probe, weight, layer.variance_epsilon)
    eps = max(torch.finfo(own.dtype).eps, torch.finfo(torch.float32).eps)
    return own.dtype == fused.dtype and bool((own - fused).norm() <= 4 * eps * own.norm())


def _subclass(module: type, fused: type) -> type:
    """The class of a module with another forward pass; one class for all modules of that class."""
    name, own = module.__name__, {"__module__": module.__module__}
    return _subclasses.setdefault((module, fused), type(name, (fused, module), own))


_subclasses: dict[tuple[type, type], type] = {}


class FusedLora(nn.Module):
    """peft's layer for LoRA on a linear layer, with one function for its forward and backward pass."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, D) -> (…, E). peft computes everything but one plain adapter on frozen weights."""
        base, names = self.base_layer, [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1 or names[0] in self.lora_variant:
            return super().forward(x, *args, **kwargs)
        a, b, shift = self.lora_A[names[0]].weight, self.lora_B[names[0]].weight, self.lora_B[names[0]].bias
        dropout = self.training and not isinstance(self.lora_dropout[names[0]], nn.Identity)
        fits = x.dtype == base.weight.dtype and b.dtype == a.dtype == torch.promote_types(a.dtype, x.dtype)
        frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
        cast = not x.is_meta and torch.is_autocast_enabled(x.device.type)
        if dropout or cast or not fits or not frozen or shift is not None:
            return super().forward(x)
        out = _LoraLinear.apply(x.reshape(-1, x.shape[-1]), base.weight, base.bias, a, b, self.scaling[names[0]])
        return out.view(*x.shape[:-1], base.out_features)


class FusedNorm(nn.Module):
    """A model's own RMS norm, with one function for its forward and backward pass."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        return _RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon)
