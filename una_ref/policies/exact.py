"""The exact distribution of a language model in an enumerable world: all next-token log-probs at all prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from una_ref.data.batch import prefix_tree
from una_ref.errors import InputError
from una_ref.policies.layouts import layouts
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.theory.prefix_tree import PrefixTree


@torch.no_grad()
def next_logps(
    model: Any, prompts: Sequence[Sequence[int]], tree: PrefixTree, vocabulary: Sequence[int]
) -> torch.Tensor:
    """(X, N, V) float64 log-prob of each next token at each prefix. Each prompt is one packed prefix tree.

    Args:
        model: a causal LM whose responses consist of `vocabulary` tokens only: its generation config suppresses all
            others.
        prompts: X prompts, as token ids.
        tree: the N prefixes of the world.
        vocabulary: the token ids of the tree's V tokens.

    Raises:
        InputError: the model does not take packed batches.
    """
    if "packed" not in layouts(model):
        raise InputError(
            f"model {type(model).__name__}: expected one attention mask for all layers, given to sdpa or eager "
            "attention, got another kind; a prefix tree cannot be packed for it"
        )
    training = model.training
    model.eval()
    batch = prefix_tree(prompts, tree.prefixes, vocabulary)
    logps = sequence_logprobs(model, batch.to(next(model.parameters()).device))
    model.train(training)
    return logps.double().cpu().view(len(prompts), len(tree.prefixes), len(vocabulary))
