"""Rows become token ids, and token ids become a `Batch`: every prompt once, its responses packed behind it.

A batch is a forest of tokens laid out in depth-first order: the descendants of a token stand right behind
it. So one number per token, `until`, says who sees it: token i sees token j iff ``j <= i < until[j]``. A prompt with
K responses, a padded row, a whole prefix tree and the pads are all that one rule with other numbers.

    row     <s> p p p | y1 y1 | y2 y2 y2 | <s> q q | z z z      two prompts in one packed row
    until    .........9          ^5      ^9            ...      p until its last response ends, y1 until its own end

What a token predicts is named by (predictor, target): the log-prob of response token t is read at the position
of the token before it, and for the first response token that is the last token of the prompt, stored once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch

from una_ref.data.rows import Row
from una_ref.errors import InputError

Layout = Literal["packed", "padded"]

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""How messages become text where the tokenizer has no chat template of its own."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its responses as token ids, and one kind of feedback about them (none of the three: imitate)."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...] | None = None
    labels: tuple[float, ...] | None = None
    pairs: tuple[tuple[int, int], ...] | None = None
    prompt_index: int = 0
    source: str = ""

    @property
    def tokens(self) -> int:
        """Tokens that the packed layout computes: a response's last token predicts nothing and is left out."""
        return len(self.prompt) + sum(len(r) - 1 for r in self.responses)

    @property
    def kind(self) -> str:
        """The kind of feedback: demos, pairs, labels or scores."""
        feedback = {"pairs": self.pairs, "labels": self.labels, "scores": self.scores}
        return next((name for name, value in feedback.items() if value is not None), "demos")

    @property
    def count(self) -> int:
        """How many losses the example contributes: one a pair, else one a response."""
        return len(self.pairs) if self.pairs is not None else len(self.responses)


class Encoder:
    """Turns a `Row` into an `Example`; what it had to cut or drop is counted in `counts`.

    Prompt and response are tokenised apart, so no token spans the boundary. BOS stands once at the start (where the
    tokenizer has one that is not also its EOS, as GPT-2's is), EOS once at the end of every response that was
    not cut. A tokenizer's own chat template is used for messages and, as one user turn, for plain text; without
    one, messages go through `PLAIN_TEMPLATE` and plain text stays as it is.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: most tokens of prompt and response together. A longer response is cut and then has no EOS; a row
            whose prompt leaves no room is dropped.
        max_response: most tokens of a response (EOS included), if fewer.
    """

    def __init__(self, tokenizer: Any, *, max_length: int = 2048, max_response: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_response = max_response
        self.counts: Counter[str] = Counter()
        self._prompts: dict[tuple[int, ...], int] = {}
        self._eos = tokenizer.eos_token_id
        self._bos = tokenizer.bos_token_id if tokenizer.bos_token_id != tokenizer.eos_token_id else None

    @property
    def prompts(self) -> int:
        """How many different prompts have been encoded."""
        return len(self._prompts)

    @property
    def template(self) -> str:
        """The template that messages go through: the tokenizer's own, or the plain default."""
        return self.tokenizer.chat_template or PLAIN_TEMPLATE

    def __call__(self, row: Row) -> Example | None:
        """The row as token ids; None, and counted, where its prompt leaves no room for a response."""
        prompt = self.prompt(row)
        room = self.max_length - len(prompt)
        if room < 1:
            self.counts["rows dropped: prompt too long"] += 1
            return None
        room = min(room, self.max_response or room)
        responses = []
        for text in row.responses:
            ids = self.response(row, text)
            if len(ids) > room:
                ids = ids[:room]
                self.counts["responses cut (they end without EOS)"] += 1
            responses.append(tuple(ids))
        self.counts["rows"] += 1
        index = self._prompts.setdefault(tuple(prompt), len(self._prompts))
        return Example(tuple(prompt), tuple(responses), row.scores, row.labels, row.pairs, index, row.source)

    def prompt(self, row: Row) -> list[int]:
        """Token ids of the prompt, BOS included."""
        text = self._text(row, None)
        ids = self._ids(text)
        while self._bos is not None and ids[:1] == [self._bos]:
            ids = ids[1:]
        ids = ([self._bos] if self._bos is not None else []) + ids
        if not ids:
            raise InputError(f"{row.source}: field prompt: expected at least one token to predict from, got {text!r}")
        return ids

    def response(self, row: Row, text: str) -> list[int]:
        """Token ids of one response, EOS included once."""
        if self.tokenizer.chat_template:
            prompt, whole = self._text(row, None), self._text(row, text)
            text = whole[len(prompt):] if whole.startswith(prompt) else text
        ids = self._ids(text)
        if self._eos is None:
            return ids
        # A chat template may close the turn itself and add a line break behind EOS; keep what ends at the first
        # EOS of the closing run.
        body = list(ids)
        while body and (body[-1] == self._eos or (self.tokenizer.chat_template and self._blank(body[-1]))):
            body.pop()
        return body + [self._eos]

    def _blank(self, token: int) -> bool:
        return not self.tokenizer.decode([token]).strip()

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, row: Row, response: str | None) -> str:
        own = self.tokenizer.chat_template
        if isinstance(row.prompt, str) and not own:
            return row.prompt
        messages = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else list(row.prompt)
        messages = [dict(m) for m in messages]
        if response is not None:
            messages.append({"role": "assistant", "content": response})
        return self.tokenizer.apply_chat_template(
            messages, chat_template=own or PLAIN_TEMPLATE, tokenize=False, add_generation_prompt=response is None
        )

    def encode(self, rows: Iterable[Row]) -> list[Example]:
        """All rows that fit.

        Raises:
            InputError: when no row is left.
        """
        examples = [e for e in map(self, rows) if e is not None]
        if not examples:
            raise InputError(f"data: expected at least one row that fits max_length={self.max_length}, "
                             f"got {dict(self.counts) or 'no rows'}")
        return examples


