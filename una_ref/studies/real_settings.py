"""What the offline study on a real language model compares, and under which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from una_ref.studies.engine import Entry
from una_ref.studies.offline_study import BY_NAME
from una_ref.studies.real_data import Size

BASE = "base"
_SCORES = "una-score"


def _entry(name: str, tuned_as: str = "") -> Entry:
    return replace(BY_NAME[name], tuned_as=tuned_as)


SIMPO = Entry("simpo", "SimPO", "simpo", tuned_as="dpo")
ENTRIES: Mapping[str, Sequence[Entry]] = {
    "scores": (
        _entry("dpo"),
        _entry("una-score"),
        _entry("una-centred", _SCORES),
        _entry("kto"),
        _entry("sft"),
        _entry("una-score.shuffled", _SCORES),
        _entry("una-score.released", _SCORES),
        _entry("una-binary-mse", "kto"),
        _entry("una-binary-bce", "kto"),
        _entry("ipo", "dpo"),
        SIMPO,
    ),
    "pairs": (
        _entry("dpo"),
        _entry("kto"),
        _entry("sft"),
        Entry("dpo.shuffled", "DPO on shuffled pairs (control)", "una-pair", config={"shuffle": True}, tuned_as="dpo"),
        _entry("una-binary-mse", "kto"),
        _entry("una-binary-bce", "kto"),
        _entry("ipo", "dpo"),
        SIMPO,
    ),
}
"""The rows of each axis, in the order in which they are computed."""
TUNED = tuple(entry for entry in ENTRIES["scores"] if not entry.tuned_as)
"""The entries whose learning rate is chosen from the grid."""

SIZES = {
    "scores": Size(248, 104, response=192),
    "pairs": Size(320, 128),
    "tuning": Size(48, 64, response=96),
    "reward": Size(600, 300),
    "llmbar": Size(0, 200),
    "hhh": Size(0, 200),
}

ITEMS = {"arc": 300, "winogrande": 300, "hellaswag": 300, "truthfulqa": 300, "ifeval": 100}
"""Leaderboard tasks without examples in the prompt, and how many fixed items of each."""


HEADER = (
    "sizes",
    "batch",
    "tuning_batch",
    "beta",
    "lora_r",
    "lora_alpha",
    "prompts",
    "new_tokens",
    "reward_lr",
)
"""The settings that say what a run is; the others only say which runs there are."""


@dataclass(frozen=True)
class RealSettings:
    """What every run of the study has in common, and which runs there are.

    Attributes:
        sizes: rows and tokens of each part of the data.
        batch, tuning_batch: rows a step. A run is one pass over its rows.
        beta: of methods with a reference.
        lora_r, lora_alpha: of the adapters.
        prompts, new_tokens: of the samples that KL, length and win rate are measured on.
        reward_lr: learning rate of the reward model; not tuned.
        seeds: of adapters, data order and samples.
        lrs: the grid of learning rates.
        tasks: leaderboard tasks, with the number of their items.
        task_seeds: of the policies that are evaluated on them.
        task_tokens: most new tokens of an answer in IFEval.
    """

    study = "real_offline"
    header = HEADER
    sizes: Mapping[str, Size] = field(default_factory=lambda: dict(SIZES))
    batch: int = 8
    tuning_batch: int = 4
    beta: float = 0.1
    lora_r: int = 16
    lora_alpha: float = 16.0
    prompts: int = 64
    new_tokens: int = 96
    reward_lr: float = 3e-4
    seeds: tuple[int, ...] = (0, 1)
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    tasks: Mapping[str, int] = field(default_factory=lambda: dict(ITEMS))
    task_seeds: tuple[int, ...] = (1,)
    task_tokens: int = 256

    @property
    def quick(self) -> RealSettings:
        """One seed."""
        return replace(self, seeds=self.seeds[:1], task_seeds=self.seeds[:1])
