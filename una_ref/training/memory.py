"""The memory of a run, part by part, from its config alone. Its models are built without their weights.

Parameters, and the activations that a forward pass keeps for the backward pass, are counted on the meta device with the
code that builds the real models. Not counted: memory of allocator and kernels, temporary results of forward passes
without gradient, and casts of autocast. Sizes are in bytes; a GB is 10⁹ bytes.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from una_ref.data.batch import Example, collate, microbatches
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.methods.arguments import Need, needs
from una_ref.policies.anatomy import parts
from una_ref.policies.layouts import hidden_states, layouts
from una_ref.policies.logprobs import CHUNK_ELEMENTS
from una_ref.policies.named_models import resolved
from una_ref.policies.rollout import MERGE_ABOVE, HuggingFace
from una_ref.policies.vllm import VLLM
from una_ref.training.config import Config
from una_ref.training.model import critic_for, with_adapters
from una_ref.training.samplers import most_kept
from una_ref.training.settings import output_of, recipes, resolve

Phase = Literal["always", "decoding", "learning"]

DISTRIBUTIONS_HELD = {False: 4, True: 9}
"""Whether a loss asks for the reference's distributions too -> how many [tokens × vocabulary] tensors are held at most.

Counted with torch.profiler on the CPU: the peak of a step of wpo (cringe: 3) and of tdpo (tdpo2: 8), without dpo's.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one part, how they are computed, and when they are held."""

    name: str
    bytes: int
    how: str
    phase: Phase = "always"


@dataclass(frozen=True)
class Models:
    """The models of a run, on the meta device.

    Attributes:
        policy: the policy with its adapters; trained parameters require a gradient.
        critic: the value model, if the method has one.
        second: the reference, if it is another model.
        second_reference: the second reference, if it is another model.
        rewards: the reward models.
        sources: where the sizes are from, a line per model.
    """

    policy: Any
    critic: Any
    second: Any
    rewards: Sequence[nn.Module]
    sources: Sequence[str]
    second_reference: Any = None


@dataclass(frozen=True)
class Memory:
    """The parts that one process holds, and their sums."""

    parts: Sequence[Part]

    def total(self, phase: Phase) -> int:
        """Bytes of the parts of one phase."""
        return sum(part.bytes for part in self.parts if part.phase == phase)

    @cached_property
    def peak(self) -> int:
        """Peak in bytes: the parts that are always held, and the larger of decoding and learning, which alternate."""
        return self.total("always") + max(self.total("decoding"), self.total("learning"))

    def lines(self) -> Iterator[str]:
        """The table of parts in GB, a line each."""
        labels: dict[Phase, str] = {"always": "always held", "decoding": "+ decoding", "learning": "+ learning"}
        for phase, label in labels.items():
            own = [part for part in self.parts if part.phase == phase]
            for part in own:
                yield f"  {part.name:<22}{part.bytes / 1e9:>9.3f}  {part.how}"
            if own:
                yield f"  {label:<22}{self.total(phase) / 1e9:>9.3f}"
        yield f"  {'at most':<22}{self.peak / 1e9:>9.3f}"


