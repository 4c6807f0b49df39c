"""Log-probs of a batch's responses under a causal language model, whatever its size.

The one path from a `Batch` to numbers: hidden states at the predicting positions only, then the vocabulary
projection in chunks, in fp32 or better. No [tokens × vocabulary] tensor is ever whole in memory: in training, a chunk's
logits are formed again in the backward pass instead of being kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from una_ref.data.batch import Batch

CHUNK_ELEMENTS = 2**24
"""Logits held at once: 64 MB in fp32."""


def parts(model: Any) -> tuple[Any, Any]:
    """The transformer without its head, and the head, of a causal LM (a PEFT model included)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, inner.base_model_prefix), inner.get_output_embeddings()


def layouts(model: Any) -> tuple[str, ...]:
    """Which layouts the model can be given; the first is the one to use.

    The packed one needs attention that takes a 4-D additive mask (sdpa or eager) and the same mask in every layer: a
    model that mixes sliding and full layers is refused it, because a 4-D mask overrides what each layer would do.
    """
    config = getattr(model, "config", None)
    attention = getattr(config, "_attn_implementation", "sdpa") or "sdpa"
    mixed = len(set(getattr(config, "layer_types", None) or ())) > 1
    return ("padded",) if attention not in ("sdpa", "eager") or mixed else ("packed", "padded")


def additive_mask(batch: Batch, dtype: torch.dtype, window: int | None) -> torch.Tensor:
    """(R, 1, L, L) float mask: 0 where visible, the dtype's lowest number elsewhere.

    Float because a boolean one is silently wrong under eager attention. A sliding window is counted in positions and
    belongs in here because a 4-D mask overrides the model's own.
    """
    visible = batch.visible()
    if window is not None:
        visible &= batch.positions[:, :, None] - batch.positions[:, None, :] < window
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def _hidden(model: Any, batch: Batch) -> torch.Tensor:
    """(N, D) hidden state that predicts each scored token."""
    core, _ = parts(model)
    if batch.layout == "padded":
        # The first token of a padded row is visible to the row's end: that is how long the row really is.
        here = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        mask = (here < batch.until[:, :1]).long()
    else:
        window = getattr(getattr(model, "config", None), "sliding_window", None)
        mask = additive_mask(batch, next(core.parameters()).dtype, window)
    out = core(input_ids=batch.tokens, attention_mask=mask, position_ids=batch.positions, use_cache=False)
    return out[0].flatten(0, 1)[batch.predictor]


def _suppressed(model: Any) -> list[int]:
    """Tokens that the model's generation config never emits; the scored distribution leaves them out as well."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return list(getattr(getattr(inner, "generation_config", None), "suppress_tokens", None) or ())


def token_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """(N,) log-prob of every scored token, fp32 or better."""
    hidden = _hidden(model, batch)
    _, head = parts(model)
    suppressed = torch.tensor(_suppressed(model), dtype=torch.int64, device=hidden.device)

    def logps(h: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = head(h)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        if len(suppressed):
            logits = logits.index_fill(-1, suppressed, -torch.inf)
        return logits.gather(-1, target[:, None])[:, 0] - logits.logsumexp(-1)

    width = getattr(head, "out_features", None) or hidden.shape[-1]
    size = max(1, CHUNK_ELEMENTS // width)
    pieces = list(zip(hidden.split(size), batch.target.split(size), strict=True))
    if len(pieces) > 1 and torch.is_grad_enabled():
        return torch.cat([checkpoint(logps, h, t, use_reentrant=False) for h, t in pieces])
    return torch.cat([logps(h, t) for h, t in pieces])


def sequence_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """(B,) log π(y|x) = Σ_t log π(y_t | x, y_<t) of every response, in fp32 or better."""
    logps = token_logprobs(model, batch)
    return logps.new_zeros(len(batch.lengths)).index_add(0, batch.response, logps)
