"""Combinations of keys that a config refuses, because one of them would be wrong or without effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from una_ref.errors import InputError, near
from una_ref.theory.divergences import DIVERGENCES
from una_ref.training.fields import one_of

if TYPE_CHECKING:
    from una_ref.training.config import Config


def check_divergence(divergence: Any) -> None:
    """Refuse divergences that are not known or have no gradient."""
    if divergence == "tv":
        raise InputError("divergence=tv: expected one with a gradient, got tv, whose f′ is constant on each side")
    trainable = [name for name in DIVERGENCES if name != "tv"]
    if divergence not in trainable:
        hint = near(str(divergence), trainable)
        raise InputError(f"divergence: expected {one_of(trainable)}, got {divergence!r}{hint}")


def check_model(config: Config) -> None:
    """Refuse models that cannot be loaded or used by this method."""
    method = config.record
    if config.reference_model and not method.needs_reference:
        raise InputError(f"reference_model: expected none, since {config.method} has no reference, got one")
    if config.second_reference_model and not config.needs_second_reference:
        raise InputError(
            f"second_reference_model: expected none, since {config.method} has no second reference, got one"
        )
    if config.l1 and not config.lora_r:
        raise InputError("l1: expected LoRA adapters, whose change of the weights it penalises, got lora_r=0")
    if not config.load_in_4bit:
        return
    if not (config.model and config.lora_r):
        got = "no model" if config.lora_r else "lora_r=0"
        raise InputError(f"load_in_4bit: expected a model to load, with adapters to train, got {got}")
    if method.scorer or method.advantages:
        why = "whose adapters are merged at the end" if method.scorer else "whose critic is a copy of the model"
        raise InputError(f"load_in_4bit: expected another method than {config.method}, {why}")
    if config.engine == "vllm":
        raise InputError("load_in_4bit: expected engine=hf, got vllm, which samples from the unquantised weights")


def check_refresh(config: Config) -> None:
    """Refuse a moving reference where there is none, or where its log-probs or weights are fixed."""
    if config.refresh_mix != 1 and not config.refresh:
        raise InputError("refresh_mix: expected a reference that moves, got refresh_every=0. Fix: set refresh_every")
    if not config.refresh:
        return
    if not config.record.needs_reference:
        raise InputError(f"refresh_every: expected 0, since {config.method} has no reference, got {config.refresh}")
    if config.reference == "cache":
        raise InputError(
            "reference=cache: expected a reference that stays the same, got one that moves. "
            "Fix: reference=step, or refresh_every=0"
        )
    if config.reference_model:
        raise InputError(
            "reference_model: expected none, since the reference moves to the policy, got one. Fix: refresh_every=0"
        )


def check_feedback(config: Config) -> None:
    """Refuse a kind of feedback that the method does not have, or that nothing would become."""
    if config.learn_from == "any":
        return
    kinds = [*config.record.losses] if config.form == "corrected" else [config.record.kinds[0]]
    if config.on_policy:
        raise InputError(f"learn_from: applies to given responses, got {config.learn_from} for sampled ones")
    if config.learn_from not in kinds:
        form = "" if config.form == "corrected" else f" in form={config.form}"
        raise InputError(
            f"learn_from: {config.method}{form}: expected any, {', '.join(kinds)}, got {config.learn_from}"
        )


def check_pairs(config: Config) -> None:
    """Refuse a choice of pairs where sampled responses become pairs in the method's own way."""
    if config.on_policy and config.pairs != "best-worst":
        raise InputError(
            f"pairs: applies to given responses, got {config.pairs}. Of sampled ones, {config.method} keeps its own"
        )
