"""The rows of the leaderboard: every method of the registry that can run there, in its corrected form, and variants.

A method that cannot run stands in `EXCLUSIONS` with its reason, so that none vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from una_ref.errors import InputError, near
from una_ref.methods import METHODS, Method
from una_ref.methods.arguments import names
from una_ref.studies.engine import Entry

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Tuned:
    """A hyper-parameter that is chosen on the tuning worlds.

    Attributes:
        name: of the hyper-parameter.
        unit: its value at the factor 1 of the grid.
        in_betas: whether `unit` is in units of the world's β.
        inverse: whether the hyper-parameter is the inverse of that, as REBEL's η is.
        most: its largest value that has a meaning.
    """

    name: str
    unit: float = 1.0
    in_betas: bool = True
    inverse: bool = False
    most: float = math.inf

    def value(self, factor: float, beta: float) -> float:
        """The hyper-parameter at a factor of the grid, in a world with this β."""
        value = factor * self.unit * (beta if self.in_betas else 1.0)
        return 1 / value if self.inverse else value


BETA = Tuned("beta")


@dataclass(frozen=True)
class BoardEntry(Entry):
    """A row of the leaderboard.

    Attributes:
        feedback: what a budget buys: demos, pairs, pairs and demos, labels, scores, scored pairs, lists, or all of
            pairs, labels and scores (mixed); online: calls of the reward, or pairs of a reward model.
        tuned: the hyper-parameters that are chosen beside the learning rate; the first is β or what takes its place.
        passes: most passes over a rollout.
        losses: of the row's own, by kind of feedback, in place of the method's.
        control: whether it is there to explain another row, and is no leader.
    """

    feedback: str = ""
    tuned: tuple[Tuned, ...] = ()
    passes: int = 1
    losses: Mapping[str, Loss] | None = None
    control: bool = False

    @property
    def online(self) -> bool:
        """Whether it samples its responses."""
        return self.feedback in ("calls", "reward model")

    @property
    def calls_a_response(self) -> int:
        """Calls of the reward for each response: two where each has a rival of its own."""
        return 2 if METHODS[self.method].rivals == "mixture" else 1

    def command(self, loss_kwargs: Mapping[str, float]) -> str:
        """What trains this row's method on data of one's own; without the learning rate, which is a small MLP's."""
        kinds = METHODS[self.method].kinds
        keys: dict[str, Any] = {} if self.form == "corrected" else {"form": self.form}
        if not self.online and self.feedback in kinds[1:]:
            keys["learn_from"] = self.feedback
        keys |= {**self.config, **self.loss_kwargs, **loss_kwargs}
        written = (
            str(v).lower() if isinstance(v, bool) else f"{v:g}" if isinstance(v, float) else v for v in keys.values()
        )
        return " ".join(["una-ref train", self.method, *(f"{k}={v}" for k, v in zip(keys, written, strict=True))])

    def tuned_to(self, factors: Sequence[float], beta: float) -> dict[str, float]:
        """The tuned hyper-parameters at factors of the grid, in a world with this β."""
        return {own.name: own.value(factor, beta) for own, factor in zip(self.tuned, factors, strict=True)}


def fed_as(feedback: str) -> str:
    """The kind of feedback by which losses are chosen, from what a budget buys."""
    return {"scored pairs": "pairs", "calls": "scores", "reward model": "scores"}.get(feedback, feedback)


EXCLUSIONS: Mapping[str, str] = MappingProxyType(
    {
        "sdpo": "several stages; in one stage it is dpo",
        "paft": "merges two adapters, and the policy here has none; its DPO half is dpo",
        "d2o": "needs rejected responses of people beside samples of the model, and a second reference",
        "self-rewarding": "the policy judges its own text, and here there is no text to judge",
        "reward-model": "trains a scorer and no policy; the rows on a reward model have a linear one",
        "reward-model-margin": "trains a scorer and no policy",
        "soft-reward-model": "trains a scorer and no policy",
    }
)
"""The methods without a row, each with its reason."""

