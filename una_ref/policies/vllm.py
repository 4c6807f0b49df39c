"""Samples by vLLM, for a policy that is a LoRA adapter on weights that vLLM can load itself (extra `vllm`).

The engine holds the base model a second time, in a share of the GPU's memory. Each rollout gives it the current adapter
under a new number, so that it never uses an older one. Training computes log-probs again. vLLM's kernels differ, and
the gap to its log-probs is logged, as with any engine.
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
from una_ref.policies.rollout import Sample, Sampler

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for the largest rank of an adapter."""


@dataclass
class VLLM(Sampler):
    """vLLM in this process. See `Sampler` for the other attributes.

    Attributes:
        positions: most tokens of prompt and response together.
        memory: share of the GPU's memory for the engine's weights and cache, in (0, 1).
        loaded: the engine, once it is there. A copy of this object at another temperature shares it.
        numbers: the number of the next adapter; copies share it too.
    """

    positions: int = 4096
    memory: float = 0.3
    loaded: list[Any] = field(default_factory=list, compare=False, repr=False)
    numbers: Iterator[int] = field(default_factory=lambda: count(1), compare=False, repr=False)

    def _engine(self, model: Any, library: Any) -> Any:
        """The engine, loaded at the first call.

        Raises:
            InputError: a policy without a LoRA adapter, or with a rank beyond vLLM's; or suppressed tokens.
        """
        if not self.loaded:
            if not hasattr(model, "get_base_model"):
                raise InputError("engine vllm: expected a policy with a LoRA adapter (lora_r), got one without")
            if suppressed_tokens(model):
                raise InputError(
                    "engine vllm: expected a model that suppresses no tokens, got a generation config with "
                    "suppress_tokens, which vLLM ignores. Fix: engine=hf"
                )
            config = next(iter(model.peft_config.values()))
            if config.r > RANKS[-1]:
                raise InputError(f"engine vllm: expected lora_r of at most {RANKS[-1]}, got {config.r}")
            engine = library.LLM(
                model=config.base_model_name_or_path,
                enable_lora=True,
                max_lora_rank=next(rank for rank in RANKS if rank >= config.r),
                max_model_len=self.positions,
                gpu_memory_utilization=self.memory,
                dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
                generation_config="vllm",  # vLLM's defaults, without the sampling options of the model's config
            )
            self.loaded.append(engine)
        return self.loaded[0]

    def _sample(
        self, model: Any, prompts: Sequence[tuple[int, ...]], k: int, max_new: int, seed: int, temperature: float
    ) -> list[list[Sample]]:
        library = installed()
        engine = self._engine(model, library)
        common = {"n": k, "temperature": temperature, "max_tokens": max_new, "stop_token_ids": [*self.ends]}
        # vLLM gives the i-th sample of a request the seed of the request + i. Consecutive seeds would share random
        # numbers between prompts and between steps.
        seeds = random.Random(seed)
        # logprobs=0 returns the log-prob of the sampled token only, before temperature is applied.
        params = [
            library.SamplingParams(**common, seed=seeds.randrange(2**31), logprobs=0, detokenize=False) for _ in prompts
        ]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        with tempfile.TemporaryDirectory() as folder:
            # Without embeddings, or PEFT would ask the hub whether they changed.
            model.save_pretrained(folder, save_embedding_layers=False)
            number = next(self.numbers)
            adapter = library.lora.request.LoRARequest(f"policy {number}", number, folder)
            outputs = engine.generate(requests, params, lora_request=adapter, use_tqdm=False)
        return [[self._as_sample(completion) for completion in output.outputs] for output in outputs]

    def _as_sample(self, completion: Any) -> Sample:
        tokens = tuple(completion.token_ids)
        terms = (line[token].logprob for line, token in zip(completion.logprobs, tokens, strict=True))
        return Sample(tokens, tokens[-1] in self.ends, sum(terms))


def installed() -> Any:
    """The library. Raises InputError if it is not installed."""
    try:
        importlib.import_module("vllm.lora.request")
        return importlib.import_module("vllm")
    except ImportError as error:
        raise InputError(f"engine vllm: expected vLLM to be installed (pip install vllm), got: {error}") from error
