"""From the name in a run's `reward` to the source that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from una_ref.data import toysteer
from una_ref.data.encoder import Encoder
from una_ref.data.toysteer import ToySteer
from una_ref.errors import InputError
from una_ref.named_function import named_function
from una_ref.policies.answers import Answer, RewardSource, score_answers
from una_ref.policies.classifier import Classifier
from una_ref.policies.comparisons import Pair, checked, comparing, preference
from una_ref.policies.endpoint import NAME
from una_ref.policies.judge import Judge
from una_ref.policies.references import Policy
from una_ref.policies.self_reward import SELF, SelfReward

PREFERENCE = "preference:"
"""How the name of a reward begins that is a function of two answers."""


def reward_source(name: str, *, world: ToySteer | None = None) -> RewardSource:
    """The source that a run's `reward` names. Several names, separated by commas, are averaged.

    Args:
        name: one of

            - "toysteer": the true reward of `world`;
            - "module:function": a Python function that takes a list of `Answer` and returns as many numbers; the
              module may lie in the current folder;
            - "preference:module:function": a Python function of two `Answer`s that returns the probability that the
              first is better, or of a list of pairs that returns as many; scores are win rates within a prompt;
            - "judge:MODEL@http://host:port/v1": an LLM, see `una_ref.policies.judge`;
            - "self", "self:WORD" or "self:GOOD/BAD": the policy under training, see `una_ref.policies.self_reward`; on
              `world` good and bad are two of its letters, after its own judging prompt;
            - the folder or hub name of a sequence-classification model.
        world: ToySteer's, where that is the data.

    Raises:
        InputError: nothing of that name, or "toysteer" without a world.
    """
    if "," in name:
        return Ensemble(tuple((part.strip(), reward_source(part.strip(), world=world)) for part in name.split(",")))
    if name == "toysteer":
        if world is None:
            raise InputError("reward toysteer: expected ToySteer's prompts, got other data. Fix: add --reward NAME")
        return Truth(world)
    if judge := NAME.fullmatch(name):
        return Judge(judge["model"], judge["url"])
    if verdict := SELF.fullmatch(name):
        return _self_reward(name, verdict["word"] or "", verdict["other"] or "", world)
    if name.startswith(PREFERENCE):
        return preference(_function(name.removeprefix(PREFERENCE), name), name)
    if ":" in name and not Path(name).exists():
        return _function(name, name)
    return Classifier(name)


def _self_reward(name: str, word: str, other: str, world: ToySteer | None) -> SelfReward:
    if world is None or not word:
        return SelfReward(word, other)
    good, bad = (toysteer.VERDICTS.get(one, one) for one in (word, other))
    if not {good, bad} <= {*toysteer.LETTERS, ""}:
        raise InputError(f"reward {name}: expected verdicts that ToySteer's models know, good, bad or letters a to e")
    return SelfReward(good, bad, question=toysteer.JUDGING)


def _function(path: str, name: str) -> Callable[..., Any]:
    """The Python function at "module:function".

    Raises:
        InputError: nothing there; `name` is the whole name of the reward, for the message.
    """
    module = path.partition(":")[0]
    try:
        return cast(Callable[..., Any], named_function(path))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        expected = {"judge": "judge:MODEL@http://host:port/v1", "self": "self, self:WORD or self:GOOD/BAD"}.get(
            module, "module:function"
        )
        prefix = PREFERENCE if name != path else ""
        raise InputError(f"reward {name!r}: expected {prefix}{expected}, got: {error}") from error


def reads_columns(name: str) -> bool:
    """Whether a source of that name is, or one of several is, a Python function, which may read a row's columns."""
    parts = [part.strip() for part in name.split(",")]
    return any(
        part.startswith(PREFERENCE)
        or (":" in part and not NAME.fullmatch(part) and not SELF.fullmatch(part) and not Path(part).exists())
        for part in parts
    )


def bound(source: RewardSource, policy: Policy, encoder: Encoder) -> RewardSource:
    """The source; a policy that judges itself is given the run's."""
    if isinstance(source, SelfReward):
        return source.bound(policy, encoder)
    if isinstance(source, Ensemble):
        return Ensemble(tuple((name, bound(part, policy, encoder)) for name, part in source.sources))
    return source


@dataclass(frozen=True)
class Truth:
    """The true reward of a ToySteer world: r = scale·(score − ½) + offset, in reward units."""

    world: ToySteer

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """The reward of each answer. Raises InputError for a prompt that is not of the world."""
        prompts = {prompt: x for x, prompt in enumerate(self.world.prompts)}
        responses = {response: y for y, response in enumerate(self.world.responses)}
        rewards = []
        for answer in answers:
            if answer.prompt not in prompts:
                raise InputError(f"reward toysteer: expected a prompt of the world, got {answer.prompt!r:.60}")
            letters = answer.response.replace(" ", "")
            rewards.append(float(self.world.rewards[prompts[answer.prompt], responses[letters, answer.ended]]))
        return rewards


@dataclass(frozen=True)
class Ensemble:
    """The mean of several sources, each with its name."""

    sources: tuple[tuple[str, RewardSource], ...]

    @property
    def pairwise(self) -> bool:
        """Whether one of them compares the answers to a prompt, and so needs all of them in one call."""
        return any(getattr(source, "pairwise", False) for _, source in self.sources)

    def compare(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The mean over sources of the probability that the first answer of a pair is better."""
        columns = [checked(pairs, comparing(source, name).compare, name) for name, source in self.sources]
        return [_mean(row) for row in zip(*columns, strict=True)]

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        """The mean over sources, in their common unit; None where one of them has no score.

        Raises:
            InputError: a source raised an exception, or its scores are malformed; names the source.
        """
        columns = [score_answers(source, answers, name) for name, source in self.sources]
        return [_mean(row) for row in zip(*columns, strict=True)]


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None
