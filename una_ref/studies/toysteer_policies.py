"""Policies on ToySteer worlds: the base, what is trained from it, and the probability of every response."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from una_ref.data import toysteer
from una_ref.data.rows import Row
from una_ref.data.toysteer import ToySteer
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.answers import RewardSource
from una_ref.policies.exact import next_logps
from una_ref.theory.worlds import PrefixTree
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.prepare import prepare
from una_ref.training.toysteer_base import reference_logps, toysteer_base
from una_ref.training.trainer import NonFinite

WEIGHTS = "model.safetensors"
FIX = "Fix: make one with `python -m una_ref.training.toysteer_base FOLDER`."


def base_name(base: Path) -> str:
    """A base policy's name: its folder's, and the first 64 bits of the SHA-256 of its weights."""
    return f"{base.resolve().name}, weights {hashlib.sha256((base / WEIGHTS).read_bytes()).hexdigest()[:16]}"


def base_folder(name: str | Path | None) -> Path:
    """The folder of a base policy for ToySteer, checked; None is the one that ships with the package."""
    return toysteer_base() if name is None else checked_base(Path(name))


def checked_base(base: Path) -> Path:
    """The folder of a base policy, if it is one for ToySteer.

    Raises:
        InputError: there are no weights, its tokenizer is another one, or it may emit tokens that no response has.
    """
    if not (base / WEIGHTS).is_file():
        raise InputError(f"base {base}: expected a folder with {WEIGHTS}, got none. {FIX}")
    model, tokenizer = loading.load(str(base))
    if tokenizer.get_vocab() != toysteer.tokenizer().get_vocab():
        raise InputError(f"base {base}: expected ToySteer's tokenizer, got another one. {FIX}")
    suppressed = model.generation_config.suppress_tokens or ()
    if not set(toysteer.NEVER_EMITTED) <= set(suppressed):
        raise InputError(
            f"base {base}: expected a generation config that suppresses the tokens {toysteer.NEVER_EMITTED}, "
            f"which no response has, got {tuple(suppressed)}. {FIX}"
        )
    return base


def response_tree() -> PrefixTree:
    """All responses that a ToySteer world has."""
    return PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)


class BaseInWorld(NamedTuple):
    """A world with the base policy's log-probs there: of next tokens (X, N, V), and of whole responses (X, S)."""

    world: ToySteer
    next_logps: torch.Tensor
    logps: torch.Tensor


@cache
def base_in_world(seed: int, base: Path, scale: float = 4.0) -> BaseInWorld:
    """A seed's world and the base policy of a folder in it; `scale` is in reward units per unit of score."""
    world = ToySteer(seed=seed, scale=scale)
    model, _ = loading.load(str(base))
    next_token = reference_logps(model, world)
    return BaseInWorld(world, next_token, response_tree().sequence_logps(next_token))


def training_job(config: Config, rows: Sequence[Row], base: Path, reward: RewardSource | None = None) -> Job:
    """A training run that starts from the base policy, up to its first step."""
    model, tokenizer = loading.load(str(base))
    return prepare(config, rows=rows, model=model, tokenizer=tokenizer, reward=reward)


def failure(action: Callable[[], Any]) -> str:
    """Do some training and say which non-finite value stopped it; empty if none did."""
    try:
        action()
    except NonFinite as error:
        return str(error)
    return ""


def policy_logps(job: Job, world: ToySteer) -> torch.Tensor:
    """(X, S) log-probability of every response under a job's policy as it is."""
    model: Any = job.trainer.policy.model
    tree, prompts = response_tree(), toysteer.encoded_prompts(world, job.tokenizer)
    return tree.sequence_logps(next_logps(model, prompts, tree, toysteer.VOCABULARY))
