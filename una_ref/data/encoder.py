"""Text to token ids: a `Row` becomes an `Example`, or a `Prompt` if its responses are still to be sampled."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections import Counter
from collections.abc import Iterable
from copy import copy
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

from una_ref.data.batch import Example, Prompt
from una_ref.data.chat_rows import as_chat
from una_ref.data.examples import Examples
from una_ref.data.rendering import Rendering
from una_ref.data.rows import Row
from una_ref.data.specials import Specials
from una_ref.data.templates import ChatTemplate
from una_ref.errors import InputError


class Encoder:
    """Turns a `Row` into an `Example`, and counts what it cut or dropped in `counts`.

    No token spans the boundary of prompt and response: the prompt has the ids that a model is given at inference, and
    the response has ids that continue them. One end token stands at the end of every response that was not cut: the
    one that the template ends a turn with if generation stops there, else EOS.

    A tokenizer's own chat template is used for messages and, as one user turn, for plain text; it also decides whether
    there is a BOS. Without one, messages go through `PLAIN_TEMPLATE`, plain text stays as it is, and BOS is put in
    front, if the tokenizer has one that differs from its EOS (GPT-2's does not). With a template, a dialogue in the
    form of Anthropic's HH becomes messages.

    Nothing vanishes in the template: a row whose text, tools, tool calls or thoughts it does not render is refused. A
    response that it renders otherwise than after its own opening (a thought, most often) is encoded as a sample would
    be: its text behind the opening, and the end of the turn.

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
        ends: ids at which generation stops, beside the tokenizer's EOS.
        bad_rows: what happens to a row that cannot be encoded: an "error", or it is counted ("drop").

    Attributes:
        ends: all ids at which a response ends, EOS first.
        counts: what happened to rows, prompts and responses, and how often.

    Raises:
        InputError: the tokenizer has no EOS, so that no response could end; or its template loses text.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int = 2048,
        max_response: int | None = None,
        max_prompt: int | None = None,
        split_special_tokens: bool = True,
        ends: Iterable[int] = (),
        bad_rows: str = "error",
    ) -> None:
        if tokenizer.eos_token_id is None:
            name = getattr(tokenizer, "name_or_path", "")
            raise InputError(f"tokenizer {name!r}: expected one with an EOS token, got none")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_response = max_response
        self.max_prompt = max_prompt
        self.split_special_tokens = split_special_tokens
        self.ends = tuple(dict.fromkeys((tokenizer.eos_token_id, *ends)))
        self.bad_rows = bad_rows
        self.chat_template = ChatTemplate(tokenizer)
        self.chat_template.check()
        self.counts: Counter[str] = Counter()
        self._dropped: dict[str, str] = {}  # what was dropped -> its sentence, with the first error
        self._prompts: dict[int, int] = {}  # hash -> index; the prompts themselves would take most of the memory
        self._recent = lru_cache(maxsize=4)(self._tokenised)  # a prompt is tokenised alone and with each response

    @cached_property
    def specials(self) -> Specials:
        """What is a special token and what is text."""
        return Specials(self.tokenizer, split=self.split_special_tokens, ends=self.ends)

    @cached_property
    def rendering(self) -> Rendering:
        """How a row becomes text."""
        return Rendering(self.chat_template, self.specials)

    @property
    def prompt_count(self) -> int:
        """How many different prompts have been encoded."""
        return len(self._prompts)

    @property
    def template(self) -> str:
        """The template that messages go through: the tokenizer's own, or the plain default."""
        return self.chat_template.source

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
        row = as_chat(row, self.chat_template, self.counts)
        opening = self.rendering.opening(row, self.counts)
        prompt = tuple(self._prompt_ids(row, opening))
        room = self.room(len(prompt))
        if not room:
            self.counts["rows dropped: prompt too long"] += 1
            return None
        responses, masks = [], []
        for text, fields, earlier in zip(row.responses, row.fields_of_responses, row.earlier, strict=True):
            last = {"role": "assistant", "content": text, **fields}
            ids, mask = self._turns(row, opening, prompt, [*earlier, last])
            if len(ids) > room:
                ids, mask = ids[:room], mask[:room]
                whole = not mask[-1]
                while not mask[-1]:  # nothing follows that context
                    del ids[-1], mask[-1]
                self.counts[f"responses cut ({'after an earlier turn' if whole else 'they end without EOS'})"] += 1
            responses.append(tuple(ids))
            masks.append(tuple(mask))
        said = chain(row.responses, (turn.get("content") or "" for turns in row.earlier for turn in turns))
        self._count("rows", opening, *map(self.specials.hidden_before_eos, said))
        if not isinstance(row.prompt, str) and any(message["role"] == "assistant" for message in row.prompt):
            self.counts["prompts with turns of the assistant, which are context and not trained on"] += 1
        if isinstance(row.prompt, str) and any(text.startswith(row.prompt.strip()) for text in row.responses):
            self.counts["rows with a response that begins with its prompt"] += 1
        if equal := sum(responses[i] == responses[j] for i, j in row.pairs or ()):
            self.counts["pairs of equal responses, which teach nothing"] += equal
        if row.as_list and row.scores and len({*row.scores}) == 1:
            self.counts["lists of equal scores, which rank nothing"] += 1
        index = self._index(prompt)
        feedback: dict[str, Any] = {
            "scores": row.scores,
            "labels": row.labels,
            "pairs": row.pairs,
            "weights": row.weights,
            "margins": row.margins,
            "as_list": row.as_list,
        }
        if not all(map(all, masks)):
            feedback["trained"] = tuple(masks)
        return Example(prompt, tuple(responses), prompt_index=index, source=row.source, **feedback)

    def _turns(
        self, row: Row, opening: str, prompt: tuple[int, ...], turns: list[dict[str, Any]]
    ) -> tuple[list[int], list[bool]]:
        """(token ids, whether each is the assistant's) of a response of one or several messages.

        What stands between two turns of the assistant is found by the prompts that a model is given: the prompt of a
        later turn must begin with the prompt and the answer of the turn before. What follows there is context.
        Whatever becomes of several turns is counted once for the response.

        Raises:
            InputError: the template renders an earlier turn otherwise than it was answered.
        """
        ids: list[int] = []
        mask: list[bool] = []
        notes: set[str] = set()
        asked = row
        for i, message in enumerate(turns):
            if message["role"] != "assistant":
                continue
            if i:
                before, known = asked.prompt, [*prompt, *ids]
                more: dict[str, Any] = {"source": row.source, "template_arguments": row.template_arguments}
                asked = Row((*row.prompt, *turns[:i]), (), **more)
                opening = self.rendering.opening(asked, self.counts, len(before) + 1)
                given = self._prompt_ids(asked, opening)
                if given[: len(known)] != known:
                    raise self._rewritten(row, known, given)
                between = given[len(known) :]
                ids += between
                mask += [False] * len(between)
                notes.add("responses of several turns: the assistant's are trained on, others are context (turns=all)")
            fields = {k: v for k, v in message.items() if k not in ("role", "content") and v is not None}
            text = self.specials.hidden_before_eos(message.get("content") or "")
            text, note = self.rendering.response(asked, opening, text, fields, self.counts)
            own = self._response_ids(opening, text)
            notes |= {note, self._end_note}
            ids += own
            mask += [True] * len(own)
        self.counts.update(notes - {""})
        return ids, mask

    def _rewritten(self, row: Row, known: list[int], given: list[int]) -> InputError:
        """The error for a template that renders an earlier turn otherwise than it was answered."""
        at = next((i for i, (a, b) in enumerate(zip(known, given, strict=False)) if a != b), len(given))
        mark, ids = self._turn_end
        eos = self.tokenizer.eos_token
        at_end = at >= len(known) - 2  # at the end, or at a token that spans it
        if self._end not in ids and (at_end or not self.chat_template.own):
            expected = "a chat template that ends a turn with a token at which generation stops"
            got = f"{mark!r:.30}, which is none" if mark else "one without an end of turns"
            fix = f"turns=last, or template=FILE with {eos!r:.30} at the end of each turn of the assistant"
            if len(ids) == 1:
                fix = (
                    f"add {ids[0]} ({mark!r:.30}) to eos_token_id in the model's generation_config.json, or turns=last"
                )
            return InputError(f"{row.source} response: expected {expected}, got {got}. Fix: {fix}")
        answered, later = (self.tokenizer.decode(ids[at : at + 8]) for ids in (known, given))
        return InputError(
            f"{row.source} response: expected a chat template that renders earlier turns as they were answered, got "
            f"{later!r:.30} for {answered!r:.30}. Fix: turns=last, or template=FILE with one that does"
        )

    def room(self, prompt: int) -> int:
        """Most tokens of a response after a prompt of so many tokens; 0 where the row is dropped."""
        left = self.max_length - prompt
        if left < 1 or prompt > (self.max_prompt or prompt):
            return 0
        return min(left, self.max_response or left)

    def unlimited(self) -> Encoder:
        """The same encoder with counts of its own, which cuts and drops nothing."""
        other = copy(self)
        other.max_length, other.max_response, other.max_prompt = sys.maxsize, None, None
        other.counts, other._prompts, other._dropped = Counter(), {}, {}
        return other

    def prompt(self, row: Row, room: int) -> Prompt | None:
        """The row's prompt alone; None, and counted, if it is too long or leaves under `room` tokens to respond."""
        given, row = row, as_chat(row, self.chat_template, self.counts)
        opening = self.rendering.opening(row, self.counts)
        ids = tuple(self._prompt_ids(row, opening))
        if len(ids) + room > self.max_length or len(ids) > (self.max_prompt or len(ids)):
            self.counts["prompts dropped: too long"] += 1
            return None
        self._count("prompts", opening)
        return Prompt(ids, given.prompt, self._index(ids), row.source, row.columns)

    def prompt_ids(self, row: Row) -> list[int]:
        """Token ids of the prompt, BOS included once.

        Raises:
            InputError: the prompt has no token to predict from, or the chat template refuses its messages.
        """
        row = as_chat(row, self.chat_template, self.counts)
        return self._prompt_ids(row, self.rendering.opening(row, self.counts))

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

    def _response_ids(self, opening: str, text: str) -> list[int]:
        """Token ids of what stands behind the opening (special tokens of its own hidden), with its end token once."""
        ids = self._continuation(opening, text)
        if not self.specials.token_ids.isdisjoint(ids):
            end = len(ids)
            while end and not self.tokenizer.decode(ids[end - 1]).strip():
                end -= 1
            if end and ids[end - 1] in self.specials.token_ids:
                del ids[end:]  # the line break that a template puts after a turn
        while ids and ids[-1] in self.ends:
            del ids[-1]
        return [*ids, self._end]

    @cached_property
    def _turn_end(self) -> tuple[str, list[int]]:
        """What the tokenizer's own template ends a turn of the assistant with, as text and as ids."""
        mark = self.chat_template.turn_end.strip() if self.chat_template.own else ""
        return mark, self._ids(mark) if mark else []

    @cached_property
    def _end(self) -> int:
        """The token that ends a response: the one of the template's turn if generation stops there, else EOS."""
        return next((i for i in self._turn_end[1] if i in self.ends), self.ends[0])

    @cached_property
    def _end_note(self) -> str:
        """What is said of a template whose end of a turn does not stop generation."""
        mark, ids = self._turn_end
        eos = self.tokenizer.eos_token
        what = f"responses that end with {eos!r:.30} after {mark!r:.30}, the template's end of a turn: "
        return f"{what}generation does not stop there" if mark and self._end not in ids else ""

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
        encoded = (self._encoded(row, room) for row in rows)
        return Examples(item for item in encoded if item is not None)

    def _encoded(self, row: Row, room: int | None) -> Any:
        """The row or its prompt encoded; None, and counted, if it does not fit or is a bad row to drop.

        A row may hold the responses of several rows. Only those that cannot be encoded are dropped then.
        """
        before = self.counts.copy()
        try:
            return self(row) if room is None else self.prompt(row, room)
        except InputError as error:
            if self.bad_rows == "error":
                raise
            self._restore(before)
            good = [] if room is not None else [i for i in range(len(row.responses)) if self._takes(row, i)]
            left = row.cut_to(good)
            lost = _size(row) - (_size(left) if left else 0)
            if not left or lost:
                what = "rows" if _size(row) == 1 else "pairs" if row.pairs else "responses"
                begun = f"{what} dropped: the template does not take them"
                self._dropped.setdefault(begun, f"{begun} (the first: {error})")
                self.counts[self._dropped[begun]] += lost
            return self(left) if left else None

    def _takes(self, row: Row, place: int) -> bool:
        """Whether a response of the row can be encoded; nothing is counted."""
        before = self.counts.copy()
        try:
            self(row.picked([place]))
        except InputError:
            return False
        finally:
            self._restore(before)
        return True

    def _restore(self, counts: Counter[str]) -> None:
        """Forget what was counted since."""
        self.counts.clear()
        self.counts.update(counts)


def _size(row: Row) -> int:
    """Of how many rows of a file, at least, a row was made: its pairs, its responses, or one list or prompt."""
    return len(row.pairs) if row.pairs else 1 if row.as_list or not row.responses else len(row.responses)
