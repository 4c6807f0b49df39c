"""Token ids become a `Batch`: every prompt once, its responses packed behind it.

A batch is a forest of tokens laid out in depth-first order: the descendants of a token stand right behind it.
So one number per token, `until`, says who sees it: token i sees token j iff ``j <= i < until[j]``. A prompt
with K responses, a padded row, a prefix tree and the pads are all that one rule with other numbers.

    index  0    1  2  3   4  5   6  7  8   9    10 11  12 13
    token  <s>  p  p  p   y  y   z  z  z   <s>  q  q   w  w     two prompts in one packed row: p with two
    until  9    9  9  9   6  6   9  9  9   14   14 14  14 14    responses, y and z, and q with one, w

What a position predicts is named by (predictor, target): the log-prob of a response token is read at the
token before it, and for the first response token that is the last token of the prompt, stored once. A
response's last token predicts nothing and is not laid out. For a model that says something of what it has read, a
scorer, it is: such a batch is `whole`, and what is said of a response token is read at that token itself.

Attention is paid for a row's length squared, and for what nobody sees as well; so responses that fill more than
`ROOM` tokens go behind their prompt in several rows.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch

from una_ref.errors import InputError

Layout = Literal["packed", "padded"]

ROOM = 1024
"""Most tokens of responses behind a prompt in a packed row; or as many as a longer prompt has, so that rows hold
no more of prompts than of responses."""

LINEAR = 2048
"""Tokens of a row at which attention costs as much as all else: 6 times a transformer's width, so for a large model
many more; but then rows are long already."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its responses as token ids, with one kind of feedback (none of the three: imitate)."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...] | None = None
    labels: tuple[float, ...] | None = None
    pairs: tuple[tuple[int, int], ...] | None = None
    prompt_index: int = 0
    source: str = ""
    experience: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """What is known of each token of each response since it was sampled, by a loss's name for it."""
    as_list: bool = False
    """Whether the scores rank the responses as one list: the feedback is of the kind "lists"."""

    def __post_init__(self) -> None:
        if not self.prompt or not self.responses or not all(self.responses):
            raise InputError(
                f"{self.source or 'example'}: expected a prompt and responses of at least one token, got "
                f"lengths {len(self.prompt)} and {[len(r) for r in self.responses]}"
            )

    @property
    def tokens(self) -> int:
        """Tokens that the packed layout computes with the prompt once, see the module's first lines."""
        return len(self.prompt) + sum(len(r) - 1 for r in self.responses)

    @property
    def kind(self) -> str:
        """The kind of feedback: demos, pairs, labels, scores or lists. Scores beside pairs are not a kind."""
        feedback = {"pairs": self.pairs, "labels": self.labels, "lists" if self.as_list else "scores": self.scores}
        return next((name for name, value in feedback.items() if value is not None), "demos")

    @property
    def count(self) -> int:
        """How many losses the example contributes: one for each pair, one for a list, else one for each response."""
        if self.pairs is not None:
            return len(self.pairs)
        return 1 if self.as_list else len(self.responses)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt whose responses are still to be sampled: its token ids, and the text or messages that they encode."""

    ids: tuple[int, ...]
    text: str | tuple[dict, ...]
    prompt_index: int = 0
    source: str = ""


@dataclass(frozen=True, eq=False)
class Batch:
    """Token rows (R, L), N scored tokens, B responses of G prompts, and the feedback about them.

    Attributes:
        tokens, positions, until: (R, L) int64; see the module's first lines.
        predictor: (N,) flat index into R·L of the position whose output predicts the scored token; of the token's own
            position, if `whole`.
        target: (N,) id of the scored token.
        response: (N,) which response, 0 … B−1, the scored token belongs to; ascending.
        groups: (B,) which prompt, 0 … G−1, each response answers.
        lengths: (B,) scored tokens of each response, EOS included.
        prompts: (G,) index of each prompt in its data set.
        pairs: (P, 2) chosen and rejected response.
        scores: (B,) score of each response; NaN where it has none.
        scored: (S,) responses with a loss on their score. listed: (L,) responses with a loss on the list of a prompt.
        labelled, labels: (Q,) responses that have a label, and the labels in [0, 1].
        demos: (D,) responses to imitate.
        experience: (N,) what all examples know of their tokens, by name.
        sources: where each prompt's row stood.
        layout: "packed" (for models that take a 4-D mask) or "padded" (a response a row, plain causal mask).
        whole: whether responses stand in it to their last token.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    until: torch.Tensor
    predictor: torch.Tensor
    target: torch.Tensor
    response: torch.Tensor
    groups: torch.Tensor
    lengths: torch.Tensor
    prompts: torch.Tensor
    pairs: torch.Tensor
    scores: torch.Tensor
    scored: torch.Tensor
    listed: torch.Tensor
    labelled: torch.Tensor
    labels: torch.Tensor
    demos: torch.Tensor
    experience: Mapping[str, torch.Tensor] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    layout: Layout = "packed"
    whole: bool = False

    @property
    def count(self) -> int:
        """Losses in the batch: pairs, lists, scored, labelled and imitated responses."""
        lists = len(self.groups[self.listed].unique())
        return len(self.pairs) + len(self.scored) + lists + len(self.labelled) + len(self.demos)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        moved: dict[str, Any] = {k: v.to(device) for k, v in values if isinstance(v, torch.Tensor)}
        return replace(self, **moved, experience={k: v.to(device) for k, v in self.experience.items()})

    def by_response(self, values: torch.Tensor) -> torch.Tensor:
        """(N, …) -> (B, T, …): each response's tokens in a line, 0 after its end."""
        ends = self.lengths.cumsum(0)
        at = torch.arange(len(values), device=values.device) - (ends - self.lengths)[self.response]
        shape = len(ends), int(self.lengths.max()), *values.shape[1:]
        return values.new_zeros(shape).index_put((self.response, at), values)

    def visible(self) -> torch.Tensor:
        """(R, L, L) bool: does position i (dim 1) see position j (dim 2)?"""
        here = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (here <= here[:, None]) & (here[:, None] < self.until[:, None, :])


