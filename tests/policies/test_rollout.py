"""What is drawn is what is scored: the sampler's distribution, its log-probs, and what may not leak into it."""

import pytest
import torch
from scipy import stats

from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.policies import loading, rollout
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.policies.rollout import HuggingFace

EOS = 2
PROMPTS = [(1, 5, 6, 7, 3), (1, 4), (1, 5, 6)]


class Words:
    """As much of a tokenizer as a small model asks for."""

    bos_token_id, eos_token_id, pad_token_id = 1, EOS, 0

    def __len__(self):
        return 8


@pytest.fixture(params=["plain", "lora"])
def model(request):
    made = loading.small_mistral(Words(), seed=3, num_hidden_layers=2, hidden_size=16, intermediate_size=32)
    if request.param == "lora":
        made = loading.with_lora(made, r=2, alpha=4, dropout=0.0, targets="all-linear", seed=0)
        for name, weights in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.3)
    return made


def logps(model, prompts, drawn):
    examples = [Example(p, tuple(d.tokens for d in draws)) for p, draws in zip(prompts, drawn, strict=True)]
    with torch.no_grad():
        return sequence_logprobs(model.eval(), collate(examples, "packed"))


def given(drawn):
    return torch.tensor([draw.logp for draws in drawn for draw in draws])


def test_the_samplers_log_probs_are_the_training_forwards(model):
    drawn = HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0)
    torch.testing.assert_close(logps(model, PROMPTS, drawn), given(drawn), rtol=0, atol=1e-4)
    assert [len(draws) for draws in drawn] == [5, 5, 5]
    for draws in drawn:
        for draw in draws:
            assert draw.ended == (draw.tokens[-1] == EOS)
            assert EOS not in draw.tokens[:-1]
            assert draw.ended or len(draw.tokens) == 6


def test_the_models_own_generation_config_changes_nothing_but_what_it_suppresses(model):
    plain = HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0)
    own = loading_config(model)
    own.top_k, own.top_p, own.temperature, own.repetition_penalty, own.min_new_tokens = 1, 0.1, 0.2, 9.0, 4
    assert HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0) == plain
    assert loading_config(model) is own, "the model's own config is back in its place"
    own.suppress_tokens = [4, 5]
    drawn = HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0)
    assert not {4, 5} & {token for draws in drawn for draw in draws for token in draw.tokens}
    torch.testing.assert_close(logps(model, PROMPTS, drawn), given(drawn), rtol=0, atol=1e-4)


def loading_config(model):
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).generation_config


def test_one_token_is_drawn_as_often_as_its_probability_says(model):
    (draws,) = HuggingFace(EOS)(model, PROMPTS[:1], k=4000, max_new=1, seed=0)
    counts = torch.bincount(torch.tensor([draw.tokens[0] for draw in draws]), minlength=8)
    every = [[type(draws[0])((token,), False, 0.0) for token in range(8)]]
    expected = logps(model, PROMPTS[:1], every).double().exp() * 4000
    assert stats.chisquare(counts, expected * (4000 / expected.sum())).pvalue > 1e-3


class ManyWords(Words):
    """More tokens than transformers' default top-k."""

    def __len__(self):
        return 80


def test_the_sampler_neither_sharpens_nor_cuts_off():
    # The trace stands before temperature and top-k and would not see them: counts do. The logits have sd 1.5, so that
    # temperature .9 is 35 sd of chance away, and with 80 tokens top_k = 50 would leave 30 out.
    model = loading.small_mistral(ManyWords(), seed=3, num_hidden_layers=1, hidden_size=16, intermediate_size=32)
    with torch.no_grad():
        torch.nn.init.normal_(model.lm_head.weight, std=0.4, generator=torch.Generator().manual_seed(0))
    (draws,) = HuggingFace(EOS, tokens=10**6)(model, PROMPTS[:1], k=20_000, max_new=1, seed=0)
    counts = torch.bincount(torch.tensor([draw.tokens[0] for draw in draws]), minlength=80)
    p = logps(model, PROMPTS[:1], [[type(draws[0])((token,), False, 0.0) for token in range(80)]]).double().exp()
    assert 1.2 < p.log().std() < 2.0
    often = p * 20_000 >= 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]]).double()
    expected = torch.cat([p[often], p[~often].sum()[None]]) * 20_000
    assert stats.chisquare(observed, expected * (20_000 / expected.sum())).pvalue > 1e-3
    assert (counts[p * 20_000 >= 20] > 0).all()


