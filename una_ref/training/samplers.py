"""Sampling: responses of the current policy or its reference, scored by a reward, become rows like any others."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from una_ref.data.batch import Example, Prompt
from una_ref.errors import InputError
from una_ref.methods.method import Keep, Rivals, Source
from una_ref.policies.answers import Answer, RewardSource, score_answers
from una_ref.policies.comparisons import BradleyTerry, checked, comparing
from una_ref.policies.references import Policy
from una_ref.policies.rollout import Engine, Sample, Sampler
from una_ref.training.config import Config
from una_ref.training.metrics import seconds

RIVALS = 250_000_007
"""What is added to the seed of a rollout for the rivals' own random numbers."""


class Unrewarded(RuntimeError):
    """The reward gave a step no usable score. The run stops."""


@dataclass(frozen=True)
class Rollouts:
    """Prompts in, examples with sampled responses and their scores out.

    Attributes:
        engine: samples the responses.
        reward: scores them, as text.
        name: name of the reward, for messages.
        tokenizer: the policy's.
        samples: responses to each prompt.
        max_new: most tokens of a response, EOS included.
        seed: of the run. Samples are a function of seed, step, process and policy.
        missing_eos_penalty: subtracted from the score of a response that did not end, in reward units.
        least: fewest scored responses of a usable prompt: 2 where they are compared with each other.
        source: what the responses are sampled from, the policy or its reference.
        rivals: what the score of a response is its win rate against; none: the score is its reward.
        share: of the reference in the mixture that rivals are sampled from.
        seconds: spent so far in generation and in scoring.
    """

    engine: Engine
    reward: RewardSource
    name: str
    tokenizer: Any
    samples: int
    max_new: int
    seed: int
    missing_eos_penalty: float = 0.0
    least: int = 1
    source: Source = "policy"
    rivals: Rivals = "none"
    share: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __call__(
        self, policy: Policy, prompts: Sequence[Prompt], step: int, process: int = 0
    ) -> tuple[list[Example | None], list[list[Sample]]]:
        """For each prompt its responses as an example, and the samples that the example is made of.

        A response without a score is in neither. A prompt with fewer than `least` scored responses has no example.

        Raises:
            InputError: the reward is not one finite number, or None, for each response.
        """
        device = policy.device
        began = seconds(device)
        seed = self.seed * 1_000_003 + step + process * 1_000_000_007
        ids, options = [p.ids for p in prompts], {"k": self.samples, "max_new": self.max_new}
        with policy.as_reference() if self.source == "reference" else nullcontext(policy.model) as model:
            drawn = self.engine(model, ids, **options, seed=seed)
        answers = self._answers(prompts, drawn)
        rivals: list[Answer] = []
        if self.rivals == "mixture":
            mixed = self.engine.mixed(policy, ids, **options, seed=seed + RIVALS, share=self.share)  # type: ignore[attr-defined]
            rivals = self._answers(prompts, mixed)
        generated = seconds(device)
        known_scores, rewards = self._scores(answers, rivals)
        if rewards:
            at = iter(rewards)
            drawn = [[replace(draw, reward=next(at)) for draw in draws] for draws in drawn]
        scores = iter(known_scores)
        examples: list[Example | None] = []
        kept = []
        for prompt, draws in zip(prompts, drawn, strict=True):
            own = [(draw, score) for draw, score in zip(draws, scores, strict=False) if score is not None]
            kept.append([draw for draw, _ in own])
            if len(own) < self.least:
                examples.append(None)
                continue
            responses = tuple(draw.tokens for draw, _ in own)
            known = tuple(score - (0.0 if draw.ended else self.missing_eos_penalty) for draw, score in own)
            examples.append(
                Example(prompt.ids, responses, known, prompt_index=prompt.prompt_index, source=prompt.source)
            )
        self.seconds["generation"] += generated - began
        self.seconds["scoring"] += seconds(device) - generated
        return examples, kept

    def _answers(self, prompts: Sequence[Prompt], drawn: Sequence[Sequence[Sample]]) -> list[Answer]:
        return [
            Answer(prompt.text, self._text(draw), draw.ended, i, prompt.columns, prompt.source)
            for i, (prompt, draws) in enumerate(zip(prompts, drawn, strict=True))
            for draw in draws
        ]

    def _scores(
        self, answers: Sequence[Answer], rivals: Sequence[Answer]
    ) -> tuple[list[float | None], list[float | None]]:
        """What each answer is trained on, and its reward where that is something else."""
        source, name = self.reward, self.name
        if self.rivals == "none":
            return score_answers(source, answers, name), []
        rewards: list[float | None] = []
        if not getattr(source, "pairwise", False):  # it is asked once, and its rewards are compared
            known = score_answers(source, [*answers, *rivals], name)
            reward_of = {id(a): reward for a, reward in zip([*answers, *rivals], known, strict=True)}
            rewards = known[: len(answers)]
            source = BradleyTerry(lambda some: [reward_of[id(a)] for a in some], name)
        if self.rivals == "mixture":  # each answer has a rival of its own
            return checked(list(zip(answers, rivals, strict=True)), comparing(source, name).compare, name), rewards
        usable = [a for i, a in enumerate(answers) if not rewards or rewards[i] is not None]
        sizes = Counter(a.group for a in usable)
        usable = [a for a in usable if sizes[a.group] > 1 or not rewards]  # a lone one has nothing to win against
        rates = dict(zip(map(id, usable), score_answers(source, usable, name) if usable else [], strict=True))
        return [rates.get(id(a)) for a in answers], rewards

    @property
    def plain(self) -> Rollouts:
        """The sampler that measures the policy: its own responses at temperature 1."""
        at_one = replace(self.engine, temperature=1.0) if isinstance(self.engine, Sampler) else self.engine
        return replace(self, engine=at_one, source="policy")

    def _text(self, draw: Sample) -> str:
        return self.tokenizer.decode(draw.tokens[:-1] if draw.ended else draw.tokens)


