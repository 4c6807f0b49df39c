"""Numbers of the whole batch: over all micro-batches, without gradient, with moving averages that are saved."""

from dataclasses import replace

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.errors import InputError
from una_ref.methods.arguments import ARGUMENTS
from una_ref.policies.loading import TableLM
from una_ref.policies.references import Policy
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.loop import fit
from una_ref.training.statistics import STATISTICS, at_start, deviation, positive_mean, sample_deviation
from una_ref.training.trainer import Trainer

PAIRS = [
    Example((0,), ((0,), (1,), (2,)), pairs=((0, 1), (2, 1)), prompt_index=0, source="row 0"),
    Example((1,), ((1,), (2,)), pairs=((0, 1),), prompt_index=1, source="row 1"),
]
SCORES = [
    Example((0,), ((0,), (1,)), scores=(1.0, 3.0), prompt_index=0, source="row 0"),
    Example((1,), ((2,),), scores=(2.0,), prompt_index=1, source="row 1"),
]
REF = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.4, 0.5]], dtype=torch.float64).log()
NEW = torch.tensor([[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]], dtype=torch.float64).log()


def table_trainer(losses, *, method="dpo", moved=True, **config):
    """A trainer of a table whose policy is NEW, or still REF; `losses` by kind of feedback."""
    config = Config(method=method, **{"lora_r": 0, "steps": 4, "batch": 2, "lr": 0.01, "micro_tokens": 1} | config)
    trainer = Trainer(Policy(TableLM(REF)), losses, config, prompts=2)
    if moved:
        with torch.no_grad():
            trainer.policy.model.table.weight.copy_(NEW)
    return trainer


def recorded(kind, *wanted):
    """A loss that names these statistics and keeps what it is given, and the list of what it was given."""
    calls = []
    arguments = ", ".join(wanted)
    first = "chosen_logps" if kind == "pairs" else "logps"
    text = f"lambda *, {first}, {arguments}: calls.append(dict({', '.join(f'{n}={n}' for n in wanted)})) or -{first}"
    return eval(text, {"calls": calls}), calls


U = NEW - REF


def test_every_batch_argument_has_a_function():
    assert {name for name, entry in ARGUMENTS.items() if entry.kind == "batch"} <= STATISTICS.keys()


def test_statistics_are_of_the_whole_batch_in_every_micro_batch():
    wanted = ("batch_gap", "running_gap", "running_gap_sd", "running_gain", "mean_length")
    loss, calls = recorded("pairs", *wanted)
    metrics = table_trainer({"pairs": loss}).accumulate(PAIRS)
    gaps = torch.stack([U[0, 0] - U[0, 1], U[0, 2] - U[0, 1], U[1, 1] - U[1, 2]])
    gains = torch.stack([U[0, 0], U[0, 1], U[0, 2], U[1, 1], U[1, 2]])
    expected = {
        "batch_gap": float(gaps.mean()),
        "running_gap": float(gaps.mean()),  # the first batch is its own average
        "running_gap_sd": float(gaps.std(unbiased=False)),
        "running_gain": float(gains.mean()),
        "mean_length": 1.0,
    }
    assert len(calls) == 2
    for given in calls:
        assert all(value.shape == () and not value.requires_grad for value in given.values())
        assert {name: float(value) for name, value in given.items()} == pytest.approx(expected)
    assert {name: metrics[name] for name in wanted} == pytest.approx(expected)


def test_mean_length_counts_tokens_of_unequal_responses():
    loss, calls = recorded("pairs", "mean_length")
    given = [replace(PAIRS[0], responses=((0, 1, 2, 1), (1,), (2,))), PAIRS[1]]
    trainer = table_trainer({"pairs": loss})
    trainer.policy.forward = lambda batch: torch.zeros(len(batch.lengths), dtype=torch.float64, requires_grad=True)
    trainer.accumulate(given)
    assert [float(call["mean_length"]) for call in calls] == pytest.approx([8 / 5] * 2)


