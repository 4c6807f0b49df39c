"""Everything that a training run is told, in one frozen record that is saved with its result."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from typing import Any, Literal

from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.methods.registry import Method

VOCABULARY = frozenset(
    "logps ref_logps labels scores lengths groups baseline kl chosen_logps rejected_logps ref_chosen_logps "
    "ref_rejected_logps chosen_lengths rejected_lengths chosen_scores rejected_scores margins".split()
)
"""Loss arguments that come from the data; all others are hyper-parameters and may be set as key=value."""


@dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        method: a name in `METHODS`.
        form: the corrected loss, or the one `printed` in the paper or `released` by its authors, where they differ.
        data: files, a hub name, or toysteer (ratings), toysteer/pairs, toysteer/labels, toysteer/scores,
            toysteer/demonstrations.
        split: split of a hub data set.
        rows: most rows to read; for ToySteer how many to draw.
        empty: what a response without text is: an error, a row to drop, or one to keep (the policy ended at once).
        held_out: share of prompts kept for evaluation.
        model: a folder or hub name; empty: ToySteer's base, or a small Mistral and a BPE tokenizer made from the data.
        shape: sizes of a model made here, in MistralConfig's names.
        vocabulary: tokens of a tokenizer made here.
        output: folder of the result.
        steps: optimizer steps.
        epochs: passes over the data, instead of steps.
        seed: of the adapter, the order of the data and dropout.
        batch: rows (prompts with their responses) a step, over all processes.
        micro_tokens: most packed tokens in one forward pass; the gradient does not depend on it.
        layout: packed, padded, or what the model takes best.
        reference: log-probs of the reference in every step, or once for all rows before the first (cache).
        lr: peak learning rate.
        warmup: share of the steps in which it rises.
        schedule: how it falls.
        weight_decay: AdamW's.
        clip: largest gradient norm; 0 turns clipping off.
        dtype: of the frozen weights; what is trained stays in float32.
        lora_r: rank; 0 trains every weight.
        lora_alpha: LoRA's scale is alpha / r.
        lora_dropout: on LoRA's input. The model's own dropout is off.
        lora_targets: module names, comma-separated, or all-linear.
        gradient_checkpointing: recompute activations in the backward pass.
        max_length: most tokens of a prompt with one response.
        max_response: most tokens of a response, if fewer.
        threshold: score that makes a label up, or median (per prompt).
        ties: what equal scores become when pairs are asked for.
        group: gather rows of one response by prompt, so that it is stored once and responses can be compared.
        shuffle: permute scores or labels over the data set (the placebo).
        baseline: V(x) of methods that take one: default (the method's own), or learned (a number per prompt).
        value_lr: learning rate of a learned V(x).
        log_every: steps between lines of metrics.jsonl.
        eval_every: steps between evaluations on the held-out rows; 0: only before the first and after the last.
        save_every: steps between checkpoints; 0: only when interrupted.
        hyper: the loss's own hyper-parameters, such as beta.
    """

    method: str
    form: Literal["corrected", "printed", "released"] = "corrected"
    data: str = "toysteer"
    split: str = "train"
    rows: int | None = None
    empty: Literal["error", "drop", "keep"] = "error"
    held_out: float = 0.1
    model: str = ""
    shape: dict[str, int] = field(default_factory=dict)
    vocabulary: int = 2048
    output: str = ""
    steps: int = 200
    epochs: float | None = None
    seed: int = 0
    batch: int = 32
    micro_tokens: int = 4096
    layout: Literal["auto", "packed", "padded"] = "auto"
    reference: Literal["step", "cache"] = "step"
    lr: float = 1e-3
    warmup: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    lora_r: int = 32
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: str = "all-linear"
    gradient_checkpointing: bool = False
    max_length: int = 2048
    max_response: int | None = None
    threshold: str = "median"
    ties: Literal["drop", "keep-first"] = "drop"
    group: bool = True
    shuffle: bool = False
    baseline: Literal["default", "learned"] = "default"
    value_lr: float = 0.05
    log_every: int = 10
    eval_every: int = 0
    save_every: int = 0
    hyper: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not run, before anything begins."""
        method = METHODS[self.method]
        if self.form != "corrected" and getattr(method, self.form) is None:
            raise InputError(f"form: {self.method} has no {self.form} form that differs from the corrected one")
        for name, low, high in (("steps", 1, None), ("batch", 1, None), ("micro_tokens", 1, None), ("lora_r", 0, None),
                                ("max_length", 2, None), ("log_every", 1, None), ("save_every", 0, None),
                                ("eval_every", 0, None), ("warmup", 0, 1), ("clip", 0, None), ("lr", 0, None),
                                ("weight_decay", 0, None), ("lora_dropout", 0, 1)):
            value = getattr(self, name)
            if not (value >= low and (high is None or value <= high)):
                raise InputError(f"{name}: expected a number from {low} to {high or '…'}, got {value!r}")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out: expected a share in [0, 1), got {self.held_out!r}")
        if self.threshold != "median":
            try:
                float(self.threshold)
            except ValueError:
                raise InputError(f"threshold: expected a number or median, got {self.threshold!r}") from None
        known = hyper_parameters(method)
        for name in self.hyper:
            if name not in known:
                raise InputError(f"{name}: {self.method} takes {', '.join(sorted(known)) or 'no hyper-parameters'}"
                                 + _near(name, known))

    @property
    def beta(self) -> float:
        """The β that implicit rewards are reported with: the one set, or the loss's default."""
        return float(self.hyper.get("beta", hyper_parameters(METHODS[self.method]).get("beta", 1.0)))

    def losses(self) -> dict[str, Any]:
        """The loss of each kind of feedback, in the form asked for."""
        method = METHODS[self.method]
        if self.form == "corrected":
            return dict(method.losses)
        return {next(iter(method.losses)): getattr(method, self.form)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as saved in `run.json`."""
        return asdict(self)


def hyper_parameters(method: Method) -> dict[str, Any]:
    """Name and default of every loss argument that does not come from the data."""
    return {name: p.default for loss in method.losses.values() for name, p in inspect.signature(loss).parameters.items()
            if name not in VOCABULARY}


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def recipe(name: str) -> dict[str, Any] | None:
    """The values of a recipe such as ``toysteer/base``, or None where there is none of that name."""
    import yaml

    file = resources.files("una_ref.training") / "recipes" / f"{name}.yaml"
    return yaml.safe_load(file.read_text()) if file.is_file() else None


def recipes() -> list[str]:
    """Names of all recipes."""
    root = resources.files("una_ref.training") / "recipes"
    return sorted(f"{d.name}/{f.name.removesuffix('.yaml')}" for d in root.iterdir() if d.is_dir()
                  for f in d.iterdir() if f.name.endswith(".yaml"))


def resolve(what: str, settings: Iterable[str] = (), **options: Any) -> Config:
    """A method's name or a recipe's, with key=value settings and typed options on top.

    Raises:
        InputError: unknown name or key (with the near one), or a value of the wrong type.
    """
    base = dict(recipe(what) or {})
    if not base and what not in METHODS:
        names = [*METHODS, *recipes()]
        raise InputError(f"train {what}: expected a method or a recipe{_near(what, names)} "
                         f"(`una-ref methods` lists the methods; recipes: {', '.join(recipes())})")
    values: dict[str, Any] = {"method": what} | base
    values |= {k: v for k, v in options.items() if v is not None}
    hyper = hyper_parameters(METHODS[values["method"]])
    names = {f.name for f in fields(Config)} - {"hyper", "method"}
    values["hyper"] = dict(values.get("hyper", {}))
    typed = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{setting!r}: expected key=value")
        if key in hyper:
            values["hyper"][key] = _number(key, value)
        elif key.partition(".")[0] in names:
            typed.append(f"--{key}={value}")
        else:
            raise InputError(f"{key}: unknown key{_near(key, [*names, *hyper])}")
    return _parse(values, typed)


def _number(key: str, value: str) -> Any:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{key}: expected a number, got {value!r}") from None


def _parse(values: Mapping[str, Any], arguments: list[str]) -> Config:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, None)
    unknown = set(values) - {f.name for f in fields(Config)}
    if unknown:
        key = sorted(unknown)[0]
        raise InputError(f"{key}: unknown key{_near(key, [f.name for f in fields(Config)])}")
    try:
        parsed = parser.parse_object(dict(values))
        parsed = parser.parse_args(arguments, namespace=parsed)
        return Config(**{f.name: _plain(parsed[f.name]) for f in fields(Config)})
    except (ArgumentError, TypeError) as error:
        raise InputError(" ".join(str(error).split())) from error


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def from_dict(values: Mapping[str, Any]) -> Config:
    """A saved run's config."""
    return _parse(values, [])
