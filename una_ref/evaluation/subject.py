"""What is evaluated: a run, an adapter or a model by name, loaded in eval mode, with a digest of its weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from una_ref.data.toysteer import TOYSTEER_BASE
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.named_models import resolved, weight_files
from una_ref.training.checkpoints import RECORD
from una_ref.training.publishing import EVALUATION
from una_ref.training.toysteer_base import toysteer_base


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        name: as it was given.
        model: causal language model in eval mode, on its device; an adapter is merged into its base.
        tokenizer: with the chat template.
        template: chat template (Jinja); empty if there is none.
        digest: SHA-256 of the weight files, those of an adapter's base included.
        folder: where results go.
        dtype: of the weights, by its name in torch.
    """

    name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    template: str = field(repr=False)
    digest: str
    folder: Path
    dtype: str = "float32"

    @property
    def identity(self) -> dict[str, str]:
        """What two results must share to be of the same model: weights, type and template (digests and names)."""
        template = hashlib.sha256(self.template.encode()).hexdigest()[:16] if self.template else ""
        return {"model": self.digest[:16], "dtype": self.dtype, "template": template}


def subject(name: str, *, dtype: str = "float32", template: str = "", output: str = "") -> Subject:
    """Load a model to evaluate. It goes to the first CUDA device, else it stays on the CPU.

    Args:
        name: folder of a finished run, adapter or model; hub name; GGUF file; ``smollm2``; or ``toysteer``.
        dtype: of the weights, by its name in torch.
        template: chat template (Jinja) instead of the tokenizer's own.
        output: folder for results; default: RUN/evaluation for a run, else evaluations/NAME.

    Raises:
        InputError: a run that is not finished, an adapter without its base, or nothing that loads.
    """
    weights = _weights_of(name)
    model, tokenizer = loading.load(weights, dtype)
    if template:
        tokenizer.chat_template = template
    if torch.cuda.is_available():
        model = model.to("cuda")
    return Subject(
        name=name,
        model=model.eval(),
        tokenizer=tokenizer,
        template=tokenizer.chat_template or "",
        digest=_digest(weights),
        folder=Path(output) if output else results_folder(name),
        dtype=dtype,
    )


def results_folder(name: str) -> Path:
    """Where the results of a model go by default: RUN/evaluation for a run, else evaluations/NAME."""
    if (Path(name) / RECORD).exists():
        return Path(name) / EVALUATION
    return Path("evaluations") / re.sub(r"[^\w.-]+", "-", name).strip("-.")


def _weights_of(name: str) -> str:
    """The folder or hub name that holds a model's weights: of a run of several steps, the last step's.

    Raises:
        InputError: a run that is not finished, or an adapter whose base is not there.
    """
    if name == TOYSTEER_BASE:
        return str(toysteer_base())
    record = Path(name) / RECORD
    if record.exists():
        run = json.loads(record.read_text("utf-8"))
        if not run.get("finished"):
            raise InputError(
                f"model {name!r}: expected a finished run, got one that was interrupted. "
                f"Fix: repeat its una-ref train command, which resumes it"
            )
        if "last" in run:  # a recipe of several steps; the folder may have been moved
            return _weights_of(str(Path(name) / Path(run["result"]).name))
    name = resolved(name)
    base = loading.base_of(name) if Path(name).is_dir() else ""
    if loading.is_missing_path(base):
        raise InputError(
            f"model {name!r}: expected the base of its adapter at {base}, got nothing there. "
            f"Fix: put it back, or set base_model_name_or_path in adapter_config.json"
        )
    return name


def _digest(name: str) -> str:
    """SHA-256 of the weight files of a model, its adapter's base included."""
    found = hashlib.sha256()
    for file in _weight_files(name):
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def _weight_files(name: str) -> Iterator[Path]:
    from transformers.utils import cached_file

    base = loading.base_of(name)
    config = Path(cached_file(name, "adapter_config.json" if base else "config.json"))
    yield from weight_files(config.parent)
    if base:
        yield from _weight_files(base)
