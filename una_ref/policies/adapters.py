"""An adapter merged into its base for good: the result has the log-probs of the adapter, or is refused.

A base may share one weight between its input embedding and its head (``tie_word_embeddings``). An adapter on one of the
two then changes that one alone, but a merge into the shared weight changes both. So the two are untied before a merge.
See https://github.com/huggingface/peft/issues/2018.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from una_ref.policies.merging import PROBE, SHARE, TOLERANCE, probe_logps


def merged(model: Any, adapter: str) -> Any:
    """The model with the adapter of a folder or hub name merged into its weights.

    Log-probs are compared before and after on `PROBE` random tokens. In 16 bits a merge rounds, and only a rounding as
    large as the adapter's own effect is refused.

    Raises:
        ValueError: the merge changes the policy; names the largest gap in nats.
    """
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model, adapter).eval()
    inner = wrapped.get_base_model()
    untie(inner)
    probe = random_probe(inner)
    expected = probe_logps(inner, probe)
    with wrapped.disable_adapter():
        effect = expected - probe_logps(inner, probe)
    whole = wrapped.merge_and_unload()
    gap = probe_logps(whole, probe) - expected
    dtype = next(whole.parameters()).dtype
    share = SHARE if dtype.itemsize > 2 else 1.0
    if not float(gap.abs().max()) <= TOLERANCE.get(dtype, 0.05) and not gap.norm() <= share * effect.norm():
        raise ValueError(
            f"an adapter that cannot be merged into its base in {str(dtype).removeprefix('torch.')}: its log-probs "
            f"change by {float(gap.abs().max()):.2g} nats, where its own effect is {float(effect.abs().max()):.2g}"
        )
    return whole


def untie(model: Any) -> bool:
    """Give the head a weight of its own where it shares that of the embedding and one of the two has an adapter.

    Args:
        model: a transformers model with adapter layers in it.

    Returns:
        Whether there was anything to untie.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if not any(isinstance(end, BaseTunerLayer | ModulesToSaveWrapper) for end in ends):
        return False
    return split(*ends, model.config)


def split(embedding: Any, head: Any, config: Any) -> bool:
    """Copy the weight of the head if it is that of the embedding, and say so in the config."""
    layers = [_plain(end) for end in (embedding, head)]
    if layers[1] is None or layers[0].weight is not layers[1].weight:
        return False
    weight = layers[1].weight
    layers[1].weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = False
    return True


def _plain(layer: Any) -> Any:
    """The layer under an adapter."""
    if hasattr(layer, "original_module"):
        return layer.original_module
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


def random_probe(model: Any) -> torch.Tensor:
    """(1, L) random token ids on the model's device; L is `PROBE`, or the model's positions if fewer."""
    embedding = model.get_input_embeddings().weight
    length = min(PROBE, getattr(model.config, "max_position_embeddings", PROBE))
    ids = torch.randint(embedding.shape[0], (1, length), generator=torch.Generator().manual_seed(0))
    return ids.to(embedding.device)
