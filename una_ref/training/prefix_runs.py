"""Runs of a `PrefixLM` on a sequence world, offline and online, through the same loop as a 7B model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from una_ref.data.batch import Example, Prompt
from una_ref.methods.arguments import Need, needs
from una_ref.policies.answers import Answer, RewardSource
from una_ref.policies.critics import Critic, copy_core
from una_ref.policies.prefix_lm import PrefixLM, PrefixSampler
from una_ref.policies.references import Policy
from una_ref.theory.prefix_tree import EOS
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.losses import Losses
from una_ref.training.samplers import Rollouts
from una_ref.training.table_runs import Numbers
from una_ref.training.trainer import Trainer


def prefix_job(
    model: PrefixLM,
    config: Config,
    *,
    examples: Sequence[Example] = (),
    reward: RewardSource | None = None,
    prompts: int,
    length: int,
    losses: Losses | None = None,
    reference: PrefixLM | None = None,
    value_start: float = 0.0,
) -> Job:
    """A run that starts from `model`, ready to `fit` or to `step`.

    Args:
        model: the policy, at π_ref.
        config: of the run; β is the config's, not the world's.
        examples: the rows of an offline run.
        reward: scores the sampled responses of an online run, text in and number out.
        prompts: numbers 0 … prompts − 1 are the prompts of an online run, and have a V(x) where one is learned.
        length: most tokens of a response, EOS included.
        losses: by kind of feedback, in place of those of the config's method.
        reference: π_ref in the place of a copy of `model`: the same policy, with a smaller MLP that costs less. A
            reference that moves is a copy all the same.
        value_start: start value of a learned V(x), in reward units.
    """
    losses = config.losses_by_kind if losses is None else losses
    asked = needs(losses.values())
    critic = None
    if Need.CRITIC in asked:
        critic = Critic(model, copy_core(model) if config.critic == "separate" else None)
    second = None if config.refresh else reference
    policy = Policy(model, has_reference=True, critic=critic, second=second, moves=bool(config.refresh))
    trainer = Trainer(policy, losses, config, prompts=prompts, value_start=value_start)
    if reward is None:
        return Job(config, trainer, examples, [], tokenizer=Numbers())
    rows = [Prompt((x,), str(x), x, f"prompt {x}") for x in range(prompts)]
    compared = config.keep in ("best_and_worst", "rejection") or config.rivals == "samples" or trainer.compares_group
    where: dict[str, Any] = {"source": config.source, "rivals": config.rivals, "share": config.mixture}
    rollouts = Rollouts(
        *(PrefixSampler(), reward, "the world", Numbers(), config.samples_per_prompt, length, config.seed),
        least=2 if compared else 1,
        **where,
    )
    return Job(config, trainer, rows, [], tokenizer=Numbers(), rollouts=rollouts)


def looked_up(rewards: Tensor, columns: Mapping[tuple[int, ...], int]) -> RewardSource:
    """A reward source that reads a table.

    Args:
        rewards: (X, S) the reward of every response.
        columns: the column of each sequence, EOS included where it ended.
    """

    def reward(answers: Sequence[Answer]) -> list[float]:
        tokens = (tuple(map(int, answer.response.split())) for answer in answers)
        places = [columns[(*ids, EOS) if answer.ended else ids] for ids, answer in zip(tokens, answers, strict=True)]
        return rewards[[int(str(answer.prompt)) for answer in answers], places].tolist()

    return reward
