"""The reference is the policy that training starts from, to the bit, and stays it."""

import copy
import gc

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.policies.loading import TableLM, disable_dropout, with_lora
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.policies.references import AT_START, REWRITES_BASE, Policy

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft on GPT-2, whose layers are transposed

EXAMPLES = [
    Example((3, 4, 5), ((6, 7, 8, 9, 2), (2,), (11, 2))),
    Example((12, 13), ((18, 2), (19, 20, 21))),
]
BATCH = collate(EXAMPLES)


def train(policy, steps=3):
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.05)
    policy.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (-policy(BATCH)).mean().backward()
        optimizer.step()


# ------------------------------------------------------------------------------------------------------------ step 0


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["Mistral", "GPT2"])
def test_implicit_rewards_are_exactly_zero_at_step_0(tiny, family, dtype, layout):
    model = tiny(family).to(dtype)  # GPT-2 comes with dropout of its own
    disable_dropout(model)
    policy = Policy(with_lora(model, r=4, dropout=0.5)).train()
    batch = collate(EXAMPLES, layout)
    assert torch.equal(policy(batch), policy.reference(batch))
    assert policy.check_start(batch) == 0.0
    assert policy.training and policy.model.training


def test_a_models_own_dropout_is_found(tiny):
    policy = Policy(with_lora(tiny("GPT2"), r=4))
    with pytest.raises(InputError, match="the model itself has dropout"):
        policy.check_start(BATCH)
    assert not policy.model.training


def test_zero_under_autocast_as_well(tiny):
    policy = Policy(with_lora(tiny(), r=4))
    with torch.autocast("cpu", torch.bfloat16):
        assert policy.check_start(BATCH) == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_another_layout_stays_within_the_stated_tolerance(tiny, dtype):
    policy = Policy(with_lora(tiny().to(dtype), r=4))
    gap = policy(BATCH) - policy.reference(collate(EXAMPLES, "padded"))
    assert gap.abs().max() <= AT_START[dtype]


def test_an_adapter_that_is_not_fresh_is_found(tiny, lora):
    with pytest.raises(InputError, match=r"expected implicit rewards of 0 .* the adapter is already trained"):
        Policy(lora(tiny())).check_start(BATCH)


def test_policy_below_its_reference_at_step_0_is_refused(tiny):
    policy = Policy(with_lora(tiny(), r=4))
    with pytest.raises(InputError, match=r"expected implicit rewards of 0 .* got 1\b"):
        policy.check_start(BATCH, policy.reference(BATCH) + 1)


def test_a_gap_that_is_no_number_is_found(tiny):
    model = tiny()
    model.lm_head.weight.data[7] = torch.nan
    with pytest.raises(InputError, match="got nan"):
        Policy(with_lora(model, r=4)).check_start(BATCH)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora"])
def test_initialisations_that_change_the_base_are_refused(tiny, start):
    base = tiny(tie_word_embeddings=False)
    expected = sequence_logprobs(base, BATCH)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=start, task_type="CAUSAL_LM")
    model = get_peft_model(base, config).eval()
    assert start.startswith(REWRITES_BASE)
    with pytest.raises(InputError, match=f"adapter 'default': .* got '{start}'"):
        Policy(model)
    Policy(model, has_reference=False)
    with model.disable_adapter():  # the reason
        assert (sequence_logprobs(model, BATCH) - expected).abs().max() > 1e-2


# ------------------------------------------------------------------------------------------------------ a second model


@pytest.mark.parametrize("adapted", [True, False])
def test_a_second_model_is_the_reference_and_rewards_need_not_start_at_zero(tiny, adapted):
    other = tiny()
    other.lm_head.weight.data *= 1.5
    expected = sequence_logprobs(copy.deepcopy(other), BATCH)
    policy = Policy(with_lora(tiny(), r=4) if adapted else tiny(), second=other)
    assert torch.equal(policy.reference(BATCH), expected)
    assert policy.check_start(BATCH) > 0.1
    assert policy.copy == [other] and not any(p.requires_grad for p in other.parameters())
    train(policy)
    assert torch.equal(policy.reference(BATCH), expected)


def test_a_second_model_without_a_number_is_found_too(tiny):
    other = tiny()
    other.lm_head.weight.data[7] = torch.nan
    with pytest.raises(InputError, match="got nan"):
        Policy(tiny(), second=other).check_start(BATCH)


def test_a_second_model_is_scored_in_a_layout_that_it_takes(tiny):
    assert Policy(tiny(), second=tiny("GPT2")).layout == "packed"
    mixed = tiny("Gemma3Text", head_dim=8, layer_types=["sliding_attention", "full_attention"])
    assert Policy(tiny(), second=mixed).layout == "padded"


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_beside_a_second_model_adapters_may_change_the_base(tiny, start):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=start, task_type="CAUSAL_LM")
    base = tiny(tie_word_embeddings=False)
    before = copy.deepcopy(base)
    policy = Policy(get_peft_model(base, config).eval(), second=before)
    assert policy.check_start(BATCH) <= 1e-4  # the start policy is the base still, only otherwise written
    train(policy)
    assert torch.equal(policy.reference(BATCH), sequence_logprobs(before, BATCH))


