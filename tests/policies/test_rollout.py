"""Samples come from the scored distribution, with its log-probs, whatever the model's config or the batching."""

import pytest
import torch
from scipy import stats

from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.policies import loading, rollout
from una_ref.policies.anatomy import unwrapped
from una_ref.policies.layouts import layouts
from una_ref.policies.logprobs import distributions, sequence_logprobs
from una_ref.policies.references import Policy
from una_ref.policies.rollout import HuggingFace, Sample, Sampler

EOS = 2
PROMPTS = [(1, 5, 6, 7, 3), (1, 4), (1, 5, 6)]


class Words:
    """The part of a tokenizer that `small_mistral` uses."""

    bos_token_id, eos_token_id, pad_token_id = 1, EOS, 0

    def __len__(self):
        return 8


class ManyWords(Words):
    """More tokens than transformers' default top-k."""

    def __len__(self):
        return 80


@pytest.fixture(params=["plain", "lora"])
def model(request):
    model = loading.small_mistral(Words(), seed=3, num_hidden_layers=2, hidden_size=16, intermediate_size=32)
    if request.param == "lora":
        model = loading.with_lora(model, r=2, alpha=4, dropout=0.0, targets="all-linear", seed=0)
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.3)
    return model


def scored(model, prompts, samples):
    """The training forward's log-prob of each sample."""
    examples = [Example(p, tuple(s.tokens for s in of_prompt)) for p, of_prompt in zip(prompts, samples, strict=True)]
    with torch.no_grad():
        return sequence_logprobs(model.eval(), collate(examples, "packed"))


def recorded(samples):
    """The sampler's log-prob of each sample."""
    return torch.tensor([sample.logp for of_prompt in samples for sample in of_prompt])


def tokens(samples):
    return [[sample.tokens for sample in of_prompt] for of_prompt in samples]


def first_tokens(samples, size):
    """(V,) how often each token is the first one."""
    return torch.bincount(torch.tensor([sample.tokens[0] for sample in samples]), minlength=size)


# -------------------------------------------------------------------------------------------------- the distribution


def test_sampler_log_probs_equal_the_training_forward(model):
    samples = HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0)
    torch.testing.assert_close(scored(model, PROMPTS, samples), recorded(samples), rtol=0, atol=1e-4)


def test_samples_end_with_eos_or_are_cut_at_the_longest(model):
    samples = HuggingFace(EOS)(model, PROMPTS, k=20, max_new=6, seed=0)
    assert [len(of_prompt) for of_prompt in samples] == [20, 20, 20]
    flat = [sample for of_prompt in samples for sample in of_prompt]
    assert {sample.ended for sample in flat} == {True, False}
    for sample in flat:
        assert sample.ended == (sample.tokens[-1] == EOS)
        assert EOS not in sample.tokens[:-1]
        assert sample.ended or len(sample.tokens) == 6


def test_samples_end_at_every_end(model):
    ends = (EOS, *range(7, 40))
    samples = HuggingFace(EOS, other_ends=ends[1:])(model, PROMPTS, k=20, max_new=6, seed=0)
    flat = [sample for of_prompt in samples for sample in of_prompt]
    assert {sample.tokens[-1] for sample in flat if sample.ended} > {EOS}
    for sample in flat:
        assert sample.ended == (sample.tokens[-1] in ends)
        assert not set(ends) & set(sample.tokens[:-1]) and (sample.ended or len(sample.tokens) == 6)
    torch.testing.assert_close(scored(model, PROMPTS, samples), recorded(samples), rtol=0, atol=1e-4)


def test_generation_config_of_the_model_only_suppresses_tokens(model):
    plain = HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0)
    config = unwrapped(model).generation_config
    config.top_k, config.top_p, config.temperature, config.repetition_penalty, config.min_new_tokens = 1, 0.1, 0.2, 9, 4
    assert HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0) == plain
    assert unwrapped(model).generation_config is config, "the model's config is restored"
    config.suppress_tokens = [4, 5]
    samples = HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0)
    assert not {4, 5} & {token for of_prompt in tokens(samples) for sample in of_prompt for token in sample}
    torch.testing.assert_close(scored(model, PROMPTS, samples), recorded(samples), rtol=0, atol=1e-4)


