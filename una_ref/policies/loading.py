"""Models to train: loaded from a folder or hub name, made here, or a table of logits; and fresh LoRA adapters.

Weights load as safetensors only. Remote code stays off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from una_ref.errors import InputError, near_path
from una_ref.policies import adapters
from una_ref.policies.named_models import KEPT, resolved, started_from

_LONG = re.compile(r"(\w{1000}|\s{1000}|[^\w\s]{1000})")
"""1,000 characters without a word boundary. BPE training cuts there: its time grows with a word's length squared."""

SPECIAL_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


class TableLM(nn.Module):
    """A table of logits (X, Y) as a language model: one token is the prompt, one token is the response.

    It runs through the same `Batch`, log-probs and training loop as a 7B model.

    Args:
        logits: (X, Y) float, the initial values.
    """

    base_model_prefix = "table"

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.table = _Rows(logits)

    def get_output_embeddings(self) -> nn.Module:
        """The identity: the hidden state of a prompt is its row of logits."""
        return nn.Identity()

    @property
    def logps(self) -> torch.Tensor:
        """(X, Y) log π(y|x)."""
        return self.table.weight.log_softmax(-1)


class _Rows(nn.Embedding):
    """Rows of the table, looked up by prompt token. The response's one token predicts nothing and is never input."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__(rows.shape[0], rows.shape[1], _weight=rows.clone())

    def forward(self, input_ids: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:  # type: ignore[override]
        return (super().forward(input_ids),)


def small_mistral(tokenizer: Any, seed: int = 0, **shape: Any) -> Any:
    """A Mistral with random weights for the tokenizer: 4 layers of width 128.

    Args:
        tokenizer: gives the size of the vocabulary and the special tokens.
        seed: of the weights; torch's random state stays as it is.
        shape: other sizes, by their names in MistralConfig.
    """
    from transformers import MistralConfig, MistralForCausalLM

    size = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "sliding_window": None,
        "tie_word_embeddings": False,
    } | shape
    config = MistralConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MistralForCausalLM(config)


def byte_pair_tokenizer(texts: Iterable[str], vocabulary: int = 2048) -> Any:
    """A byte-level BPE tokenizer trained on the texts, with at most `vocabulary` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        (piece for text in texts for piece in _LONG.split(text)),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS.values()),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def is_missing_path(name: str) -> bool:
    """Whether a name can only be a path (it begins with . / or ~, or has several slashes), and nothing is there."""
    return (name[:1] in (".", "/", "~") or name.count("/") > 1) and not Path(name).exists()


def four_bit_options(dtype: str) -> dict[str, Any]:
    """Options of `from_pretrained` for QLoRA's frozen weights: NF4 with quantised scales, on this process's GPU.

    Source: Dettmers et al. 2023, "QLoRA", Sec. 3, https://arxiv.org/abs/2305.14314.

    Args:
        dtype: of the arithmetic, by its name in torch.

    Raises:
        InputError: no CUDA device, or no bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise InputError("load_in_4bit: expected a CUDA device, since bitsandbytes needs one, got none")
    if find_spec("bitsandbytes") is None:
        raise InputError("load_in_4bit: expected the package bitsandbytes, got none; pip install una_ref[qlora]")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers without progress bars and warnings; missing weights are refused here, by name."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load(name: str, dtype: str = "float32", *, load_in_4bit: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer from a local folder or a hub name.

    A LoRA adapter is merged into its base, so that the merged policy is the reference of the next training. The
    tokenizer of an adapter is its own, else the base's.

    Args:
        name: the folder or hub name, a GGUF file, or ``smollm2``; see `una_ref.policies.named_models`.
        dtype: of the weights, by its name in torch.
        load_in_4bit: whether the weights are quantised for QLoRA, see `four_bit_options`.

    Raises:
        InputError: nothing loadable there, with the reason; weights that lack a tensor; a tokenizer with ids that the
            model has no embedding for; an adapter whose merge has other log-probs; 4 bits on a machine without CUDA; or
            4 bits for an adapter, since merging it into them would round it away.
    """
    name = resolved(name)
    if is_missing_path(name):  # not a hub name either
        raise InputError(f"model {name!r}: expected a folder or hub name, got a path where nothing is{near_path(name)}")
    options = four_bit_options(dtype) if load_in_4bit else {}
    try:
        with quiet_transformers():
            model, tokenizer = _loaded(name, getattr(torch, dtype), **options)
    except Exception as error:  # no such folder, no network, damaged weights, no tokenizer: each raises its own class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model {name!r}: expected a folder or hub name with config, safetensors weights and tokenizer, "
            f"got: {reason}{near_path(name) if not Path(name).exists() else ''}"
        ) from error
    rows = model.get_input_embeddings().weight.shape[0]
    # The pad token never reaches the model: batches are padded with id 0 under a mask.
    ids = {i: token for token, i in tokenizer.get_vocab().items() if token != tokenizer.pad_token or i < rows}
    if max(ids) >= rows:
        raise InputError(
            f"model {name!r}: expected token ids below {rows}, the rows of its embedding, got {max(ids)} for "
            f"{ids[max(ids)]!r}; the tokenizer belongs to another model, or the embedding was not resized"
        )
    return model, tokenizer


