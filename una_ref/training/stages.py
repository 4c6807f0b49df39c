"""Recipes of several steps: training runs, data steps and merges that use the results of earlier ones by name.

A recipe's `stages` map names to steps. A step is a training run (the keys of any run), or a step with ``do:`` sample,
label, revise, part, contrast or merge. ``${name}`` stands for the result of an earlier step: the folder of its model,
or the file of its rows. Keys beside `stages` are the defaults of every step that takes them. A step's `toysteer` holds
keys for ToySteer's base and data alone: with another model or other data they are left out.

Each step has its own folder in the output, with its own run.json. So the same command resumes: finished steps are
skipped, and an interrupted one continues.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from una_ref.data.toysteer import TOYSTEER_BASE
from una_ref.errors import InputError, near
from una_ref.methods import METHODS
from una_ref.training import publishing
from una_ref.training.checkpoints import RECORD, claimed, write_text
from una_ref.training.config import Config, field_types
from una_ref.training.data_steps import DATA_STEPS, FILE, DataStep, write_rows
from una_ref.training.distributed import from_main, processes
from una_ref.training.dryrun import dry_run as dry_run_of
from una_ref.training.exclusions import ONLINE
from una_ref.training.fields import check, one_of, read
from una_ref.training.merges import Merge, merge
from una_ref.training.run import train
from una_ref.training.settings import STAGES, Layer, configured, hint, output_of, recipe_stages, stages_of

Step = Config | DataStep | Merge
KINDS: Mapping[str, type] = {**DATA_STEPS, "merge": Merge}
"""What `do` names."""
TOYSTEER = "toysteer"
"""The key of a step that holds its keys for ToySteer alone."""
_RESULT = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class Plan:
    """The steps of a recipe, checked, in their order.

    Attributes:
        output: folder of the whole; each step has a folder of its name in it.
        steps: name -> config, with ${name} where it uses the result of an earlier step.
        notes: sentences for the log.
    """

    output: str
    steps: Mapping[str, Step]
    notes: Sequence[str] = ()

    def needs(self, name: str) -> list[str]:
        """The earlier steps whose results a step uses."""
        return list(dict.fromkeys(used for text in _texts(self.steps[name]).values() for used in _RESULT.findall(text)))

    def result(self, name: str) -> str:
        """The folder of a step's model, or the file of its rows."""
        rows = f"/{FILE}" if isinstance(self.steps[name], DataStep) else ""
        return f"{self.output}/{name}{rows}"

    def ready(self, name: str) -> Step:
        """A step with paths in place of names."""
        step = self.steps[name]
        paths: dict[str, Any] = {k: _RESULT.sub(lambda m: self.result(m[1]), text) for k, text in _texts(step).items()}
        return replace(step, **paths | {"output": f"{self.output}/{name}"})

    def finished(self, name: str) -> bool:
        """Whether a step has its result."""
        record = Path(self.output, name, RECORD)
        return record.exists() and bool(json.loads(record.read_text("utf-8")).get("finished"))

    def settings(self) -> dict[str, Any]:
        """Every key of every step, as saved in run.json of the whole: `sft.steps` and so on."""
        return {
            f"{name}.{field.name}": getattr(step, field.name)
            for name, step in self.steps.items()
            for field in fields(step)
            if field.name != "output"
        }


