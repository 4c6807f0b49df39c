"""lm-eval's model wrapper with this project's log-probs: a prompt is computed once for all its choices.

lm-eval computes prompt and choice anew for every choice. With ten few-shot examples and four choices that is four times
the work, and it holds the logits of every position.
"""

from __future__ import annotations

from typing import Any

import torch

from una_ref.data.batch import Example, collate, microbatches
from una_ref.errors import InputError
from una_ref.evaluation.subject import Subject
from una_ref.policies.layouts import layouts
from una_ref.policies.logprobs import check_scorable, sequence_logprobs

TOKENS = 256
"""Tokens in a forward pass of log-likelihoods, for each sequence of the batch size."""

Request = tuple[tuple[str, str], list[int], list[int]]
"""Texts, token ids of the context, and token ids of the continuation."""


def harness_model(subject: Subject, batch: int) -> Any:
    """The model as lm-eval's HFLM.

    Its embedding keeps its rows: HFLM resizes only models that it loads itself. Log-likelihoods are the model's own.

    Args:
        subject: the model.
        batch: sequences in a batch of generation; `TOKENS` times as many tokens in one of log-likelihoods.
    """
    from lm_eval.models.huggingface import HFLM

    class SharedPrompts(HFLM):
        """HFLM with other log-likelihoods. Whether a choice is the greedy one is not computed: no task here asks."""

        def _loglikelihood_tokens(self, requests: list[Request], **_: Any) -> list[tuple[float, bool]]:
            return [(logp, False) for logp in _logps(subject.model, requests, batch * TOKENS, self.max_length)]

    try:
        check_scorable(subject.model)
    except InputError:  # logits that are not the head's output, such as Gemma 2's
        wrapper: Any = HFLM
    else:
        wrapper = SharedPrompts
    return wrapper(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=batch)


@torch.no_grad()
def _logps(model: Any, requests: list[Request], tokens: int, max_length: int) -> list[float]:
    """log π(continuation | context) of each request, in nats. A context that is too long loses its first tokens."""
    choices: dict[tuple[int, ...], list[int]] = {}
    for index, (_, context, continuation) in enumerate(requests):
        kept = (context + continuation)[-(max_length + 1) :][: -len(continuation)]
        choices.setdefault(tuple(kept), []).append(index)
    examples = [Example(prompt, tuple(tuple(requests[i][2]) for i in indices)) for prompt, indices in choices.items()]
    examples.sort(key=lambda example: -example.tokens)
    device, layout = next(model.parameters()).device, layouts(model)[0]
    found = [0.0] * len(requests)
    for part in microbatches(examples, tokens, layout):
        logps = sequence_logprobs(model, collate(part, layout).to(device)).tolist()
        indices = [i for example in part for i in choices[example.prompt]]
        for index, logp in zip(indices, logps, strict=True):
            found[index] = logp
    return found
