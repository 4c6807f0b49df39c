"""What tokens contribute to a response's reward: credit for each token, and the sequential KL divergence.

Tensors of tokens are (B, T), whole next-token distributions (B, T, V), with a mask (B, T) that is True at a response's
tokens. What is outside the mask is ignored, NaN included: neither value nor gradient depends on it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from una_ref.methods.arguments import argument
from una_ref.methods.ranges import positive
from una_ref.methods.rewards import Reward, boolean_masks, implicit_reward

RANKS = {"response": 1, "pair": 1, "token": 2, "distribution": 3}
"""Dimensions of a tensor in a loss on pairs or on single responses, by what it has one number for."""


def one_batch(beta: float = 1.0, /, **tensors: Tensor) -> None:
    """Raises ValueError unless arguments of a loss, given by name, are of one batch, and β > 0.

    What belongs to a response is (B,), what belongs to a token (B, T), and a distribution is (B, T, V), with one B, T
    and V for all. A tensor of another rank would broadcast without an error. A mask is bool.
    """
    positive(beta=beta)
    boolean_masks(**tensors)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    entries = {name: argument(name) for name in tensors}
    wrong_rank = any(entry and len(shapes[name]) != RANKS[entry.kind] for name, entry in entries.items())
    sizes = [{shape[dim] for shape in shapes.values() if len(shape) > dim} for dim in range(3)]
    if wrong_rank or any(len(found) > 1 for found in sizes):
        raise ValueError(f"(B,), (B, T) and (B, T, V) tensors of one batch must share one shape, got {shapes}")


def token_credits(token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, beta: float) -> Tensor:
    """(B, T) β·log π/π_ref of each token, the reward that DPO gives it; 0 outside `mask` (survey Eq. 24 and below).

    Summed over a response it is the implicit reward. With the true reward r of tokens and the optimal policy, it is
    r_t + V(s_{t+1}) − V(s_t): the true reward, shaped by the soft value (`theory.token_mdp`).

    Rafailov et al. 2024, https://arxiv.org/abs/2404.12358
    """
    return beta * (token_logps - ref_token_logps).masked_fill(~mask, 0)


def credited_reward(token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, beta: float) -> Tensor:
    """(B,) Σ_t β·log π/π_ref: the credits of a response's tokens, which add up to its implicit reward."""
    return token_credits(token_logps, ref_token_logps, mask, beta).sum(1)


def sequential_kl(logits: Tensor, ref_logits: Tensor, mask: Tensor) -> Tensor:
    """(B,) Σ_t KL(π_ref(·|s_t) ‖ π(·|s_t)) along a response, in nats: the forward KL (survey Eq. 27).

    `logits` and `ref_logits` are normalised log-probabilities. A token that both rule out (−∞) adds nothing.
    """
    return _ForwardKL.apply(logits, ref_logits, mask).sum(1)


class _ForwardKL(torch.autograd.Function):
    """(B, T) KL(π_ref ‖ π) at each token, 0 outside the mask.

    It works token by token, and keeps nothing but its arguments: autograd would keep five more (B, T, V) tensors.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ref_logits: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(logits, ref_logits, mask)
        out = torch.zeros_like(mask, dtype=logits.dtype)
        for t in range(mask.shape[1]):
            weights, gaps = _terms(logits[:, t], ref_logits[:, t], mask[:, t])
            out[:, t] = (weights * gaps).sum(-1)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, ref_logits, mask = ctx.saved_tensors
        found = [
            torch.zeros_like(x) if need else None
            for x, need in zip((logits, ref_logits), ctx.needs_input_grad[:2], strict=True)
        ]
        for t in range(mask.shape[1]):
            weights, gaps = _terms(logits[:, t], ref_logits[:, t], mask[:, t])
            weights = weights * gradients[0][:, t, None]
            if found[0] is not None:
                found[0][:, t] = -weights
            if found[1] is not None:
                found[1][:, t] = weights * (gaps + 1)
        return *found, None


def _terms(logits: Tensor, ref_logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, V) π_ref and log π_ref/π, both 0 outside the mask and where π_ref rules a token out."""
    inside = mask[:, None] & (ref_logits != -torch.inf)
    return ref_logits.exp().where(inside, 0), (ref_logits - logits).where(inside, 0)


def tdpo_reward(
    logps: Tensor, ref_logps: Tensor, logits: Tensor, ref_logits: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """(B,) β·log π/π_ref + β·SeqKL(π_ref ‖ π): TDPO's reward, up to one number for each prompt (survey Eq. 28)."""
    return implicit_reward(logps, ref_logps, beta) + beta * sequential_kl(logits, ref_logits, mask)


def tdpo2_reward(
    logps: Tensor, ref_logps: Tensor, logits: Tensor, ref_logits: Tensor, mask: Tensor, beta: float, alpha: float
) -> Tensor:
    """(B,) β·log π/π_ref + α·β·SeqKL(π_ref ‖ π)."""
    return implicit_reward(logps, ref_logps, beta) + alpha * beta * sequential_kl(logits, ref_logits, mask)


CREDITED = Reward("Σ_t β·log(π/π_ref)", credited_reward)
WITH_SEQUENTIAL_KL = Reward("β·log(π/π_ref) + β·SeqKL", tdpo_reward)
WITH_WEIGHTED_SEQUENTIAL_KL = Reward("β·log(π/π_ref) + α·β·SeqKL", tdpo2_reward)
