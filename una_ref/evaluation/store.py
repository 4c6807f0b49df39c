"""Results on disk: one line an item as it is finished, and one record a task at the end.

``TASK.items.jsonl`` begins with the settings. So an interrupted evaluation resumes, and the results of another model,
template or setting are refused instead of mixed. ``TASK.json`` is the record: scores, settings and provenance.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from una_ref.errors import InputError
from una_ref.training.card import hardware, versions
from una_ref.training.checkpoints import append_text, write_text

Values = Mapping[str, Any]
"""What was measured on one item: metric -> number, and whatever else is worth keeping, ready for JSON."""


@dataclass(frozen=True)
class Score:
    """One number about a model.

    Attributes:
        task: name of the task.
        metric: as the task names it, such as acc_norm.
        value: the mean over the items, in the metric's own unit; accuracies lie in [0, 1].
        stderr: standard error of the value over items; None where it is not defined.
        items: number of items.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int


class Results:
    """The results in a folder.

    Args:
        folder: created with the first result.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def begin(self, task: str, settings: Mapping[str, Any]) -> dict[str, Values]:
        """The items of a task that are finished under these settings. A new task gets its file.

        Args:
            task: name of the task.
            settings: all that two results must share to be comparable item by item, ready for JSON.

        Raises:
            InputError: the folder holds the task under other settings.
        """
        path, expected = self.path(task, "items.jsonl"), json.loads(json.dumps(settings))
        if not path.exists():
            self._make_folder()
            write_text(path, json.dumps({"settings": expected}, ensure_ascii=False) + "\n")
            return {}
        found, items = self._read(path)
        different = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        if different:
            key = different[0]
            raise InputError(
                f"results {path}: {key}: expected {found.get(key)!r} as in the results there, "
                f"got {expected.get(key)!r}. Fix: choose another --output, or delete them"
            )
        if not path.read_bytes().endswith(b"\n"):  # killed while it wrote a line
            lines = [{"settings": found}, *({"item": item, "values": values} for item, values in items.items())]
            write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return items

    def add(self, task: str, item: str, values: Values) -> None:
        """Append one finished item; see `begin`."""
        line = json.dumps({"item": item, "values": dict(values)}, ensure_ascii=False)
        append_text(self.path(task, "items.jsonl"), line + "\n")

    def items(self, task: str) -> dict[str, Values]:
        """The finished items of a task in the order of their completion; empty if there are none."""
        path = self.path(task, "items.jsonl")
        return self._read(path)[1] if path.exists() else {}

    def settings(self, task: str) -> dict[str, Any]:
        """The settings of a task's items; empty if there are none."""
        path = self.path(task, "items.jsonl")
        return self._read(path)[0] if path.exists() else {}

    def finish(self, task: str, scores: Iterable[Score], settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Write the record of a task and return it.

        Args:
            task: name of the task.
            scores: the headline metric first.
            settings: as given to `begin`.
            more: what else the record holds, such as limit, seconds and the model's name.
        """
        record = {
            "task": task,
            "scores": [asdict(score) for score in scores],
            "settings": dict(settings),
            **more,
            **provenance(),
        }
        self._make_folder()
        write_text(self.path(task, "json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        return record

    def record(self, task: str) -> dict[str, Any] | None:
        """The record of a finished task, or None."""
        path = self.path(task, "json")
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def scores(self, task: str) -> list[Score]:
        """The scores in the record of a task; empty if it is not finished."""
        record = self.record(task)
        return [Score(**score) for score in record["scores"]] if record else []

    def path(self, task: str, suffix: str) -> Path:
        """The file of a task: its items (items.jsonl) or its record (json)."""
        name = re.sub(r"[^\w.-]+", "-", task)  # tasks such as reward:NAME
        return self.folder / f"{name}.{suffix}"

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"output {self.folder}: expected a folder to write to, got: {reason}") from error

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Values]]:
        """The settings and items in a file. A last line that a killed process left unfinished is ignored."""
        whole = path.read_text("utf-8").rpartition("\n")[0].splitlines()
        try:
            lines = [json.loads(line) for line in whole]
            return dict(lines[0]["settings"]), {line["item"]: line["values"] for line in lines[1:]}
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{path}: expected the items of an evaluation, got something else ({type(error).__name__}: {error}). "
                f"Fix: delete it, and the evaluation starts from the beginning"
            ) from error


def completed(
    results: Results,
    task: str,
    settings: Mapping[str, Any],
    names: Sequence[str],
    measured: Callable[[list[int]], Iterable[tuple[int, Values | None]]],
    *,
    unit: str,
) -> list[Values]:
    """The values of all items in their order. Those that `results` holds are not measured again.

    Args:
        results: keeps each item as soon as it is measured.
        task: name of the task.
        settings: see `Results.begin`.
        names: of the items, each once.
        measured: places of the missing items -> (place, values) of each; None where nothing answered.
        unit: what an item is, for the progress bar and the error.

    Raises:
        InputError: `results` holds the task under other settings.
        ConnectionError: some items have no values. The others are kept.
    """
    found = dict(results.begin(task, settings))
    missing = [i for i, name in enumerate(names) if name not in found]
    with tqdm(total=len(names), initial=len(names) - len(missing), desc=task, unit=unit, disable=None) as bar:
        for i, values in measured(missing):
            if values is not None:
                results.add(task, names[i], values)
                found[names[i]] = values
            bar.update()
    if left := sum(name not in found for name in names):
        raise ConnectionError(
            f"task {task}: expected an answer about {len(names)} {unit}s, got none about {left}. "
            f"Fix: repeat the command, which asks for those again"
        )
    return [found[name] for name in names]


def provenance() -> dict[str, Any]:
    """Versions, hardware and date, which stand beside every score."""
    found = versions()
    for package in ("lm_eval", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = f"{hardware(device, 1)}; {_processor()}" if device.type == "cpu" else hardware(device, 1)
    return {"versions": found, "hardware": about, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def _processor() -> str:
    """The name of the processor, where the system tells it."""
    if os.path.exists("/proc/cpuinfo"):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
