"""What is in the rows of some data, measured before training: counts, lengths, near-equal pairs, ties, odd characters.

Each text is read once and no two rows are compared: what rows share is found by sorting hashes of 64 bits. Time is
n·log n in the number of rows. Memory is about 100 bytes a row, since the rows themselves stay where they are.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from una_ref.data.dialogues import holds_turn
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row

NEAR = 0.95
"""Two responses are nearly equal where they share this part of their words (Dice, with repetitions)."""

CHARACTERS: Mapping[str, re.Pattern[str]] = {
    "control characters": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "carriage returns": re.compile(r"\r"),
    "replacement characters (�), left by a wrong decoding": re.compile("\ufffd"),
    "invisible characters (zero width, direction, byte order)": re.compile(
        "[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
    ),
    "private-use characters and noncharacters": re.compile("[\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff]"),
}
"""Finding -> the characters. Joiners of emoji and of Indic and Persian scripts are none of them. Half a surrogate pair
never gets here: the row that holds it is a bad row."""

SPECIAL_NAMES = re.compile(
    r"<\|[\w.▁｜-]{2,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_turn>"
)
"""Names of special tokens as the common tokenizers spell them, for an audit without a tokenizer."""


MISSING = frozenset({"null", "none", "nan", "n/a", "<na>", "undefined"})
"""What programs write for a missing value."""

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
"""The roles of messages that chat templates know."""


@dataclass(frozen=True)
class Finding:
    """Something that is in the data, how often, and where first."""

    what: str
    count: int
    first: str


@dataclass(frozen=True)
class Lengths:
    """Lengths of some texts, in characters or tokens: their number, mean, median, 95th percentile and longest."""

    what: str
    count: int
    mean: float
    median: float
    p95: float
    longest: int


@dataclass(frozen=True)
class Values:
    """Scores or labels: how many, lowest, highest, mean and standard deviation (with n)."""

    count: int
    lowest: float
    highest: float
    mean: float
    sd: float


@dataclass(frozen=True)
class Audit:
    """What is in some rows.

    Attributes:
        rows: their number.
        kinds: kinds of feedback of a row -> number of rows.
        prompts: number of different prompts.
        most_rows: of one prompt.
        lengths: in characters.
        chosen_longer: number of pairs whose chosen response has more characters than the rejected one.
        scores, labels: None where there are none.
        findings: what a practitioner would want to look at.
    """

    rows: int
    kinds: Mapping[str, int]
    prompts: int
    most_rows: int
    lengths: tuple[Lengths, ...]
    chosen_longer: int
    scores: Values | None
    labels: Values | None
    findings: tuple[Finding, ...]


def audit(rows: Sequence[Row], special_names: Iterable[str] = ()) -> Audit:
    """Measure rows, in one pass and a few sorts.

    Args:
        rows: as read; each is asked for once, and once more if it is the first of a finding.
        special_names: of the tokenizer's special tokens. Empty: those of `SPECIAL_NAMES` are looked for.
    """
    names = sorted({*special_names}, key=len, reverse=True)
    tally = _Tally(re.compile("|".join(map(re.escape, names))) if names else SPECIAL_NAMES)
    for place, row in enumerate(rows):
        tally.add(place, row)
    grouped = list(tally.grouped())
    findings = [
        Finding(what, count, rows[place].source) for what, (count, place) in [*tally.found.items(), *grouped] if count
    ]
    prompts = np.unique(np.array(tally.prompts, np.uint64), return_counts=True)[1]
    scores, labels = (_values(keyed.values) for keyed in (tally.scores, tally.labels))
    lengths = tuple(_lengths(what, sizes) for what, sizes in tally.lengths.items())
    return Audit(
        rows=len(rows),
        kinds=dict(tally.kinds),
        prompts=len(prompts),
        most_rows=int(prompts.max(initial=0)),
        lengths=lengths,
        chosen_longer=tally.chosen_longer,
        scores=scores,
        labels=labels,
        findings=tuple(findings),
    )


class _Keyed:
    """Values by a key of 64 bits, each with the place of its row."""

    def __init__(self) -> None:
        self.keys, self.values, self.places = array("Q"), array("d"), array("L")

    def add(self, key: int, value: float, place: int) -> None:
        self.keys.append(key)
        self.values.append(value)
        self.places.append(place)

    def groups(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each key: number of values, lowest, highest, first place. Each (K,)."""
        keys, values = np.array(self.keys, np.uint64), np.array(self.values)
        if not len(keys):
            return (np.zeros(0, int),) * 4
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] ^ np.uint64(1)))
        counts = np.diff(np.append(starts, len(order)))
        lowest, highest = (f.reduceat(values[order], starts) for f in (np.minimum, np.maximum))
        return counts, lowest, highest, np.array(self.places)[order][starts]

    def repeated(self) -> tuple[int, int]:
        """How many values have the key of an earlier one, and the place of the first such key."""
        counts, _, _, places = self.groups()
        several = places[counts > 1]
        return int((counts - 1).sum()), int(several.min()) if len(several) else 0

    def where(self, several: bool, equal: bool) -> tuple[int, int]:
        """How many keys have several values or one alone, all equal or not; and the place of the first."""
        counts, lowest, highest, places = self.groups()
        chosen = places[((counts > 1) == several) & ((lowest == highest) == equal)]
        return len(chosen), int(chosen.min()) if len(chosen) else 0


