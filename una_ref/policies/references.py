"""A policy under training and its references."""

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
from una_ref.methods.arguments import Need
from una_ref.policies.anatomy import parts
from una_ref.policies.critics import Critic
from una_ref.policies.layouts import hidden_states, layouts
from una_ref.policies.logprobs import check_scorable, distributions, sequence_logprobs, summed, token_logprobs

REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""LoRA initialisations that change the base weights: without its adapters the model is not the start policy."""

AT_START = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Largest |log π − log π_ref| before the first step, in nats, by the model's dtype.

It is exactly 0 where the adapters are turned off in the same micro-batch. A cached reference was computed in another
batch and may differ by rounding.
"""


class Policy(nn.Module):
    """A causal LM under training, with its reference. Calling it returns (B,) log-probabilities, with gradient.

    The reference is a second model if one is given. Otherwise it is the same model with its adapters off, or a frozen
    copy where there are no adapters (full fine-tuning, a table). With ``has_reference=False`` there is none in memory.

    Args:
        model: under training.
        has_reference: whether there is a reference.
        critic: values tokens, for losses that ask for values.
        second: another model as the reference; it has the same vocabulary, token by token.
        moves: whether the reference is moved by `refresh`. With adapters it is then a second adapter, frozen, on the
            same base.
        has_second_reference: whether a loss asks for a second reference, which stays where it is.
        second_reference: the model that is the second reference, of the same vocabulary. None: the start policy, for
            which there is no copy where adapters can be turned off or where it is the first reference too.

    Raises:
        InputError: a model that would be scored wrongly (see `check_scorable`), or adapters whose initialisation
            changes the base: without its adapters the model is then not the start policy. With a second model such
            adapters are allowed.
    """

    output = "logps"
    """What calling it returns, by the name that losses have for it."""

    def __init__(
        self,
        model: Any,
        *,
        has_reference: bool = True,
        critic: Critic | None = None,
        second: Any = None,
        moves: bool = False,
        has_second_reference: bool = False,
        second_reference: Any = None,
    ) -> None:
        super().__init__()
        for one in (model, second, second_reference):
            if one is not None:
                check_scorable(one)
        self.critic = critic
        self.model = model
        self.adapters = hasattr(model, "disable_adapter")
        started = (has_reference and second is None) or (has_second_reference and second_reference is None)
        off = started and self.adapters  # the adapters, for a reference that is the start policy
        for name, config in model.peft_config.items() if off else ():
            start = str(getattr(config, "init_lora_weights", True)).lower()
            if start.startswith(REWRITES_BASE):
                raise InputError(
                    f"adapter {name!r}: expected an initialisation that leaves the base unchanged, got {start!r}. The "
                    "model without its adapters would not be the start policy. Fix: init_lora_weights=True"
                )
        self.has_reference = has_reference
        self.second = second is not None
        other = second if self.second else copy.deepcopy(model) if has_reference and not self.adapters else None
        self.copy = [] if other is None else [other.eval().requires_grad_(False)]  # a list: not a submodule
        self.references_differ = second_reference is not None or (has_second_reference and (self.second or moves))
        own = second_reference
        if own is None and self.references_differ and not self.adapters:
            own = copy.deepcopy(model)
        self.second_copy = [] if own is None else [own.eval().requires_grad_(False)]
        moved = model.named_parameters() if moves and has_reference else ()
        self._trained = {name: p for name, p in moved if p.requires_grad}
        self._second_adapter = {n: p.detach().clone() for n, p in self._trained.items()} if not self.copy else {}

    def _apply(self, fn: Any, recurse: bool = True) -> Policy:
        """Move the second adapter together with the model."""
        super()._apply(fn, recurse)
        self._second_adapter = {name: fn(value) for name, value in self._second_adapter.items()}
        return self

    @property
    def moving(self) -> dict[str, torch.Tensor]:
        """The weights of a reference that moves, by their names in the model; empty for a fixed one."""
        own = dict(self.copy[0].named_parameters()) if self.copy else self._second_adapter
        return {name: own[name] for name in self._trained}

    @torch.no_grad()
    def refresh(self, mix: float = 1.0) -> None:
        """Move the reference towards the policy: its weights become (1 − mix)·θ_ref + mix·θ, and θ for mix = 1.

        LoRA mixes the factors A and B of the adapter. The mixed weight then differs from the mixture of the two weights
        by mix·(1 − mix)·(B − B_ref)·(A − A_ref), and not at all for mix = 1. The optimizer's moments stay.

        Gorbatovski et al. 2024, Eq. 1 and 2, https://arxiv.org/abs/2404.09656
        """
        for name, value in self.moving.items():
            value.copy_(self._trained[name] if mix == 1 else value.lerp(self._trained[name].to(value), mix))

    @property
    def layout(self) -> Layout:
        """The best batch layout that both the model and its reference take."""
        others = [layouts(other) for other in (*self.copy, *self.second_copy)]
        return next(one for one in layouts(self.model) if all(one in other for other in others))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) log π(y|x)."""
        return sequence_logprobs(self.model, batch)

    def outputs(self, batch: Batch, needs: frozenset[Need] = frozenset()) -> dict[str, torch.Tensor]:
        """What losses need of the policy, by name, from one forward pass.

        Args:
            batch: B responses of N scored tokens.
            needs: of the losses; what does not concern the policy is ignored.

        Returns:
            ``logps`` (B,); as needed ``token_logps`` (N,), ``values`` (N,) of the critic, ``logits`` (N, V).
        """
        if not needs & {Need.TOKENS, Need.CRITIC, Need.DISTRIBUTIONS}:
            return {self.output: self(batch)}
        return self.outputs_at(hidden_states(parts(self.model)[0], batch), batch, needs)

    def outputs_at(self, hidden: torch.Tensor, batch: Batch, needs: frozenset[Need]) -> dict[str, torch.Tensor]:
        """The same, from the (N, D) states that predict the scored tokens; ``token_logps`` is always among them."""
        found = {"token_logps": token_logprobs(self.model, batch, hidden)}
        found["logps"] = summed(found["token_logps"], batch)
        if self.critic and Need.CRITIC in needs:
            found["values"] = self.critic(batch, hidden)
        if Need.DISTRIBUTIONS in needs:
            found["logits"] = distributions(self.model, batch, hidden)
        return found

    @contextmanager
    def as_reference(self) -> Iterator[Any]:
        """The reference model, in eval mode and without gradient.

        Raises:
            RuntimeError: there is none: the policy has no adapters and was made with ``has_reference=False``.
        """
        if not (self.copy or self.adapters):
            raise RuntimeError("this policy has no reference: it was made with has_reference=False")
        with self._frozen(self.copy, exchanged=bool(self._second_adapter)) as model:
            yield model

    @contextmanager
    def as_second_reference(self) -> Iterator[Any]:
        """The second reference model, in eval mode and without gradient.

        Raises:
            RuntimeError: there is none in memory.
        """
        copies = self.second_copy or ([] if self.adapters else self.copy)
        if not (copies or self.adapters):
            raise RuntimeError("this policy has no second reference: it was made with has_second_reference=False")
        with self._frozen(copies) as model:
            yield model

    @contextmanager
    def _frozen(self, copies: list[Any], *, exchanged: bool = False) -> Iterator[Any]:
        """A separate model if there is one, else the policy's own with its adapters off or exchanged."""
        training = self.model.training
        with torch.no_grad():
            if copies:
                yield copies[0].to(self.device)
                return
            self.model.eval()
            try:
                with self._exchanged() if exchanged else self.model.disable_adapter():
                    yield self.model
            finally:
                self.model.train(training)

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        """A context in which the adapter has the weights of the second one. No weight is copied or written to."""
        own = {name: p.data for name, p in self._trained.items()}
        try:
            for name, value in self._second_adapter.items():
                self._trained[name].data = value
            yield
        finally:
            for name, value in own.items():
                self._trained[name].data = value

    def reference(self, batch: Batch) -> torch.Tensor:
        """(B,) log π_ref(y|x)."""
        with self.as_reference() as model:
            return sequence_logprobs(model, batch)

    def second_reference(self, batch: Batch) -> torch.Tensor:
        """(B,) log π_ref⁻(y|x), of the second reference."""
        with self.as_second_reference() as model:
            return sequence_logprobs(model, batch)

    def reference_tokens(self, batch: Batch) -> torch.Tensor:
        """(N,) log π_ref of every scored token."""
        with self.as_reference() as model:
            return token_logprobs(model, batch)

    def reference_distributions(self, batch: Batch) -> torch.Tensor:
        """(N, V) log π_ref of every next token at each scored token."""
        with self.as_reference() as model:
            return distributions(model, batch)

    @torch.no_grad()
    def check_start(self, batch: Batch, ref_logps: torch.Tensor | None = None) -> float:
        """Largest |log π − log π_ref| over a batch before the first step, in nats, in training mode.

        Args:
            batch: B responses.
            ref_logps: (B,) log π_ref, if already known.

        Raises:
            InputError: it exceeds `AT_START`: the reference is not the policy that training starts from. A second model
                is only refused where the value is not finite.
        """
        training = self.model.training
        self.model.train()  # dropout in the model itself shows only in training mode
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
                f"reference: expected implicit rewards of 0 at step 0 (within {limit:g} nats), got {gap:.3g}. Either "
                "the adapter is already trained, the model itself has dropout, or the reference is another model"
            )
        return gap
