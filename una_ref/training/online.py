"""Online: a step's rows are drawn from the policy as it is, scored, and then are rows like any others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from una_ref.data.batch import Example, Question
from una_ref.policies.references import Policy
from una_ref.policies.reward_sources import Answer, RewardSource, checked
from una_ref.policies.rollout import Draw, Engine


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
        seed: the run's; what a step draws is a function of it, the step and the policy.
    """

    engine: Engine
    reward: RewardSource
    name: str
    tokenizer: Any
    draws: int
    max_new: int
    seed: int

    def __call__(
        self, policy: Policy, questions: Sequence[Question], step: int
    ) -> tuple[list[Example], list[list[Draw]]]:
        """Answers to the questions as examples, and the draws they were made of.

        Raises:
            InputError: the reward is not one finite number for each response.
        """
        prompts = [q.prompt for q in questions]
        seed = self.seed * 1_000_003 + step
        drawn = self.engine(policy.model, prompts, k=self.draws, max_new=self.max_new, seed=seed)
        answers = [
            Answer(question.text, self._text(draw), draw.ended)
            for question, draws in zip(questions, drawn, strict=True)
            for draw in draws
        ]
        scores = checked(answers, self.reward(answers), self.name)
        examples = []
        for i, (question, draws) in enumerate(zip(questions, drawn, strict=True)):
            responses = tuple(draw.tokens for draw in draws)
            own = tuple(scores[i * self.draws : (i + 1) * self.draws])
            examples.append(
                Example(question.prompt, responses, own, prompt_index=question.prompt_index, source=question.source)
            )
        return examples, drawn

    def _text(self, draw: Draw) -> str:
        return self.tokenizer.decode(draw.tokens[:-1] if draw.ended else draw.tokens)


def measured(examples: Sequence[Example], drawn: Sequence[Sequence[Draw]], logps: torch.Tensor) -> dict[str, float]:
    """What a rollout is like: mean reward, length and share that ended; and the largest gap, in nats, between the
    sampler's log-probs and `logps` (B,), those of the training forward.
    """
    draws = [draw for some in drawn for draw in some]
    gaps = logps.detach().double().cpu() - torch.tensor([draw.logp for draw in draws], dtype=torch.float64)
    return {
        "reward": statistics.fmean(score for e in examples for score in e.scores or ()),
        "response_length": statistics.fmean(len(draw.tokens) for draw in draws),
        "ended": statistics.fmean(draw.ended for draw in draws),
        "sampler_gap": float(gaps.abs().max()),
    }
