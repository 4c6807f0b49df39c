"""Rollouts by vLLM, for policies that are a LoRA adapter on weights that vLLM can load itself (extra `vllm`).

The engine holds the base once more, in a share of the GPU's memory; in each rollout it is given the adapter as it is
then, under a new number, so that nothing of an older one is used. Training computes log-probs again, and the gap to
vLLM's own, which is of other kernels, is logged as with any engine.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from una_ref.errors import InputError
from una_ref.policies.logprobs import _suppressed
from una_ref.policies.rollout import Draw, Sampler


@dataclass
class VLLM(Sampler):
    """vLLM in this process. See `Sampler` for the other attributes.

    Attributes:
        positions: most tokens of prompt and response together.
        memory: share of the GPU's memory that weights and cache of the engine may take.
    """

    positions: int = 4096
    memory: float = 0.3
    _number: Any = field(default_factory=lambda: count(1), init=False, compare=False, repr=False)
    _llm: Any = field(default=None, init=False, compare=False, repr=False)

    def _engine(self, model: Any, library: Any) -> Any:
        if self._llm is None:
            if not hasattr(model, "get_base_model"):
                raise InputError("engine vllm: expected a policy with a LoRA adapter (lora_r), got one without")
            if _suppressed(model):
                raise InputError("engine vllm: expected a model that suppresses no tokens, or log-probs would differ")
            config = next(iter(model.peft_config.values()))
            self._llm = library.LLM(
                model=config.base_model_name_or_path,
                enable_lora=True,
                max_lora_rank=config.r,
                max_model_len=self.positions,
                gpu_memory_utilization=self.memory,
                dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
                generation_config="vllm",  # its own defaults: nothing that the model's config says of sampling
            )
        return self._llm

    def _drawn(
        self, model: Any, prompts: Sequence[tuple[int, ...]], k: int, max_new: int, seed: int, temperature: float
    ) -> list[list[Draw]]:
        library = installed()
        llm = self._engine(model, library)
        common = {"n": k, "temperature": temperature, "max_tokens": max_new, "stop_token_ids": [self.eos]}
        # With a seed each request has random numbers of its own; 0 log-probs are those of the drawn token alone.
        each = [
            library.SamplingParams(**common, seed=(seed + place) % 2**31, logprobs=0, detokenize=False)
            for place in range(len(prompts))
        ]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            number = next(self._number)
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
