"""A world's reward as a reward model has it, beside the true one: what a policy is asked for, and what is wanted.

The reward model is Bradley–Terry's, trained on pairs that the base policy wrote and the true reward judged. It reads
text, like any other. Responses can be listed, so its scores of all of them can be, too: the policy that is best by it
is known, and so is what that policy is truly worth.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from una_ref.cache import cache_folder
from una_ref.data import toysteer
from una_ref.data.batch import Batch, Example, collate
from una_ref.policies.answers import Answer, RewardSource
from una_ref.policies.classifier import Classifier
from una_ref.policies.reward_sources import Truth
from una_ref.policies.scorers import Scorer
from una_ref.studies.toysteer_policies import base_in_world, base_name, response_tree, training_job
from una_ref.theory.worlds import SequenceWorld
from una_ref.training.checkpoints import replacing
from una_ref.training.config import Config
from una_ref.training.loop import fit

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


class ProxyWorld:
    """A world around the base policy, judged by the truth and by a proxy.

    Args:
        world: prompts, responses and true rewards.
        ref_next: (X, N, V) next-token log-probs of the base policy.
        proxy: (X, S) the proxy's reward of every response.
        beta: of both objectives, in reward units.

    Attributes:
        truth, proxy: the exact worlds. The proxy's rewards have mean 0 under the base policy.
        shift: what was added to the proxy's rewards for that.
        win_rates: (X, S) P(r(y) > r(y')) + ½ P(r(y) = r(y')) for y' from the base, by the true reward.
    """

    def __init__(self, world: toysteer.ToySteer, ref_next: torch.Tensor, proxy: torch.Tensor, beta: float) -> None:
        self.world, self.truth = world, world.world(ref_next, beta)
        base = self.truth.ref_logps.exp()
        self.shift = -float((base * proxy).sum(1).mean())
        self.proxy = SequenceWorld(ref_next, proxy + self.shift, beta, length=toysteer.LENGTH)
        self.win_rates = torch.stack([win_rates(r, p) for r, p in zip(self.truth.rewards, base, strict=True)])

    def measure(self, logps: torch.Tensor) -> dict[str, float]:
        """Exact means over prompts for a policy (X, S): regrets and rewards in reward units, KL in nats."""
        true, proxy = self.truth.metrics(logps), self.proxy.metrics(logps)
        return {
            "regret": proxy["regret"],
            "true_regret": true["regret"],
            "reward": true["reward"],
            "proxy_reward": proxy["reward"],
            "kl": true["kl"],
            "win_rate": float((logps.exp() * self.win_rates).sum(1).mean()),
        }


def win_rates(rewards: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """(S,) how often each response is better than one sampled with these probabilities; a tie counts half."""
    # Rewards are sums of a few ratings: those that differ by rounding only are equal.
    _, level = torch.unique((rewards * 1e9).round(), return_inverse=True)
    mass = probabilities.new_zeros(int(level.max()) + 1).index_add(0, level, probabilities)
    return (mass.cumsum(0) - mass / 2)[level]


@cache
def proxy_world(seed: int, reward: str, beta: float, base: Path) -> ProxyWorld:
    """The judge of a seed's policies that were trained on a reward."""
    world, ref_next, _ = base_in_world(seed, base)
    return ProxyWorld(world, ref_next, world.rewards if reward == TRUTH else scores(seed, int(reward), base), beta)


def source(seed: int, reward: str, base: Path) -> RewardSource:
    """What scores the responses in a seed's world, text in and number out."""
    if reward == TRUTH:
        return Truth(base_in_world(seed, base).world)
    return Classifier(str(reward_model(seed, int(reward), base)))


def reward_model(seed: int, pairs: int, base: Path) -> Path:
    """The folder of a seed's reward model, learned from so many pairs; trained the first time, and then cached."""
    parts = f"{base_name(base)} {RECIPE}"
    name = f"study-reward-{hashlib.sha256(parts.encode()).hexdigest()[:16]}-{pairs}-{seed}"
    folder = cache_folder() / name
    if not folder.exists():
        world, _, logps = base_in_world(seed, base)
        rows = world.feedback(world.draw(pairs, logps, seed=seed), "pairs", seed=seed)
        job = training_job(replace(RECIPE, rows=pairs, seed=seed), rows, base)
        fit(job)
        scorer = job.trainer.policy
        assert isinstance(scorer, Scorer)
        scorer.merge()
        beside = folder.with_name(f".{name}.{os.getpid()}")
        scorer.model.save_pretrained(beside)
        job.tokenizer.save_pretrained(beside)
        try:
            beside.rename(folder)
        except OSError:  # another process was faster; its model is the same
            if not folder.exists():
                raise
            shutil.rmtree(beside)
    return folder


@cache
def scores(seed: int, pairs: int, base: Path) -> torch.Tensor:
    """(X, S) a reward model's score of every response in its world; computed the first time, and then cached.

    Responses are packed behind their prompt, a few at a time; the reward model gives the same numbers for their text.
    """
    from safetensors.torch import load_file, save_file

    folder = reward_model(seed, pairs, base)
    file = folder.with_suffix(".scores.safetensors")
    if not file.exists():
        classifier = Classifier(str(folder))
        scorer = Scorer(classifier.model).eval()
        responses = tuple(tuple(token for token in row if token >= 0) for row in response_tree().sequences.tolist())
        prompts = toysteer.encoded_prompts(base_in_world(seed, base).world, classifier.tokenizer)
        with torch.no_grad():
            table = torch.stack([scorer(_packed(tuple(prompt), responses)).double() for prompt in prompts])
        with replacing(file) as beside:
            save_file({"scores": table}, beside)
    return load_file(file)["scores"]


def _packed(prompt: tuple[int, ...], responses: Sequence[tuple[int, ...]], count: int = 32) -> Batch:
    """A prompt with its responses, `count` a row: attention costs the square of a row's length."""
    rows = [Example(prompt, tuple(responses[i : i + count])) for i in range(0, len(responses), count)]
    return collate(rows, include_last_token=True)


def pair_accuracy(proxy: torch.Tensor, world: toysteer.ToySteer, ref: torch.Tensor, pairs: int, seed: int) -> float:
    """How often a proxy (X, S) agrees with the label of a pair, over the `pairs` that `seed` samples; a tie is half.

    Pairs of a response with itself are left out. A reward model's own seed and number give its training pairs.
    """
    samples = world.draw(pairs, ref, seed=seed)
    first = world.verdicts(samples, "pairs", seed=seed)
    x, a, b = samples.unbind(1)
    margin = torch.where(first, proxy[x, a] - proxy[x, b], proxy[x, b] - proxy[x, a])[a != b]
    return float(((margin > 0).double() + (margin == 0).double() / 2).mean())