@dataclass(frozen=True)
class Batch:
    """Token rows (R, L), N scored tokens, B responses of G prompts, and the feedback about them.

    Attributes:
        tokens, positions, until: (R, L) int64; see the module's first lines.
        predictor: (N,) flat index into R·L of the position whose output predicts the scored token.
        target: (N,) id of the scored token.
        response: (N,) which response, 0 … B−1, the scored token belongs to.
        groups: (B,) which prompt, 0 … G−1, each response answers.
        lengths: (B,) scored tokens of each response.
        prompts: (G,) index of each prompt in its data set.
        pairs: (P, 2) chosen and rejected response.
        scored, scores: (S,) responses that have a score, and the scores.
        labelled, labels: (Q,) responses that have a label, and the labels in [0, 1].
        demos: (D,) responses to imitate.
        sources: where each prompt's row stood.
        layout: "packed" (needs a model that takes a 4-D mask) or "padded" (one response a row, plain causal mask).
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
    scored: torch.Tensor
    scores: torch.Tensor
    labelled: torch.Tensor
    labels: torch.Tensor
    demos: torch.Tensor
    sources: tuple[str, ...] = field(default=())
    layout: Layout = "packed"

    @property
    def count(self) -> int:
        """Losses in the batch: pairs, scored, labelled and imitated responses."""
        return len(self.pairs) + len(self.scored) + len(self.labelled) + len(self.demos)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)
                 if isinstance(getattr(self, f.name), torch.Tensor)}
        return replace(self, **moved)

    def visible(self) -> torch.Tensor:
        """(R, L, L) bool: does position i (dim 1) see position j (dim 2)?"""
        here = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (here <= here[:, None]) & (here[:, None] < self.until[:, None, :])


def collate(examples: Sequence[Example], layout: Layout = "packed") -> Batch:
    """Lay examples out. Responses keep the order of the examples, whatever the layout.

    Packed: blocks of (prompt, its responses) fill rows as long as the longest block, largest first. Padded: a row a
    response, padded on the right; the yardstick, and the way for models that take no such mask.
    """
    responses = [(g, r) for g, e in enumerate(examples) for r in e.responses]
    first = [0]
    for e in examples:
        first.append(first[-1] + len(e.responses))
    if layout == "packed":
        blocks = [(e.prompt, range(first[g], first[g + 1])) for g, e in enumerate(examples)]
    else:
        blocks = [(examples[g].prompt, range(b, b + 1)) for b, (g, _) in enumerate(responses)]
    sizes = [len(p) + sum(len(responses[b][1]) - 1 for b in span) for p, span in blocks]
    rows = _fill(sizes) if layout == "packed" else [[i] for i in range(len(blocks))]
    width = max(sum(sizes[i] for i in row) for row in rows)

    tokens, positions, until = [], [], []
    predictor: list[list[int]] = [[] for _ in responses]
    for r, row in enumerate(rows):
        row_tokens, row_positions, row_until = [], [], []
        for i in row:
            prompt, span = blocks[i]
            row_tokens += prompt
            row_positions += range(len(prompt))
            row_until += [len(row_until) + sizes[i]] * len(prompt)
            last = r * width + len(row_tokens) - 1
            for b in span:
                body = responses[b][1][:-1]
                start = r * width + len(row_tokens)
                predictor[b] = [last, *range(start, start + len(body))]
                row_tokens += body
                row_positions += range(len(prompt), len(prompt) + len(body))
                row_until += [len(row_until) + len(body)] * len(body)
        for at in range(len(row_tokens), width):  # a pad sees itself only and nothing sees it
            row_tokens.append(0)
            row_positions.append(0)
            row_until.append(at + 1)
        tokens.append(row_tokens)
        positions.append(row_positions)
        until.append(row_until)

    def ints(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64)

    def of(kind: str) -> list[int]:
        return [b for g, e in enumerate(examples) if e.kind == kind for b in range(first[g], first[g + 1])]

    return Batch(
        tokens=ints(tokens), positions=ints(positions), until=ints(until),
        predictor=ints([p for ps in predictor for p in ps]),
        target=ints([t for _, r in responses for t in r]),
        response=ints([b for b, (_, r) in enumerate(responses) for _ in r]),
        groups=ints([g for g, _ in responses]),
        lengths=ints([len(r) for _, r in responses]),
        prompts=ints([e.prompt_index for e in examples]),
        pairs=ints([(first[g] + w, first[g] + l) for g, e in enumerate(examples) for w, l in e.pairs or ()]).view(-1, 2),
        scored=ints(of("scores")),
        scores=torch.tensor([s for e in examples if e.kind == "scores" for s in e.scores or ()], dtype=torch.float64),
        labelled=ints(of("labels")),
        labels=torch.tensor([s for e in examples if e.kind == "labels" for s in e.labels or ()], dtype=torch.float64),
        demos=ints(of("demos")),
        sources=tuple(e.source for e in examples),
        layout=layout,
    )


def _fill(sizes: Sequence[int]) -> list[list[int]]:
    """First-fit decreasing into rows as long as the longest block."""
    width, rows, room = max(sizes), [], []  # type: int, list[list[int]], list[int]
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        r = next((r for r, free in enumerate(room) if free >= sizes[i]), None)
        if r is None:
            rows.append([])
            room.append(width)
            r = len(rows) - 1
        rows[r].append(i)
        room[r] -= sizes[i]
    return rows


def microbatches(examples: Sequence[Example], tokens: int) -> Iterator[list[Example]]:
    """Split into runs of at most `tokens` packed tokens; an example is never split, a longer one stands alone."""
    run: list[Example] = []
    used = 0
    for e in examples:
        if run and used + e.tokens > tokens:
            yield run
            run, used = [], 0
        run.append(e)
        used += e.tokens
    if run:
        yield run


def prefix_tree(prompts: Sequence[Sequence[int]], prefixes: torch.Tensor, vocabulary: Sequence[int]) -> Batch:
    """Every prefix of an enumerable world behind each prompt, and every next token of it as a response of one token.

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
    own = torch.tensor(vocabulary)[prefixes.gather(1, (depth - 1).clamp(min=0)[:, None])[1:, 0]]
    width = max(map(len, prompts)) + n - 1
    tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
    positions = torch.zeros_like(tokens)
    until = torch.arange(1, width + 1).repeat(len(prompts), 1)
    predictor = []
    for x, prompt in enumerate(prompts):
        p = len(prompt)
        tokens[x, :p] = torch.tensor(prompt)
        tokens[x, p:p + n - 1] = own
        positions[x, :p] = torch.arange(p)
        positions[x, p:p + n - 1] = p + depth[1:] - 1
        until[x, :p] = p + n - 1
        until[x, p:p + n - 1] = ends[1:] + p - 1
        predictor.append(x * width + p - 1 + torch.arange(n))
    edges = len(prompts) * n * v
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        tokens=tokens, positions=positions, until=until,
        predictor=torch.cat(predictor).repeat_interleave(v),
        target=torch.tensor(vocabulary).repeat(len(prompts) * n),
        response=torch.arange(edges), groups=torch.arange(len(prompts)).repeat_interleave(n * v),
        lengths=torch.ones(edges, dtype=torch.int64), prompts=torch.arange(len(prompts)),
        pairs=none.view(0, 2), scored=none, scores=none.double(), labelled=none, labels=none.double(), demos=none,
    )