def old_logps_of(examples: Sequence[Example]) -> list[float]:
    """log π of every response when it was sampled, in nats; empty where it was not kept."""
    return [sum(line) for e in examples for line in e.experience.get("old_token_logps", ())]


def measured(
    examples: Sequence[Example], drawn: Sequence[Sequence[Sample]], logps: Sequence[float]
) -> dict[str, float]:
    """Mean reward, mean length and share of ended responses; and `sampler_gap`.

    The gap is the largest difference, in nats, between the sampler's log-probabilities and `logps` of the training
    forward pass; without `logps` there is none. Where the responses' scores are win rates over rewards, both have a
    mean: `win_rate` and `reward`.
    """
    draws = [draw for some in drawn for draw in some]
    scores = statistics.fmean(score for e in examples for score in e.scores or ())
    rewards = [draw.reward for draw in draws if draw.reward is not None]
    values = {"reward": statistics.fmean(rewards), "win_rate": scores} if rewards else {"reward": scores}
    values |= {
        "response_length": statistics.fmean(len(draw.tokens) for draw in draws),
        "ended": statistics.fmean(draw.ended for draw in draws),
    }
    if logps:
        values["sampler_gap"] = max(abs(own - draw.logp) for own, draw in zip(logps, draws, strict=True))
    return values


def keeping(examples: Sequence[Example], config: Config, step: int) -> list[Example]:
    """What is trained on of a rollout, as the run's method keeps it (see `kept`)."""
    kind = next(iter(config.losses_by_kind))
    rows = []
    for place, example in enumerate(examples):
        rng = random.Random(f"{config.seed} {step} {place}")
        row = kept(example, config.keep, kind, beta=config.rejection_beta, rng=rng)
        rows += [row] if row else []
    return rows


