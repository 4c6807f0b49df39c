"""What is measured of a policy on real text: log-ratios of held-out pairs, samples, their KL divergence, rewards."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from una_ref.cache import cache_folder
from una_ref.data.batch import Example, collate, microbatches
from una_ref.data.rows import Row
from una_ref.methods.arguments import Need
from una_ref.policies.answers import Answer, RewardSource
from una_ref.policies.logprobs import summed
from una_ref.policies.reference_cache import ReferenceCache, fingerprint
from una_ref.policies.references import Policy
from una_ref.policies.rollout import HuggingFace, Sample
from una_ref.studies.real_work import rounded
from una_ref.training.job import Job

CHUNK = 768
"""Tokens in one pass of `kl`, which holds two distributions over the vocabulary for each."""


@torch.no_grad()
def margins(job: Job, rows: Sequence[Row]) -> list[float]:
    """log π/π_ref of the chosen response minus that of the rejected one, in nats, for each pair.

    It is the implicit reward's margin over β, for a method with a reference or without.

    Args:
        job: its policy has adapters; without them it is π_ref.
        rows: of one pair each.
    """
    trainer, encoder = job.trainer, job.encoder
    assert encoder is not None
    if trainer.cache is None:
        trainer.cache = ReferenceCache(cache_folder() / "references", fingerprint(trainer.policy.model, encoder))
    trainer.policy.eval()
    found: list[float] = []
    for micro in trainer.micro_batches(encoder.encode(rows)):
        batch = trainer.batch(micro)
        ratio = trainer.policy(batch).double().cpu() - trainer.reference(micro, batch).double().cpu()
        chosen, rejected = batch.pairs.cpu().T
        found += (ratio[chosen] - ratio[rejected]).tolist()
    return found


def accuracies(margins: Sequence[float]) -> list[float]:
    """1 for a positive margin, 0 for a negative one, ½ for none."""
    return [0.5 if margin == 0 else float(margin > 0) for margin in margins]


def log_losses(margins: Sequence[float]) -> list[float]:
    """−log σ(margin), in nats: how unlikely the labels are if a margin is read as their log-odds.

    It is a proper score. A margin that is larger than the evidence is worth costs more than it gains.
    """
    return [math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0) for margin in margins]


def sample(job: Job, prompts: Sequence[tuple[int, ...]], *, max_new: int, seed: int) -> list[Sample]:
    """One response to each prompt, at temperature 1."""
    engine = HuggingFace(job.tokenizer.eos_token_id)
    return [first for (first,) in engine(job.trainer.policy.model, prompts, k=1, max_new=max_new, seed=seed)]


@torch.no_grad()
def kl(policy: Policy, prompts: Sequence[tuple[int, ...]], samples: Sequence[Sample]) -> list[float]:
    """Σ_t KL(π(·|x, y_<t) ‖ π_ref(·|x, y_<t)) along each sampled response, in nats.

    Over responses sampled from π its mean is KL(π ‖ π_ref) of responses of at most so many tokens, by the chain rule.
    Its variance is lower than that of log π/π_ref, since each token's term is exact.
    """
    policy.eval()
    examples = [Example(tuple(prompt), (one.tokens,)) for prompt, one in zip(prompts, samples, strict=True)]
    found: list[float] = []
    for micro in microbatches(examples, CHUNK, policy.layout):
        batch = collate(micro, policy.layout).to(policy.device)
        own = policy.outputs(batch, frozenset({Need.DISTRIBUTIONS}))["logits"]
        difference = own - policy.reference_distributions(batch)
        terms = torch.where(own == -torch.inf, 0.0, own.exp() * difference).sum(-1)  # a suppressed token adds nothing
        found += summed(terms, batch).tolist()
    return found


def sampled(
    job: Job, rows: Sequence[Row], *, max_new: int, seed: int, trained: bool = True
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One response to each row's prompt: its KL divergence and length, the share that ended; and what is stored of it.

    Args:
        job: with the policy.
        rows: whose prompts are answered.
        max_new: most tokens of a response.
        seed: of the samples.
        trained: whether the policy may differ from π_ref; otherwise its KL divergence is 0.
    """
    assert job.encoder is not None
    prompts = [tuple(job.encoder.prompt_ids(row)) for row in rows]
    samples = sample(job, prompts, max_new=max_new, seed=seed)
    texts = [job.tokenizer.decode(one.tokens, skip_special_tokens=True) for one in samples]
    found = {
        "kl": rounded(kl(job.trainer.policy, prompts, samples) if trained else [0.0] * len(samples)),
        "lengths": [len(one.tokens) for one in samples],
        "ended": statistics.fmean(one.ended for one in samples),
    }
    return found, [{"response": text, "ended": one.ended} for text, one in zip(texts, samples, strict=True)]


def answers(rows: Sequence[Row], stored: Sequence[dict[str, Any]]) -> list[Answer]:
    """Stored responses as answers to the rows' prompts."""
    return [Answer(row.prompt, one["response"], one["ended"]) for row, one in zip(rows, stored, strict=True)]


def judged_pairs(judge: RewardSource, rows: Sequence[Row]) -> list[float]:
    """For each row of one pair, 1 if the judge gives the chosen response more reward, ½ for equal rewards."""
    rewards = iter(judge([Answer(row.prompt, text) for row in rows for text in row.responses]))
    found = []
    for row in rows:
        of = [next(rewards) for _ in row.responses]
        ((chosen, rejected),) = row.pairs or ()
        found.append(float(of[chosen] or 0.0) - float(of[rejected] or 0.0))
    return accuracies(found)
