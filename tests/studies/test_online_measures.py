"""The online study's runs: what a number added to all scores does, the noise of a gradient, a run that breaks."""

import dataclasses
import math

import pytest
import torch

from una_ref.policies.answers import Answer
from una_ref.studies import proxies
from una_ref.studies.online_measures import (
    gradient_noise,
    measure_run,
    models_held,
    noise_of,
    objective,
    online_job,
    policy_gradient,
)
from una_ref.studies.online_runs import ENTRIES, CostRun, NoiseRun, TrainingRun
from una_ref.studies.proxies import TRUTH
from una_ref.studies.toysteer_policies import base_in_world, policy_logps


@pytest.fixture
def gradient(tiny_online, toysteer_base):
    """The policy's gradient of a first step at the base policy, by entry and offset."""

    def at(entry, offset):
        job = online_job(NoiseRun(entry, TRUTH, offset, 0), tiny_online, toysteer_base)
        job.trainer.optimizer.zero_grad()
        job.trainer.accumulate(job.answered(job.examples, 0, record=False)[0], record=False)
        return policy_gradient(job)

    return at


# ---- offsets


def test_only_eq_10_depends_on_a_number_added_to_all_scores(gradient):
    change = {}
    for entry in ("una-online", "una-centred", "rloo", "iterative-dpo"):
        plain, moved = gradient(entry, 0.0), gradient(entry, 4.0)
        change[entry] = float((plain - moved).norm() / plain.norm())
    assert change["una-online"] > 1
    assert max(change["una-centred"], change["rloo"]) < 1e-4 and change["iterative-dpo"] == 0


def test_only_eq_10_ends_at_another_policy_with_an_offset(tiny_online, toysteer_base):
    def regret(entry, offset):
        return measure_run(TrainingRun(entry, TRUTH, offset, 1e-2, 0), tiny_online, toysteer_base)["regret"]

    assert regret("una-centred", 4.0) == pytest.approx(regret("una-centred", 0.0), abs=1e-4)
    assert abs(regret("una-online", 4.0) - regret("una-online", 0.0)) > 1e-3


def test_a_reward_is_shifted_to_mean_0_and_then_offset(tiny_online, toysteer_base):
    job = online_job(TrainingRun("rloo", TRUTH, 2.5, 1e-3, 0), tiny_online, toysteer_base)
    answer = Answer(job.examples[0].text, "a", True)
    [truth] = proxies.source(0, TRUTH, toysteer_base)([answer])
    shift = proxies.proxy_world(0, TRUTH, tiny_online.beta, toysteer_base).shift
    assert job.rollouts.reward([answer]) == [pytest.approx(truth + 2.5 + shift)]


# ---- noise


def test_noise_by_hand():
    # Deviations from the mean (4, 0) are (−1, 1) and (1, −1): variance 4 / (2 − 1). Along (1, 0): 3 and 5, so mean 4,
    # sd √2 and standard error 1. The square of the signal without what chance adds: 16 − 1.
    found = noise_of(torch.tensor([[3.0, 1.0], [5.0, -1.0]]).double(), torch.tensor([2.0, 0.0]).double())
    assert (found["signal"], found["signal_error"]) == (pytest.approx(4), pytest.approx(1))
    assert found["noise"] == pytest.approx(4 / 15) and math.isnan(found["expected"])


def test_noise_with_a_known_signal_is_not_estimated():
    found = noise_of(torch.tensor([[3.0, 1.0], [5.0, -1.0]]).double(), torch.tensor([2.0, 0.0]).double(), 2.0)
    assert found["noise"] == pytest.approx(4 / 2**2) and found["expected"] == 2.0


def test_noise_without_a_signal_is_nan():
    found = noise_of(torch.tensor([[1.0, 0.0], [5.0, 0.0]]).double(), torch.tensor([1.0, 0.0]).double())
    assert (found["signal"], found["signal_error"]) == (pytest.approx(3), pytest.approx(2))
    assert math.isnan(found["noise"])


def test_noise_is_recovered_from_many_samples():
    # g ~ N(m, σ²I) in 5 dimensions with m · u = 2 and σ = 3: noise 5·9/4. Unbiased though the signal is estimated.
    direction = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]).double()
    mean = 2 * direction / direction.norm() + torch.tensor([0.0, 0.0, 7.0, 0.0, 0.0])
    samples = mean + 3 * torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert noise_of(samples, direction)["noise"] == pytest.approx(45 / 4, rel=0.05)