@pytest.mark.parametrize(("function", "by_hand"), [(deviation, 14 / 9), (sample_deviation, 14 / 6)])
def test_deviation_of_one_number_is_zero_and_of_large_numbers_is_exact(function, by_hand):
    def of(*values):
        values = torch.tensor(values, dtype=torch.float64)
        return float(function(torch.tensor(float(len(values))).double(), values.sum(), values.square().sum()))

    assert of(3.0) == 0
    # 1, 2, 4 have the mean 7/3. The squares of the differences are 16/9, 1/9 and 25/9: 14/3 in all.
    assert of(1.0, 2.0, 4.0) == pytest.approx(by_hand**0.5)
    assert of(1e4, 1e4 + 1) == pytest.approx(0.5 if function is deviation else 0.5**0.5, rel=1e-6)


def test_estimate_of_a_divergence_is_never_negative():
    numbers = torch.tensor([[2.0, -3.0, 5.0], [2.0, 3.0, 5.0]], dtype=torch.float64)
    assert [float(positive_mean(*row)) for row in numbers] == [0.0, 1.5]


@pytest.mark.parametrize(("wanted", "passes"), [("mean_length", 0), ("batch_gap", 2), ("running_gap_sd", 2)])
def test_only_what_a_loss_names_is_computed(wanted, passes):
    loss, _ = recorded("pairs", wanted)
    trainer, calls = table_trainer({"pairs": loss}), []
    forward = trainer.policy.forward
    trainer.policy.forward = lambda batch: calls.append(batch) or forward(batch)
    trainer.accumulate(PAIRS)
    assert len(calls) == 2 + passes  # two micro-batches


def test_several_statistics_share_one_pass():
    loss, _ = recorded("pairs", "batch_gap", "running_gap", "running_gap_sd", "running_gain")
    trainer, calls = table_trainer({"pairs": loss}), []
    forward = trainer.policy.forward
    trainer.policy.forward = lambda batch: calls.append(batch) or forward(batch)
    trainer.accumulate(PAIRS)
    assert len(calls) == 2 + 2


def test_a_statistic_is_of_the_kinds_that_ask_for_it():
    loss, calls = recorded("scores", "running_gain")
    trainer = table_trainer({"scores": loss, "pairs": lambda *, chosen_logps: -chosen_logps})
    trainer.accumulate([*PAIRS, *SCORES])
    assert float(calls[0]["running_gain"]) == pytest.approx(float((U[0, 0] + U[0, 1] + U[1, 2]) / 3))
    assert "running_gain" not in trainer.accumulate(PAIRS)  # no scored response asks for it


def test_moving_average_moves_once_a_step_and_not_in_evaluations():
    loss, calls = recorded("pairs", "batch_gap", "running_gap")
    trainer = table_trainer({"pairs": loss}, lr=0.5, decay=0.75, schedule="constant", warmup=0.0)
    start = trainer.evaluate(PAIRS)
    assert start["running_gap"] == pytest.approx(start["batch_gap"]) and not trainer.statistics.averages
    expected = None
    for step in range(3):
        trainer.step(step, PAIRS)
        batch_gap = float(calls[-1]["batch_gap"])
        expected = batch_gap if expected is None else 0.75 * expected + 0.25 * batch_gap
        assert float(calls[-1]["running_gap"]) == pytest.approx(expected)
        assert trainer.statistics.averages == {"running_gap": pytest.approx(expected)}
        metrics = trainer.evaluate(PAIRS)
        assert metrics["running_gap"] == pytest.approx(expected) != pytest.approx(metrics["batch_gap"])
        assert trainer.statistics.averages == {"running_gap": pytest.approx(expected)}


