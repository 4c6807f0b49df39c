"""Rollouts by vLLM, for policies that are a LoRA adapter on weights that vLLM can load itself (extra `vllm`).

The engine holds the base once more, in a share of the GPU's memory; in each rollout it is given the adapter as it is
then, under a new number, so that nothing of an older one is used. Training computes log-probs again, and the gap to
vLLM's own, which is of other kernels, is logged as with any engine.
"""

from __future__ import annotations

import importlib
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from una_ref.errors import InputError
from una_ref.policies.anatomy import suppressed_tokens
from una_ref.policies.rollout import Draw, Sampler

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for the largest rank of an adapter."""


@dataclass
class VLLM(Sampler):
    """vLLM in this process. See `Sampler` for the other attributes.

    Attributes:
        positions: most tokens of prompt and response together.
        memory: share of the GPU's memory that weights and cache of the engine may take.
        loaded: the engine, when it is there; and adapters counted. A copy at another temperature has the same one.
    """

    positions: int = 4096
    memory: float = 0.3
    loaded: list[Any] = field(default_factory=list, compare=False, repr=False)
    numbers: Iterator[int] = field(default_factory=lambda: count(1), compare=False, repr=False)

    def _engine(self, model: Any, library: Any) -> Any:
        if not self.loaded:
            if not hasattr(model, "get_base_model"):
                raise InputError("engine vllm: expected a policy with a LoRA adapter (lora_r), got one without")
            if suppressed_tokens(model):
                raise InputError("engine vllm: expected a model that suppresses no tokens, or log-probs would differ")
            config = next(iter(model.peft_config.values()))
            if config.r > RANKS[-1]:
                raise InputError(f"engine vllm: expected lora_r of at most {RANKS[-1]}, got {config.r}")
            one = library.LLM(
                model=config.base_model_name_or_path,
                enable_lora=True,
                max_lora_rank=next(rank for rank in RANKS if rank >= config.r),
                max_model_len=self.positions,
                gpu_memory_utilization=self.memory,
                dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
                generation_config="vllm",  # its own defaults: nothing that the model's config says of sampling
            )
            self.loaded.append(one)
        return self.loaded[0]

    def _drawn(
        self, model: Any, prompts: Sequence[tuple[int, ...]], k: int, max_new: int, seed: int, temperature: float
    ) -> list[list[Draw]]:
        library = installed()
        llm = self._engine(model, library)
        common = {"n": k, "temperature": temperature, "max_tokens": max_new, "stop_token_ids": [self.eos]}
        # vLLM gives a request's i-th draw the request's seed + i: seeds side by side would share their random numbers,
        # over prompts and over steps. 0 log-probs are those of the drawn token alone.
        seeds = random.Random(seed)
        each = [
            library.SamplingParams(**common, seed=seeds.randrange(2**31), logprobs=0, detokenize=False) for _ in prompts
        ]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, save_embedding_layers=False)  # nor is a hub asked whether they changed
            number = next(self.numbers)
            adapter = library.lora.request.LoRARequest(f"policy {number}", number, folder)
            asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
            answers = llm.generate(asked, each, lora_request=adapter, use_tqdm=False)
        return [[self._draw(one) for one in answer.outputs] for answer in answers]

    def _draw(self, output: Any) -> Draw:
        tokens = tuple(output.token_ids)
        terms = (line[token].logprob for line, token in zip(output.logprobs, tokens, strict=True))
        return Draw(tokens, tokens[-1] == self.eos, sum(terms))


def installed() -> Any:
    """The library.

    Raises:
        InputError: it is not there.
    """
    try:
        importlib.import_module("vllm.lora.request")
        return importlib.import_module("vllm")
    except ImportError as error:
        raise InputError(f"engine vllm: expected vLLM to be installed (pip install vllm), got: {error}") from error
