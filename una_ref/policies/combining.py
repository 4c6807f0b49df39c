"""LoRA adapters of one base, combined into one change of its weights.

An adapter changes a weight by ΔW = scale·B·A. Adapters are combined as differences of weights: the survey's Eq. 43
prints differences of probabilities, which sum to 0 over the responses (ES21).

`linear` and `slerp` of adapters are again an adapter, without any loss: its rank is the sum of theirs. `ties` and
`dare` remove single entries of ΔW, which leaves no small rank. PEFT's ``add_weighted_adapter`` computes `linear`,
`ties` and `dare` from A and B separately. Products of one adapter's A with another's B then enter the weights, so only
PEFT's functions of whole tensors are used here.

Sources: Ilharco et al. 2023, task arithmetic, https://arxiv.org/abs/2212.04089; Yadav et al. 2023, TIES,
https://arxiv.org/abs/2306.01708; Yu et al. 2024, DARE, https://arxiv.org/abs/2311.03099; Shoemake 1985, slerp,
https://doi.org/10.1145/325334.325242
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from una_ref.errors import InputError
from una_ref.policies.loading import base_of
from una_ref.policies.named_models import weight_files

How = Literal["linear", "slerp", "ties", "dare"]
HOW: tuple[str, ...] = get_args(How)
DENSITY = {"ties": 0.2, "dare": 0.5}
"""The share of entries that is kept by default: of TIES as in its paper; DARE's paper drops half and more."""
FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
Factors = dict[str, tuple[Tensor, Tensor]]
"""Layer -> (A, B) with ΔW = B·A: the scale is in B."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in a folder.

    Attributes:
        folder: where it lies.
        config: its adapter_config.json.
        factors: of every adapted layer, in float32 at least.
    """

    folder: str
    config: Mapping[str, Any]
    factors: Factors

    @property
    def base(self) -> str:
        """Folder or hub name of the model that it was trained on."""
        return str(self.config["base_model_name_or_path"])

    @property
    def transposed(self) -> bool:
        """Whether its layers keep (in, out) weights, as GPT-2's do."""
        return bool(self.config.get("fan_in_fan_out"))


