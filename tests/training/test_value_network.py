"""V(x) as a network (DRO-V): its values, what it trains, and the optimum that it leads to."""

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.errors import InputError
from una_ref.policies.critics import Critic, copy_core
from una_ref.policies.loading import TableLM
from una_ref.policies.references import Policy
from una_ref.theory import TableWorld
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.loop import fit
from una_ref.training.prepare import prepare
from una_ref.training.settings import resolve
from una_ref.training.trainer import Trainer

F64 = torch.float64
TINY = ["shape.hidden_size=16", "shape.num_hidden_layers=1", "steps=2", "rows=24", "held_out=0.25"]


@pytest.mark.parametrize("shared", [True, False])
def test_dro_with_a_value_network_learns_the_optimum_and_beta_log_z_of_a_table(shared):
    generator = torch.Generator().manual_seed(0)
    ref, rewards = torch.randn(2, 3, 3, generator=generator, dtype=F64)
    world = TableWorld(ref.log_softmax(-1), rewards, 0.5)
    model = TableLM(world.ref_logps)
    critic = Critic(model, None if shared else copy_core(model))
    more = {"lr": 0.05, "value_lr": 0.05, "lora_r": 0, "loss_kwargs": {"beta": 0.5}, "weight_decay": 0.0}
    config = Config(
        method="dro", baseline="network", critic="head" if shared else "separate", **more, steps=600, batch=3
    )
    given = [
        Example((x,), ((0,), (1,), (2,)), prompt_index=x, source=f"prompt {x}", scores=tuple(rewards[x].tolist()))
        for x in range(3)
    ]
    trainer = Trainer(Policy(model, critic=critic), {"scores": config.losses_by_kind["scores"]}, config)
    assert trainer.values is None
    fit(Job(config, trainer, given, []))
    assert world.metrics(model.logps.detach())["regret"] < 1e-4
    known = trainer.policy.outputs(trainer.batch(given), trainer.needs)["values"].detach().view(3, 3)
    wanted = world.beta * world.log_partition[:, None].expand(3, 3)
    torch.testing.assert_close(known, wanted, rtol=0, atol=1e-2)


@pytest.mark.parametrize("critic", ["separate", "head"])
@pytest.mark.parametrize("method", ["dro", "una-centred", "una-score"])
def test_value_network_starts_at_the_mean_score_and_is_trained(method, critic):
    job = prepare(resolve(method, [*TINY, "baseline=network", f"critic={critic}"]))
    trainer = job.trainer
    rows = list(job.examples)
    before = {name: p.detach().clone() for name, p in trainer.trained.items() if name.startswith("critic.")}
    mean = sum(sum(e.scores) for e in rows) / sum(len(e.scores) for e in rows)
    assert before["critic.head.bias"].item() == pytest.approx(mean)
    assert not trainer.compares_group
    trainer.step(0, rows[:4])
    assert all((trainer.trained[name] != old).any() for name, old in before.items() if "head" in name)


def test_value_network_has_one_value_for_all_responses_of_a_prompt():
    job = prepare(resolve("dro", [*TINY, "baseline=network"]))
    trainer = job.trainer
    torch.nn.init.normal_(trainer.policy.critic.head.weight)
    rows = list(job.held_out)  # prompts that were not trained on
    batch = trainer.batch(rows)
    values = batch.by_response(trainer.policy.outputs(batch, trainer.needs)["values"])[:, 0]
    of_prompt = [values[batch.groups == g] for g in batch.groups.unique()]
    assert all(len(v) > 1 and (v - v[0]).abs().max() < 1e-5 for v in of_prompt)
    assert torch.stack([v[0] for v in of_prompt]).std() > 1e-3


def test_value_network_is_refused_where_no_loss_takes_a_baseline():
    with pytest.raises(InputError, match="baseline=network: the losses of dpo take no baseline"):
        prepare(resolve("dpo", [*TINY, "baseline=network"]))
    with pytest.raises(InputError, match="critic: applies only to online runs"):
        resolve("dro", ["critic=head"])
