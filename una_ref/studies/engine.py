"""One engine for every study: worlds × entries × settings × seeds -> runs on disk -> table, figure and numbers.

A `Study` declares what a run is and which runs there are. `carry_out` does the rest: it chooses each row's setting on
tuning worlds, computes the missing runs in worker processes, and writes

- runs.jsonl: one line a run; a study that was stopped goes on with it,
- results.json: summaries, settings, versions,
- table.md, and a figure for each axis.

The base policy is an argument of every run. The header of runs.jsonl names it by its folder and its weights.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch

from una_ref.errors import InputError
from una_ref.studies.run_store import Run, RunStore
from una_ref.studies.toysteer_policies import base_folder, base_name
from una_ref.training.card import versions
from una_ref.training.checkpoints import write_text
from una_ref.training.config import Config


@dataclass(frozen=True)
class Entry:
    """A row of a table: a method in one of its forms.

    Attributes:
        name: in runs.jsonl and in figures.
        title: in tables.
        method: name in the registry.
        form: which of the method's losses.
        config: further keys of `Config` that make it this row.
        loss_kwargs: hyper-parameters that are not tuned.
        tuned_as: name of the entry whose setting it takes; empty where it is tuned itself.
    """

    name: str
    title: str
    method: str
    form: Literal["corrected", "printed", "released"] = "corrected"
    config: Mapping[str, Any] = field(default_factory=dict)
    loss_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tuned_as: str = ""

    def run_config(self, loss_kwargs: Mapping[str, Any], **keys: Any) -> Config:
        """The config of a training run of this entry; its own keys and hyper-parameters come before those given."""
        own = {"loss_kwargs": {**loss_kwargs, **self.loss_kwargs}, **self.config}
        return Config(method=self.method, form=self.form, **{**keys, **own})


Candidates = Mapping[str, Sequence[tuple[Mapping[str, Any], Sequence[Run]]]]
"""By a row's name: the settings that it may have, each with its runs on the tuning worlds."""
Means = Mapping[str, Sequence[tuple[Mapping[str, Any], float]]]
"""By a row's name: the settings whose runs are finished, each with the mean of the criterion."""
Chosen = Mapping[str, Mapping[str, Any]]
"""By a row's name: its setting, and as `tuning_regret` the mean regret that it was chosen by."""


class StudySettings(Protocol):
    """A frozen dataclass: what all runs of a study have in common, and which runs there are."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def quick(self) -> Any:
        """The same study, smaller."""
        ...


class Measure(Protocol):
    """Computes a run: what was measured, with its `seconds`.

    Times aside, a function of its arguments alone. It stands at the top of a module, where worker processes find it.
    """

    def __call__(self, run: Any, settings: Any, base: Path) -> dict[str, Any]:
        """`base` is the folder of the base policy."""
        ...


S = TypeVar("S", bound=StudySettings)


@dataclass(frozen=True)
class Axis(Generic[S]):
    """One question of a study: what is varied, with its table and its figure.

    Attributes:
        candidates: what each row's setting is chosen from.
        further: more candidates in the light of the first ones' means; it is asked until it has none.
        results: computes the axis's runs and sums them up, ready for JSON; (store, settings, base, chosen).
        table: the results as lines of Markdown.
        draw: the results as a figure; (results, folder or None, name) -> path.
        groundwork: runs that the candidates' runs build on. They are computed first.
    """

    candidates: Callable[[S], Candidates]
    results: Callable[[RunStore, S, Path, Chosen], dict[str, Any]]
    table: Callable[[Mapping[str, Any]], Sequence[str]]
    draw: Callable[[Mapping[str, Any], Path | None, str], Path]
    groundwork: Callable[[S], Sequence[Run]] = lambda settings: ()
    further: Callable[[S, Means], Candidates] = lambda settings, means: {}


def regret(line: Mapping[str, Any]) -> float:
    """The regret in a run's line."""
    return line["regret"]