def architecture(name: str) -> tuple[Any, str]:
    """A model's config and its source: a folder, the hub's cache, or the table that ships with the package.

    The result of a recipe that has not been run yet has the sizes of the recipe's starting model.

    Raises:
        InputError: the config is in none of them.
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(resolved(name), trust_remote_code=False, local_files_only=True)
        return found, f"{name}: sizes from its own config"
    except (OSError, ValueError):
        known = table("architectures")
        maker = next((what for what in recipes() if output_of(what) == name), None)
        if maker:
            found, source = architecture(resolve(maker).model)
            return found, f"{name}: made by {maker}; {source}"
        if name not in known:
            expected = f"a model whose config is available, or one of {', '.join(known)}"
            raise InputError(f"model {name!r}: expected {expected}, got neither") from None
        values = dict(known[name])
        found = AutoConfig.for_model(values.pop("model_type"), **values)
        return found, f"{name}: sizes from the shipped table; its own config is not available"


def table(name: str) -> dict[str, Any]:
    """A table that ships with the package: ``architectures`` of models or sizes of ``datasets``."""
    import yaml

    return yaml.safe_load((resources.files(__package__) / f"{name}.yaml").read_text("utf-8"))


def models(config: Config, policy: Any = None) -> Models:
    """The models that a config names.

    Args:
        config: of the run.
        policy: the config of the policy's architecture, if it is known already.

    Raises:
        InputError: the sizes of a model are not known.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    sources = []
    if policy is None:
        policy, source = architecture(config.model)
        sources.append(source)

    def classifier(of: Any, dtype: torch.dtype) -> Any:
        one = copy.deepcopy(of)
        one.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(one, dtype=dtype, trust_remote_code=False)
        model.score.to(torch.promote_types(dtype, torch.float32))
        return model

    rewards, critic = [], None
    others: dict[str, Any] = {}
    with torch.device("meta"):
        dtype = getattr(torch, config.weights_dtype)
        if METHODS[config.method].scorer:
            model = with_adapters(classifier(policy, dtype), config, task="SEQ_CLS")
        else:
            model = AutoModelForCausalLM.from_config(policy, dtype=dtype, trust_remote_code=False)
            critic = critic_for(model, config)
            model = with_adapters(model, config)
        for name in filter(None, (config.reference_model, config.second_reference)):
            found, source = architecture(name)
            sources.append(source)
            others[name] = AutoModelForCausalLM.from_config(found, dtype=dtype, trust_remote_code=False)
        for name in _classifiers(config):
            found, source = architecture(name)
            sources.append(source)
            rewards.append(classifier(found, _saved_in(found)))
    second, second_reference = (others.get(name) for name in (config.reference_model, config.second_reference))
    return Models(model, critic, second, rewards, sources, second_reference)


def _saved_in(found: Any) -> torch.dtype:
    """The type of a model's saved weights, as its config says. A `Classifier` is loaded in this type."""
    dtype = getattr(found, "dtype", None) or "float32"
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _classifiers(config: Config) -> list[str]:
    """The names in `reward` that are models: no function, no judge, not ToySteer's true reward."""
    names = [name.strip() for name in config.judge.split(",")] if config.on_policy else []
    return [name for name in names if Path(name).exists() or not (name in ("toysteer", "self") or ":" in name)]


def largest(config: Config, positions: int, response: int) -> Example:
    """The largest row that the config allows: the longest prompt and its responses (offline: two).

    Args:
        config: of the run.
        positions: the model's.
        response: most tokens of a response.
    """
    longest = min(config.max_length, positions)
    prompt = max(1, min(longest - response, config.max_prompt or longest))
    count = most_kept(config.keep, config.samples_per_prompt) if config.on_policy else 2
    return Example((0,) * prompt, ((0,) * response,) * count)


def memory(config: Config, held: Models, row: Example, *, processes: int = 1) -> Memory:
    """The memory of one process.

    Args:
        config: of the run.
        held: its models.
        row: its largest row.
        processes: number of processes that share the batch.
    """
    return Memory([*_always(config, held), *_decoding(config, held, row, processes), *_learning(config, held, row)])


