"""A policy and the reference that its implicit reward is measured against."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from una_ref.data.batch import Batch, Layout
from una_ref.errors import InputError
from una_ref.policies.anatomy import parts
from una_ref.policies.critics import Critic
from una_ref.policies.layouts import hidden_states, layouts
from una_ref.policies.logprobs import check_scorable, sequence_logprobs, token_logprobs

REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""LoRA initialisations that change the base weights, so that adapters off is not the start policy."""

AT_START = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Nats that |log π − log π_ref| may reach before the first step, by the model's dtype.

With adapters off in the same micro-batch it is exactly 0; the room is for references that went another way.
"""


class Policy(nn.Module):
    """A causal LM under training, with its reference. Calling it gives (B,) log-probs of a batch, with gradient.

    The reference is the same model with its adapters off; without adapters (full fine-tuning, a table) it is a
    frozen copy; with ``anchored=False`` there is none, and none is held in memory. Or it is a second model.

    Args:
        model: under training.
        anchored: whether there is a reference.
        critic: what values tokens, if a loss asks for values.
        second: the reference, if it is another model; of the same vocabulary, token by token.

    Raises:
        InputError: a model that would be scored wrongly (see `check_scorable`), or adapters whose
            initialisation changes the base, so that adapters off is not the start policy. Beside a second model such
            adapters are right.
    """

    gives = "logps"
    """What calling it gives, by the name that losses have for it."""

    def __init__(self, model: Any, *, anchored: bool = True, critic: Critic | None = None, second: Any = None) -> None:
        super().__init__()
        for one in (model,) if second is None else (model, second):
            check_scorable(one)
        self.critic = critic
        self.model = model
        self.adapters = hasattr(model, "disable_adapter")
        off = anchored and self.adapters and second is None  # the adapters, for the reference
        for name, config in model.peft_config.items() if off else ():
            start = str(getattr(config, "init_lora_weights", True)).lower()
            if start.startswith(REWRITES_BASE):
                raise InputError(
                    f"adapter {name!r}: expected an initialisation that leaves the base as it is, got {start!r}; "
                    "adapters off would not be the start policy"
                )
        self.anchored = anchored
        self.second = second is not None
        other = second if self.second else copy.deepcopy(model) if anchored and not self.adapters else None
        self.copy = [] if other is None else [other.eval().requires_grad_(False)]  # a list: not a submodule

    @property
    def layout(self) -> Layout:
        """The batch layout that the model takes best, and a reference of its own takes as well."""
        return next(one for one in layouts(self.model) if all(one in layouts(other) for other in self.copy))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) log π(y|x)."""
        return sequence_logprobs(self.model, batch)

    def tokens(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(N,) log π of every scored token, and (N,) the critic's value of the position before it, if there is one."""
        hidden = hidden_states(parts(self.model)[0], batch)
        return token_logprobs(self.model, batch, hidden), self.critic(batch, hidden) if self.critic else None

    @contextmanager
    def as_reference(self) -> Iterator[Any]:
        """The reference model, in eval mode and without gradient.

        Raises:
            RuntimeError: there is none: a policy without adapters that was made with ``anchored=False``.
        """
        if not (self.copy or self.adapters):
            raise RuntimeError("this policy has no reference: it was made with anchored=False")
        training = self.model.training
        with torch.no_grad():
            if self.copy:
                yield self.copy[0].to(self.device)
                return
            self.model.eval()
            try:
                with self.model.disable_adapter():
                    yield self.model
            finally:
                self.model.train(training)

    def reference(self, batch: Batch) -> torch.Tensor:
        """(B,) log π_ref(y|x)."""
        with self.as_reference() as model:
            return sequence_logprobs(model, batch)

    def reference_tokens(self, batch: Batch) -> torch.Tensor:
        """(N,) log π_ref of every scored token."""
        with self.as_reference() as model:
            return token_logprobs(model, batch)

    @torch.no_grad()
    def check_start(self, batch: Batch, ref_logps: torch.Tensor | None = None) -> float:
        """Largest |log π − log π_ref| over a batch before the first step, with the policy as it will be trained.

        Args:
            batch: B responses.
            ref_logps: (B,) log π_ref, where they are known.

        Raises:
            InputError: it is beyond `AT_START`: the reference is not the policy that training starts from; of a second
                model only that it is no number.
        """
        training = self.model.training
        self.model.train()  # so that dropout in the model itself is found as well
        ref_logps = self.reference(batch) if ref_logps is None else ref_logps
        gap = float((self(batch) - ref_logps.to(self.device)).abs().max())
        self.model.train(training)
        kind = self.device.type
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        limit = AT_START[cast or next(self.model.parameters()).dtype]
        if self.second and math.isfinite(gap):
            return gap
        if not gap <= limit:
            raise InputError(
                f"reference: expected implicit rewards of 0 at step 0 (within {limit:g} nats), got {gap:.3g}; the "
                "adapter is not fresh, the model has dropout of its own, or the reference is another model"
            )
        return gap
