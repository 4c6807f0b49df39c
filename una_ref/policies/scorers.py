"""A scorer: a sequence classifier with one output on a causal LM's transformer, which `reward-model` trains.

The reward is read at the response's last token, which is EOS if it ended. That token is found by the response's
length. transformers looks for pads instead, and a pad may be a token that text has as well.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from una_ref.data.batch import Batch
from una_ref.data.encoder import Encoder
from una_ref.errors import InputError
from una_ref.methods.arguments import Need
from una_ref.policies.anatomy import parts, unwrapped
from una_ref.policies.layouts import hidden_states
from una_ref.policies.references import Policy

CONFIG_KEY = "una_ref"
"""The key of a scorer's config.json that holds `ENCODER_SETTINGS`."""
ENCODER_SETTINGS = ("max_length", "max_response", "split_special_tokens")
"""How a scorer was given text in training, by the names of the `Encoder`'s attributes."""


class Scorer(Policy):
    """A sequence classifier in the place of a policy under training: calling it gives rewards.

    It has no reference. Adapters are LoRA on the transformer; the head is trained in full.
    """

    output = "rewards"

    def __init__(self, model: Any) -> None:
        super().__init__(model, has_reference=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) r(x, y), fp32 or better, with gradient. Raises ValueError for a batch without last tokens."""
        if not batch.include_last_token:
            raise ValueError("expected a batch that holds responses to their last token (include_last_token=True)")
        last = hidden_states(parts(self.model)[0], batch)[batch.lengths.cumsum(0) - 1]
        head = unwrapped(self.model).score
        with torch.autocast(last.device.type, enabled=False):
            return head(last.to(head.weight.dtype))[:, 0]

    def outputs(self, batch: Batch, needs: frozenset[Need] = frozenset()) -> dict[str, torch.Tensor]:
        """The rewards of a batch, by the name that losses have for them."""
        return {self.output: self(batch)}

    def merge(self) -> None:
        """Merge the adapters into the weights, which become at least float32: in bfloat16, a small adapter would be
        rounded away.
        """
        if self.adapters:
            if next(self.model.parameters()).dtype.itemsize < 4:
                self.model.float()
            self.model = self.model.merge_and_unload()
            self.adapters = False


def with_scalar_head(model: Any, encoder: Encoder, *, seed: int = 0) -> Any:
    """A sequence classifier with one output, in eval mode: the causal LM's transformer, not a copy, and a new head.

    The head's weights have standard deviation 1/(d + 1) at width d, so that rewards start near 0. They are float32 at
    least. The config gets the encoder's settings, and the tokenizer a pad token that ends no response.

    Args:
        model: a causal LM.
        encoder: gives the model its text.
        seed: of the head.

    Raises:
        InputError: transformers has no sequence classifier with such a head for this architecture.
    """
    from transformers import AutoModelForSequenceClassification

    core, _ = parts(model)
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    config.pad_token_id = _pad(encoder, model.get_input_embeddings().num_embeddings)
    if config.pad_token_id not in (None, encoder.tokenizer.pad_token_id):  # both are saved, and must agree
        encoder.tokenizer.pad_token = encoder.tokenizer.convert_ids_to_tokens(config.pad_token_id)
    config.eos_token_id = list(encoder.ends) if len(encoder.ends) > 1 else encoder.ends[0]
    setattr(config, CONFIG_KEY, {name: getattr(encoder, name) for name in ENCODER_SETTINGS})
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


def _pad(encoder: Encoder, rows: int) -> int | None:
    """A pad token that ends no response, since transformers reads the last token that is no pad.

    The tokenizer's own, else its unknown or first token, else another special token. None if there is none: then
    transformers takes one row at a time.
    """
    tokenizer = encoder.tokenizer
    special = (tokenizer.pad_token_id, *(getattr(tokenizer, f"{name}_token_id", None) for name in ("unk", "bos")))
    known = [*special, *sorted(getattr(tokenizer, "all_special_ids", ()))]
    return next((i for i in known if i is not None and i not in encoder.ends and i < rows), None)
