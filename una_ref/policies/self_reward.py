"""The policy as the judge of its own answers (self-rewarding).

There are three scores of an answer:

- `self`: its mean log π per token. This needs no ability to judge: it rewards what the policy already finds likely.
  Iterative DPO on it makes the policy more certain and teaches it nothing new. ToySteer's exact reward can show that.
- `self:WORD`: the mean log π per token of a verdict word after a judging prompt, which has prompt and answer in it.
- `self:GOOD/BAD`: log π(GOOD) − log π(BAD) after such a prompt: the log-odds of a good verdict. A judging prompt that
  makes both words unlikely lowers the second score, but not this one.

A model that cannot judge gives noise. ToySteer's models know no word of English. They have a judging prompt of their
own (`una_ref.data.toysteer.JUDGING`), and learn verdicts from labelled answers.

Yuan et al. 2024, "Self-Rewarding Language Models", https://arxiv.org/abs/2401.10020, reads a score of 0 to 5 from a
sampled judgement; a likelihood has no sampling noise. Their judge is the policy at the start of an iteration. Ours is
the policy as it is at each step.
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

SELF = re.compile(r"self(:(?P<word>[^/]+)(/(?P<other>[^/]+))?)?")
"""The policy as a run's `reward` names it: self, self:WORD with a verdict word, or self:GOOD/BAD with two."""

QUESTION = "{prompt}\n\n{response}\n\nIs the response above correct, helpful and clear? Answer {word} or not {word}: "
"""The judging prompt for one verdict word."""

CHOICE = "{prompt}\n\n{response}\n\nIs the response above correct, helpful and clear? Answer {word} or {other}: "
"""The judging prompt for two verdict words."""

TOKENS = 4096
"""Most tokens in one forward pass."""


@dataclass(frozen=True)
class SelfReward:
    """Scores answers by the policy under training, in nats.

    Attributes:
        word: the verdict word; empty for the mean log π per token of the answer.
        other: the opposite verdict; empty for the mean log π per token of the word alone.
        question: the judging prompt, with the fields prompt, response, word and other; empty: `QUESTION` or `CHOICE`.
        policy, encoder: given by the run, see `bound`.
    """

    word: str = ""
    other: str = ""
    question: str = ""
    policy: Policy | None = None
    encoder: Encoder | None = None

    def __post_init__(self) -> None:
        """Raises InputError if both verdicts are the same word: every answer would score 0."""
        if self.word and self.word == self.other:
            raise InputError(f"reward self: expected two different verdicts, got {self.word!r} twice")

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
        policy, scores = self.policy, list[float]()
        training = policy.training
        policy.eval()
        for some in microbatches(known, TOKENS, policy.layout):
            logps = iter(policy(collate(some, policy.layout).to(policy.device)).tolist())
            scores += [self._score(example, [next(logps) for _ in example.responses]) for example in some]
        policy.train(training)
        given = iter(scores)
        return [None if example is None else next(given) for example in examples]

    def _score(self, example: Example, logps: Sequence[float]) -> float:
        """The score of an answer, from log π of what is scored: a mean per token, or log-odds of whole verdicts."""
        return logps[0] - logps[1] if self.other else logps[0] / len(example.responses[0])

    def _example(self, answer: Answer) -> Example | None:
        """What is scored: the answer after its prompt, or the verdicts after the judging prompt."""
        encoder: Any = self.encoder
        if not self.word:
            example = encoder(Row(answer.prompt, (answer.response,)))
            if example is None or answer.ended or len(example.responses[0]) < 2:
                return example
            return replace(example, responses=(example.responses[0][:-1],))  # a cut response has no EOS
        prompt = answer.prompt if isinstance(answer.prompt, str) else answer.prompt[-1]["content"]
        question = self.question or (CHOICE if self.other else QUESTION)
        asked = question.format(prompt=prompt, response=answer.response, word=self.word, other=self.other)
        example = encoder(Row(asked, (self.word, self.other) if self.other else (self.word,)))
        if example is None or min(map(len, example.responses)) < 2:
            return example
        return replace(example, responses=tuple(ids[:-1] for ids in example.responses))  # the words alone