def test_dropout_has_no_part_in_the_draws(model):
    # A model in training mode is sampled as it is scored: without dropout.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in inner.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    drawn = HuggingFace(EOS)(model, PROMPTS, k=5, max_new=6, seed=0)
    torch.testing.assert_close(logps(model, PROMPTS, drawn), given(drawn), rtol=0, atol=1e-4)


def test_no_call_of_generate_holds_more_tokens_than_it_may(model, monkeypatch):
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    sizes, real = [], inner.generate

    def generate(**more):
        out = real(**more)
        sizes.append(len(out) * (more["input_ids"].shape[1] + 6))
        return out

    monkeypatch.setattr(inner, "generate", generate)
    HuggingFace(EOS, tokens=60)(model, PROMPTS * 2, k=3, max_new=6, seed=1)
    assert max(sizes) <= 60 and len(sizes) < 6


def test_the_same_seed_the_same_draws_and_nobody_elses_random_numbers(model):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    engine = HuggingFace(EOS)
    first = engine(model, PROMPTS, k=3, max_new=6, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert engine(model, PROMPTS, k=3, max_new=6, seed=1) == first
    assert engine(model, PROMPTS, k=3, max_new=6, seed=2) != first
    model.train()
    engine(model, PROMPTS, k=3, max_new=6, seed=2)
    assert all(module.training for module in model.modules())


def test_padding_and_the_cut_into_calls_change_no_log_prob(model):
    drawn = HuggingFace(EOS, tokens=30)(model, PROMPTS, k=3, max_new=6, seed=1)
    torch.testing.assert_close(logps(model, PROMPTS, drawn), given(drawn), rtol=0, atol=1e-4)


def test_a_prompt_beyond_the_models_positions_is_refused(model):
    with pytest.raises(InputError, match=r"4096 positions, got a prompt of 4095 tokens and responses of up to 6"):
        HuggingFace(EOS)(model, [(1,) * 4095], k=1, max_new=6, seed=0)


def test_a_temperature_changes_the_draws_and_not_what_they_are_scored_by(model):
    # One token after one prompt: at temperature τ its odds are π^(1/τ), and its log-prob is still the policy's.
    prompt, k = (1, 5, 6), 20_000
    (draws,) = HuggingFace(EOS, temperature=0.5)(model, [prompt], k=k, max_new=1, seed=0)
    with torch.no_grad():
        own = model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
    counts = torch.bincount(torch.tensor([draw.tokens[0] for draw in draws]), minlength=len(own))
    cold = (own / 0.5).softmax(-1)
    assert stats.chisquare(counts.numpy(), (cold * k).numpy()).pvalue > 1e-3
    assert stats.chisquare(counts.numpy(), (own.exp() * k).numpy()).pvalue < 1e-6
    assert all(draw.logp == pytest.approx(float(own[draw.tokens[0]]), abs=1e-4) for draw in draws[:100])


def test_an_enhancer_draws_every_second_response(model):
    mixed = HuggingFace(EOS, temperature=50.0, every=2)(model, [(1, 5), (1, 4)], k=4, max_new=3, seed=0)
    plain = HuggingFace(EOS)(model, [(1, 5), (1, 4)], k=2, max_new=3, seed=0)
    assert [len(draws) for draws in mixed] == [4, 4]
    assert [draws[:2] for draws in mixed] == plain
    (hot,) = HuggingFace(EOS, temperature=50.0, every=2)(model, [(1, 5)], k=2, max_new=1, seed=0)
    assert len(hot) == 2


def test_a_prompt_that_is_read_once_has_the_draws_of_one_that_is_read_for_each(model, monkeypatch):
    draw = {"k": 3, "max_new": 5, "seed": 0}
    apart = HuggingFace(EOS)(model, PROMPTS, **draw)
    read = []
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hook = inner.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(rollout, "READ", 2)
    once = HuggingFace(EOS)(model, PROMPTS, **draw)
    hook.remove()
    assert read[:2] == [(3, 4), (9, 1)], "the prompts without their last tokens, and then those of every draw"
    assert [[d.tokens for d in draws] for draws in once] == [[d.tokens for d in draws] for draws in apart]
    torch.testing.assert_close(given(once), given(apart), rtol=0, atol=1e-4)
