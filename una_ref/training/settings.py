"""From what a user types to a `Config`: methods, recipes, YAML files and key=value settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import SequenceMatcher
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from una_ref.data.conventions import COLUMNS
from una_ref.errors import InputError, near, near_path
from una_ref.methods import METHODS, weighted
from una_ref.training.config import Config, field_types
from una_ref.training.fields import SHAPE, check, choices, hyperparameter_type, one_of, read
from una_ref.training.hints import HINTS

GROUPS = {
    "form": "method",
    "data": "data",
    "model": "model",
    "output": "run",
    "lr": "optimizer",
    "dtype": "weights and adapter",
    "max_length": "texts",
    "learn_from": "feedback",
    "online": "online",
    "baseline": "baseline V(x)",
    "log_every": "log, evaluations, checkpoints",
}
"""The first key of each group, in the order of the fields, and the group's heading in the help."""

STAGES = "stages"
"""The key that holds the named steps of a recipe of several."""
MANY = 12
"""A key of more methods than this is no hint at any one of them."""
SHARED = "shared"
"""The folder of what recipes have in common: extended by recipes, and no runs of their own."""


class Key(NamedTuple):
    """A key as the help shows it: its default as text, and its line."""

    name: str
    default: str
    about: str


class Layer(NamedTuple):
    """Keys with their values, and the recipe or file that sets them (empty: the command line)."""

    place: str
    values: Mapping[str, Any]


# ---- the help


def key_groups() -> dict[str, list[Key]]:
    """Heading -> its keys, from the fields of `Config` and their docstrings."""
    from docstring_parser import parse_from_object

    about = {p.arg_name: " ".join((p.description or "").split()) for p in parse_from_object(Config).params}
    types, heading = field_types(), ""
    groups: dict[str, list[Key]] = {}
    for f in fields(Config):
        heading = GROUPS.get(f.name, heading)
        if f.name in ("method", "loss_kwargs"):
            continue
        words = choices(types[f.name])
        more = f" One of: {', '.join(words)}." if len(words) > 1 else ""
        groups.setdefault(heading, []).append(Key(f.name, _default(f.default), about[f.name] + more))
    return groups


def loss_keys(method: str) -> list[Key]:
    """The keys of a method's loss."""
    record = METHODS[method]
    return [Key(name, str(value), record.meaning(name)) for name, value in record.hyperparameters.items()]


def _default(value: Any) -> str:
    """As it would be typed."""
    if value is MISSING:  # a mapping, which dataclasses make anew for each config
        return "{}"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


# ---- recipes and files


def recipes() -> list[str]:
    """Names of all recipes that are runs, of one step or of several."""
    folders = (d for d in _recipes().iterdir() if d.is_dir() and d.name != SHARED)
    files = [(f"{d.name}/", f.name) for d in folders for f in d.iterdir()]
    files += [("", f.name) for f in _recipes().iterdir()]
    return sorted(f"{folder}{file.removesuffix('.yaml')}" for folder, file in files if file.endswith(".yaml"))


def recipe(name: str) -> dict[str, Any]:
    """The keys of a recipe on top of those of the recipes that it extends; steps of the same name are joined."""
    return _joined(_chain(name))


