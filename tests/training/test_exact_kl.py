"""The exact KL of a run on ToySteer, and its estimates."""

import pytest
import torch

from una_ref.training.config import Config
from una_ref.training.exact_kl import compared, exact_kl
from una_ref.training.run import train
from una_ref.training.settings import resolve

HALF, SKEW = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.9, 0.1]]).double()


def test_the_exact_kl_and_the_mean_of_k2_are_those_of_the_formula():
    found = compared(SKEW.log(), HALF.log(), 40_000, seed=0)
    u = (SKEW / HALF).log()
    exact = float((SKEW * u).sum())
    assert found.exact == pytest.approx(exact)
    expected = {"k1": exact, "k2": float((SKEW * u**2 / 2).sum()), "k3": exact}
    for name, value in expected.items():
        estimate = found.estimates[name]
        assert abs(estimate.mean - value) < 4 * estimate.error
    assert abs(found.estimates["k2"].mean - exact) > 10 * found.estimates["k2"].error


def test_a_response_of_probability_0_adds_nothing():
    found = compared(torch.tensor([[0.0, -torch.inf]]), HALF.log().float(), 4, seed=0)
    assert found.exact == pytest.approx(0.6931, abs=1e-4)


def test_a_run_that_has_moved_has_a_kl_and_its_estimates_agree(tmp_path):
    settings = ["steps=8", "lr=0.01", "batch=16", "rows=64"]
    config = resolve("una-centred", settings, data="toysteer", output=str(tmp_path / "run"))
    train(config, progress=False)
    found = exact_kl(tmp_path / "run", config)
    assert found.exact > 1e-4
    for name in ("k1", "k3"):
        assert abs(found.estimates[name].mean - found.exact) < 5 * found.estimates[name].error


def test_an_unfinished_run_and_other_data_have_none(tmp_path):
    assert exact_kl(tmp_path, Config(method="dpo")) is None
    assert exact_kl(tmp_path, Config(method="dpo", data="pairs.jsonl")) is None
