"""Fused layers give the numbers and gradients of the modules that they replace, and step aside where they cannot."""

import copy

import pytest
import torch
from torch import nn

from una_ref.policies.fused import FusedLora, FusedNorm, _LoraLinear, _RmsNorm, fuse
from una_ref.policies.merging import merged

IDS = torch.tensor([[1, 5, 6, 7, 3, 9, 11, 30], [1, 8, 4, 4, 2, 7, 6, 5]])
GAP = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.06}
"""Norms are computed in float32, in models of float64 as well."""


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def results(model):
    """Hidden states of a model, and the gradients of their weighted sum."""
    model.zero_grad()
    hidden = model(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states[-1]
    (hidden * torch.linspace(-1, 2, hidden.numel()).view(hidden.shape).to(hidden)).sum().backward()
    return hidden.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gap(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def same(model, other, limit):
    (hidden, gradients), (expected, wanted) = results(model), results(other)
    assert gradients.keys() == wanted.keys() and wanted
    assert gap(hidden, expected) < limit
    for name, gradient in gradients.items():
        assert gradient.dtype == wanted[name].dtype
        assert gap(gradient, wanted[name]) < limit, name


def kept(module, x):
    """Bytes that autograd keeps of a forward pass, without parameters, and the output."""
    own, sizes = {p.untyped_storage().data_ptr() for p in module.parameters()}, {}

    def pack(value):
        if value.untyped_storage().data_ptr() not in own:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        out = module(x)
    return sum(storage.nbytes() for storage in sizes.values()), out


def kinds(model):
    return {type(module).__mro__[1] for module in model.modules()} & {FusedLora, FusedNorm}


def test_an_adapter_in_float32_on_bfloat16_weights_is_rounded_once():
    x, weight = (numbers(*shape, seed=seed).detach().bfloat16() for shape, seed in (((5, 3), 0), ((4, 3), 1)))
    a, b = numbers(2, 3, seed=3).detach().float(), numbers(4, 2, seed=4).detach().float()
    expected = (x @ weight.T).float() + 0.7 * (x.float() @ a.T @ b.T)
    torch.testing.assert_close(_LoraLinear.apply(x, weight, None, a, b, 0.7), expected.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("bias", [None, 4])
def test_gradient_of_lora_is_that_of_finite_differences(bias):
    given = [numbers(5, 3), numbers(4, 3, seed=1).detach(), bias and numbers(4, seed=2).detach()]
    adapter = [numbers(2, 3, seed=3), numbers(4, 2, seed=4)]
    assert torch.autograd.gradcheck(lambda x, a, b: _LoraLinear.apply(x, *given[1:], a, b, 0.7), [given[0], *adapter])
    x, (weight, shift), (a, b) = given[0], given[1:], adapter
    expected = x @ weight.T + 0.7 * x @ a.T @ b.T + (0 if shift is None else shift)
    torch.testing.assert_close(_LoraLinear.apply(*given, *adapter, 0.7), expected)


def test_norm_by_hand():
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    weight = torch.tensor([2.0, 1.0], requires_grad=True)
    out = _RmsNorm.apply(x, weight, 0.0)  # the root mean square of (3, 4) is 5/√2
    torch.testing.assert_close(out, torch.tensor([[6.0, 4.0]]) * 2**0.5 / 5)
    out[0, 0].backward()
    # d(w·x₁/s)/dx = w/s·(1 − x₁²/2s², −x₁x₂/2s²) with s² = 12.5
    torch.testing.assert_close(x.grad, 2 * 2**0.5 / 5 * torch.tensor([[1 - 9 / 25, -12 / 25]]))
    torch.testing.assert_close(weight.grad, torch.tensor([3 * 2**0.5 / 5, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["Mistral", "Llama", "Qwen2"])
def test_fused_model_is_the_plain_one(tiny, lora, family, dtype):
    model = lora(tiny(family).to(dtype))  # on weights of bfloat16, peft keeps its adapters in float32
    fused = copy.deepcopy(model)
    # seven layers with LoRA and two norms in each of two blocks, and a last norm
    assert fuse(fused) == 2 * (7 + 2) + 1 == fuse(fused)
    assert kinds(fused) == {FusedLora, FusedNorm}
    same(fused, model, GAP[dtype])
    assert list(fused.state_dict()) == list(model.state_dict())


def test_an_input_in_bfloat16_is_kept_once(tiny, lora):
    layer = lora(tiny().bfloat16()).get_base_model().model.layers[0].mlp.gate_proj
    assert layer.lora_A["default"].weight.dtype == torch.float32
    x = torch.ones(2, 64, 32, dtype=torch.bfloat16, requires_grad=True)

    before, _ = kept(layer, x)
    fuse(layer)
    after, out = kept(layer, x)
    assert out.dtype == x.dtype
    assert after == 128 * (32 * 2 + 4 * 4) < 0.6 * before  # x, and x·Aᵀ in float32


def test_all_weights_learn_as_in_the_plain_model(tiny):
    model = tiny().double()
    fused = copy.deepcopy(model)
    assert fuse(fused) == 5
    same(fused, model, GAP[torch.float64])


def test_gradient_checkpointing_gives_the_same(tiny, lora):
    model = lora(tiny())
    fused = copy.deepcopy(model)
    fuse(fused)
    fused.gradient_checkpointing_enable({"use_reentrant": False})
    same(fused.train(), model, GAP[torch.float32])


def test_a_fresh_adapter_and_one_that_is_off_are_the_base_to_the_bit(tiny, lora):
    fresh, trained = lora(tiny(), fresh=True), lora(tiny())
    fuse(fresh)
    fuse(trained)
    expected = fresh.get_base_model()
    with torch.no_grad(), fresh.disable_adapter(), trained.disable_adapter():
        base = expected(input_ids=IDS).logits
        assert torch.equal(trained(input_ids=IDS).logits, base)
    with torch.no_grad():
        assert torch.equal(fresh(input_ids=IDS).logits, base)
        assert gap(trained(input_ids=IDS).logits, base) > 0.01


@pytest.mark.parametrize(
    "config", [{"lora_dropout": 0.5}, {"lora_bias": True}, {"use_dora": True}], ids=["dropout", "bias", "variant"]
)
def test_other_adapters_are_computed_by_peft(tiny, lora, config):
    model = lora(tiny("Qwen2"), **config)
    fused = copy.deepcopy(model)
    fuse(fused)
    for one in (model, fused):
        one.train()
    for layer in (module for module in fused.modules() if isinstance(module, FusedNorm)):
        layer.__class__ = type(layer).__mro__[2]  # so that only LoRA could differ
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = results(model)
        torch.manual_seed(0)
        found = results(fused)
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(found[1][name], gradient) for name, gradient in expected[1].items())


def test_adapters_by_name_or_merged_are_computed_by_peft(tiny, lora):
    model = lora(tiny())
    fuse(model)
    named = {"input_ids": IDS, "adapter_names": ["__base__", "default"]}
    with torch.no_grad():
        adapted = model(input_ids=IDS).logits
        mixed = model(**named).logits
        assert gap(mixed[1], adapted[1]) < 1e-5 < 0.01 < gap(mixed[0], adapted[0])
        model.merge_adapter()
        assert gap(model(input_ids=IDS).logits, adapted) < 1e-5


def test_weights_that_learn_and_narrower_adapters_are_computed_by_peft(tiny, lora):
    model = lora(tiny())
    base = model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.requires_grad_()
    fuse(model)
    results(model)
    assert base.grad is not None and base.grad.abs().max() > 0
    narrow = lora(tiny())
    for name, parameter in narrow.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16()
    plain = copy.deepcopy(narrow)
    fuse(narrow)
    for layer in (module for module in narrow.modules() if isinstance(module, FusedNorm)):
        layer.__class__ = type(layer).__mro__[2]
    assert torch.equal(results(narrow)[0], results(plain)[0])


def test_layers_that_are_not_linear_stay(tiny, lora):
    model = lora(tiny("GPT2"))  # its layers are Conv1D
    fuse(model)
    assert kinds(model) == set()


def test_no_input_at_all(tiny, lora):
    model = lora(tiny())
    fuse(model)
    assert model.get_base_model().model.layers[0].mlp.up_proj(torch.zeros(0, 32)).shape == (0, 40)


def test_two_adapters_at_once_are_summed(tiny, lora):
    from peft import LoraConfig

    model = lora(tiny())
    model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])
    fused = copy.deepcopy(model)
    fuse(fused)
    same(fused, model, GAP[torch.float32])


def test_autocast_is_left_to_peft(tiny, lora):
    model = lora(tiny())
    fused = copy.deepcopy(model)
    fuse(fused)
    with torch.autocast("cpu", torch.bfloat16):
        same(fused, model, GAP[torch.bfloat16])


def test_a_norm_of_another_formula_stays(tiny):
    gemma = tiny("Gemma", head_dim=8)  # scales by 1 + weight
    assert fuse(gemma) == 0

    class OneMoreRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.full((4,), 0.5)), 1e-6

        def forward(self, x):
            return (1 + self.weight) * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    assert fuse(OneMoreRMSNorm()) == 0

    class NearRMSNorm(OneMoreRMSNorm):
        def forward(self, x):
            return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon + 1e-3).rsqrt()

    class BiasRMSNorm(OneMoreRMSNorm):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt() + self.bias

    class WideRMSNorm(OneMoreRMSNorm):
        def forward(self, x):
            return (self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()).double()

    assert fuse(NearRMSNorm()) == fuse(BiasRMSNorm()) == fuse(WideRMSNorm()) == 0


