"""vLLM behind `Engine`. vLLM needs a GPU and is not installed for the tests, so a stand-in takes its place.

The stand-in has vLLM's documented names, defaults and limits, and refuses any other. It samples by a plain loop over
the logits of the saved adapter, and shares no code with this package's sampler. So these tests show what the engine is
asked for, and that its answer is read correctly. They cannot show vLLM's kernels, its log-probs or its memory. Where
vLLM is installed, the last test holds the stand-in to the real signatures.

Source: https://docs.vllm.ai/en/v0.15.0/api/vllm/
"""

import dataclasses
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from peft import PeftModel

from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.rollout import Sample
from una_ref.policies.vllm import VLLM
from una_ref.training.samplers import Rollouts

PROMPTS = [(5, 6, 7), (8, 9), (5, 9, 10, 11)]


@dataclass
class SamplingParams:
    """Fields and defaults of vllm.SamplingParams, as far as they decide what is sampled."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True


@dataclass
class LoRARequest:
    """The fields of vllm.lora.request.LoRARequest. An id belongs to one adapter; vLLM keeps the first one it loads."""

    lora_name: str
    lora_int_id: int
    lora_path: str

    def __post_init__(self):
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")


class LLM:
    """The arguments of vllm.LLM (its own and EngineArgs') that the engine uses, and its `generate`."""

    def __init__(
        self,
        model,
        *,
        dtype="auto",
        gpu_memory_utilization=0.9,
        enable_lora=False,
        max_lora_rank=16,
        max_model_len=None,
        generation_config="auto",
    ):
        assert max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
        assert enable_lora and 0 < gpu_memory_utilization < 1 and dtype in ("float32", "bfloat16", "float16")
        self.model, self.dtype, self.rank, self.positions = model, dtype, max_lora_rank, max_model_len
        self.generation_config = generation_config
        self.adapters, self.seeds = {}, []

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        if len(prompts) != len(sampling_params):
            raise ValueError("The lengths of prompts and params must be the same.")
        policy = self.adapters.setdefault(lora_request.lora_int_id, self.adapter(lora_request.lora_path))
        return [self.request(policy, *pair) for pair in zip(prompts, sampling_params, strict=True)]

    def adapter(self, folder):
        assert (Path(folder) / "adapter_config.json").exists()
        base, _ = loading.load(self.model, self.dtype)
        return PeftModel.from_pretrained(base, folder).eval()

    def request(self, policy, prompt, params):
        assert set(prompt) == {"prompt_token_ids"} and params.logprobs == 0 and params.seed is not None
        unrestricted = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "min_tokens": 0}
        assert all(getattr(params, name) == value for name, value in unrestricted.items())
        seeds = [params.seed + i for i in range(params.n)]  # as vLLM derives them
        self.seeds += seeds
        return SimpleNamespace(outputs=[self.completion(policy, prompt["prompt_token_ids"], params, s) for s in seeds])

    @torch.no_grad()
    def completion(self, policy, prompt, params, seed):
        generator, ids, lines = torch.Generator().manual_seed(seed), list(prompt), []
        while len(lines) < params.max_tokens and len(ids) < self.positions:
            logits = policy(torch.tensor([ids])).logits[0, -1]
            token = int((logits / params.temperature).softmax(-1).multinomial(1, generator=generator))
            ids.append(token)
            lines.append({token: SimpleNamespace(logprob=float(logits.log_softmax(-1)[token]), rank=1)})
            if token in params.stop_token_ids:
                break
        return SimpleNamespace(token_ids=ids[len(prompt) :], logprobs=lines)


@pytest.fixture
def stand_in(monkeypatch):
    library, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
    library.LLM, library.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest
    library.lora = SimpleNamespace(request=request)
    for name, module in {"vllm": library, "vllm.lora": ModuleType("vllm.lora"), request.__name__: request}.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def policy(tmp_path):
    tokenizer = loading.byte_pair_tokenizer(["a few words"], vocabulary=300)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    loading.small_mistral(tokenizer, **size).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = loading.load(str(tmp_path))
    return loading.with_lora(model, r=4)


def engine(**options):
    return VLLM(2, positions=64, **options)


def test_samples_have_the_policys_log_probs_and_end_as_they_say(stand_in, policy):
    vllm = engine()
    samples = vllm(policy, PROMPTS, k=3, max_new=5, seed=1)
    assert [len(of_prompt) for of_prompt in samples] == [3, 3, 3]
    for of_prompt, prompt in zip(samples, PROMPTS, strict=True):
        for sample in of_prompt:
            with torch.no_grad():
                logits = policy(torch.tensor([[*prompt, *sample.tokens]])).logits
            logps = logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            expected = float(logps.gather(-1, torch.tensor(sample.tokens)[:, None]).sum())
            assert sample.logp == pytest.approx(expected, abs=1e-4)
            assert sample.ended == (sample.tokens[-1] == 2) and (sample.ended or len(sample.tokens) == 5)
    assert vllm(policy, PROMPTS, k=3, max_new=5, seed=1) == samples != vllm(policy, PROMPTS, k=3, max_new=5, seed=2)


def test_samples_end_at_every_end(stand_in, policy):
    ends = (2, *range(3, 120))
    flat = [s for of in engine(other_ends=ends[1:])(policy, PROMPTS, k=9, max_new=5, seed=1) for s in of]
    assert any(sample.ended and sample.tokens[-1] != 2 for sample in flat)
    assert all(sample.ended == (sample.tokens[-1] in ends) for sample in flat)
    assert not any(set(ends) & set(sample.tokens[:-1]) for sample in flat)


