"""Responses drawn from the policy itself, from the very distribution that it is scored by.

An `Engine` turns prompts into draws. The one built in is Hugging Face's `generate`, batched, with a KV cache and
prompts padded on the left, at temperature 1 and with nothing cut off: what a model's generation config says of sampling
is not used, but for the tokens that it suppresses, and those are left out of the scored distribution as well. A draw
carries the log-prob that the sampler gave it. Training never uses that number: log-probs are computed again by the
training forward, and the gap between the two is logged (a KV cache, another kernel, a merged adapter all show in it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

from una_ref.errors import InputError
from una_ref.policies.anatomy import parts, suppressed_tokens, unwrapped
from una_ref.policies.layouts import layouts
from una_ref.policies.merging import Merging, merged

SHORT = 16
"""Tokens: merging costs what it saves over about as many; responses that may not be longer are drawn unmerged."""

READ = 32
"""Tokens: prompts from here on are read once, whatever is drawn of them; shorter ones not, a call costs more."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One response: its token ids (EOS is the last one if it ended), whether it ended, log-prob by the sampler."""

    tokens: tuple[int, ...]
    ended: bool
    logp: float


class Engine(Protocol):
    """What makes responses: transformers' `generate` here, vLLM in `una_ref.policies.vllm`, or what is called alike."""

    def __call__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int
    ) -> list[list[Draw]]:
        """`k` independent draws of at most `max_new` tokens for each prompt; the same for the same seed and model."""
        ...


@dataclass
class Sampler(ABC):
    """An engine with a temperature, of which some or all draws are.

    Attributes:
        eos: the token that ends a response.
        temperature: other than 1, the draws are not from what is scored. (Their log-probs are still the policy's.)
        every: of a prompt's draws, every so-manieth is at that temperature, the others at 1.
    """

    eos: int
    temperature: float = 1.0
    every: int = 1

    def __call__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], *, k: int, max_new: int, seed: int
    ) -> list[list[Draw]]:
        """See `Engine`. Raises InputError for a prompt that leaves no room within the model's positions."""
        other = k // self.every if self.temperature != 1 else 0
        plain = self._drawn(model, prompts, k - other, max_new, seed, 1.0) if other < k else [[] for _ in prompts]
        if not other:
            return plain
        hot = self._drawn(model, prompts, other, max_new, seed + 500_000_003, self.temperature)
        return [[*some, *more] for some, more in zip(plain, hot, strict=True)]

    @abstractmethod
    def _drawn(
        self, model: Any, prompts: Sequence[tuple[int, ...]], k: int, max_new: int, seed: int, temperature: float
    ) -> list[list[Draw]]:
        """`k` draws for each prompt, all at one temperature."""