def _loaded(name: str, dtype: torch.dtype, **options: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM
    from transformers.utils import cached_file

    base = base_of(name)
    if base and options:
        raise ValueError("an adapter, which 4 bits would round away; merge it into its base and name that")
    if base:
        model, tokenizer = _loaded(base, dtype)
        if cached_file(name, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False):
            tokenizer = load_tokenizer(name)
        return adapters.merged(model, name), tokenizer
    model, report = AutoModelForCausalLM.from_pretrained(
        name, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
    )
    if report["missing_keys"]:
        raise ValueError(f"weights without {', '.join(sorted(report['missing_keys'])[:3])}")
    return model, load_tokenizer(name)


def base_of(name: str) -> str:
    """The base of the adapter in a folder or of a hub name; empty if there is no adapter.

    A run that saved its base has it beside the adapter and beside its folders ``step-N``. The adapter names it by an
    absolute path, which a moved run no longer has, and where another run may lie now. Where any other base's path is
    gone, it is what the record names.
    """
    import json

    from transformers.utils import find_adapter_config_file

    config = find_adapter_config_file(name)
    if config is None:
        return ""
    base = str(json.loads(Path(config).read_text("utf-8"))["base_model_name_or_path"])
    own = (Path(name).parent if Path(name).name.startswith(KEPT) else Path(name)) / "base"
    if own.is_dir() and Path(base).name == own.name:
        return str(own)
    return resolved(started_from(name) or base) if is_missing_path(base) else base


def load_tokenizer(name: str) -> Any:
    """The tokenizer in a local folder or of a hub name. Raises ValueError for one that does not load."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a damaged file raises whatever its parser stumbles over
        raise ValueError(f"a tokenizer that does not load ({type(error).__name__}: {error})") from error


def with_lora(
    model: Any,
    *,
    r: int = 32,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str | list[str] = "all-linear",
    seed: int = 0,
    task: str = "CAUSAL_LM",
) -> Any:
    """The model with a fresh LoRA adapter, in eval mode. B = 0, so it starts exactly as the base.

    Source: Hu et al. 2021, "LoRA", https://arxiv.org/abs/2106.09685.

    Args:
        model: without an adapter.
        r: rank of the adapter.
        alpha: the adapter adds (alpha/r)·B·A to a weight.
        dropout: rate, on the adapter's input.
        targets: names of the layers that get an adapter, or "all-linear".
        seed: of A; torch's random state stays as it is.
        task: peft's name for the kind of model: CAUSAL_LM; FEATURE_EXTRACTION for a transformer without a head;
            SEQ_CLS for a scorer, whose head is then trained in full beside the adapter.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):  # peft computes the weights that are not quantised in float32
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type=task)
        return get_peft_model(model, config).eval()


def disable_dropout(model: nn.Module) -> None:
    """Set the model's dropout rates to 0, since policy and reference must be the same function at step 0.

    A rate is the p of an nn.Dropout, or any float attribute of a module with "drop" in its name.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(module, nn.Dropout))):
                setattr(module, name, 0.0)