def test_tokens_are_sampled_as_often_as_their_probabilities_say(model):
    (samples,) = HuggingFace(EOS)(model, PROMPTS[:1], k=4000, max_new=1, seed=0)
    every = [[Sample((token,), False, 0.0) for token in range(8)]]
    expected = scored(model, PROMPTS[:1], every).double().exp() * 4000
    assert stats.chisquare(first_tokens(samples, 8), expected * (4000 / expected.sum())).pvalue > 1e-3


def test_sampler_has_no_temperature_top_k_or_top_p():
    # The recorder stands before these three and would not see them; counts do. The logits have standard deviation 1.5,
    # so a temperature of 0.9 is 35 standard errors away. Of 80 tokens, top_k = 50 would leave out 30.
    model = loading.small_mistral(ManyWords(), seed=3, num_hidden_layers=1, hidden_size=16, intermediate_size=32)
    with torch.no_grad():
        torch.nn.init.normal_(model.lm_head.weight, std=0.4, generator=torch.Generator().manual_seed(0))
    (samples,) = HuggingFace(EOS, tokens=10**6)(model, PROMPTS[:1], k=20_000, max_new=1, seed=0)
    counts = first_tokens(samples, 80)
    p = scored(model, PROMPTS[:1], [[Sample((token,), False, 0.0) for token in range(80)]]).double().exp()
    assert 1.2 < p.log().std() < 2.0
    often = p * 20_000 >= 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]]).double()
    expected = torch.cat([p[often], p[~often].sum()[None]]) * 20_000
    assert stats.chisquare(observed, expected * (20_000 / expected.sum())).pvalue > 1e-3
    assert (counts[p * 20_000 >= 20] > 0).all()


def test_model_in_training_mode_is_sampled_without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    for layer in unwrapped(model).model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    samples = HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0)
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(scored(model, PROMPTS, samples), recorded(samples), rtol=0, atol=1e-4)


