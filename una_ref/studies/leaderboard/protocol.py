"""The leaderboard's protocol in sentences, from its settings, and what its measures are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from una_ref.studies.leaderboard.board_entries import MEAN_LENGTH, PASSES, REPLAY_BATCH, REPLAYED
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_worlds import BASES

ABOUT_MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "regret": "J(π*) − J(π), J = E r − β·KL(π ‖ π_ref), in reward units",
        "reward": "E r under the true reward, in reward units",
        "kl": "KL(π ‖ π_ref), in nats",
        "kl_to_optimum": "KL(π ‖ π*), in nats",
        "entropy": "entropy of the responses to a prompt, in nats",
        "labeller_reward": "E of the reward that the labeller perceives, in reward units",
        "length": "tokens before EOS",
        "trapped": "probability of a response with the trap",
        "tax": "alignment tax: KL(π_ref ‖ π) on prompts that no data touch, in nats",
        "own": "gap to the optimum of the method's own objective, in that objective's unit",
        "best_regret": "regret of the best of four checkpoints of an online run, in reward units",
        "updates": "optimizer updates",
    }
)
"""The measures of a run, all exact and means over prompts."""


def sentences(settings: LeaderboardSettings) -> list[str]:
    """What a sceptical reader asks for, one claim a sentence."""
    s = settings
    scales = ", ".join(f"{scale:g}" for scale in BASES)
    budgets = ", ".join(f"{budget:,}" for budget in s.budgets)
    return [
        f"{len(s.seeds)} worlds, one a seed; every row sees the same worlds.",
        f"A world has {s.prompts} prompts and all responses of up to {s.length} tokens out of {s.vocabulary}.",
        "Rewards depend on neighbouring tokens and have mean 0 and sd 1 over the responses of a prompt.",
        f"The base policy π_ref depends on neighbouring tokens; its logits have an sd of {scales}, in turns by seed.",
        f"The policy is an MLP of width {s.hidden} on the prefix that starts at π_ref.",
        f"All policies are judged by exact regret at β = {s.beta:g}.",
        f"Budgets: {budgets} labels.",
        "One label is a comparison of two responses, a binary label of one, a score of one, or an online reward call.",
        "A response wins with probability σ(r − r'), and a binary label is 1 with probability σ(r).",
        "What a comparison is worth in scores is a convention, so rows are ordered within a kind of feedback.",
        "The demonstrations are the better responses of as many comparisons.",
        f"A score, and an online reward call, is the reward plus N(0, {s.score_noise:g}²).",
        "Lists rank four responses by such scores; scored pairs are two such scores.",
        "Mixed feedback is a third each of comparisons, binary labels and scores.",
        "Offline responses are samples of π_ref, the same for all kinds of feedback.",
        "A larger budget contains the smaller ones.",
        f"Offline runs take {s.steps} optimizer steps of {s.batch} labels.",
        f"A rollout has {s.draws} responses to each of 2 to {s.prompts} prompts: the smaller the budget, the fewer.",
        f"Online runs take at most {s.steps} updates; `updates` in results.json has the number.",
        f"Methods that may reuse samples take up to {PASSES} passes over a rollout, and larger rollouts for it.",
        f"An update of the replay row takes {REPLAY_BATCH} prompts with {s.draws} responses out of all samples so far.",
        f"It may take up to {REPLAYED} updates after a rollout.",
        "Two offline rows have steps as large, of 256 labels, to tell replay from the size of a step.",
        "Passes, responses to a prompt and labels in a step are not tuned.",
        "Rows on a reward model sample as often as they like; their model learns from the budget's comparisons.",
        "That model is Bradley–Terry, linear in pairs of neighbouring tokens: its class contains the true reward.",
        f"Each row's learning rate is one of {', '.join(f'{lr:g}' for lr in s.lrs)}.",
        f"Its β, margins and weights are {s.factors[0]:g} to {s.factors[-1]:g} times their unit, in factors of two.",
        "PPO's and GRPO's clip ranges, GAE's λ, KTO's class weights and a few more keep their defaults.",
        "The unit of β is the world's β, that of the others the method's default.",
        f"Where a method divides its reward by the length, the unit of β is {MEAN_LENGTH:g} times as large.",
        "Where its reward is a win rate, whose slope is at most 1/4, it is a quarter.",
        f"Settings are judged by mean regret on {len(s.tuning_seeds)} other worlds at {s.tuning_budget:,} labels.",
        f"The search starts at {s.first_lr:g} and the units. It moves to the best neighbour until none is better.",
        "They are then frozen for all budgets, worlds and axes.",
        f"{s.second} more prompts have no data: the drift KL(π_ref ‖ π) there is the alignment tax.",
        "Intervals are 95 % t intervals over worlds; those of differences are paired by world.",
        f"A row of exact ascent shows what {s.steps} updates can reach: the same MLP on the exact gradient of J.",
        f"Axes and frontier have up to {s.leaders} rows, {len(s.axis_seeds)} worlds and {s.axis_budget:,} labels.",
    ]