def read_adapter(folder: str) -> Adapter:
    """The adapter in a folder.

    Raises:
        InputError: no adapter there, or one that is not ΔW = scale·B·A on linear layers alone.
    """
    from safetensors.torch import load_file

    path = Path(folder)
    if not (path / CONFIG).is_file() or not (path / FILE).is_file():
        lacks = " and ".join(name for name in (CONFIG, FILE) if not (path / name).is_file())
        got = f"one without {lacks}" if path.is_dir() else "no such folder"
        raise InputError(f"merge {folder}: expected a folder with {CONFIG} and {FILE}, got {got}")
    config = json.loads((path / CONFIG).read_text("utf-8"))
    plain = {"peft_type": "LORA", "use_dora": False, "bias": "none"}
    plain |= {"modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}
    for key, value in plain.items():
        if (config.get(key) or value) != value:
            raise InputError(f"merge {folder}: {key}: expected {value} (plain LoRA), got {config[key]}")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    weights = {name: _wide(value) for name, value in load_file(path / FILE).items()}
    layers = sorted(name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight"))
    if len(weights) != 2 * len(layers):
        raise InputError(f"merge {folder}: expected lora_A and lora_B of linear layers, got other weights beside them")
    factors = {
        layer.removeprefix(_PREFIX): (weights[f"{layer}.lora_A.weight"], scale * weights[f"{layer}.lora_B.weight"])
        for layer in layers
    }
    return Adapter(folder, config | {"base_model_name_or_path": base_of(folder)}, factors)


def check_bases(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters whose bases have different names and different weights.

    Raises:
        InputError: names two of them.
    """
    first = adapters[0]
    for other in adapters[1:]:
        same = other.base == first.base or _digest(other.base) == _digest(first.base)
        if not same or other.transposed != first.transposed:
            raise InputError(
                f"merge: expected adapters of one base, got {first.base} (of {first.folder}) and "
                f"{other.base} (of {other.folder})"
            )


def _digest(base: str) -> str:
    """SHA-256 of a folder's weights; the name itself if there is no such folder."""
    files = weight_files(Path(base))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest() if files else base


def joined(adapters: Sequence[Factors], weights: Sequence[float], how: str = "linear") -> Factors:
    """The linear combination, or the slerp of two adapters, as one adapter whose rank is the sum of theirs.

    Args:
        adapters: to combine.
        weights: one for each. For slerp only their ratio counts: the way from the first to the second adapter is
            w₂/(w₁ + w₂).
        how: linear or slerp.
    """
    out: Factors = {}
    for layer in _layers(adapters):
        here = [(own[layer], weight) for own, weight in zip(adapters, weights, strict=True) if layer in own]
        if how == "slerp" and len(here) == 2:
            first, second = (b @ a for (a, b), _ in here)
            shares = slerp_weights(first, second, weights[1] / sum(weights))
            here = [(factors, share) for (factors, _), share in zip(here, shares, strict=True)]
        elif how == "slerp":
            here = [(factors, weight / sum(weights)) for factors, weight in here]
        out[layer] = (torch.cat([a for (a, _), _ in here]), torch.cat([weight * b for (_, b), weight in here], 1))
    return out


def slerp_weights(first: Tensor, second: Tensor, t: float) -> tuple[float, float]:
    """The weights of two tensors on the great circle between them: sin((1 − t)Ω)/sin Ω and sin(tΩ)/sin Ω.

    Ω is the angle between the tensors. Where it is 0 or π, or one of them is 0, the weights are 1 − t and t.
    """
    first, second = first.double().flatten(), second.double().flatten()
    norms = float(first.norm() * second.norm())
    angle = math.acos(max(-1.0, min(1.0, float(first @ second) / norms))) if norms else 0.0
    if math.sin(angle) < 1e-6:
        return 1 - t, t
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def sparse(
    adapters: Sequence[Factors], weights: Sequence[float], how: str, *, density: float, seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Layer and ΔW of the TIES or DARE combination, one layer after the other.

    - ties: of each ΔW the entries of largest size are kept, the sign with the larger total wins, and entries of that
      sign are averaged. Weights multiply the averaged entries, but do not affect the sign. Entries are compared within
      a layer, as in PEFT; the paper compares over the whole model.
    - dare: entries of each ΔW are dropped at random, the others are divided by `density`, and the results are added.

    Args:
        adapters: to combine.
        weights: one for each.
        how: ties or dare.
        density: share of entries that is kept, in (0, 1].
        seed: of what DARE drops; torch's random state stays as it is.
    """
    from peft.utils.merge_utils import dare_linear, ties

    if not 0 < density <= 1:
        raise InputError(f"density: expected a share above 0 and at most 1, got {density}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in _layers(adapters):
            shape = next(b.shape[:1] + a.shape[1:] for own in adapters if layer in own for a, b in [own[layer]])
            deltas = [own[layer][1] @ own[layer][0] if layer in own else torch.zeros(shape) for own in adapters]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of density = 1, which prunes nothing
                yield layer, (ties if how == "ties" else dare_linear)(deltas, torch.tensor(weights), density)


def low_rank(layers: Iterator[tuple[str, Tensor]], rank: int) -> tuple[Factors, float]:
    """The nearest adapter of a rank to some ΔW, and the share of their squared norm that it keeps."""
    factors, kept, total = Factors(), 0.0, 0.0
    for layer, delta in layers:
        left, sizes, right = torch.linalg.svd(delta, full_matrices=False)
        factors[layer] = (right[:rank], left[:, :rank] * sizes[:rank])
        kept, total = kept + float(sizes[:rank].square().sum()), total + float(sizes.square().sum())
    return factors, kept / total if total else 1.0


def deltas(factors: Factors) -> Iterator[tuple[str, Tensor]]:
    """Layer and ΔW of an adapter, one layer after the other."""
    yield from ((layer, b @ a) for layer, (a, b) in factors.items())


@torch.no_grad()
def add_deltas(model: Any, layers: Iterator[tuple[str, Tensor]], *, transposed: bool = False) -> None:
    """Add each ΔW to its layer's weight, in float32 or better, rounded once to the weight's dtype."""
    for layer, delta in layers:
        weight = model.get_submodule(layer).weight
        change = (delta.T if transposed else delta).to(weight.device)
        weight.copy_((_wide(weight) + change).to(weight.dtype))


def save_adapter(factors: Factors, like: Adapter, folder: Path, base: str) -> None:
    """Write factors as an adapter that peft loads, with the settings of one of those it is made of."""
    from safetensors.torch import save_file

    rank = max(a.shape[0] for a, _ in factors.values())
    state = {}
    for layer, (a, b) in factors.items():
        missing = rank - a.shape[0]  # peft takes one rank for all layers: the others are filled up with zeros
        state[f"{_PREFIX}{layer}.lora_A.weight"] = torch.nn.functional.pad(a, (0, 0, 0, missing)).contiguous()
        state[f"{_PREFIX}{layer}.lora_B.weight"] = torch.nn.functional.pad(b, (0, missing)).contiguous()
    targets = sorted(factors) if len(factors) else like.config["target_modules"]
    config = {**like.config, "r": rank, "lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0}
    config |= {"target_modules": targets, "base_model_name_or_path": base}
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(state, folder / FILE, metadata={"format": "pt"})


def l1_norm(model: Any) -> Tensor:
    """Σ|ΔW| over the entries of every adapted layer, with gradient: PAFT's ℓ1 norm of what an adapter adds.

    Pentyala et al. 2024, https://arxiv.org/abs/2406.17923
    """
    terms = [
        (layer.scaling[name] * layer.lora_B[name].weight @ layer.lora_A[name].weight).abs().sum()
        for layer in model.modules()
        if hasattr(layer, "lora_A")
        for name in layer.lora_A
    ]
    return torch.stack(terms).sum()


def _layers(adapters: Sequence[Factors]) -> list[str]:
    return list(dict.fromkeys(layer for own in adapters for layer in own))


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
