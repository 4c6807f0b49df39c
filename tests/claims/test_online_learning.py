"""The online runs of the ledger are reproducible, and their worlds and models are as documented."""

import torch

from una_ref.claims import online_learning


def test_a_run_depends_on_its_arguments_alone_and_lowers_regret():
    settings = {"lr": 0.1, "seed": 3, "steps": 12}
    first = online_learning.run("centred", **settings)
    online_learning.run.cache_clear()
    assert online_learning.run("centred", **settings) == first
    world = online_learning.world_of(3)
    assert first < 0.9 * float(world.regret(world.ref_logps).mean())
    assert first != online_learning.run("centred", **settings | {"seed": 4})


def test_offsets_of_prompts_do_not_change_the_optimum():
    torch.testing.assert_close(online_learning.world_of(0, 4.0, 3.0).optimum, online_learning.world_of(0).optimum)
    assert online_learning.world_of(0, spread=3.0).rewards.mean(1).std() > 1


def test_only_ppo_with_a_separate_critic_holds_a_value_model():
    assert online_learning.models("ppo")["value"] == 1
    assert online_learning.models("ppo", critic="head")["value"] == online_learning.models("eq10")["value"] == 0
