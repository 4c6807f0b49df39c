"""Methods on tokens from batches to gradients: DPO's gradient, micro-batches, rewards, packed and padded layouts."""

import math

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.methods import METHODS
from una_ref.training.memory import memory, models
from una_ref.training.prepare import prepare
from una_ref.training.settings import resolve

PAIRS = [
    Example((1, 5), ((6, 7, 2), (8, 2)), pairs=((0, 1),), source="a"),
    Example((1, 9, 4), ((3, 2), (7, 8, 9, 2)), pairs=((0, 1),), prompt_index=1, source="b"),
]
ON_PAIRS = ("token-dpo", "tdpo", "tdpo2", "cringe", "ld-dpo", "wpo")


def test_token_dpo_trains_as_dpo(make_trainer, gradient):
    found = {name: gradient(make_trainer(name, PAIRS), PAIRS) for name in ("dpo", "token-dpo")}
    torch.testing.assert_close(found["token-dpo"], found["dpo"], rtol=1e-4, atol=1e-7)
    assert found["dpo"].abs().max() > 1e-4


@pytest.mark.parametrize("name", ON_PAIRS)
def test_gradient_does_not_depend_on_micro_batches_and_layout(name, make_trainer, gradient):
    settings = ({}, {"micro_tokens": 1}, {"layout": "padded"})
    whole, *others = (gradient(make_trainer(name, PAIRS, **more), PAIRS) for more in settings)
    assert whole.abs().max() > 1e-5
    for other in others:
        torch.testing.assert_close(other, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["tdpo", "tdpo2"])
def test_tdpo_starts_at_log_2_and_reports_its_reward(name, make_trainer):
    start = make_trainer(name, PAIRS, moved=False).forward(PAIRS)
    torch.testing.assert_close(start.values, torch.full((2,), math.log(2)))
    assert (start.rewards == 0).all()
    trainer = make_trainer(name, PAIRS, loss_kwargs={"beta": 0.5})
    forward = trainer.forward(PAIRS)
    batch = trainer.batch(PAIRS)
    with torch.no_grad():
        policy = trainer.policy.outputs(batch, trainer.needs)["logits"].double()
        ref = trainer.policy.reference_distributions(batch).double()
    per_token = torch.nn.functional.kl_div(policy, ref, reduction="none", log_target=True).sum(-1)
    kl = torch.zeros(4, dtype=torch.float64).index_add(0, batch.response, per_token)
    weight = 0.5 * trainer.method.hyperparameters.get("alpha", 1.0)
    expected = 0.5 * (forward.logps - forward.ref_logps).double() + weight * kl
    torch.testing.assert_close(forward.rewards, expected, rtol=1e-4, atol=1e-5)
    assert kl.min() > 1e-4


@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_cringe_trains_on_pairs_and_on_labels(kind, make_trainer, examples, gradient):
    given = examples(kind)
    trainer = make_trainer("cringe", given, loss_kwargs={"top_k": 3.0})
    assert not trainer.policy.has_reference or not METHODS["cringe"].needs_reference
    assert trainer.forward(given).losses.keys() == {kind}
    assert gradient(trainer, given).abs().max() > 1e-4


@pytest.mark.parametrize(("name", "copies"), [("dpo", 0), ("token-dpo", 0), ("wpo", 4), ("tdpo", 9)])
def test_dry_run_counts_whole_distributions(name, copies, data, tiny):
    config = resolve(name, [*tiny, "held_out=0", "max_length=32", "batch=2"], data=data("pairs"))
    held = models(config, prepare(config).trainer.policy.model.config)
    row = Example((1,) * 4, ((5,) * 10, (6,) * 10), pairs=((0, 1),))
    found = {part.name: part.bytes for part in memory(config, held, row).parts}
    # Two rows of two responses of 10 tokens, 300 words of 4 bytes.
    assert found.get("distributions", 0) == copies * 2 * 2 * 10 * held.policy.config.vocab_size * 4
