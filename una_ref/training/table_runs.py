"""Online runs on a table world, through the same loop as a 7B model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from una_ref.data.batch import Prompt
from una_ref.methods.arguments import Need, needs
from una_ref.policies.answers import Answer
from una_ref.policies.comparisons import Compare, Preference
from una_ref.policies.critics import Critic, copy_core
from una_ref.policies.loading import TableLM
from una_ref.policies.references import Policy
from una_ref.policies.rollout import Sample
from una_ref.theory.games import mixture_logps
from una_ref.theory.worlds import TableWorld
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.samplers import Rollouts
from una_ref.training.trainer import Trainer


class Numbers:
    """A tokenizer for tables: a prompt or a response is one token, written as its number."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The tokens' numbers."""
        return " ".join(map(str, tokens))


@dataclass(frozen=True)
class Multinomial:
    """An `Engine` that samples from a `TableLM`: a response is one token and has no end-of-sequence token."""

    @torch.no_grad()
    def __call__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int
    ) -> list[list[Sample]]:
        """See `Engine`."""
        return self._sampled(model.logps[[x for (x,) in prompts]], k, seed)

    @torch.no_grad()
    def mixed(
        self, policy: Policy, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int, share: float
    ) -> list[list[Sample]]:
        """Samples of the geometric mixture of π and π_ref, as `HuggingFace.mixed`; with one token it is exact."""
        with policy.as_reference() as reference:
            logps = mixture_logps(policy.model.logps, reference.logps, share)
        return self._sampled(logps[[x for (x,) in prompts]], k, seed)

    def _sampled(self, logps: Tensor, k: int, seed: int) -> list[list[Sample]]:
        generator = torch.Generator().manual_seed(seed)
        drawn = logps.exp().multinomial(k, replacement=True, generator=generator)
        terms = logps.gather(1, drawn).tolist()
        # ended=False: the only token is text, not an end-of-sequence token.
        return [
            [Sample((y,), False, u) for y, u in zip(*line, strict=True)]
            for line in zip(drawn.tolist(), terms, strict=True)
        ]


def table_job(
    world: TableWorld, config: Config, *, rewards: Tensor | None = None, preferences: Tensor | None = None
) -> Job:
    """An online run on a table, ready to `fit`. It starts at π_ref, and its data are all prompts of the table.

    Args:
        world: the prompts, π_ref and the rewards.
        config: of an online method; β is the config's, not the world's.
        rewards: (X, Y) rewards of the run, in place of the world's.
        preferences: (X, Y, Y) probability that the first response beats the second, in place of rewards.
    """
    told = world.rewards if rewards is None else rewards
    model = TableLM(world.ref_logps)
    values = Need.CRITIC in needs(config.losses_by_kind.values())
    critic = Critic(model, copy_core(model) if config.critic == "separate" else None) if values else None
    policy = Policy(model, has_reference=config.needs_reference, critic=critic)
    trainer = Trainer(policy, config.losses_by_kind, config, prompts=len(told))
    prompts = [Prompt((x,), str(x), x, f"prompt {x}") for x in range(len(told))]
    reward = _lookup(told) if preferences is None else Preference("the table", _lookup_pairs(preferences))
    where: dict[str, Any] = {"source": config.source, "rivals": config.rivals, "share": config.mixture}
    rollouts = Rollouts(
        Multinomial(), reward, "the table", Numbers(), config.samples_per_prompt, 1, config.seed, **where
    )
    return Job(config, trainer, prompts, [], tokenizer=Numbers(), rollouts=rollouts)


def _lookup(rewards: Tensor) -> Callable[[Sequence[Answer]], list[float]]:
    return lambda answers: rewards[[int(str(a.prompt)) for a in answers], [int(a.response) for a in answers]].tolist()


def _lookup_pairs(preferences: Tensor) -> Compare:
    def compare(pairs: Sequence[tuple[Answer, Answer]]) -> list[float]:
        places = [(int(str(first.prompt)), int(first.response), int(second.response)) for first, second in pairs]
        return [float(preferences[place]) for place in places]

    return compare
