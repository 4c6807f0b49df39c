"""Text to token ids: a `Row` becomes an `Example`, or a `Prompt` if its responses are still to be sampled."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

from una_ref.data.batch import Example, Prompt
from una_ref.data.examples import Examples
from una_ref.data.rows import Row
from una_ref.data.specials import Specials
from una_ref.errors import InputError

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""How messages become text if the tokenizer has no chat template of its own."""


class Encoder:
    """Turns a `Row` into an `Example`, and counts what it cut or dropped in `counts`.

    No token spans the boundary of prompt and response: the prompt has the ids that a model is given at inference, and
    the response has ids that continue them. EOS stands once at the end of every response that was not cut.

    A tokenizer's own chat template is used for messages and, as one user turn, for plain text; it also decides whether
    there is a BOS. Without one, messages go through `PLAIN_TEMPLATE`, plain text stays as it is, and BOS is put in
    front, if the tokenizer has one that differs from its EOS (GPT-2's does not).

    The name of a special token in a prompt or a response is plain text (`specials`). There are two exceptions: a BOS
    at the start of a plain prompt, and an EOS at the end of a response.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: most tokens of a prompt with a response. A longer response is cut and then has no EOS; a row whose
            prompt leaves no room is dropped.
        max_response: most tokens of a response, EOS included, if fewer.
        max_prompt: a row whose prompt has more tokens is dropped.
        split_special_tokens: false for texts that have been through a template already: the name of a special token is
            then that token.

    Attributes:
        counts: what happened to rows, prompts and responses, and how often.

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
        self._prompts: dict[int, int] = {}  # hash -> index; the prompts themselves would take most of the memory
        self._recent = lru_cache(maxsize=4)(self._tokenised)  # a prompt is tokenised alone and with each response

    @cached_property
    def specials(self) -> Specials:
        """What is a special token and what is text."""
        return Specials(self.tokenizer, split=self.split_special_tokens)

    @property
    def prompt_count(self) -> int:
        """How many different prompts have been encoded."""
        return len(self._prompts)

    @property
    def template(self) -> str:
        """The template that messages go through: the tokenizer's own, or the plain default."""
        return self.tokenizer.chat_template or PLAIN_TEMPLATE

    @cached_property
    def default_system_prompt(self) -> str:
        """What the chat template says as the system where the messages have no such turn; empty: nothing."""
        from jinja2 import TemplateError

        mark = "\ufdd0"
        turns = [{"role": "system", "content": mark}, {"role": "user", "content": ""}]
        if not self.tokenizer.chat_template:
            return ""
        try:
            given, text = (self.tokenizer.apply_chat_template(t, tokenize=False) for t in (turns, turns[1:]))
        except TemplateError:  # a template without system turns
            return ""
        before, _, after = given.partition(mark)
        return text[len(before) : len(text) - len(after)] if text.startswith(before) and text.endswith(after) else ""

    def __call__(self, row: Row) -> Example | None:
        """The row as token ids; None, and counted, if its prompt is too long or leaves no room for a response."""
        opening = self._text(row)
        prompt = tuple(self._prompt_ids(row, opening))
        room = self.max_length - len(prompt)
        if room < 1 or len(prompt) > (self.max_prompt or len(prompt)):
            self.counts["rows dropped: prompt too long"] += 1
            return None
        room = min(room, self.max_response or room)
        texts = [self.specials.hidden_before_eos(text) for text in row.responses]
        responses = []
        for text in texts:
            ids = self._response_ids(row, opening, text)
            if len(ids) > room:
                ids = ids[:room]
                self.counts["responses cut (they end without EOS)"] += 1
            responses.append(tuple(ids))
        self._count("rows", opening, *texts)
        if equal := sum(responses[i] == responses[j] for i, j in row.pairs or ()):
            self.counts["pairs of equal responses, which teach nothing"] += equal
        if row.as_list and row.scores and len({*row.scores}) == 1:
            self.counts["lists of equal scores, which rank nothing"] += 1
        index = self._index(prompt)
        feedback: dict[str, Any] = {
            "scores": row.scores,
            "labels": row.labels,
            "pairs": row.pairs,
            "as_list": row.as_list,
        }
        return Example(prompt, tuple(responses), prompt_index=index, source=row.source, **feedback)

    def prompt(self, row: Row, room: int) -> Prompt | None:
        """The row's prompt alone; None, and counted, if it is too long or leaves under `room` tokens to respond."""
        opening = self._text(row)
        ids = tuple(self._prompt_ids(row, opening))
        if len(ids) + room > self.max_length or len(ids) > (self.max_prompt or len(ids)):
            self.counts["prompts dropped: too long"] += 1
            return None
        self._count("prompts", opening)
        return Prompt(ids, row.prompt, self._index(ids), row.source)

    def prompt_ids(self, row: Row) -> list[int]:
        """Token ids of the prompt, BOS included once.

        Raises:
            InputError: the prompt has no token to predict from, or the chat template refuses its messages.
        """
        return self._prompt_ids(row, self._text(row))

    def _index(self, prompt: tuple[int, ...]) -> int:
        """The place of a prompt among the different ones."""
        name = hashlib.blake2b(array("q", prompt).tobytes(), digest_size=8).digest()
        return self._prompts.setdefault(int.from_bytes(name, "big"), len(self._prompts))

    def _count(self, what: str, *texts: str) -> None:
        self.counts[what] += 1
        if any(map(self.specials.hides, texts)):
            self.counts[f"{what} that spell a special token, which is text there"] += 1

    def _prompt_ids(self, row: Row, opening: str) -> list[int]:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = self._ids(opening)
        begun = ids[:1] == [bos]
        while ids[:1] == [bos]:  # a template's BOS and a tokenizer's own
            del ids[0]
        if begun or (bos not in (None, eos) and not self.tokenizer.chat_template):
            ids.insert(0, bos)
        if not ids:
            raise InputError(f"{row.source} prompt: expected at least one token to predict from, got {opening!r}")
        return ids

    def _response_ids(self, row: Row, opening: str, text: str) -> list[int]:
        """Token ids of one response (its special tokens hidden) after the prompt's text, EOS included once."""
        eos = self.tokenizer.eos_token_id
        if self.tokenizer.chat_template:
            conversation = self._text(row, text)
            text = conversation[len(opening) :] if conversation.startswith(opening) else text
        ids = self._continuation(opening, text)
        if not self.specials.token_ids.isdisjoint(ids):
            end = len(ids)
            while end and not self.tokenizer.decode(ids[end - 1]).strip():
                end -= 1
            if end and ids[end - 1] in self.specials.token_ids:
                del ids[end:]  # the line break that a template puts after a turn
        while ids[-1:] == [eos]:
            del ids[-1]
        return [*ids, eos]

    def _continuation(self, opening: str, text: str) -> list[int]:
        """Ids of a text after another: as tokenised in that place, unless a token would span the boundary.

        In that case they are those after a line break, since a tokenizer of Llama's kind puts a space in front of a
        text alone. Where a token would span that boundary as well, they are those of the text alone.
        """
        for before in (opening, "\n", ""):
            context, both = self._ids(before), self._ids(before + text)
            if both[: len(context)] == context:
                break
        return both[len(context) :]

    def _ids(self, text: str) -> list[int]:
        return list(self._recent(text))

    def _tokenised(self, text: str) -> tuple[int, ...]:
        return tuple(self.specials.ids(text))

    def _text(self, row: Row, response: str | None = None) -> str:
        """The prompt as text, ready to be answered; with a response (special tokens hidden), the conversation."""
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
                f"{row.source} prompt: expected messages that the chat template takes, got roles "
                f"{[t['role'] for t in turns]}: {error}"
            ) from None

    def encode(self, rows: Iterable[Row], *, room: int | None = None) -> Examples:
        """Every row that fits, as an example; with `room`, as a prompt that leaves so many tokens to respond.

        Raises:
            InputError: no row is left.
        """
        examples = self.fitting(rows, room=room)
        if not examples:
            what = "row that fits" if room is None else f"prompt that leaves room for {room} tokens in"
            raise InputError(
                f"data: expected at least one {what} max_length={self.max_length}, got {dict(self.counts) or 'no rows'}"
            )
        return examples

    def fitting(self, rows: Iterable[Row], *, room: int | None = None) -> Examples:
        """The same, if any row fits."""
        encoded = map(self, rows) if room is None else (self.prompt(row, room) for row in rows)
        return Examples(item for item in encoded if item is not None)
