"""V(x) as a running mean: right from the first visit, sparse, and saved."""

from dataclasses import replace

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.policies.loading import TableLM
from una_ref.policies.references import Policy
from una_ref.training.batches import order
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.loop import fit
from una_ref.training.trainer import Trainer


def table_trainer(given, *, prompts, start=0.0, method="una-centred", dtype=torch.float64, **config):
    """A trainer of a uniform table on scored responses of its prompts; the policy stays as it is if lr=0."""
    keys = {"lora_r": 0, "steps": 2, "batch": 8, "lr": 0.0, "baseline": "mean"} | config
    run = Config(method=method, **keys)
    model = TableLM(torch.zeros(prompts, 2, dtype=dtype))
    losses = {"scores": run.losses_by_kind["scores"]}
    return Trainer(Policy(model), losses, run, prompts=prompts, value_start=start)


def scored(x, *scores):
    return Example((x,), ((0,), (1,))[: len(scores)], scores=scores, prompt_index=x, source=f"prompt {x}")


def errors_of(baseline, unit=1.0):
    """Root mean square error of V(x) before and after two epochs over 1,600 prompts, in units of the rewards."""
    generator = torch.Generator().manual_seed(0)
    targets = unit * (0.3 + 0.4 * torch.rand(1600, generator=generator, dtype=torch.float64))
    given = [scored(x, float(targets[x])) for x in range(1600)]
    trainer = table_trainer(given, prompts=1600, start=float(targets.mean()), steps=400, baseline=baseline)

    def error():
        return float((trainer.values.detach() - targets).square().mean().sqrt()) / unit

    before = error()
    for step in range(400):
        trainer.step(step, [given[i] for i in order(1600, step, 8, seed=0)], record=False)
    return before, error()


def test_running_mean_ends_nearer_to_the_target_than_its_start_in_any_unit():
    before, after = errors_of("mean")
    assert before == pytest.approx(0.115, abs=0.005)
    assert after == pytest.approx(before / 3)  # the start counts as one visit of three
    assert errors_of("mean", unit=100.0)[1] == pytest.approx(after)


def test_learned_v_of_prompts_seen_twice_ends_further_from_the_target_than_its_start():
    # The known limit of baseline=learned: AdamW's steps have the length of the learning rate, and its momentum moves
    # prompts that are not in the batch.
    before, after = errors_of("learned")
    assert after > 1.5 * before


def test_value_is_the_mean_of_start_and_visits_and_then_a_moving_average():
    trainer = table_trainer([], prompts=3, start=6.0, decay=0.75)
    for step, score in enumerate((0.0, 3.0, 7.0)):
        trainer.step(step, [scored(1, score)])
    assert trainer.values.tolist() == [6.0, 4.0, 6.0]  # (6 + 0 + 3 + 7)/4
    trainer.step(3, [scored(1, 0.0, 8.0), scored(2, 0.0)])  # two responses are one visit; 1/5 is below 1 − decay
    assert trainer.values.tolist() == [6.0, 0.75 * 4.0 + 0.25 * 4.0, 3.0]
    assert trainer.running.visits.tolist() == [0, 4, 1]


def test_value_counts_what_the_policy_says_of_the_response():
    trainer = table_trainer([], prompts=1, loss_kwargs={"beta": 2.0})
    with torch.no_grad():
        trainer.policy.model.table.weight.copy_(torch.tensor([[0.75, 0.25]]).log())
    trainer.step(0, [scored(0, 1.0)])
    reward = 2 * torch.tensor(0.75 / 0.5).log()
    assert float(trainer.values[0]) == pytest.approx(float(1 - reward) / 2)


def test_an_example_is_measured_against_the_value_before_its_own_visit():
    trainer = table_trainer([], prompts=1, start=1.0)
    assert trainer.step(0, [scored(0, 4.0)])["loss"] == pytest.approx(9.0)
    assert trainer.step(1, [scored(0, 4.0)])["loss"] == pytest.approx(1.5**2)  # V = (1 + 4)/2


def test_evaluations_and_micro_batches_do_not_change_the_values():
    given = [scored(0, 1.0, 2.0), scored(1, 5.0), scored(0, 6.0)]
    whole, split = (table_trainer([], prompts=2, micro_tokens=tokens) for tokens in (1, 1000))
    for trainer in (whole, split):
        trainer.step(0, given)
        trainer.evaluate([scored(0, 100.0)])
        trainer.step(1, given)
    assert torch.equal(whole.values, split.values) and whole.values.tolist() == [2.0, pytest.approx(10 / 3)]


@pytest.mark.parametrize("method", ["una-centred", "dro"])
def test_running_mean_reaches_beta_log_z_and_the_optimum_of_a_table(method):
    rewards = torch.tensor([[0.0, 1.0], [2.0, 0.5]], dtype=torch.float64)
    given = [scored(x, *rewards[x].tolist()) for x in range(2)]
    keys = {"steps": 600, "batch": 2, "lr": 0.05, "loss_kwargs": {"beta": 0.5}}
    trainer = table_trainer(given, prompts=2, method=method, **keys)
    fit(Job(trainer.config, trainer, given, []))
    ref = torch.full((2, 2), 0.5, dtype=torch.float64).log()
    log_z = torch.logsumexp(ref + rewards / 0.5, dim=1)
    torch.testing.assert_close(trainer.values, 0.5 * log_z, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        trainer.policy.model.logps.detach(), ref + rewards / 0.5 - log_z[:, None], atol=1e-3, rtol=0
    )


def test_a_run_with_running_means_resumes_to_the_same_bytes(tmp_path):
    given = [scored(x, float(x), 1.0) for x in range(5)]

    def job():
        trainer = table_trainer(given, prompts=5, steps=6, batch=2, lr=0.1, save_every=1)
        return Job(trainer.config, trainer, given, [])

    whole, first, second = job(), job(), job()
    fit(whole)
    step = first.trainer.step

    def stopping(number, *arguments, **more):
        if number == 4:
            raise KeyboardInterrupt
        return step(number, *arguments, **more)

    first.trainer.step = stopping
    with pytest.raises(KeyboardInterrupt):
        fit(first, output=tmp_path)
    fit(second, output=tmp_path)
    assert torch.equal(second.trainer.values, whole.trainer.values) and whole.trainer.values.abs().min() > 0
    assert torch.equal(second.trainer.running.visits, whole.trainer.running.visits)
    assert torch.equal(second.trainer.policy.model.table.weight, whole.trainer.policy.model.table.weight)


def test_values_have_the_dtype_of_the_policy():
    trainer = table_trainer([], prompts=2, dtype=torch.float32)
    trainer.step(0, [replace(scored(0, 1.0), source="row")])
    assert trainer.values.dtype == torch.float32 and trainer.forward([scored(0, 1.0)]).values.dtype == torch.float32