def plan(what: str, settings: Iterable[str] = (), *, file: str = "", **options: Any) -> Plan:
    """The plan of a recipe of several steps, with options and settings on top.

    A setting ``step.key=value`` is for one step. One without a step's name, and every option, is for all steps that
    take the key, but never replaces the result of an earlier step.

    Args:
        what: a method that names a recipe, a recipe or a YAML file.
        settings: key=value or step.key=value.
        file: a YAML file whose keys stand on top of `what`.
        options: key -> value; None: not given.

    Raises:
        InputError: an unknown step or key, a value that does not fit, or the result of a later step.
    """
    keys = dict(stages_of(what, file) or {})
    stages: dict[str, dict[str, Any]] = {name: dict(own) for name, own in keys.pop(STAGES).items()}
    tuned = {name: own.pop(TOYSTEER, {}) for name, own in stages.items()}
    output = options.pop("output", None) or keys.pop("output", None) or output_of(what or file)
    for name in stages:
        if not re.fullmatch(r"[A-Za-z][\w-]*", str(name)) or get_origin(field_types().get(name)) is dict:
            raise InputError(f"{STAGES}: {name}: expected a name of letters and digits that is no key with parts")
    given = [(key, value) for key, value in options.items() if value is not None]
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{setting!r}: expected key=value")
        given.append((key, value))
    for key, value in keys.items():
        for own in stages.values():
            if _takes(own, key):
                own.setdefault(key, value)
    chosen: set[tuple[str, str]] = set()  # step and key of every value that is given
    for key, value in given:
        name, dot, part = key.partition(".")
        if dot and name in stages:
            stages[name][part] = value
            chosen.add((name, part))
            continue
        if key == "push":
            raise InputError(f"push: expected the step whose result is uploaded. Fix: {list(stages)[-1]}.push={value}")
        takers = [name for name, own in stages.items() if _takes(own, key)]
        if not takers:
            steps = near(name, stages) or f". Fix: write one of the steps {', '.join(stages)}"
            raise InputError(f"{key}: unknown key of every step{steps if dot else hint(key)}")
        for name in takers:
            if not _RESULT.search(str(stages[name].get(key, ""))):
                stages[name][key] = value
                chosen.add((name, key))
    foreign = next((value for own in stages.values() if (value := _foreign(own))), "")
    for name, own in stages.items():
        stages[name] = own if foreign else tuned[name] | own
    for own in stages.values():
        if "do" not in own and _RESULT.search(str(own.get("data", ""))):
            own.setdefault("empty", "keep")  # a model may have answered with EOS alone
    if not stages:
        raise InputError(f"{STAGES}: expected at least one step, got none")
    ours = recipe_stages(what) or recipe_stages(file)
    notes = _notes(foreign, stages, tuned, ours, chosen) if foreign else []
    made = Plan(output, {name: _step(name, own) for name, own in stages.items()}, notes)
    files = [own["data"] for own in stages.values() if not _is_toysteers(own.get("data"))]
    if files and any(own.get("model") == TOYSTEER_BASE for own in stages.values()):
        raise InputError(f"model: expected one for {files[0]}, got ToySteer's base. Fix: add --model NAME")
    before: list[str] = []
    for name in stages:
        for used in made.needs(name):
            if used not in before:
                raise InputError(f"{name}: expected the result of {one_of(before)}, got {used!r}{near(used, before)}")
        before.append(name)
    return made


def _foreign(own: Mapping[str, Any]) -> str:
    """The model or the data of a step that are not ToySteer's; empty if both are, or are results of other steps."""
    return next((f"{key}={own[key]}" for key in ("model", "data") if not _is_toysteers(own.get(key))), "")


def _is_toysteers(value: object) -> bool:
    """Whether a model or data are ToySteer's, the result of a step, or not named."""
    return re.match(r"toysteer(/|,|$)|\$", str(value or TOYSTEER_BASE)) is not None


def _notes(
    foreign: str,
    stages: Mapping[str, Mapping[str, Any]],
    tuned: Mapping[str, Mapping[str, Any]],
    ours: Mapping[str, Mapping[str, Any]],
    chosen: Collection[tuple[str, str]],
) -> list[str]:
    """What a run on another model or other data has to know of the numbers of a recipe that are for ToySteer.

    Args:
        foreign: what is not ToySteer's.
        stages: the keys of each step.
        tuned: those for ToySteer alone.
        ours: the keys of each step in a recipe of this package, without those in a user's own file.
        chosen: step and key of what the user has given.
    """
    notes = []
    if left := [f"{name}.{key}" for name, own in tuned.items() for key in own if key not in stages[name]]:
        notes.append(f"{foreign}: the recipe has {', '.join(left)} for ToySteer alone; here they are the defaults")
    numbers = [
        f"{name}.{key}={value}"
        for name, own in ours.items()
        for key, value in own.items()
        if isinstance(value, int | float) and stages[name].get(key) == value and (name, key) not in chosen
    ]
    if numbers:
        notes.append(f"{foreign}: numbers that the recipe has from ToySteer; set your own: {', '.join(numbers)}")
    return notes


def _step(name: str, own: Mapping[str, Any]) -> Step:
    try:
        return _training(own) if "do" not in own else _other(own)
    except InputError as error:
        raise InputError(f"{name}.{error}") from None


def _training(own: Mapping[str, Any]) -> Config:
    method = own.get("method", "")
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(
            f"method: expected a method, or do: {one_of(KINDS)}, got {method!r}{near(str(method), METHODS)}"
        )
    return configured(method, [Layer("", {key: value for key, value in own.items() if key != "method"})])


def _other(own: Mapping[str, Any]) -> Step:
    kind, values = own["do"], {}
    if kind not in KINDS:
        raise InputError(f"do: expected {one_of(KINDS)}, got {kind!r}{near(str(kind), KINDS)}")
    types = _types(KINDS[kind])
    for key, value in own.items():
        if key == "do":
            continue
        if key not in types:
            raise InputError(f"{key}: unknown key of {kind}{near(key, types)}")
        values[key] = read(value, types[key])
        check(key, values[key], types[key])
    if missing := [f.name for f in fields(KINDS[kind]) if f.default is MISSING and f.name not in values]:
        raise InputError(f"{missing[0]}: expected one, got none")
    return KINDS[kind](**values)


@cache
def _types(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind) if field.name != "output"}


