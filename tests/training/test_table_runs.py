"""Online methods on a table world, through the common training loop."""

import pytest
import torch

from una_ref.theory.worlds import TableWorld
from una_ref.training.config import Config
from una_ref.training.loop import fit
from una_ref.training.table_runs import Multinomial, table_job

BETA = 0.5


def job(method, steps=200, offset=0.0, **more):
    world = TableWorld.random(0, prompts=4, responses=5, beta=BETA, offset=offset)
    settings = {"lr": 0.05, "batch": 4, "samples": 16, "lora_r": 0, "schedule": "cosine", "loss_kwargs": {"beta": BETA}}
    return world, table_job(world, Config(method=method, steps=steps, **settings | more))


def regret(world, table_run):
    return float(world.regret(table_run.trainer.policy.model.logps.detach()).mean())


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
        ("ppo", {"critic": "head", "steps": 80, "loss_kwargs": {"beta": BETA, "value_weight": 0.01}}),
    ],
    ids=str,
)
def test_online_methods_reach_the_optimum_of_a_table(method, more):
    world, table_run = job(method, **more)
    assert regret(world, table_run) > 0.3
    fit(table_run)
    assert regret(world, table_run) < 0.02


def test_gradient_at_the_optimum_is_zero_for_una_centred_and_noisy_for_una_online():
    # β·log π*/π_ref = r − β·log Z. With leave-one-out every residual is 0; without it each is −β·log Z(x).
    for method, is_zero in (("una-centred", True), ("una-online", False)):
        world, table_run = job(method, **({"online": True} if is_zero else {}), lr=0.0)
        model = table_run.trainer.policy.model
        with torch.no_grad():
            model.table.weight.copy_(world.optimum)
        rows, _ = table_run.answered(table_run.examples, 0, record=False)
        table_run.trainer.accumulate(rows)
        assert (model.table.weight.grad.abs().max() < 1e-12) == is_zero


def test_prompt_reward_offset_changes_una_online_but_not_una_centred():
    policies = {}
    for method in ("una-online", "una-centred"):
        for offset in (0.0, 4.0):
            _, table_run = job(method, steps=20, offset=offset, **({"online": True} if method == "una-centred" else {}))
            fit(table_run)
            policies[method, offset] = table_run.trainer.policy.model.logps.detach()
    torch.testing.assert_close(policies["una-centred", 0.0], policies["una-centred", 4.0], rtol=0, atol=1e-10)
    assert (policies["una-online", 0.0] - policies["una-online", 4.0]).abs().max() > 0.05


def test_released_una_online_moves_away_from_the_optimum():
    # The loss does not keep π near π_ref. Started at π*, it moves on towards the best response of every prompt.
    world, table_run = job(
        "una-online", form="released", steps=400, lr=0.05, schedule="constant", loss_kwargs={"beta": 1.0}
    )
    with torch.no_grad():
        table_run.trainer.policy.model.table.weight.copy_(world.optimum)
    fit(table_run)
    policy = table_run.trainer.policy.model.logps.detach()
    assert (policy.exp() * policy).sum(1).mean() > (world.optimum.exp() * world.optimum).sum(1).mean() + 0.3
    assert regret(world, table_run) > 0.1


def test_multinomial_samples_follow_the_table():
    world, table_run = job("rloo")
    ((samples, *_)) = Multinomial()(table_run.trainer.policy.model, [(2,)], k=40_000, max_new=1, seed=0)
    counts = torch.bincount(torch.tensor([sample.tokens[0] for sample in samples]), minlength=5) / 40_000
    torch.testing.assert_close(counts.double(), world.ref_logps[2].exp(), rtol=0, atol=0.01)
    assert all(s.logp == pytest.approx(float(world.ref_logps[2, s.tokens[0]])) for s in samples[:50])
