"""Beam search on prefix trees against an enumeration of all sequences."""

import pytest
import torch

from una_ref.theory import PrefixTree, SequenceWorld
from una_ref.theory.beam_search import beam_search
from una_ref.theory.token_mdp import credits, last_token_rewards, soft_values

F64 = torch.float64


def random_scores(tree, prompts=2, seed=0):
    torch.manual_seed(seed)
    return torch.randn(prompts, len(tree.prefixes), tree.vocabulary, dtype=F64)


def test_wider_beam_finds_what_greedy_search_misses():
    # Token 1 is better at first (1 against 0.9), but only 2 leads to a good second token: 1 − 1 = 0 against 0.9 + 1.
    tree = PrefixTree.of(3, 2)
    scores = torch.tensor([[[-9.0, 1.0, 0.9], [-1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]]], dtype=F64)
    greedy, score = beam_search(tree, scores, 1)
    assert tree.sequences[greedy[0, 0]].tolist()[0] == 1 and score.item() == pytest.approx(0)
    rows, found = beam_search(tree, scores, 2)
    assert tree.sequences[rows[0, 0]].tolist() == [2, 1] and found[0].tolist() == pytest.approx([1.9, 0])


def test_full_beam_ranks_every_sequence():
    tree = PrefixTree.of(4, 3)
    scores = random_scores(tree)
    rows, found = beam_search(tree, scores, 10**6)
    expected, order = tree.sequence_logps(scores).sort(dim=1, descending=True)
    assert torch.equal(rows, order)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_scores_are_those_of_the_sequences_found(width):
    tree = PrefixTree.of(4, 4)
    scores = random_scores(tree, seed=width)
    rows, found = beam_search(tree, scores, width)
    assert rows.shape == (2, width)
    torch.testing.assert_close(found, tree.sequence_logps(scores).gather(1, rows))
    assert (found.diff(dim=1) <= 0).all()


def test_finished_sequence_stays_in_the_beam():
    tree = PrefixTree.of(2, 3)
    scores = torch.tensor([[[1.0, 0.5], [-5.0, -5.0], [-5.0, -5.0]]], dtype=F64)
    rows, found = beam_search(tree, scores, 1)
    assert tree.sequences[rows[0, 0]].tolist() == [0, -1, -1] and found.item() == 1


def test_search_by_the_credits_of_the_optimum_finds_the_highest_reward():
    # Greedy search by values finds the best sequence for 47 of 100 prompts, width 5 for 99, the full beam for all.
    world = SequenceWorld.random(0, prompts=100, vocabulary=4, length=4)
    values = soft_values(world.tree, world.ref_next_logps, last_token_rewards(world.tree, world.rewards), world.beta)
    guide = credits(values.next_logps, world.ref_next_logps, world.beta)
    best = world.rewards.amax(1, keepdim=True)  # two sequences of the same pairs of neighbours may share it

    def found(table, width):
        rows = beam_search(world.tree, table, width)[0][:, :1]
        return (world.rewards.gather(1, rows) > best - 1e-9).sum().item()

    greedy, wide, full = (found(guide, width) for width in (1, 5, 10**6))
    assert greedy < 60 and wide > 95 and full == 100
    assert found(values.next_logps, 10**6) < 100  # the likeliest sequence need not be the best


def test_bad_arguments_are_refused():
    tree = PrefixTree.of(3, 2)
    with pytest.raises(ValueError, match="width: expected at least 1, got 0"):
        beam_search(tree, random_scores(tree), 0)
    with pytest.raises(ValueError, match=r"token_scores: expected the shape \(prompts, 3, 3\), got \(3, 3\)"):
        beam_search(tree, random_scores(tree)[0], 2)
