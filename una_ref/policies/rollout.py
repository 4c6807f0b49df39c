"""Responses sampled from the policy, from the same distribution that training scores.

An `Engine` turns prompts into samples. The built-in one is `generate` of transformers: batched, with a KV cache,
prompts padded on the left, at temperature 1 and without top-k or top-p. It ignores the sampling options of a model's
generation config. Only the suppressed tokens stay suppressed, and the scored distribution leaves them out as well.

A sample carries the log-prob that the sampler gave it. Training computes log-probs again and never uses that number.
The gap between the two is logged: it shows errors of a KV cache, of another kernel, or of a merged adapter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch

from una_ref.errors import InputError
from una_ref.policies.anatomy import parts, suppressed_tokens, unwrapped
from una_ref.policies.layouts import layouts
from una_ref.policies.merging import Merging, merged
from una_ref.policies.references import Policy

MERGE_ABOVE = 16
"""Tokens. Merging an adapter costs about what it saves over this many; shorter responses are sampled unmerged."""

PREFILL_FROM = 32
"""Tokens. A prompt of this length or more is read once for all its samples; for a shorter one, a call costs more."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled response.

    Attributes:
        tokens: its token ids; if the response ended, the last one is EOS or another token that ends it.
        ended: whether it ended, or was cut at its longest.
        logp: log-prob of the whole response by the sampler, in nats.
        reward: its score by the reward source, where that is not what it is trained on.
    """

    tokens: tuple[int, ...]
    ended: bool
    logp: float
    reward: float | None = None


class Engine(Protocol):
    """What samples responses: `HuggingFace` here, `una_ref.policies.vllm.VLLM`, or any callable with this signature."""

    def __call__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int
    ) -> list[list[Sample]]:
        """`k` independent samples for each prompt; the same ones for the same model and seed.

        Args:
            model: the policy, a causal LM under PEFT or not.
            prompts: token ids.
            k: samples of each prompt.
            max_new: most tokens of a response, EOS included.
            seed: of the samples.
        """
        ...


@dataclass
class Sampler(ABC):
    """An engine with a temperature for some or all samples.

    Attributes:
        eos: the token id that ends a response.
        temperature: at any other than 1, samples are not from the scored distribution. Their log-probs are still the
            policy's, at temperature 1. At 0 each token is the most probable one (greedy decoding).
        every: every n-th sample of a prompt uses this temperature; the others use 1.
        other_ends: more ids that end a response, such as that of a turn's end.
    """

    eos: int
    temperature: float = 1.0
    every: int = 1
    other_ends: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids that end a response, EOS first."""
        return (self.eos, *self.other_ends)

    def __call__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int
    ) -> list[list[Sample]]:
        """See `Engine`; the samples at another temperature come last.

        Raises:
            InputError: a prompt leaves no room for a response within the model's positions.
        """
        tempered = k // self.every if self.temperature != 1 else 0
        plain = k - tempered
        samples = self._sample(model, prompts, plain, max_new, seed, 1.0) if plain else [[] for _ in prompts]
        if not tempered:
            return samples
        others = self._sample(model, prompts, tempered, max_new, seed + 500_000_003, self.temperature)
        return [[*first, *last] for first, last in zip(samples, others, strict=True)]

    @abstractmethod
    def _sample(
        self, model: Any, prompts: Sequence[tuple[int, ...]], k: int, max_new: int, seed: int, temperature: float
    ) -> list[list[Sample]]:
        """`k` samples for each prompt, all at one temperature."""


