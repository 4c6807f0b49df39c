"""How a batch goes through a transformer: packed under a 4-D mask, or padded under the plain causal one."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from una_ref.data.batch import Batch, Example, Layout, collate
from una_ref.policies.anatomy import parts, unwrapped
from una_ref.policies.attention import divided

_log = logging.getLogger(__name__)
_packs: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""The result of `_try_packed` for each model that was tried."""


def layouts(model: Any) -> tuple[Layout, ...]:
    """The layouts that the model can be given, best first.

    A packed batch needs one 4-D additive mask for all layers. Attention other than sdpa or eager takes no such mask.
    In a model that mixes full and sliding layers, the mask would override what each layer does. Any other model is
    tried once, on a few tokens: BLOOM and Falcon with ALiBi cannot read a 4-D mask, MPT and RWKV ignore it.
    """
    config = getattr(model, "config", None)
    if config is None:  # a table, which has no attention
        return ("packed", "padded")
    takes_mask = (config._attn_implementation or "sdpa") in ("sdpa", "eager")
    uniform = attention_kinds(config) in ({"full_attention"}, {"sliding_attention"})
    if not (takes_mask and uniform):
        return ("padded",)
    inner = unwrapped(model)
    if inner not in _packs:
        _packs[inner] = _try_packed(inner)
    return ("packed", "padded") if _packs[inner] else ("padded",)


def attention_kinds(config: Any) -> set[str]:
    """The kinds of attention that the model's layers have, as far as its config says."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    window = getattr(config, "sliding_window", None)
    return set(kinds or ["full_attention" if window is None else "sliding_attention"])


@torch.no_grad()
def _try_packed(model: Any) -> bool:
    """Whether a packed batch of a few tokens gives the hidden states of a padded one.

    On the meta device there are no values to compare: there it is enough that the model takes the batch.
    """
    core, name = parts(model)[0], type(model).__name__
    size = model.get_input_embeddings().weight.shape[0]
    prompt, *responses = (tuple(token % size for token in ids) for ids in ((1, 2, 3), (4, 5, 6), (7, 8)))
    example, device = Example(prompt, tuple(responses)), next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        packed = hidden_states(core, collate([example], "packed").to(device))
    except Exception as error:  # each architecture raises its own class
        _log.info("%s: batches are padded, since a packed one raised %s: %s", name, type(error).__name__, error)
        return False
    else:
        if device.type == "meta":
            return True
        padded = hidden_states(core, collate([example], "padded").to(device))
    finally:
        model.train(training)
    gap = float((packed - padded).norm() / padded.norm())
    if not gap < torch.finfo(padded.dtype).eps ** 0.5:
        _log.info("%s: batches are padded, since packing changes hidden states by a share of %.2g", name, gap)
        return False
    return True


def hidden_states(core: Any, batch: Batch) -> torch.Tensor:
    """(N, D) output of a transformer without its head, at the position that predicts each scored token."""
    extra: dict[str, torch.Tensor] = {}
    context: AbstractContextManager[Any] = nullcontext()
    if batch.layout == "packed":
        config: Any = getattr(core, "config", None)
        window = config.sliding_window if "sliding_attention" in attention_kinds(config) else None
        mask = additive_mask(batch, next(core.parameters()).dtype, window)
        extra = {"attention_mask": mask, "position_ids": batch.positions}
        context = divided(core, batch, mask, window)
    # A padded row needs neither: it begins at position 0, and the causal mask hides the pads behind the response.
    with context:
        out = core(input_ids=batch.tokens, use_cache=False, **extra)
    return out[0].flatten(0, 1)[batch.predictor]


def additive_mask(batch: Batch, dtype: torch.dtype, window: int | None) -> torch.Tensor:
    """(R, 1, L, L) attention mask: 0 where a position sees another one, the dtype's lowest number elsewhere.

    It is a float because eager attention silently misreads a boolean one. It contains the sliding window, counted in
    positions, because a 4-D mask overrides the model's own window.
    """
    visible = batch.visible()
    if window is not None:
        visible &= batch.positions[:, :, None] - batch.positions[:, None, :] < window
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
