"""Rows become token ids, and token ids become a `Batch`: every prompt once, its responses packed behind it.

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

import hashlib
import heapq
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch

from una_ref.data.rows import Row
from una_ref.data.specials import Specials
from una_ref.data.stored import Stored
from una_ref.errors import InputError

Layout = Literal["packed", "padded"]

ROOM = 1024
"""Most tokens of responses behind a prompt in a packed row; or as many as a longer prompt has, so that rows hold
no more of prompts than of responses."""

LINEAR = 2048
"""Tokens of a row at which attention costs as much as all else: 6 times a transformer's width, so for a large model
many more; but then rows are long already."""

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""How messages become text where the tokenizer has no chat template of its own."""


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
    """What is known of each token of each response since it was drawn, by a loss's name for it (old_token_logps, …)."""

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
        """The kind of feedback: demos, pairs, labels or scores."""
        feedback = {"pairs": self.pairs, "labels": self.labels, "scores": self.scores}
        return next((name for name, value in feedback.items() if value is not None), "demos")

    @property
    def count(self) -> int:
        """How many losses the example contributes: one a pair, else one a response."""
        return len(self.pairs) if self.pairs is not None else len(self.responses)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt that is still to be answered: its token ids, and the text (or messages) that they are."""

    prompt: tuple[int, ...]
    text: str | tuple[dict, ...]
    prompt_index: int = 0
    source: str = ""


class Encoder:
    """Turns a `Row` into an `Example`; what it had to cut or drop is counted in `counts`.

    No token spans the boundary: a prompt's ids are what a model is given at inference, a response's ids what
    continues them. EOS stands once at the end of every response that was not cut. A tokenizer's own chat
    template is used for messages and, as one user turn, for plain text, and itself says whether there is a
    BOS. Without one, messages go through `PLAIN_TEMPLATE`, plain text stays as it is, and BOS stands in front
    (if the tokenizer has one that is not also its EOS, as GPT-2's is). What is written in a prompt or a response is
    text: the name of a special token in it is no token (`specials`), but for a BOS that a plain prompt begins with and
    an EOS that a response ends with.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: most tokens of prompt and response together. A longer response is cut and then has no EOS;
            a row whose prompt leaves no room is dropped.
        max_response: most tokens of a response (EOS included), if fewer.
        max_prompt: a row whose prompt has more tokens is dropped.
        split_special_tokens: see above; false for texts that have been through a template already.

    Raises:
        InputError: the tokenizer has no EOS, so that no response could end.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int = 2048,
        max_response: int | None = None,
        max_prompt: int | None = None,
        split_special_tokens: bool = True,
    ) -> None:
        if tokenizer.eos_token_id is None:
            name = getattr(tokenizer, "name_or_path", "")
            raise InputError(f"tokenizer {name!r}: expected one with an EOS token, got none")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_response = max_response
        self.max_prompt = max_prompt
        self.split_special_tokens = split_special_tokens
        self.counts: Counter[str] = Counter()
        self._prompts: dict[int, int] = {}  # by hash: the prompts of a large file take more room than all else
        self._recent = lru_cache(maxsize=4)(self._tokenised)  # a prompt's text is asked for once and with each response

    @cached_property
    def specials(self) -> Specials:
        """What is a special token and what is text."""
        return Specials(self.tokenizer, split=self.split_special_tokens)

    @property
    def prompts(self) -> int:
        """How many different prompts have been encoded."""
        return len(self._prompts)

    @property
    def template(self) -> str:
        """The template that messages go through: the tokenizer's own, or the plain default."""
        return self.tokenizer.chat_template or PLAIN_TEMPLATE

    def __call__(self, row: Row) -> Example | None:
        """The row as token ids; None, and counted, where its prompt is too long or leaves no room for a response."""
        prompt = self.prompt(row)
        room = self.max_length - len(prompt)
        if room < 1 or len(prompt) > (self.max_prompt or len(prompt)):
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
        self._count("rows", row, row.responses)
        if equal := sum(responses[i] == responses[j] for i, j in row.pairs or ()):
            self.counts["pairs of equal responses, which teach nothing"] += equal
        index = self._index(tuple(prompt))
        return Example(tuple(prompt), tuple(responses), row.scores, row.labels, row.pairs, index, row.source)

    def question(self, row: Row, room: int) -> Question | None:
        """The row's prompt alone; None, and counted, where it is too long or leaves no `room` (tokens) to respond."""
        prompt = tuple(self.prompt(row))
        if len(prompt) + room > self.max_length or len(prompt) > (self.max_prompt or len(prompt)):
            self.counts["prompts dropped: too long"] += 1
            return None
        self._count("prompts", row, ())
        return Question(prompt, row.prompt, self._index(prompt), row.source)

    def _index(self, prompt: tuple[int, ...]) -> int:
        """The place of a prompt among the different ones."""
        name = hashlib.blake2b(array("q", prompt).tobytes(), digest_size=8).digest()
        return self._prompts.setdefault(int.from_bytes(name, "big"), len(self._prompts))

    def _count(self, what: str, row: Row, responses: Sequence[str]) -> None:
        self.counts[what] += 1
        texts = (self._text(row), *map(self.specials.hidden_before_eos, responses))
        if any(map(self.specials.hides, texts)):
            self.counts[f"{what} that spell a special token, which is text there"] += 1

    def prompt(self, row: Row) -> list[int]:
        """Token ids of the prompt, BOS included once.

        Raises:
            InputError: the prompt has no token to predict from, or the chat template refuses its messages.
        """
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        text = self._text(row)
        ids = self._ids(text)
        begun = ids[:1] == [bos]
        while ids[:1] == [bos]:  # a template's BOS and a tokenizer's own
            del ids[0]
        if begun or (bos not in (None, eos) and not self.tokenizer.chat_template):
            ids.insert(0, bos)
        if not ids:
            raise InputError(f"{row.source}: prompt: expected a token or more to predict from, got {text!r}")
        return ids

    def response(self, row: Row, text: str) -> list[int]:
        """Token ids of one response, EOS included once."""
        eos = self.tokenizer.eos_token_id
        opening = self._text(row)
        text = self.specials.hidden_before_eos(text)
        if self.tokenizer.chat_template:
            whole = self._text(row, text)
            text = whole[len(opening) :] if whole.startswith(opening) else text
        ids = self._continuation(opening, text)
        end = len(ids)
        while end and not self.tokenizer.decode(ids[end - 1]).strip():
            end -= 1
        if end and ids[end - 1] in self.tokenizer.all_special_ids:
            del ids[end:]  # the line break that a template puts behind a turn
        while ids[-1:] == [eos]:
            del ids[-1]
        return [*ids, eos]

    def _continuation(self, opening: str, text: str) -> list[int]:
        """Ids of a text behind another: as tokenised in that place, unless a token would span the boundary.

        In that case as tokenised behind a line break (alone, it would get a space in front from tokenizers of
        Llama's kind), and where the line break has the same trouble, alone.
        """
        for before in (opening, "\n", ""):
            context, whole = self._ids(before), self._ids(before + text)
            if whole[: len(context)] == context:
                break
        return whole[len(context) :]

    def _ids(self, text: str) -> list[int]:
        return list(self._recent(text))

    def _tokenised(self, text: str) -> tuple[int, ...]:
        return tuple(self.specials.ids(text))

    def _text(self, row: Row, response: str | None = None) -> str:
        """The prompt as text, ready to be answered; with a response (hidden already), the whole conversation."""
        from jinja2 import TemplateError

        own = self.tokenizer.chat_template
        if isinstance(row.prompt, str) and not own:
            return self.specials.hidden_behind_bos(row.prompt)
        given = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
        hidden = self.specials.hidden
        turns = [{key: hidden(v) if isinstance(v, str) else v for key, v in turn.items()} for turn in given]
        if response is not None:
            turns.append({"role": "assistant", "content": response})
        try:
            return self.tokenizer.apply_chat_template(
                turns,
                chat_template=None if own else PLAIN_TEMPLATE,
                tokenize=False,
                add_generation_prompt=response is None,
            )
        except TemplateError as error:
            raise InputError(
                f"{row.source}: prompt: expected messages that the chat template takes, got roles "
                f"{[t['role'] for t in turns]}: {error}"
            ) from None

    def encode(self, rows: Iterable[Row]) -> Stored[Example]:
        """All rows that fit.

        Raises:
            InputError: when no row is left.
        """
        examples = self.fitting(rows)
        if not examples:
            raise InputError(
                f"data: expected at least one row that fits max_length={self.max_length}, "
                f"got {dict(self.counts) or 'no rows'}"
            )
        return examples

    def fitting(self, rows: Iterable[Row]) -> Stored[Example]:
        """All rows that fit, if any does."""
        return Stored(e for e in map(self, rows) if e is not None)


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
        scored, scores: (S,) responses that have a score, and the scores.
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
    scored: torch.Tensor
    scores: torch.Tensor
    labelled: torch.Tensor
    labels: torch.Tensor
    demos: torch.Tensor
    experience: Mapping[str, torch.Tensor] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    layout: Layout = "packed"
    whole: bool = False

    @property
    def count(self) -> int:
        """Losses in the batch: pairs, scored, labelled and imitated responses."""
        return len(self.pairs) + len(self.scored) + len(self.labelled) + len(self.demos)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        moved: dict[str, Any] = {k: v.to(device) for k, v in values if isinstance(v, torch.Tensor)}
        return replace(self, **moved, experience={k: v.to(device) for k, v in self.experience.items()})

    def by_response(self, values: torch.Tensor) -> torch.Tensor:
        """(N,) -> (B, T): each response's tokens in a line, 0 behind its end."""
        ends = self.lengths.cumsum(0)
        at = torch.arange(len(values), device=values.device) - (ends - self.lengths)[self.response]
        return values.new_zeros(len(ends), int(self.lengths.max())).index_put((self.response, at), values)

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
        scored=ints(of("scores")),
        scores=reals([s for e in examples if e.kind == "scores" for s in e.scores or ()]),
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
        scored=none,
        scores=none.double(),
        labelled=none,
        labels=none.double(),
        demos=none,
    )
