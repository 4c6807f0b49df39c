"""The trainer: gradients of micro-batches, KTO's KL estimate, the exact optimum of a table, learned V(x), steps."""

import itertools
import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.policies.combining import l1_norm
from una_ref.policies.loading import TableLM
from una_ref.policies.references import Policy
from una_ref.theory.optimum import optimal_logps
from una_ref.theory.worlds import TableWorld
from una_ref.training.batches import mismatched, order
from una_ref.training.config import Config
from una_ref.training.distributed import processes
from una_ref.training.job import Job
from una_ref.training.loop import fit
from una_ref.training.losses import losses_of
from una_ref.training.trainer import NonFinite, Trainer

ROOT = Path(__file__).resolve().parents[2]
CASES = [(name, (kind,), {}) for name in METHODS for kind in METHODS[name].kinds] + [
    ("tpo", ("pairs", "demos"), {}),
    ("bco", ("labels", "pairs"), {}),
    ("reward-model", ("pairs", "lists"), {}),
    ("beta-dpo", ("pairs",), {"losses": "beta-dpo:0.5,r-dpo:0.5", "loss_kwargs": {"alpha": 0.1}}),
    ("una-centred", ("scores", "labels", "pairs"), {}),
    ("una-centred", ("scores",), {"baseline": "learned"}),
    ("una-score", ("scores",), {"baseline": "ema"}),
    ("dpo", ("pairs",), {"losses": "dpo:0.8,ipo:0.2,sft:0.1"}),
    ("una-score", ("scores",), {"form": "released"}),
    ("dpo", ("pairs",), {"lora_r": 0}),
    ("odpo", ("weighted-pairs",), {}),
    ("una-centred", ("scores", "weighted-pairs"), {}),
    ("una-score", ("scores",), {"layout": "padded"}),
]
each_case = pytest.mark.parametrize(("method", "kinds", "config"), CASES, ids=lambda case: str(case))


@each_case
def test_micro_batches_have_the_gradient_of_the_whole_batch(method, kinds, config, make_trainer, examples, gradient):
    given = examples(*kinds)
    whole = gradient(make_trainer(method, given, **config), given)
    for tokens in (1, 30):
        split = make_trainer(method, given, micro_tokens=tokens, **config)
        assert len(split.micro_batches(given)) > 1
        assert (gradient(split, given) - whole).abs().max() <= 3e-6 * whole.abs().max() + 1e-9
    assert whole.abs().max() > 1e-4


@each_case
def test_trained_weights_do_not_depend_on_micro_batches(method, kinds, config, make_trainer, examples):
    given, trained = examples(*kinds), []
    for tokens in (1, 10**6):
        # In float32, AdamW would turn the rounding of a gradient near 0 into a step.
        trainer = make_trainer(method, given, micro_tokens=tokens, dtype="float64", **config)
        start = {name: p.detach().clone() for name, p in trainer.trained.items()}
        for step in range(3):
            trainer.step(step, given)
        assert any((p - start[name]).abs().max() > 1e-3 for name, p in trainer.trained.items())
        trained.append(trainer.trained)
    for name, parameter in trained[0].items():
        torch.testing.assert_close(parameter, trained[1][name], rtol=1e-9, atol=1e-9)


@each_case
def test_duplicated_batch_has_the_same_gradient(method, kinds, config, make_trainer, examples, gradient):
    given = examples(*kinds)
    once, twice = (gradient(make_trainer(method, given, **config), batch) for batch in (given, [*given, *given]))
    assert (once - twice).abs().max() <= 1e-5 * once.abs().max()


def test_micro_batch_of_another_process_adds_nothing_to_the_gradient(make_trainer, examples, gradient, monkeypatch):
    given = examples("pairs")
    trainer, found = make_trainer("dpo", given), []
    for turns in ([(given[:3], True), (given[3:], False)], [(given[:3], True)]):
        monkeypatch.setattr(trainer, "turns", lambda _, turns=turns: turns)
        found.append(gradient(trainer, given))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("method", METHODS)
