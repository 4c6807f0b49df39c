"""The memory report: counts of known models by hand, and the parts of a tiny run against the bytes that it holds."""

import re
import shutil
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import AutoModelForSequenceClassification, MistralConfig

from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.policies.anatomy import parts
from una_ref.policies.classifier import Classifier
from una_ref.training.config import Config
from una_ref.training.dryrun import dry_run
from una_ref.training.memory import _kept, architecture, largest, memory, models, nbytes
from una_ref.training.prepare import prepare
from una_ref.training.run import train
from una_ref.training.settings import resolve

MISTRAL, GRM = "mistralai/Mistral-7B-Instruct-v0.1", "Ray2333/GRM-Llama3.2-3B-rewardmodel-ft"


def letters(answers):
    """A reward: characters of the response."""
    return [len(answer.response) for answer in answers]


def count(parameters):
    return sum(p.numel() for p in parameters)


@cache
def seven_billion(**more):
    """A config of a run at 7B, and its models, which take seconds to build."""
    config = Config(method="ppo", model=MISTRAL, reward=GRM, dtype="bfloat16", **more)
    return config, models(config)


def parts_of(config, held, prompt=5, response=20):
    """name -> part, and the whole memory."""
    whole = memory(config, held, Example((0,) * prompt, ((0,) * response,) * max(2, config.samples_per_prompt)))
    return {part.name: part for part in whole.parts}, whole


def test_the_recipes_models_have_the_known_numbers_of_parameters():
    config, held = seven_billion()
    found, _ = parts_of(config, held)
    # 2·32000·4096 embeddings and head, 32 layers of 4096·(4096 + 1024)·2 + 3·4096·14336 + 2 norms, one norm.
    assert count(p for p in held.policy.parameters() if not p.requires_grad) == 7_241_732_096
    # r·(in + out) of seven products in 32 layers.
    assert count(p for p in held.policy.parameters() if p.requires_grad) == 83_886_080
    # Llama-3.2-3B's 3,212,749,824 (embeddings tied) and one row of 3072.
    assert count(held.rewards[0].parameters()) == 3_212_749_824 + 3072
    trunk = 7_241_732_096 - 32000 * 4096
    assert found["weights"].bytes == 2 * 7_241_732_096
    assert found["adapters"].bytes == 4 * 83_886_080
    assert found["critic"].bytes == 2 * trunk + 4 * (83_886_080 + 4096 + 1)
    assert found["gradients"].bytes == 4 * (2 * 83_886_080 + 4096 + 1)
    assert found["optimizer moments"].bytes == 2 * found["gradients"].bytes
    assert found["reference"].bytes == 0
    assert found["reward model"].bytes == 2 * 3_212_749_824 + 4 * 3072  # its head in float32
    assert all("shipped table" in source for source in held.sources) and len(held.sources) == 2


def test_moments_in_8_bits_take_one_byte_a_number():
    found, _ = parts_of(*seven_billion(optimizer="adamw8bit"))
    assert found["optimizer moments"].bytes == 2 * (2 * 83_886_080 + 4096 + 1)


def test_vllm_adds_a_second_copy_of_the_base_and_no_other_cache():
    found, _ = parts_of(*seven_billion(engine="vllm"))
    assert found["vLLM's weights"].bytes == 2 * 7_241_732_096
    assert not found.keys() & {"KV cache", "merged weights"}


def test_a_critic_head_on_the_policy_adds_one_row_of_weights():
    separate, head = (parts_of(*seven_billion(**more))[0] for more in ({}, {"critic": "head"}))
    assert head["critic"].bytes == 4 * 4097
    assert "critic's activations" in separate and "critic's activations" not in head


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("rloo", []),
        ("rloo", ["lora_r=0"]),
        ("ppo", []),
        ("ppo", ["critic=head"]),
        ("ppo", ["lora_r=0"]),
        ("dpo", []),
        ("dpo", ["lora_r=0"]),
        ("sft", ["lora_r=0"]),
        ("reward-model", []),
        ("reward-model", ["lora_r=0"]),
    ],
)
def test_the_report_is_the_bytes_of_a_tiny_run(method, more, dtype, data, tiny):
    online = method in ("rloo", "ppo")
    reward = [f"reward={__name__}:letters", "max_response=4"] if online else []
    config = resolve(method, [*tiny, *reward, *more, f"dtype={dtype}", "held_out=0"], data=data("pairs"))
    job = prepare(config)
    trainer, policy = job.trainer, job.trainer.policy
    job.step(0, record=False) if online else trainer.accumulate(job.examples[:4])
    found, _ = parts_of(config, models(config, policy.model.config))
    adapters = [p for p in policy.model.parameters() if p.requires_grad] if config.lora_r else []
    assert found["adapters"].bytes == nbytes(adapters)
    assert found["weights"].bytes == nbytes(policy.model.parameters()) - nbytes(adapters) > 10_000
    assert found["reference"].bytes == sum(nbytes(copy.parameters()) for copy in policy.copy)
    assert found["critic"].bytes == (nbytes(policy.critic.parameters()) if policy.critic else 0)
    if not online:
        assert found["gradients"].bytes == nbytes(p.grad for p in trainer.trained.values()) > 0
        trainer.optimizer.step()
    state = trainer.optimizer.state.values()
    moments = nbytes(value for own in state for value in own.values() if value.dim())
    assert found["optimizer moments"].bytes == moments == 2 * found["gradients"].bytes > 0


