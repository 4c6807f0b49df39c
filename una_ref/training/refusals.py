"""Whether a run would be refused, without the weights of its model.

What `prepare` refuses depends on the rows, the tokenizer and the sizes in the model's config. So it is called with the
tokenizer of the model, and a small model of random weights that has the same vocabulary and positions in place of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.templates import given_template
from una_ref.errors import InputError, near_path
from una_ref.policies import loading
from una_ref.policies.named_models import resolved
from una_ref.training.config import Config
from una_ref.training.prepare import encoder_for, prepare, room_for

SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 1, "num_key_value_heads": 1}
WITHOUT_LIMIT = 1 << 20
"""Positions where no model is named, so that nothing is too long."""


def stand_in(config: Config) -> tuple[Any, Any]:
    """A small model in place of the config's, and the tokenizer: the model's, or bytes if none is named.

    Raises:
        InputError: there is no such model, or its tokenizer does not load.
    """
    if not config.model:
        tokenizer = loading.byte_pair_tokenizer([], 0)
        if config.template:
            tokenizer.chat_template = given_template(config.template)
        return loading.small_mistral(tokenizer, **SMALL, max_position_embeddings=WITHOUT_LIMIT), tokenizer
    from transformers import AutoConfig, GenerationConfig

    name = resolved(config.model)
    try:
        with loading.quiet_transformers():
            base = loading.base_of(name) or name
            sizes = AutoConfig.from_pretrained(base, trust_remote_code=False).get_text_config()
            tokenizer = _tokenizer(name, base)
    except Exception as error:  # no such folder, no network, a damaged file: each raises its own class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model {config.model!r}: expected a folder or hub name with config and tokenizer, got: {reason}"
            f"{near_path(config.model)}"
        ) from error
    positions = getattr(sizes, "max_position_embeddings", WITHOUT_LIMIT)
    model = loading.small_mistral(tokenizer, **SMALL, max_position_embeddings=positions)
    model.config.eos_token_id = sizes.eos_token_id
    try:
        model.generation_config = GenerationConfig.from_pretrained(base)
    except OSError:  # not every model has one
        model.generation_config.eos_token_id = sizes.eos_token_id
    if config.template:
        tokenizer.chat_template = given_template(config.template)
    return model, tokenizer


def _tokenizer(name: str, base: str) -> Any:
    """The tokenizer of an adapter, or of its base where it has none."""
    try:
        return loading.load_tokenizer(name)
    except ValueError:
        if base == name:
            raise
        return loading.load_tokenizer(base)


def run_encoder(config: Config, model: Any, tokenizer: Any) -> Encoder:
    """The encoder of the run that the config describes."""
    return encoder_for(_unlimited(config), model, tokenizer)


def refusal(config: Config, rows: Sequence[Row], model: Any, tokenizer: Any) -> str:
    """Why a run on these rows would be refused; empty if it would start.

    Of an online run, the prompts are checked. Its reward is not asked.
    """
    named = bool(config.model)
    config = replace(_unlimited(config), output="", dtype="float32", load_in_4bit=False, optimizer="adamw")
    try:
        if config.on_policy:
            encoder = encoder_for(config, model, tokenizer)
            encoder.encode(rows, room=room_for(encoder.max_response, encoder.max_length))
        else:
            prepare(config, rows=rows, model=model, tokenizer=tokenizer, forward=named)  # texts may be whole books
    except InputError as error:
        return str(error)
    return ""


def _unlimited(config: Config) -> Config:
    """The config, without a limit on lengths if no model is named: they would be limits on bytes."""
    if config.model:
        return config
    return replace(config, max_length=WITHOUT_LIMIT, max_response=None, max_prompt=None)