def collate(examples: Sequence[Example], layout: Layout = "packed", *, whole: bool = False) -> Batch:
    """Lay examples out. Responses keep the order of the examples, whatever the layout.

    Packed: blocks of (prompt, its responses) fill rows as long as the longest block or, where that leaves many pads,
    longer ones; a prompt has a second block where its responses fill more than `ROOM`. Padded: a row a response, padded
    on the right; the yardstick, and the way for models that take no such mask. Whole: for a scorer, see the module's
    first lines.
    """
    responses = [(g, r) for g, e in enumerate(examples) for r in e.responses]
    first = [0]
    for e in examples:
        first.append(first[-1] + len(e.responses))
    blocks = [(g, span) for g, e in enumerate(examples) for span in _spans(e, layout, whole)]
    sizes = [_size(examples[g], span, whole) for g, span in blocks]
    rows = _rows(sizes, layout)
    width = _width(sizes, rows)

    tokens, positions, until = [], [], []  # type: list[list[int]], list[list[int]], list[list[int]]
    predictor: list[list[int]] = [[] for _ in responses]
    for r, row in enumerate(rows):
        row_tokens: list[int] = []
        row_positions: list[int] = []
        row_until: list[int] = []
        for i in row:
            g, span = blocks[i]
            prompt = examples[g].prompt
            row_tokens += prompt
            row_positions += range(len(prompt))
            row_until += [len(row_until) + sizes[i]] * len(prompt)
            last = r * width + len(row_tokens) - 1
            for k in span:
                b, response = first[g] + k, examples[g].responses[k]
                body = response if whole else response[:-1]
                start = r * width + len(row_tokens)
                predictor[b] = [*(() if whole else (last,)), *range(start, start + len(body))]
                row_tokens += body
                row_positions += range(len(prompt), len(prompt) + len(body))
                row_until += [len(row_until) + len(body)] * len(body)
        pads = range(len(row_tokens), width)  # a pad sees itself only and nothing sees it
        row_tokens += [0] * len(pads)
        row_positions += [0] * len(pads)
        row_until += [at + 1 for at in pads]
        tokens.append(row_tokens)
        positions.append(row_positions)
        until.append(row_until)

    def ints(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64)

    def reals(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    def of(kind: str) -> list[int]:
        return [b for g, e in enumerate(examples) if e.kind == kind for b in range(first[g], first[g + 1])]

    drawn = [e.experience for e in examples if e.kind != "demos"]
    known = sorted(set(drawn[0]).intersection(*drawn)) if drawn else []
    pairs = [
        (start + chosen, start + rejected)
        for start, e in zip(first, examples, strict=False)
        for chosen, rejected in e.pairs or ()
    ]
    return Batch(
        tokens=ints(tokens),
        positions=ints(positions),
        until=ints(until),
        predictor=ints([p for ps in predictor for p in ps]),
        target=ints([t for _, r in responses for t in r]),
        response=ints([b for b, (_, r) in enumerate(responses) for _ in r]),
        groups=ints([g for g, _ in responses]),
        lengths=ints([len(r) for _, r in responses]),
        prompts=ints([e.prompt_index for e in examples]),
        pairs=ints(pairs).view(-1, 2),
        scores=reals([s for e in examples for s in e.scores or [math.nan] * len(e.responses)]),
        scored=ints(of("scores")),
        listed=ints(of("lists")),
        labelled=ints(of("labels")),
        labels=reals([v for e in examples if e.kind == "labels" for v in e.labels or ()]),
        demos=ints(of("demos")),
        experience={name: reals([v for e in examples for line in _past(e, name) for v in line]) for name in known},
        sources=tuple(e.source for e in examples),
        layout=layout,
        whole=whole,
    )


def _past(example: Example, name: str) -> Iterable[Sequence[float]]:
    """What is known of the tokens; of a demonstration nothing, and no loss that sees it would ask."""
    return example.experience.get(name) or ([0.0] * len(r) for r in example.responses)


def _spans(example: Example, layout: Layout, whole: bool) -> list[range]:
    """The responses that stand behind the prompt, for each time that it is laid out."""
    room = max(ROOM, len(example.prompt))
    spans, start, used = [], 0, 0
    for k, response in enumerate(example.responses):
        size = len(response) if whole else len(response) - 1
        if k > start and (layout == "padded" or used + size > room):
            spans.append(range(start, k))
            start, used = k, 0
        used += size
    return [*spans, range(start, len(example.responses))]


def _size(example: Example, span: range, whole: bool) -> int:
    return len(example.prompt) + sum(len(example.responses[k]) for k in span) - (0 if whole else len(span))


def _rows(sizes: Sequence[int], layout: Layout) -> list[list[int]]:
    """Which blocks share a row. Packed: first-fit decreasing into rows as long as the longest block or, where that
    leaves many pads, evenly into rows of up to four such blocks, whichever costs least.
    """
    if layout == "padded":
        return [[i] for i in range(len(sizes))]
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    rows = _first_fit(sizes, order)
    total, longest = sum(sizes), sizes[order[0]]
    if len(rows) * longest < 1.1 * total:
        return rows
    counts = sorted({math.ceil(total / (longest * blocks)) for blocks in (1, 1.5, 2, 3, 4)})
    tried = [rows, *(_evenly(sizes, order, count) for count in counts)]
    return min(tried, key=lambda rows: _cells(sizes, rows) * (_width(sizes, rows) + LINEAR))


def _width(sizes: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    return max(sum(sizes[i] for i in row) for row in rows)


def _cells(sizes: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    """Tokens of rows laid out, pads included."""
    return len(rows) * _width(sizes, rows)


def _first_fit(sizes: Sequence[int], order: Sequence[int]) -> list[list[int]]:
    rows, room = [], []  # type: list[list[int]], list[int]
    r, size = 0, 0
    for i in order:
        if sizes[i] != size:  # where one block did not fit, another of its size does not
            r, size = 0, sizes[i]
        while r < len(rows) and room[r] < size:
            r += 1
        if r == len(rows):
            rows.append([])
            room.append(sizes[order[0]])
        rows[r].append(i)
        room[r] -= size
    return rows


def _evenly(sizes: Sequence[int], order: Sequence[int], count: int) -> list[list[int]]:
    """Each block into the row that is the shortest so far."""
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, r) for r in range(count)]
    for i in order:
        size, r = heapq.heappop(filled)
        rows[r].append(i)
        heapq.heappush(filled, (size + sizes[i], r))
    return rows


def microbatches(
    examples: Iterable[Example], tokens: int, layout: Layout = "packed", *, whole: bool = False
) -> Iterator[list[Example]]:
    """Split into runs whose (R, L) rows hold at most `tokens`, pads and repeated prompts included.

    No example is split; a longer one stands alone.
    """
    run: list[Example] = []
    sizes: list[int] = []
    for e in examples:
        own = [_size(e, span, whole) for span in _spans(e, layout, whole)]
        both = sizes + own
        if run and _cells(both, _rows(both, layout)) > tokens:
            yield run
            run, both = [], own
        run.append(e)
        sizes = both
    if run:
        yield run


def prefix_tree(prompts: Sequence[Sequence[int]], prefixes: torch.Tensor, vocabulary: Sequence[int]) -> Batch:
    """Every prefix of an enumerable world behind each prompt, its next tokens as responses of one token each.

    `sequence_logprobs` of this batch, viewed as (X, N, V), is the policy's next-token table: what
    `SequenceWorld.sequence_logps` takes.

    Args:
        prompts: X prompts as token ids.
        prefixes: (N, T) world tokens in depth-first order, −1 behind the end; the first is the empty prefix.
        vocabulary: the token id of each of the world's V tokens.
    """
    depth = (prefixes >= 0).sum(1)
    n, v = len(prefixes), len(vocabulary)
    # A subtree ends at the next prefix that is not deeper.
    ends = torch.full((n,), n)
    stack: list[int] = []
    for i, d in enumerate(depth.tolist()):
        while stack and depth[stack[-1]] >= d:
            ends[stack.pop()] = i
        stack.append(i)
    # Each first token begins a row of its own: attention costs the square of a row's length.
    branches = [(i, int(ends[i])) for i in range(n) if depth[i] == 1] or [(n, n)]
    token = torch.tensor(vocabulary)[prefixes.gather(1, (depth - 1).clamp(min=0)[:, None])[:, 0]]
    rows = [(x, *branch) for x in range(len(prompts)) for branch in branches]
    width = max(len(prompts[x]) + stop - start for x, start, stop in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    positions = torch.zeros_like(tokens)
    until = torch.arange(1, width + 1).repeat(len(rows), 1)
    predictor = torch.zeros(len(prompts), n, dtype=torch.int64)
    for r, (x, start, stop) in enumerate(rows):
        p = len(prompts[x])
        end = p + stop - start
        tokens[r, :p] = torch.tensor(prompts[x])
        tokens[r, p:end] = token[start:stop]
        positions[r, :p] = torch.arange(p)
        positions[r, p:end] = p + depth[start:stop] - 1
        until[r, :p] = end
        until[r, p:end] = ends[start:stop] + p - start
        predictor[x, 0] = r * width + p - 1  # what follows the empty prefix, any row of the prompt can say
        predictor[x, start:stop] = r * width + torch.arange(p, end)
    edges = len(prompts) * n * v
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        tokens=tokens,
        positions=positions,
        until=until,
        predictor=predictor.flatten().repeat_interleave(v),
        target=torch.tensor(vocabulary).repeat(len(prompts) * n),
        response=torch.arange(edges),
        groups=torch.arange(len(prompts)).repeat_interleave(n * v),
        lengths=torch.ones(edges, dtype=torch.int64),
        prompts=torch.arange(len(prompts)),
        pairs=none.view(0, 2),
        scores=none.double(),
        scored=none,
        listed=none,
        labelled=none,
        labels=none.double(),
        demos=none,
    )
