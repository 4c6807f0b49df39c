"""Responses as walks in a tree of prefixes: soft values, credit for each token, and what TDPO cancels.

A state is a prefix, an action its next token; the next state is the longer prefix. V is 0 after the last token. Tables
are (X, N, V): X prompts, the N prefixes of a `PrefixTree`, V tokens. `PrefixTree.sequence_logps` sums any such table
along each sequence, so rewards of tokens become rewards of sequences by it. Everything is in float64.

The soft optimum of E[Σ_t r_t − β·log π/π_ref] (survey Eq. 20–23; From r to Q*, https://arxiv.org/abs/2404.12358):

    Q(s, a)   = r(s, a) + β·log π_ref(a|s) + V(s')        (Bellman equation, Eq. 22)
    V(s)      = β·log Σ_a exp(Q(s, a)/β)
    π*(a|s)   = exp((Q(s, a) − V(s))/β)                    (Eq. 21)
    Σ_t β·log π*/π_ref = Σ_t r_t − V(s_0)                  (Eq. 23; T terms, with V(s_T) = 0: ES11)

V(s_0) is β·log Z(x). TDPO (https://arxiv.org/abs/2404.11999) uses the plain values of π_ref instead (ES12):

    Q_ref(s, a) = r(s, a) + V_ref(s'),   V_ref(s) = E_{a~π_ref} Q_ref(s, a)
    π(a|s)      ∝ π_ref(a|s)·exp(Q_ref(s, a)/β)            (one-step improvement, Eq. 26)
    Σ_t r_t − V_ref(s_0) = β·log π/π_ref + β·Σ_t KL(π_ref ‖ π)   (what Eq. 28 rests on)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from una_ref.theory.prefix_tree import PrefixTree


@dataclass(frozen=True)
class TokenValues:
    """Values of prefixes and tokens, in the rewards' unit.

    Attributes:
        q: (X, N, V) value of each token after each prefix.
        v: (X, N) value of each prefix.
        next_logps: (X, N, V) log-probabilities of the policy that they belong to.
    """

    q: Tensor
    v: Tensor
    next_logps: Tensor


def last_token_rewards(tree: PrefixTree, rewards: Tensor) -> Tensor:
    """(X, S) rewards of sequences -> (X, N, V) rewards of tokens: all of it at a sequence's last token, 0 elsewhere."""
    prefix = tree.steps.gather(1, tree.lengths[:, None] - 1)[:, 0]
    token = tree.sequences.gather(1, tree.lengths[:, None] - 1)[:, 0]
    table = rewards.new_zeros(len(rewards), len(tree.prefixes), tree.vocabulary)
    return table.index_put((torch.arange(len(rewards))[:, None], prefix, token), rewards)


def following(tree: PrefixTree, v: Tensor) -> Tensor:
    """(X, N) values of prefixes -> (X, N, V) value of the prefix that each token leads to; 0 where a sequence ends."""
    table = v.new_zeros(*v.shape, tree.vocabulary)
    rows = torch.arange(1, len(tree.prefixes))
    return table.index_put((torch.arange(len(v))[:, None], tree.parents[rows], tree.last[rows]), v[:, rows])


def soft_values(tree: PrefixTree, ref_next_logps: Tensor, token_rewards: Tensor, beta: float) -> TokenValues:
    """Q, V and π* of the regularised objective with rewards of tokens (survey Eq. 21, 22).

    Raises ValueError for tables of other shapes than (X, N, V), and for a β that is not positive.
    """
    ref, rewards = _tables(tree, beta, ref_next_logps=ref_next_logps, token_rewards=token_rewards)
    q, v = _backwards(tree, rewards + beta * ref, lambda q, rows: beta * torch.logsumexp(q / beta, -1))
    return TokenValues(q, v, (q - v[..., None]) / beta)


