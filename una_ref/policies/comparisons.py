"""Preferences between answers: which of two is better, and the win rates that this gives among the answers to a prompt.

A source that compares is a reward source with two more attributes: ``pairwise = True``, and ``compare``, a function of
pairs of answers to one prompt. Its scores are win rates. Any other reward source becomes one that compares by
Bradley–Terry: P(y ≻ y') = σ(r(y) − r(y')).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

from una_ref.data.rows import prompt_key
from una_ref.errors import InputError
from una_ref.policies.answers import Answer, RewardSource, check_scores, raised, score_answers

Pair = tuple[Answer, Answer]
Compare = Callable[[Sequence[Pair]], Sequence[float | None]]
"""Pairs of answers to one prompt -> the probability that the first beats the second; None where it is not known."""


class Comparing(Protocol):
    """A reward source that compares."""

    @property
    def pairwise(self) -> bool:
        """True."""
        ...

    def __call__(self, answers: Sequence[Answer]) -> Sequence[float | None]:
        """(B,) the mean win rate of each answer over the others of its group and prompt."""
        ...

    def compare(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """(P,) the probability that the first answer of each pair beats the second."""
        ...


def win_rates(answers: Sequence[Answer], compare: Compare, name: str) -> list[float | None]:
    """(B,) mean probability of each answer to beat another answer of its group and prompt.

    Each pair is compared once, and equal texts tie at ½ without a comparison. The rates of K answers add up to K/2. An
    answer with an unknown comparison has no rate.

    Args:
        answers: two or more of each group and prompt.
        compare: see `Compare`.
        name: of the source, for messages.

    Raises:
        InputError: a prompt has only one answer, or a probability is not in [0, 1].
    """
    groups: dict[tuple[int, str], list[int]] = {}
    for i, answer in enumerate(answers):
        groups.setdefault((answer.group, prompt_key(answer.prompt)), []).append(i)
    for first, *others in groups.values():
        if not others:
            prompt = answers[first].prompt
            raise InputError(f"reward {name}: expected two or more answers to compare, got one to {prompt!r:.60}")
    pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
    shares = checked([(answers[i], answers[j]) for i, j in pairs], compare, name)
    sums: list[float] = [0.0] * len(answers)
    counts = [0] * len(answers)
    unknown: set[int] = set()
    for (i, j), share in zip(pairs, shares, strict=True):
        if share is None:
            unknown |= {i, j}
            continue
        sums[i] += share
        sums[j] += 1 - share
        counts[i] += 1
        counts[j] += 1
    return [None if i in unknown else sums[i] / counts[i] for i in range(len(answers))]


def checked(pairs: Sequence[Pair], compare: Compare, name: str) -> list[float | None]:
    """The probabilities of pairs; ½ for equal texts, which are not compared.

    Raises:
        InputError: the function raised an exception, or did not return one number in [0, 1], or None, for each pair.
    """
    different = [i for i, (first, second) in enumerate(pairs) if _text(first) != _text(second)]
    asked = [pairs[i] for i in different]
    try:
        given = list(compare(asked)) if asked else []
    except InputError:
        raise
    except Exception as error:  # from the user's own function, or from a service
        raise raised(error, [answer for pair in asked for answer in pair], name) from error
    known = check_scores([first for first, _ in asked], given, name)
    for (first, second), share in zip(asked, known, strict=True):
        if share is not None and not 0 <= share <= 1:
            raise InputError(
                f"reward {name}: expected a probability in [0, 1] that the first of two responses is better, got "
                f"{share} for {first.response!r:.60} and {second.response!r:.60}"
            )
    shares: list[float | None] = [0.5] * len(pairs)
    for i, share in zip(different, known, strict=True):
        shares[i] = share
    return shares


def _text(answer: Answer) -> tuple[str, bool]:
    return answer.response, answer.ended


@dataclass(frozen=True)
class Preference:
    """A function that compares, as a reward source of win rates.

    Attributes:
        name: for messages.
        compare: pairs of answers to one prompt -> the probability that the first is better.
    """

    name: str
    compare: Compare
    pairwise: bool = True

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        """See `win_rates`."""
        return win_rates(answers, self.compare, self.name)


def preference(function: Callable[..., Any], name: str) -> Preference:
    """A Python function as a source that compares.

    Args:
        function: of two `Answer`s, returning P(first beats second); or of a list of pairs, returning a list.
        name: for messages.
    """
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if len(required) == 2:
        return Preference(name, lambda pairs: [function(first, second) for first, second in pairs])
    return Preference(name, function)


@dataclass(frozen=True)
class BradleyTerry:
    """A reward source as one that compares: P(y ≻ y') = σ(r(y) − r(y')) (UNA Eq. 1).

    Attributes:
        source: the rewards.
        name: of the source, for messages.
    """

    source: RewardSource
    name: str
    pairwise: bool = True

    def compare(self, pairs: Sequence[Pair]) -> list[float | None]:
        """See `Comparing`; each answer is scored once, whatever the number of its pairs."""
        answers = list({id(answer): answer for pair in pairs for answer in pair}.values())
        scores = dict(zip(map(id, answers), score_answers(self.source, answers, self.name), strict=True))
        return [_sigmoid(scores[id(first)], scores[id(second)]) for first, second in pairs]

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        """See `win_rates`."""
        return win_rates(answers, self.compare, self.name)


def _sigmoid(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 0.5 * (1 + math.tanh((first - second) / 2))


def comparing(source: RewardSource, name: str) -> Comparing:
    """The source itself if it compares, else the Bradley–Terry preference of its rewards.

    Raises:
        InputError: the source gives win rates but has no ``compare``.
    """
    if not getattr(source, "pairwise", False):
        return BradleyTerry(source, name)
    if not callable(getattr(source, "compare", None)):
        raise InputError(f"reward {name}: expected a function `compare` of pairs beside `pairwise`, got none")
    return source  # type: ignore[return-value]