def _joined(layers: Iterable[Layer]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for layer in layers:
        steps = layer.values.get(STAGES, {})
        if not isinstance(steps, Mapping) or not all(isinstance(own, Mapping) for own in steps.values()):
            raise InputError(f"{layer.place}: {STAGES}: expected named steps, each with its keys, got {steps!r:.60}")
        before = out.get(STAGES, {})
        joined = before | {name: {**before.get(name, {}), **own} for name, own in steps.items()}
        out = out | dict(layer.values) | ({STAGES: joined} if joined else {})
    return out


def stages_of(what: str, file: str = "") -> dict[str, Any] | None:
    """The keys of a recipe of several steps, its steps under `STAGES`; None for anything that is one run.

    Args:
        what: a method, a recipe or a YAML file; may be empty if there is a `file`. A method may name a recipe.
        file: a YAML file whose keys stand on top of `what`.
    """
    if what in METHODS and not METHODS[what].recipe and not file:
        return None
    what = _recipe_of(what)
    if not what and not file:
        return None
    layers = [*(_chain(what) if _is_file(what) or what in recipes() else []), *(_chain(file) if file else [])]
    keys = _joined(layers)
    return keys if STAGES in keys else None


def recipe_stages(what: str) -> dict[str, dict[str, Any]]:
    """The steps of a recipe of this package, without those of a user's own file; empty if it has none.

    Args:
        what: a method that names a recipe, a recipe, or a YAML file that extends one.
    """
    what = _recipe_of(what)
    layers = _chain(what) if _is_file(what) or what in recipes() else []
    return _joined(layer for layer in layers if not _is_file(layer.place)).get(STAGES, {})


def _recipe_of(what: str) -> str:
    """The recipe that a method names, or what is given."""
    return METHODS[what].recipe or what if what in METHODS else what


def output_of(what: str) -> str:
    """The folder of a run's result, unless another one is given; some recipes start from another's folder."""
    return f"runs/{Path(what).stem if _is_file(what) else what.replace('/', '-')}"


def _recipes() -> Traversable:
    return resources.files(__package__) / "recipes"


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _chain(name: str, folder: Path | None = None, below: tuple[str, ...] = ()) -> list[Layer]:
    """A recipe or file after what it extends, the furthest ancestor first.

    Args:
        name: a recipe's name, or a YAML file.
        folder: where a relative file is looked up.
        below: the recipes and files that extend this one.

    Raises:
        InputError: no such recipe or file, no YAML mapping, or a circle.
    """
    if not below and not _is_file(name) and name not in [*recipes(), *_shared()]:
        raise InputError(f"config {name}: expected a YAML file, got another name. Fix: name it .yaml or .yml")
    place = str((folder or Path()) / Path(name).expanduser()) if _is_file(name) else name
    path: Traversable = Path(place) if _is_file(name) else _recipes() / f"{name}.yaml"
    if place in below:
        raise InputError(f"{below[-1]}: extends: expected no circle, got {' -> '.join([*below, place])}")
    if not _is_file(name) and name not in [*recipes(), *_shared()]:
        hint = near(name, [*recipes(), *_shared()])
        raise InputError(f"{below[-1]}: extends: expected a recipe or a .yaml file, got {name!r}{hint}")
    values = dict(_loaded(path, place))
    parent = values.pop("extends", None)
    own = [Layer(place, values)]
    if parent is None:
        return own
    if not isinstance(parent, str):
        raise InputError(f"{place}: extends: expected the name of a recipe or a .yaml file, got {parent!r}")
    return [*_chain(parent, Path(place).parent if _is_file(place) else None, (*below, place)), *own]


def _shared() -> list[str]:
    return [f"{SHARED}/{f.name.removesuffix('.yaml')}" for f in (_recipes() / SHARED).iterdir()]


def _loaded(path: Traversable, place: str) -> Mapping[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{place}: expected a YAML file, got no such file{near_path(place)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{place}: expected a readable YAML file, got: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{place}: expected key: value lines, got {type(values).__name__}")
    return values


# ---- the config


def resolve(what: str = "", settings: Iterable[str] = (), *, file: str = "", **options: Any) -> Config:
    """The config of a method, a recipe or a YAML file, with options and settings on top.

    Args:
        what: a method, a recipe or a YAML file; may be empty if there is a `file`.
        settings: key=value, on top of everything else.
        file: a YAML file whose keys stand on top of `what`.
        options: key -> value, on top of recipe and file; None: not given.

    Raises:
        InputError: an unknown name or key (with the nearest one), or a value that does not fit its key. The recipe or
            file that sets the key is named.
    """
    start = _start(what, file)
    if not start:
        raise InputError("train: expected a method, a recipe or --config FILE, got none")
    if staged := [layer.place for layer in start if STAGES in layer.values]:
        raise InputError(f"{staged[-1]}: expected one run, got a recipe of several steps")
    named = [layer for layer in start if "method" in layer.values]
    if not named:
        raise InputError(f"{start[-1].place}: method: expected the name of a method, got none. Fix: add method: NAME")
    method = named[-1].values["method"]
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"{named[-1].place}: method: expected a method, got {method!r}{near(str(method), _methods())}")
    given = [Layer("", {key: value for key, value in options.items() if value is not None}), *map(_layer, settings)]
    kept = [Layer(place, {k: v for k, v in keys.items() if k != "method" or not place}) for place, keys in start]
    return configured(method, [*kept, *given])


def configured(method: str, layers: Iterable[Layer]) -> Config:
    """The config of a method with the keys of some layers, each on top of those before it.

    Raises:
        InputError: an unknown key or a value that does not fit; names the layer's place.
    """
    values: dict[str, Any] = {"method": method}
    layers = [*layers]
    sums = [Layer(place, {"losses": keys["losses"]}) for place, keys in layers if "losses" in keys]
    rest = [Layer(place, {key: value for key, value in keys.items() if key != "losses"}) for place, keys in layers]
    for place, keys in [*sums, *rest]:  # a sum of losses first, since it has hyper-parameters of its own
        for key, value in keys.items():
            try:
                _put(values, key, value)
            except InputError as error:
                raise InputError(f"{place}: {error}" if place else str(error)) from None
    return Config(**values)


def hint(name: str, method: str = "") -> str:
    """What to write instead of an unknown key, as the end of a message: the key, the methods that have it, or the
    nearest key. Empty where nothing is near.
    """
    if name in HINTS:
        return f". Fix: {HINTS[name]}"
    owners = [owner for owner, record in METHODS.items() if name in record.hyperparameters]
    if len(owners) > MANY:
        return f"; it is a key of {len(owners)} other methods"
    own, kinds = (METHODS[method].hyperparameters, METHODS[method].kinds) if method else ((), ())
    if owners:  # relatives first: with the same feedback, and with a similar name, as tdpo2 is of tdpo
        alike = {owner: SequenceMatcher(None, owner, method).ratio() for owner in owners}
        owners.sort(key=lambda owner: (not {*kinds} & {*METHODS[owner].kinds}, -alike[owner]))
        return f"; it is a key of {', '.join(owners)}"
    return near(name, [*field_types().keys() - {"method", "loss_kwargs"}, *own])


def _methods() -> list[str]:
    return [name for method in METHODS.values() for name in (method.name, *method.aliases)]


def _layer(setting: str) -> Layer:
    key, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"{setting!r}: expected key=value")
    return Layer("", {key: value})


def _start(what: str, file: str) -> list[Layer]:
    """What stands below options and settings."""
    own = _chain(file) if file else []
    if not what:
        return own
    if own and (len(own) > 1 or "method" in own[0].values):
        key = "extends" if len(own) > 1 else "method"
        raise InputError(f"{file}: {key}: expected none beside `train {what}`, got one. Fix: leave out one of the two")
    if what in METHODS:
        return [Layer(f"train {what}", {"method": what}), *own]
    if not _is_file(what) and what not in recipes():
        raise InputError(
            f"train {what}: expected a method, a recipe or a .yaml file{near(what.lower(), [*_methods(), *recipes()])} "
            f"(`una-ref methods` lists the methods; recipes: {', '.join(recipes())})"
        )
    return [*_chain(what), *own]


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key to a value of its type.

    A loss's own key, such as beta, is short for loss_kwargs.beta. A dotted key adds to its mapping, a whole mapping
    replaces the one before.
    """
    method, types = values["method"], field_types()
    known = _known(values)
    name, dot, part = (f"loss_kwargs.{key}" if key in known else key).partition(".")
    mapping = get_origin(types.get(name)) is dict
    if name == "method" or name not in types or (dot and not mapping):
        raise InputError(f"{key}: unknown key of {method}{hint(name, method)}")
    if not dot:
        values[name] = _typed(key, value, types[name])
        if mapping:
            whole, values[name] = values[name], {}
            for part, one in whole.items():
                _put(values, f"{name}.{part}", one)
        return
    parts = {"shape": SHAPE, "columns": COLUMNS}.get(name, known)
    if part not in parts:
        more = near(part, parts) or (hint(part, method) if name == "loss_kwargs" else "")
        raise InputError(f"{name}: expected {one_of(parts)}, got {part!r}{more}")
    kind = get_args(types[name])[1] if name != "loss_kwargs" else hyperparameter_type(part, known[part])
    values[name] = {**values.get(name, {}), part: _typed(key, value, kind)}


def _known(values: Mapping[str, Any]) -> Mapping[str, float | str]:
    """The hyper-parameters of the losses with their defaults."""
    return weighted.combined(METHODS[values["method"]], values.get("losses", "")).hyperparameters


def _typed(key: str, value: Any, kind: Any) -> Any:
    value = read(value, kind)
    check(key, value, kind)
    return value
