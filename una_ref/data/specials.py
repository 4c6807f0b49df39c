"""Text to token ids, where what somebody wrote is never a special token.

A tokenizer reads ``</s>`` as the end of a sequence wherever it stands, in a question about HTML too, and whoever writes
``<|im_end|>`` into a prompt ends his own turn. Only a template may do that. So the names of special tokens are hidden
in a text before it goes into a template, and become ids as any other text does.
"""

from __future__ import annotations

import re
from typing import Any

_MARK = "\ufdd0"
"""A code point that Unicode keeps for use inside of programs."""
_HIDDEN = re.compile(f"{_MARK}([0-9]+)\ufdd1")
"""The number of a name between it and the next such one."""


class Specials:
    """The special tokens of a tokenizer, as text.

    Args:
        tokenizer: a Hugging Face tokenizer.
        split: whether the names of special tokens are split into what they are written with; otherwise they are the
            tokens, as in texts that have been through a template before. (`split_special_tokens` in transformers.)
    """

    def __init__(self, tokenizer: Any, *, split: bool = True) -> None:
        self.tokenizer = tokenizer
        added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        names = sorted({*added, *tokenizer.all_special_tokens} if split else (), key=len, reverse=True)
        names.append(_MARK)  # so that a text that has it is not taken for one of ours
        self._numbers = {name: i for i, name in enumerate(names)}
        self._names = re.compile("|".join(map(re.escape, names)))
        self._start = re.compile(f"(?:{re.escape(tokenizer.bos_token)})*" if tokenizer.bos_token else "")

    def hidden(self, text: str) -> str:
        """The text with every name hidden, such that a template leaves it alone."""
        return self._names.sub(lambda found: f"{_MARK}{self._numbers[found[0]]}\ufdd1", text)

    def hides(self, text: str) -> bool:
        """Whether a special token's name is hidden in a text."""
        return any(int(found[1]) < len(self._numbers) - 1 for found in _HIDDEN.finditer(text))

    def hidden_behind_bos(self, text: str) -> str:
        """The same of a prompt that may bring its BOS along."""
        start = self._start.match(text)
        at = start.end() if start else 0
        return text[:at] + self.hidden(text[at:])

    def hidden_before_eos(self, text: str) -> str:
        """The same of a response that may bring its EOS along."""
        eos, at, end = self.tokenizer.eos_token, len(text), len(text.rstrip())
        while eos and text.endswith(eos, 0, end):  # no regex: it would take the square of their number
            at = end = end - len(eos)
            while end and text[end - 1].isspace():
                end -= 1
        return self.hidden(text[:at]) + text[at:]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, nothing put around it: names as special tokens, hidden names as text."""
        first, *rest = _HIDDEN.split(text)
        ids = self._ids(first) if first or not rest else []
        names = list(self._numbers)
        for place, piece in enumerate(rest):
            if place % 2:
                ids += self._behind(piece)
            else:
                ids += self._behind(names[int(piece)], split_special_tokens=True)
        return ids

    def _behind(self, text: str, **options: bool) -> list[int]:
        """Ids of a text as they stand behind another one: alone it would get a space in front from some tokenizers."""
        context, whole = self._ids("\n", **options), self._ids(f"\n{text}", **options)
        return whole[len(context) :] if whole[: len(context)] == context else self._ids(text, **options)

    def _ids(self, text: str, **options: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])
