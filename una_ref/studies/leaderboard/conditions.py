"""What can be wrong with data, labeller or policy, and the axes along which the leaderboard varies it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from una_ref.theory.labelling import Knobs

Level = float | None


@dataclass(frozen=True)
class Conditions:
    """The conditions of a run. The defaults are those of the board.

    Attributes:
        label_noise: probability that a comparison or a binary label is flipped, and that a score belongs to another
            response to the prompt.
        score_noise: sd of the noise of a score, in units of the board's.
        scale: factor of the rewards in scores, which comparisons and binary labels do not have.
        offset: sd of the constant that is added to each prompt's rewards, in reward units.
        sharpness: s in P(y ≻ y') = σ(s·(r − r')); infinite: the better response always wins.
        cycle: log-odds that the classes 0 ≻ 1 ≻ 2 ≻ 0 of first tokens add to a comparison; intransitive.
        positive_share: share of positive labels among binary labels; None: P(1) = σ(r).
        shift: a in the sampler ∝ π_ref^(1−a)·ν^a of offline data, where ν is another base policy.
        unseen: first tokens that the sampler of offline data never gives.
        length_bias: what the labeller adds to the score of a response of full length, in reward units.
        trap: what the labeller adds to the score of a response with the trap; the truth subtracts it.
        proxy_pairs: pairs that a reward model learns from; 0: the budget.
        proxy_tokens: neighbouring tokens that a reward model has weights for; the true reward has them for 2.
        hidden: width of the policy's MLP; 0: that of the settings.
        layers: of a transformer in the place of the policy's MLP; 0: the MLP.
    """

    label_noise: float = 0.0
    score_noise: float = 1.0
    scale: float = 1.0
    offset: float = 0.0
    sharpness: float = 1.0
    cycle: float = 0.0
    positive_share: float | None = None
    shift: float = 0.0
    unseen: int = 0
    length_bias: float = 0.0
    trap: float = 0.0
    proxy_pairs: int = 0
    proxy_tokens: int = 2
    hidden: int = 0
    layers: int = 0

    @property
    def knobs(self) -> Knobs:
        """The part of the conditions that theory's labeller has."""
        return Knobs(
            offset=self.offset,
            length_bias=self.length_bias,
            trap=self.trap,
            positive_share=self.positive_share,
        )


def plain(level: Level) -> float | str | None:
    """A level as JSON has it."""
    return "inf" if level is not None and math.isinf(level) else level


def _shown(level: Level) -> str:
    return "∞" if level is not None and math.isinf(level) else f"{level:g}"


@dataclass(frozen=True)
class Condition:
    """An axis of the leaderboard.

    Attributes:
        name: the field of `Conditions` that it varies.
        title: in tables and figures, with the unit.
        levels: in the order of tables and figures. The board's own, the default of the field, is one of them.
        feedback: kinds of feedback that it acts on; empty: all.
        own_entries: entries of the axis in place of the leaders; empty: the leaders.
        called: what the board's level is called where its number does not say it.
        frozen: whether rows keep the board's settings. Otherwise the condition is no axis of its own; see
            `retuned_boards`.
    """

    name: str
    title: str
    levels: tuple[Level, ...]
    feedback: tuple[str, ...] = ()
    own_entries: tuple[str, ...] = ()
    called: str = ""
    frozen: bool = True

    @property
    def board(self) -> Level:
        """The board's level."""
        return getattr(Conditions(), self.name)

    @property
    def labels(self) -> list[str]:
        """What the levels are called in tables and figures."""
        return [self.called if self.called and level == self.board else _shown(level) for level in self.levels]

    @property
    def plain_levels(self) -> list[float | str | None]:
        """The levels as JSON has them."""
        return [plain(level) for level in self.levels]

    def at(self, level: Level) -> Conditions:
        """The board's conditions but for this one."""
        fields: dict[str, Any] = {self.name: level}
        return replace(Conditions(), **fields)

    def acts_on(self, feedback: str) -> bool:
        """Whether runs with this kind of feedback differ along the axis."""
        return not self.feedback or feedback in self.feedback


COMPARED = ("demos", "pairs", "pairs and demos", "mixed", "reward model")
OFFLINE = (*COMPARED, "labels", "scores", "scored pairs", "lists")

SCORED = ("scores", "scored pairs", "lists", "calls", "mixed")
PROXIES = (("reward model",), ("ppo.rm", "rloo.rm", "una-centred.rm"))

CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        condition.name: condition
        for condition in (
            Condition(
                "label_noise",
                "label noise: share of flipped labels, and of scores swapped in a prompt",
                (0.0, 0.1, 0.2, 0.3),
            ),
            Condition("score_noise", "score noise: sd in units of the board's", (0.0, 0.5, 1.0, 2.0, 4.0), SCORED),
            Condition(
                "scale",
                "scale of the scores beside comparisons and labels",
                (0.25, 0.5, 1.0, 2.0, 4.0),
                ("mixed", "scores"),
                ("una-score.mixed", "una-centred.mixed", "una-score", "una-centred"),
            ),
            Condition("offset", "offset: sd of a constant for each prompt, reward units", (0.0, 1.0, 2.0, 4.0)),
            Condition("sharpness", "determinism: factor of the log-odds", (1.0, 2.0, 8.0, math.inf), COMPARED),
            Condition("cycle", "intransitivity: log-odds of a cycle", (0.0, 1.0, 2.0, 4.0), COMPARED),
            Condition(
                "positive_share",
                "share of positive labels",
                (0.1, None, 0.5, 0.9),
                ("labels",),
                ("una-binary-mse", "una-binary-bce", "una-centred.labels", "dro.labels", "kto", "bco"),
                called="as σ(r) says",
            ),
            Condition(
                "shift", "off-policy data: exponent of another policy in the sampler", (0.0, 0.25, 0.5, 1.0), OFFLINE
            ),
            Condition("unseen", "partial support: first tokens never sampled", (0, 1, 2, 3), OFFLINE),
            Condition("length_bias", "length bias of the labeller, reward units", (0.0, 1.0, 2.0, 4.0)),
            Condition("trap", "trap: overrated and bad, reward units", (0.0, 0.5, 1.0, 2.0)),
            Condition(
                "proxy_pairs",
                "proxy quality: pairs of the reward model",
                (64, 256, 1024, 0, 16384),
                *PROXIES,
                called="the budget",
            ),
            Condition("proxy_tokens", "misspecified reward model: neighbouring tokens that it sees", (2, 1), *PROXIES),
            Condition("hidden", "misspecified policy: width of the MLP", (2, 8, 32, 0), called="the board's"),
            Condition("layers", "layers of a transformer in the MLP's place", (0, 2), called="the MLP", frozen=False),
        )
    }
)
"""Every axis, by name. The volume of data is the board itself."""
