"""What an update has to compute: its FLOPs, and the seconds that they take at rates measured in the same run.

Counted are matrix products. Each prompt stands once before its responses and there are no pads; attention is over the
pairs of tokens that see each other; the head is at response tokens only; LoRA's weights have gradients and the frozen
ones only pass them on, so that a backward pass costs about as much as a forward pass; nothing is recomputed. Decoding
is with the adapter merged, and each step of it reads the weights and the cache once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Work:
    """Tokens that go through a model, pairs of them that see each other, and how many are read by the head."""

    tokens: int
    pairs: int
    read: int


def work(prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> Work:
    """Of scoring: lengths of prompts and of the responses to each. A response's last token is read, never fed."""
    pairs = sum(_causal(p) + sum((n - 1) * p + _causal(n - 1) for n in own) for p, own in _zipped(prompts, responses))
    fed = sum(p + sum(n - 1 for n in own) for p, own in _zipped(prompts, responses))
    return Work(fed, pairs, sum(map(sum, responses)))


def _zipped(prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> list[tuple[int, Sequence[int]]]:
    return list(zip(prompts, responses, strict=True))


def _causal(n: int) -> int:
    return n * (n + 1) // 2


@dataclass(frozen=True)
class Shape:
    """A Mistral with LoRA of rank r on all its linear layers but the head; weights of so many bytes a number."""

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
        """Numbers in a layer's matrices: q and o, k and v, and the three of the MLP."""
        return 2 * self.hidden**2 + 2 * self.hidden * self._kv + 3 * self.hidden * self.inter

    @property
    def adapter(self) -> int:
        """Numbers in a layer's LoRA matrices."""
        return self.r * (4 * self.hidden + 2 * (self.hidden + self._kv) + 3 * (self.hidden + self.inter))

    @property
    def head(self) -> int:
        """Numbers in the head."""
        return self.hidden * self.vocabulary

    def forward(self, work: Work, *, adapter: bool = True, head: bool = True) -> int:
        """FLOPs of a forward pass."""
        each = self.layer + (self.adapter if adapter else 0)
        attention = 4 * work.pairs * self.hidden  # QKᵀ and the weighted sum of V
        return self.layers * (2 * work.tokens * each + attention) + (2 * work.read * self.head if head else 0)

    def backward(self, work: Work, *, head: bool = True) -> int:
        """FLOPs of the backward pass: to the inputs through all, and to the weights of LoRA.

        What goes into the first layer is frozen: no gradient goes there through q, k and v and their adapters.
        """
        each = 2 * self.layer + 4 * self.adapter
        unasked = 2 * (self.hidden**2 + 2 * self.hidden * self._kv) + 2 * self.r * 3 * self.hidden
        attention = 8 * work.pairs * self.hidden
        passed = self.layers * (work.tokens * each + attention) - work.tokens * unasked
        return passed + (2 * work.read * self.head if head else 0)

    def decode(self, prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> tuple[int, int]:
        """(FLOPs, bytes) of drawing every token after the first, for all responses together."""
        weights, flops, size = self.layers * self.layer + self.head, 0, 0
        for t in range(1, max(map(max, responses))):
            seen = [p + t for p, own in _zipped(prompts, responses) for n in own if n > t]
            flops += self.forward(Work(len(seen), sum(seen), len(seen)), adapter=False)
            size += self.width * (weights + 2 * self.layers * self._kv * sum(seen))
        return flops, size


def offline(shape: Shape, prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> dict[str, tuple[int, int]]:
    """(FLOPs, bytes) of one update on responses that are given, the reference's log-probs known.

    Of the last layer only what is read: no query, output or MLP for the positions of a prompt before its last.
    """
    own = work(prompts, responses)
    unread = sum(p - 1 for p in prompts)
    kept, kept_lora = 2 * shape.hidden * shape._kv, shape.r * 2 * (shape.hidden + shape._kv)  # k and v
    weights, lora = shape.layer - kept, shape.adapter - kept_lora
    pairs = sum(_causal(p - 1) for p in prompts)
    spared = unread * 2 * (weights + lora) + 4 * pairs * shape.hidden
    spared_back = unread * (2 * weights + 4 * lora) + 8 * pairs * shape.hidden
    return {"forward": (shape.forward(own) - spared, 0), "backward": (shape.backward(own) - spared_back, 0)}


def update(
    shape: Shape, prompts: Sequence[int], responses: Sequence[Sequence[int]], *, passes: int = 1, ppo: bool = False
) -> dict[str, tuple[int, int]]:
    """(FLOPs, bytes) of an online update by part; bytes only where they can be what it waits for.

    The reward model has the policy's shape and no adapter. UNA: a reference pass and, in each of the passes, the policy
    forward and backward. PPO has a critic, a transformer of the policy's shape, which goes with it: before the first
    pass, log-probs and values are taken down, and in each pass both are trained. The last layer counts whole: what
    `offline` spares there would be about a tenth.
    """
    own, opening = work(prompts, responses), Work(sum(prompts), sum(map(_causal, prompts)), len(prompts))
    whole = Work(own.tokens + sum(map(len, responses)), work(prompts, [[n + 1 for n in r] for r in responses]).pairs, 0)
    policy, critic = shape.forward(own), shape.forward(own, head=False) if ppo else 0
    trained = policy + shape.backward(own) + (critic + shape.backward(own, head=False) if ppo else 0)
    return {
        "prefill": (shape.forward(opening, adapter=False), 0),
        "decode": shape.decode(prompts, responses),
        "reward": (shape.forward(whole, adapter=False, head=False), 0),
        "reference": (shape.forward(own, adapter=False), 0),
        "experience": (policy + critic if ppo else 0, 0),
        "passes": (passes * trained, 0),
    }


def seconds(parts: dict[str, tuple[int, int]], rates: dict[str, float]) -> float:
    """At rates of `flops` and `bytes` a second, of which each part takes the longer."""
    return sum(max(flops / rates["flops"], size / rates["bytes"]) for flops, size in parts.values())


def rates(device: str, dtype: str) -> dict[str, float]:
    """`flops` and `bytes` a second of a large matrix product and a large copy, each the median of two seconds of them.

    On a CPU in seconds of the processor. The median, and measured where the update was: others at work on the machine
    slow both alike. `best_flops` is the quickest product.
    """
    import torch

    cuda = device == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    wait = torch.cuda.synchronize if cuda else (lambda: None)

    def times(run: Callable[[], object]) -> list[float]:
        run()
        taken, until = [], time.perf_counter() + 2
        while time.perf_counter() < until:
            wait()
            began = clock()
            run()
            wait()
            taken.append(clock() - began)
        return taken

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
