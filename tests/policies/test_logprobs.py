"""The packed layout, the padded one and a plain forward a sequence give the same numbers and gradients."""

import copy

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.policies import logprobs
from una_ref.policies.loading import TableLM
from una_ref.policies.logprobs import check_scorable, sequence_logprobs, token_logprobs

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft on GPT-2, whose layers are transposed

# Unequal lengths, one-token responses (EOS alone), a row of one response, several prompts a row once packed.
CLOSE = {"sdpa": 1e-10, "eager": 1e-6}
"""Nats, in float64. transformers' eager attention takes its softmax in float32, and rows differ with the layout."""

EXAMPLES = [
    Example((3, 4, 5), ((6, 7, 8, 9, 10, 2), (2,), (11, 2))),
    Example((12, 13, 14, 15, 16, 17), ((18, 2), (19, 20, 21))),
    Example((22,), ((2,),)),
    Example((23, 24), ((2,), (25, 26, 27, 28, 29, 30, 31, 32, 33, 2), (34, 2), (35, 36, 2))),
]
KINDS = [("Mistral", "sdpa", False), ("Mistral", "eager", True), ("GPT2", "sdpa", True), ("GPT2", "eager", False)]


@pytest.fixture(params=KINDS, ids=["-".join([k, a] + ["lora"] * with_lora) for k, a, with_lora in KINDS])
def model(request, tiny, lora):
    family, attention, with_lora = request.param
    model = tiny(family, attention)
    return lora(model) if with_lora else model


def gradients(model, loss):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])


def weighted(logps):
    return (logps * torch.linspace(-1, 2, len(logps), dtype=logps.dtype)).sum()


def test_packed_rows_hold_several_prompts():
    assert len(collate(EXAMPLES).tokens) < len(EXAMPLES)
    assert len(collate(EXAMPLES, "padded").tokens) == sum(len(e.responses) for e in EXAMPLES)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_equal_to_a_plain_forward_in_float64(model, plain, layout):
    model = model.double()
    logps = sequence_logprobs(model, collate(EXAMPLES, layout))
    assert logps.dtype == torch.float64 and logps.shape == (10,)
    attention = model.config._attn_implementation
    torch.testing.assert_close(logps, plain(model, EXAMPLES), rtol=0, atol=CLOSE[attention])


def test_packed_equals_padded_in_float32(model):
    packed, padded = (sequence_logprobs(model, collate(EXAMPLES, layout)) for layout in ("packed", "padded"))
    torch.testing.assert_close(packed, padded, rtol=1e-6, atol=0)
    a, b = (gradients(model, weighted(logps)) for logps in (packed, padded))
    assert (a - b).abs().max() < 1e-5 * a.abs().max()


def test_gradients_equal_those_of_a_plain_forward(model, plain):
    model = model.double()
    a = gradients(model, weighted(sequence_logprobs(model, collate(EXAMPLES))))
    b = gradients(model, weighted(plain(model, EXAMPLES)))
    # Mistral's norms and rotations are in float32 whatever the weights are.
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))


def test_the_company_in_a_batch_makes_no_difference(model):
    # Stated: 1e-5 nats in float32, for tiny models; a batch's shape may choose another matrix kernel.
    alone = torch.cat([sequence_logprobs(model, collate([e])) for e in EXAMPLES])
    torch.testing.assert_close(sequence_logprobs(model, collate(EXAMPLES)), alone, rtol=0, atol=1e-5)
    one = sequence_logprobs(model, collate(EXAMPLES[2:3]))
    assert one.shape == (1,)


def test_a_response_of_two_turns_has_the_sum_of_what_each_has_after_its_own_prompt(model):
    model = model.double()
    mask = (True, True, False, False, True, True, True)
    whole = Example((3, 4, 5), ((6, 2, 7, 8, 9, 10, 2),), trained=(mask,))
    turns = [Example((3, 4, 5), ((6, 2),)), Example((3, 4, 5, 6, 2, 7, 8), ((9, 10, 2),))]
    expected = sequence_logprobs(model, collate(turns)).sum()
    torch.testing.assert_close(sequence_logprobs(model, collate([whole, *turns]))[0], expected, rtol=0, atol=1e-6)
    unmasked = sequence_logprobs(model, collate([Example(whole.prompt, whole.responses)]))
    assert (unmasked - expected).abs() > 0.1


def test_responses_keep_their_order(model):
    forth = sequence_logprobs(model, collate(EXAMPLES))
    back = [Example(e.prompt, e.responses[::-1]) for e in EXAMPLES[::-1]]
    torch.testing.assert_close(sequence_logprobs(model, collate(back)).flip(0), forth, rtol=0, atol=1e-5)


