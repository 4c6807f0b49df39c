"""Online methods on a table world, through the loop that trains everything else."""

import pytest
import torch

from una_ref.theory.worlds import TableWorld
from una_ref.training.config import Config
from una_ref.training.loop import fit
from una_ref.training.table_runs import Multinomial, table_job

BETA = 0.5


def job(method, steps=200, offset=0.0, **more):
    world = TableWorld.random(0, prompts=4, responses=5, beta=BETA, offset=offset)
    own = {"lr": 0.05, "batch": 4, "draws": 16, "lora_r": 0, "schedule": "cosine", "hyper": {"beta": BETA}}
    return world, table_job(world, Config(method=method, steps=steps, **own | more))


def regret(world, one):
    return float(world.regret(one.trainer.policy.model.logps.detach()).mean())


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("rloo", {}),
        ("reinforce", {}),
        ("una-online", {}),
        ("una-centred", {"online": True}),
        ("una-centred", {"online": True, "replay": 20, "passes": 2, "steps": 100}),
        ("una-centred", {"online": True, "baseline": "learned"}),
        ("ppo", {"critic": "separate", "steps": 80}),
        ("ppo", {"critic": "head", "steps": 80, "hyper": {"beta": BETA, "value_weight": 0.01}}),
    ],
    ids=str,
)
def test_they_reach_the_optimum_of_a_table(method, more):
    world, one = job(method, **more)
    assert regret(world, one) > 0.3
    fit(one)
    assert regret(world, one) < 0.02


def test_at_the_optimum_centred_una_has_no_gradient_and_eq_10_has_noise():
    # β·log π*/π_ref = r − β·log Z: with leave-one-out every residual is 0, without it each is −β·log Z(x).
    for method, still in (("una-centred", True), ("una-online", False)):
        world, one = job(method, **({"online": True} if still else {}), lr=0.0)
        model = one.trainer.policy.model
        with torch.no_grad():
            model.table.weight.copy_(world.optimum)
        rows, _ = one.answered(one.examples, 0, record=False)
        one.trainer.accumulate(rows)
        assert (model.table.weight.grad.abs().max() < 1e-12) == still


def test_an_offset_of_the_prompts_changes_what_eq_10_does_and_not_what_the_centred_form_does():
    ends = {}
    for method in ("una-online", "una-centred"):
        for offset in (0.0, 4.0):
            _, one = job(method, steps=20, offset=offset, **({"online": True} if method == "una-centred" else {}))
            fit(one)
            ends[method, offset] = one.trainer.policy.model.logps.detach()
    torch.testing.assert_close(ends["una-centred", 0.0], ends["una-centred", 4.0], rtol=0, atol=1e-10)
    assert (ends["una-online", 0.0] - ends["una-online", 4.0]).abs().max() > 0.05


def test_the_authors_loss_leaves_the_optimum_behind():
    # Nothing in it holds π near π_ref: started at π*, it goes on towards the best response of every prompt.
    world, one = job("una-online", form="released", steps=400, lr=0.05, schedule="constant", hyper={"beta": 1.0})
    with torch.no_grad():
        one.trainer.policy.model.table.weight.copy_(world.optimum)
    fit(one)
    policy = one.trainer.policy.model.logps.detach()
    assert (policy.exp() * policy).sum(1).mean() > (world.optimum.exp() * world.optimum).sum(1).mean() + 0.3
    assert regret(world, one) > 0.1


def test_draws_are_from_the_table():
    world, one = job("rloo")
    ((draws, *_)) = Multinomial()(one.trainer.policy.model, [(2,)], k=40_000, max_new=1, seed=0)
    counts = torch.bincount(torch.tensor([draw.tokens[0] for draw in draws]), minlength=5) / 40_000
    torch.testing.assert_close(counts.double(), world.ref_logps[2].exp(), rtol=0, atol=0.01)
    assert all(draw.logp == pytest.approx(float(world.ref_logps[2, draw.tokens[0]])) for draw in draws[:50])