@dataclass
class HuggingFace(Sampler):
    """`generate` of transformers. See `Sampler` for the other attributes.

    Attributes:
        tokens: most tokens of prompts and responses, pads included, in one call of `generate`.
        merge: whether a LoRA adapter is merged while it decodes: "auto", where that keeps to the tolerance (see
            `una_ref.policies.merging`) and responses may be longer than `SHORT` tokens; or "never".
        merging: what the last call did about the adapter.
    """

    tokens: int = 32768
    merge: Literal["auto", "never"] = "auto"
    merging: Merging = field(default=Merging(False, ""), init=False, compare=False)

    @torch.no_grad()
    def _drawn(
        self, model: Any, prompts: Sequence[tuple[int, ...]], k: int, max_new: int, seed: int, temperature: float
    ) -> list[list[Draw]]:
        inner = unwrapped(model)  # under PEFT the adapters stand in its layers, and act
        positions = getattr(inner.config, "max_position_embeddings", None)
        longest = max(map(len, prompts))
        if positions is not None and longest + max_new > positions:
            raise InputError(
                f"rollout: expected prompt and response within the model's {positions} positions, got a prompt of "
                f"{longest} tokens and responses of up to {max_new}"
            )
        drawn: dict[int, list[Draw]] = {}
        # Prompts of like length together: fewer pads; the order of the answers is that of the prompts.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        merge = self.merge == "auto" and max_new > SHORT
        unmerged = nullcontext(Merging(False, f"decoding unmerged: merge={self.merge}, {max_new} tokens at most"))
        with (
            _sampling(inner, self.eos, max_new, temperature),  # eval mode: an adapter's dropout is off
            _seeded(seed, next(inner.parameters()).device),
            merged(model, prompts) if merge else unmerged as self.merging,
        ):
            for some in self._cut(prompts, order, k, max_new):
                for i, draws in zip(some, self._draw(inner, [prompts[i] for i in some], k), strict=True):
                    drawn[i] = draws
        return [drawn[i] for i in range(len(prompts))]

    def _cut(
        self, prompts: Sequence[tuple[int, ...]], order: Sequence[int], k: int, max_new: int
    ) -> Iterator[list[int]]:
        some: list[int] = []
        for i in order:
            if some and (len(some) + 1) * k * (len(prompts[i]) + max_new) > self.tokens:
                yield some
                some = []
            some.append(i)
        yield some

    def _draw(self, inner: Any, prompts: Sequence[tuple[int, ...]], k: int) -> list[list[Draw]]:
        device = next(inner.parameters()).device
        width = max(map(len, prompts))
        ids = torch.tensor([[self.eos] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        more = {"past_key_values": _read(inner, ids, mask, k)} if k > 1 and width >= READ and _plain(inner) else {}
        ids, mask = ids.repeat_interleave(k, 0), mask.repeat_interleave(k, 0)
        trace = _Trace(width)
        out = inner.generate(input_ids=ids, attention_mask=mask, logits_processor=[trace], **more)
        logps = trace.finish(out)
        draws = []
        for row, terms in zip(out[:, width:].tolist(), logps.tolist(), strict=True):
            ended = self.eos in row
            length = row.index(self.eos) + 1 if ended else len(row)
            draws.append(Draw(tuple(row[:length]), ended, sum(terms[:length])))
        return [draws[i : i + k] for i in range(0, len(draws), k)]


def _plain(inner: Any) -> bool:
    """Whether the cache is keys and values, whose rows can be repeated."""
    return "packed" in layouts(inner)


def _read(inner: Any, ids: torch.Tensor, mask: torch.Tensor, k: int) -> Any:
    """The cache of the prompts without their last tokens, each k times: what `generate` goes on from."""
    from transformers import DynamicCache

    cache = DynamicCache(config=inner.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    seen = {"attention_mask": mask[:, :-1], "position_ids": positions[:, :-1]}
    parts(inner)[0](input_ids=ids[:, :-1], past_key_values=cache, use_cache=True, **seen)
    cache.batch_repeat_interleave(k)
    return cache


class _Trace:
    """Notes each drawn token's log-prob, without keeping the logits.

    `generate` puts it behind what suppresses tokens and before temperature, top-k and top-p, which it would not see:
    that `_sampling` has them off is up to a test that counts draws.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.before: torch.Tensor | None = None
        self.terms: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self._note(ids)
        self.before = logits.float().log_softmax(-1)
        return logits

    def _note(self, ids: torch.Tensor) -> None:
        if self.before is not None:
            self.terms.append(self.before.gather(-1, ids[:, -1:]).double())

    def finish(self, ids: torch.Tensor) -> torch.Tensor:
        """(rows, steps) log-probs of the tokens that follow the prompts in `ids`."""
        self._note(ids)
        return torch.cat(self.terms, -1)


@contextmanager
def _sampling(inner: Any, eos: int, max_new: int, temperature: float) -> Iterator[None]:
    """The model in eval mode, with a generation config that samples from what is scored, at a temperature."""
    from transformers import GenerationConfig

    own, training = inner.generation_config, inner.training
    # Put in the model's place rather than passed along: what is left open in one that is passed comes from the model's.
    inner.generation_config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new,
        eos_token_id=eos,
        pad_token_id=eos,  # behind a response's own EOS, where nothing is read
        suppress_tokens=suppressed_tokens(inner) or None,
    )
    inner.eval()
    try:
        yield
    finally:
        inner.generation_config = own
        inner.train(training)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's random numbers from `seed`, and as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
