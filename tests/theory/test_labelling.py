"""The knobs one by one, and feedback and samples against their probabilities."""

import math

import pytest
import torch

from una_ref.theory import Knobs, SequenceWorld, TableWorld, optimal_logps
from una_ref.theory.labelling import labeller_generator

F64 = torch.float64


def both(seed=0, **knobs):
    """A small table world and a small sequence world with these knobs."""
    table = TableWorld.random(seed, prompts=3, responses=5, knobs=Knobs(**knobs))
    return table, SequenceWorld.random(seed, prompts=3, vocabulary=3, length=3, knobs=Knobs(**knobs))


def same_pair(world, n, x=1):
    """(n, 3) n rows of one prompt with its best and worst response."""
    r = world.labeller[x]
    return torch.tensor([[x, int(r.argmax()), int(r.argmin())]]).expand(n, 3)


def share(hits, p):
    """The share of hits lies within 4 standard deviations of p."""
    hits = hits.double()
    assert abs(float(hits.mean()) - p) < 4 * math.sqrt(p * (1 - p) / len(hits)), (float(hits.mean()), p)


@pytest.mark.parametrize("kind", [0, 1], ids=["table", "sequences"])
def test_each_knob_changes_rewards_and_labeller_as_documented(kind):
    plain = both()[kind]
    offset = both(offset=2.0)[kind]
    moved = offset.rewards - plain.rewards
    torch.testing.assert_close(moved, offset.offsets.expand_as(moved))
    torch.testing.assert_close(offset.labeller, offset.rewards)
    assert torch.equal(offset.scores, plain.scores) and moved[:, 0].std() > 0.3
    torch.testing.assert_close(offset.optimum, plain.optimum)  # a constant for each prompt changes no optimum

    long = both(length_bias=0.7)[kind]
    assert torch.equal(long.rewards, plain.rewards)
    torch.testing.assert_close(long.labeller - long.rewards, (0.7 * long.fullness).expand_as(long.rewards))

    trap = both(trap=3.0)[kind]
    assert 0 < int(trap.trapped.sum()) <= 4
    torch.testing.assert_close(plain.rewards - trap.rewards, 3.0 * trap.trapped.double().expand_as(trap.rewards))
    torch.testing.assert_close(trap.labeller - plain.rewards, 3.0 * trap.trapped.double().expand_as(trap.rewards))
    # Reward hacking: the optimum of the labeller's reward is worse than π_ref in the true reward.
    hacked = optimal_logps(trap.ref_logps, trap.labeller, trap.beta)
    assert trap.metrics(hacked)["reward"] < trap.metrics(trap.ref_logps)["reward"]
    assert trap.metrics(trap.optimum)["regret"] == pytest.approx(0, abs=1e-12)


def test_fullness_and_trap_of_both_kinds():
    table, sequences = both()
    assert table.fullness.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert table.trapped.tolist() == [True] + 4 * [False]
    assert torch.equal(sequences.fullness, sequences.tree.fullness)
    assert torch.equal(sequences.trapped, sequences.tree.doubled)


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("kind", [0, 1], ids=["table", "sequences"])
def test_feedback_has_the_documented_probabilities(kind, noise):
    world = both(label_noise=noise, length_bias=0.4)[kind]
    drawn = same_pair(world, 5000)
    x, first, second = drawn[0].tolist()
    wins = world.preferences()
    torch.testing.assert_close(wins + wins.mT, torch.ones_like(wins))
    clean = (world.labeller[x, first] - world.labeller[x, second]).sigmoid()
    assert float(wins[x, first, second]) == pytest.approx(float(clean) * (1 - noise) + (1 - float(clean)) * noise)
    share(world.verdicts(drawn, "pairs", seed=1), float(wins[x, first, second]))
    expected, labels = world.label_probabilities(world.ref_logps), world.verdicts(drawn, "labels", seed=2)
    assert labels.dtype == torch.bool and labels.shape == (5000, 2)
    for i, y in ((0, first), (1, second)):
        share(labels[:, i], float(expected[x, y]))
    assert torch.equal(world.verdicts(drawn, "scores", seed=1), world.labeller[drawn[:, :1], drawn[:, 1:]])
    assert not torch.equal(labels, world.verdicts(drawn, "labels", seed=3))
    with pytest.raises(
        ValueError, match="expected scores, labels, or pairs of two or more responses, got 'stars' with 2"
    ):
        world.verdicts(drawn, "stars", seed=0)
    with pytest.raises(ValueError, match="got 'pairs' with 1 for each prompt"):
        world.verdicts(drawn[:, :2], "pairs", seed=0)