BY_LENGTH = ("simpo", "sigmoid-norm", "alpha-po", "tpo-l")
"""Methods whose reward is divided by the length: the unit of their β is `MEAN_LENGTH` times larger."""
MEAN_LENGTH = 4.0
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "sft": "SFT on the better response",
        "una-pair": "DPO (= UNA on pairs)",
        "una-binary-mse": "UNA on binary labels, MSE",
        "una-binary-bce": "UNA on binary labels, BCE",
        "una-score": "UNA on scores (Eq. 10)",
        "una-centred": "centred UNA on scores",
        "una-online": "online UNA (Eq. 10)",
        "una-measure": "UNA on scores, Huber",
        "iterative-dpo": "iterative DPO, best and worst of 8",
        "best-of-k": "imitation of the best of 8",
        **{
            name: name.upper()
            for name in ("ipo", "kto", "ppo", "rloo", "dro", "bco", "orpo", "cpo", "npo", "rso", "grpo")
        },
        **{name: name.upper() for name in ("rpo", "rebel", "odpo", "slic", "rrhf", "pro", "sppo", "dno", "tpo", "wpo")},
        "cdpo": "cDPO",
        "iupo": "IUPO, Jensen–Shannon",
        "f-dpo": "f-DPO, reverse KL (= DPO)",
        "r-dpo": "R-DPO",
        "tr-dpo": "TR-DPO",
        "simpo": "SimPO",
        "lipo": "LiPO, λ-weights",
        "reinforce": "REINFORCE",
        "nash-md": "Nash-MD",
    }
)
"""Short titles of rows; the others have the registry's."""
PASSES = 4
"""Most passes over a rollout of a method that allows several."""
REPLAYED = 16
"""Most passes of the entry that replays all its samples."""
REPLAY_BATCH = 32
"""Prompts, with their responses, in each of its updates."""


WIN_RATES = ("ipo", "iupo", "nash-md")
"""Methods whose reward is a win rate. Its slope in r is at most 1/4, so the unit of their β is a quarter."""
WEIGHTS = ("lam", "alpha", "gamma", "eta", "delta", "label_smoothing", "width", "gold_weight")
"""Hyper-parameters that are tuned beside β, in units of their default."""
UNTUNED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "f-dpo": ("alpha",),  # of the α-divergence, which this row does not use
        "iupo": ("alpha",),
        "alpha-po": ("alpha",),  # it makes the method
        "ppo": ("lam", "gamma"),  # of GAE
        "aot": ("label_smoothing",),  # 0
        "aot-unpaired": ("label_smoothing",),
        "exo-pair": ("label_smoothing",),  # 0.001: it only keeps a logarithm finite
    }
)
"""Hyper-parameters of these names that keep their default, by method."""

PAPERS_RECIPE = {"pairs": "una-pair", "labels": "una-binary-mse", "scores": "una-score"}
"""UNA's losses for feedback of several kinds in one run (UNA §4), by kind."""


def _tuned(method: Method) -> tuple[Tuned, ...]:
    """What is tuned of a method beside the learning rate."""
    known = method.hyperparameters
    if method.name == "rebel":
        return (Tuned("eta", inverse=True),)
    unit = MEAN_LENGTH if method.name in BY_LENGTH else 0.25 if method.name in WIN_RATES else 1.0
    first = (Tuned("beta", unit),) if "beta" in known else ()
    weights = (name for name in WEIGHTS if name in known and name not in UNTUNED.get(method.name, ()))
    return first + tuple(Tuned(name, float(known[name]), False, most=_most(method, name)) for name in weights)


def _most(method: Method, name: str) -> float:
    if name == "label_smoothing":
        return 0.4  # at half, nothing is left to learn from
    return 1.0 if (method.name, name) == ("ld-dpo", "alpha") else math.inf  # a share of tokens


def _feedback(method: Method) -> str:
    if method.source != "dataset":
        return "calls"
    if method.kinds[0] == "pairs":
        if "margins" in names(method.loss):
            return "scored pairs"
        return "pairs and demos" if "demos" in method.kinds else "pairs"
    return method.kinds[0]


def _of(method: Method) -> BoardEntry:
    """The row of a method in its corrected form."""
    feedback = _feedback(method)
    config: dict[str, Any] = {"rejection_beta": 0.4} if method.keep == "rejection" else {}
    reuses = feedback == "calls" and method.reuse != "none" and method.name != "una-online"
    return BoardEntry(
        *(method.name, TITLES.get(method.name, method.title), method.name),
        config=config,
        feedback=feedback,
        passes=PASSES if reuses else 1,
        tuned=_tuned(method),
    )


