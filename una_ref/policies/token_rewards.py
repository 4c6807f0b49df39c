"""The reward that DPO gives to each token of a response: where a trained policy sees merits and faults."""

from __future__ import annotations

import torch

from una_ref.data.batch import Batch
from una_ref.methods.arguments import Need
from una_ref.methods.credit import token_credits
from una_ref.policies.references import Policy


@torch.no_grad()
def token_rewards_of(policy: Policy, batch: Batch, beta: float) -> torch.Tensor:
    """(B, T) β·log π/π_ref of every token of B responses, in reward units; 0 after a response's end.

    Each row sums to the implicit reward of the response. The policy stays in its mode, training or evaluation; without
    dropout the two are equal.

    Rafailov et al. 2024, https://arxiv.org/abs/2404.12358
    """
    found = policy.outputs(batch, frozenset({Need.TOKENS}))["token_logps"]
    mask = batch.by_response(torch.ones_like(batch.target, dtype=torch.bool))
    logps, ref_logps = (batch.by_response(values) for values in (found, policy.reference_tokens(batch)))
    return token_credits(logps, ref_logps.to(logps), mask, beta)
