"""Adapters of finished runs, merged into a folder: into full weights, or into one adapter."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch

from una_ref.errors import InputError
from una_ref.policies import combining, loading
from una_ref.policies.adapters import random_probe, split
from una_ref.policies.combining import DENSITY, Adapter, How
from una_ref.policies.merging import SHARE, TOLERANCE, probe_logps
from una_ref.training.card import versions
from una_ref.training.checkpoints import RECORD, claimed, write_text, writing
from una_ref.training.fields import CountOrZero, Range
from una_ref.training.result import BASE, CARD


@dataclass(frozen=True)
class Merge:
    """A merge of the adapters of one or more runs."""

    models: str
    """Folders of the runs, separated by commas."""
    output: str = ""
    """Folder of the result."""
    how: How = "linear"
    """How several adapters are combined: linear (task arithmetic), slerp (two adapters), ties or dare."""
    weights: str = ""
    """A number for each adapter, separated by commas. Empty: equal weights that sum to 1, or 1 each for ties."""
    density: Annotated[float, Range(0, 1)] | None = None
    """Share of the entries that ties and dare keep. null: 0.2 for ties, 0.5 for dare."""
    rank: CountOrZero = 0
    """Rank of the adapter that ties or dare is reduced to. 0: full weights instead, without loss."""
    seed: CountOrZero = 0
    """Seed of what dare drops."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Type of full weights. bfloat16 rounds a young adapter away, and is refused then."""

    def __post_init__(self) -> None:
        count = len(self.names)
        if not self.models or not all(self.names):
            raise InputError("merge: expected the folders of one or more runs, got none")
        if len(set(self.names)) < count:
            raise InputError(f"merge: expected different runs, got {self.models}")
        if self.how == "slerp" and count > 2:
            raise InputError(f"method=slerp: expected two adapters, got {count}")
        if count == 1 and (self.how != "linear" or self.rank):
            raise InputError("method: expected several adapters to combine, got one")
        if self.density is not None and self.how not in DENSITY:
            raise InputError(f"density: expected method=ties or dare, got {self.how}")
        if self.rank and self.how not in DENSITY:
            raise InputError(f"rank: {self.how}: expected 0, since its result is an adapter already, got {self.rank}")
        if len(self.shares) != count or (self.how == "slerp" and not sum(self.shares)):
            raise InputError(f"weights: expected {count} numbers, one for each adapter, got {self.weights!r}")

    @property
    def names(self) -> list[str]:
        """The folders of the runs."""
        return [name.strip() for name in self.models.split(",")]

    @property
    def shares(self) -> list[float]:
        """The weight of each adapter."""
        count = len(self.names)
        if not self.weights:
            return [1.0 if self.how == "ties" else 1 / count] * count
        try:
            return [float(weight) for weight in self.weights.split(",")]
        except ValueError:
            return []


TYPES = get_type_hints(Merge, include_extras=True)
"""The type of each field of `Merge`, with its range."""


