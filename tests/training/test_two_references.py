"""A run with a second reference: its log-probs reach the loss by name, and a model that cannot be one is refused."""

import pytest
import torch

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.methods.negatives import d2o
from una_ref.training.prepare import prepare
from una_ref.training.settings import resolve


@pytest.fixture
def sft(data, tiny, tmp_path):
    """sft(name, *settings): the folder of a fully trained model."""

    def trained(name, *settings):
        words = ["--data", data("messages", 20), "--output", str(tmp_path / name), *tiny, "lora_r=0", "lr=0.05"]
        assert main(["train", "sft", *words, "steps=5", *settings]) == 0
        return str(tmp_path / name)

    return trained


def lists_of(batch, values):
    """(G, K) of one value for each response; here all lists are as long."""
    return values.view(-1, len(batch.lengths) // int(batch.groups.max() + 1))


@pytest.mark.parametrize("rank", [0, 4])
def test_the_loss_gets_both_references(rank, sft, data, tiny):
    base = sft("base")
    helpful, harmful = (sft(name, f"model={base}", "shape={}", f"seed={i}") for i, name in enumerate(["good", "bad"]))
    named = [f"reference_model={helpful}", f"second_reference_model={harmful}"]
    settings = [*tiny, "shape={}", f"lora_r={rank}", "beta=0.5", "held_out=0", *named]
    trainer = (job := prepare(resolve("d2o", settings, data=data("scores"), model=base))).trainer
    examples = job.examples[:4]
    trainer.policy.eval()
    forward = trainer.forward(examples)
    batch = forward.batch
    first, second = trainer.policy.reference(batch), trainer.policy.second_reference(batch)
    assert (first - second).abs().max() > 0.01
    given = {"logps": forward.logps, "ref_logps": first, "second_ref_logps": second, "scores": batch.scores.float()}
    lists = {name: lists_of(batch, value) for name, value in given.items()}
    expected = d2o(**lists, mask=torch.ones_like(lists["logps"], dtype=torch.bool), beta=0.5)
    torch.testing.assert_close(forward.losses["lists"], expected, rtol=0, atol=1e-5)
    same = d2o(**lists | {"second_ref_logps": lists["ref_logps"]}, mask=torch.ones(4, 3, dtype=torch.bool), beta=0.5)
    assert (same - expected).abs().max() > 1e-3
    forward.losses["lists"].sum().backward()
    assert all(p.grad is None for copy in trainer.policy.second_copy for p in copy.parameters())


def test_without_a_second_model_nothing_more_is_held_or_computed(sft, data, tiny, monkeypatch):
    base = sft("base")
    for more in ([], [f"second_reference_model={base}"]):
        job = prepare(resolve("d2o", [*tiny, "shape={}", *more], data=data("scores"), model=base))
        policy = job.trainer.policy
        assert not policy.second_copy and not policy.references_differ
        monkeypatch.setattr(policy, "second_reference", None)  # a call would fail
        assert job.trainer.forward(job.examples[:2]).losses["lists"].tolist() == pytest.approx([0.693147] * 2)


def test_a_second_model_that_cannot_be_a_reference_is_refused(sft, data, tiny):
    base = sft("base")
    settings = [*tiny, "shape={}"]
    with pytest.raises(InputError, match="nowhere"):
        prepare(resolve("d2o", [*settings, "second_reference_model=./nowhere"], data=data("scores"), model=base))
    other = sft("other", "vocabulary=280")
    with pytest.raises(InputError, match="second_reference_model .*: expected the policy's vocabulary, where"):
        prepare(resolve("d2o", [*settings, f"second_reference_model={other}"], data=data("scores"), model=base))
