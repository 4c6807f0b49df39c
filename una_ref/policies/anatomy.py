"""The parts of a causal language model that scoring and sampling use, under PEFT or not."""

from __future__ import annotations

from typing import Any


def unwrapped(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper; a model without a wrapper as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def parts(model: Any) -> tuple[Any, Any]:
    """The transformer without its head, and the head that gives logits; None for a scorer, which has no such head."""
    inner = unwrapped(model)
    return getattr(inner, inner.base_model_prefix), inner.get_output_embeddings()


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Token ids at which generation stops: the tokenizer's EOS, then those of the model's configs (Gemma: a turn's)."""
    inner = unwrapped(model)
    found = [tokenizer.eos_token_id]
    for config in (getattr(inner, "generation_config", None), getattr(inner, "config", None)):
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, list | tuple) else [ids]
    return tuple(dict.fromkeys(i for i in found if i is not None))


def suppressed_tokens(model: Any) -> list[int]:
    """Token ids that the generation config never samples. The scored distribution leaves them out as well."""
    return list(getattr(getattr(unwrapped(model), "generation_config", None), "suppress_tokens", None) or ())
