"""A world's reward as a reward model has it, beside the true one: what is asked of a policy, and what is wanted.

The reward model is Bradley–Terry's, trained on pairs that the base policy wrote and the true reward judged. It reads
text, like any other, and since responses can be listed, so can its scores of all of them: the policy that is best by it
is known, and what that policy is truly worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from una_ref.data import toysteer
from una_ref.data.batch import Batch, Example, collate
from una_ref.evaluation.runs import name_of
from una_ref.policies import loading
from una_ref.policies.answers import Answer, RewardSource
from una_ref.policies.classifier import Classifier
from una_ref.policies.reward_sources import Truth
from una_ref.policies.scorers import Scorer
from una_ref.theory.worlds import PrefixTree, SequenceWorld
from una_ref.training.checkpoints import replacing
from una_ref.training.config import Config
from una_ref.training.run import cache_folder, made_once
from una_ref.training.toysteer_base import reference_logps, toysteer_base

TRUTH = "truth"
"""The reward that is ToySteer's own; another one is the number of pairs that a reward model was trained on, as text."""

RECIPE = Config(
    method="reward-model",
    data="toysteer/pairs",
    held_out=0.0,
    group=False,
    epochs=8.0,
    batch=32,
    lr=3e-3,
    log_every=100,
)
"""How every reward model is trained, whatever the number of its pairs."""


@dataclass(frozen=True)
class Shifted:
    """A reward source with a number added to every score."""

    source: RewardSource
    by: float

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        """In the source's unit; None where it has no answer."""
        return [None if score is None else score + self.by for score in self.source(answers)]


class Judge:
    """A world around the base policy, by the truth and by a proxy.

    Args:
        world: prompts, responses and true rewards.
        ref_next: (X, N, V) the base policy.
        proxy: (X, S) what the proxy says of every response.
        beta: of both objectives, in reward units.

    Attributes:
        truth, proxy: the exact worlds; the proxy's rewards have mean 0 under the base policy.
        shift: what was added to them for it.
        beats: (X, S) P(r(y) > r(y')) + ½ P(r(y) = r(y')) for y' from the base, by the true reward.
    """

    def __init__(self, world: toysteer.ToySteer, ref_next: torch.Tensor, proxy: torch.Tensor, beta: float) -> None:
        self.world, self.truth = world, world.world(ref_next, beta)
        base = self.truth.ref_logps.exp()
        self.shift = -float((base * proxy).sum(1).mean())
        self.proxy = SequenceWorld(ref_next, proxy + self.shift, beta, length=toysteer.LENGTH)
        self.beats = torch.stack([beats(r, p) for r, p in zip(self.truth.rewards, base, strict=True)])

    def measure(self, logps: torch.Tensor) -> dict[str, float]:
        """Exact means over prompts for a policy (X, S): regrets and rewards in reward units, KL in nats."""
        true, proxy = self.truth.metrics(logps), self.proxy.metrics(logps)
        return {
            "regret": proxy["regret"],
            "true_regret": true["regret"],
            "reward": true["reward"],
            "proxy_reward": proxy["reward"],
            "kl": true["kl"],
            "win_rate": float((logps.exp() * self.beats).sum(1).mean()),
        }


def beats(rewards: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """(S,) how often each response is better than one drawn with these probabilities, a tie counted half."""
    # Rewards are sums of a few ratings: those that differ by rounding only are equal.
    _, level = torch.unique((rewards * 1e9).round(), return_inverse=True)
    mass = probabilities.new_zeros(int(level.max()) + 1).index_add(0, level, probabilities)
    return (mass.cumsum(0) - mass / 2)[level]


@cache
def base(seed: int) -> tuple[toysteer.ToySteer, torch.Tensor]:
    """A seed's world and the base policy in it, (X, N, V)."""
    world = toysteer.ToySteer(seed=seed)
    model, _ = loading.load(str(toysteer_base()))
    return world, reference_logps(model, world)


@cache
def judge(seed: int, reward: str, beta: float) -> Judge:
    """The judge of a seed's policies that were trained on a reward."""
    world, ref_next = base(seed)
    return Judge(world, ref_next, world.rewards if reward == TRUTH else scores(seed, int(reward)), beta)


def source(seed: int, reward: str) -> RewardSource:
    """What scores the responses of a seed's world, text in and number out."""
    return Truth(base(seed)[0]) if reward == TRUTH else Classifier(str(reward_model(seed, int(reward))))


def reward_model(seed: int, pairs: int) -> Path:
    """The folder of a seed's reward model, from so many pairs; trained the first time, and then cached."""
    parts = f"{name_of(toysteer_base())} {RECIPE}"
    name = f"toysteer-reward-{hashlib.sha256(parts.encode()).hexdigest()[:16]}-{pairs}-{seed}"
    return made_once(replace(RECIPE, rows=pairs, seed=seed, output=str(cache_folder() / name)), progress=False)


@cache
def scores(seed: int, pairs: int) -> torch.Tensor:
    """(X, S) what a reward model says of every response of its world; computed the first time, and then cached.

    Responses stand packed behind their prompt, a few at a time; the text that a source is given makes the same numbers.
    """
    from safetensors.torch import load_file, save_file

    folder = reward_model(seed, pairs)
    file = folder.with_suffix(".scores.safetensors")
    if not file.exists():
        classifier = Classifier(str(folder))
        scorer = Scorer(classifier.model).eval()
        tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
        responses = tuple(tuple(token for token in row if token >= 0) for row in tree.sequences.tolist())
        prompts = toysteer.encoded_prompts(base(seed)[0], classifier.tokenizer)
        with torch.no_grad():
            table = torch.stack([scorer(_packed(tuple(prompt), responses)).double() for prompt in prompts])
        with replacing(file) as beside:
            save_file({"scores": table}, beside)
    return load_file(file)["scores"]


def _packed(prompt: tuple[int, ...], responses: Sequence[tuple[int, ...]], some: int = 32) -> Batch:
    """A prompt with its responses in rows that are short, since attention costs the square of their length."""
    rows = [Example(prompt, tuple(responses[i : i + some])) for i in range(0, len(responses), some)]
    return collate(rows, whole=True)


def accuracy(proxy: torch.Tensor, world: toysteer.ToySteer, ref: torch.Tensor, pairs: int, seed: int) -> float:
    """How often a proxy (X, S) agrees with the verdict on a pair, over the `pairs` that `seed` draws; a tie is half.

    Pairs of a response with itself are left out. Its own seed and number draw a reward model's training pairs.
    """
    drawn = world.draw(pairs, ref, seed=seed)
    first = world.verdicts(drawn, "pairs", seed=seed)
    x, a, b = drawn.unbind(1)
    margin = torch.where(first, proxy[x, a] - proxy[x, b], proxy[x, b] - proxy[x, a])[a != b]
    return float(((margin > 0).double() + (margin == 0).double() / 2).mean())
