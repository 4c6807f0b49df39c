"""A small model, a reward model of the same shape, prompts and pairs, made here from a seed: nothing is downloaded.

The tokenizer is a BPE over made-up words, without BOS, so that every trainer reads the same tokens. An endless policy
never emits EOS, nor bytes that are no text (`suppress_tokens` of its generation config, which `generate` obeys and both
trainers are given), so every response that it draws has its full length on either side.
"""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path

PRESETS = {
    # of "balanced" the head is 3 % of a forward's FLOPs, as in a 7B; a larger vocabulary would make the head the model
    "balanced": {"layers": 6, "hidden": 384, "inter": 1344, "heads": 8, "kv_heads": 2, "vocabulary": 1024},
    "mistral-7b": {"layers": 32, "hidden": 4096, "inter": 14336, "heads": 32, "kv_heads": 8, "vocabulary": 32000},
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
"""Tokens of a prompt, and of a response in a pair: log-normal of a median and a sigma, cut at both ends."""


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
    """Write into a folder policy/ and reward/ (weights and tokenizer), prompts.json (a list of texts) and pairs.json.

    A pair is a prompt with a chosen and a rejected response and their scores. `shape` is of `PRESETS`, over the
    preset's. The weights are made on the device.
    """
    import torch
    from transformers import MistralConfig, MistralForCausalLM, MistralForSequenceClassification
    from transformers.utils import logging

    from una_ref.policies.loading import byte_pair_tokenizer

    logging.disable_progress_bar()
    draw = random.Random(seed)
    words = _words(draw, 4000)
    corpus = [" " + " ".join(draw.choices(words, weights=_zipf(len(words)), k=200)) for _ in range(500)]
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
    for place, (name, kind) in enumerate(kinds.items()):
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed + place)
            model = kind._from_config(config, dtype=getattr(torch, dtype))
        if name == "policy" and endless:
            model.generation_config.suppress_tokens = never_emitted(tokenizer, sizes["vocabulary"])
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        del model
    bounds = LENGTHS[lengths]
    texts = [text(draw, words, tokenizer, _length(draw, *bounds["prompt"])) for _ in range(prompts)]
    (folder / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
    pairs = []
    for prompt in texts:
        chosen, rejected = (text(draw, words, tokenizer, _length(draw, *bounds["response"])) for _ in range(2))
        scores = {"chosen_score": draw.uniform(0.5, 1), "rejected_score": draw.uniform(0, 0.5)}
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, **scores})
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")


def never_emitted(tokenizer: object, vocabulary: int) -> list[int]:
    """Special tokens, EOS among them, bytes that are no text on their own, and ids that the tokenizer does not have."""
    own = range(len(tokenizer))
    silent = [i for i in own if i in tokenizer.all_special_ids or "\ufffd" in tokenizer.decode([i])]
    return [*silent, *range(len(tokenizer), vocabulary)]


def _words(draw: random.Random, count: int) -> list[str]:
    onset, vowel, coda = (*"bcdfghklmnprstv", "st", "tr", "pl", "ch"), (*"aeiou", "ai", "ou"), ("", "n", "r")
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = range(draw.choice((1, 2, 2, 3)))
        words["".join(draw.choice(onset) + draw.choice(vowel) + draw.choice(coda) for _ in syllables)] = None
    return list(words)


def _zipf(count: int) -> list[float]:
    return [1 / (i + 10) for i in range(count)]


def _length(draw: random.Random, middle: int, sigma: float, least: int, most: int) -> int:
    return min(most, max(least, round(middle * math.exp(draw.gauss(0, sigma)))))


def text(draw: random.Random, words: list[str], tokenizer: object, tokens: int) -> str:
    """Whole words, of so many tokens or a few more."""
    made, size = "", 0
    while size < tokens:
        word = " " + draw.choices(words, weights=_zipf(len(words)))[0]
        made, size = made + word, size + _size(tokenizer, word)
    return made


@cache
def _size(tokenizer: object, word: str) -> int:
    return len(tokenizer(word)["input_ids"])