# ----------------------------------------------------------------------------------------------------- after training


@pytest.mark.parametrize(
    "config",
    [{}, {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["lm_head", "embed_tokens"]}, {"use_dora": True}],
    ids=["lora", "head", "head-and-embeddings", "dora"],
)
def test_training_leaves_the_reference_as_it_was_to_the_bit(tiny, lora, config):
    base = tiny(tie_word_embeddings=False)
    expected = sequence_logprobs(copy.deepcopy(base), BATCH)
    policy = Policy(lora(base, fresh=True, lora_dropout=0.5, **config))
    assert policy.check_start(BATCH) <= (1e-5 if "use_dora" in config else 0)
    before = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    train(policy)
    moved = {name for name, p in policy.named_parameters() if name in before and not torch.equal(p, before[name])}
    assert moved == set(before)
    assert all(any(part in name for name in moved) for part in config.get("modules_to_save", ()))
    assert (policy(BATCH) - expected).abs().max() > 0.1
    assert torch.equal(policy.reference(BATCH), expected)


def test_full_fine_tuning_holds_a_frozen_copy(tiny):
    model = tiny()
    expected = sequence_logprobs(copy.deepcopy(model), BATCH)
    policy = Policy(model)
    assert policy.check_start(BATCH) == 0.0
    assert sum(p.numel() for p in policy.parameters()) == sum(p.numel() for p in model.parameters())
    assert not any(p.requires_grad for p in policy.copy[0].parameters())
    assert set(policy.state_dict()) == {f"model.{name}" for name in model.state_dict()}
    train(policy)
    assert (policy(BATCH) - expected).abs().max() > 0.1
    assert torch.equal(policy.reference(BATCH), expected)


def test_a_table_has_a_reference_too():
    policy = Policy(TableLM(torch.randn(4, 3)))
    batch = collate([Example((x,), ((0,), (1,), (2,))) for x in range(4)])
    assert policy.check_start(batch) == 0.0 and policy.layout == "packed"
    policy.model.table.weight.data += torch.randn(4, 3)
    assert not torch.equal(policy(batch), policy.reference(batch))


def test_no_reference_no_second_model(tiny):
    def held(make):
        """Weights that come into the world with a policy, and stay."""
        model = tiny()
        before = parameters()
        policy = make(model)
        return parameters() - before, policy

    def parameters():
        gc.collect()
        return sum(t.numel() for t in gc.get_objects() if isinstance(t, nn.Parameter))

    size = sum(p.numel() for p in tiny().parameters())
    alone, policy = held(lambda model: Policy(model, has_reference=False))
    assert alone == 0
    with pytest.raises(RuntimeError, match="has_reference=False"):
        policy.reference(BATCH)
    assert held(Policy)[0] == size
    assert held(lambda model: Policy(with_lora(model, r=4)))[0] < size  # adapters need no copy


def test_the_reference_gives_no_gradient_and_leaves_the_mode_as_it_was(tiny):
    for policy in (Policy(with_lora(tiny(), r=4)), Policy(tiny())):
        for training in (True, False):
            policy.train(training)
            assert not policy.reference(BATCH).requires_grad
            assert policy.model.training == training
            with pytest.raises(ZeroDivisionError), policy.as_reference() as model:
                1 / (model.training + torch.is_grad_enabled())
            assert policy.model.training == training and torch.is_grad_enabled()
        assert policy(BATCH).requires_grad
    assert policy.device == torch.device("cpu")


def test_only_adapters_are_trained(tiny):
    policy = Policy(with_lora(tiny(), r=4))
    policy(BATCH).sum().backward()
    assert all(("lora_" in name) == (p.grad is not None) for name, p in policy.named_parameters())


def test_a_model_that_would_be_scored_wrongly_makes_no_policy(tiny):
    with pytest.raises(InputError, match="soft cap"):
        Policy(tiny("Gemma2", head_dim=8), has_reference=False)


# ---------------------------------------------------------------------------------------------- a reference that moves


@pytest.mark.parametrize("rank", [4, 0])
def test_refreshed_reference_is_the_policy_and_then_stays(tiny, rank):
    policy = Policy(with_lora(tiny(), r=rank) if rank else tiny(), moves=True)
    start = policy.reference(BATCH)
    assert torch.equal(policy(BATCH), start)
    train(policy)
    assert torch.equal(policy.reference(BATCH), start) and not torch.allclose(policy(BATCH), start, atol=0.1)
    policy.refresh()
    moved = policy.reference(BATCH)
    torch.testing.assert_close(moved, policy.eval()(BATCH).detach(), rtol=0, atol=1e-5)
    train(policy)
    assert torch.equal(policy.reference(BATCH), moved) and not torch.allclose(policy(BATCH), moved, atol=0.1)


