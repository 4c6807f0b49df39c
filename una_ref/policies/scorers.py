"""A scorer reads a prompt with a response and says one number: what `reward-model` trains.

It is a sequence classifier of one output on the transformer of a causal LM. The reward is read at the response's last
token, the EOS if it ended: found by counting, never by looking for pads, which may be tokens that text has as well.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from una_ref.data.batch import Batch
from una_ref.data.encoder import Encoder
from una_ref.errors import InputError
from una_ref.policies.anatomy import parts, unwrapped
from una_ref.policies.layouts import hidden_states
from una_ref.policies.references import Policy

READS = "una_ref"
"""The key of a scorer's config.json that says how it was given text, by what the `Encoder` calls it."""
READ_BY = ("max_length", "max_response", "split_special_tokens")


class Scorer(Policy):
    """A sequence classifier under training, in a policy's place: calling it gives (B,) rewards of a `whole` batch.

    It has no reference. Adapters are LoRA on the transformer; the head is trained in full.
    """

    gives = "rewards"

    def __init__(self, model: Any) -> None:
        super().__init__(model, anchored=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) r(x, y), fp32 or better. Raises ValueError for a batch whose last tokens are not laid out."""
        if not batch.whole:
            raise ValueError("expected a batch that holds responses to their last token (whole=True)")
        last = hidden_states(parts(self.model)[0], batch)[batch.lengths.cumsum(0) - 1]
        head = unwrapped(self.model).score
        with torch.autocast(last.device.type, enabled=False):
            return head(last.to(head.weight.dtype))[:, 0]

    def merge(self) -> None:
        """Put the adapters into the weights, which are float32 then at least: bfloat16 would round young ones away."""
        if self.adapters:
            if next(self.model.parameters()).dtype.itemsize < 4:
                self.model.float()
            self.model = self.model.merge_and_unload()
            self.adapters = False


def with_scalar_head(model: Any, encoder: Encoder, *, seed: int = 0) -> Any:
    """A sequence classifier of one output that takes over a causal LM's transformer, with a new head.

    The head is small, std 1/(d + 1), so that rewards start near 0; and float32 at least. The encoder's tokenizer
    and limits go into the config.

    Raises:
        InputError: transformers has no sequence classifier with such a head on this architecture.
    """
    from transformers import AutoModelForSequenceClassification

    core, _ = parts(model)
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    config.pad_token_id = _pad(encoder.tokenizer, model.get_input_embeddings().num_embeddings)
    setattr(config, READS, {name: getattr(encoder, name) for name in READ_BY})
    try:
        with torch.device("meta"):
            scorer = AutoModelForSequenceClassification.from_config(
                config, attn_implementation=model.config._attn_implementation
            )
        if type(getattr(scorer, scorer.base_model_prefix)) is not type(core):
            raise ValueError(f"its classifier has another transformer than {type(core).__name__}")
        width = scorer.score.in_features
    except (AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"model {type(model).__name__}: expected an architecture whose sequence classifier has a linear head "
            f"`score`, got: {reason}"
        ) from error
    setattr(scorer, scorer.base_model_prefix, core)
    weight = next(core.parameters())
    dtype = torch.promote_types(weight.dtype, torch.float32)
    values = torch.randn(1, width, generator=torch.Generator().manual_seed(seed), dtype=dtype) / (width + 1)
    scorer.score = nn.Linear(width, 1, bias=False, dtype=dtype, device=weight.device)
    scorer.score.weight.data.copy_(values)
    return scorer.eval()


def _pad(tokenizer: Any, rows: int) -> int | None:
    """The tokenizer's pad token, unless a response may end with it: transformers' own forward takes the last token
    that is no pad.
    """
    pad = tokenizer.pad_token_id
    return pad if pad is not None and pad != tokenizer.eos_token_id and pad < rows else None