def test_reordering_a_batch_reorders_its_losses(method, make_trainer, examples):
    given = examples(METHODS[method].kinds[0])
    trainer = make_trainer(method, given)

    def losses(batch):
        values = trainer.forward(batch, {name: torch.tensor(0.1) for name in trainer.statistics.kinds}).values
        parts = values.split([e.count for e in batch])
        return {e.source: part for e, part in zip(batch, parts, strict=True)}

    straight, reversed_losses = losses(given), losses(given[::-1])
    assert len({value for part in straight.values() for value in part.tolist()}) > 1
    for source, part in straight.items():
        torch.testing.assert_close(part, reversed_losses[source])


def test_a_weight_multiplies_the_loss_of_its_pair_and_the_mean_is_over_pairs(make_trainer, examples, gradient):
    given = [e for e in examples("weighted-pairs") if len(e.pairs) == 1]
    trainer = make_trainer("odpo", given)
    plain = [replace(e, weights=None) for e in given]
    expected = [e.weights[0] * trainer.forward([p]).values.item() for e, p in zip(given, plain, strict=True)]
    assert trainer.forward(given).values.tolist() == pytest.approx(expected)
    assert trainer.accumulate(given)["loss"] == pytest.approx(sum(expected) / len(given))
    # A pair of weight 3 is three pairs of weight 1 in a batch of as many losses.
    whole = [replace(e, weights=(float(k),)) for e, k in zip(given, (3, 0, 0), strict=True)]
    gradients = [gradient(make_trainer("odpo", given), batch) for batch in (whole, [plain[0]] * 3)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_mixed_batch_has_one_loss_per_pair_and_single_response(make_trainer, examples):
    given = examples("scores", "labels", "pairs")
    trainer = make_trainer("una-centred", given)
    batch = collate(given)
    logps, ref = trainer.policy(batch), trainer.policy.reference(batch)
    known = {"logps": logps, "ref_logps": ref, "baseline": trainer.baseline(batch)}
    losses = losses_of(trainer.losses, batch, known, {"beta": 0.1})
    assert {kind: len(values) for kind, values in losses.items()} == {
        "pairs": len(batch.pairs),
        "scores": len(batch.scored),
        "labels": len(batch.labelled),
    }
    assert sum(map(len, losses.values())) == batch.count == sum(e.count for e in given)


# ---- KTO


def test_mismatched_responses_come_from_another_prompt():
    rng = random.Random(0)
    for n in range(2, 9):
        prompts = [rng.randrange(4) for _ in range(n)]
        given = [Example((p,), ((p, i, 2), (p, 2))) for i, p in enumerate(prompts)]
        if len(set(prompts)) == 1:
            continue
        exchanged = list(mismatched(given))
        assert [e.prompt for e in exchanged] == [e.prompt for e in given]
        assert all(response[0] != e.prompt[0] for e in exchanged for response in e.responses)


def test_mismatched_responses_are_those_of_the_next_other_prompt():
    given = [Example((prompt,), ((i, 2),)) for i, prompt in enumerate((1, 1, 3, 4), start=10)]
    assert [e.responses[0][0] for e in mismatched(given)] == [12, 12, 13, 10]


def test_kto_refuses_a_batch_of_one_prompt(make_trainer, examples):
    given = examples("labels", prompts=1)
    with pytest.raises(InputError, match="two different prompts"):
        make_trainer("kto", given).accumulate(given * 3)


@pytest.mark.parametrize("method", ["kto", "una-binary-bce"])
def test_kl_estimate_covers_the_whole_batch_and_has_no_gradient(method, make_trainer, examples, gradient):
    given = examples("labels", prompts=5)
    trainer = make_trainer(method, given, micro_tokens=1, loss_kwargs={"beta": 0.5})
    if method != "kto":  # other methods do not compute the estimate
        assert "kl" not in trainer.accumulate(given)
        return
    whole = collate([Example(e.prompt, given[(i + 1) % 5].responses) for i, e in enumerate(given)], "padded")
    with torch.no_grad():
        estimate = (trainer.policy(whole) - trainer.policy.reference(whole)).mean()
    assert trainer.accumulate(given)["kl"] == pytest.approx(float(estimate), rel=1e-4) and estimate > 0.01
    trained_gradient = gradient(trainer, given)
    trainer.optimizer.zero_grad()
    batch = collate(given)
    logps, ref = trainer.policy(batch), trainer.policy.reference(batch)
    known = {"logps": logps, "ref_logps": ref, "kl": estimate}
    losses_of(trainer.losses, batch, known, {"beta": 0.5})["labels"].mean().backward()
    constant = torch.cat([p.grad.flatten() for p in trainer.trained.values()])
    torch.testing.assert_close(trained_gradient, constant, rtol=1e-4, atol=1e-6)


def test_negative_kl_estimate_counts_as_zero(make_trainer, examples):
    given = examples("labels")
    trainer = make_trainer("kto", given)
    trainer.policy.reference = lambda batch: trainer.policy(batch) + 1
    assert trainer.accumulate(given)["kl"] == 0


# ---- several processes

WORKER = """
import json, sys, torch
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("shared", {tests!r} + "/training/conftest.py")
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
examples, make_trainer = (f.__wrapped__() for f in (shared.examples, shared.make_trainer))
out = {{}}
for name, method, kinds, config in {cases!r}:
    given = examples(*kinds, prompts=5)
    trainer = make_trainer(method, given, micro_tokens=30, **config)
    measured = trainer.accumulate(given)
    out[name] = dict(
        gradient=torch.cat([p.grad.flatten() for p in trainer.trained.values()]).tolist(),
        measured=measured, evaluated=trainer.evaluate(given), processes=trainer.accelerator.num_processes)
if trainer.accelerator.is_main_process:
    print("RESULT" + json.dumps(out))
"""


@pytest.mark.slow
def test_two_processes_match_the_gradient_and_metrics_of_one(tmp_path):
    cases = [
        ("dpo", "dpo", ("pairs",), {}),
        ("kto", "kto", ("labels",), {}),
        ("scores", "una-score", ("scores",), {}),
        ("mixed", "una-centred", ("scores", "labels", "pairs"), {}),
        ("sft", "sft", ("demos",), {"lora_r": 0}),
        ("ema", "una-score", ("scores",), {"baseline": "ema"}),
        ("mean", "una-centred", ("scores",), {"baseline": "mean"}),
        ("beta-dpo", "beta-dpo", ("pairs",), {}),
        ("bco", "bco", ("labels", "pairs"), {}),
        ("r-dpo", "r-dpo", ("pairs",), {}),
        ("lipo", "lipo", ("lists",), {}),
        ("reward-model", "reward-model", ("pairs", "lists"), {}),
        ("cringe", "cringe", ("labels", "pairs"), {}),
        ("weights", "odpo", ("weighted-pairs",), {}),
        ("tdpo", "tdpo", ("pairs",), {}),
        ("grpo", "grpo", ("scores",), {"loss_kwargs": {"scale_rewards": "batch", "variant": "dapo"}}),
        ("ppo", "ppo", ("scores",), {}),
    ]
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(ROOT / "tests"), cases=cases))
    single = _result([sys.executable, str(script)])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = _result([*launch, str(script)])
    for name, alone in single.items():
        both = two[name]
        assert (alone["processes"], both["processes"]) == (1, 2)
        gradients = [torch.tensor(run["gradient"]) for run in (alone, both)]
        assert (gradients[0] - gradients[1]).abs().max() <= 1e-6 * max(1, gradients[0].abs().max()), name
        for values in ("measured", "evaluated"):
            assert both[values] == pytest.approx(alone[values], rel=1e-5, abs=1e-6), name