@pytest.mark.parametrize("offset", [-80.0, 80.0])
@pytest.mark.parametrize("wanted", [0.05, 0.6])
def test_positive_share_is_the_share_of_positive_labels_at_any_offset(wanted, offset):
    world = TableWorld.random(3, offset=offset, knobs=Knobs(positive_share=wanted, label_noise=0.1))
    expected = wanted * 0.9 + (1 - wanted) * 0.1
    exact = (world.ref_logps.exp() * world.label_probabilities(world.ref_logps)).sum(-1).mean()
    assert float(exact) == pytest.approx(expected, abs=1e-10)
    drawn = world.draw(8000, world.ref_logps, seed=0, k=1)
    share(world.verdicts(drawn, "labels", seed=0).flatten(), expected)


@pytest.mark.parametrize("writer", ["reference", "program"])
def test_samples_follow_the_writers_distribution(writer):
    world = TableWorld.random(0, prompts=3, responses=5, knobs=Knobs(writer=writer))
    drawn = world.draw(9000, world.ref_logps, seed=0, k=2)
    assert drawn.shape == (9000, 3) and drawn[:7, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    best = torch.nn.functional.one_hot(world.rewards.argmax(-1), 5)
    p = world.ref_logps.exp() if writer == "reference" else 0.5 * best + 0.5 / 5
    for x in range(3):
        ys = drawn[drawn[:, 0] == x, 1:].flatten()
        for y in range(5):
            share(ys == y, float(p[x, y]))
    untied = world.draw(300, world.ref_logps, seed=0, untied=True)
    assert (untied[:, 1] != untied[:, 2]).all()
    with pytest.raises(
        ValueError, match="draw with untied=True: expected responses that differ in score, got 0 such rows of 64"
    ):
        TableWorld(world.ref_logps, world.rewards * 0, 1.0).draw(8, world.ref_logps, seed=0, untied=True)


def test_worlds_samples_and_labels_of_one_seed_use_different_random_numbers():
    # The numbers that made the world must not also make its offsets or its samples.
    for kind in (TableWorld, SequenceWorld):
        world = kind.random(5, prompts=2, knobs=Knobs(offset=1.0))
        made = torch.randn(2, generator=torch.Generator().manual_seed(5), dtype=F64).tolist()
        assert not set(world.offsets.flatten().tolist()) & set(made)
    world = TableWorld.random(5, prompts=4, responses=4)
    plain = torch.multinomial(
        world.ref_logps.exp()[torch.arange(64) % 4], 2, True, generator=torch.Generator().manual_seed(5)
    )
    assert not torch.equal(world.draw(64, world.ref_logps, seed=5)[:, 1:], plain)
    sampler, labeller = torch.Generator().manual_seed(5), labeller_generator(5)
    first, second = (torch.rand(4096, generator=g, dtype=F64).tolist() for g in (sampler, labeller))
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"label_noise": 1.5}, "knob label_noise: expected a probability, got 1.5"),
        ({"label_noise": torch.nan}, "knob label_noise: .* got nan"),
        ({"positive_share": 1.0}, "knob positive_share: expected a share between 0 and 1, or None, got 1.0"),
        ({"writer": "nobody"}, "knob writer: expected reference or program, got 'nobody'"),
        ({"trap": torch.inf}, "knob trap: expected a finite number, got inf"),
        ({"offset": torch.nan}, "knob offset: expected a finite number, got nan"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Knobs(**knobs)
