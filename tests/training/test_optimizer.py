"""The optimizer: which parameters have which learning rate, at every step."""

import math
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from una_ref.cli import main
from una_ref.training.checkpoints import load, save
from una_ref.training.config import Config
from una_ref.training.optimizer import optimizer_of, rate


def test_learning_rate_warms_up_then_falls_or_stays_constant():
    cosine = Config(method="dpo", steps=10, warmup=0.2)
    by_hand = [1 / 3, 2 / 3, *(0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(8))]
    assert [rate(cosine, step) for step in range(10)] == pytest.approx(by_hand)
    constant = Config(method="dpo", steps=10, warmup=0.2, schedule="constant")
    assert [rate(constant, step) for step in range(10)] == pytest.approx([1 / 3, 2 / 3, *[1] * 8])
    linear = Config(method="dpo", steps=10, warmup_steps=2, schedule="linear")
    by_hand = [1 / 3, 2 / 3, *(1 - k / 8 for k in range(8))]
    assert [rate(linear, step) for step in range(10)] == pytest.approx(by_hand)
    assert rate(Config(method="dpo", steps=3, warmup=0), 0) == 1
    assert rate(Config(method="dpo", steps=3, warmup_steps=0), 0) == 1


def test_policy_values_and_critic_have_rates_of_their_own():
    trained = {name: nn.Parameter(torch.zeros(2)) for name in ("weight", "critic.head.weight", "V(x)")}
    for given, values, critic in ((None, 0.05, 0.3), (0.7, 0.7, 0.7)):
        config = Config(method="dpo", lr=0.3, value_lr=given, weight_decay=0.1)
        groups = optimizer_of(config, trained).param_groups
        found = [
            (group["params"][0] is trained[name], group["peak"], group["weight_decay"])
            for group, name in zip(groups, ("weight", "V(x)", "critic.head.weight"), strict=True)
        ]
        assert found == [(True, 0.3, 0.1), (True, values, 0.0), (True, critic, 0.1)]


def test_adamw_in_8_bits_is_refused_before_the_data_are_read_where_it_is_not_installed(capsys, tmp_path):
    if find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    words = ["train", "dpo", "--data", "missing.jsonl", "--output", str(tmp_path / "out"), "optimizer=adamw8bit"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "optimizer=adamw8bit: expected the package bitsandbytes, got none. Fix: pip install 'una_ref[qlora]'" in said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.skipif(not (find_spec("bitsandbytes") and torch.cuda.is_available()), reason="bitsandbytes on CUDA")
def test_adamw_in_8_bits_resumes_from_a_checkpoint(tmp_path):
    def made():
        torch.manual_seed(0)
        trained = {"weight": nn.Parameter(torch.randn(128, 64, device="cuda"))}
        optimizer = optimizer_of(Config(method="dpo", optimizer="adamw8bit", lr=0.1), trained)
        optimizer.param_groups[0]["lr"] = 0.1
        return trained, optimizer

    def step(trained, optimizer):
        trained["weight"].grad = trained["weight"].detach() ** 2
        optimizer.step()

    path = tmp_path / "checkpoint.safetensors"
    one, two = made(), made()
    step(*one)
    save(path, 1, *one)
    assert load(path, *two)[0] == 1
    for _ in range(2):
        step(*one)
        step(*two)
    assert torch.equal(one[0]["weight"], two[0]["weight"])
