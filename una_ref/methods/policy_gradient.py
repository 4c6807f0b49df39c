"""Losses whose gradient is the policy gradient of J(π) = E_π s − β·KL(π ‖ π_ref), -> (B,).

The responses have to be drawn from π itself (for PPO: from a π of a few updates ago). The reward of a response is
s − β·log π/π_ref, held constant, and so is what is taken from it; the gradient is −advantage·∇log π, unbiased for −∇J
if the baseline does not depend on the response. PPO shares the reward out to the tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.methods.rewards import centred_reward, implicit_reward, per_example, per_token
from una_ref.methods.shapes import score_function


def reinforce(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """−(s − r_θ − baseline)·log π with the bracket held, r_θ = β·log π/π_ref (Williams 1992; survey Eq. 48).

    2β times its gradient is that of `una_score` with the same baseline, sample by sample (EU13).
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, baseline=baseline)
    return score_function(implicit_reward(logps, ref_logps, beta) + baseline - scores, logps)


def rloo(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    scores: Tensor,
    groups: Tensor | None = None,
    baseline: Tensor | float | None = None,
    beta: float = 0.03,
) -> Tensor:
    """`reinforce` with the mean of s − r_θ over the prompt's other responses as baseline (Ahmadian et al. 2024).

    The survey's Eq. 48 prints an arg max and a minus in its text (ES24). The reward holds the KL term, so a reference
    there is, against the survey's Table 1. Its gradient times 2β is that of `una_centred`, sample by sample.
    """
    per_example(beta, logps=logps, ref_logps=ref_logps, scores=scores, groups=groups, baseline=baseline)
    return score_function(centred_reward(logps, ref_logps, scores, groups, baseline, beta) - scores, logps)


def ppo(
    *,
    token_logps: Tensor,
    old_token_logps: Tensor,
    advantages: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    ratio_clip: float = 0.2,
    value_clip: float = 0.2,
    value_weight: float = 0.1,
) -> Tensor:
    """Σ_t max(−ρA, −clip(ρ, 1 ± ε)·A) + value_weight·½·max((V − R)², (clip(V, V_old ± ε_V) − R)²), (B, T) -> (B,).

    Schulman et al. 2017, Eq. 7, on the survey's Eq. 2. ρ = exp(log π − log π_old) of a token, A and R are
    `ppo_advantages`. Added up over a response's tokens, as J is: implementations that take the mean over all tokens
    divide by its mean length. At ρ = 1 the gradient of the first term is −Σ_t A_t·∇log π_t.
    """
    past = {"old_token_logps": old_token_logps, "old_values": old_values, "advantages": advantages, "returns": returns}
    per_token(token_logps=token_logps, values=values, mask=mask, **past)
    far = math.log(torch.finfo(token_logps.dtype).max) / 3  # e^u beyond it overflows
    ratio = (token_logps - old_token_logps).masked_fill(~mask, 0).clamp(-far, far).exp()
    policy = -torch.minimum(ratio * advantages, ratio.clamp(1 - ratio_clip, 1 + ratio_clip) * advantages)
    near = old_values + (values - old_values).clamp(-value_clip, value_clip)
    value = torch.maximum((values - returns) ** 2, (near - returns) ** 2) / 2
    return ((policy + value_weight * value) * mask).sum(1)


def ppo_advantages(
    *,
    old_token_logps: Tensor,
    ref_token_logps: Tensor,
    old_values: Tensor,
    scores: Tensor,
    mask: Tensor,
    beta: float = 0.03,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(B, T) advantages and (B, T) returns of a whole rollout, 0 outside `mask`; scores are (B,).

    The reward of a token is −β·(log π_old − log π_ref), and the score comes with the last one, so that
    with gamma = 1 a response's rewards add up to s − r_θ. Returns are advantages + values; advantages are then
    whitened over the rollout's tokens, unless `whiten` is 0.
    """
    per_example(beta, scores=scores)
    per_token(old_token_logps=old_token_logps, ref_token_logps=ref_token_logps, old_values=old_values, mask=mask)
    rewards = token_rewards(old_token_logps, ref_token_logps, scores, mask, beta)
    advantages = gae(rewards, old_values, mask, gamma, lam)
    returns = (advantages + old_values) * mask
    return (whitened(advantages, mask) if whiten else advantages), returns


def token_rewards(token_logps: Tensor, ref_token_logps: Tensor, scores: Tensor, mask: Tensor, beta: float) -> Tensor:
    """(B, T) −β·log π/π_ref of each token, and the response's score (B,) at its last one."""
    rewards = -beta * (token_logps - ref_token_logps) * mask
    last = mask.sum(1) - 1
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """(B, T) generalised advantage estimates Σ_k (γλ)^k·δ_{t+k}, δ_t = r_t + γ·V_{t+1} − V_t   (Schulman et al. 2016).

    V is 0 behind a response's last token, whether it ended or was cut: its score is all that there will be.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    running = rewards.new_zeros(len(rewards))
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    deltas = (rewards + gamma * following - values) * mask
    for t in range(rewards.shape[1] - 1, -1, -1):
        running = deltas[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages * mask


def whitened(x: Tensor, mask: Tensor) -> Tensor:
    """x at mean 0 and variance 1 over the tokens in the mask, 0 elsewhere; only at mean 0 where all are equal."""
    inside = x[mask].double()  # or rounding would be the spread of equal values, and be blown up to 1
    spread = inside.std() if len(inside) > 1 else inside.new_ones(())
    return ((x.double() - inside.mean()) / (spread + 1e-8) * mask).to(x.dtype)


def ptx(*, logps: Tensor, ptx: float = 0.0) -> Tensor:
    """−ptx·log π of a demonstration: what PPO-ptx mixes in, so that old skills stay (survey Eq. 2, its γ)."""
    per_example(logps=logps)
    return -ptx * logps
