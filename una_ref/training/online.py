"""Online: a step's rows are drawn from the policy as it is, scored, and then are rows like any others."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from una_ref.data.batch import Example, Prompt
from una_ref.errors import InputError
from una_ref.policies.references import Policy
from una_ref.policies.reward_sources import Answer, RewardSource, asked
from una_ref.policies.rollout import Draw, Engine, Sampler
from una_ref.training.metrics import seconds


class Unrewarded(RuntimeError):
    """The reward left a step with nothing to learn from: no answer for any response, or no number. The run stops."""


@dataclass(frozen=True)
class Rollouts:
    """Questions in, examples with scores out.

    Attributes:
        engine: draws the responses.
        reward: scores them, as text.
        name: of the reward, for messages.
        tokenizer: the policy's.
        draws: responses to each question.
        max_new: most tokens of a response, EOS included.
        seed: the run's; what a step draws is a function of it, the step, the process and the policy.
        missing_eos_penalty: taken from the score of a response that did not end.
        least: responses without which a prompt is of no use: two, where they are compared with each other.
        seconds: spent so far in generation and in scoring.
    """

    engine: Engine
    reward: RewardSource
    name: str
    tokenizer: Any
    draws: int
    max_new: int
    seed: int
    missing_eos_penalty: float = 0.0
    least: int = 1
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __call__(
        self, policy: Policy, questions: Sequence[Prompt], step: int, process: int = 0
    ) -> tuple[list[Example | None], list[list[Draw]]]:
        """For each question its answers as an example, and the draws that it was made of.

        What the reward has no answer for is in neither; a question left with fewer than `least` has no example.

        Raises:
            InputError: the reward is not one finite number, or None, for each response.
        """
        device = policy.device
        began = seconds(device)
        prompts = [q.ids for q in questions]
        seed = self.seed * 1_000_003 + step + process * 1_000_000_007
        drawn = self.engine(policy.model, prompts, k=self.draws, max_new=self.max_new, seed=seed)
        answers = [
            Answer(question.text, self._text(draw), draw.ended, group=i)
            for i, (question, draws) in enumerate(zip(questions, drawn, strict=True))
            for draw in draws
        ]
        generated = seconds(device)
        scores = iter(asked(self.reward, answers, self.name))
        examples: list[Example | None] = []
        kept = []
        for question, draws in zip(questions, drawn, strict=True):
            own = [(draw, score) for draw, score in zip(draws, scores, strict=False) if score is not None]
            kept.append([draw for draw, _ in own])
            if len(own) < self.least:
                examples.append(None)
                continue
            responses = tuple(draw.tokens for draw, _ in own)
            known = tuple(score - (0.0 if draw.ended else self.missing_eos_penalty) for draw, score in own)
            examples.append(
                Example(question.ids, responses, known, prompt_index=question.prompt_index, source=question.source)
            )
        self.seconds["generation"] += generated - began
        self.seconds["scoring"] += seconds(device) - generated
        return examples, kept

    @property
    def plain(self) -> Rollouts:
        """The same at temperature 1."""
        at_one = replace(self.engine, temperature=1.0) if isinstance(self.engine, Sampler) else self.engine
        return replace(self, engine=at_one)

    def _text(self, draw: Draw) -> str:
        return self.tokenizer.decode(draw.tokens[:-1] if draw.ended else draw.tokens)


def remembered(examples: Sequence[Example]) -> list[float]:
    """log π of every response as it was when they were drawn; nothing where that was not kept."""
    return [sum(line) for e in examples for line in e.experience.get("old_token_logps", ())]


def measured(examples: Sequence[Example], drawn: Sequence[Sequence[Draw]], logps: Sequence[float]) -> dict[str, float]:
    """What a rollout is like: mean reward, length and share that ended; and the largest gap, in nats, between the
    sampler's log-probs and `logps`, those of the training forward.
    """
    draws = [draw for some in drawn for draw in some]
    return {
        "reward": statistics.fmean(score for e in examples for score in e.scores or ()),
        "response_length": statistics.fmean(len(draw.tokens) for draw in draws),
        "ended": statistics.fmean(draw.ended for draw in draws),
        "sampler_gap": max(abs(own - draw.logp) for own, draw in zip(logps, draws, strict=True)),
    }


def best_and_worst(example: Example) -> Example | None:
    """The best and the worst response of an example with scores as a pair; None where all scores are equal."""
    scores = example.scores or ()
    best, worst = (scores.index(end(scores)) for end in (max, min))
    if scores[best] == scores[worst]:
        return None
    responses = (example.responses[best], example.responses[worst])
    return replace(example, responses=responses, scores=None, pairs=((0, 1),))


@dataclass
class Pool:
    """The rows of the last rollouts, as far as they are kept, and what the updates of a step take of them.

    Attributes:
        keep: earlier rollouts that stay.
        seed: the run's.
        rollouts: those that are kept, the latest last.
    """

    keep: int
    seed: int
    rollouts: list[list[Example]] = field(default_factory=list)

    def updates(self, fresh: Sequence[Example], step: int, passes: int, minibatches: int) -> Iterator[list[Example]]:
        """The rows of each optimizer step, as many as make `passes` over the fresh ones; none if nothing is fresh.

        Nothing kept: a pass goes once over the fresh rows. Otherwise every optimizer step draws from what is kept and
        what is fresh, all alike.
        """
        self.rollouts = [*self.rollouts, list(fresh)][-1 - self.keep :]
        rows = [row for rollout in self.rollouts for row in rollout]
        size = math.ceil(len(fresh) / minibatches) or 1
        starts = range(0, len(fresh), size)
        for i in range(passes):
            shuffled = self._order(len(rows), step, i) if minibatches > 1 else list(range(len(rows)))
            for j, start in enumerate(starts):
                kept = self._order(len(rows), step, i * len(starts) + j)[:size]
                yield [rows[place] for place in (kept if self.keep else shuffled[start : start + size])]

    def _order(self, rows: int, step: int, draw: int) -> list[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 1009 + draw)
        return torch.randperm(rows, generator=generator).tolist()

    def state(self) -> list[list[dict[str, Any]]]:
        """What is kept for the next step, ready for JSON."""
        return [[asdict(row) for row in rollout] for rollout in self.rollouts[-self.keep :]] if self.keep else []

    def restore(self, state: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Keep what `state` had."""
        self.rollouts = [[_example(row) for row in rollout] for rollout in state]


def _example(row: dict[str, Any]) -> Example:
    """An example from JSON, whose lists are tuples."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    lived = {name: tuples(lines) for name, lines in row.pop("experience").items()}
    return Example(**{name: tuples(value) for name, value in row.items()}, experience=lived)


def steered(beta: float, kl: float, target: float, horizon: int, responses: int) -> float:
    """β after a rollout of that KL: up where it is above the target, down below (Ziegler et al. 2019, Eq. 4)."""
    if not math.isfinite(kl):
        raise InputError(f"kl_target: expected a finite KL of the rollout to steer by, got {kl}")
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + error * responses / horizon)
