"""What the ledger measures gradients and runs by, against values by hand."""

import math

import pytest
import torch

from una_ref.claims import online
from una_ref.claims.optima import E2
from una_ref.claims.worlds import shifted


@pytest.mark.parametrize(("how", "offset", "ratio"), [("eq10", 0, 1), ("eq10", 1, 9), ("v", 0, 0), ("v", 1, 0)])
def test_noise_over_signal_by_hand(how, offset, ratio):
    # π = (½, ½), s = (1, 0), β = 1: ∇log π = ±(½, −½), g = 2(V − s)·∇log π. Without V: (−1, 1) and 0, mean (−½, ½) of
    # square ½, E‖g‖² = 1, so (1 − ½)/½. With s = (2, 1): (−2, 2), (1, −1), (5 − ½)/½. With V = ½ both are the mean.
    assert online.noise(shifted(E2, float(offset)), how) == pytest.approx(ratio, abs=1e-12)


def test_the_authors_loss_moves_by_what_it_says():
    # ∂/∂log π of (σ(u) − σ(s))² at u = 0 is −½·(σ(s) − ½): −½·.2311 for s = 1, 0 for s = 0. Times π = ½ and
    # ∇log π = (½, −½) the logits move by ±⅛·.2311 at rate 1, and their gap by twice that.
    first = online.released_descent(E2, 1, 1.0)[-1]
    assert float(first[0, 0] - first[0, 1]) == pytest.approx((1 / (1 + math.exp(-1)) - 0.5) / 4, abs=1e-12)


def test_a_run_is_a_function_of_its_arguments_and_learns():
    asked = {"lr": 0.1, "seed": 3, "steps": 12}
    once = online.run("centred", **asked)
    online.run.cache_clear()
    assert online.run("centred", **asked) == once
    world = online.world_of(3)
    assert once < 0.9 * float(world.regret(world.ref_logps).mean())
    assert once != online.run("centred", **asked | {"seed": 4})


def test_prompts_with_numbers_of_their_own_have_the_same_optimum():
    torch.testing.assert_close(online.world_of(0, 4.0, 3.0).optimum, online.world_of(0).optimum)
    assert online.world_of(0, spread=3.0).rewards.mean(1).std() > 1


def test_the_models_of_a_run():
    assert online.models("ppo")["value"] == 1
    assert online.models("ppo", critic="head")["value"] == online.models("eq10")["value"] == 0
