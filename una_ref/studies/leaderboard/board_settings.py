"""What all runs of the leaderboard have in common, and which runs there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from una_ref.errors import InputError
from una_ref.studies.leaderboard.board_entries import ENTRIES, entry_named

QUICK = (
    *("sft", "una-pair", "ipo", "kto", "una-binary-bce", "una-score", "una-score.shuffled", "una-centred"),
    *("simpo", "rloo", "ppo", "una-online", "una-centred.replay", "rloo.rm"),
)
"""The rows of the quick board."""

PROTOCOL = 2
"""Of the runs: worlds, feedback, training, measures. Raise it when a run means something else."""


@dataclass(frozen=True)
class LeaderboardSettings:
    """The settings of the leaderboard.

    Attributes:
        protocol: version of what a run is.
        prompts: of the task. second: of the second block, which no data touch.
        vocabulary: tokens, EOS counted. length: most tokens of a response.
        beta: of the objective by which all are judged, in reward units.
        score_noise: sd of the noise of a score, in reward units.
        hidden: width of the policy's MLP.
        steps: optimizer steps of an offline run, and most updates of an online run.
        batch: labels in a step. draws: responses to each prompt of a rollout.
        seeds: worlds of the board. tuning_seeds: worlds on which settings are chosen, at `tuning_budget`.
        budgets: labels, or calls of the reward.
        lrs, factors: the values that a learning rate, and each factor of a hyper-parameter, may take; in order.
        first_lr: where the search of a learning rate starts; that of a factor starts at 1. See `board_search`.
        entries: rows of the board.
        leaders: number of rows that the axes and the frontier have. axis_seeds: their worlds.
        axis_budget: of the axes and the frontier, by which the leaders are chosen as well.
        frontier: factors of β, in units of the chosen one.
        alarm_seeds: worlds on which the thresholds of alarms are chosen; they are reported on those of the board.
    """

    protocol: int = PROTOCOL
    prompts: int = 8
    second: int = 4
    vocabulary: int = 6
    length: int = 5
    beta: float = 0.4
    score_noise: float = 1.0
    hidden: int = 160
    steps: int = 256
    batch: int = 64
    draws: int = 8
    seeds: tuple[int, ...] = tuple(range(12))
    tuning_seeds: tuple[int, ...] = (100, 101, 102)
    tuning_budget: int = 4096
    budgets: tuple[int, ...] = (256, 1024, 4096, 16384)
    lrs: tuple[float, ...] = (1.6e-4, 4e-4, 1e-3, 2.6e-3, 6.4e-3, 1.6e-2, 4e-2, 0.1)
    first_lr: float = 1.6e-2
    factors: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, 16.0)
    entries: tuple[str, ...] = tuple(ENTRIES)
    leaders: int = 8
    axis_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    axis_budget: int = 4096
    frontier: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    alarm_seeds: tuple[int, ...] = tuple(range(200, 212))

    def __post_init__(self) -> None:
        """Refuse an empty grid and unknown rows.

        Raises:
            InputError: says which.
        """
        for name in ("seeds", "tuning_seeds", "budgets", "lrs", "factors", "entries"):
            if not getattr(self, name):
                raise InputError(f"leaderboard: {name}: expected at least one value, got none")
        least = 2 * self.prompts * self.draws
        if min(*self.budgets, self.tuning_budget) < least:
            raise InputError(f"leaderboard: budgets: expected at least {least}, two rollouts, got {min(self.budgets)}")
        for name in self.entries:
            entry_named(name)

    @property
    def quick(self) -> LeaderboardSettings:
        """Fewer rows, three worlds, one budget."""
        rows = tuple(name for name in QUICK if name in self.entries) or self.entries
        return replace(self, seeds=self.seeds[:3], budgets=(self.tuning_budget,), entries=rows)


HEADER = (
    *("protocol", "prompts", "second", "vocabulary", "length", "beta", "score_noise", "hidden"),
    *("steps", "batch", "draws"),
)
"""The settings that say what a run is."""
