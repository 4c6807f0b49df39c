"""The learning rate of a run that sets none, by the model that it starts from.

1e-3 trains a tiny model and turns the answers of a real one into noise within eight steps. `Config.learning_rate` is
where every part of a run reads the number.
"""

from __future__ import annotations

from typing import NamedTuple

from una_ref.data.toysteer import TOYSTEER_BASE
from una_ref.policies.named_models import origin


class Rate(NamedTuple):
    """A learning rate, and the kind of run that it is the default for."""

    value: float
    situation: str


TINY = Rate(1e-3, "a model made here")
"""ToySteer's base included, and every run that started from either."""
ADAPTER = Rate(1e-4, "a named model with LoRA")
"""Tried with DPO on SmolLM2-135M: at 1e-4 the held-out loss fell in 40 steps, at 1e-5 hardly anything moved."""
WHOLE = Rate(1e-5, "a named model with lora_r=0")
"""A tenth of LoRA's, the ratio of the best rates in https://thinkingmachines.ai/blog/lora. Not tuned here."""


def default_rate(model: str, lora_r: int) -> Rate:
    """The default peak learning rate.

    Args:
        model: as a config names it; empty: made here. The folder of a run stands for what that run started from.
        lora_r: rank of the adapters; 0: every weight is trained.
    """
    if origin(model) in ("", TOYSTEER_BASE):
        return TINY
    return ADAPTER if lora_r else WHOLE