def nbytes(parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of these tensors, each counted once."""
    return sum(p.numel() * p.element_size() for p in {id(p): p for p in parameters}.values())


def _count(parameters: Iterable[torch.Tensor]) -> str:
    """The size as text, such as "7,241,732,096 × 2 bytes", with a term per size of number."""
    sizes: dict[int, int] = {}
    for p in parameters:
        sizes[p.element_size()] = sizes.get(p.element_size(), 0) + p.numel()
    return " + ".join(f"{count:,} × {size} bytes" for size, count in sorted(sizes.items())) or "none"


def _four_bit(model: Any, weights: Sequence[torch.Tensor]) -> tuple[int, str]:
    """Bytes of QLoRA's frozen weights, and the size as text.

    Linear layers have 4 bits per weight, a scale of 1 byte per block of 64 weights, and another of 4 bytes per block of
    256 scales. All other weights are float32.
    """
    layers = {id(m.weight): m.weight for m in parts(model)[0].modules() if isinstance(m, nn.Linear)}
    linear = sum(p.numel() for p in weights if id(p) in layers)
    others = sum(p.numel() for p in weights if id(p) not in layers)
    total = round(linear * (1 / 2 + 1 / 64 + 4 / 64 / 256)) + 4 * others
    return total, f"{linear:,} × 0.516 bytes + {others:,} × 4 bytes, frozen"


def _always(config: Config, held: Models) -> Iterator[Part]:
    adapted = hasattr(held.policy, "disable_adapter")
    every = list(held.policy.parameters())
    adapters = [p for p in every if p.requires_grad] if adapted else []
    weights = [p for p in every if not (adapted and p.requires_grad)]
    critic = list(held.critic.parameters()) if held.critic else []
    trained = [p for p in (*every, *critic) if p.requires_grad]
    if config.load_in_4bit:
        yield Part("weights", *_four_bit(held.policy, weights))
    else:
        yield Part("weights", nbytes(weights), _count(weights) + (", frozen" if adapted else ""))
    yield Part("adapters", nbytes(adapters), _count(adapters))
    yield Part("gradients", nbytes(trained), _count(trained))
    if config.optimizer == "adamw8bit":
        numbers = sum(p.numel() for p in trained)
        yield Part("optimizer moments", 2 * numbers, f"2 × ({numbers:,} × 1 byte)")
    else:
        yield Part("optimizer moments", 2 * nbytes(trained), f"2 × ({_count(trained)})")
    has_reference = config.needs_reference
    copied = has_reference and not adapted
    moves = has_reference and adapted and config.refresh > 0
    how = "a frozen copy" if copied else "the adapters off" if has_reference else "none"
    how = f"{_count(adapters)}, a second adapter" if moves else how
    own = list(held.second.parameters()) if held.second else weights if copied else adapters if moves else []
    yield Part("reference", nbytes(own), f"{_count(own)}, {config.reference_model}" if held.second else how)
    if config.needs_second_reference:
        copied = not adapted and (bool(config.reference_model) or config.refresh > 0)
        own = list(held.second_reference.parameters()) if held.second_reference else weights if copied else []
        how = config.second_reference or ("a frozen copy" if copied else "the starting model, held already")
        yield Part("second reference", nbytes(own), f"{_count(own)}, {how}" if own else how)
    shares = held.critic is not None and held.critic.core is None
    how = f"{_count(critic)}{', a head on the policy' if shares else ''}"
    yield Part("critic", nbytes(critic), how)
    for model in held.rewards:
        own = list(model.parameters())
        yield Part("reward model", nbytes(own), _count(own))


def _decoding(config: Config, held: Models, row: Example, processes: int) -> Iterator[Part]:
    if not config.on_policy:
        return
    of, size = held.policy.config, next(held.policy.parameters()).element_size()
    if config.engine == "vllm":  # always held: vLLM does not free it while the policy learns
        own = [p for name, p in held.policy.named_parameters() if ".lora_" not in name]
        yield Part(
            "vLLM's weights", nbytes(own), f"{_count(own)}; with its cache they fill {VLLM.memory:.0%} of the GPU"
        )
        return
    prompt, response, samples = len(row.prompt), max(map(len, row.responses)), config.samples_per_prompt
    asked = [row.prompt] * math.ceil(config.batch / processes)
    rows = samples * len(next(HuggingFace(0).chunks(asked, samples, response)))
    length = min(prompt + response, getattr(of, "sliding_window", None) or prompt + response)
    heads = getattr(of, "num_key_value_heads", None) or of.num_attention_heads
    width = getattr(of, "head_dim", None) or of.hidden_size // of.num_attention_heads
    how = f"{rows} rows × {length} tokens × {of.num_hidden_layers} layers × 2 × {heads} heads × {width} × {size} bytes"
    yield Part("KV cache", rows * length * of.num_hidden_layers * 2 * heads * width * size, how, "decoding")
    how = f"{rows} rows × {of.vocab_size:,} × ({size} + 3 × 4 bytes): logits, log-probs, probabilities"
    yield Part("next-token logits", rows * of.vocab_size * (size + 12), how, "decoding")
    adapted = [m.base_layer.weight for m in held.policy.modules() if hasattr(m, "lora_A")]
    if config.merge == "auto" and response > MERGE_ABOVE and adapted:
        yield Part("merged weights", nbytes(adapted), f"{_count(adapted)}, beside the base", "decoding")


def _learning(config: Config, held: Models, row: Example) -> Iterator[Part]:
    layout = layouts(held.policy)[0] if config.layout == "auto" else config.layout
    scorer = METHODS[config.method].scorer
    most = sys.maxsize if config.whole_batch else config.micro_tokens
    micro = next(microbatches([row] * config.batch, most, layout, include_last_token=scorer))
    batch = collate(micro, layout, include_last_token=scorer).to("meta")
    tokens = batch.tokens.numel()
    cores = [parts(held.policy)[0]]
    if held.critic is not None and held.critic.core is not None:
        cores.append(held.critic.core)
    for name, core in zip(("activations", "critic's activations"), cores, strict=False):
        core.train()
        kept = _kept(core, batch)
        how = f"{tokens} tokens × {kept / tokens:,.0f} bytes kept for the backward pass"
        if config.gradient_checkpointing:
            core.eval()  # in which nothing is recomputed
            layers = core.config.num_hidden_layers
            again = _kept(core, batch) // layers
            how += f" + {again / tokens:,.0f} for the layer that is recomputed"
            kept += again
        yield Part(name, kept, how, "learning")
    if scorer:
        return
    vocabulary, size = held.policy.config.vocab_size, next(held.policy.parameters()).element_size()
    chunk = min(len(batch.target), max(1, CHUNK_ELEMENTS // vocabulary))
    if any(weight.requires_grad for weight in parts(held.policy)[1].parameters()):
        wide = 2 * size + (8 if size < 4 else 0)
    else:  # the gradient is written over the logits
        wide = size if size >= 4 else 2 * size + 4
    how = f"{chunk} tokens at once × {vocabulary:,} × {wide} bytes: logits and their gradient"
    yield Part("logits", chunk * vocabulary * wide, how, "learning")
    asked = needs(config.losses_by_kind.values())
    if Need.DISTRIBUTIONS in asked:
        copies = DISTRIBUTIONS_HELD[Need.REFERENCE_DISTRIBUTIONS in asked]
        number = max(size, 4)
        how = f"{len(batch.target)} tokens × {vocabulary:,} × {number} bytes, {copies} times at the peak of a step"
        yield Part("distributions", copies * len(batch.target) * vocabulary * number, how, "learning")


class _Fused(torch.overrides.TorchFunctionMode):
    """Attention keeps what a fused kernel keeps. On the meta device alone it would keep (L, L) weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3], (kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """The tensors that a fused kernel saves, without its arithmetic. It is only counted and has no backward pass."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, mask, out, torch.empty(q.shape[:-1], device=q.device))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError


def _kept(core: nn.Module, batch: Any) -> int:
    """Bytes that autograd keeps from a transformer's forward pass, without parameters, each storage once."""
    own = {p.untyped_storage()._cdata for p in core.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # kept alive, so that its address is not reused
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), _Fused():
        hidden = hidden_states(core, batch)
    del hidden
    return sum(storage.nbytes() for storage in kept.values())
