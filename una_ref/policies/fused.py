"""LoRA layers and RMS norms that read and write memory less often than their modules do; the mathematics is the same.

peft adds (α/r)·B·A·x to W·x by a product, a scaling and a sum, each into new memory, and autograd does as much again.
Here the second product adds into the first one's result, and the gradients likewise. Next to small matrices that
traffic is a tenth of a training step.

A layer becomes a subclass of its own class. So names, state dicts, adapters that are turned off, and merging stay as
they are. Only layers are fused whose result on a probe agrees with the module's own; all others stay unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PROBE = 5
"""Positions on which a fused layer is compared with the module's own."""


class _LoraLinear(torch.autograd.Function):
    """x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ for (N, D) inputs; W and the bias are frozen.

    A and B may have a wider dtype than W. Their product is then computed in it, and rounded once.
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
    """weight · x / √(mean(x²) + ε) over the last dimension, computed in float32."""

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
        of_weight = (slope * normed).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
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

    if type(layer) is not Linear or type(layer.get_base_layer()) is not nn.Linear:
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
    return own.dtype == fused.dtype and bool((own - fused).norm() <= 4 * torch.finfo(own.dtype).eps * own.norm())


def _subclass(module: type, fused: type) -> type:
    """The class of a module with another forward pass; one class for all modules of that class."""
    name, own = module.__name__, {"__module__": module.__module__}
    return _subclasses.setdefault((module, fused), type(name, (fused, module), own))


_subclasses: dict[tuple[type, type], type] = {}


class FusedLora(nn.Module):
    """peft's layer for LoRA on a linear layer, with one function for its forward and backward pass."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, D) -> (…, E). What is not one plain adapter on frozen weights is left to peft."""
        base, names = self.base_layer, [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1 or names[0] in self.lora_variant:
            return super().forward(x, *args, **kwargs)
        a, b = self.lora_A[names[0]].weight, self.lora_B[names[0]]
        dropout = self.training and not isinstance(self.lora_dropout[names[0]], nn.Identity)
        wide = x.dtype == base.weight.dtype and b.weight.dtype == a.dtype == torch.promote_types(a.dtype, x.dtype)
        frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
        cast = not x.is_meta and torch.is_autocast_enabled(x.device.type)
        if dropout or cast or not wide or not frozen or b.bias is not None:
            return super().forward(x)
        flat = x.reshape(-1, x.shape[-1])
        return _LoraLinear.apply(flat, base.weight, base.bias, a, b.weight, self.scaling[names[0]]).view(
            *x.shape[:-1], -1
        )


class FusedNorm(nn.Module):
    """A model's own RMS norm, with one function for its forward and backward pass."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        return _RmsNorm.apply(x, self.weight, self.variance_epsilon)