def test_the_sum_over_tokens_not_their_mean(model):
    batch = collate(EXAMPLES)
    tokens = token_logprobs(model, batch)
    assert tokens.shape == batch.target.shape
    sums = [part.sum() for part in tokens.double().split(batch.lengths.tolist())]
    torch.testing.assert_close(sequence_logprobs(model, batch), torch.stack(sums).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("elements", [1, 48 * 7])
def test_chunks_of_the_head_change_nothing(model, monkeypatch, elements):
    batch = collate(EXAMPLES)
    whole = sequence_logprobs(model, batch)
    expected = gradients(model, weighted(whole))
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", elements)
    chunks = sequence_logprobs(model, batch)
    torch.testing.assert_close(chunks, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(model, weighted(chunks)), expected, rtol=1e-5, atol=1e-5)


def test_no_table_of_tokens_by_vocabulary_is_kept(tiny, monkeypatch):
    model, kept = tiny(), []
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 48 * 2)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        sequence_logprobs(model, collate(EXAMPLES))
    assert kept and not [shape for shape in kept if shape[-1:] == (48,) and len(shape) > 1]


def test_a_frozen_head_is_computed_once(tiny, lora, monkeypatch):
    model, calls = lora(tiny()), []
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 48 * 7)
    batch = collate(EXAMPLES)
    model.get_base_model().lm_head.register_forward_hook(lambda *_: calls.append(1))
    sequence_logprobs(model, batch).sum().backward()
    assert len(calls) == -(-len(batch.target) // 7) > 1


def test_a_frozen_head_in_bfloat16_and_large_logits():
    head = torch.nn.Linear(3, 6, bias=False).requires_grad_(False)
    hidden = 300 * torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])
    target = torch.tensor([1, 5])
    for dtype, close in ((torch.float32, 1e-3), (torch.bfloat16, 2.0)):
        own = head.to(dtype)
        expected = own.double()(hidden.double()).log_softmax(-1)[torch.arange(2), target]
        h = hidden.to(dtype).clone().requires_grad_()
        found = logprobs._FrozenHead.apply(h, target, own.to(dtype), [])
        assert found.dtype == torch.float32 and found.isfinite().all()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=close)
        found.sum().backward()
        assert h.grad.dtype == dtype and h.grad.isfinite().all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_formed_where_none_is_asked(tiny, lora, monkeypatch, context):
    model, batch = lora(tiny()), collate(EXAMPLES)
    hidden = torch.ones(len(batch.target), 32, requires_grad=True)
    monkeypatch.setattr(torch.autograd, "grad", None)
    with context():
        assert not token_logprobs(model, batch, hidden).requires_grad


def test_a_bias_that_learns_is_a_head_that_learns(tiny, lora):
    model = lora(tiny())
    head = model.get_base_model().lm_head
    head.bias = torch.nn.Parameter(torch.zeros(48))
    sequence_logprobs(model, collate(EXAMPLES)).sum().backward()
    assert head.bias.grad.abs().max() > 0


def test_an_output_that_a_hook_has_kept_stays(tiny, lora):
    model, kept = lora(tiny()), []
    model.get_base_model().lm_head.register_forward_hook(lambda _, inputs, out: kept.append((inputs[0], out)))
    sequence_logprobs(model, collate(EXAMPLES))
    hidden, logits = kept[0]
    assert torch.equal(logits, hidden @ model.get_base_model().lm_head.weight.T)


@pytest.mark.parametrize("suppressed", [[], [0, 3]])
def test_gradient_of_a_frozen_head_is_that_of_finite_differences(suppressed):
    head = torch.nn.Linear(3, 6).double().requires_grad_(False)
    hidden = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1, 5])
    before = hidden.detach().clone()
    found = logprobs._FrozenHead.apply(hidden, target, head, suppressed)
    logits = head(before).index_fill(-1, torch.tensor(suppressed, dtype=torch.int64), -torch.inf)
    torch.testing.assert_close(found, logits.log_softmax(-1)[torch.arange(2), target], rtol=1e-12, atol=1e-12)
    assert torch.equal(hidden, before)
    assert torch.autograd.gradcheck(lambda h: logprobs._FrozenHead.apply(h, target, head, suppressed), [hidden])


# --------------------------------------------------------------------------------------- models scored wrongly or not


@pytest.mark.parametrize(
    ("family", "config"),
    [("Gemma2", {"head_dim": 8}), ("Cohere", {}), ("Granite", {"logits_scaling": 4.0})],
)
def test_logits_that_are_more_than_the_heads_output_are_refused(tiny, family, config):
    with pytest.raises(InputError, match=rf"{family}ForCausalLM: expected logits as its head gives them"):
        check_scorable(tiny(family, **config))


@pytest.mark.parametrize("size", [1e-4, 1.0])
def test_a_soft_cap_is_seen_however_small_the_logits(tiny, size):
    model = tiny("Gemma2", head_dim=8)
    model.get_output_embeddings().weight.data *= size
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(InputError, match="soft cap"):
            check_scorable(model.to(dtype))