def _takes(own: Mapping[str, Any], key: str) -> bool:
    """Whether a key of all steps is one of this step."""
    if "do" in own:
        return key in _types(KINDS[own["do"]]) if own["do"] in KINDS else False
    method = METHODS[own["method"]] if own.get("method") in METHODS else None
    name = key.partition(".")[0]
    if method is None or name in ("method", "output"):
        return False
    if name in ONLINE and method.source == "dataset" and own.get("online") is not True:
        return False
    return name in field_types() or name in method.hyperparameters


def _texts(step: Step) -> dict[str, str]:
    """The keys of a step whose values name results of others."""
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    return {key: value for key, value in values.items() if isinstance(value, str) and _RESULT.search(value)}


# ---- running


def run(made: Plan, *, progress: bool = True) -> dict[str, Any]:
    """Run the steps of a plan that are not finished; returns the record in run.json of the whole.

    Every process calls this. Data steps and merges are the main process's alone, and the others wait.

    Raises:
        InputError: what a step refuses, a changed plan, or a finished step whose input has been made anew since.
        NonFinite, Interrupted, Unrewarded: see `una_ref.training.loop.fit`.
    """
    for step in made.steps.values():
        if isinstance(step, Config):
            publishing.check(step)
    main, output = processes().is_main_process, Path(made.output)
    if main and progress:
        for note in made.notes:
            print(note, file=sys.stderr, flush=True)
    record: dict[str, Any] = {"config": made.settings(), "finished": False, "inputs": {}}
    with claimed(output, record["config"]) if main else nullcontext():
        if main:
            record |= {"inputs": json.loads((output / RECORD).read_text("utf-8")).get("inputs", {})}
        last: dict[str, Any] = {}
        for number, name in enumerate(made.steps, 1):
            if main and progress:
                what = getattr(made.steps[name], "method", None) or type(made.steps[name]).__name__.lower()
                print(f"step {number} of {len(made.steps)}: {name} ({what})", file=sys.stderr, flush=True)
            _refuse_stale(made, name, record["inputs"])
            last = _run(made.ready(name), progress=progress)
            if main:
                record["inputs"][name] = _digests(made, name)
                write_text(output / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
        record |= {"finished": True, "result": made.result(list(made.steps)[-1]), "last": last}
        if main:
            write_text(output / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
        return record if main else {}


def _run(step: Step, *, progress: bool) -> dict[str, Any]:
    if isinstance(step, Config):
        return train(step, progress=progress)
    record: dict[str, Any] = {}
    refused = ""
    if processes().is_main_process:
        try:
            record = merge(step) if isinstance(step, Merge) else write_rows(step)
        except InputError as error:  # the other processes may not wait for ever
            refused = str(error)
    if refused := from_main(refused):
        raise InputError(refused)
    if progress:
        for note in record.get("notes", ()):
            print(note, file=sys.stderr)
    return record


def _digests(made: Plan, name: str) -> dict[str, str]:
    """The SHA-256 of the records of the steps that a step uses."""
    records = {used: Path(made.output, used, RECORD) for used in made.needs(name)}
    return {used: hashlib.sha256(path.read_bytes()).hexdigest() for used, path in records.items()}


def _refuse_stale(made: Plan, name: str, inputs: Mapping[str, Mapping[str, str]]) -> None:
    if not processes().is_main_process or not made.finished(name) or name not in inputs:
        return
    now = _digests(made, name)
    if changed := [used for used, digest in inputs[name].items() if now.get(used) != digest]:
        raise InputError(
            f"{made.output}/{name}: expected a step that used the present result of {changed[0]}, got one from before "
            f"{changed[0]} was run again. Fix: delete {made.output}/{name}"
        )


def dry_run(made: Plan) -> str:
    """The report of every step as text; sizes and first rows only where the results that it uses exist."""
    return "\n\n".join([*made.notes, *_reports(made)])


def _reports(made: Plan) -> Iterator[str]:
    for number, (name, step) in enumerate(made.steps.items(), 1):
        head = f"== step {number} of {len(made.steps)}: {name}, result {made.result(name)}"
        missing = [used for used in made.needs(name) if not made.finished(used)]
        if isinstance(step, Config) and not missing:
            yield f"{head}\n{dry_run_of(made.ready(name))}"  # type: ignore[arg-type]
            continue
        shown = step.changed() if isinstance(step, Config) else _changed(step)
        are = "are" if len(missing) > 1 else "is"
        after = f"\nnot shown before {' and '.join(missing)} {are} finished: sizes and rows" if missing else ""
        yield f"{head}\n{json.dumps(shown, indent=1, ensure_ascii=False)}{after}"


def _changed(step: DataStep | Merge) -> dict[str, Any]:
    assert is_dataclass(step)
    found = {f.name: getattr(step, f.name) for f in fields(step) if getattr(step, f.name) != f.default}
    return {"do": type(step).__name__.lower(), **found}
