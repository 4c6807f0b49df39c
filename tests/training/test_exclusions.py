"""Keys that exclude each other, and the moving reference of a run."""

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.policies.loading import TableLM
from una_ref.policies.references import Policy
from una_ref.theory.worlds import TableWorld
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.loop import fit
from una_ref.training.prepare import prepare
from una_ref.training.settings import resolve
from una_ref.training.trainer import Trainer


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        ("sft", {"refresh_every": 5}, "refresh_every: expected 0, since sft has no reference, got 5"),
        (
            "dpo",
            {"refresh_every": 5, "reference": "cache"},
            "reference=cache: expected a reference that stays",
        ),
        ("tr-dpo", {"reference": "cache"}, "Fix: reference=step, or refresh_every=0"),
        (
            "dpo",
            {"refresh_every": 5, "reference_model": "m"},
            "reference_model: expected none, since the ref",
        ),
        ("dpo", {"refresh_mix": 0.5}, "refresh_mix: expected a reference that moves, got refresh_every=0"),
    ],
)
def test_a_moving_reference_is_refused_where_it_cannot_move(method, keys, message):
    with pytest.raises(InputError, match=message):
        Config(method=method, **keys)


def test_choice_of_pairs_is_refused_for_sampled_responses():
    Config(method="dpo", pairs="all")
    with pytest.raises(InputError, match="pairs: applies to given responses, got all. Of sampled ones, iterative-dpo"):
        Config(method="iterative-dpo", pairs="all")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["dpo", "learn_from=lists"], "learn_from: dpo: expected any, pairs, got lists"),
        (
            ["una-score", "learn_from=labels", "form=released"],
            "learn_from: una-score in form=released: expected any, sc",
        ),
        (["iterative-dpo", "learn_from=pairs"], "learn_from: applies to given responses, got pairs for sampled ones"),
        (["una-score", "online=true", "learn_from=scores"], "learn_from: applies to given responses"),
        (["dpo", "learn_from=ranked"], "learn_from: expected one of any, demos, pairs"),
        (["dpo", "second_reference_model=x/y"], "second_reference_model: expected none, since dpo has no second"),
    ],
)
def test_a_kind_of_feedback_or_a_second_reference_that_is_not_used_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        resolve(given[0], given[1:])


def test_samples_of_a_prompt_are_as_many_as_the_method_has_unless_a_number_is_given():
    assert [resolve(name).samples_per_prompt for name in ("rso", "best-of-k", "rloo")] == [8, 4, 4]
    assert resolve("rso", ["samples=3"]).samples_per_prompt == 3
    assert resolve("rso").samples is None and "samples" not in resolve("rso").changed()


def test_tr_dpo_is_dpo_whose_reference_moves_by_default():
    assert METHODS["tr-dpo"].loss is METHODS["dpo"].loss
    assert Config(method="tr-dpo").refresh == METHODS["tr-dpo"].refresh > 0 == Config(method="dpo").refresh
    assert Config(method="tr-dpo", refresh_every=0, reference="cache").refresh == 0
    assert Config(method="dpo", refresh_every=7).refresh == 7


def test_notes_of_a_run_say_how_its_reference_moves(data, tiny):
    job = prepare(resolve("tr-dpo", [*tiny, "refresh_every=7", "refresh_mix=0.5"], data=data("pairs")))
    note = "the reference takes 0.5 of the policy every 7 steps; implicit rewards are those since then"
    assert note in job.notes
    assert not [n for n in prepare(resolve("dpo", tiny, data=data("pairs"))).notes if "every" in n]


def table_run(refresh_every, steps, **config):
    """(log π_ref, rewards, β, the policy) after DPO on all Bradley–Terry pairs of a table."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.log(torch.tensor([[1.0, 2.0, 4.0], [4.0, 1.0, 2.0]], dtype=torch.float64))
    ref = torch.randn(rewards.shape, generator=generator, dtype=torch.float64).log_softmax(-1)
    odds = rewards.exp().round().int().tolist()  # i beats j odds[i] times
    given = [
        Example((x,), ((0,), (1,), (2,)), prompt_index=x, source=f"prompt {x}",
                pairs=tuple((i, j) for i in range(3) for j in range(3) if i != j for _ in range(odds[x][i])))
        for x in range(2)
    ]  # fmt: skip
    keys = {"steps": steps, "batch": 2, "lr": 0.05, "lora_r": 0, "schedule": "constant", "warmup": 0.0} | config
    run = Config(method="tr-dpo", refresh_every=refresh_every, loss_kwargs={"beta": 1.0}, **keys)
    trainer = Trainer(Policy(TableLM(ref), moves=run.refresh > 0), run.losses_by_kind, run)
    fit(Job(run, trainer, given, []))
    return ref, rewards, trainer.policy


def test_converged_stages_of_tr_dpo_multiply_the_exponent():
    # Each stage of DPO ends at π_n ∝ π_{n−1}·exp(r/β): after n stages it is π_ref·exp(n·r/β)/Z(x).
    for stages in (1, 2, 3):
        ref, rewards, policy = table_run(400, 400 * stages)
        expected = (ref + stages * rewards).log_softmax(-1)
        torch.testing.assert_close(policy.model.logps.detach().exp(), expected.exp(), rtol=0, atol=2e-3)
    fixed = TableWorld(ref, rewards, 1.0).optimum
    assert (expected.exp() - fixed.exp()).abs().max() > 0.1


def test_reference_moves_after_every_nth_step():
    ref, _, policy = table_run(4, 3)
    with policy.as_reference() as model:
        assert torch.equal(model.logps, ref)
    _, _, policy = table_run(4, 4)
    with policy.as_reference() as model:
        assert torch.equal(model.logps, policy.model.logps.detach()) and not torch.equal(model.logps, ref)
    _, _, policy = table_run(4, 5)
    with policy.as_reference() as model:
        assert not torch.equal(model.logps, policy.model.logps.detach())


def test_small_mixes_are_an_average_of_the_policies():
    _, _, hard = table_run(1, 1)
    ref, _, soft = table_run(1, 1, refresh_mix=0.25)
    with soft.as_reference() as model:
        mixed = 0.75 * ref + 0.25 * hard.model.table.weight.detach()
        torch.testing.assert_close(model.table.weight.detach(), mixed)
