"""Token ids become a `Batch`: every prompt once, its responses packed after it.

A batch is a forest of tokens in depth-first order: the descendants of a token stand right after it. One number per
token, `until`, says who sees it: token i sees token j iff ``j <= i < until[j]``. A prompt with K responses, a padded
row, a prefix tree and padding all follow this rule with other numbers.

    index  0    1  2  3   4  5   6  7  8   9    10 11  12 13
    token  <s>  p  p  p   y  y   z  z  z   <s>  q  q   w  w     two prompts in one packed row: p with two
    until  9    9  9  9   6  6   9  9  9   14   14 14  14 14    responses, y and z, and q with one, w

A prediction is named by its predictor and its target. The log-prob of a response token is read at the token before it;
for the first response token that is the last token of the prompt, which is stored once. The last token of a response
predicts nothing and is left out. A scorer reads its reward at the response token itself, so its batches are made with
`include_last_token`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, chain, compress, repeat
from typing import Any, Literal

import torch

from una_ref.data import packing
from una_ref.errors import InputError

Layout = Literal["packed", "padded"]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its responses as token ids, with one kind of feedback; without feedback they are demonstrations."""

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
    weights: tuple[float, ...] | None = None
    """(P,) what the losses of the pairs are multiplied by; None: 1."""
    margins: tuple[float, ...] | None = None
    """(P,) by how much the chosen responses are better, in reward units; None: the differences of the scores."""
    trained: tuple[tuple[bool, ...], ...] | None = None
    """Which tokens of each response the model writes; the others are turns of a user or a tool between them, and are
    context. The last one is always the model's. None: all of them."""

    def __post_init__(self) -> None:
        if not self.prompt or not self.responses or not all(self.responses):
            raise InputError(
                f"{self.source or 'example'}: expected a prompt and responses of at least one token, got "
                f"lengths {len(self.prompt)} and {[len(r) for r in self.responses]}"
            )
        masks = self.trained if self.trained is not None else ()
        if masks and ([*map(len, masks)] != [*map(len, self.responses)] or not all(mask[-1] for mask in masks)):
            raise InputError(
                f"{self.source or 'example'}: expected a mask of each response that ends with a true value"
            )

    @property
    def scored(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each response that the model writes, and so those that a loss sees."""
        if self.trained is None:
            return self.responses
        return tuple(tuple(compress(r, mask)) for r, mask in zip(self.responses, self.trained, strict=True))

    @property
    def tokens(self) -> int:
        """Number of tokens that the packed layout computes, with the prompt once."""
        return len(self.prompt) + sum(len(r) - 1 for r in self.responses)

    @property
    def kind(self) -> str:
        """The kind of feedback: demos, pairs, labels, scores or lists. Scores beside pairs are not a kind."""
        if self.pairs is not None:
            return "pairs"
        if self.labels is not None:
            return "labels"
        if self.scores is not None:
            return "lists" if self.as_list else "scores"
        return "demos"

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
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Of the data that no layout reads, by name, for reward functions."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Token rows (R, L), N scored tokens, B responses of G prompts, and the feedback about them.

    Attributes:
        tokens, positions, until: (R, L) int64; see the module's first lines.
        predictor: (N,) flat index into R·L of the position whose output predicts the scored token; with
            `include_last_token`, of the token's own position.
        target: (N,) id of the scored token.
        response: (N,) which response, 0 … B−1, the scored token belongs to; ascending.
        groups: (B,) which prompt, 0 … G−1, each response answers.
        lengths: (B,) scored tokens of each response, EOS included; turns of a user or a tool within it are not scored.
        prompts: (G,) `prompt_index` of each prompt.
        pairs: (P, 2) chosen and rejected response. weights, margins: (P,) of each; a margin is NaN where the difference
            of the scores stands for it.
        scores: (B,) score of each response; NaN where it has none.
        scored: (S,) responses with a loss on their score. listed: (L,) responses with a loss on the list of a prompt.
        labelled, labels: (Q,) responses that have a label, and the labels in [0, 1].
        demos: (D,) responses to imitate.
        experience: (N,) what all examples know of their tokens, by name.
        sources: file and line of each prompt's row.
        layout: "packed" (for models that take a 4-D mask) or "padded" (one response a row, plain causal mask).
        include_last_token: whether the last token of each response is laid out, as a scorer needs it.
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
    weights: torch.Tensor = field(default_factory=lambda: torch.ones(0, dtype=torch.float64))
    margins: torch.Tensor = field(default_factory=lambda: torch.ones(0, dtype=torch.float64))
    experience: Mapping[str, torch.Tensor] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    layout: Layout = "packed"
    include_last_token: bool = False

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
        """(R, L, L) bool: whether position i (dim 1) sees position j (dim 2)."""
        here = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (here <= here[:, None]) & (here[:, None] < self.until[:, None, :])


def collate(examples: Sequence[Example], layout: Layout = "packed", *, include_last_token: bool = False) -> Batch:
    """Lay examples out. Responses keep the order of the examples in either layout.

    Args:
        examples: not empty.
        layout: "packed": blocks of a prompt with its responses share rows; a row is as long as the longest block or,
            where that leaves much padding, longer. "padded": one response a row, padded on the right, for models that
            take no 4-D mask.
        include_last_token: lay out the last token of each response, for a scorer.
    """
    responses = [(g, r) for g, e in enumerate(examples) for r in e.scored]
    first = [0]
    for e in examples:
        first.append(first[-1] + len(e.responses))
    lay_out = _packed if layout == "packed" else _padded
    tokens, positions, until, predictor = lay_out(examples, include_last_token)

    def ints(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64)

    def reals(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    kinds = [e.kind for e in examples]

    def of(kind: str) -> list[int]:
        return [b for g, own in enumerate(kinds) if own == kind for b in range(first[g], first[g + 1])]

    sampled = [e.experience for e, kind in zip(examples, kinds, strict=True) if kind != "demos"]
    known = sorted(set(sampled[0]).intersection(*sampled)) if sampled else []
    pairs = [
        (start + chosen, start + rejected)
        for start, e in zip(first, examples, strict=False)
        for chosen, rejected in e.pairs or ()
    ]
    return Batch(
        tokens=tokens,
        positions=positions,
        until=until,
        predictor=predictor,
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
        labels=reals([v for e, kind in zip(examples, kinds, strict=True) if kind == "labels" for v in e.labels or ()]),
        demos=ints(of("demos")),
        weights=reals([w for e in examples for w in e.weights or [1.0] * len(e.pairs or ())]),
        margins=reals([m for e in examples for m in e.margins or [math.nan] * len(e.pairs or ())]),
        experience={name: reals([v for e in examples for line in _past(e, name) for v in line]) for name in known},
        sources=tuple(e.source for e in examples),
        layout=layout,
        include_last_token=include_last_token,
    )


def _packed(examples: Sequence[Example], include_last_token: bool) -> tuple[torch.Tensor, ...]:
    """tokens, positions and until (R, L), and predictor (N,), with blocks of a prompt and its responses in each row."""
    blocks = [
        (g, span, size)
        for g, e in enumerate(examples)
        for span, size in packing.blocks(len(e.prompt), _sizes(e, include_last_token))
    ]
    rows = packing.rows([size for _, _, size in blocks])
    width = max(sum(blocks[i][2] for i in row) for row in rows)
    first = list(accumulate((len(e.responses) for e in examples), initial=0))
    tokens, positions, until = [], [], []  # type: list[list[int]], list[list[int]], list[list[int]]
    predictor: list[list[int]] = [[] for _ in range(first[-1])]
    for r, row in enumerate(rows):
        row_tokens: list[int] = []
        row_positions: list[int] = []
        row_until: list[int] = []
        for i in row:
            g, span, size = blocks[i]
            prompt = examples[g].prompt
            row_tokens += prompt
            row_positions += range(len(prompt))
            row_until += [len(row_until) + size] * len(prompt)
            last = r * width + len(row_tokens) - 1
            for k in span:
                b, response = first[g] + k, examples[g].responses[k]
                body = response if include_last_token else response[:-1]
                start = r * width + len(row_tokens)
                before = [*(() if include_last_token else (last,)), *range(start, start + len(body))]
                trained = examples[g].trained
                predictor[b] = before if trained is None else list(compress(before, trained[k]))
                row_tokens += body
                row_positions += range(len(prompt), len(prompt) + len(body))
                row_until += [len(row_until) + len(body)] * len(body)
        pads = range(len(row_tokens), width)  # padding sees itself only, and nothing sees it
        row_tokens += [0] * len(pads)
        row_positions += [0] * len(pads)
        row_until += [at + 1 for at in pads]
        tokens.append(row_tokens)
        positions.append(row_positions)
        until.append(row_until)
    return tuple(
        torch.tensor(values, dtype=torch.int64) for values in (tokens, positions, until, list(chain(*predictor)))
    )


def _padded(examples: Sequence[Example], include_last_token: bool) -> tuple[torch.Tensor, ...]:
    """The same with one response in each row, padded on the right."""
    lines = [(e.prompt, *line) for e in examples for line in zip(e.responses, e.trained or repeat(None), strict=False)]
    cut = None if include_last_token else -1
    rows = [[*prompt, *response[:cut]] for prompt, response, _ in lines]
    sizes = torch.tensor([len(row) for row in rows])[:, None]
    width = int(sizes.max())
    here = torch.arange(width)
    predictor: list[int] = []
    for r, (prompt, response, mask) in enumerate(lines):
        # Predicted from the last token of the prompt on, or read from its own first token on.
        start = r * width + len(prompt) - (not include_last_token)
        before = range(start, start + len(response))
        predictor += before if mask is None else compress(before, mask)
    return (
        torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64),
        torch.where(here < sizes, here, 0),
        torch.where(here < sizes, sizes, here + 1),
        torch.tensor(predictor, dtype=torch.int64),
    )


def _past(example: Example, name: str) -> Iterable[Sequence[float]]:
    """What is known of the tokens; zeros for a demonstration, whose loss does not ask for it."""
    return example.experience.get(name) or ([0.0] * len(r) for r in example.scored)


def _sizes(example: Example, include_last_token: bool) -> list[int]:
    """Tokens that are laid out of each response."""
    return [len(response) - (not include_last_token) for response in example.responses]


def microbatches(
    examples: Iterable[Example], tokens: int, layout: Layout = "packed", *, include_last_token: bool = False
) -> Iterator[list[Example]]:
    """Split examples into runs whose (R, L) rows hold at most `tokens`, padding and copies of prompts included.

    No example is split; an example of more tokens is a run of its own.
    """
    if layout == "padded":  # the cells are a product, which needs no search for rows
        yield from _padded_runs(examples, tokens, include_last_token)
        return
    run: list[Example] = []
    sizes: list[int] = []
    for e in examples:
        blocks = packing.blocks(len(e.prompt), _sizes(e, include_last_token))
        added = [size for _, size in blocks]
        both = sizes + added
        if run and packing.cells(both, packing.rows(both)) > tokens:
            yield run
            run, both = [], added
        run.append(e)
        sizes = both
    if run:
        yield run


def _padded_runs(examples: Iterable[Example], tokens: int, include_last_token: bool) -> Iterator[list[Example]]:
    run: list[Example] = []
    rows = width = 0
    for e in examples:
        longest = len(e.prompt) + max(_sizes(e, include_last_token))
        if run and (rows + len(e.responses)) * max(width, longest) > tokens:
            yield run
            run, rows, width = [], 0, 0
        run.append(e)
        rows, width = rows + len(e.responses), max(width, longest)
    if run:
        yield run


def prefix_tree(prompts: Sequence[Sequence[int]], prefixes: torch.Tensor, vocabulary: Sequence[int]) -> Batch:
    """Every prefix of an enumerable world after each prompt, with its next tokens as responses of one token each.

    `sequence_logprobs` of this batch, viewed as (X, N, V), is the policy's next-token table, which
    `SequenceWorld.sequence_logps` takes.

    Args:
        prompts: X prompts as token ids.
        prefixes: (N, T) world tokens in depth-first order, −1 after the end; the first is the empty prefix.
        vocabulary: the token id of each of the world's V tokens.
    """
    depth = (prefixes >= 0).sum(1)
    n, v = len(prefixes), len(vocabulary)
    # A subtree ends where the next prefix that is not deeper begins.
    ends = torch.full((n,), n)
    stack: list[int] = []
    for i, d in enumerate(depth.tolist()):
        while stack and depth[stack[-1]] >= d:
            ends[stack.pop()] = i
        stack.append(i)
    # Each first token has a row of its own, since attention costs the square of a row's length.
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
        predictor[x, 0] = r * width + p - 1  # any row of the prompt can predict what follows the empty prefix
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