def test_running_gain_of_bco_counts_all_responses_alike_as_trl_s_running_mean_does():
    """TRL's former BCOTrainer kept the mean of all rewards so far: mean += (x̄ − mean)·n/(N + n), from 0 and N = 0.

    A decay of N/(N + n) makes a step of ours one of theirs, whatever the share of positive labels.
    """
    loss, calls = recorded("labels", "running_gain")
    batches = [
        [Example((0,), ((0,), (1,), (2,)), labels=(1.0, 0.0, 0.0), prompt_index=0, source="row 0")],
        [Example((1,), ((1,),), labels=(1.0,), prompt_index=1, source="row 1")],
    ]
    mean, seen = 0.0, 0
    trainer = table_trainer({"labels": loss}, method="bco", decay=3 / 4)
    for batch, gains in zip(batches, (U[0], U[1, 1:2]), strict=True):
        trainer.accumulate(batch)
        trainer.statistics.keep()
        mean += (float(gains.mean()) - mean) * len(gains) / (seen + len(gains))
        seen += len(gains)
        assert float(calls[-1]["running_gain"]) == pytest.approx(mean, abs=1e-12)
    by_label = (float(U[0, 0]) + float(U[0, 1:].mean())) / 2  # each label counted alike
    assert abs(float(calls[0]["running_gain"]) - by_label) > 0.05


def test_moving_average_is_not_part_of_an_accumulated_gradient():
    loss, _ = recorded("pairs", "running_gap")
    trainer = table_trainer({"pairs": loss})
    trainer.accumulate(PAIRS)
    assert trainer.statistics.averages == {}


def statistic_job(**config):
    def loss(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, running_gap, running_gap_sd):
        gap = chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps
        noise = 0.1 * torch.randn_like(gap)  # a loss that samples
        return -torch.nn.functional.logsigmoid(gap - running_gap + running_gap_sd + noise)

    trainer = table_trainer({"pairs": loss}, steps=6, lr=0.1, batch=1, save_every=1, **config)
    return Job(trainer.config, trainer, PAIRS, [])


def test_a_run_with_averages_and_a_loss_that_samples_resumes_to_the_same_bytes(tmp_path):
    whole = statistic_job()
    fit(whole)
    first = statistic_job()
    step = first.trainer.step

    def stopping(number, *arguments, **more):
        if number == 3:
            raise KeyboardInterrupt
        return step(number, *arguments, **more)

    first.trainer.step = stopping
    with pytest.raises(KeyboardInterrupt):
        fit(first, output=tmp_path)
    torch.manual_seed(99)
    second = statistic_job()
    fit(second, output=tmp_path)
    assert torch.equal(second.trainer.policy.model.table.weight, whole.trainer.policy.model.table.weight)
    assert second.trainer.statistics.averages == whole.trainer.statistics.averages != {}


def test_random_numbers_of_a_loss_depend_on_seed_step_and_update():
    def drawn(step, noise=0, update=0, **config):
        given = []
        loss = lambda *, chosen_logps: given.append(float(torch.rand(()))) or -chosen_logps  # noqa: E731
        trainer = table_trainer({"pairs": loss}, micro_tokens=1000, **config)
        torch.manual_seed(noise)
        trainer.step(step, PAIRS, update=update)
        return given[0]

    assert drawn(2) == drawn(2, noise=1)
    assert len({drawn(2), drawn(3), drawn(2, update=1), drawn(2, seed=1)}) == 4


def test_an_evaluation_of_a_loss_that_samples_is_repeatable():
    trainer = table_trainer({"pairs": lambda *, chosen_logps: -chosen_logps * torch.rand(len(chosen_logps))})
    first = trainer.evaluate(PAIRS)["loss"]
    torch.manual_seed(5)
    assert trainer.evaluate(PAIRS)["loss"] == first


LABELS = [replace(e, pairs=None, labels=(1.0,) * len(e.responses)) for e in PAIRS]


@pytest.mark.parametrize(
    ("kind", "given", "wanted", "config"),
    [
        ("pairs", PAIRS, ("batch_gap", "running_gap", "running_gap_sd", "running_gain", "mean_length"), {}),
        ("labels", LABELS, ("kl",), {}),
        ("scores", SCORES, ("baseline",), {"method": "una-score", "baseline": "ema"}),
    ],
)
def test_statistics_at_the_start_are_those_of_a_policy_that_is_its_reference(kind, given, wanted, config):
    trainer = table_trainer({kind: recorded(kind, *wanted)[0]}, moved=False, **config)
    found = trainer.statistics(trainer, given, training=False)
    expected = at_start(trainer.statistics, given)
    assert found.keys() == expected.keys() == {*wanted}
    assert {n: float(v) for n, v in found.items()} == pytest.approx({n: float(v) for n, v in expected.items()})