def most_kept(keep: Keep, samples: int) -> int:
    """How many of a prompt's samples are trained on at most."""
    return {"all": samples, "rejection": max(2, samples // 2)}.get(keep, 2)


def kept(
    example: Example, keep: Keep, kind: str, *, beta: float = 0.5, rng: random.Random | None = None
) -> Example | None:
    """What is trained on of a prompt with sampled and scored responses; None where nothing is left.

    Args:
        example: the responses with their scores.
        keep: all; the best and the worst as a pair, unless all scores are equal; the best as a demonstration; or the
            half that `statistical_rejection` accepts, in pairs of different scores.
        kind: of the feedback that all of them become, scores or lists.
        beta: of the rejection.
        rng: of the rejection.
    """
    if keep == "all":
        return replace(example, as_list=kind == "lists")
    scores = example.scores or ()
    if keep == "rejection":
        accepted = statistical_rejection(scores, beta, most_kept(keep, len(scores)), rng or random.Random(0))
        couples = [sorted(two, key=lambda i: -scores[i]) for two in zip(accepted[::2], accepted[1::2], strict=False)]
        places = [i for two in couples if scores[two[0]] != scores[two[1]] for i in two]
        if not places:
            return None
    else:
        places = [scores.index(end(scores)) for end in ((max,) if keep == "best" else (max, min))]
    if keep == "best_and_worst" and scores[places[0]] == scores[places[1]]:
        return None
    experience = {name: tuple(lines[i] for i in places) for name, lines in example.experience.items()}
    pairs = None if keep == "best" else tuple((i, i + 1) for i in range(0, len(places), 2))
    picked = tuple(example.responses[i] for i in places)
    beside = tuple(scores[i] for i in places) if pairs else None
    return replace(example, responses=picked, scores=beside, pairs=pairs, experience=experience)


def statistical_rejection(
    scores: Sequence[float], beta: float, count: int, rng: random.Random, highest: float | None = None
) -> list[int]:
    """The places of the candidates that rejection sampling accepts, in the order of acceptance (survey Eq. 4).

    A candidate of π_ref with score r is accepted with probability exp((r − r_max)/β), at most 1. If r_max is the
    greatest score of all possible responses, accepted candidates are samples of π* ∝ π_ref·exp(r/β) (ES3). It is not
    known for a language model. RSO takes the greatest among the candidates that are left, and goes round until `count`
    are accepted: high scores are then too rare among the accepted ones.

    Liu et al. 2023, Alg. 1, https://arxiv.org/abs/2309.06657

    Args:
        scores: of the candidates.
        beta: of π*, in the unit of the scores.
        count: how many to accept at most.
        rng: accepts.
        highest: r_max. None: RSO's. If it is given, there is one round.
    """
    accepted: list[int] = []
    left = list(range(len(scores)))
    while left and len(accepted) < count:
        top = max(scores[i] for i in left) if highest is None else highest
        taken = [i for i in left if rng.random() < math.exp(min(0.0, (scores[i] - top) / beta))]
        accepted += taken[: count - len(accepted)]
        if highest is not None:
            break
        left = [i for i in left if i not in taken]
    return accepted


@dataclass
class ReplayBuffer:
    """A replay buffer: the rows of the last rollouts, and which of them each update of a step takes.

    Attributes:
        keep: number of earlier rollouts that stay.
        seed: of the run.
        rollouts: kept rollouts, the latest last.
        batch: rows in an update from kept rollouts; 0: as many as in one from fresh rows alone.
    """

    keep: int
    seed: int
    rollouts: list[list[Example]] = field(default_factory=list)
    batch: int = 0

    def updates(self, fresh: Sequence[Example], step: int, passes: int, minibatches: int) -> Iterator[list[Example]]:
        """The rows of each optimizer step, for `passes` over the fresh rows; nothing if there are none.

        Without kept rollouts, a pass goes once over the fresh rows. Otherwise every optimizer step samples uniformly
        `batch` of kept and fresh rows, or all of them if there are fewer.
        """
        self.rollouts = [*self.rollouts, list(fresh)][-1 - self.keep :]
        rows = [row for rollout in self.rollouts for row in rollout]
        size = math.ceil(len(fresh) / minibatches) or 1
        starts = range(0, len(fresh), size)
        for i in range(passes):
            shuffled = self._order(len(rows), step, i) if minibatches > 1 else list(range(len(rows)))
            for j, start in enumerate(starts):
                kept = self._order(len(rows), step, i * len(starts) + j)[: self.batch or size]
                yield [rows[place] for place in (kept if self.keep else shuffled[start : start + size])]

    def _order(self, rows: int, step: int, draw: int) -> list[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 1009 + draw)
        return torch.randperm(rows, generator=generator).tolist()

    def state(self) -> list[list[dict[str, Any]]]:
        """The rows kept for the next step, ready for JSON."""
        return [[asdict(row) for row in rollout] for rollout in self.rollouts[-self.keep :]] if self.keep else []

    def restore(self, state: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Take over a state."""
        self.rollouts = [[_example(row) for row in rollout] for rollout in state]


def _example(row: dict[str, Any]) -> Example:
    """An example from JSON, with tuples for lists."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    experience = {name: tuples(lines) for name, lines in row.pop("experience").items()}
    return Example(**{name: tuples(value) for name, value in row.items()}, experience=experience)


def adaptive_beta(beta: float, kl: float, target: float, horizon: int, responses: int) -> float:
    """β of the adaptive KL controller after a rollout: larger where its KL is above the target.

    Ziegler et al. 2019, Sec. 2.2, https://arxiv.org/abs/1909.08593
    """
    if not math.isfinite(kl):
        raise InputError(f"kl_target: expected a finite KL of the rollout, got {kl}")
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + error * responses / horizon)