class _Tally:
    """What is counted while the rows go by."""

    def __init__(self, specials: re.Pattern[str]) -> None:
        self.specials = specials
        self.kinds: Counter[str] = Counter()
        self.found: dict[str, tuple[int, int]] = {}
        self.prompts = array("Q")
        self.chosen_longer = 0
        self.lengths: dict[str, array] = {}
        self.rows, self.pairs = _Keyed(), _Keyed()
        self.scores, self.labels = _Keyed(), _Keyed()  # by prompt
        self.scored, self.labelled = _Keyed(), _Keyed()  # by prompt and response

    def add(self, place: int, row: Row) -> None:
        self.kinds[" and ".join(row.kinds) or "prompts alone"] += 1
        prompt = _name(row.key)
        self.prompts.append(prompt)
        feedback = (row.scores, row.labels, row.pairs, row.as_list, row.weights, row.margins)
        self.rows.add(_name(row.key, *row.responses, repr((feedback, row.response_fields, row.earlier))), 0, place)
        for _ in filter(holds_turn, row.responses):
            self._find("responses with the start of a turn (Human:, Assistant:) in them", place)
        for text in {*texts(row)}:
            self._characters(text, place)
        self._length("prompts", sum(map(len, prompt_texts(row))))
        responses = response_texts(row)
        for text in responses:
            self._length("responses", len(text))
        names = [_name(row.key, text) for text in responses]
        for values, by_prompt, by_response in (
            (row.scores, self.scores, self.scored),
            (row.labels, self.labels, self.labelled),
        ):
            for name, value in zip(names, values or (), strict=False):
                by_prompt.add(prompt, value, place)
                by_response.add(name, value, place)
        for text in responses:
            if text.strip().lower() in MISSING:
                self._find("responses that spell a missing value (null, None, NaN)", place)
        for role in {message["role"] for message in row.prompt if isinstance(message, Mapping)} - ROLES:
            self._find(f"prompts with a message of the role {role!r:.30}, which templates may not know", place)
        for chosen, rejected in row.pairs or ():
            if row.scores is not None and row.scores[chosen] < row.scores[rejected]:
                self._find("pairs whose chosen response has the lower score", place)
            self._pair(responses[chosen], responses[rejected], prompt, place)

    def grouped(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """The findings about rows, prompts and responses that share a hash."""
        yield "rows that repeat an earlier row", self.rows.repeated()
        yield "pairs that are also there with their sides swapped", self.pairs.where(True, False)
        yield "responses with two different scores for the same prompt", self.scored.where(True, False)
        yield "responses with two different labels for the same prompt", self.labelled.where(True, False)
        yield "prompts whose scores are all equal", self.scores.where(True, True)
        yield "prompts with one scored response", self.scores.where(False, True)
        yield "prompts of several labels, all of them the same", self.labels.where(True, True)
        if self.labels.values and min(self.labels.values) == max(self.labels.values):
            yield f"labels, all of them {self.labels.values[0]:g}", (len(self.labels.values), self.labels.places[0])

    def _pair(self, chosen: str, rejected: str, prompt: int, place: int) -> None:
        self._length("chosen", len(chosen))
        self._length("rejected", len(rejected))
        if chosen.strip() == rejected.strip():
            self._find("pairs of equal responses", place)
        elif similarity(chosen, rejected) >= NEAR:
            self._find(f"pairs of nearly equal responses, which share {NEAR:.0%} of their words", place)
        self.chosen_longer += len(chosen) > len(rejected)
        first, second = sorted((chosen, rejected))
        self.pairs.add(_name(str(prompt), first, second), float(chosen == first), place)

    def _characters(self, text: str, place: int) -> None:
        for what, pattern in CHARACTERS.items():
            if pattern.search(text):
                self._find(f"texts with {what}", place)
        for name in {*self.specials.findall(text)}:
            self._find(f"texts that spell the special token {name}", place)

    def _find(self, what: str, place: int) -> None:
        count, first = self.found.get(what, (0, place))
        self.found[what] = count + 1, first

    def _length(self, what: str, length: int) -> None:
        self.lengths.setdefault(what, array("L")).append(length)


def prompt_texts(row: Row) -> Iterator[str]:
    """The texts of a prompt: itself, or the contents of its messages."""
    messages: Iterable[Mapping[str, Any]] = [{"content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
    yield from (message.get("content") or "" for message in messages)


def response_texts(row: Row) -> list[str]:
    """The text of each response; of several messages, their contents as paragraphs."""
    both = zip(row.earlier, row.responses, strict=True)
    return ["\n\n".join([*(turn.get("content") or "" for turn in turns), text]) for turns, text in both]


def texts(row: Row) -> Iterator[str]:
    """The texts of a row."""
    yield from prompt_texts(row)
    yield from response_texts(row)


def similarity(a: str, b: str) -> float:
    """The share of their words that two texts have in common, in [0, 1]: Dice's coefficient of the two multisets.

    Case and order do not count. Time is linear in the number of words.
    """
    words = [Counter(text.casefold().split()) for text in (a, b)]
    total = words[0].total() + words[1].total()
    return 2 * (words[0] & words[1]).total() / total if total else 1.0


@dataclass(frozen=True)
class Tokens:
    """Lengths in tokens, before anything is cut, and what the limits of a run cut.

    Attributes:
        lengths: of prompts with what the template adds, of responses with their end, and of both together.
        dropped: number of rows whose prompt leaves no room.
        cut: number of responses that are cut.
        lost: tokens that are cut from responses.
        share: `lost` as a part of all tokens of responses that are trained on or cut.
        said: (sentence, number of times) of what becomes of texts on their way to tokens.
    """

    lengths: tuple[Lengths, ...]
    dropped: int
    cut: int
    lost: int
    share: float
    said: tuple[tuple[str, int], ...] = ()


def tokens(rows: Iterable[Row], encoder: Encoder) -> Tokens:
    """Encode rows without a limit on their length, and compare with the limits of the encoder.

    A row that the encoder refuses is left out and counted, whatever a run would do.
    """
    whole = encoder.unlimited()
    whole.bad_rows = "drop"
    sizes = {what: array("L") for what in ("prompts", "responses", "prompt and response")}
    dropped = cut = lost = 0
    for example in whole.fitting(rows):
        room = encoder.room(len(example.prompt))
        dropped += room == 0
        sizes["prompts"].append(len(example.prompt))
        for response in example.responses:
            sizes["responses"].append(len(response))
            sizes["prompt and response"].append(len(example.prompt) + len(response))
            if 0 < room < len(response):
                cut, lost = cut + 1, lost + len(response) - room
    total = sum(sizes["responses"])
    lengths = tuple(_lengths(what, values) for what, values in sizes.items() if values)
    said = tuple((what, number) for what, number in whole.counts.items() if what != "rows" and "spell" not in what)
    return Tokens(lengths, dropped, cut, lost, lost / total if total else 0.0, said)


def _lengths(what: str, sizes: Sequence[int]) -> Lengths:
    values = np.array(sizes)
    median, p95 = np.percentile(values, [50, 95])
    return Lengths(what, len(values), float(values.mean()), float(median), float(p95), int(values.max()))


def _values(numbers: Sequence[float]) -> Values | None:
    if not numbers:
        return None
    values = np.array(numbers)
    return Values(len(values), *(float(f(values)) for f in (np.min, np.max, np.mean, np.std)))


def _name(*texts: str) -> int:
    """64 bits that are equal for equal texts."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\xff")  # no byte of UTF-8
    return int.from_bytes(digest.digest(), "big")