def _result(command):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr
    return json.loads(lines[0].removeprefix("RESULT"))


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_would_each_train_alone_are_refused(name, monkeypatch, make_trainer, examples):
    processes()
    monkeypatch.setenv(name, "2")
    with pytest.raises(InputError, match=f"expected the 2 that {name} names to train together, got 1"):
        make_trainer("dpo", examples("pairs"))


@pytest.mark.parametrize(("tasks", "valid"), [(2, True), (8, True), (3, False), (16, False)])
def test_srun_may_start_one_torchrun_per_node(tasks, valid, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator", lambda cpu: SimpleNamespace(num_processes=8))
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(tasks))
    with nullcontext() if valid else pytest.raises(InputError, match=f"the {tasks} that SLURM_STEP_NUM_TASKS names"):
        processes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_process_count_without_a_rendezvous_is_refused(name, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", name: "2"}
    words = ["train", "dpo", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-m", "una_ref", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2 and "una-ref: processes: expected" in done.stderr
    assert not (tmp_path / "out").exists()


# ---- the exact optimum, by the same loop

BETA = 0.5
REWARDS = torch.log(torch.tensor([[1.0, 2.0, 4.0], [4.0, 1.0, 1.0], [2.0, 1.0, 8.0]], dtype=torch.float64))


def world():
    generator = torch.Generator().manual_seed(0)
    ref = torch.randn(REWARDS.shape, generator=generator, dtype=torch.float64).log_softmax(-1)
    return TableWorld(ref, REWARDS, BETA)


def feedback_of_prompt(x, kind):
    """All feedback on the three responses of a prompt: Bradley–Terry win counts, P(y = 1) = σ(r), or rewards."""
    odds = REWARDS[x].exp().round().int().tolist()  # i beats j odds[i] times and loses odds[j] times
    pairs = tuple((i, j) for i in range(3) for j in range(3) if i != j for _ in range(odds[i]))
    feedback = {
        "pairs": {"pairs": pairs},
        "labels": {"labels": tuple(torch.sigmoid(REWARDS[x]).tolist())},
        "scores": {"scores": tuple(REWARDS[x].tolist())},
    }[kind]
    return Example((x,), ((0,), (1,), (2,)), prompt_index=x, source=f"prompt {x}", **feedback)


def trained(method, kinds, dtype=torch.float64, **config):
    """(world, log-probs of the policy, trainer) after the loop has run on a table with full batches."""
    exact = world()
    given = [feedback_of_prompt(x, kind) for x, kind in enumerate(kinds)]
    settings = {
        "steps": 400,
        "batch": 3,
        "lr": 0.05,
        "value_lr": 0.05,
        "lora_r": 0,
        "loss_kwargs": {"beta": BETA},
    } | config
    config = Config(method=method, **settings)
    model = TableLM(exact.ref_logps.to(dtype))
    losses = {kind: loss for kind, loss in config.losses_by_kind.items() if kind in kinds}
    trainer = Trainer(Policy(model), losses, config, prompts=3)
    fit(Job(config, trainer, given, []))
    return exact, model.logps.detach(), trainer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_una_centred_reaches_the_optimum_of_a_table(dtype):
    exact, logps, _ = trained("una-centred", ["scores"] * 3, dtype)
    assert exact.metrics(exact.ref_logps)["regret"] > 0.1
    assert exact.metrics(logps)["regret"] < 1e-5


def test_dpo_reaches_the_optimum_of_a_table():
    exact, logps, _ = trained("dpo", ["pairs"] * 3)
    assert exact.metrics(logps)["regret"] < 1e-5


def test_una_score_without_a_baseline_misses_the_optimum_of_a_table():
    exact, logps, _ = trained("una-score", ["scores"] * 3)
    assert exact.metrics(logps)["regret"] > 1e-2


def test_learned_values_reach_beta_log_z():
    exact, logps, trainer = trained("una-centred", ["scores"] * 3, baseline="learned")
    torch.testing.assert_close(trainer.values.detach(), BETA * exact_log_z(exact), rtol=0, atol=1e-3)
    assert exact.metrics(logps)["regret"] < 1e-5


def test_dro_learns_the_optimum_and_the_values_of_a_table():
    exact, logps, trainer = trained("dro", ["scores"] * 3)
    torch.testing.assert_close(trainer.values.detach(), BETA * exact_log_z(exact), rtol=0, atol=1e-3)
    assert exact.metrics(logps)["regret"] < 1e-5


@pytest.mark.parametrize("divergence", ["js", "forward_kl"])
def test_f_dpo_reaches_the_optimum_of_its_divergence(divergence):
    exact, logps, _ = trained("f-dpo", ["pairs"] * 3, loss_kwargs={"beta": BETA, "divergence": divergence}, steps=1000)
    best = optimal_logps(exact.ref_logps, REWARDS, BETA, divergence)
    torch.testing.assert_close(logps.exp(), best.exp(), rtol=0, atol=1e-3)
    assert (best.exp() - exact.optimum.exp()).abs().max() > 0.02


def test_mixed_scores_labels_and_pairs_reach_the_optimum_of_every_prompt():
    exact, logps, trainer = trained("una-centred", ["scores", "labels", "pairs"], steps=1000)
    assert exact.metrics(logps)["regret"] < 1e-4
    values = trainer.values.detach()  # learned for all prompts, because labels need V(x)
    torch.testing.assert_close(values[:2], BETA * exact_log_z(exact)[:2], rtol=0, atol=1e-2)
    assert values[2] == values[2].new_tensor(0.0)  # V(x) cancels in a pair


def exact_log_z(exact):
    return torch.logsumexp(exact.ref_logps + REWARDS / BETA, dim=-1)


def test_untrained_prompt_uses_the_mean_of_the_learned_values(make_trainer, examples):
    given = examples("scores", prompts=3)
    trainer = make_trainer("una-centred", given[:2], baseline="learned")
    with torch.no_grad():
        trainer.values.copy_(torch.tensor([1.0, 2.0]))
    baseline = trainer.baseline(collate(given))
    assert baseline.tolist() == [{0: 1.0, 1: 2.0, 2: 1.5}[e.prompt_index] for e in given for _ in e.responses]


@pytest.mark.parametrize("method", ["dpo", "kto", "sft"])
def test_learned_baseline_is_refused_if_no_loss_takes_one(method, make_trainer, examples):
    given = examples(METHODS[method].kinds[0])
    with pytest.raises(InputError, match=f"baseline=learned: the losses of {method} take no baseline"):
        make_trainer(method, given, baseline="learned")


def test_learned_baseline_without_prompts_is_refused():
    config = Config(method="una-centred", lora_r=0)
    with pytest.raises(InputError, match=r"prompts: expected at least one, to learn a V\(x\) of each, got 0"):
        Trainer(Policy(TableLM(torch.zeros(2, 2))), {"labels": config.losses_by_kind["labels"]}, config)


# ---- steps


def test_a_step_has_the_learning_rate_of_its_place_in_the_run(make_trainer, examples):
    trainer = make_trainer("dpo", given := examples("pairs"), steps=10, warmup=0.2, lr=0.01)
    assert trainer.step(1, given)["lr"] == pytest.approx(0.01 * 2 / 3) == trainer.optimizer.param_groups[0]["lr"]


def test_l1_adds_its_weight_times_the_gradient_of_the_l1_norm(make_trainer, examples, gradient):
    given = examples("pairs")
    plain = make_trainer("dpo", given)
    of_loss = gradient(plain, given)
    plain.optimizer.zero_grad()
    l1_norm(plain.policy.model).backward()
    of_norm = torch.cat([p.grad.flatten() for p in plain.trained.values()])
    found = make_trainer("dpo", given, l1=0.5).step(0, given)["grad_norm"]
    assert found == pytest.approx(float((of_loss + 0.5 * of_norm).norm()), rel=1e-5)
    assert found != pytest.approx(float(of_loss.norm()), rel=0.1)


def test_learned_values_have_a_separate_learning_rate_and_no_weight_decay(make_trainer, examples):
    given = examples("scores")
    trainer = make_trainer("una-centred", given, baseline="learned", value_lr=0.5, weight_decay=0.1, warmup=0.0)
    trainer.step(0, given)
    weights, values = trainer.optimizer.param_groups
    assert (weights["lr"], weights["weight_decay"]) == (0.01, 0.1)
    assert (values["lr"], values["weight_decay"], values["params"]) == (0.5, 0.0, [trainer.values])


def test_each_epoch_is_a_permutation_set_by_seed_and_step():
    steps = [order(10, step, 4, seed=3) for step in range(10)]
    places = [index for step in steps for index in step]
    epochs = [places[e * 10 : e * 10 + 10] for e in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert steps[7] == order(10, 7, 4, seed=3) != order(10, 7, 4, seed=4)
    assert sorted(order(3, 0, 6, seed=0)) == [0, 0, 1, 1, 2, 2]  # a batch larger than the data


def test_dropout_depends_only_on_seed_step_and_update(make_trainer, examples, gradient):
    def grad_norm(step, noise=0, update=0, **config):
        given = examples("pairs")
        trainer = make_trainer("dpo", given, lora_dropout=0.5, **config)
        torch.manual_seed(noise)
        return trainer.step(step, given, update=update)["grad_norm"]

    assert grad_norm(2) == grad_norm(2, noise=1)
    assert len({grad_norm(2), grad_norm(3), grad_norm(2, update=1), grad_norm(2, seed=1)}) == 4


def test_no_two_steps_or_processes_share_their_random_numbers(make_trainer, examples):
    trainer, seeds = make_trainer("dpo", examples("pairs")), []
    for process, step in itertools.product(range(3), range(6)):
        trainer.accelerator = SimpleNamespace(num_processes=3, process_index=process, device=torch.device("cpu"))
        trainer._seed(step)
        seeds.append(torch.initial_seed())
    assert len(set(seeds)) == 18


def test_cached_reference_is_used_at_every_step(make_trainer, examples):
    given, held = examples("pairs"), examples("pairs", seed=1)
    trainer, cached = make_trainer("dpo", given), make_trainer("dpo", given, micro_tokens=20)
    cached.remember_reference(given)
    cached.policy.reference = lambda batch: pytest.fail("computed again")
    assert cached.accumulate(given) == pytest.approx(trainer.accumulate(given), rel=1e-4, abs=1e-6)
    with pytest.raises(pytest.fail.Exception):
        cached.evaluate(held)


def test_cached_reference_has_the_precision_of_the_policy(make_trainer, examples):
    given = examples("pairs")
    trainer = make_trainer("dpo", given, moved=False, lora_r=0, dtype="bfloat16")  # float32 weights under autocast
    trainer.remember_reference(given)
    trainer.policy.reference = lambda batch: pytest.fail("computed again")
    metrics = trainer.evaluate(given)
    assert metrics["rewards/chosen"] == metrics["rewards/rejected"] == 0


def test_non_finite_loss_or_gradient_stops_before_weights_change(make_trainer, examples):
    for in_gradient, rows in ((False, 1), (True, 6)):
        given = examples("pairs")
        trainer = make_trainer("dpo", given, micro_tokens=1)
        start = {name: p.detach().clone() for name, p in trainer.trained.items()}
        policy = trainer.policy.forward
        trainer.policy.forward = lambda batch, policy=policy, bad=in_gradient: _poisoned(policy(batch), batch, bad)
        with pytest.raises(
            NonFinite, match="a loss is nan" if rows == 1 else "norm of the gradient is (nan|inf)"
        ) as stop:
            trainer.step(0, given)
        assert len(stop.value.examples) == rows
        assert all(torch.equal(p, start[name]) for name, p in trainer.trained.items())


def _poisoned(logps, batch, in_gradient):
    """Log-probs with NaN in the forward pass of row 3, or with an infinite gradient there."""
    if "row 3" not in batch.sources:
        return logps
    if not in_gradient:
        return logps * torch.nan
    logps = logps.clone()
    logps.register_hook(lambda g: g * torch.inf)
    return logps


def test_evaluation_has_no_dropout_and_leaves_no_gradient(make_trainer, examples):
    given = examples("scores")
    trainer = make_trainer("una-score", given, lora_dropout=0.5)
    assert trainer.evaluate(given) == trainer.evaluate(given)
    assert trainer.policy.training and all(p.grad is None for p in trainer.trained.values())