@dataclass
class HuggingFace(Sampler):
    """Samples by `generate` of transformers. See `Sampler` for the other attributes.

    Attributes:
        tokens: most tokens of prompts and responses in one call of `generate`, pads included.
        merge: whether a LoRA adapter is merged while decoding. "auto": if responses may be longer than `MERGE_ABOVE`
            tokens and merging keeps to its tolerance (see `una_ref.policies.merging`). "never": not.
        merging: what the last call did with the adapter, and why.
    """

    tokens: int = 32768
    merge: Literal["auto", "never"] = "auto"
    merging: Merging = field(default=Merging(False, ""), init=False, compare=False)

    def chunks(self, prompts: Sequence[tuple[int, ...]], k: int, max_new: int) -> Iterator[list[int]]:
        """The indices of the prompts in each call of `generate`. Prompts of similar length go together: fewer pads."""
        chunk: list[int] = []
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
            if chunk and (len(chunk) + 1) * k * (len(prompts[i]) + max_new) > self.tokens:
                yield chunk
                chunk = []
            chunk.append(i)
        yield chunk

    def mixed(
        self, policy: Policy, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int, share: float
    ) -> list[list[Sample]]:
        """`k` samples for each prompt from the mixture ∝ π^(1−share)·π_ref^share of every next token.

        The survey's Eq. 58 mixes whole responses. Its normaliser is not known, so the mixture is taken token by token.
        The reference reads the whole sequence again at every token, and the adapter stays unmerged.

        Munos et al. 2023, Sec. 7.2, https://arxiv.org/abs/2312.00886

        Raises:
            InputError: a prompt leaves no room for a response within the model's positions.
        """
        training = policy.training
        policy.eval()  # the reference restores the mode that it finds, in the middle of a response
        try:
            unmerged = replace(self, merge="never")
            return unmerged._sample(policy.model, prompts, k, max_new, seed, 1.0, mixing=_Mixing(policy, share))
        finally:
            policy.train(training)

    @torch.no_grad()
    def _sample(
        self,
        model: Any,
        prompts: Sequence[tuple[int, ...]],
        k: int,
        max_new: int,
        seed: int,
        temperature: float,
        *,
        mixing: _Mixing | None = None,
    ) -> list[list[Sample]]:
        inner = unwrapped(model)  # PEFT's adapters are layers of it, and are active
        positions = getattr(inner.config, "max_position_embeddings", None)
        longest = max(map(len, prompts))
        if positions is not None and longest + max_new > positions:
            raise InputError(
                f"rollout: expected prompt and response within the model's {positions} positions, got a prompt of "
                f"{longest} tokens and responses of up to {max_new}"
            )
        samples: dict[int, list[Sample]] = {}
        merge = self.merge == "auto" and max_new > MERGE_ABOVE
        unmerged = nullcontext(Merging(False, f"decoding unmerged: merge={self.merge}, {max_new} tokens at most"))
        with (
            _sampling(inner, self.ends, max_new, temperature),  # eval mode, so without the adapter's dropout
            _seeded(seed, next(inner.parameters()).device),
            merged(model, prompts) if merge else unmerged as self.merging,
        ):
            for chunk in self.chunks(prompts, k, max_new):
                samples.update(zip(chunk, self._generate(inner, [prompts[i] for i in chunk], k, mixing), strict=True))
        return [samples[i] for i in range(len(prompts))]

    def _generate(
        self, inner: Any, prompts: Sequence[tuple[int, ...]], k: int, mixing: _Mixing | None
    ) -> list[list[Sample]]:
        """`k` samples of each prompt, by one call of `generate`."""
        device = next(inner.parameters()).device
        width = max(map(len, prompts))
        ids = torch.tensor([[self.eos] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        # A packed layout means plain attention, whose cache is keys and values: its rows can be repeated.
        shared = k > 1 and width >= PREFILL_FROM and "packed" in layouts(inner)
        cache = {"past_key_values": _prefill(inner, ids, mask, k)} if shared else {}
        ids, mask = ids.repeat_interleave(k, 0), mask.repeat_interleave(k, 0)
        recorder = _LogProbs()
        processors = [*([replace(mixing, mask=mask)] if mixing else []), recorder]
        out = inner.generate(input_ids=ids, attention_mask=mask, logits_processor=processors, **cache)
        samples, ends = [], {*self.ends}
        for row, terms in zip(out[:, width:].tolist(), recorder.finish(out).tolist(), strict=True):
            length = next((n for n, token in enumerate(row, 1) if token in ends), 0)
            ended, length = bool(length), length or len(row)
            samples.append(Sample(tuple(row[:length]), ended, sum(terms[:length])))
        return [samples[i : i + k] for i in range(0, len(samples), k)]


def _prefill(inner: Any, ids: torch.Tensor, mask: torch.Tensor, k: int) -> Any:
    """The KV cache of the prompts without their last tokens, each `k` times, for `generate` to continue from."""
    from transformers import DynamicCache

    cache = DynamicCache(config=inner.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    options = {"attention_mask": mask[:, :-1], "position_ids": positions[:, :-1]}
    parts(inner)[0](input_ids=ids[:, :-1], past_key_values=cache, use_cache=True, **options)
    cache.batch_repeat_interleave(k)
    return cache


@dataclass(frozen=True)
class _Mixing:
    """A logits processor that mixes the reference's next-token distribution into the policy's.

    Attributes:
        policy: with its reference.
        share: of the reference in the geometric mixture.
        mask: (rows, width) of the prompts, 0 at padding.
    """

    policy: Policy
    share: float
    mask: torch.Tensor | None = None

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        assert self.mask is not None
        mask = torch.nn.functional.pad(self.mask, (0, ids.shape[1] - self.mask.shape[1]), value=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with self.policy.as_reference() as model:
            out = unwrapped(model)(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        own, other = logits.float().log_softmax(-1), out.logits[:, -1].float().log_softmax(-1)
        return torch.where(own == -torch.inf, own, torch.lerp(own, other, self.share))  # suppressed tokens stay so


class _LogProbs:
    """A logits processor that records the log-prob of each sampled token, without keeping the logits.

    `generate` calls it after the processor that suppresses tokens, and before temperature, top-k and top-p. So it
    would not see these three; a test that counts samples holds them to be off.
    """

    def __init__(self) -> None:
        self.logps: torch.Tensor | None = None
        self.terms: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self._record(ids)
        self.logps = logits.float().log_softmax(-1)
        return logits

    def _record(self, ids: torch.Tensor) -> None:
        """The log-prob of the last token in `ids`, which was sampled from the logits of the call before."""
        if self.logps is not None:
            self.terms.append(self.logps.gather(-1, ids[:, -1:]).double())

    def finish(self, ids: torch.Tensor) -> torch.Tensor:
        """(rows, steps) log-probs of the sampled tokens, of which `ids` has the last one."""
        self._record(ids)
        return torch.cat(self.terms, -1)


@contextmanager
def _sampling(inner: Any, ends: tuple[int, ...], max_new: int, temperature: float) -> Iterator[None]:
    """The model in eval mode, with a generation config that samples the scored distribution at a temperature."""
    from transformers import GenerationConfig

    config, training = inner.generation_config, inner.training
    # It replaces the model's config: `generate` fills the gaps of a config that is passed to it from the model's.
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    inner.generation_config = GenerationConfig(
        do_sample=temperature > 0,
        **sampling,
        max_new_tokens=max_new,
        eos_token_id=list(ends),
        pad_token_id=ends[0],  # stands behind the EOS of a response, where nothing is read
        suppress_tokens=suppressed_tokens(inner) or None,
    )
    inner.eval()
    try:
        yield
    finally:
        inner.generation_config = config
        inner.train(training)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's random numbers from `seed`; afterwards the random state is as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
