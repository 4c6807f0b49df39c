"""Log-probabilities of a batch's responses under a causal language model of any size.

The one path from a `Batch` to numbers: hidden states at the predicting positions only, then the vocabulary projection
in chunks, in float32 or better. No whole [tokens × vocabulary] tensor is held in memory: a head that learns computes a
chunk's logits again in the backward pass, and the gradient of a frozen head is formed at once. Only a loss that asks
for distributions holds that tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from una_ref.data.batch import Batch, Example, collate
from una_ref.errors import InputError
from una_ref.policies.anatomy import parts, suppressed_tokens, unwrapped
from una_ref.policies.layouts import hidden_states, layouts

CHUNK_ELEMENTS = 2**24
"""Logits held at once: 64 MB in fp32."""


def token_logprobs(model: Any, batch: Batch, hidden: torch.Tensor | None = None) -> torch.Tensor:
    """(N,) log-probability of every scored token, float32 or better; from (N, D) `hidden` states, if given."""
    core, head = parts(model)
    hidden = hidden_states(core, batch) if hidden is None else hidden
    width = getattr(head, "out_features", None) or hidden.shape[-1]
    size = max(1, CHUNK_ELEMENTS // width)
    pieces = list(zip(hidden.split(size), batch.target.split(size), strict=True))
    if type(head) is nn.Linear and not any(weight.requires_grad for weight in head.parameters()):
        suppressed = suppressed_tokens(model)
        pieces = [(h if torch.is_grad_enabled() else h.detach(), t) for h, t in pieces]
        return torch.cat([_FrozenHead.apply(h, t, head, suppressed) for h, t in pieces])
    logits_of = _logits(model, hidden.device)

    def logps(h: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = logits_of(h)
        return logits.gather(-1, target[:, None])[:, 0] - logits.logsumexp(-1)

    if len(pieces) > 1 and torch.is_grad_enabled():
        return torch.cat([checkpoint(logps, h, t, use_reentrant=False) for h, t in pieces])
    return torch.cat([logps(h, t) for h, t in pieces])


class _FrozenHead(torch.autograd.Function):
    """The log-prob of one word for each hidden state under a head that does not learn.

    Its gradient in h is (e_y − softmax(W·h))·W, whatever the loss. So it is formed in the forward pass, and the head is
    not computed again in the backward pass. The bracket is written over the logits.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, target: torch.Tensor, head: Any, suppressed: list[int]) -> torch.Tensor:
        logits = head(hidden)
        narrow = logits.dtype
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        elif head._forward_hooks:  # one may have kept the output
            logits = logits.clone()
        if suppressed:
            logits[:, suppressed] = -torch.inf
        largest = logits.amax(-1, keepdim=True)
        words = target[:, None]
        own = logits.gather(-1, words)
        total = logits.sub_(largest).exp_().sum(-1, keepdim=True)
        if ctx.needs_input_grad[0]:
            slope = logits.div_(-total)
            slope[torch.arange(len(target), device=target.device), target] += 1
            if suppressed:
                slope[:, suppressed] = 0
            ctx.save_for_backward(slope.to(narrow) @ head.weight)
        return (own - (total.log() + largest))[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (of_hidden,) = ctx.saved_tensors
        return (of_hidden * slope[:, None]).to(of_hidden.dtype), None, None, None


def distributions(model: Any, batch: Batch, hidden: torch.Tensor | None = None) -> torch.Tensor:
    """(N, V) log-probability of every next token at each scored token, float32 or better; −∞ for suppressed tokens."""
    hidden = hidden_states(parts(model)[0], batch) if hidden is None else hidden
    return _logits(model, hidden.device)(hidden).log_softmax(-1)


def _logits(model: Any, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """(N, D) hidden states -> (N, V) logits in float32 or better, suppressed tokens at −∞."""
    head = parts(model)[1]
    suppressed = torch.tensor(suppressed_tokens(model), dtype=torch.int64, device=device)

    def logits_of(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        return logits.index_fill(-1, suppressed, -torch.inf) if len(suppressed) else logits

    return logits_of


def sequence_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """(B,) log π(y|x) = Σ_t log π(y_t | x, y_<t) of every response, in fp32 or better."""
    return summed(token_logprobs(model, batch), batch)


def summed(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(N,) -> (B,) the sum over each response's tokens.

    Added up in float64 and in the order of the tokens, so that equal terms give equal sums on any device.
    """
    return torch.segment_reduce(values.double(), "sum", lengths=batch.lengths).to(values.dtype)


@torch.no_grad()
def check_scorable(model: Any) -> None:
    """Refuse a causal LM that this module would score wrongly; two forwards over a few tokens tell.

    Its logits must be its head's output to the bit (no soft cap, no scale), and the hidden states of a batch in the
    model's first layout those of a plain forward; of a model without logits, a scorer, the second is asked. What is
    no transformers model (a table) has neither to check.

    Raises:
        InputError: says which of the two does not hold.
    """
    if not hasattr(model, "config"):
        return
    name = type(unwrapped(model)).__name__
    prompt, *responses = (tuple(t % model.config.vocab_size for t in part) for part in ((1, 2, 3), (4, 5, 6), (7, 8)))
    device = next(model.parameters()).device
    batch = collate([Example(prompt, tuple(responses))], layouts(model)[0]).to(device)
    core, head = parts(model)
    ids = torch.tensor([[*prompt, *responses[1]]], device=device)
    training = model.training
    model.eval()
    try:
        plain = core(input_ids=ids, use_cache=False)[0] if head is None else _given_to(head, model, ids)
        hidden = hidden_states(core, batch)[3:]  # what predicts the second response
    finally:
        model.train(training)
    plain = plain[0, 2:4]
    gap = float((hidden - plain).norm() / plain.norm())
    if not gap < torch.finfo(plain.dtype).eps ** 0.5:
        raise InputError(
            f"model {name}: expected the hidden states of a plain forward in the {batch.layout} layout as well, got "
            f"a relative gap of {gap:.2g}"
        )


def _given_to(head: Any, model: Any, ids: torch.Tensor) -> torch.Tensor:
    """What the head was given in a plain forward; InputError if the logits are not what it made of that."""
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    raw = seen[1] if len(seen) == 2 else logits[..., :0]
    if logits.shape != raw.shape or not torch.allclose(logits.float(), raw.float(), 0, 0, equal_nan=True):
        raise InputError(
            f"model {type(unwrapped(model)).__name__}: expected logits as its head gives them, got them transformed (a "
            "soft cap or a scale, say), which the log-probs here would leave out"
        )
    return seen[0]
