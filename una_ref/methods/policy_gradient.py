"""Losses whose gradient is the policy gradient of J(π) = E_π s − β·KL(π ‖ π_ref), -> (B,).

Responses must be sampled from π; for PPO, from a π of a few updates ago. The reward of a response is
s − β·log π/π_ref, held constant. The gradient is −advantage·∇log π. It is unbiased for −∇J if the baseline does not
depend on the response. PPO distributes the reward over the tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from una_ref.methods.ranges import at_least_zero, between
from una_ref.methods.rewards import centred_reward, implicit_reward, per_example, per_token
from una_ref.methods.shapes import score_function


def reinforce(
    *, logps: Tensor, ref_logps: Tensor, scores: Tensor, baseline: Tensor | float = 0.0, beta: float = 0.03
) -> Tensor:
    """−(s − r_θ − baseline)·log π with the bracket held constant, r_θ = β·log π/π_ref (survey Eq. 48).

    2β times its gradient is the gradient of `una_score` with the same baseline, sample by sample (EU13).

    Williams 1992, https://doi.org/10.1007/BF00992696
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
    """`reinforce` with the mean of s − r_θ over the prompt's other responses as the baseline (survey Eq. 48).

    The reward contains the KL term, so there is a reference; the survey's Table 1 says there is none. The survey's text
    prints an arg max and a minus (ES24). 2β times its gradient is the gradient of `una_centred`, sample by sample.

    Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740
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

    ρ = exp(log π − log π_old) of a token; A and R are `ppo_advantages`. The sum is over the tokens of a response, as in
    J; implementations that take the mean over all tokens divide by the mean length. At ρ = 1 the gradient of the first
    term is −Σ_t A_t·∇log π_t. Values outside `mask` are ignored, not-finite ones included.

    Schulman et al. 2017, Eq. 7, https://arxiv.org/abs/1707.06347; survey Eq. 2
    """
    at_least_zero(ratio_clip=ratio_clip, value_clip=value_clip, value_weight=value_weight)
    past = {"old_token_logps": old_token_logps, "old_values": old_values, "advantages": advantages, "returns": returns}
    per_token(token_logps=token_logps, values=values, mask=mask, **past)
    # Zero outside the mask, since 0·NaN is NaN in the value and in the gradient.
    tensors = (token_logps, old_token_logps, advantages, values, old_values, returns)
    token_logps, old_token_logps, advantages, values, old_values, returns = (x.masked_fill(~mask, 0) for x in tensors)
    far = math.log(torch.finfo(token_logps.dtype).max) / 3  # e^u overflows beyond it
    ratio = (token_logps - old_token_logps).clamp(-far, far).exp()
    policy = -torch.minimum(ratio * advantages, ratio.clamp(1 - ratio_clip, 1 + ratio_clip) * advantages)
    near = old_values + (values - old_values).clamp(-value_clip, value_clip)
    value = torch.maximum((values - returns) ** 2, (near - returns) ** 2) / 2
    return (policy + value_weight * value).sum(1)


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
    """(B, T) advantages and (B, T) returns of a rollout, 0 outside `mask`; scores are (B,).

    The reward of a token is −β·(log π_old − log π_ref); the last token also gets the score. With gamma = 1 the rewards
    of a response add up to s − r_θ. Returns are advantages + values. Advantages are then whitened over the tokens of
    the rollout, unless `whiten` is 0.

    Ouyang et al. 2022, https://arxiv.org/abs/2203.02155; Schulman et al. 2016, https://arxiv.org/abs/1506.02438
    """
    between(0, 1, gamma=gamma, lam=lam, whiten=whiten)
    per_example(beta, scores=scores)
    per_token(old_token_logps=old_token_logps, ref_token_logps=ref_token_logps, old_values=old_values, mask=mask)
    rewards = token_rewards(old_token_logps, ref_token_logps, scores, mask, beta)
    advantages = gae(rewards, old_values, mask, gamma, lam)
    returns = (advantages + old_values).masked_fill(~mask, 0)
    return (whitened(advantages, mask) if whiten else advantages), returns


def token_rewards(token_logps: Tensor, ref_token_logps: Tensor, scores: Tensor, mask: Tensor, beta: float) -> Tensor:
    """(B, T) −β·log π/π_ref of each token, with the response's score (B,) added at its last token; 0 outside `mask`."""
    rewards = (-beta * (token_logps - ref_token_logps)).masked_fill(~mask, 0)
    last = mask.sum(1) - 1
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """(B, T) generalised advantage estimates Σ_k (γλ)^k·δ_{t+k} with δ_t = r_t + γ·V_{t+1} − V_t.

    V is 0 after the last token of a response, whether it ended or was cut: no reward follows its score.

    Schulman et al. 2016, Eq. 16, https://arxiv.org/abs/1506.02438
    """
    values = values.masked_fill(~mask, 0)
    advantages = torch.zeros_like(rewards)
    running = rewards.new_zeros(len(rewards))
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    deltas = (rewards + gamma * following - values) * mask
    for t in range(rewards.shape[1] - 1, -1, -1):
        running = deltas[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages * mask


def whitened(x: Tensor, mask: Tensor) -> Tensor:
    """x scaled to mean 0 and variance 1 over the tokens in `mask`, 0 elsewhere. Equal values only get mean 0."""
    inside = x[mask].double()  # in float32 the rounding of equal values would be scaled up to variance 1
    spread = inside.std() if len(inside) > 1 else inside.new_ones(())
    return ((x.double() - inside.mean()) / (spread + 1e-8)).masked_fill(~mask, 0).to(x.dtype)


def ptx(*, logps: Tensor, ptx: float = 0.0) -> Tensor:
    """−ptx·log π of a demonstration: the pretraining term of PPO-ptx (survey Eq. 2, its γ).

    Ouyang et al. 2022, Eq. 2, https://arxiv.org/abs/2203.02155
    """
    per_example(logps=logps)
    at_least_zero(ptx=ptx)
    return -ptx * logps