@dataclass(frozen=True)
class Study(Generic[S]):
    """The declaration of a study.

    Attributes:
        command: what runs it.
        settings: of the full study.
        header: fields of the settings that say what a run is. The others only say which runs there are.
        measure: computes a run.
        axes: by name.
        shipped: file of this package with the settings that the full study chose.
        criterion: from a run's line to what `choose` takes the lowest mean of.
        start: the folder of the base policy that a name stands for; None is the default. None in its place: the worlds
            of the study have base policies of their own, and its functions get an empty path.
        base_option: of the command, which names the base policy.
    """

    command: str
    settings: S
    header: Sequence[str]
    measure: Measure
    axes: Mapping[str, Axis[S]]
    shipped: str
    criterion: Callable[[Mapping[str, Any]], float] = regret
    start: Callable[[str | Path | None], Path] | None = base_folder
    base_option: str = "--base"

    def store(self, folder: Path, settings: S, base: Path, *, workers: int = 1, compute: bool = True) -> RunStore:
        """The runs in a folder; without `compute` the finished ones alone.

        Raises:
            InputError: they have other settings or another base policy.
        """
        every = asdict(settings)
        common = {name: every[name] for name in self.header}
        header = {"settings": common, **self.named(base)}
        measure = partial(self.measure, settings=settings, base=base)
        return RunStore(folder, header, measure, workers=workers, compute=compute)

    def named(self, base: Path, key: str = "base") -> dict[str, str]:
        """The base policy by its name; nothing for a study without one."""
        return {} if self.start is None else {key: base_name(base)}

    def chosen(self) -> dict[str, dict[str, Any]]:
        """The settings that the full study chose, as shipped with the package.

        Raises:
            InputError: it has not been carried out yet.
        """
        if not (resources.files(__package__) / self.shipped).is_file():
            raise InputError("quick: expected a study whose full size has been carried out. Fix: leave --quick out")
        return json.loads((resources.files(__package__) / self.shipped).read_text("utf-8"))

    def table(self, results: Mapping[str, Any]) -> str:
        """results.json as Markdown, a table for each axis."""
        by_axis = self.by_axis(results)
        lines = [line for name, result in by_axis.items() for line in [*self.axes[name].table(result), ""]]
        return "\n".join(lines).rstrip() + "\n"

    def by_axis(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """The results of each axis in results.json, which has no level for axes if the study has only one."""
        only = len(self.axes) == 1
        return {name: results if only else results[name] for name in self.axes if only or name in results}


def choose(
    store: RunStore,
    candidates: Candidates,
    criterion: Callable[[Mapping[str, Any]], float] = regret,
    further: Callable[[Means], Candidates] = lambda means: {},
) -> dict[str, dict[str, Any]]:
    """For each row the setting with the lowest mean of the criterion on the tuning worlds; of equal ones the first.

    A setting with a value that is not finite is chosen only if all are so. A row whose candidates are not finished has
    no setting; this happens only in a store that computes nothing.
    """
    known: dict[str, list[tuple[Mapping[str, Any], float]]] = {name: [] for name in candidates}
    added = candidates
    while added:
        store.results([run for options in added.values() for _, runs in options for run in runs], "tuning")
        for name, options in added.items():
            if any(run.key not in store.finished for _, runs in options for run in runs):
                known.pop(name)
                continue
            known[name] += [
                (setting, statistics.fmean(criterion(store.finished[run.key]) for run in runs))
                for setting, runs in options
            ]
        added = {name: options for name, options in further(known).items() if options}
    chosen = {}
    for name, means in known.items():
        setting, mean = min(means, key=lambda each: each[1] if math.isfinite(each[1]) else math.inf)
        chosen[name] = {**setting, f"tuning_{criterion.__name__}": mean}
    return chosen


def carry_out(
    study: Study[S],
    output: str | Path,
    *,
    axes: Iterable[str] = (),
    quick: bool = False,
    workers: int | None = None,
    base: str | Path | None = None,
    settings: S | None = None,
    report: bool = False,
) -> dict[str, Any]:
    """Run a study, or go on with it, and return what results.json holds.

    Args:
        study: which.
        output: the study's folder.
        axes: names of the study's axes; by default all. Results of other axes stay in results.json.
        quick: a smaller study, with the settings that the full study chose.
        workers: processes; by default one a core, or one where there is a GPU.
        base: the base policy, by a name that the study knows; by default the study's own.
        settings: by default those of the full study.
        report: compute nothing; table, figure and numbers are those of the finished runs.

    Raises:
        InputError: the folder holds another study or another version's results, the base is no policy for the study, or
            there is no such axis.
    """
    if study.start is None and base is not None:
        raise InputError(f"base {base}: expected none, since the worlds of this study have base policies of their own")
    folder, start = Path(output), study.start(base) if study.start else Path()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output {folder}: expected a folder, got a file. Fix: choose another output.")
    full = study.settings if settings is None else settings
    own: S = full.quick if quick else full
    shipped = study.chosen() if quick else {}
    names = tuple(axes) or tuple(study.axes)
    if unknown := [name for name in names if name not in study.axes]:
        raise InputError(f"axis {unknown[0]}: expected {', '.join(study.axes)}, got an axis of no such name")
    file = folder / "results.json"
    by_axis = _kept(study, file, names)
    workers = workers or (1 if torch.cuda.is_available() else os.cpu_count()) or 1
    with study.store(folder, own, start, workers=workers, compute=not report) as store:
        for name in names:
            axis, began = study.axes[name], time.time()
            store.requested.clear()
            if quick:
                chosen = shipped
            else:
                store.results(axis.groundwork(own), "groundwork")
                chosen = choose(store, axis.candidates(own), study.criterion, partial(axis.further, own))
            options = [f"--axis {name}"] if len(study.axes) > 1 else []
            options += ["--quick"] if quick else []
            options += [f"{study.base_option} {base}"] if base is not None else []
            found = {
                "command": " ".join([study.command, *options, f"--output {output}"]),
                "settings": asdict(own),
                **study.named(start, "base_policy"),
                "chosen": chosen,
                **axis.results(store, own, start, chosen),
                **provenance(store, began),
            }
            # As it is read back, lists for tuples, so that the same is drawn now and from the file.
            by_axis[name] = json.loads(json.dumps(found))
            by_axis = {each: by_axis[each] for each in study.axes if each in by_axis}
            results = by_axis if len(study.axes) > 1 else by_axis[name]
            write_text(file, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            write_text(folder / "table.md", study.table(results))
            axis.draw(by_axis[name], folder, name)
    return results


def _kept(study: Study[S], file: Path, names: Sequence[str]) -> dict[str, Any]:
    """What results.json has of other axes than these.

    Raises:
        InputError: another version wrote it, so that no table can be made of it.
    """
    if not file.exists():
        return {}
    try:
        by_axis = study.by_axis(json.loads(file.read_text("utf-8")))
        kept = {name: result for name, result in by_axis.items() if name not in names}
        for name, result in kept.items():
            study.axes[name].table(result)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: expected results of this version, got others ({type(error).__name__}: {error}). Fix: run all "
            "axes, or choose another output."
        ) from error
    return kept


def provenance(store: RunStore, began: float) -> dict[str, Any]:
    """What stands beside a study's numbers: versions, hardware, date, seconds since `began` and of all runs."""
    return {
        "versions": versions(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds_this_time": round(time.time() - began),
        "seconds_of_runs": round(sum(store.finished[key]["seconds"] for key in store.requested & {*store.finished})),
    }