def test_frozen_weights_in_4_bits_take_half_a_byte_and_their_scales():
    given = [
        Config(method="dpo", model=MISTRAL, dtype="bfloat16", lora_targets="q_proj", load_in_4bit=on)
        for on in (False, True)
    ]
    plain, four = (parts_of(config, models(config))[0]["weights"] for config in given)
    layers = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    rest = 2 * 32000 * 4096 + 65 * 4096
    assert plain.bytes == 2 * (layers + rest)
    assert four.bytes == pytest.approx(layers * (0.5 + 1 / 64 + 1 / 4096) + 4 * rest, abs=2)


def test_another_reference_model_is_counted_in_full(data, tiny, tmp_path):
    config = resolve("sft", [*tiny, "lora_r=0", "steps=1"], data=data("pairs"), output=str(tmp_path / "sft"))
    train(config, progress=False)
    config = resolve("dpo", [f"reference_model={tmp_path / 'sft'}"], data=data("pairs"), model=str(tmp_path / "sft"))
    policy = prepare(config).trainer.policy
    found, _ = parts_of(config, models(config))
    assert found["reference"].bytes == nbytes(policy.copy[0].parameters()) > 10_000
    assert "sft" in found["reference"].how


@pytest.mark.parametrize(
    ("settings", "copies"),
    [([], 0), (["lora_r=0"], 0), (["lora_r=0", "refresh_every=5"], 1), (["refresh_every=5"], 0), (["named"], 1)],
)
def test_a_second_reference_is_counted_where_it_is_another_model(settings, copies, data, tiny, tmp_path):
    config = resolve("sft", [*tiny, "lora_r=0", "steps=1"], data=data("pairs"), output=str(tmp_path / "sft"))
    train(config, progress=False)
    other = shutil.copytree(tmp_path / "sft", tmp_path / "other")
    settings = [f"second_reference_model={other}" if s == "named" else s for s in settings]
    config = resolve("d2o", [*tiny, "shape={}", *settings], data=data("scores"), model=str(tmp_path / "sft"))
    policy = prepare(config).trainer.policy
    found, _ = parts_of(config, models(config, policy.model.config))
    assert found["second reference"].bytes == sum(nbytes(copy.parameters()) for copy in policy.second_copy)
    assert len(policy.second_copy) == copies
    config = resolve("dpo", tiny, data=data("pairs"))
    assert "second reference" not in parts_of(config, models(config, policy.model.config))[0]


def test_the_report_counts_a_reward_model_s_bytes(data, tiny, tmp_path):
    job = prepare(resolve("dpo", tiny, data=data("pairs")))
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    own = MistralConfig(vocab_size=len(job.tokenizer), num_key_value_heads=1, num_labels=1, **shape)
    AutoModelForSequenceClassification.from_config(own).to(torch.bfloat16).save_pretrained(tmp_path / "reward")
    job.tokenizer.save_pretrained(tmp_path / "reward")
    config = resolve("rloo", [*tiny, f"reward={tmp_path / 'reward'}"], data=data("pairs"))
    held = models(config, job.trainer.policy.model.config)
    found, _ = parts_of(config, held)
    assert found["reward model"].bytes == nbytes(Classifier(str(tmp_path / "reward")).model.parameters())
    assert held.sources == [f"{tmp_path / 'reward'}: sizes from its own config"]


def test_the_peak_is_the_sum_of_its_parts():
    _, whole = parts_of(*seven_billion())
    by = {phase: sum(p.bytes for p in whole.parts if p.phase == phase) for phase in ("always", "decoding", "learning")}
    assert sum(by.values()) == sum(p.bytes for p in whole.parts)
    assert whole.peak == by["always"] + max(by["decoding"], by["learning"]) > by["always"] > 0
    numbers = [float(re.search(r"\d+\.\d{3}", line)[0]) for line in whole.lines()]
    assert len(numbers) == len(whole.parts) + 4
    assert numbers[-1] == pytest.approx(whole.peak / 1e9, abs=1e-3)
    # Within each block the parts stand above their sum.
    at = 0
    for phase in ("always", "decoding", "learning"):
        n = sum(p.phase == phase for p in whole.parts)
        assert sum(numbers[at : at + n]) == pytest.approx(numbers[at + n], abs=1e-3 * n)
        at += n + 1