# ---- baseline=ema


def test_baseline_ema_is_the_average_of_score_minus_reward():
    loss, calls = recorded("scores", "baseline")
    trainer = table_trainer(
        {"scores": loss}, method="una-score", baseline="ema", decay=0.5, loss_kwargs={"beta": 2.0}, lr=0.5
    )
    residuals = [1.0 - 2 * U[0, 0], 3.0 - 2 * U[0, 1], 2.0 - 2 * U[1, 2]]
    trainer.step(0, SCORES)
    assert float(calls[0]["baseline"]) == pytest.approx(float(sum(residuals) / 3))
    u = trainer.policy.model.logps.detach() - REF
    second = [1.0 - 2 * u[0, 0], 3.0 - 2 * u[0, 1], 2.0 - 2 * u[1, 2]]
    trainer.step(1, SCORES)
    assert float(calls[-1]["baseline"]) == pytest.approx(float(sum(residuals) / 3 + sum(second) / 3) / 2)


def test_baseline_ema_removes_an_offset_of_the_scores_from_the_gradient():
    def gradient(offset, **config):
        trainer = table_trainer(Config(method="una-score").losses_by_kind, method="una-score", **config)
        trainer.accumulate([replace(e, scores=tuple(s + offset for s in e.scores)) for e in SCORES])
        return trainer.policy.model.table.weight.grad

    torch.testing.assert_close(gradient(0.0, baseline="ema"), gradient(100.0, baseline="ema"), rtol=1e-9, atol=1e-9)
    assert (gradient(0.0) - gradient(100.0)).abs().max() > 0.1


def test_baseline_ema_takes_the_place_of_a_learned_v_and_needs_no_group():
    for method in ("dro", "una-centred"):
        scores = {"scores": Config(method=method).losses_by_kind["scores"]}
        trainer = table_trainer(scores, method=method, baseline="ema")
        assert trainer.values is None and not trainer.compares_group
        trainer.accumulate(SCORES)  # the second prompt has one response


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [
        ("dpo", "pairs", "baseline=ema: the losses of dpo take no baseline"),
        ("una-binary-bce", "labels", "baseline=ema: expected scores, since it is a mean of s − r_θ, got labels"),
    ],
)
def test_baseline_ema_without_scores_is_refused(method, kind, message):
    with pytest.raises(InputError, match=message):
        table_trainer({kind: Config(method=method).losses_by_kind[kind]}, method=method, baseline="ema")


# ---- losses of the whole batch


@pytest.fixture
def whole_batch(monkeypatch):
    monkeypatch.setattr(Config, "whole_batch", True)


def test_a_loss_of_the_whole_batch_gets_it_at_once(whole_batch):
    sizes = []
    trainer = table_trainer({"pairs": lambda *, chosen_logps: sizes.append(len(chosen_logps)) or -chosen_logps})
    assert len(trainer.micro_batches(PAIRS)) == 2  # micro_tokens=1
    trainer.accumulate(PAIRS)
    assert sizes == [3]


def test_an_evaluation_of_such_a_loss_takes_batches_of_training_size(whole_batch):
    sizes = []
    trainer = table_trainer({"pairs": lambda *, chosen_logps: sizes.append(len(chosen_logps)) or -chosen_logps})
    trainer.evaluate(PAIRS * 3)  # batch=2
    assert sizes == [3, 3, 3]


def test_a_loss_of_the_whole_batch_is_refused_in_several_processes(whole_batch, monkeypatch):
    team = table_trainer({"pairs": recorded("pairs", "mean_length")[0]}).accelerator
    several = type("Team", (), {"num_processes": 2, "process_index": 0, "device": team.device})()
    monkeypatch.setattr("una_ref.training.distributed.processes", lambda: several)
    with pytest.raises(InputError, match=r"processes: dpo: expected one, .* got 2\. Fix: start the run without"):
        table_trainer({"pairs": recorded("pairs", "mean_length")[0]})
