"""Text to token ids, where user text never becomes a special token.

A tokenizer reads ``</s>`` as the end of a sequence wherever it stands, also in a question about HTML, and a prompt with
``<|im_end|>`` in it would end its own turn. Only a template may write special tokens. So their names are hidden in a
text before it goes into a template, and are then tokenised as ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_MARK = "\ufdd0"
"""A code point that Unicode reserves for use inside of programs."""
_HIDDEN = re.compile(f"{_MARK}([0-9]+)\ufdd1")
"""A hidden name: its number between that code point and the next one."""


def special_names(tokenizer: Any) -> list[str]:
    """The names of all special tokens, the longest first."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)


class Specials:
    """The special tokens of a tokenizer, as text.

    Args:
        tokenizer: a Hugging Face tokenizer.
        split: whether the name of a special token in a text is split into ordinary tokens. Otherwise it is the special
            token, as in texts that have been through a template. (`split_special_tokens` in transformers.)
        ends: ids of the tokens that may end a response, beside the tokenizer's EOS.

    Attributes:
        token_ids: ids of the special tokens that the tokenizer names, and of `ends`.
    """

    def __init__(self, tokenizer: Any, *, split: bool = True, ends: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        names = special_names(tokenizer) if split else []
        more = (tokenizer.convert_ids_to_tokens(i) for i in ends if i != tokenizer.eos_token_id)
        self._ends = tuple(name for name in (tokenizer.eos_token, *more) if name)
        names.append(_MARK)  # hidden as well, so that a text that holds it is not misread
        self._numbers = {name: i for i, name in enumerate(names)}
        self._names = re.compile("|".join(map(re.escape, names)))
        self.token_ids = frozenset({*tokenizer.all_special_ids, *ends})
        self._start = re.compile(f"(?:{re.escape(tokenizer.bos_token)})*" if tokenizer.bos_token else "")

    def hidden(self, text: str) -> str:
        """The text with the names of all special tokens hidden."""
        return self._names.sub(lambda found: f"{_MARK}{self._numbers[found[0]]}\ufdd1", text)

    def hides(self, text: str) -> bool:
        """Whether the name of a special token is hidden in a text."""
        return any(int(found[1]) < len(self._numbers) - 1 for found in _HIDDEN.finditer(text))

    def hidden_behind_bos(self, text: str) -> str:
        """The same for a prompt, whose BOS at the start stays."""
        start = self._start.match(text)
        at = start.end() if start else 0
        return text[:at] + self.hidden(text[at:])

    def hidden_before_eos(self, text: str) -> str:
        """The same for a response, whose first end at the end stays; white space and ends behind it go."""
        at, end, last = len(text), len(text.rstrip()), ""
        # A regex would take time quadratic in their number.
        while name := next((name for name in self._ends if text.endswith(name, 0, end)), None):
            at, last = end - len(name), name
            end = at
            while end and text[end - 1].isspace():
                end -= 1
        return self.hidden(text[:at]) + last

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS: names are special tokens, hidden names are text."""
        first, *rest = _HIDDEN.split(text)
        ids = self._ids(first) if first or not rest else []
        names = list(self._numbers)
        for place, piece in enumerate(rest):
            if place % 2:
                ids += self._after(piece)
            else:
                ids += self._after(names[int(piece)], split_special_tokens=True)
        return ids

    def _after(self, text: str, **options: bool) -> list[int]:
        """Ids of a text as they are after another one: some tokenizers put a space in front of a text alone."""
        context, both = self._ids("\n", **options), self._ids(f"\n{text}", **options)
        return both[len(context) :] if both[: len(context)] == context else self._ids(text, **options)

    def _ids(self, text: str, **options: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])