def test_seed_decides_the_samples_and_leaves_the_random_state_alone(model):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    engine = HuggingFace(EOS)
    first = engine(model, PROMPTS, k=3, max_new=6, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert engine(model, PROMPTS, k=3, max_new=6, seed=1) == first
    assert engine(model, PROMPTS, k=3, max_new=6, seed=2) != first


# ------------------------------------------------------------------------------------------------------- temperature


def test_temperature_changes_the_samples_and_not_their_log_probs(model):
    # At temperature τ a token's odds are π^(1/τ); its log-prob is still the policy's.
    prompt, k = (1, 5, 6), 20_000
    (samples,) = HuggingFace(EOS, temperature=0.5)(model, [prompt], k=k, max_new=1, seed=0)
    with torch.no_grad():
        logps = model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
    counts, cold = first_tokens(samples, len(logps)).numpy(), (logps / 0.5).softmax(-1)
    assert stats.chisquare(counts, (cold * k).numpy()).pvalue > 1e-3
    assert stats.chisquare(counts, (logps.exp() * k).numpy()).pvalue < 1e-6
    assert all(sample.logp == pytest.approx(float(logps[sample.tokens[0]]), abs=1e-4) for sample in samples[:100])


def test_every_second_sample_uses_the_temperature(model):
    mixed = HuggingFace(EOS, temperature=50.0, every=2)(model, PROMPTS[1:], k=4, max_new=3, seed=0)
    plain = HuggingFace(EOS)(model, PROMPTS[1:], k=2, max_new=3, seed=0)
    assert [len(of_prompt) for of_prompt in mixed] == [4, 4]
    assert [of_prompt[:2] for of_prompt in mixed] == plain


class Calls(Sampler):
    """A sampler that notes number, seed and temperature of its calls."""

    calls: list

    def _sample(self, model, prompts, k, max_new, seed, temperature):
        self.calls.append((k, seed, temperature))
        return [[Sample((i, EOS), True, temperature) for i in range(k)] for _ in prompts]


@pytest.mark.parametrize(
    ("temperature", "every", "k", "expected"),
    [
        (1.0, 1, 4, [(4, 1.0)]),
        (1.0, 2, 4, [(4, 1.0)]),
        (0.5, 1, 4, [(4, 0.5)]),
        (0.5, 2, 4, [(2, 1.0), (2, 0.5)]),
        (0.5, 2, 5, [(3, 1.0), (2, 0.5)]),
        (0.5, 3, 7, [(5, 1.0), (2, 0.5)]),
        (0.5, 3, 2, [(2, 1.0)]),
    ],
)
def test_every_nth_sample_uses_the_temperature_with_its_own_seed(temperature, every, k, expected):
    sampler = Calls(EOS, temperature, every)
    sampler.calls = []
    samples = sampler(None, PROMPTS, k=k, max_new=3, seed=11)
    assert [(count, at) for count, _, at in sampler.calls] == expected
    assert len({seed for _, seed, _ in sampler.calls}) == len(expected)
    assert [[sample.logp for sample in of_prompt] for of_prompt in samples] == [
        [at for count, at in expected for _ in range(count)]
    ] * 3


# ---------------------------------------------------------------------------------------------------------- batching


def test_call_of_generate_holds_at_most_its_tokens(model, monkeypatch):
    inner = unwrapped(model)
    sizes, generate = [], inner.generate

    def measured(**options):
        out = generate(**options)
        sizes.append(len(out) * (options["input_ids"].shape[1] + 6))
        return out

    monkeypatch.setattr(inner, "generate", measured)
    HuggingFace(EOS, tokens=60)(model, PROMPTS * 2, k=3, max_new=6, seed=1)
    assert max(sizes) <= 60 and len(sizes) < 6


def test_chunks_hold_prompts_of_similar_length_within_the_tokens():
    prompts = [(1,) * n for n in (5, 2, 3, 9, 2)]
    assert list(HuggingFace(EOS, tokens=30).chunks(prompts, k=2, max_new=3)) == [[1, 4], [2], [0], [3]]
    assert list(HuggingFace(EOS, tokens=29).chunks(prompts, k=2, max_new=3)) == [[1, 4], [2], [0], [3]]
    assert list(HuggingFace(EOS, tokens=36).chunks(prompts, k=2, max_new=3)) == [[1, 4, 2], [0], [3]]
    assert list(HuggingFace(EOS, tokens=35).chunks(prompts, k=2, max_new=3)) == [[1, 4], [2, 0], [3]]
    assert list(HuggingFace(EOS, tokens=1).chunks(prompts, k=2, max_new=3)) == [[1], [4], [2], [0], [3]]


def test_pads_and_chunks_change_no_log_prob(model):
    samples = HuggingFace(EOS, tokens=30)(model, PROMPTS, k=3, max_new=6, seed=1)
    torch.testing.assert_close(scored(model, PROMPTS, samples), recorded(samples), rtol=0, atol=1e-4)


def test_prompt_and_response_may_fill_the_models_positions_but_not_more(model):
    unwrapped(model).config.max_position_embeddings = 8
    (samples,) = HuggingFace(EOS)(model, [(1, 5)], k=2, max_new=6, seed=0)
    assert len(samples) == 2
    with pytest.raises(InputError, match="8 positions, got a prompt of 3 tokens and responses of up to 6"):
        HuggingFace(EOS)(model, [(1, 5), (1, 5, 6)], k=1, max_new=6, seed=0)


def test_shared_prefill_of_a_prompt_gives_the_same_samples(model, monkeypatch):
    options = {"k": 3, "max_new": 5, "seed": 0}
    apart = HuggingFace(EOS)(model, PROMPTS, **options)
    assert layouts(model)[0] == "packed"  # decided here, so that its trial is not among the calls below
    shapes = []
    hook = unwrapped(model).model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(rollout, "PREFILL_FROM", 5)
    shared = HuggingFace(EOS)(model, PROMPTS, **options)
    hook.remove()
    assert shapes[:2] == [(3, 4), (9, 1)], "the prompts without their last tokens, then those of every sample"
    assert tokens(shared) == tokens(apart)
    torch.testing.assert_close(recorded(shared), recorded(apart), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("longest", "k"), [(6, 3), (5, 1)])
def test_prefill_is_shared_only_for_long_prompts_with_several_samples(model, monkeypatch, longest, k):
    monkeypatch.setattr(rollout, "PREFILL_FROM", longest)
    monkeypatch.setattr(rollout, "_prefill", lambda *_: pytest.fail("a call for the prompts alone"))
    HuggingFace(EOS)(model, PROMPTS, k=k, max_new=2, seed=0)


def test_model_whose_cache_rows_cannot_be_repeated_is_sampled_without_shared_prefill(tiny, monkeypatch):
    monkeypatch.setattr(rollout, "PREFILL_FROM", 2)
    model = tiny("Mamba", state_size=4)
    (samples,) = HuggingFace(EOS)(model, [(1, 5, 6)], k=3, max_new=4, seed=0)
    examples = [Example((1, 5, 6), tuple(sample.tokens for sample in samples))]
    logps = sequence_logprobs(model, collate(examples, "padded"))
    torch.testing.assert_close(logps, recorded([samples]), rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------------- the mixture with π_ref


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_mixture_is_the_geometric_mean_of_policy_and_reference_at_every_token(share):
    base = loading.small_mistral(Words(), seed=3, num_hidden_layers=2, hidden_size=16, intermediate_size=32)
    policy = Policy(loading.with_lora(base, r=2, alpha=4, seed=0))
    for name, weights in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.5, generator=torch.Generator().manual_seed(1))
    unwrapped(policy.model).generation_config.suppress_tokens = [4]
    drawn = HuggingFace(EOS).mixed(policy, PROMPTS, k=4, max_new=6, seed=0, share=share)
    differences = []
    for prompt, samples in zip(PROMPTS, drawn, strict=True):
        for sample in samples:
            batch = collate([Example(prompt, (sample.tokens,))])
            with torch.no_grad():
                own = distributions(policy.model.eval(), batch)
            mix = torch.lerp(own, policy.reference_distributions(batch), share)
            mix = mix.masked_fill(own == -torch.inf, -torch.inf)
            terms = mix.log_softmax(-1).gather(1, torch.tensor(sample.tokens)[:, None])
            assert sample.logp == pytest.approx(float(terms.sum()), abs=1e-4)
            differences.append(abs(float(own.gather(1, torch.tensor(sample.tokens)[:, None]).sum()) - sample.logp))
            assert 4 not in sample.tokens
    assert (max(differences) > 0.05) == (share > 0)


def test_mixture_is_sampled_without_dropout_and_leaves_the_mode_as_it_was():
    base = loading.small_mistral(Words(), seed=3, num_hidden_layers=1, hidden_size=16, intermediate_size=32)
    policy = Policy(loading.with_lora(base, r=2, dropout=0.5, seed=0)).train()
    for name, weights in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.5, generator=torch.Generator().manual_seed(1))
    options = {"k": 3, "max_new": 5, "seed": 0, "share": 0.3}
    first = HuggingFace(EOS).mixed(policy, PROMPTS, **options)
    assert policy.training and policy.model.training
    torch.manual_seed(9)
    assert recorded(HuggingFace(EOS).mixed(policy, PROMPTS, **options)).tolist() == recorded(first).tolist()


def test_temperature_zero_takes_the_most_probable_token_each_time(model):
    samples = HuggingFace(EOS, temperature=0)(model, PROMPTS, k=2, max_new=5, seed=0)
    with torch.no_grad():
        for prompt, (first, second) in zip(PROMPTS, samples, strict=True):
            assert first.tokens == second.tokens
            tokens = list(prompt)
            for token in first.tokens:
                assert token == unwrapped(model).eval()(torch.tensor([tokens])).logits[0, -1].argmax()
                tokens.append(token)
