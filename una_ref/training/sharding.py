"""FSDP2: the layers of a policy in shards over the processes, if accelerate's launch file asks for it.

The layers of the transformer are sharded, with their gradients and moments. The weights of a layer are whole only while
it computes or, if the launch file says so, from its forward to its backward pass. Embedding, last norm and head are
whole in every process: they are a few percent of a large model, and the head is called chunk by chunk. Gradients are
sums over the processes in either case.
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


def requested() -> bool:
    """Whether the launch file asks for shards, by accelerate's environment variables.

    Raises:
        InputError: it asks for another way of sharding a model, which this loop does not support.
    """
    for name, what in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron")):
        if _true(f"ACCELERATE_USE_{name}"):
            raise InputError(
                f"launch: expected DDP or FSDP2, got {what}, whose engine would not see this loop's gradients. "
                "Fix: launch/fsdp2.yaml, which shards what ZeRO-3 or ZeRO-2 shards"
            )
    if not _true("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise InputError(f"launch: expected fsdp_version: 2, got {version}")
    if _true("FSDP_OFFLOAD_PARAMS"):
        raise InputError("launch: expected fsdp_offload_params: false, got true: this loop keeps everything on the GPU")
    return True


def _reshards() -> bool:
    """Whether a layer's weights are sharded again between forward and backward pass (ZeRO-3; else ZeRO-2)."""
    return _true("FSDP_RESHARD_AFTER_FORWARD", "true")


def _true(name: str, default: str = "false") -> bool:
    return os.environ.get(name, default).lower() in ("true", "1", "yes")


def shard(policy: Policy, config: Config, team: Accelerator) -> bool:
    """Shard a policy and its separate references, if that is requested and there are several processes.

    Raises:
        InputError: the run cannot be sharded.
    """
    if not requested() or team.num_processes == 1:
        return False
    reasons = {
        "an online run, which samples": config.on_policy,
        "reference=cache, of which processes would have different parts": config.reference == "cache",
        f"{config.method}, which is merged at the end": policy.output == "rewards",
        "load_in_4bit": config.load_in_4bit,
        "optimizer=adamw8bit": config.optimizer == "adamw8bit",
        "a reference that moves (refresh_every)": config.refresh > 0,
        # Adapters are turned off for the reference by their requires_grad, which only a shard would keep.
        "fsdp_reshard_after_forward: false with adapters": bool(config.lora_r) and not _reshards(),
    }
    for reason, holds in reasons.items():
        if holds:
            raise InputError(
                f"launch: FSDP2: expected a run that can be sharded, got {reason}. Fix: use launch/ddp.yaml"
            )
    _shard(policy.model, team, reshard=_reshards())
    for model in (*policy.copy, *policy.second_copy):  # it has no backward pass that would shard its weights again
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
            module.set_gradient_divide_factor(1.0)  # a sum: losses are already divided by the count of the whole batch
            module.set_force_sum_reduction_for_comms(True)


def is_shard(value: Any) -> bool:
    """Whether a tensor is sharded."""
    return hasattr(value, "full_tensor")


def unsharded(value: Any) -> Tensor:
    """The whole of a tensor; every process has to call this for a sharded one."""
    return value.full_tensor() if is_shard(value) else value


def shard_like(other: Any, value: Tensor) -> Tensor:
    """A tensor that every process has, sharded like another one."""
    if not is_shard(other):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)


def clip_gradients(parameters: Sequence[nn.Parameter], most: float, team: Accelerator) -> float:
    """Scale gradients down to a norm of at most `most`, over all processes; returns the norm before."""
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
