"""A run's state on disk, such that a run killed at any moment goes on to the same bytes.

A folder appears under its final name only when it is whole: it is written beside and renamed. Order of data, learning rate
and metrics are functions of the step, so a checkpoint holds weights, optimizer moments, random state and the step.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from una_ref.errors import InputError

FORMAT = 1
"""Version of the checkpoint layout; another one is refused, not guessed at."""


def write_text(path: Path, text: str) -> None:
    """Write a file so that under its name stands either the old content or the new."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def trainable(module: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes, by name."""
    return {name: p.detach().contiguous() for name, p in module.named_parameters() if p.requires_grad}


def save(folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    """Save the state after `step` steps as ``folder/step-000step`` and remove older ones."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    final, beside = folder / f"step-{step:08d}", folder / f".step-{step:08d}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        save_file({k: v.clone() for k, v in trainable(module).items()}, beside / "trainable.safetensors")
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state_all()
        torch.save({"optimizer": optimizer.state_dict(), "random": random}, beside / "state.pt")
        (beside / "step.json").write_text(json.dumps({"format": FORMAT, "step": step}))
        if final.exists():
            shutil.rmtree(final)
        os.replace(beside, final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for old in _all(folder)[:-1]:
        shutil.rmtree(old)
    return final


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def load(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest state into module, optimizer and random generators; 0 where there is none.

    Raises:
        InputError: a checkpoint of another format or of other parameters.
    """
    from safetensors.torch import load_file

    if not _all(folder):
        return 0
    newest = _all(folder)[-1]
    about = json.loads((newest / "step.json").read_text())
    if about.get("format") != FORMAT:
        raise InputError(f"{newest}: expected checkpoint format {FORMAT}, got {about.get('format')!r}")
    weights, own = load_file(newest / "trainable.safetensors"), trainable(module)
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in own.items()}:
        raise InputError(f"{newest}: expected the parameters of this model, got those of another")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    state = torch.load(newest / "state.pt", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"]["cpu"])
    if "cuda" in state["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random"]["cuda"])
    return int(about["step"])


@contextmanager
def claimed(output: Path, config: dict[str, Any]) -> Iterator[bool]:
    """Hold an output folder for one run; yields whether that run is finished already.

    Raises:
        InputError: a live run holds it, it belongs to another config, or it is a file or somebody else's folder.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"output {output}: expected a folder, got a file")
    record = output / "run.json"
    if output.is_dir() and not record.exists() and any(p.name != ".lock" for p in output.iterdir()):
        raise InputError(f"output {output}: expected an empty folder or an earlier run's, got a folder with other files")
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"output {output}: a live run is writing there") from None
        if record.exists():
            saved = json.loads(record.read_text())
            for key in sorted(saved["config"].keys() | config.keys()):
                if saved["config"].get(key) != config.get(key):
                    raise InputError(f"output {output}: holds a run with {key}={saved['config'].get(key)!r}, got "
                                     f"{config.get(key)!r}; choose another output, or the same config to resume")
        else:
            write_text(record, json.dumps({"config": config, "finished": False}, indent=1))
            saved = {"finished": False}
        yield bool(saved["finished"])