def policy_values(tree: PrefixTree, next_logps: Tensor, token_rewards: Tensor) -> TokenValues:
    """Q and V of a policy, expected sums of rewards without regularisation: TDPO's, for π_ref."""
    logps, rewards = _tables(tree, next_logps=next_logps, token_rewards=token_rewards)
    probabilities = logps.exp()

    def expected(q: Tensor, rows: Tensor) -> Tensor:
        return (probabilities[:, rows] * q).sum(-1)

    q, v = _backwards(tree, rewards, expected)
    return TokenValues(q, v, logps)


def one_step_improvement(values: TokenValues, beta: float) -> Tensor:
    """(X, N, V) log π with π(a|s) ∝ π_ref(a|s)·exp(Q(s, a)/β), where `values` are those of π_ref (survey Eq. 26).

    It maximises E_π A − β·KL(π ‖ π_ref) at each prefix. It looks one step ahead: later tokens are those of π_ref.
    """
    return (values.next_logps + values.q / beta).log_softmax(-1)


def credits(next_logps: Tensor, ref_next_logps: Tensor, beta: float) -> Tensor:
    """(X, N, V) β·log π/π_ref of each token, in the rewards' unit: DPO's reward of a token."""
    return beta * (next_logps - ref_next_logps)


def sequential_kl(tree: PrefixTree, next_logps: Tensor, other: Tensor) -> Tensor:
    """(X, S) Σ_t KL(π(·|s_t) ‖ other(·|s_t)) over the prefixes of each sequence, in nats (survey Eq. 27)."""
    per_prefix = (next_logps.exp() * (next_logps - other)).sum(-1)
    return tree.sequence_logps(per_prefix[..., None].expand(*per_prefix.shape, tree.vocabulary))


def tdpo_rewards(tree: PrefixTree, next_logps: Tensor, ref_next_logps: Tensor, beta: float) -> Tensor:
    """(X, S) β·log π/π_ref + β·SeqKL(π_ref ‖ π) of each sequence.

    For the one-step improvement of π_ref it is the reward minus V_ref(s_0), so that it has no partition function. For
    the optimum of the RLHF objective it is not: there β·log π/π_ref alone is the reward minus V(s_0).
    """
    return tree.sequence_logps(credits(next_logps, ref_next_logps, beta)) + beta * sequential_kl(
        tree, ref_next_logps, next_logps
    )


def token_policy(tree: PrefixTree, logps: Tensor) -> Tensor:
    """(X, S) log-probabilities of sequences -> (X, N, V) of next tokens: the same policy. Differentiable."""
    q, v = _backwards(tree, last_token_rewards(tree, logps), lambda q, rows: torch.logsumexp(q, -1))
    return q - v[..., None]


def _backwards(tree: PrefixTree, table: Tensor, value: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Q = table + V of the next prefix, and V = value(Q, rows), from the deepest prefixes to the empty one."""
    x, order = torch.arange(len(table))[:, None], torch.argsort(tree.depths, descending=True, stable=True)
    q_parts: list[Tensor] = []
    v_parts: list[Tensor] = []
    below = order[:0]
    for depth in range(tree.length - 1, -1, -1):
        rows = order[tree.depths[order] == depth]
        q = table[:, rows]
        if len(below):
            place = torch.searchsorted(rows, tree.parents[below])
            q = q.index_put((x, place, tree.last[below]), v_parts[-1], accumulate=True)
        q_parts.append(q)
        v_parts.append(value(q, rows))
        below = rows
    back = torch.argsort(order)
    return torch.cat(q_parts, 1)[:, back], torch.cat(v_parts, 1)[:, back]


def _tables(tree: PrefixTree, beta: float = 1.0, /, **tables: Tensor) -> list[Tensor]:
    """The tables in float64. Raises ValueError for a wrong shape or a β that is not positive and finite."""
    if not 0 < beta < math.inf:
        raise ValueError(f"beta: expected one positive, finite number, got {beta}")
    expected = (len(tree.prefixes), tree.vocabulary)
    shapes = {name: tuple(table.shape) for name, table in tables.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 3 or shape[1:] != expected for shape in shapes.values()):
        raise ValueError(f"tables: expected the shape (prompts, {expected[0]}, {expected[1]}), got {shapes}")
    return [table.to(torch.float64) for table in tables.values()]