def test_the_gradient_may_come_in_any_layout(tiny):
    norm = tiny().model.norm
    plain = copy.deepcopy(norm)
    fuse(norm)
    for module in (plain, norm):  # as in a norm of queries, whose heads are moved before the tokens
        x = numbers(2, 3, 4, 32).detach().float()
        slope = numbers(2, 4, 3, 32, seed=1).detach().float()
        module(x).transpose(1, 2).backward(slope)
    torch.testing.assert_close(norm.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_norms_of_float64_are_fused_at_any_width(tiny, width):
    assert fuse(tiny(hidden_size=width).double()) == 5


def test_on_the_meta_device_norms_are_fused_by_name(tiny):
    assert fuse(tiny().to("meta")) == 5


def test_the_weight_of_a_norm_learns_where_its_input_does_not(tiny):
    norm = tiny().model.norm
    x = numbers(3, 32).detach().float()
    (norm(x) * x).sum().backward()
    expected = norm.weight.grad.clone()
    norm.weight.grad = None
    fuse(norm)
    (norm(hidden_states=x) * x).sum().backward()
    torch.testing.assert_close(norm.weight.grad, expected)


def test_gradients_in_bfloat16_are_as_exact_as_those_of_the_modules(tiny, lora):
    exact = lora(tiny().bfloat16().double())
    plain = lora(tiny().bfloat16())
    fused = copy.deepcopy(plain)
    fuse(fused)
    (_, wanted), (_, theirs), (_, ours) = map(results, (exact, plain, fused))

    def error(found):
        return sum(gap(found[name], wanted[name]) for name in wanted) / len(wanted)

    assert error(ours) < 1.1 * error(theirs)


def test_a_fused_adapter_can_be_merged_and_saved(tiny, lora, tmp_path):
    from peft import PeftModel

    model = lora(tiny())
    plain = copy.deepcopy(model)
    fuse(model)
    with torch.no_grad():
        expected = plain(input_ids=IDS).logits
        with merged(model, [IDS[0].tolist()]) as verdict:
            assert verdict.merged
            assert gap(model(input_ids=IDS).logits, expected) < 1e-5
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(tiny(), tmp_path)
        assert torch.equal(loaded(input_ids=IDS).logits, expected)
        assert gap(model.merge_and_unload()(input_ids=IDS).logits, expected) < 1e-5


def test_a_fused_norm_keeps_no_copy_in_float32(tiny):
    norm = tiny().bfloat16().model.norm
    x = torch.ones(1, 64, 32, dtype=torch.bfloat16).requires_grad_()
    plain, _ = kept(norm, x)
    fuse(norm)
    fused, out = kept(norm, x)
    assert (out.dtype, fused) == (x.dtype, 64 * (32 * 2 + 4))  # the input, and a scale for each position
    assert plain > 2 * fused
