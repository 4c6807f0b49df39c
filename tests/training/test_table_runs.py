"""Online methods on a table world, through the common training loop."""

import pytest
import torch

from una_ref.theory import nash_logps, preference_rewards
from una_ref.theory.games import mixture_logps, sppo_step
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


# ---- games


def game_job(method, steps, **more):
    """A run on three responses that beat one another in a circle, so that no reward describes them."""
    preferences = torch.tensor([[[0.5, 0.9, 0.3], [0.1, 0.5, 0.6], [0.7, 0.4, 0.5]]], dtype=torch.float64)
    world = TableWorld(torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log(), torch.zeros(1, 3), 0.2)
    settings = {"lr": 0.05, "batch": 1, "samples": 64, "lora_r": 0, "loss_kwargs": {"beta": 0.2}}
    config = Config(method=method, steps=steps, **settings | more)
    return world, preferences, table_job(world, config, preferences=preferences)


def distance(table_run, logps):
    return float((table_run.trainer.policy.model.logps.detach().exp() - logps.exp()).abs().sum() / 2)


def test_nash_md_approaches_the_nash_policy_of_a_game_without_a_reward():
    world, preferences, table_run = game_job("nash-md", 300, mixture=0.0)
    nash = nash_logps(preferences, world.ref_logps, 0.2)
    assert distance(table_run, nash) > 0.2
    fit(table_run)
    assert distance(table_run, nash) < 0.03


def test_a_mixture_with_the_reference_moves_the_end_of_nash_md_towards_its_best_reply():
    world, preferences, table_run = game_job("nash-md", 300, mixture=0.5)
    fit(table_run)
    mix = mixture_logps(table_run.trainer.policy.model.logps.detach(), world.ref_logps, 0.5)
    reply = (world.ref_logps + preference_rewards(preferences, mix) / 0.2).log_softmax(-1)
    assert distance(table_run, reply) < 0.03 < distance(table_run, nash_logps(preferences, world.ref_logps, 0.2))


def test_many_passes_of_sppo_over_one_rollout_are_a_step_of_multiplicative_weights():
    # At β = 1 the loss's log Z of ½ is within 0.05 of the true one.
    more = {"passes": 120, "samples": 1500, "warmup": 0.0, "loss_kwargs": {"beta": 1.0}}
    world, preferences, table_run = game_job("sppo", 1, **more)
    step = sppo_step(world.ref_logps, preferences, 1.0)
    before = distance(table_run, step)
    fit(table_run)
    assert before > 0.05 and distance(table_run, step) < 0.02


def test_first_rollout_of_dno_is_that_of_iterative_dpo_and_later_ones_are_not():
    policies = {}
    for method in ("dno", "iterative-dpo"):
        for steps in (1, 3):
            _, table_run = job(method, steps=steps, schedule="constant", loss_kwargs={"beta": 0.1}, lr=0.3, warmup=0.0)
            fit(table_run)
            policies[method, steps] = table_run.trainer.policy.model.logps.detach()
    torch.testing.assert_close(policies["dno", 1], policies["iterative-dpo", 1], rtol=0, atol=1e-9)
    assert (policies["dno", 3] - policies["iterative-dpo", 3]).abs().max() > 1e-3


def test_best_of_k_trains_on_the_distribution_of_the_best_of_k_samples():
    # P(best = y) = F(y)^K − F(y−)^K, with F the distribution function of π_t in the order of the rewards.
    world, table_run = job("best-of-k", samples=3, batch=4, loss_kwargs={})
    prompts = [table_run.examples[0]] * 4000
    rows, _ = table_run.answered(prompts, 0, record=False)
    share = torch.bincount(torch.tensor([row.responses[0][0] for row in rows]), minlength=5).double() / len(rows)
    order = world.rewards[0].argsort()
    below = world.ref_logps[0].exp()[order].cumsum(0)
    best = (below**3).diff(prepend=torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(share[order], best, rtol=0, atol=0.03)
