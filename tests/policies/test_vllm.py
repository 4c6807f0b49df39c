"""vLLM behind `Engine`. The library needs a GPU and is not in the test environment: what stands in for it here has its
signatures only and draws from the policy itself, so that what is asked of it and what is made of its answer is checked.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from peft import PeftModel

from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.rollout import HuggingFace
from una_ref.policies.vllm import VLLM
from una_ref.training.online import Rollouts

PROMPTS = [(5, 6, 7), (8, 9), (5, 9, 10, 11)]


class LLM:
    """Draws with transformers' generate from the folder that an adapter was saved to."""

    def __init__(self, model, *, enable_lora, max_lora_rank, max_model_len, gpu_memory_utilization, dtype, **_):
        assert enable_lora and max_lora_rank == 8 and max_model_len == 64 and dtype == "float32"
        self.folder, self.seen, self.seeds = model, [], []

    def generate(self, asked, each, *, lora_request, use_tqdm):
        self.seen.append(lora_request.number)
        self.seeds += [one["seed"] + i for one in each for i in range(one["n"])]  # as vLLM has it
        base, _ = loading.load(self.folder)
        model = PeftModel.from_pretrained(base, lora_request.folder).eval()
        outputs = []
        for prompt, one in zip(asked, each, strict=True):
            assert one["logprobs"] == 0 and one["temperature"] in (1.0, 0.5)
            engine = HuggingFace(*one["stop_token_ids"], temperature=one["temperature"])
            ids = tuple(prompt["prompt_token_ids"])
            (draws,) = engine(model, [ids], k=one["n"], max_new=one["max_tokens"], seed=one["seed"])
            outputs.append(SimpleNamespace(outputs=[self.output(draw) for draw in draws]))
        return outputs

    @staticmethod
    def output(draw):
        share = draw.logp / len(draw.tokens)
        return SimpleNamespace(
            token_ids=list(draw.tokens), logprobs=[{t: SimpleNamespace(logprob=share)} for t in draw.tokens]
        )


@pytest.fixture
def stand_in(monkeypatch):
    library, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
    library.LLM, library.SamplingParams = LLM, dict
    request.LoRARequest = lambda name, number, folder: SimpleNamespace(number=number, folder=folder)
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


def engine(**more):
    return VLLM(2, positions=64, **more)


def test_each_prompt_has_its_draws_with_the_samplers_log_probs(stand_in, policy):
    one = engine()
    drawn = one(policy, PROMPTS, k=3, max_new=5, seed=1)
    assert [len(draws) for draws in drawn] == [3, 3, 3]
    for draws, prompt in zip(drawn, PROMPTS, strict=True):
        for draw in draws:
            with torch.no_grad():
                logits = policy(torch.tensor([[*prompt, *draw.tokens]])).logits
            logps = logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            scored = float(logps.gather(-1, torch.tensor(draw.tokens)[:, None]).sum())
            assert draw.logp == pytest.approx(scored, abs=1e-4)
            assert draw.ended == (draw.tokens[-1] == 2)
    assert one(policy, PROMPTS, k=3, max_new=5, seed=1) == drawn != one(policy, PROMPTS, k=3, max_new=5, seed=2)


def test_the_adapter_is_the_policys_as_it_is_under_a_new_number_each_time(stand_in, policy):
    one = engine()
    before = one(policy, PROMPTS, k=2, max_new=5, seed=1)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    after = one(policy, PROMPTS, k=2, max_new=5, seed=1)
    assert before != after and one.loaded[0].seen == [1, 2]


def test_some_draws_may_be_at_another_temperature(stand_in, policy):
    drawn = engine(temperature=0.5, every=2)(policy, PROMPTS, k=4, max_new=5, seed=1)
    plain = engine()(policy, PROMPTS, k=2, max_new=5, seed=1)
    assert [draws[:2] for draws in drawn] == plain


def test_no_two_draws_share_their_random_numbers_over_prompts_and_steps(stand_in, policy):
    one = engine(temperature=0.5, every=2)
    for step in range(3):
        one(policy, PROMPTS, k=4, max_new=2, seed=step)
    seeds = one.loaded[0].seeds
    assert len(set(seeds)) == len(seeds) == 3 * 3 * 4


def test_what_is_measured_at_temperature_1_is_drawn_by_the_engine_that_is_there(stand_in, policy):
    rollouts = Rollouts(engine(temperature=0.5), None, "", None, samples=2, max_new=2, seed=0)
    rollouts.engine(policy, PROMPTS, k=2, max_new=2, seed=1)
    plain = rollouts.plain.engine
    plain(policy, PROMPTS, k=2, max_new=2, seed=1)
    assert plain.temperature == 1 and plain.loaded[0] is rollouts.engine.loaded[0]
    assert plain.loaded[0].seen == [1, 2], "an adapter of one number, and vLLM would use the one that it has"


def test_what_it_cannot_draw_from_is_refused(stand_in, policy):
    policy.generation_config.suppress_tokens = [5]
    with pytest.raises(InputError, match="suppresses no tokens"):
        engine()(policy, PROMPTS, k=1, max_new=5, seed=1)
    policy.generation_config.suppress_tokens = None
    with pytest.raises(InputError, match="a policy with a LoRA adapter"):
        engine()(policy.get_base_model(), PROMPTS, k=1, max_new=5, seed=1)


def test_without_the_library_it_says_what_to_install(policy):
    with pytest.raises(InputError, match="pip install vllm"):
        engine()(policy, PROMPTS, k=1, max_new=5, seed=1)
