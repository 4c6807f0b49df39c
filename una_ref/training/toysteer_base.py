"""ToySteer's base policy, which ships with the package, and the rows that it writes.

The weights are a fact and not a computation: 1,500 training steps round differently on different processors, and a
study must not depend on that. They are stored in float16 and loaded in float32: the same numbers everywhere.

``python -m una_ref.training.toysteer_base FOLDER`` makes such a folder: it trains the recipe ``toysteer/base`` and
rounds the result. On another processor the recipe gives other weights, so the committed ones are not overwritten.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from una_ref.data import toysteer
from una_ref.data.rows import Row
from una_ref.policies import loading
from una_ref.policies.exact import next_logps
from una_ref.theory.prefix_tree import PrefixTree
from una_ref.training.config import Config
from una_ref.training.settings import resolve


def toysteer_base() -> Path:
    """The folder of ToySteer's base policy, in Hugging Face's layout."""
    return Path(toysteer.__file__).parent / "toysteer_base"


def is_toysteer(config: Config) -> bool:
    """Whether the rows of a run are ToySteer's."""
    return toysteer.names_toysteer(config.data)


def reference_logps(model: Any, world: toysteer.ToySteer) -> torch.Tensor:
    """(X, N, V) next-token log-probs of a model at every prefix of a ToySteer world."""
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    prompts = toysteer.encoded_prompts(world, toysteer.tokenizer())
    return next_logps(model, prompts, tree, toysteer.VOCABULARY)


def toysteer_rows(config: Config) -> list[Row]:
    """The rows of ``toysteer``, ``toysteer/pairs`` and so on. The config's seed gives the world and the samples.

    Several kinds, separated by commas, are dealt in turn, so that the last rows, which are held out, have them all.
    """
    kinds = [_rows(config, name.partition("/")[2] or "ratings") for name in config.data.split(",")]
    return [row for turn in zip_longest(*kinds) for row in turn if row is not None]


def _rows(config: Config, kind: str) -> list[Row]:
    if kind == "demonstrations":
        return toysteer.demonstrations(config.rows or 2048, seed=config.seed)
    if kind == "verdicts":
        return toysteer.verdicts(config.rows or 2048, seed=config.seed)
    world = toysteer.ToySteer(seed=config.seed)
    model, _ = loading.load(str(toysteer_base()))
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    drawn = world.draw(config.rows or 1024, tree.sequence_logps(reference_logps(model, world)), seed=config.seed)
    return world.rated(drawn, seed=config.seed) if kind == "ratings" else world.feedback(drawn, kind, seed=config.seed)


def make(folder: Path) -> None:
    """Train the recipe, round the weights to float16 and save model and tokenizer in `folder`. About a minute."""
    from una_ref.training.run import train

    torch.set_num_threads(1)  # more threads do not help matrices this small
    with TemporaryDirectory() as scratch:
        config = replace(resolve("toysteer/base"), output=str(Path(scratch) / "base"))
        train(config)
        model, tokenizer = loading.load(config.output)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
