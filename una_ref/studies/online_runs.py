"""What the online study consists of: its entries, its settings, and the four kinds of run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from una_ref.studies.engine import Entry
from una_ref.studies.proxies import TRUTH

ENTRIES = (
    Entry("ppo", "PPO, a critic of its own, 4 passes", "ppo", config={"passes": 4}),
    Entry("rloo", "RLOO", "rloo"),
    Entry("una-online", "online UNA (Eq. 10)", "una-online"),
    # Passes as in the authors' script. In the first pass its β is only a step size, which the learning rate is already;
    # in later passes it says where the σ saturates. It is not tuned.
    Entry(
        "una-online.released",
        "online UNA, the authors' code, 4 passes",
        "una-online",
        form="released",
        config={"passes": 4},
        hyper={"beta": 1.0},
    ),
    Entry("una-centred", "centred UNA", "una-centred", config={"online": True}),
    Entry(
        "una-centred.replay",
        "centred UNA + replay of 8 rollouts, 4 passes",
        "una-centred",
        config={"online": True, "replay": 7, "passes": 4},
    ),
    Entry("iterative-dpo", "iterative DPO, best and worst of 8", "iterative-dpo"),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}


@dataclass(frozen=True)
class OnlineSettings:
    """What every run of the study has in common, and which runs there are.

    Attributes:
        steps: rollouts. batch: prompts of each. draws: responses to each prompt.
        beta: of the objective, in reward units, and every method's own.
        every: steps between exact measurements along a run.
        rollouts: at the base policy, for the gradient noise.
        timed: steps that are timed, after a quarter as many to warm up.
        test: pairs on which a reward model is tested.
        reward: of the axes methods and offset: the number of pairs that its reward model learned from, or "truth".
        rewards: of the axis proxy.
        offsets: of the axis offset.
        entries, offset_entries, proxy_entries: of each axis.
        retuned: entries that the axis offset has a second time, at the best learning rate of each offset.
        seeds: worlds of the tables. tuning_seeds: worlds on which learning rates are chosen.
        timed_seeds: worlds on which steps are timed, one run at a time, and on which noise is measured along offsets.
        lrs: the grid.
    """

    steps: int = 32
    batch: int = 8
    draws: int = 8
    beta: float = 0.4
    every: int = 8
    rollouts: int = 32
    timed: int = 16
    test: int = 4096
    reward: str = "1024"
    rewards: tuple[str, ...] = ("64", "1024", TRUTH)
    offsets: tuple[float, ...] = (-4.0, -2.0, 0.0, 2.0, 4.0)
    entries: tuple[str, ...] = tuple(BY_NAME)
    offset_entries: tuple[str, ...] = ("ppo", "rloo", "una-online", "una-centred")
    retuned: tuple[str, ...] = ("una-online",)
    proxy_entries: tuple[str, ...] = ("ppo", "rloo", "una-centred.replay")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    tuning_seeds: tuple[int, ...] = (100, 101)
    timed_seeds: tuple[int, ...] = (0, 1, 2)
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)

    @property
    def quick(self) -> OnlineSettings:
        """Two worlds and fewer steps; of the other axes one end each."""
        return replace(
            self,
            steps=min(32, self.steps),
            every=min(16, self.steps),
            rollouts=4,
            timed=4,
            seeds=self.seeds[:2],
            timed_seeds=self.timed_seeds[:1],
            rewards=tuple(dict.fromkeys((self.rewards[0], self.reward))),
            offsets=(0.0, max(self.offsets)),
            offset_entries=("una-online", "una-centred"),
            retuned=(),
            proxy_entries=("rloo",),
        )


HEADER = ("steps", "batch", "draws", "beta", "every", "rollouts", "timed", "test")
"""The settings that say what a run is; the others only say which runs there are."""


@dataclass(frozen=True)
class RewardRun:
    """Train a seed's reward model and measure what it is worth."""

    reward: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"reward/{self.reward}/seed={self.seed}"


@dataclass(frozen=True)
class TrainingRun:
    """Train an entry and measure its policy along the way."""

    entry: str
    reward: str
    offset: float
    lr: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"train/{self.entry}/{self.reward}/offset={self.offset:+g}/lr={self.lr:g}/seed={self.seed}"


@dataclass(frozen=True)
class NoiseRun:
    """Measure the noise of an entry's gradient at the base policy."""

    entry: str
    reward: str
    offset: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"noise/{self.entry}/{self.reward}/offset={self.offset:+g}/seed={self.seed}"


@dataclass(frozen=True)
class CostRun:
    """Time an entry's steps, measure their memory, and count the models that are held."""

    entry: str
    reward: str
    lr: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"cost/{self.entry}/{self.reward}/lr={self.lr:g}/seed={self.seed}"
