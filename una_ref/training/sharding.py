"""FSDP2: a policy's layers in shards over the processes, where accelerate's launch file asks for it.

The layers of the transformer are sharded, with their gradients and moments; a layer's weights are whole only while it
computes, or, where the launch file says so, from its forward pass to its backward pass. Embedding, last norm and head
are whole in every process, as everything is without shards: they are a few percent of a large model, and the head is
called chunk by chunk. Gradients are sums over the processes either way.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from una_ref.errors import InputError
from una_ref.policies.anatomy import parts
from una_ref.policies.references import Policy
from una_ref.training.config import Config

if TYPE_CHECKING:
    from accelerate import Accelerator


def asked() -> bool:
    """Whether the launch file asks for shards: accelerate says so in the environment, on a CPU as well.

    Raises:
        InputError: it asks for another way of sharing out a model, which this loop would not follow.
    """
    for name, what in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron")):
        if _true(f"ACCELERATE_USE_{name}"):
            raise InputError(
                f"launch: expected DDP or FSDP2, got {what}, whose engine would not see this loop's gradients; "
                "launch/fsdp2.yaml shards what ZeRO-3 or ZeRO-2 shards"
            )
    if not _true("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise InputError(f"launch: expected fsdp_version: 2, got {version}")
    if _true("FSDP_OFFLOAD_PARAMS"):
        raise InputError("launch: expected fsdp_offload_params: false, got true; this loop leaves all on the GPU")
    return True


def _reshards() -> bool:
    """Whether a layer's weights go back into shards between its forward and its backward pass (ZeRO-3; else ZeRO-2)."""
    return _true("FSDP_RESHARD_AFTER_FORWARD", "true")


def _true(name: str, default: str = "false") -> bool:
    return os.environ.get(name, default).lower() in ("true", "1", "yes")


def shard(policy: Policy, config: Config, team: Accelerator) -> bool:
    """Shard a policy and a reference of its own, if that is asked for and there are several processes.

    Raises:
        InputError: for what is not done in shards.
    """
    if not asked() or team.num_processes == 1:
        return False
    reasons = {
        "an online run, which decodes": config.on_policy,
        "reference=cache, as processes would find unequal parts of it": config.reference == "cache",
        f"{config.method}, which is merged at the end": policy.gives == "rewards",
        "load_in_4bit": config.load_in_4bit,
        # Adapters are taken off for the reference by switching their requires_grad; only a shard would keep that.
        "fsdp_reshard_after_forward: false with adapters": bool(config.lora_r) and not _reshards(),
    }
    for reason, holds in reasons.items():
        if holds:
            raise InputError(f"launch: FSDP2: expected a run that can be sharded, got {reason}; use launch/ddp.yaml")
    _shard(policy.model, team, reshard=_reshards())
    for model in policy.copy:  # without a backward pass nothing else would put its weights back into shards
        _shard(model, team, reshard=True)
    return True


def _shard(model: Any, team: Accelerator, *, reshard: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    core, _ = parts(model)
    count = getattr(getattr(core, "config", None), "num_hidden_layers", 0)
    layers = next((m for m in core.children() if isinstance(m, nn.ModuleList) and len(m) == count), None)
    if layers is None:
        raise InputError(f"launch: FSDP2: expected a transformer with a list of layers, got {type(core).__name__}")
    mesh = init_device_mesh(team.device.type, (team.num_processes,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
    inside = {p for layer in layers for p in layer.parameters()}
    fully_shard(core, mesh=mesh, ignored_params={p for p in core.parameters() if p not in inside})
    for module in core.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # a sum: the losses are divided by the whole batch's count already
            module.set_force_sum_reduction_for_comms(True)


def is_shard(value: Any) -> bool:
    """Whether a tensor is in shards."""
    return hasattr(value, "full_tensor")


def whole(value: Any) -> Tensor:
    """A tensor in one piece; all processes call this where it is in shards."""
    return value.full_tensor() if is_shard(value) else value


def like(other: Any, value: Tensor) -> Tensor:
    """A tensor that every process has, in shards as another one is."""
    if not is_shard(other):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)


def clip(parameters: Sequence[nn.Parameter], most: float, team: Accelerator) -> float:
    """Clip gradients to a norm over all processes, and return what it was."""
    if not any(map(is_shard, parameters)):
        return float(nn.utils.clip_grad_norm_(parameters, most))
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    shards = [g.to_local() for g in gradients if is_shard(g)]
    rest = [g for g in gradients if not is_shard(g)]
    square = team.reduce(torch.stack([g.double().square().sum() for g in shards]).sum())
    norm = math.sqrt(float(square + sum(g.double().square().sum() for g in rest)))
    for gradient in (*shards, *rest) if math.isfinite(norm) else ():
        gradient.mul_(min(1.0, most / (norm + 1e-6)))
    return norm
