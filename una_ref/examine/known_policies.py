"""Policies that a loss may end at: the optima of the objectives in the papers, by name, and those of another β."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from una_ref.examine.enumeration import Feedback, Sampler
from una_ref.theory import (
    DIVERGENCES,
    SequenceWorld,
    kl,
    nash_logps,
    optimal_logps,
    preference_rewards,
    una_end,
)

SAME = 1e-6
"""Largest difference of a probability below which two policies are the same."""
PER_TOKEN = "of a reward per token"
IPO_WITH, REWARD_WITH = "the optimum of IPO with the divergence ", "the optimum of E r − β·D with the divergence "
OPTIMUM = "π*"
"""How the optimum of E r − β·KL(π ‖ π_ref) is called."""


@dataclass(frozen=True)
class Identity:
    """Which known policy an end is.

    Attributes:
        name: of the policy, or of the nearest one.
        gap: largest difference of a probability.
        kl: KL(end ‖ policy), a mean over prompts, in nats.
    """

    name: str
    gap: float
    kl: float

    @property
    def same(self) -> bool:
        """Whether the end is that policy."""
        return self.gap < SAME


@lru_cache(maxsize=16)
def known_policies(world: SequenceWorld, feedback: Feedback, sampler: Sampler, kind: str) -> dict[str, Tensor]:
    """Name -> log-probabilities (X, S), the optimum first. Those that no solver reaches are left out."""
    ref, rewards, beta = world.ref_logps, world.rewards, world.beta
    found = {OPTIMUM: world.optimum, "π_ref": ref}
    found["the policy ∝ exp(r/β), which is π* of a uniform reference"] = (rewards / beta).log_softmax(-1)
    found["the policy ∝ exp(r), the reward up to a number per prompt"] = rewards.log_softmax(-1)
    if kind == "pairs":
        found[f"the policy ∝ π_ref·exp(|y|·(r − λ)/β) {PER_TOKEN}"] = per_token_optimum(world, ref)
        found[f"the policy ∝ exp(|y|·(r − λ)/β) {PER_TOKEN}"] = per_token_optimum(world, torch.zeros_like(ref))
    if sampler is not None:
        wins = preference_rewards(feedback.preferences, sampler)
        others = 1 - torch.eye(sampler.shape[-1], dtype=torch.float64)  # without the response itself
        against = (feedback.preferences * others * sampler.exp()[:, None, :]).sum(-1)
        found["the distribution of the sampled responses"] = sampler
        found["the distribution of the chosen responses"] = (sampler + against.log()).log_softmax(-1)
        found["the distribution of the positive labels"] = (sampler + feedback.positive.log()).log_softmax(-1)
        found["the optimum of IPO, which is ∝ π_ref·exp(P(y ≻ μ)/β)"] = optimal_logps(ref, wins, beta)
        if kind == "scores":
            found["the optimum of UNA's Eq. 10 without a baseline"] = una_end(ref, rewards, beta, sampler_logps=sampler)
        for name in DIVERGENCES:
            if name != "reverse_kl":
                found[f"{IPO_WITH}{name}"] = optimal_logps(ref, wins, beta, name)
    for name in DIVERGENCES:
        if name != "reverse_kl":
            found[f"{REWARD_WITH}{name}"] = optimal_logps(ref, rewards, beta, name)
    with suppress(ValueError, RuntimeError):  # certain or noisy preferences of a response with itself
        found["the Nash policy of β"] = nash_logps(feedback.preferences, ref, beta)
    best = rewards == rewards.amax(-1, keepdim=True)
    found["the best response alone"] = torch.zeros_like(rewards).masked_fill(~best, -torch.inf)
    return found


def per_token_optimum(world: SequenceWorld, base: Tensor) -> Tensor:
    """log π (X, S) = base + |y|·(r − λ(x))/β, where λ(x) makes the probabilities sum to 1. λ is found by bisection.

    It is the optimum of a logistic loss whose reward of a response is β·(log π − base)/|y|, as with `sigmoid_norm`.
    """
    lengths = world.lengths.to(torch.float64)
    low, high = world.rewards.amin(-1, keepdim=True) - 50, world.rewards.amax(-1, keepdim=True) + 50
    for _ in range(100):
        middle = (low + high) / 2
        above = (base + lengths * (world.rewards - middle) / world.beta).logsumexp(-1, keepdim=True) > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (base + lengths * (world.rewards - (low + high) / 2) / world.beta).log_softmax(-1)


def identity(end: Tensor, world: SequenceWorld, feedback: Feedback, sampler: Sampler, kind: str) -> Identity:
    """The known policy that an end is, or the nearest by the KL; per-token and other-divergence ones only if exact."""
    known = known_policies(world, feedback, sampler, kind)
    found = [
        Identity(name, float((end.exp() - policy.exp()).abs().max()), _kl(end, policy))
        for name, policy in known.items()
    ]
    exact = next((one for one in found if one.same), None)
    near = [one for one in found if not one.name.startswith((IPO_WITH, REWARD_WITH)) and PER_TOKEN not in one.name]
    return exact or _other_beta(end, world, feedback, sampler, kind) or min(near, key=lambda one: one.kl)


def _kl(end: Tensor, policy: Tensor) -> float:
    return float(kl(end.log_softmax(-1), policy).mean())


def _other_beta(end: Tensor, world: SequenceWorld, feedback: Feedback, sampler: Sampler, kind: str) -> Identity | None:
    """A policy ∝ base·exp(a·r), with one number a for all prompts, or with a second one times the length."""
    rewards, lengths = world.rewards, world.lengths.to(torch.float64).expand(world.rewards.shape)
    tries: list[tuple[str, Tensor, tuple[Tensor, ...]]] = [
        ("{} of β = {:.4g}", world.ref_logps, (rewards,)),
        ("the policy ∝ exp(r/{1:.4g})", torch.zeros_like(rewards), (rewards,)),
        ("{} for the reward r {:+.4g}·|y|, at β = {:.4g}", world.ref_logps, (rewards, lengths)),
    ]
    if sampler is not None:
        wins = preference_rewards(feedback.preferences, sampler)
        tries.insert(1, ("the optimum of IPO at β = {1:.4g}", world.ref_logps, (wins,)))
        tries.append(("the sampler times exp(r/{1:.4g})", sampler, (rewards,)))
    if kind == "labels":
        tries.insert(1, ("the policy ∝ π_ref·exp(P(y = 1)/{1:.4g})", world.ref_logps, (feedback.positive,)))
    for words, base, features in tries:
        log_ratio = _centred(end - base).flatten()
        columns = torch.stack([_centred(f).flatten() for f in features], 1)
        slopes = torch.linalg.lstsq(columns, log_ratio[:, None]).solution[:, 0]
        if not slopes.isfinite().all() or not slopes[0] > 1e-3:
            continue
        policy = (base + sum(a * f for a, f in zip(slopes, features, strict=True))).log_softmax(-1)
        gap = float((end.exp() - policy.exp()).abs().max())
        if gap < SAME and (log_ratio - columns @ slopes).abs().max() < 1e-4:
            beta = 1 / float(slopes[0])
            numbers = (beta,) if len(slopes) == 1 else (float(slopes[1]) * beta, beta)
            return Identity(words.format(OPTIMUM, *numbers), gap, _kl(end, policy))
    return None


def _centred(table: Tensor) -> Tensor:
    return table - table.mean(-1, keepdim=True)


def kept(end: Tensor, start: Tensor, world: SequenceWorld, feedback: Feedback, sampler: Sampler) -> str:
    """Which responses keep probability where a policy runs off, as the end of a sentence; empty where all do."""
    left = end - end.amax(-1, keepdim=True) > -12.0
    if left.all():
        return ""
    mu = (end if sampler is None else sampler).exp()
    patterns = {
        "the best response of each prompt": world.rewards == world.rewards.amax(-1, keepdim=True),
        "the worst response of each prompt": world.rewards == world.rewards.amin(-1, keepdim=True),
        "the responses with P(positive) above ½": feedback.positive > 0.5,
        "the responses that win more than half of their comparisons": (feedback.preferences * mu[:, None, :]).sum(-1)
        > 0.5,
        "the response that π_ref samples least": start == start.amin(-1, keepdim=True),
    }
    return next(
        (words for words, where in patterns.items() if torch.equal(where, left)),
        f"{int(left.sum())} of {left.numel()} responses",
    )
