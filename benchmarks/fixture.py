"""Models, prompts and pairs to measure speed on, made from a seed. Nothing is downloaded.

The models are a small policy and a reward model of the same shape. The tokenizer is a BPE over made-up words, without
BOS, so that every trainer reads the same tokens. An endless policy never emits EOS, or bytes that are not text: its
generation config suppresses them, and both trainers are given that list. So every response has its full length.
"""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path

PRESETS = {
    # In "balanced", the head has 3 % of a forward pass's FLOPs, as in a 7B; with a larger vocabulary it would be more.
    "balanced": {"layers": 6, "hidden": 384, "inter": 1344, "heads": 8, "kv_heads": 2, "vocabulary": 1024},
    "mistral-7b": {"layers": 32, "hidden": 4096, "inter": 14336, "heads": 32, "kv_heads": 8, "vocabulary": 32000},
    "smollm2": {"layers": 30, "hidden": 576, "inter": 1536, "heads": 9, "kv_heads": 3, "vocabulary": 49152},
    "tiny": {"layers": 2, "hidden": 64, "inter": 224, "heads": 4, "kv_heads": 2, "vocabulary": 512},
}
NAMES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "inter": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
}
LENGTHS = {
    "short": {"prompt": (128, 0.5, 64, 256), "response": (128, 0.5, 64, 256)},
    "helpsteer2": {"prompt": (180, 0.9, 16, 1024), "response": (330, 0.5, 32, 1024)},
}
"""Tokens of a prompt, and of a response in a pair: log-normal with (median, sigma), cut at (least, most)."""


def make(
    folder: Path,
    preset: str = "balanced",
    *,
    lengths: str = "short",
    prompts: int = 128,
    seed: int = 0,
    endless: bool = True,
    device: str = "cpu",
    dtype: str = "float32",
    **shape: int,
) -> None:
    """Write policy/ and reward/ (weights and tokenizer), prompts.json (a list of texts) and pairs.json into a folder.

    A pair is a prompt with a chosen and a rejected response and their scores.

    Args:
        folder: where the files go.
        preset: the models' shape, one of `PRESETS`.
        lengths: of prompts and responses, one of `LENGTHS`.
        prompts: their number, and that of the pairs.
        seed: of everything.
        endless: whether the policy never emits EOS.
        device: where the weights are made.
        dtype: of the weights.
        shape: sizes that replace the preset's, by their names in `PRESETS`.
    """
    import torch
    from transformers import MistralConfig, MistralForCausalLM, MistralForSequenceClassification
    from transformers.utils import logging

    from una_ref.policies.loading import byte_pair_tokenizer

    logging.disable_progress_bar()
    rng = random.Random(seed)
    words = _words(rng, 4000)
    corpus = [" " + " ".join(rng.choices(words, weights=_zipf(len(words)), k=200)) for _ in range(500)]
    sizes = PRESETS[preset] | shape
    tokenizer = byte_pair_tokenizer(corpus, sizes["vocabulary"])
    tokenizer.bos_token = None
    config = MistralConfig(
        vocab_size=sizes["vocabulary"],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        max_position_embeddings=4096,
        sliding_window=None,
        num_labels=1,
        **{NAMES[name]: size for name, size in sizes.items() if name in NAMES},
    )
    kinds = {"policy": MistralForCausalLM, "reward": MistralForSequenceClassification}
    for i, (name, kind) in enumerate(kinds.items()):
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed + i)
            model = kind._from_config(config, dtype=getattr(torch, dtype))
        if name == "policy" and endless:
            model.generation_config.suppress_tokens = never_emitted(tokenizer, sizes["vocabulary"])
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        del model
    bounds = LENGTHS[lengths]
    texts = [text(rng, words, tokenizer, _length(rng, *bounds["prompt"])) for _ in range(prompts)]
    (folder / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
    pairs = []
    for prompt in texts:
        chosen, rejected = (text(rng, words, tokenizer, _length(rng, *bounds["response"])) for _ in range(2))
        scores = {"chosen_score": rng.uniform(0.5, 1), "rejected_score": rng.uniform(0, 0.5)}
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, **scores})
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")


def never_emitted(tokenizer: object, vocabulary: int) -> list[int]:
    """Ids of special tokens (EOS too), of bytes that are not text by themselves, and beyond the tokenizer's."""
    suppressed = [
        i for i in range(len(tokenizer)) if i in tokenizer.all_special_ids or "\ufffd" in tokenizer.decode([i])
    ]
    return [*suppressed, *range(len(tokenizer), vocabulary)]


def _words(rng: random.Random, count: int) -> list[str]:
    onset, vowel, coda = (*"bcdfghklmnprstv", "st", "tr", "pl", "ch"), (*"aeiou", "ai", "ou"), ("", "n", "r")
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = range(rng.choice((1, 2, 2, 3)))
        words["".join(rng.choice(onset) + rng.choice(vowel) + rng.choice(coda) for _ in syllables)] = None
    return list(words)


def _zipf(count: int) -> list[float]:
    return [1 / (i + 10) for i in range(count)]


def _length(rng: random.Random, middle: int, sigma: float, least: int, most: int) -> int:
    return min(most, max(least, round(middle * math.exp(rng.gauss(0, sigma)))))


def text(rng: random.Random, words: list[str], tokenizer: object, tokens: int) -> str:
    """Whole words with at least `tokens` tokens, and at most a word more."""
    written, size = "", 0
    while size < tokens:
        word = " " + rng.choices(words, weights=_zipf(len(words)))[0]
        written, size = written + word, size + _size(tokenizer, word)
    return written


@cache
def _size(tokenizer: object, word: str) -> int:
    return len(tokenizer(word)["input_ids"])
