"""Adapters of one base are combined as differences of weights: by hand on small matrices, and on tiny models."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from una_ref.errors import InputError
from una_ref.policies import combining
from una_ref.policies.combining import joined, l1_norm, low_rank, read_adapter, slerp_weights, sparse
from una_ref.policies.loading import byte_pair_tokenizer, load

IDS = torch.tensor([[1, 5, 6, 7, 3, 9, 11, 30]])


def factors(*matrices):
    """An adapter whose ΔW of layer i is the i-th matrix: A = I, B = ΔW."""
    return {f"layer{i}": (torch.eye(m.shape[1]), m) for i, m in enumerate(map(torch.tensor, matrices))}


def changes(adapter):
    return {layer: b @ a for layer, (a, b) in adapter.items()}


def adapters(seed=0, layers=3):
    """Two random adapters of ranks 2 and 3 on the same layers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    return [{f"layer{i}": (draw(r, 5), draw(4, r)) for i in range(layers)} for r in (2, 3)]


# ---- linear and slerp


def test_linear_with_equal_weights_is_the_mean_of_the_changes():
    first, second = adapters()
    combined = joined([first, second], [0.5, 0.5])
    for layer, delta in changes(combined).items():
        expected = (changes(first)[layer] + changes(second)[layer]) / 2
        torch.testing.assert_close(delta, expected, rtol=1e-6, atol=1e-6)
        assert combined[layer][0].shape[0] == 5  # 2 + 3: the sum of the ranks


def test_a_layer_of_one_adapter_counts_as_zero_in_the_other():
    first, second = adapters()
    del second["layer1"]
    combined = changes(joined([first, second], [0.5, 0.5]))
    torch.testing.assert_close(combined["layer1"], changes(first)["layer1"] / 2)


def test_slerp_ends_at_its_adapters():
    pair = adapters()
    for weights, end in (([1.0, 0.0], pair[0]), ([0.0, 1.0], pair[1])):
        for layer, delta in changes(joined(pair, weights, "slerp")).items():
            torch.testing.assert_close(delta, changes(end)[layer], rtol=1e-5, atol=1e-5)


def test_slerp_keeps_the_norm_of_equal_norms_where_the_mean_shrinks_it():
    first, second = adapters(layers=1)
    size = changes(first)["layer0"].norm() / changes(second)["layer0"].norm()
    second["layer0"] = (second["layer0"][0], size * second["layer0"][1])
    norm = changes(first)["layer0"].norm()
    for t in (0.25, 0.5, 0.9):
        between = changes(joined([first, second], [1 - t, t], "slerp"))["layer0"]
        torch.testing.assert_close(between.norm(), norm, rtol=1e-5, atol=0)
    assert changes(joined([first, second], [0.5, 0.5]))["layer0"].norm() < 0.9 * norm


def test_slerp_weights_are_those_of_the_angle():
    # A right angle: sin(π/6) = 1/2 and sin(π/3) = √3/2 at a third of the way.
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    assert slerp_weights(first, second, 1 / 3) == pytest.approx((math.sqrt(3) / 2, 0.5))


def test_slerp_of_parallel_opposite_or_zero_changes_is_linear():
    one = torch.tensor([1.0, 2.0])
    for other in (3 * one, -one, 0 * one):
        assert slerp_weights(one, other, 0.25) == (0.75, 0.25)


# ---- ties and dare


def test_ties_on_a_two_by_two_matrix_by_hand():
    # Half of the entries are kept: (4, ., -2, .) and (., 3, 6, .).
    # Totals: 4, 3, -2 + 6 = 4 and 0. So the third entry is positive and -2 is left out; its mean is over one entry.
    first, second = factors([[4.0, 1.0], [-2.0, 0.5]]), factors([[1.0, 3.0], [6.0, 0.5]])
    [(_, delta)] = sparse([first, second], [1.0, 1.0], "ties", density=0.5)
    assert delta.tolist() == [[4.0, 3.0], [6.0, 0.0]]


def test_ties_averages_entries_of_one_sign_and_ignores_the_others():
    first, second, third = factors([[2.0]]), factors([[4.0]]), factors([[-3.0]])
    [(_, delta)] = sparse([first, second, third], [1.0] * 3, "ties", density=1.0)
    assert delta.item() == 3.0  # (2 + 4)/2; the total 2 + 4 - 3 is positive