def merge(config: Merge) -> dict[str, Any]:
    """Merge adapters into `config.output`, and return the record in run.json. A finished merge is not repeated.

    One adapter becomes full weights, which are compared with the adapter on the log-probs of 64 random tokens.
    Several become one adapter (linear, slerp; ties and dare with a rank) or full weights (ties, dare).

    Raises:
        InputError: no adapters of one base, an output that holds something else, or weights in which the adapter is
            rounded away.
    """
    if not config.output:
        raise InputError("output: expected a folder, got none")
    adapters = [combining.read_adapter(name) for name in config.names]
    combining.check_bases(adapters)
    output = Path(config.output)
    digests = {name: hashlib.sha256((Path(name) / combining.FILE).read_bytes()).hexdigest() for name in config.names}
    settings = {**asdict(config), "digests": digests}
    with claimed(output, settings) as finished:
        if finished:
            return json.loads((output / RECORD).read_text("utf-8"))
        with writing(output):
            found = _adapter(config, adapters, output) if _low_rank(config) else _full(config, adapters, output)
            (output / CARD).write_text(_card(config, adapters[0].base, found), encoding="utf-8")
        record = {"config": settings, "finished": True, **found, "versions": versions()}
        write_text(output / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
        return record


def _low_rank(config: Merge) -> bool:
    return len(config.names) > 1 and (config.how not in DENSITY or config.rank > 0)


def _sparse(config: Merge, adapters: list[Adapter]) -> Any:
    density = config.density if config.density is not None else DENSITY[config.how]
    factors = [adapter.factors for adapter in adapters]
    return combining.sparse(factors, config.shares, config.how, density=density, seed=config.seed)


def _adapter(config: Merge, adapters: list[Adapter], output: Path) -> dict[str, Any]:
    """Write one adapter, with its base if that lies in the folder of a run."""
    kept = 1.0
    if config.rank:
        factors, kept = combining.low_rank(_sparse(config, adapters), config.rank)
    else:
        factors = combining.joined([adapter.factors for adapter in adapters], config.shares, config.how)
    first, base = adapters[0], adapters[0].base
    if Path(base).is_dir() and Path(base).parent.resolve() == Path(first.folder).resolve():
        shutil.copytree(base, output / BASE, dirs_exist_ok=True)
        base = str((output / BASE).resolve())
    combining.save_adapter(factors, first, output, base)
    for path in Path(first.folder).glob("*token*"):  # the tokenizer, and its chat template
        shutil.copy(path, output)
    for path in Path(first.folder).glob("chat_template*"):
        shutil.copy(path, output)
    rank = max(a.shape[0] for a, _ in factors.values())
    return {"result": "adapter", "rank": rank, "share_kept": kept}


def _full(config: Merge, adapters: list[Adapter], output: Path) -> dict[str, Any]:
    """Write the weights of the base with the change added."""
    from peft import PeftModel

    model, tokenizer = loading.load(adapters[0].base, config.dtype)
    if list(Path(adapters[0].folder).glob("tokenizer_config.json")):
        tokenizer = loading.load_tokenizer(adapters[0].folder)
    model.eval()
    found: dict[str, Any] = {"result": "weights"}
    probe = random_probe(model)
    base = probe_logps(model, probe)
    expected = None
    if len(adapters) == 1:
        wrapped = PeftModel.from_pretrained(model, adapters[0].folder).eval()
        expected = probe_logps(wrapped.get_base_model(), probe)
        model = wrapped.unload()
        factors = combining.joined([adapters[0].factors], config.shares)
        layers = combining.deltas(factors)
    else:
        layers = _sparse(config, adapters)
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if any(model.get_submodule(layer) in ends for adapter in adapters for layer in adapter.factors):
        split(*ends, model.config)
    combining.add_deltas(model, layers, transposed=adapters[0].transposed)
    merged = probe_logps(model, probe)
    found["effect"] = float((merged - base).abs().max())
    if expected is not None and config.shares == [1.0]:
        error, effect = merged - expected, expected - base
        found["effect"], found["gap"] = float(effect.abs().max()), float(error.abs().max())
        rms = float(error.square().mean().sqrt()), float(effect.square().mean().sqrt())
        if not (found["gap"] <= TOLERANCE[getattr(torch, config.dtype)] and rms[0] <= SHARE * rms[1]):
            raise InputError(
                f"dtype={config.dtype}: expected merged weights with the adapter's log-probs, got a difference of "
                f"{found['gap']:.2g} nats where the adapter's effect is {found['effect']:.2g}. Fix: dtype=float32"
            )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return found


def _card(config: Merge, base: str, found: dict[str, Any]) -> str:
    weights = ", ".join(f"{share:g}" for share in config.shares)
    how = f"combined by {config.how} with the weights {weights}" if len(config.names) > 1 else "merged into its base"
    fields = ["---", "library_name: peft" if found["result"] == "adapter" else "library_name: transformers"]
    if not Path(base).exists():
        fields.append(f"base_model: {base}")
    names = "\n".join(f"- `{name}`" for name in config.names)
    title = ["", "# Merged adapters", "", f"The adapters of these runs, {how}:", ""]
    return "\n".join([*fields, "---", *title, names, ""])
