"""Runs of the prefix MLP: offline and online methods through the common loop, and exact fixed points."""

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.methods import METHODS
from una_ref.policies.answers import Answer
from una_ref.policies.prefix_lm import PrefixLM
from una_ref.theory import optimum
from una_ref.theory.populations import over_pairs
from una_ref.theory.preferences import bradley_terry, preference_rewards
from una_ref.theory.worlds import SequenceWorld
from una_ref.training.config import Config
from una_ref.training.loop import fit
from una_ref.training.prefix_runs import looked_up, prefix_job

BETA = 0.5


@pytest.fixture(scope="module")
def world():
    return SequenceWorld.random(0, prompts=2, vocabulary=3, length=3, beta=BETA)


def tokens_of(world):
    return [tuple(token for token in row if token >= 0) for row in world.sequences.tolist()]


def regret(world, model):
    return float(world.regret(world.sequence_logps(model.next_logps().detach())).mean())


def config(method, **more):
    settings = {"steps": 200, "batch": 2, "lr": 0.02, "lora_r": 0, "layout": "padded", "held_out": 0.0}
    return Config(method=method, **settings | {"loss_kwargs": {"beta": BETA}} | more)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("rloo", {}),
        ("una-centred", {"online": True}),
        ("ppo", {"steps": 100}),
        ("ppo", {"critic": "head", "steps": 200}),
    ],
    ids=str,
)
def test_online_methods_come_near_the_optimum(world, method, more):
    columns = {tokens: column for column, tokens in enumerate(tokens_of(world))}
    model = PrefixLM(world, hidden=32)
    job = prefix_job(
        model,
        config(method, **{"samples": 16, **more}),
        reward=looked_up(world.rewards, columns),
        prompts=2,
        length=3,
    )
    assert regret(world, model) > 0.2
    fit(job)
    assert regret(world, model) < 0.06


def test_an_offline_run_on_exact_scores_comes_near_the_optimum(world):
    # Every response with its exact reward: centred UNA's minimiser is π* for any sampler with full support.
    tokens = tokens_of(world)
    rows = [
        Example((x,), (tokens[a], tokens[b]), scores=(float(world.rewards[x, a]), float(world.rewards[x, b])))
        for x in range(2)
        for a in range(len(tokens))
        for b in range(len(tokens))
        if a < b
    ]
    model = PrefixLM(world, hidden=32)
    fit(prefix_job(model, config("una-centred", steps=200, batch=32), examples=rows, prompts=2, length=3))
    assert regret(world, model) < 0.06


def test_rewards_are_looked_up_by_text(world):
    columns = {tokens: column for column, tokens in enumerate(tokens_of(world))}
    answers = [
        Answer("1", "2 1", True, 0, {}, ""),
        Answer("0", "2 2 2", False, 1, {}, ""),
        Answer("0", "", True, 1, {}, ""),
    ]
    expected = [world.rewards[1, world.index((2, 1, 0))], world.rewards[0, world.index((2, 2, 2))], world.rewards[0, 0]]
    assert looked_up(world.rewards, columns)(answers) == [float(value) for value in expected]


def online(world, method, **more):
    columns = {tokens: column for column, tokens in enumerate(tokens_of(world))}
    model, reference = PrefixLM(world, hidden=8), PrefixLM(world, hidden=1)
    settings = config(method, **{"samples": 4, "steps": 4, **more})
    return prefix_job(
        model, settings, reward=looked_up(world.rewards, columns), prompts=2, length=3, reference=reference
    )


@pytest.mark.parametrize(
    ("method", "least"), [("rloo", 2), ("iterative-dpo", 2), ("sppo", 2), ("rso", 2), ("reinforce", 1), ("ppo", 1)]
)
def test_a_prompt_needs_two_scored_responses_where_they_are_compared(world, method, least):
    assert online(world, method).rollouts.least == least


def test_a_reference_that_moves_becomes_the_policy_and_one_that_stays_is_the_small_one(world):
    tokens = tokens_of(world)
    rows = [Example((x,), (tokens[1], tokens[2]), pairs=((0, 1),), prompt_index=x) for x in range(2)]
    for refresh, moves in ((2, True), (0, False)):
        model, reference = PrefixLM(world, hidden=8), PrefixLM(world, hidden=1)
        settings = config("tr-dpo", steps=2, lr=0.1, refresh_every=refresh)
        job = prefix_job(model, settings, examples=rows, prompts=2, length=3, reference=reference)
        for step in range(2):
            job.step(step, record=False)
        with job.trainer.policy.as_reference() as used, torch.no_grad():
            gap = float((used.next_logps() - model.next_logps()).abs().max())
            assert (gap < 1e-6) is moves and (used is reference) is not moves


# ---- exact data: what the policy converges to


def minimised(world, population):
    """log π (X, S) of a policy that minimises a population loss of log π (X, S)."""
    model = PrefixLM(world, hidden=48, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=3000, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = population(world.sequence_logps(model.next_logps()))
        loss.backward()
        return loss

    optimizer.step(closure)
    return world.sequence_logps(model.next_logps().detach())


def test_dpo_on_exact_data_reaches_the_optimum(world):
    loss = METHODS["dpo"].loss
    preferences = bradley_terry(world.rewards)
    logps = minimised(world, over_pairs(loss, preferences, world.ref_logps, world.ref_logps, beta=BETA))
    assert float(world.regret(logps).mean()) < 1e-4


def test_ipo_on_exact_data_reaches_its_own_optimum_and_not_that_of_rlhf(world):
    preferences = bradley_terry(world.rewards)
    logps = minimised(world, over_pairs(METHODS["ipo"].loss, preferences, world.ref_logps, world.ref_logps, beta=BETA))
    wins = preference_rewards(preferences, world.ref_logps)
    own = optimum.optimal_logps(world.ref_logps, wins, BETA)
    assert float(optimum.kl(logps, own).max()) < 1e-4
    assert float(world.regret(logps).mean()) > 0.1
