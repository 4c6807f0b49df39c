"""Where a policy comes from: a path or hub name, a small Mistral made here, or a table of logits.

Weights load as safetensors only and remote code stays off.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from una_ref.errors import InputError

SPECIALS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


class TableLM(nn.Module):
    """A table of logits (X, Y) as a language model: the prompt is one token, the response is one token.

    So the smallest world of all runs through the same `Batch`, log-probs and loop as a 7B model.
    """

    base_model_prefix = "table"

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        x, y = logits.shape
        # Response tokens are looked up as well (nothing depends on what they give), so the table is as tall as
        # the larger of the two vocabularies.
        rows = torch.zeros(max(x, y), y, dtype=logits.dtype)
        rows[:x] = logits
        self.table = _Rows(rows)
        self.prompts = x

    def get_output_embeddings(self) -> nn.Module:
        """The hidden state of a prompt is its row of logits already."""
        return nn.Identity()

    @property
    def logps(self) -> torch.Tensor:
        """(X, Y) log π."""
        return self.table.weight[: self.prompts].log_softmax(-1)


class _Rows(nn.Embedding):
    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__(*rows.shape, _weight=rows)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:  # type: ignore[override]
        return (super().forward(input_ids),)


def small_mistral(tokenizer: Any, seed: int = 0, **shape: Any) -> Any:
    """A random Mistral for the tokenizer: 4 layers of width 128 unless `shape` (MistralConfig's names) says otherwise.

    Tokens that the tokenizer's `never_emitted` names are left out of the policy's distribution.
    """
    from transformers import MistralConfig, MistralForCausalLM

    size = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 4096, "sliding_window": None,
            "tie_word_embeddings": False} | shape
    config = MistralConfig(vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
                           eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MistralForCausalLM(config)


def byte_pair_tokenizer(texts: Iterable[str], vocabulary: int = 2048) -> Any:
    """A byte-level BPE tokenizer trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIALS.values()), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIALS)


def load(name: str, dtype: str = "float32") -> tuple[Any, Any]:
    """Model and tokenizer from a local folder or a hub name. A folder that holds a LoRA adapter is merged into its base,
    so that the policy it stands for is also the reference of what is trained next.

    Raises:
        InputError: nothing loadable there, with the reason.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(name)
    try:
        if (folder / "adapter_config.json").exists():
            import json

            from peft import PeftModel

            base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
            model, _ = load(base, dtype)
            model = PeftModel.from_pretrained(model, name).merge_and_unload()
            return model, AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False)
        return model, AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"model {name!r}: expected a folder or hub name with config, safetensors weights and "
                         f"tokenizer, got: {str(error).splitlines()[0]}") from error


def with_lora(model: Any, *, r: int = 32, alpha: float = 16.0, dropout: float = 0.0,
              targets: str | list[str] = "all-linear", seed: int = 0) -> Any:
    """The model with a fresh LoRA adapter (B = 0, so it starts as the base exactly), in eval mode."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets,
                                                task_type="CAUSAL_LM")).eval()


def disable_dropout(model: nn.Module) -> None:
    """No dropout in the model itself: the policy and its reference must be the same function at step 0."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