def test_the_signal_is_the_gradient_of_the_objective_that_judges(tiny_online, toysteer_base):
    settings = dataclasses.replace(tiny_online, rollouts=12, draws=8)
    judge = proxies.proxy_world(0, TRUTH, settings.beta, toysteer_base)
    job = online_job(TrainingRun("rloo", TRUTH, 0.0, 1e-2, 0), settings, toysteer_base)
    job.step(0, record=False)
    measured = judge.measure(policy_logps(job, judge.world))
    assert measured["kl"] > 1e-3
    worth = measured["proxy_reward"] - settings.beta * measured["kl"]
    assert float(objective(job, judge).detach()) == pytest.approx(worth, abs=1e-5)
    # Unbiased: the mean of rollouts' gradients points along that of the objective.
    many = dataclasses.replace(settings, rollouts=48)
    found = gradient_noise(NoiseRun("rloo", TRUTH, 0.0, 0), many, toysteer_base)
    assert abs(found["signal"] - found["expected"]) < 4 * found["signal_error"] < 0.5 * found["expected"]
    assert 0 < found["noise"] < 10


# ---- training


def test_a_run_learns_and_repeats_itself(tiny_online, toysteer_base):
    settings = dataclasses.replace(tiny_online, steps=8, draws=8, every=4)
    run = TrainingRun("una-centred", TRUTH, 0.0, 1e-2, 1)
    first, again = (measure_run(run, settings, toysteer_base) for _ in range(2))
    assert [point["step"] for point in first["curve"]] == [0, 4, 8]
    assert first["regret"] < 0.7 * first["base_regret"] and first["failed"] == ""
    assert first["regret"] == first["curve"][-1]["regret"] and first["kl"] > 0.01
    assert first | {"seconds": 0} == again | {"seconds": 0}


def test_a_run_stopped_by_a_non_finite_value_is_measured_as_it_stood(tiny_online, toysteer_base, monkeypatch):
    from una_ref.training.job import Job
    from una_ref.training.trainer import NonFinite

    def breaks(self, step, *, record):
        raise NonFinite("the gradient's norm is nan", [])

    monkeypatch.setattr(Job, "step", breaks)
    found = measure_run(TrainingRun("rloo", TRUTH, 0.0, 1e-2, 0), tiny_online, toysteer_base)
    assert found["failed"] == "step 1: the gradient's norm is nan"
    assert found["regret"] == found["base_regret"] and len(found["curve"]) == 2


def test_a_run_its_reward_model_and_its_judge_have_the_base_that_they_are_given(
    tiny_online, other_base, toysteer_base, tmp_path, monkeypatch
):
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path))
    settings = dataclasses.replace(tiny_online, steps=1)
    run, world = TrainingRun("rloo", "16", 0.0, 1e-9, 0), base_in_world(0, other_base)
    judge = proxies.proxy_world(0, "16", settings.beta, other_base)
    found = measure_run(run, settings, other_base)
    assert found["regret"] == pytest.approx(judge.measure(world.logps)["regret"], abs=1e-5)
    assert abs(judge.measure(base_in_world(0, toysteer_base).logps)["regret"] - found["regret"]) > 0.01
    table = proxies.scores(0, 16, other_base)
    assert float((table - proxies.scores(0, 16, toysteer_base)).abs().max()) > 1e-3


@pytest.mark.slow
def test_every_entry_calls_the_reward_as_often(tiny_online, toysteer_base):
    for entry in ENTRIES:
        job = online_job(TrainingRun(entry.name, TRUTH, 0.0, 1e-3, 0), tiny_online, toysteer_base)
        asked = []

        def counted(answers, reward=job.rollouts.reward, asked=asked):
            asked.extend(answers)
            return reward(answers)

        job.rollouts = dataclasses.replace(job.rollouts, reward=counted)
        for step in range(tiny_online.steps):
            job.step(step, record=False)
        assert len(asked) == tiny_online.steps * tiny_online.batch * tiny_online.draws, entry.name


def test_ppo_holds_a_critic_and_no_method_a_second_reference(tiny_online, toysteer_base):
    ppo, rloo = (
        models_held(online_job(CostRun(entry, TRUTH, 1e-3, 0), tiny_online, toysteer_base)) for entry in ("ppo", "rloo")
    )
    assert rloo == {"policy": ppo["policy"], "reference": 0}  # the policy without its adapter, nothing more
    assert 0.9 * ppo["policy"] < ppo["critic"] < ppo["policy"]
