"""A small model, a reward model of the same shape and prompts, made here from a seed: nothing is downloaded.

The tokenizer is a BPE over made-up words, without BOS, so that every trainer reads the same tokens. The policy never
emits EOS, nor bytes that are no text (`suppress_tokens` of its generation config, which `generate` obeys and both
trainers are given), so every response has its full length on either side.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

PRESETS = {
    # of "balanced" the head is 3 % of a forward's FLOPs, as in a 7B; a larger vocabulary would make the head the model
    "balanced": {"layers": 6, "hidden": 384, "inter": 1344, "heads": 8, "kv_heads": 2, "vocabulary": 1024},
    "tiny": {"layers": 2, "hidden": 64, "inter": 224, "heads": 4, "kv_heads": 2, "vocabulary": 512},
}
NAMES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "inter": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
}
PROMPT = {"median": 128, "sigma": 0.5, "least": 64, "most": 256}
"""Tokens of a prompt: log-normal, cut at both ends."""


def make(folder: Path, preset: str = "balanced", *, prompts: int = 128, seed: int = 0) -> None:
    """Write policy/ and reward/ (weights and tokenizer) and prompts.json (a list of texts) into a folder."""
    import torch
    from transformers import MistralForSequenceClassification
    from transformers.utils import logging

    from una_ref.policies.loading import byte_pair_tokenizer, small_mistral

    logging.disable_progress_bar()
    draw = random.Random(seed)
    words = _words(draw, 4000)
    corpus = [" " + " ".join(draw.choices(words, weights=_zipf(len(words)), k=200)) for _ in range(500)]
    tokenizer = byte_pair_tokenizer(corpus, PRESETS[preset]["vocabulary"])
    tokenizer.bos_token = None
    shape = {NAMES[name]: size for name, size in PRESETS[preset].items() if name in NAMES}
    policy = small_mistral(tokenizer, seed, **shape)
    policy.generation_config.suppress_tokens = never_emitted(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        policy.config.num_labels = 1
        reward = MistralForSequenceClassification(policy.config)
    for name, model in {"policy": policy, "reward": reward}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    texts = [_prompt(draw, words, tokenizer) for _ in range(prompts)]
    (folder / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")


def never_emitted(tokenizer: object) -> list[int]:
    """Special tokens, EOS among them, and bytes that are no text on their own."""
    ids = range(len(tokenizer))
    return [i for i in ids if i in tokenizer.all_special_ids or "\ufffd" in tokenizer.decode([i])]


def _words(draw: random.Random, count: int) -> list[str]:
    onset, vowel, coda = (*"bcdfghklmnprstv", "st", "tr", "pl", "ch"), (*"aeiou", "ai", "ou"), ("", "n", "r")
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = range(draw.choice((1, 2, 2, 3)))
        words["".join(draw.choice(onset) + draw.choice(vowel) + draw.choice(coda) for _ in syllables)] = None
    return list(words)


def _zipf(count: int) -> list[float]:
    return [1 / (i + 10) for i in range(count)]


def _prompt(draw: random.Random, words: list[str], tokenizer: object) -> str:
    wanted = round(PROMPT["median"] * math.exp(draw.gauss(0, PROMPT["sigma"])))
    wanted = min(PROMPT["most"], max(PROMPT["least"], wanted))
    text, size = "", 0
    while size < wanted:
        word = " " + draw.choices(words, weights=_zipf(len(words)))[0]
        text, size = text + word, size + len(tokenizer(word)["input_ids"])
    return text
