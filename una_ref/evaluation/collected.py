"""Evaluations and finished runs found in folders, each with what it measured and on which model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from una_ref.errors import InputError, near_path
from una_ref.evaluation import paired
from una_ref.evaluation.store import Score
from una_ref.methods import METHODS
from una_ref.training.checkpoints import RECORD

STUDY = "runs.jsonl"
"""The finished runs of a study, a header and then one line each."""
BASE, HELD_OUT = "base", "held-out accuracy"
"""The method of a model that no run of ours trained, and the task of a run's own held-out pairs."""
_FREE = {"seed", "output", "save_every", "log_every", "eval_every", "tracker", "micro_tokens", "layout", "reference"}
"""Keys in which two runs may differ and still be repetitions of one setting, or the same numbers."""


@dataclass(frozen=True)
class Measured:
    """One task of one model.

    method
        As in `PrintedRow.method`; ".shuffled" behind it for the shuffled control.
    online
        Whether the run sampled its responses; None for a model before training.
    model
        Name of the base model.
    beta
        β of the run's loss; None for a model before training.
    setting
        The run's config without its seed and what cannot change its numbers, as text; empty before training.
    seed
        The run's seed.
    task
        The task's name in ``una-ref evaluate``.
    scores
        The headline metric first.
    shots, limit, chat, judge
        Few-shot examples, most items, whether prompts went through a chat template, and the model that judged the
        answers; None if the record does not say.
    date, folder
        When it was measured (ISO 8601; empty if the record does not say), and the folder of its record.
    """

    method: str
    online: bool | None
    model: str
    beta: float | None
    setting: str
    seed: int
    task: str
    scores: tuple[Score, ...]
    date: str
    folder: str
    shots: int | None = None
    limit: int | None = None
    chat: bool | None = None
    judge: str | None = None

    def score(self, metric: str) -> Score | None:
        """The score of a metric, or None."""
        return next((score for score in self.scores if score.metric == metric), None)


def collect(folders: Iterable[str | Path]) -> list[Measured]:
    """Everything measured below these folders, in the order of their paths.

    Args:
        folders: runs, evaluations, studies on real models, or folders of them at any depth.

    Raises:
        InputError: a folder that is not there, or a record that cannot be read.
    """
    found: list[Measured] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            hint = near_path(str(folder))
            raise InputError(f"report {folder}: expected a folder with runs or evaluations, got nothing there{hint}")
        for path in sorted((*folder.rglob("*.json"), *folder.rglob(STUDY))):
            if path.name == STUDY:
                found += _studied(path)
            elif path.name == RECORD:
                found += _held_out(path, _read(path))
            elif _is_evaluation(path):
                found.append(_evaluated(path, _read(path)))
    return found


def _is_evaluation(path: Path) -> bool:
    """Whether a JSON file begins as `Results.finish` writes it; a run's folder has large JSON files of other kinds."""
    with path.open("rb") as file:
        return file.read(40).replace(b" ", b"").replace(b"\n", b"").startswith(b'{"task":')


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, got something else ({error}). Fix: delete or repair it") from error


def _evaluated(path: Path, record: Mapping[str, Any]) -> Measured:
    """One task's record, as `una_ref.evaluation.store.Results` writes it."""
    run = _run_of(path)
    try:
        return Measured(
            **(_about(run) if run else _untrained(record, path)),
            task=record["task"],
            scores=tuple(Score(**score) for score in record["scores"]),
            date=record.get("date", ""),
            folder=str(path.parent),
            shots=record.get("settings", {}).get("shots"),
            limit=record.get("limit"),
            chat=record.get("chat"),
            judge=record.get("settings", {}).get("judge"),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected the record of an evaluation, got something else ({type(error).__name__}: {error})"
        ) from error


def _studied(path: Path) -> Iterator[Measured]:
    """The tasks in a study's lines: those with a value for each item. A last line that is cut off is passed over."""
    header, *lines = path.read_text("utf-8").rpartition("\n")[0].split("\n")
    tasks = [line for line in map(json.loads, (line for line in lines if '"items_by_name"' in line)) if "task" in line]
    if not tasks:
        return
    about = json.loads(header)
    model = re.sub(r"-[0-9a-f]{12}$", "", str(about["base"]).partition(",")[0])  # without the digest of its file
    for line in tasks:
        run, metric = line["run"], line["metric"]
        name, _, form = run["entry"].partition(".")
        method = METHODS.get(name)
        yield Measured(
            method=run["entry"] if method is None else method.name + (f".{form}" if form else ""),
            online=None if method is None else run.get("online", method.source != "dataset"),
            model=model,
            beta=about.get("settings", {}).get("beta") if method else None,
            setting=json.dumps({key: value for key, value in run.items() if key not in _FREE}) if method else "",
            seed=run["seed"],
            task=line["task"],
            scores=(paired.score(line["task"], metric, [{metric: value} for value in line["values"]]),),
            date=line.get("date", ""),
            folder=str(path.parent),
            shots=line.get("shots"),
            limit=line.get("items"),
            chat=line.get("chat"),
        )


def _run_of(path: Path) -> dict[str, Any] | None:
    """The record of the run whose evaluation this is: beside it, or one folder up."""
    for folder in (path.parent, path.parent.parent):
        if (folder / RECORD).exists():
            return _read(folder / RECORD)
    return None


def _untrained(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    name = str(record.get("model") or path.parent.name)
    return {"method": BASE, "online": None, "model": name, "beta": None, "setting": "", "seed": 0}


def _about(run: Mapping[str, Any]) -> dict[str, Any]:
    """Method, model and settings of a run; of a recipe of several steps, those of the last step."""
    config = run.get("last", run)["config"]
    method = METHODS[config["method"]]
    form = config.get("form", "corrected")
    name = config.get("losses") or method.name + ("" if form == "corrected" else f".{form}")
    beta = config.get("loss_kwargs", {}).get("beta", method.hyperparameters.get("beta"))
    return {
        "method": name + (".shuffled" if config.get("shuffle") else ""),
        "online": bool(config.get("online")) or method.source != "dataset",
        "model": config["model"] or "made here",
        "beta": None if beta is None else float(beta),
        "setting": json.dumps({k: v for k, v in config.items() if k not in _FREE}, sort_keys=True, ensure_ascii=False),
        "seed": int(config.get("seed", 0)),
    }


def _held_out(path: Path, record: Mapping[str, Any]) -> Iterator[Measured]:
    """A finished run's accuracy on its held-out pairs, with the standard error of a share."""
    run = record.get("last", record) if isinstance(record, dict) else {}
    accuracy = run.get("evaluation", {}).get("rewards/accuracies") if run.get("finished") else None
    items = run.get("rows", {}).get("held_out", 0)
    if accuracy is None or not items or run.get("config", {}).get("method") not in METHODS:
        return
    error = (accuracy * (1 - accuracy) / items) ** 0.5
    score = Score(HELD_OUT, "accuracy", float(accuracy), error, int(items))
    yield Measured(**_about(record), task=HELD_OUT, scores=(score,), date="", folder=str(path.parent))
