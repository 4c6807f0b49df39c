"""Real feedback for the studies on a real language model, in parts that share no prompt.

| part | data | feedback | for |
| --- | --- | --- | --- |
| scores | UltraFeedback | a GPT-4 score of both responses | training, and held-out pairs |
| pairs | Anthropic HH helpful, `train_gt` | human pairs alone | training, and held-out pairs |
| tuning | AlpacaEval | a GPT-4 judge's score of 16 models' responses | the choice of learning rates |
| reward | Anthropic HH helpful, `test` | human pairs alone | the reward model that judges, and its own accuracy |
| proxy | Anthropic HH helpful, `train_gt` | human pairs alone | the reward model that online methods maximise |
| llmbar, hhh | LLMBar, HHH alignment | gold pairs | the judge's accuracy elsewhere |

Texts are whole: a row with a longer prompt or response than the part allows is left out, never cut. Rows whose scores
agree are left out for all methods. So scores, pairs and labels are about the same responses.

The data lie in the folder that the environment variable ``UNA_REF_DATA`` names.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from una_ref.data.row_sets import split_name
from una_ref.data.rows import Row, prompt_key
from una_ref.data.sources import read
from una_ref.errors import InputError

ULTRAFEEDBACK = {
    "preferences/ultrafeedback/overall_train.jsonl.gz": ("score", 10.0),
    "preferences/ultrafeedback/overall_eval.jsonl.gz": ("score", 10.0),
    "preferences/ultrafeedback/mean_rating_1k.jsonl.gz": ("rating", 5.0),
}
"""Files, with the name of the score in their metadata and its highest value. The lowest is 1."""
ALPACA_EVAL = "alpaca_eval_scores.jsonl.gz"
HH_TRAIN = "preferences/hh_helpful/train_gt.jsonl.gz"
HH_TEST = "preferences/hh_helpful/test.jsonl.gz"
LLMBAR = "preferences/llmbar/llmbar.jsonl.gz"
HHH = "preferences/hhh_alignment/hhh.jsonl.gz"
FILES = (*ULTRAFEEDBACK, ALPACA_EVAL, HH_TRAIN, HH_TEST, LLMBAR, HHH)
GAP = 0.02
"""Smallest difference of AlpacaEval's scores. Below it the judge saw no difference."""


@dataclass(frozen=True)
class Size:
    """How much of a part is used.

    Attributes:
        train, held_out: most rows.
        prompt, response: most tokens, of the text alone.
    """

    train: int
    held_out: int
    prompt: int = 128
    response: int = 128


@dataclass(frozen=True)
class Part:
    """Rows to train on, and rows with other prompts to measure on; two responses each."""

    train: Sequence[Row]
    held_out: Sequence[Row]


def data_folder() -> Path:
    """The folder of the data.

    Raises:
        InputError: ``UNA_REF_DATA`` is not set, or a file is missing there.
    """
    folder = Path(os.environ.get("UNA_REF_DATA", ""))
    fix = "Fix: set UNA_REF_DATA to a folder with " + ", ".join(FILES)
    if not os.environ.get("UNA_REF_DATA"):
        raise InputError(f"data: expected the environment variable UNA_REF_DATA, got none. {fix}")
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(f"data {folder}: expected the file {name}, got none. {fix}")
    return folder


def parts(sizes: Mapping[str, Size], tokenizer: Any, folder: Path) -> dict[str, Part]:
    """Every part of `sizes`, by name. No two parts share a prompt, nor do both sides of a part.
    The gold parts, which judge the judge, may have a prompt twice.

    Which rows are used depends on their prompts, sizes and tokenizer, not on the order of the files.

    Args:
        sizes: by the part's name.
        tokenizer: counts tokens.
        folder: of the data.

    Raises:
        InputError: a part has fewer rows than it needs.
    """
    taken: set[str] = set()
    chosen = {}
    for name, size in sizes.items():
        wanted = size.held_out + size.train
        rows: list[Row] = []
        for row in sorted(ROWS[name](folder, tokenizer, size), key=lambda row: split_name(row, 0)):
            if len(rows) < wanted and (key := same_prompt(row)) not in taken and _fits(row, tokenizer, size):
                rows.append(row)
                taken |= set() if name in GOLD else {key}
        if len(rows) < wanted and name not in GOLD:
            raise InputError(f"data {name}: expected {wanted} rows of short texts, got {len(rows)}")
        chosen[name] = Part(rows[size.held_out :], rows[: size.held_out])
    return chosen


