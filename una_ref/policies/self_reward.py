"""The policy as the judge of its own answers (self-rewarding).

Without a verdict word the score of an answer is its mean log π per token. That asks for no ability to judge: it rewards
what the policy already finds likely. Iterative DPO on it makes the policy more certain and teaches it nothing new.
ToySteer's exact reward can show that.

With a verdict word the score is the mean log π per token of the word after a judging prompt. That prompt contains
prompt and answer, and asks whether the answer is good. A model that cannot judge gives noise. ToySteer's model knows no
word of the question.

Yuan et al. 2024, "Self-Rewarding Language Models", https://arxiv.org/abs/2401.10020, reads a score of 0 to 5 from a
sampled judgement; the likelihood of one word has no sampling noise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from una_ref.data.batch import Example, collate, microbatches
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.policies.answers import Answer
from una_ref.policies.references import Policy

SELF = re.compile(r"self(:(?P<word>.+))?")
"""The policy as a run's `reward` names it: self, or self:WORD with a verdict word."""

QUESTION = "{prompt}\n\n{response}\n\nIs the response above correct, helpful and clear? Answer {word} or not {word}: "
"""The judging prompt."""

TOKENS = 4096
"""Most tokens in one forward pass."""


@dataclass(frozen=True)
class SelfReward:
    """Scores answers by the policy under training, in nats.

    Attributes:
        word: the verdict word; empty for the mean log π per token of the answer.
        question: the judging prompt, with the fields prompt, response and word.
        policy, encoder: given by the run, see `bound`.
    """

    word: str = ""
    question: str = QUESTION
    policy: Policy | None = None
    encoder: Encoder | None = None

    def bound(self, policy: Policy, encoder: Encoder) -> SelfReward:
        """The same judge for a run's policy, which it follows as it is trained."""
        return replace(self, policy=policy, encoder=encoder)

    @torch.no_grad()
    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        """(B,) log-likelihoods in nats; None for an answer that does not fit the model's positions.

        Raises:
            InputError: there is no policy: only a training run has one.
        """
        if self.policy is None or self.encoder is None:
            raise InputError("reward self: expected a policy under training, got none; use it with `una-ref train`")
        examples = [self._example(answer) for answer in answers]
        known = [example for example in examples if example is not None]
        policy, scores = self.policy, []
        training = policy.training
        policy.eval()
        for some in microbatches(known, TOKENS, policy.layout):
            logps = policy(collate(some, policy.layout).to(policy.device)).tolist()
            scores += [logp / len(example.responses[0]) for logp, example in zip(logps, some, strict=True)]
        policy.train(training)
        given = iter(scores)
        return [None if example is None else next(given) for example in examples]

    def _example(self, answer: Answer) -> Example | None:
        """What is scored: the answer after its prompt, or the verdict word after the judging prompt."""
        encoder: Any = self.encoder
        if not self.word:
            example = encoder(Row(answer.prompt, (answer.response,)))
            if example is None or answer.ended or len(example.responses[0]) < 2:
                return example
            return replace(example, responses=(example.responses[0][:-1],))  # a cut response has no EOS
        prompt = answer.prompt if isinstance(answer.prompt, str) else answer.prompt[-1]["content"]
        asked = self.question.format(prompt=prompt, response=answer.response, word=self.word)
        example = encoder(Row(asked, (self.word,)))
        if example is None or len(example.responses[0]) < 2:
            return example
        return replace(example, responses=(example.responses[0][:-1],))  # the word alone