def test_dare_drops_a_share_rescales_the_rest_and_repeats_with_its_seed():
    ones = {"layer0": (torch.ones(1, 400), torch.ones(100, 1))}
    state = torch.get_rng_state()
    [(_, delta)] = sparse([ones], [1.0], "dare", density=0.25, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(delta.unique().tolist()) == {0.0, 4.0}  # 1/0.25
    assert delta.mean().item() == pytest.approx(1, abs=0.05)  # 40,000 entries: standard deviation 0.009
    [(_, again)] = sparse([ones], [1.0], "dare", density=0.25, seed=3)
    [(_, other)] = sparse([ones], [1.0], "dare", density=0.25, seed=4)
    assert torch.equal(delta, again) and not torch.equal(delta, other)


def test_dare_at_density_one_is_the_linear_combination():
    pair = adapters()
    linear = changes(joined(pair, [0.3, 0.7]))
    for layer, delta in sparse(pair, [0.3, 0.7], "dare", density=1.0):
        torch.testing.assert_close(delta, linear[layer], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("density", [0.0, -0.5, 1.5])
def test_density_is_a_share_above_zero(density):
    with pytest.raises(InputError, match="density: expected a share above 0 and at most 1"):
        list(sparse(adapters(), [1.0, 1.0], "ties", density=density))


def test_low_rank_is_exact_at_full_rank_and_says_what_it_loses_below():
    layers = list(sparse(adapters(), [1.0, 1.0], "ties", density=0.5))
    whole, kept = low_rank(iter(layers), 4)
    assert kept == pytest.approx(1)
    for layer, delta in layers:
        torch.testing.assert_close(changes(whole)[layer], delta, rtol=1e-5, atol=1e-5)
    reduced, kept = low_rank(iter(layers), 1)
    lost = sum(float((changes(reduced)[layer] - delta).square().sum()) for layer, delta in layers)
    total = sum(float(delta.square().sum()) for _, delta in layers)
    assert kept == pytest.approx(1 - lost / total) and 0.1 < kept < 0.95


# ---- models


@pytest.fixture
def folders(tmp_path, tiny, lora):
    """Folders of a base and of two adapters on it."""
    base, tokenizer = tmp_path / "base", byte_pair_tokenizer(["the cat runs now"], 300)
    tiny(vocab_size=len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    names = []
    for seed in (1, 2):
        name = str(tmp_path / f"adapter{seed}")
        adapted = lora(load(str(base))[0])
        generator = torch.Generator().manual_seed(seed)
        for key, weight in adapted.named_parameters():
            if "lora_" in key:
                weight.data = 0.2 * torch.randn(weight.shape, generator=generator)
        adapted.peft_config["default"].base_model_name_or_path = str(base)
        adapted.save_pretrained(name)
        names.append(name)
    return str(base), names


@torch.no_grad()
def logps(model):
    return model.eval()(input_ids=IDS).logits.double().log_softmax(-1)


def test_log_probs_of_a_combined_adapter_are_those_of_the_summed_weights(folders, tmp_path):
    base, names = folders
    pair = [read_adapter(name) for name in names]
    output = tmp_path / "combined"
    output.mkdir()
    combining.save_adapter(joined([a.factors for a in pair], [0.25, 0.75]), pair[0], output, base)
    summed, _ = load(base)
    plain = summed.state_dict()
    for name, weight in zip(names, (0.25, 0.75), strict=True):
        for key, value in load(name)[0].state_dict().items():
            plain[key] = plain[key] + weight * (value - load(base)[0].state_dict()[key])
    before = logps(load(base)[0])
    summed.load_state_dict(plain)
    combined = logps(load(str(output))[0])
    assert (combined - logps(summed)).abs().max() < 1e-5 < 1e-2 < (combined - before).abs().max()


def test_peft_s_linear_combination_of_factors_is_not_that_of_the_weights(folders):
    from peft import PeftModel

    base, names = folders
    model = PeftModel.from_pretrained(load(base)[0], names[0], adapter_name="first")
    model.load_adapter(names[1], adapter_name="second")
    model.add_weighted_adapter(["first", "second"], [0.5, 0.5], "both", combination_type="linear")
    model.set_adapter("both")
    pair = [read_adapter(name).factors for name in names]
    exact, _ = load(base)
    combining.add_deltas(exact, combining.deltas(joined(pair, [0.5, 0.5])))
    assert (logps(model) - logps(exact)).abs().max() > 1e-2


def test_added_changes_are_those_of_peft_s_own_merge(folders):
    base, names = folders
    model, _ = load(base)
    combining.add_deltas(model, combining.deltas(read_adapter(names[0]).factors))
    torch.testing.assert_close(logps(model), logps(load(names[0])[0]), rtol=0, atol=1e-5)


def test_adapters_of_different_bases_are_refused(folders, tmp_path):
    base, names = folders
    pair = [read_adapter(name) for name in names]
    combining.check_bases(pair)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((tmp_path / "base" / "model.safetensors").read_bytes())
    moved = combining.Adapter(names[1], {**pair[1].config, "base_model_name_or_path": str(copy)}, pair[1].factors)
    combining.check_bases([pair[0], moved])  # the same weights under another name
    save_file({"weight": torch.ones(1)}, copy / "model.safetensors")
    with pytest.raises(InputError, match=f"expected adapters of one base, got {base}"):
        combining.check_bases([pair[0], moved])


@pytest.mark.parametrize(
    ("key", "value"), [("use_dora", True), ("modules_to_save", ["lm_head"]), ("rank_pattern", {"q_proj": 2})]
)
def test_adapters_that_are_not_plain_lora_are_refused(key, value, folders):
    _, (name, _) = folders
    path = f"{name}/adapter_config.json"
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump(config | {key: value}, file)
    with pytest.raises(InputError, match=f"{key}: expected"):
        read_adapter(name)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder with adapter_config.json and adapter_model.safetensors"):
        read_adapter(str(tmp_path))


# ---- ℓ1


def test_l1_norm_is_the_sum_over_all_changed_weights_with_its_gradient(folders, lora, tiny):
    model = lora(tiny())
    base = {name: value.clone() for name, value in tiny().state_dict().items()}
    norm = l1_norm(model)
    merged = model.merge_and_unload().state_dict()
    expected = sum((merged[name] - base[name]).abs().sum() for name in base)
    torch.testing.assert_close(norm, expected, rtol=1e-4, atol=0)
    model = lora(tiny())
    l1_norm(model).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if "lora_" in n)
