"""The model of a run: loaded or made, with its adapters, critic and reference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from una_ref.data import toysteer
from una_ref.data.audit import texts
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.templates import given_template
from una_ref.errors import InputError
from una_ref.methods.arguments import Need, needs
from una_ref.policies import loading, scorers
from una_ref.policies.critics import Critic, copy_core
from una_ref.policies.fused import fuse
from una_ref.policies.named_models import resolved
from una_ref.policies.references import Policy
from una_ref.policies.scorers import Scorer
from una_ref.training.config import Config
from una_ref.training.toysteer_base import is_toysteer, toysteer_base


def model_and_tokenizer(config: Config, rows: Sequence[Row]) -> tuple[Any, Any, bool]:
    """The start model, its tokenizer with the config's template, and whether the model exists nowhere else."""
    model, tokenizer, own = _found_or_made(config, rows)
    if config.template:
        tokenizer.chat_template = given_template(config.template)
    return model, tokenizer, own


def _found_or_made(config: Config, rows: Sequence[Row]) -> tuple[Any, Any, bool]:
    dtype = config.weights_dtype
    if config.model == toysteer.TOYSTEER_BASE:
        return *loading.load(str(toysteer_base()), dtype), True
    if config.model:
        from transformers.utils import find_adapter_config_file

        name = resolved(config.model)
        model, tokenizer = loading.load(name, dtype, load_in_4bit=config.load_in_4bit)
        return model, tokenizer, find_adapter_config_file(name) is not None  # an adapter was merged
    if is_toysteer(config) and not config.shape:
        return *loading.load(str(toysteer_base()), dtype), True
    if is_toysteer(config):
        tokenizer, suppressed = toysteer.tokenizer(), list(toysteer.NEVER_EMITTED)
    else:
        every = chain.from_iterable(map(texts, rows))
        tokenizer, suppressed = loading.byte_pair_tokenizer(every, config.vocabulary), []
    try:
        model = loading.small_mistral(tokenizer, config.seed, **config.shape)
    except Exception as error:  # of classes that transformers and torch choose
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"shape: expected sizes of a Mistral, got {config.shape}: {reason}") from error
    model.generation_config.suppress_tokens = suppressed or None
    for weight in model.parameters():  # not the buffers: a loaded model keeps its rotary frequencies in float32
        weight.data = weight.data.to(getattr(torch, dtype))
    return model, tokenizer, True


def policy_for(model: Any, config: Config, encoder: Encoder) -> Policy:
    """What is trained: a policy with its reference and critic, or a scorer."""
    method = config.record
    if method.scorer:
        return Scorer(with_adapters(scorers.with_scalar_head(model, encoder, seed=config.seed), config, task="SEQ_CLS"))
    critic = critic_for(model, config)
    policy = with_adapters(model, config)
    more: dict[str, Any] = {"second": _other(config, "reference_model", encoder.tokenizer), "moves": config.refresh > 0}
    more["has_second_reference"] = config.needs_second_reference
    more["second_reference"] = (
        _other(config, "second_reference_model", encoder.tokenizer) if config.second_reference else None
    )
    return Policy(policy, has_reference=config.needs_reference, critic=critic, **more)


def critic_for(model: Any, config: Config) -> Critic | None:
    """The critic, if a loss asks for values of tokens or V(x) is a network; made from the model without adapters."""
    if Need.CRITIC not in needs(config.losses_by_kind.values()) and config.baseline != "network":
        return None
    if config.critic == "head":
        return Critic(model)
    return Critic(model, with_adapters(copy_core(model), config, task="FEATURE_EXTRACTION"))


def with_adapters(model: Any, config: Config, *, task: str = "CAUSAL_LM") -> Any:
    """The model with LoRA adapters and gradient checkpointing as configured, without dropout of its own."""
    loading.disable_dropout(model)
    if config.lora_r:
        targets = config.lora_targets if config.lora_targets == "all-linear" else config.lora_targets.split(",")
        r, alpha, dropout = config.lora_r, config.lora_alpha, config.lora_dropout
        try:
            more: dict[str, Any] = {"targets": targets, "seed": config.seed, "task": task}
            model = loading.with_lora(model, r=r, alpha=alpha, dropout=dropout, **more)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"lora_targets: expected modules of the model, got {config.lora_targets!r}: {reason}"
            ) from error
    if config.gradient_checkpointing:
        # transformers renamed the method; the second name is the older one.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    fuse(model)
    return model


def _other(config: Config, key: str, tokenizer: Any) -> Any:
    """Another model that is a reference, as a key of the config names it, or None.

    Raises:
        InputError: it has other ids for the policy's tokens.
    """
    name = getattr(config, key)
    if not name:
        return None
    model, own = loading.load(name, config.weights_dtype)
    ids = own.get_vocab()
    for token, i in tokenizer.get_vocab().items():
        if ids.get(token) != i:
            raise InputError(
                f"{key} {name!r}: expected the policy's vocabulary, where {token!r} has "
                f"id {i}, got {ids.get(token, 'no such token')}"
            )
    loading.disable_dropout(model)
    fuse(model)  # as the policy, so that both give the same log-probs to the bit
    return model