def test_the_kv_cache_has_the_size_that_generate_allocates(tiny, data):
    config = resolve("rloo", [*tiny, f"reward={__name__}:letters", "max_response=9", "samples=3"], data=data("pairs"))
    job = prepare(config)
    inner = job.trainer.policy.model.get_base_model()
    ids = torch.ones(4, 6, dtype=torch.int64)  # the batch's four prompts
    out = inner.generate(ids, max_new_tokens=9, min_new_tokens=9, num_return_sequences=3, do_sample=True, **CACHE)
    cached = nbytes(t for layer in out.past_key_values.layers for t in (layer.keys, layer.values))
    found, _ = parts_of(config, models(config, inner.config), prompt=6, response=9)
    assert found["KV cache"].bytes * 14 == cached * 15, "the last of 6 + 9 tokens is drawn and not read"
    assert found["KV cache"].how.startswith("12 rows × 15 tokens × 1 layers × 2 × 1 heads × 8 × 4 bytes")


CACHE = {"return_dict_in_generate": True, "pad_token_id": 0}


def test_the_kv_cache_has_at_most_the_rows_of_one_sampler_call_and_of_one_process():
    config, held = replace(seven_billion()[0], batch=64, samples=4), seven_billion()[1]
    row = Example((0,) * 512, ((0,) * 256,) * 4)
    rows = {
        n: int(next(p for p in memory(config, held, row, processes=n).parts if p.name == "KV cache").how.split()[0])
        for n in (1, 8)
    }
    assert rows == {1: 4 * (32768 // (4 * 768)), 8: 4 * 8}


def test_a_sliding_window_bounds_the_kv_cache():
    assert " 4096 tokens " in parts_of(*seven_billion(), prompt=6000, response=500)[0]["KV cache"].how


def test_activations_on_the_meta_device_have_the_bytes_of_a_real_forward_pass(data, tiny):
    config = resolve("dpo", tiny, data=data("pairs"))
    job = prepare(config)
    held = models(config, job.trainer.policy.model.config)
    batch = collate(job.examples[:4], "packed")
    real, _ = parts(job.trainer.policy.model)
    empty, _ = parts(held.policy)
    on_meta = _kept(empty.train(), batch.to("meta"))
    kept: dict[int, torch.UntypedStorage] = {}
    own = {p.untyped_storage().data_ptr() for p in real.parameters()}

    def pack(value):
        if value.untyped_storage().data_ptr() not in own:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage()
        return value

    from una_ref.policies.layouts import hidden_states

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        hidden = hidden_states(real.train(), batch)
    assert hidden.requires_grad
    assert sum(storage.nbytes() for storage in kept.values()) == pytest.approx(on_meta, rel=0.05)


def test_with_gradient_checkpointing_a_layer_keeps_only_its_input():
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    policy = MistralConfig(vocab_size=40, num_key_value_heads=2, **shape)

    def kept(**more):
        config = Config(method="dpo", model="made here", dtype="bfloat16", micro_tokens=1, **more)
        return parts_of(config, models(config, policy))[0]["activations"]

    plain, less = kept(), kept(gradient_checkpointing=True)
    # A row of 5 + 4·19 tokens: 4 inputs of 64 numbers of 2 bytes; the last norm's, with its scale in float32; and the
    # indices (8 bytes) of the positions that predict the 80 tokens of four responses.
    less_kept = 81 * (4 * 64 * 2 + 64 * 2 + 4) + 80 * 8
    assert less.how.startswith(f"81 tokens × {less_kept / 81:,.0f} bytes ")
    assert less.bytes - less_kept == pytest.approx(plain.bytes / 4, rel=0.02)


def test_a_model_of_unknown_sizes_is_refused():
    with pytest.raises(InputError, match="Mistral-8B': expected a model whose config is available, or one of mist"):
        architecture("mistralai/Mistral-8B")


def test_the_largest_row_has_the_greatest_lengths_that_the_config_allows():
    def lengths(**more):
        row = largest(Config(method="rloo", **more), 4096, 100)
        return len(row.prompt), [len(r) for r in row.responses]

    assert lengths(max_length=1000) == (900, [100] * 4)
    assert lengths(max_length=9000, samples=2) == (3996, [100] * 2)
    assert lengths(max_prompt=512) == (512, [100] * 4)


def test_a_dry_run_shows_the_same_memory_table(data, tiny):
    config = resolve("dpo", [*tiny, "held_out=0"], data=data("pairs"))
    job = prepare(config)
    row = max(job.examples, key=lambda e: e.tokens)
    lines = memory(config, models(config, job.trainer.policy.model.config), row).lines()
    assert "\n".join(lines) in dry_run(config)