def test_plain_heads_pass_in_any_dtype_and_are_left_as_they_were(tiny, lora):
    no_cap = tiny("Gemma2", head_dim=8, final_logit_softcapping=None)
    for model in (tiny(), tiny("GPT2"), tiny("Phi"), no_cap, lora(tiny(), modules_to_save=["lm_head"])):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            check_scorable(model.to(dtype).train())
            assert model.training
    check_scorable(TableLM(torch.zeros(2, 2)))
    before = tiny()(torch.tensor([[3, 4]])).logits
    model = tiny()
    check_scorable(model)
    assert torch.equal(model(torch.tensor([[3, 4]])).logits, before)


# ------------------------------------------------------------------------------------------- suppressed tokens, dtypes


@pytest.mark.parametrize("frozen", [False, True])
def test_suppressed_tokens_are_left_out_of_the_distribution(tiny, lora, frozen):
    model, left = lora(tiny()) if frozen else tiny(), [i for i in range(48) if i not in (1, 5, 40)]
    model.generation_config.suppress_tokens = [1, 5, 40]
    everything = Example((3, 4), tuple((t,) for t in range(48)))
    logps = sequence_logprobs(model, collate([everything]))
    assert float(logps[left].detach().double().exp().sum()) == pytest.approx(1, abs=1e-6)
    assert (logps[[1, 5, 40]] == -torch.inf).all()
    grad = gradients(model, logps[left].sum())
    assert grad.isfinite().all() and grad.abs().max() > 0


def test_scored_as_it_is_sampled(tiny):
    model, suppressed = tiny(), list(range(10, 48))
    model.generation_config.suppress_tokens = suppressed
    torch.manual_seed(0)
    out = model.generate(
        torch.tensor([[3, 4, 5]]),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
        do_sample=True,
        top_k=0,
        max_new_tokens=6,
        eos_token_id=None,
        num_return_sequences=8,
        return_dict_in_generate=True,
        output_scores=True,
    )
    sampled = out.sequences[:, 3:]
    assert sampled.max() < 10
    processed = torch.stack(out.scores, 1).log_softmax(-1).gather(2, sampled[..., None])[..., 0]
    batch = collate([Example((3, 4, 5), tuple(map(tuple, sampled.tolist())))])
    torch.testing.assert_close(token_logprobs(model, batch).view(8, 6), processed, rtol=0, atol=1e-5)


def test_bfloat16_stays_within_its_noise(tiny):
    """At T = 1024 tokens: log-probs are float32; each is off by at most 0.05 nats, without bias; a sum by 1 nat.

    The oracle is the same weights in float64. Most of the noise is that of the hidden states, not of the head.
    """
    model = tiny("Mistral", max_position_embeddings=2048).bfloat16()
    torch.manual_seed(0)
    batch = collate([Example((3, 4, 5), tuple(tuple(torch.randint(48, (1024,)).tolist()) for _ in range(2)))])
    with torch.no_grad():
        half, exact = token_logprobs(model, batch), token_logprobs(copy.deepcopy(model).double(), batch)
        sums = sequence_logprobs(model, batch)
    assert half.dtype == sums.dtype == torch.float32
    gap = half.double() - exact
    assert 1e-4 < float(gap.abs().max()) < 0.05
    assert float(gap.mean().abs()) < 0.002
    exact_sums = exact.view(2, -1).sum(1)
    assert float((sums.double() - exact_sums).abs().max()) < 1
    with torch.no_grad():
        single = sequence_logprobs(copy.deepcopy(model).float(), batch)
    torch.testing.assert_close(single.double(), exact_sums, rtol=1e-6, atol=0)


@pytest.mark.parametrize("frozen", [False, True])
def test_autocast_scores_in_float32(tiny, lora, frozen):
    model, batch = lora(tiny()) if frozen else tiny(), collate(EXAMPLES)
    with torch.autocast("cpu", torch.bfloat16):
        logps = sequence_logprobs(model, batch)
    assert logps.dtype == torch.float32
    exact = sequence_logprobs(model, batch)
    torch.testing.assert_close(logps, exact, rtol=0, atol=0.5)
    found, expected = gradients(model, weighted(logps)), gradients(model, weighted(exact))
    assert float((found - expected).norm() / expected.norm()) < 0.1


# --------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(("prompts", "responses"), [(5, 3), (3, 7), (1, 2)])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_table_goes_through_the_same_batch(prompts, responses, layout):
    logits = torch.randn(prompts, responses, dtype=torch.float64)
    model = TableLM(logits)
    every = [Example((x,), tuple((y,) for y in range(responses)), prompt_index=x) for x in range(prompts)]
    logps = sequence_logprobs(model, collate(every, layout)).view(prompts, responses)
    torch.testing.assert_close(logps, logits.log_softmax(-1), rtol=0, atol=1e-14)
    assert torch.equal(model.logps, logits.log_softmax(-1))
    logps[-1, 0].backward()
    expected = -logits.softmax(-1)[-1]
    expected[0] += 1
    grad = model.table.weight.grad
    torch.testing.assert_close(grad[-1], expected, rtol=0, atol=1e-14)
    assert not grad[:-1].any()