def _variants() -> Iterator[BoardEntry]:
    """Rows beside those of the methods' own: other forms, other feedback, reward models, controls."""
    beta: dict[str, Any] = {"tuned": (BETA,)}
    for form in ("printed", "released"):
        yield BoardEntry(
            f"una-score.{form}",
            {"printed": "UNA on scores, Eq. 10 as printed", "released": "UNA on scores, the authors' code"}[form],
            *("una-score", form),
            feedback="scores",
            **beta,
        )
    yield BoardEntry(
        *("una-score.shuffled", "UNA on shuffled scores (control)", "una-score"),
        config={"shuffle": True},
        tuned_as="una-score",
        feedback="scores",
        control=True,
        **beta,
    )
    yield BoardEntry(*("una-centred.labels", "centred UNA on binary labels", "una-centred"), feedback="labels", **beta)
    yield BoardEntry(*("dro.labels", "DRO on binary labels", "dro"), feedback="labels", **beta)
    yield BoardEntry(
        *("f-dpo.js", "f-DPO, Jensen–Shannon", "f-dpo"), loss_kwargs={"divergence": "js"}, feedback="pairs", **beta
    )
    online: dict[str, Any] = {"online": True}
    yield BoardEntry(
        *("una-centred.online", "centred UNA, online", "una-centred"), config=online, feedback="calls", **beta
    )
    yield BoardEntry(
        *("una-centred.replay", "centred UNA, online with replay", "una-centred"),
        config={**online, "replay": 1024, "replay_batch": REPLAY_BATCH},
        feedback="calls",
        passes=REPLAYED,
        **beta,
    )
    yield BoardEntry(
        *("una-centred.large", "centred UNA on scores, 256 labels a step", "una-centred"),
        config={"batch": 128},  # rows of two scores each
        feedback="scores",
        control=True,
        **beta,
    )
    yield BoardEntry(
        *("una-pair.large", "DPO, 256 labels a step", "una-pair"),
        config={"batch": 256},
        feedback="pairs",
        control=True,
        **beta,
    )
    yield BoardEntry(
        *("una-online.released", "online UNA, the authors' code", "una-online", "released"),
        feedback="calls",
        passes=PASSES,
        **beta,
    )
    yield BoardEntry(
        *("una-centred.mixed", "centred UNA on pairs, labels and scores", "una-centred"), feedback="mixed", **beta
    )
    yield BoardEntry(
        *("una-score.mixed", "UNA on pairs, labels and scores, the paper's recipe", "una-score"),
        feedback="mixed",
        losses={kind: METHODS[name].loss for kind, name in PAPERS_RECIPE.items()},
        **beta,
    )
    for name, title, config in (
        ("ppo", "PPO on a reward model", {}),
        ("rloo", "RLOO on a reward model", {}),
        ("una-centred", "centred UNA on a reward model", online),
    ):
        yield BoardEntry(f"{name}.rm", title, name, config=config, feedback="reward model", **beta)


ENTRIES: Mapping[str, BoardEntry] = MappingProxyType(
    {entry.name: entry for entry in (*(_of(METHODS[name]) for name in METHODS if name not in EXCLUSIONS), *_variants())}
)
"""Every row of the board, by name."""

REFERENCES: Mapping[str, str] = MappingProxyType(
    {
        "base": "π_ref, the base policy",
        "proxy": "π̂\\*, the reward model's optimum",
        "ascent": "the same MLP on the exact ∇J, as many updates",
        "optimum": "π\\*, the optimum",
    }
)
"""Rows that are no methods, by name."""


def entry_named(name: str) -> BoardEntry:
    """The row of that name.

    Raises:
        InputError: there is none; the message has the reason, or the nearest name.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    if name in METHODS and METHODS[name].name in ENTRIES:  # an alias, such as dpo
        return ENTRIES[METHODS[name].name]
    if name in EXCLUSIONS:
        raise InputError(f"methods: expected a row of the leaderboard, got {name}, excluded: {EXCLUSIONS[name]}")
    aliases = [alias for method in METHODS.values() for alias in method.aliases if method.name in ENTRIES]
    hint = near(name, [*ENTRIES, *aliases]) or f". Fix: choose from {', '.join([*ENTRIES, *aliases])}"
    raise InputError(f"methods: expected a row of the leaderboard, got {name!r}{hint}")
