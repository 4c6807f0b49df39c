"""What the studies on a real language model share: start policy, rows of a part, folders, and who computed a run.

Adapters and reward models stay in the cache folder, outside the study's own. Whatever is missing there is made again
from its seed; equal versions on equal processors give equal bytes. Samples are in a run's line, so that another machine
can judge them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch

from una_ref.cache import cache_folder
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.named_models import SMOLLM2, resolved
from una_ref.studies.engine import StudySettings
from una_ref.studies.real_data import Part, Size, data_folder, parts
from una_ref.studies.toysteer_policies import WEIGHTS, base_name
from una_ref.training.card import commit, hardware, versions
from una_ref.training.checkpoints import write_text

ADAPTER, SAMPLES = "adapter_model.safetensors", "samples.json"
"""Files in the folder of a run: the trained adapter, and the sampled responses, which its judge reads."""


class RealStudySettings(StudySettings, Protocol):
    """What the settings of every study on a real model have.

    Attributes:
        study: name of the study.
        header: fields that say what a run is.
        sizes: rows and tokens of each part of the data.
        batch: rows a step, of the reward model.
        lora_r, lora_alpha: of all adapters.
    """

    @property
    def study(self) -> str: ...  # noqa: D102
    @property
    def header(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def sizes(self) -> Mapping[str, Size]: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def lora_r(self) -> int: ...  # noqa: D102
    @property
    def lora_alpha(self) -> float: ...  # noqa: D102


def measure(run: Any, settings: Any, base: Path) -> dict[str, Any]:
    """Compute any run; its line says where, when and by which versions."""
    began, processor = time.perf_counter(), time.process_time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        **run.measured(settings, base),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions(),
        "code": commit(),
        "hardware": hardware(device, 1),
    }


def start_policy(name: str | Path | None) -> Path:
    """The folder of a language model by folder, hub name, GGUF file or ``smollm2`` (the default).

    Raises:
        InputError: it is not there, or its weights are not one file of safetensors.
    """
    from transformers.utils import cached_file

    found = resolved(str(name or SMOLLM2))
    if Path(found).is_dir():
        folder = Path(found)
    else:
        loading.load(found)  # fetches it, or says why not
        folder = Path(str(cached_file(found, WEIGHTS))).parent
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"model {name}: expected weights in {WEIGHTS}, got none in {folder}")
    data_folder()
    return folder


def weights_name(folder: Path) -> str:
    """The first 64 bits of the SHA-256 of an adapter; empty for the base. Another one was trained elsewhere."""
    file = folder / ADAPTER
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.exists() else ""


def keep_samples(folder: Path, line: Mapping[str, Any]) -> None:
    """Write a line's samples into the run's folder, with the name of the adapter that they come from.

    Args:
        folder: of the run.
        line: of the run, with `weights` and `samples`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SAMPLES, json.dumps({name: line[name] for name in ("weights", "samples")}, ensure_ascii=False))


def work_folder(settings: RealStudySettings, base: Path) -> Path:
    """Where a study's adapters and samples are kept; another one for each header and base policy."""
    every = asdict(settings)
    return named_folder(settings.study, [{name: every[name] for name in settings.header}, name_of(base)])


def named_folder(kind: str, about: Any) -> Path:
    """A folder in the cache for all that depends on `about`, which is ready for JSON."""
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / "studies" / f"{kind}-{name}"


@cache
def name_of(base: Path) -> str:
    """The name of a base policy by its weights, which are read once."""
    return base_name(base)


def part_of(name: str, settings: RealStudySettings, tokenizer: Any) -> Part:
    """A part of the data; those before it are made too, so that no prompt is in two."""
    return parts(sizes_until(name, settings), tokenizer, data_folder())[name]


def sizes_until(name: str, settings: RealStudySettings) -> dict[str, Size]:
    """The sizes that the rows of a part depend on: its own, and those of the parts before it."""
    names = list(settings.sizes)
    return {each: settings.sizes[each] for each in names[: names.index(name) + 1]}


def rounded(values: Sequence[float]) -> list[float]:
    """Numbers as a line keeps them, with six digits."""
    return [float(f"{value:.6g}") for value in values]