@pytest.mark.parametrize("rank", [4, 0])
def test_mixed_reference_has_the_mean_of_the_weights(tiny, rank):
    policy = Policy(with_lora(tiny(), r=rank) if rank else tiny(), moves=True)
    before = {name: value.clone() for name, value in policy.moving.items()}
    train(policy)
    policy.refresh(0.25)
    trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    assert policy.moving.keys() == trained.keys()
    for name, value in policy.moving.items():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * trained[name].detach(), rtol=1e-5, atol=1e-7)


def test_second_adapter_keeps_no_copy_of_the_base_and_leaves_the_gradient_alone(tiny):
    policy = Policy(with_lora(tiny(), r=4), moves=True)
    train(policy)
    policy.refresh()
    train(policy)
    adapter = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert not policy.copy and sum(value.numel() for value in policy.moving.values()) == adapter
    pointers = {name: p.data_ptr() for name, p in policy.model.named_parameters()}

    def gradient(between):
        policy.zero_grad()
        logps = policy(BATCH)
        between()  # the reference is computed between the forward and the backward pass of the policy
        logps.sum().backward()
        return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.requires_grad])

    assert torch.equal(gradient(lambda: None), gradient(lambda: policy.reference(BATCH)))
    assert pointers == {name: p.data_ptr() for name, p in policy.model.named_parameters()}


def test_second_adapter_moves_to_the_dtype_of_the_policy(tiny):
    policy = Policy(with_lora(tiny(), r=4), moves=True).to(torch.float64)
    assert {value.dtype for value in policy.moving.values()} == {torch.float64}
    policy.reference(BATCH)


def test_fixed_reference_has_nothing_that_moves(tiny):
    policy = Policy(with_lora(tiny(), r=4))
    assert policy.moving == {}
    train(policy)
    before = policy.reference(BATCH)
    policy.refresh()
    assert torch.equal(policy.reference(BATCH), before)


# ---------------------------------------------------------------------------------------------------- two references


@pytest.mark.parametrize("adapted", [True, False])
def test_two_different_references_give_two_different_log_probabilities(tiny, adapted):
    helpful, harmful = tiny(), tiny()
    helpful.lm_head.weight.data *= 1.5
    harmful.lm_head.weight.data *= 0.5
    expected = [sequence_logprobs(copy.deepcopy(one), BATCH) for one in (helpful, harmful)]
    model = with_lora(tiny(), r=4) if adapted else tiny()
    policy = Policy(model, second=helpful, has_second_reference=True, second_reference=harmful)
    assert policy.references_differ
    for _ in range(2):
        assert torch.equal(policy.reference(BATCH), expected[0])
        assert torch.equal(policy.second_reference(BATCH), expected[1])
        train(policy)
    assert not torch.allclose(*expected, atol=0.1)
    assert not any(p.requires_grad for p in harmful.parameters()) and harmful not in [*policy.modules()]


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("first", ["start", "moves", "another"])
def test_second_reference_is_the_start_policy_unless_it_is_named(tiny, adapted, first):
    model, other = with_lora(tiny(), r=4) if adapted else tiny(), None
    if first == "another":
        other = tiny()
        other.lm_head.weight.data *= 1.5
    start = sequence_logprobs(copy.deepcopy(model), BATCH).detach()
    policy = Policy(model, second=other, moves=first == "moves", has_second_reference=True)
    train(policy)
    policy.refresh()
    assert torch.equal(policy.second_reference(BATCH), start)
    assert policy.references_differ == (first != "start") == (not torch.equal(policy.reference(BATCH), start))
    # A copy only where the start policy is held nowhere else.
    assert len(policy.second_copy) == (not adapted and first != "start")


def test_second_reference_has_a_say_in_layout_and_checks(tiny):
    mixed = tiny("Gemma3Text", head_dim=8, layer_types=["sliding_attention", "full_attention"])
    assert Policy(tiny(), has_second_reference=True, second_reference=mixed).layout == "padded"
    with pytest.raises(InputError, match="soft cap"):
        Policy(tiny(), has_second_reference=True, second_reference=tiny("Gemma2", head_dim=8))
    with pytest.raises(RuntimeError, match="has_second_reference=False"):
        Policy(tiny(), has_reference=False).second_reference(BATCH)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights="pissa", task_type="CAUSAL_LM")
    rewritten = get_peft_model(tiny(tie_word_embeddings=False), config)
    with pytest.raises(InputError, match="got 'pissa'"):  # its base is not the start policy, which is asked for
        Policy(rewritten, second=tiny(), has_second_reference=True)