def test_sample_ends_at_the_end_token(stand_in, policy, monkeypatch):
    def line(**logps):
        return {int(name[1:]): SimpleNamespace(logprob=logp) for name, logp in logps.items()}

    def output(*lines):
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[7, 2][: len(lines)], logprobs=list(lines))])]

    monkeypatch.setattr(LLM, "generate", lambda *_, **__: output(line(t7=-1.5, t9=-0.1), line(t2=-0.25)))
    assert engine()(policy, PROMPTS[:1], k=1, max_new=2, seed=0) == [[Sample((7, 2), True, -1.75)]]
    monkeypatch.setattr(LLM, "generate", lambda *_, **__: output(line(t7=-1.5, t9=-0.1)))
    assert engine()(policy, PROMPTS[:1], k=1, max_new=1, seed=0) == [[Sample((7,), False, -1.5)]]


def test_engine_is_loaded_once_with_the_policys_base_rank_and_dtype(stand_in, policy):
    vllm = engine(memory=0.4)
    for seed in (1, 2):
        vllm(policy, PROMPTS, k=1, max_new=2, seed=seed)
    (llm,) = vllm.loaded
    assert (llm.model, llm.dtype) == (policy.peft_config["default"].base_model_name_or_path, "float32")
    assert (llm.rank, llm.positions, llm.generation_config) == (8, 64, "vllm")


@pytest.mark.parametrize(("r", "limit"), [(1, 8), (8, 8), (9, 16), (512, 512)])
def test_largest_rank_is_the_next_one_that_vllm_takes(stand_in, policy, r, limit):
    policy.peft_config["default"].r = r
    assert engine()._engine(policy, sys.modules["vllm"]).rank == limit


def test_adapter_is_the_current_one_under_a_new_number_each_time(stand_in, policy):
    vllm = engine()
    before = vllm(policy, PROMPTS, k=2, max_new=5, seed=1)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    after = vllm(policy, PROMPTS, k=2, max_new=5, seed=1)
    assert before != after and list(vllm.loaded[0].adapters) == [1, 2]


def test_every_second_sample_uses_the_temperature(stand_in, policy):
    samples = engine(temperature=0.5, every=2)(policy, PROMPTS, k=4, max_new=5, seed=1)
    plain = engine()(policy, PROMPTS, k=2, max_new=5, seed=1)
    assert [of_prompt[:2] for of_prompt in samples] == plain


def test_no_two_samples_share_a_seed_over_prompts_and_steps(stand_in, policy):
    vllm = engine(temperature=0.5, every=2)
    for step in range(3):
        vllm(policy, PROMPTS, k=4, max_new=2, seed=step)
    seeds = vllm.loaded[0].seeds
    assert len(set(seeds)) == len(seeds) == 3 * 3 * 4


def test_evaluation_at_temperature_1_shares_the_engine_and_its_numbers(stand_in, policy):
    rollouts = Rollouts(engine(temperature=0.5), None, "", None, samples=2, max_new=2, seed=0)
    rollouts.engine(policy, PROMPTS, k=2, max_new=2, seed=1)
    plain = rollouts.plain.engine
    plain(policy, PROMPTS, k=2, max_new=2, seed=1)
    assert plain.temperature == 1 and plain.loaded[0] is rollouts.engine.loaded[0]
    assert list(plain.loaded[0].adapters) == [1, 2], "at the same number, vLLM would use the adapter that it has"


def test_policy_that_vllm_cannot_sample_from_is_refused(stand_in, policy):
    policy.generation_config.suppress_tokens = [5]
    with pytest.raises(InputError, match="suppresses no tokens"):
        engine()(policy, PROMPTS, k=1, max_new=5, seed=1)
    policy.generation_config.suppress_tokens = None
    with pytest.raises(InputError, match="a policy with a LoRA adapter"):
        engine()(policy.get_base_model(), PROMPTS, k=1, max_new=5, seed=1)
    policy.peft_config["default"].r = 513
    with pytest.raises(InputError, match="lora_r of at most 512, got 513"):
        engine()(policy, PROMPTS, k=1, max_new=5, seed=1)


def test_missing_library_is_refused_with_its_name(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match="pip install vllm"):
        engine()(policy, PROMPTS, k=1, max_new=5, seed=1)


def test_stand_in_has_the_signatures_of_vllm():
    vllm = pytest.importorskip("vllm")
    arguments = pytest.importorskip("vllm.engine.arg_utils").EngineArgs
    request = pytest.importorskip("vllm.lora.request").LoRARequest
    assert {field.name for field in dataclasses.fields(SamplingParams)} <= set(vllm.SamplingParams.__annotations__)
    defaults, real = SamplingParams(), vllm.SamplingParams()
    assert all(
        getattr(real, name) == getattr(defaults, name) for name in ("n", "temperature", "top_p", "min_p", "seed")
    )
    assert set(inspect.signature(LLM).parameters) <= {field.name for field in dataclasses.fields(arguments)}
    assert set(inspect.signature(LLM.generate).parameters) <= set(inspect.signature(vllm.LLM.generate).parameters)
    assert [field.name for field in dataclasses.fields(LoRARequest)] == list(request.__annotations__)[:3]
