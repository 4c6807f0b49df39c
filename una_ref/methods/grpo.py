"""Group-relative policy optimisation and its relatives, as one loss with choices, (B, T) -> (B,).

A response's advantage is its score minus the mean score of its prompt's responses. No critic is trained. Responses must
be sampled from π, or from a π of a few updates ago. The gradient at ratio 1 is −advantage·∇log π.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from una_ref.methods.ranges import at_least_zero, between, one_of
from una_ref.methods.rewards import per_example, per_token

VARIANTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "grpo": ("clipped", "response"),
        "dr_grpo": ("clipped", "constant"),
        "dapo": ("clipped", "batch"),
        "bnpo": ("clipped", "batch"),
        "cispo": ("weighted", "batch"),
        "sapo": ("gated", "response"),
    }
)
"""variant -> what becomes of ratio and advantage, and what the sum over a response's tokens is divided by.

"response": its own length. "batch": the mean length of the batch. "constant": `length_scale`. In TRL dapo counts the
tokens of all micro-batches of a step, bnpo those of one; here a batch is that of the step, so the two are equal."""
CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "variant": tuple(VARIANTS),
        "ratio": ("token", "sequence"),
        "scale_rewards": ("group", "batch", "none"),
        "kl_estimate": ("weighted", "plain", "none"),
    }
)
"""The values of the hyper-parameters that are words."""
SMALLEST_SPREAD = 1e-4
"""Added to the standard deviation, as in TRL."""


def grpo(
    *,
    token_logps: Tensor,
    old_token_logps: Tensor,
    ref_token_logps: Tensor,
    mask: Tensor,
    scores: Tensor,
    groups: Tensor,
    mean_length: Tensor,
    score_sd: Tensor | None = None,
    variant: str = "grpo",
    ratio: str = "token",
    scale_rewards: str = "group",
    ratio_clip: float = 0.2,
    ratio_clip_high: float = 0.2,
    beta: float = 0.04,
    kl_estimate: str = "weighted",
    length_scale: float = 1.0,
    temperature_positive: float = 1.0,
    temperature_negative: float = 1.05,
) -> Tensor:
    """Σ_t [−min(ρ_t·A, clip(ρ_t, 1 − ε, 1 + ε_high)·A) + β·ρ_t·(e^d − d − 1)]/length with d = log π_ref/π.

    ρ_t = π/π_old of a token; ratio=sequence (GSPO) takes the geometric mean over the response. A is s minus the mean of
    the prompt's scores, divided by their standard deviation (scale_rewards=group), that of the batch's scores (batch)
    or nothing (none). A prompt with one response has A = 0. `VARIANTS` has the rest: cispo is
    −min(ρ_t, 1 + ε_high)·A·log π_t with its weight held constant, sapo −A·(4/τ)·σ(τ·(ρ_t − 1)) with τ by the sign of A.

    At ratio 1 without scaling, with K responses a prompt and dr_grpo, the gradient is (K − 1)/K that of `rloo` at
    β = 0. Division by the group's standard deviation changes the objective: for K = 2 it is the probability to score
    higher than another sample. Division by the length favours short responses among the good and long ones among the
    bad. Offsets of the prompts' scores cancel in the advantages, but they widen the batch's standard deviation.

    The GRPO paper has no ρ_t before its KL estimate (kl_estimate=plain). On fresh samples that gradient is the one of
    KL(π_ref ‖ π). With ρ_t (weighted, DeepSeek-V3.2 and TRL) it is that of KL(π ‖ π_ref) of each token. TRL's β = 0 is
    kl_estimate=none.

    Values outside `mask` are ignored, not-finite ones included. Raises ValueError for an unknown choice, for a number
    out of range, and for scale_rewards=batch without `score_sd`.

    Shao et al. 2024, Eq. 3, https://arxiv.org/abs/2402.03300; dr_grpo: https://arxiv.org/abs/2503.20783; dapo:
    https://arxiv.org/abs/2503.14476; GSPO: https://arxiv.org/abs/2507.18071; cispo: https://arxiv.org/abs/2506.13585;
    sapo: https://arxiv.org/abs/2511.20347; weighted: https://arxiv.org/abs/2512.02556
    """
    per_token(token_logps=token_logps, old_token_logps=old_token_logps, ref_token_logps=ref_token_logps, mask=mask)
    per_example(beta, scores=scores, groups=groups)
    if len(scores) != len(mask):
        raise ValueError(f"scores and mask must share one shape, got {len(scores)} scores for {len(mask)} responses")
    chosen = {"variant": variant, "ratio": ratio, "scale_rewards": scale_rewards, "kl_estimate": kl_estimate}
    for name, value in chosen.items():
        one_of(CHOICES[name], **{name: value})
    between(0, 1, ratio_clip=ratio_clip)
    at_least_zero(ratio_clip_high=ratio_clip_high)
    temperatures = {"temperature_positive": temperature_positive, "temperature_negative": temperature_negative}
    between(1e-6, math.inf, length_scale=length_scale, **temperatures)
    surrogate, length = VARIANTS[variant]
    # Zero outside the mask, since 0·NaN is NaN in the value and in the gradient.
    logps, old, ref = (x.masked_fill(~mask, 0) for x in (token_logps, old_token_logps, ref_token_logps))
    lengths = mask.sum(1).clamp(min=1).to(logps)
    log_ratio = logps - old
    if ratio == "sequence":
        log_ratio = (log_ratio.sum(1) / lengths)[:, None].expand_as(logps)
    weight = straight_exp(log_ratio)
    advantage = group_advantages(scores, groups, scale_rewards, score_sd).to(logps)[:, None]
    if surrogate == "clipped":
        clipped = weight.clamp(1 - ratio_clip, 1 + ratio_clip_high)
        values = -torch.minimum(weight * advantage, clipped * advantage)
    elif surrogate == "weighted":
        values = -weight.clamp(max=1 + ratio_clip_high).detach() * advantage * logps
    else:
        values = -advantage * soft_gate(weight, advantage, temperature_positive, temperature_negative)
    if kl_estimate != "none":
        penalty = k3(logps, ref)
        values = values + beta * (weight * penalty if kl_estimate == "weighted" else penalty)
    divisor: Mapping[str, Tensor | float] = {"response": lengths, "batch": mean_length, "constant": length_scale}
    return values.masked_fill(~mask, 0).sum(1) / divisor[length]


def group_advantages(scores: Tensor, groups: Tensor, scale: str = "group", score_sd: Tensor | None = None) -> Tensor:
    """(B,) s minus the mean of the prompt's scores, divided by a standard deviation + `SMALLEST_SPREAD` unless "none".

    The group's is that of a sample, with K − 1 in the denominator; for "batch" it is `score_sd`. Equal scores give 0.
    """
    _, member_of, sizes = torch.unique(groups, return_inverse=True, return_counts=True)

    def mean(values: Tensor, counts: Tensor) -> Tensor:
        total = values.new_zeros(len(sizes)).index_add(0, member_of, values)
        return (total / counts.to(values))[member_of]

    centred = scores - mean(scores, sizes)
    if scale == "none":
        return centred
    if scale == "batch":
        if score_sd is None:
            raise ValueError("scale_rewards=batch needs score_sd, the standard deviation of the batch's scores")
        return centred / (score_sd + SMALLEST_SPREAD)
    variance = mean(centred**2, (sizes - 1).clamp(min=1))
    spread = torch.where(variance > 0, variance, 1).sqrt()  # the root has no finite gradient at 0
    return centred / (torch.where(variance > 0, spread, 0) + SMALLEST_SPREAD)


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """e^d − d − 1 with d = log π_ref/π: at least 0, and its mean over samples of π is KL(π ‖ π_ref), in nats.

    Its gradient on these samples is not that of the KL: (1 − e^d)·∇log π has the mean ∇KL(π_ref ‖ π).

    Schulman 2020, http://joschu.net/blog/kl-approx.html
    """
    d = ref_logps - logps
    return straight_exp(d) - d - 1


def soft_gate(ratio: Tensor, advantage: Tensor, positive: float, negative: float) -> Tensor:
    """(4/τ)·σ(τ·(ρ − 1)), τ = `positive` where the advantage is, else `negative`: slope 1 at ρ = 1, bounded."""
    tau = negative + (positive - negative) * (advantage > 0).to(ratio.dtype)
    return 4 / tau * (tau * (ratio - 1)).sigmoid()


def straight_exp(x: Tensor) -> Tensor:
    """e^x, continued as its tangent from x = log of the cube root of the largest float, 29.6 in float32.

    float16 and bfloat16 are taken to 8 nats at least.
    """
    far = max(math.log(torch.finfo(x.dtype).max) / 3, 8.0)
    near = x.clamp(max=far)
    return near.exp() * (1 + (x - near))
