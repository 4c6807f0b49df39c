import pytest
import torch

from una_ref.studies.leaderboard.linear_proxies import bigrams, linear_proxy
from una_ref.theory.prefix_tree import PrefixTree
from una_ref.theory.worlds import SequenceWorld


def test_features_count_neighbouring_tokens():
    tree = PrefixTree.of(3, 3)
    counts = bigrams(tree).view(-1, 3, 3)
    # (2, 1, 0) is start→2, 2→1, 1→EOS; the start counts as EOS.
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for before, after in ((0, 2), (2, 1), (1, 0)):
        expected[before, after] += 1
    torch.testing.assert_close(counts[tree.index((2, 1, 0))], expected)
    assert (counts.sum((1, 2)) == tree.lengths).all()


def test_the_model_maximises_the_penalised_likelihood():
    world = SequenceWorld.random(0, prompts=2, vocabulary=3, length=3)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([torch.arange(400)[:, None] % 2, torch.randint(15, (400, 2), generator=generator)], 1)
    r = world.rewards[drawn[:, :1], drawn[:, 1:]]
    wins = torch.rand(400, generator=generator) < (r[:, 0] - r[:, 1]).sigmoid()
    rewards = linear_proxy(world.tree, 2, drawn, wins, prior=2.0)
    # The gradient in each weight: Σ (1[first wins] − σ(gap))·(difference of features) = w/prior², w from the rewards.
    features = bigrams(world.tree)
    for x in range(2):
        own = drawn[:, 0] == x
        gap = features[drawn[own, 1]] - features[drawn[own, 2]]
        table = rewards[x]
        force = gap.T @ (wins[own].double() - (table[drawn[own, 1]] - table[drawn[own, 2]]).sigmoid())
        centred = features - features.mean(0)
        torch.testing.assert_close(centred @ force * 4.0, table, rtol=1e-8, atol=1e-8)


def test_many_pairs_bring_the_model_to_the_true_reward():
    world = SequenceWorld.random(1, prompts=1, vocabulary=3, length=3)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat(
        [torch.zeros(60_000, 1, dtype=torch.int64), torch.randint(15, (60_000, 2), generator=generator)], 1
    )
    r = world.rewards[0][drawn[:, 1:]]
    wins = torch.rand(60_000, generator=generator) < (r[:, 0] - r[:, 1]).sigmoid()
    gap = linear_proxy(world.tree, 1, drawn, wins) - world.rewards
    assert float((gap - gap.mean()).abs().max()) < 0.1


def test_a_model_of_single_tokens_gives_a_sequence_the_sum_of_its_tokens():
    world = SequenceWorld.random(1, prompts=1, vocabulary=3, length=3)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([torch.zeros(500, 1, dtype=torch.int64), torch.randint(15, (500, 2), generator=generator)], 1)
    wins = torch.rand(500, generator=generator) < 0.7
    [rewards] = linear_proxy(world.tree, 1, drawn, wins, tokens=1)
    # With a weight for each token, the order of the tokens does not matter; with one for each pair it does.
    same = world.tree.index((1, 2, 0)), world.tree.index((2, 1, 0))
    assert float(rewards[same[0]]) == pytest.approx(float(rewards[same[1]]), abs=1e-9)
    [other] = linear_proxy(world.tree, 1, drawn, wins)
    assert abs(float(other[same[0]] - other[same[1]])) > 1e-2
    counts = torch.stack([(world.tree.sequences == token).sum(1) for token in range(3)], 1).double()
    fitted = torch.linalg.lstsq(counts - counts.mean(0), rewards[:, None]).solution
    torch.testing.assert_close((counts - counts.mean(0)) @ fitted, rewards[:, None], rtol=0, atol=1e-8)