def same_prompt(row: Row) -> str:
    """A key that two rows share if their prompts differ in case and white space at most."""
    text = row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]
    return " ".join(text.lower().split())


def digest(rows: Sequence[Row]) -> str:
    """A name for rows: 64 bits of SHA-256 of prompts, responses and feedback, in order."""
    name = hashlib.sha256()
    for row in rows:
        name.update(repr((prompt_key(row.prompt), row.responses, row.scores, row.pairs)).encode())
    return name.hexdigest()[:16]


# ---- one function for each kind of file: rows of two responses, in the order of the file


def _ultrafeedback(folder: Path, tokenizer: Any, size: Size) -> Iterator[Row]:
    for name, (score, highest) in ULTRAFEEDBACK.items():
        for i, item in _items(folder / name):
            best, worst = (float(item["metadata"][f"{score}_{side}"]) for side in ("chosen", "rejected"))
            texts = item["chosen"], item["rejected"]
            if best != worst and all(text.strip() for text in texts):
                scores = tuple((value - 1) / (highest - 1) for value in (best, worst))
                yield Row(item["prompt"], texts, scores=scores, source=f"{name}:{i}")


def _alpaca_eval(folder: Path, tokenizer: Any, size: Size) -> Iterator[Row]:
    """The best and the worst of the short responses to a prompt; of equal ones the first."""
    by_prompt: dict[str, list[tuple[str, float]]] = {}
    for _, item in _items(folder / ALPACA_EVAL):
        by_prompt.setdefault(item["prompt"], []).append((item["response"], float(item["score"])))
    for prompt, answers in by_prompt.items():
        if not _short(prompt, size.prompt, tokenizer):
            continue
        short = [each for each in answers if each[0].strip() and _short(each[0], size.response, tokenizer)]
        if not short:
            continue
        best, worst = max(short, key=lambda each: each[1]), min(short, key=lambda each: each[1])
        if best[1] - worst[1] > GAP:
            yield Row(prompt, (best[0], worst[0]), scores=(best[1], worst[1]), source=ALPACA_EVAL)


def _hh(name: str) -> Any:
    """Reads a file of one-turn HH dialogues, as a user's message and two answers."""

    def rows(folder: Path, tokenizer: Any, size: Size) -> Iterator[Row]:
        for row in read(folder / name, empty="drop"):
            text = str(row.prompt).removeprefix("\n\nHuman:").removesuffix("\n\nAssistant:").strip()
            answers = tuple(response.strip() for response in row.responses)
            if text and len(set(answers)) == 2 and all(answers):
                yield Row(text, answers, pairs=row.pairs, source=row.source)

    return rows


def _llmbar(folder: Path, tokenizer: Any, size: Size) -> Iterator[Row]:
    for i, item in _items(folder / LLMBAR):
        chosen = int(item["label"]) - 1
        texts = item["output_1"], item["output_2"]
        if all(text.strip() for text in texts):
            yield Row(item["input"], texts, pairs=((chosen, 1 - chosen),), source=f"{LLMBAR}:{i}")


def _hhh(folder: Path, tokenizer: Any, size: Size) -> Iterator[Row]:
    for i, item in _items(folder / HHH):
        yield Row(item["prompt"], (item["chosen"], item["rejected"]), pairs=((0, 1),), source=f"{HHH}:{i}")


ROWS = {
    "scores": _ultrafeedback,
    "pairs": _hh(HH_TRAIN),
    "tuning": _alpaca_eval,
    "reward": _hh(HH_TEST),
    "proxy": _hh(HH_TRAIN),
    "llmbar": _llmbar,
    "hhh": _hhh,
}
"""What reads each part's rows."""
GOLD = ("llmbar", "hhh")
"""Parts of gold pairs, of which as many are used as fit."""


def _items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for i, line in enumerate(file, 1):
            yield i, json.loads(line)


def _fits(row: Row, tokenizer: Any, size: Size) -> bool:
    return _short(str(row.prompt), size.prompt, tokenizer) and all(
        _short(text, size.response, tokenizer) for text in row.responses
    )


def _short(text: str, most: int, tokenizer: Any) -> bool:
    """Whether a text has at most so many tokens. Of many more characters it is not tokenised, which takes long."""
    return len(text) <= 8 * most and len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= most
