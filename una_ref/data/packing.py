"""Which prompts and responses share a row of a batch.

A block is a prompt with some of its responses after it. Attention costs the square of a row's length, and as much for a
token that nobody sees; padding costs what tokens cost. Rows are chosen to make both small.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

ROOM = 1024
"""Most tokens of responses after a prompt in a packed row. For a longer prompt it is the length of the prompt, so that
copies of prompts fill at most half of the rows."""

LINEAR = 2048
"""Row length, in tokens, at which attention costs as much as everything else. It is 6 times a transformer's width: more
for a large model, whose rows are long anyway."""


def blocks(prompt: int, responses: Sequence[int]) -> list[tuple[range, int]]:
    """The responses that follow each copy of a prompt, up to `ROOM` tokens of them, and the tokens of the block.

    Args:
        prompt: its tokens.
        responses: tokens that are laid out of each.
    """
    room = max(ROOM, prompt)
    spans, start, used = [], 0, 0
    for k, size in enumerate(responses):
        if k > start and used + size > room:
            spans.append(range(start, k))
            start, used = k, 0
        used += size
    spans.append(range(start, len(responses)))
    return [(span, prompt + sum(responses[k] for k in span)) for span in spans]


def rows(sizes: Sequence[int]) -> list[list[int]]:
    """Which blocks share a row.

    First-fit decreasing into rows as long as the longest block. Where that leaves much padding, the cheapest of this
    and of even rows of up to four such blocks.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    fitted = _first_fit(sizes, order)
    total, longest = sum(sizes), sizes[order[0]]
    if len(fitted) * longest < 1.1 * total:
        return fitted
    counts = sorted({math.ceil(total / (longest * blocks)) for blocks in (1, 1.5, 2, 3, 4)})
    tried = [fitted, *(_evenly(sizes, order, count) for count in counts)]
    return min(tried, key=lambda rows: cells(sizes, rows) * (_width(sizes, rows) + LINEAR))


def cells(sizes: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    """Tokens of the rows, padding included."""
    return len(rows) * _width(sizes, rows)


def _width(sizes: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    return max(sum(sizes[i] for i in row) for row in rows)


def _first_fit(sizes: Sequence[int], order: Sequence[int]) -> list[list[int]]:
    rows, room = [], []  # type: list[list[int]], list[int]
    r, size = 0, 0
    for i in order:
        if sizes[i] != size:  # where a block did not fit, the next one of the same size does not fit either
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
    """Put each block into the row that is the shortest so far."""
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, r) for r in range(count)]
    for i in order:
        size, r = heapq.heappop(filled)
        rows[r].append(i)
        heapq.heappush(filled, (size + sizes[i], r))
    return rows
