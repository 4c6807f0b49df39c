"""The one store of encoded examples, and what a run needs to know of all of them before its first step."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from una_ref.data.batch import Example, Prompt
from una_ref.data.storage import DiskList

T = TypeVar("T", bound=Example | Prompt)
MORE = ("trained", "weights", "margins")
"""Fields that are in the name of the data where they have a value."""


class Examples(DiskList[T]):
    """Examples, or prompts of online runs, on disk; what is asked of all of them is noted as they are put in.

    Memory: 16 bytes each.

    Attributes:
        kinds: of feedback.
        lowest, highest: score; infinite if there is none.
        sums: kind of feedback -> (sum, number) of its scores or labels.
        alone: kind of feedback -> source of the first example with one response.
        prompts: the `prompt_index` of each example.
        spans: "weights" or "margins" -> (lowest, highest) of the pairs that have them.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self.kinds: set[str] = set()
        self.lowest, self.highest = math.inf, -math.inf
        self.sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        self.alone: dict[str, str] = {}
        self.prompts = array("I")
        self.spans: dict[str, tuple[float, float]] = {}
        self._digest = hashlib.sha256()
        super().__init__(items)

    def extend(self, items: Iterable[T]) -> None:
        """Append items, and note what is asked of them."""
        super().extend(self._noted(items))

    def _noted(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            self._digest.update(_content(item))
            self.prompts.append(item.prompt_index)
            if isinstance(item, Example):
                self._note(item)
            yield item

    def _note(self, example: Example) -> None:
        kind = example.kind
        self.kinds.add(kind)
        for name, own in (("weights", example.weights), ("margins", example.margins)):
            if own:
                self.spans[name] = min(*own, *self.spans.get(name, own)), max(*own, *self.spans.get(name, own))
        if len(example.responses) == 1:
            self.alone.setdefault(kind, example.source)
        for score in example.scores or ():
            self.lowest, self.highest = min(self.lowest, score), max(self.highest, score)
        values = {"scores": example.scores, "lists": example.scores, "labels": example.labels}.get(kind) or ()
        total, number = self.sums[kind]
        for value in values:
            total, number = total + value, number + 1
        self.sums[kind] = total, number

    def mean(self, kind: str) -> float | None:
        """Mean score or label of a kind of feedback; None if there is none."""
        total, number = self.sums[kind]
        return total / number if number else None

    @property
    def digest(self) -> str:
        """See the function of this name."""
        return self._digest.hexdigest()[:16]


def digest(examples: Sequence[Example | Prompt]) -> str:
    """A name for the data that a run trains on: 64 bits of SHA-256 of token ids and feedback, in order."""
    if isinstance(examples, Examples):
        return examples.digest
    name = hashlib.sha256()
    for item in examples:
        name.update(_content(item))
    return name.hexdigest()[:16]


def _content(item: Example | Prompt) -> bytes:
    if isinstance(item, Example):
        more = [(name, value) for name in MORE if (value := getattr(item, name)) is not None]
        return repr((item.prompt, item.responses, item.scores, item.labels, item.pairs, *more)).encode()
    return repr((item.ids, *([dict(item.columns)] if item.columns else []))).encode()
