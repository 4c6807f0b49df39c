"""The floor of an update: the FLOPs that it needs, and the seconds that they take at measured rates.

Only matrix products count. The rules:

- A prompt is computed once for all its responses, and there are no pads.
- Attention is over the pairs of tokens of which one sees the other; the head is at response tokens only.
- LoRA's weights get gradients, frozen weights only pass them on: a backward pass costs about as much as a forward pass.
- Nothing is recomputed.
- Decoding is with the adapter merged. Each of its steps reads the weights and the cache once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Work:
    """What goes through a model.

    Attributes:
        tokens: their number.
        pairs: of tokens, of which one sees the other.
        read: tokens at which the head is computed.
    """

    tokens: int
    pairs: int
    read: int


def work(prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> Work:
    """The work of scoring. The last token of a response is predicted, never an input.

    Args:
        prompts: their lengths.
        responses: the lengths of each prompt's responses.
    """
    grouped = list(zip(prompts, responses, strict=True))
    pairs = sum(_causal(p) + sum((n - 1) * p + _causal(n - 1) for n in lengths) for p, lengths in grouped)
    inputs = sum(p + sum(n - 1 for n in lengths) for p, lengths in grouped)
    return Work(inputs, pairs, sum(map(sum, responses)))


def _causal(n: int) -> int:
    """Pairs of n tokens under a causal mask."""
    return n * (n + 1) // 2


@dataclass(frozen=True)
class Shape:
    """A Mistral with LoRA of rank `r` on all linear layers but the head; its weights have `width` bytes a number."""

    layers: int
    hidden: int
    inter: int
    heads: int
    kv_heads: int
    vocabulary: int
    r: int = 32
    width: int = 4

    @property
    def _kv(self) -> int:
        return self.kv_heads * self.hidden // self.heads

    @property
    def layer(self) -> int:
        """Weights in a layer's matrices: q and o, k and v, and the three of the MLP."""
        return 2 * self.hidden**2 + 2 * self.hidden * self._kv + 3 * self.hidden * self.inter

    @property
    def adapter(self) -> int:
        """Weights in a layer's LoRA matrices."""
        return self.r * (4 * self.hidden + 2 * (self.hidden + self._kv) + 3 * (self.hidden + self.inter))

    @property
    def head(self) -> int:
        """Weights in the head."""
        return self.hidden * self.vocabulary

    def forward(self, work: Work, *, adapter: bool = True, head: bool = True) -> int:
        """FLOPs of a forward pass."""
        each = self.layer + (self.adapter if adapter else 0)
        attention = 4 * work.pairs * self.hidden  # QKᵀ and the weighted sum of V
        return self.layers * (2 * work.tokens * each + attention) + (2 * work.read * self.head if head else 0)

    def backward(self, work: Work, *, head: bool = True) -> int:
        """FLOPs of the backward pass: through all layers to their inputs, and to LoRA's weights.

        The input of the first layer is frozen, so its q, k and v (and their adapters) pass no gradient on.
        """
        each = 2 * self.layer + 4 * self.adapter
        skipped = 2 * (self.hidden**2 + 2 * self.hidden * self._kv) + 2 * self.r * 3 * self.hidden
        attention = 8 * work.pairs * self.hidden
        passed = self.layers * (work.tokens * each + attention) - work.tokens * skipped
        return passed + (2 * work.read * self.head if head else 0)

    def decode(self, prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> tuple[int, int]:
        """(FLOPs, bytes) of sampling every token after the first, for all responses together."""
        weights, flops, size = self.layers * self.layer + self.head, 0, 0
        for t in range(1, max(map(max, responses))):
            seen = [p + t for p, lengths in zip(prompts, responses, strict=True) for n in lengths if n > t]
            flops += self.forward(Work(len(seen), sum(seen), len(seen)), adapter=False)
            size += self.width * (weights + 2 * self.layers * self._kv * sum(seen))
        return flops, size


def offline(shape: Shape, prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> dict[str, tuple[int, int]]:
    """(FLOPs, bytes) of one update on given responses, with the reference's log-probs known.

    The last layer counts only where it is read: no query, output or MLP for a prompt's positions before its last.
    """
    scoring = work(prompts, responses)
    unread = sum(p - 1 for p in prompts)
    kept, kept_lora = 2 * shape.hidden * shape._kv, shape.r * 2 * (shape.hidden + shape._kv)  # k and v
    weights, lora = shape.layer - kept, shape.adapter - kept_lora
    pairs = sum(_causal(p - 1) for p in prompts)
    saved = unread * 2 * (weights + lora) + 4 * pairs * shape.hidden
    saved_back = unread * (2 * weights + 4 * lora) + 8 * pairs * shape.hidden
    return {"forward": (shape.forward(scoring) - saved, 0), "backward": (shape.backward(scoring) - saved_back, 0)}


def update(
    shape: Shape, prompts: Sequence[int], responses: Sequence[Sequence[int]], *, passes: int = 1, ppo: bool = False
) -> dict[str, tuple[int, int]]:
    """(FLOPs, bytes) of an online update by part; bytes only where memory can be the limit.

    The reward model has the policy's shape and no adapter. UNA computes the reference once and, in each pass, the
    policy forward and backward. PPO adds a critic with the policy's shape. Before the first pass it computes log-probs
    and values; in each pass it trains both. The last layer counts in full: what `offline` saves there is about a tenth.
    """
    scoring, opening = work(prompts, responses), Work(sum(prompts), sum(map(_causal, prompts)), len(prompts))
    pairs = work(prompts, [[n + 1 for n in lengths] for lengths in responses]).pairs
    with_last = Work(scoring.tokens + sum(map(len, responses)), pairs, 0)  # a reward model reads the last token too
    policy, critic = shape.forward(scoring), shape.forward(scoring, head=False) if ppo else 0
    trained = policy + shape.backward(scoring) + (critic + shape.backward(scoring, head=False) if ppo else 0)
    return {
        "prefill": (shape.forward(opening, adapter=False), 0),
        "decode": shape.decode(prompts, responses),
        "reward": (shape.forward(with_last, adapter=False, head=False), 0),
        "reference": (shape.forward(scoring, adapter=False), 0),
        "experience": (policy + critic if ppo else 0, 0),
        "passes": (passes * trained, 0),
    }


def seconds(parts: dict[str, tuple[int, int]], rates: dict[str, float]) -> float:
    """Seconds of an update at `flops` and `bytes` per second. Each part takes the longer of its two times."""
    return sum(max(flops / rates["flops"], size / rates["bytes"]) for flops, size in parts.values())


def rates(device: str, dtype: str) -> dict[str, float]:
    """`flops` and `bytes` per second of a large matrix product and a large copy: medians over two seconds of each.

    On a CPU, seconds are the processor's. The rates are measured right beside the update, since other load on the
    machine slows both alike. `best_flops` is the rate of the fastest product.
    """
    import torch

    cuda = device == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    wait = torch.cuda.synchronize if cuda else (lambda: None)

    def times(run: Callable[[], object]) -> list[float]:
        run()
        seconds, until = [], time.perf_counter() + 2
        while time.perf_counter() < until:
            wait()
            began = clock()
            run()
            wait()
            seconds.append(clock() - began)
        return seconds

    n = 8192 if cuda else 1536
    a, b = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    product = torch.empty_like(a)
    x = torch.ones(2**28 if cuda else 2**25, device=device)
    y = torch.empty_like(x)
    products = times(lambda: torch.mm(a, b, out=product))
    copies = times(lambda: y.copy_(x))
    flops = 2 * n**3
    return {
        "flops": flops / median(products),
        "bytes": 2 * x.nbytes / median(copies),
        "best_flops": flops / min(products),
    }
