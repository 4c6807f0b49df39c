"""The prefix tree against an enumeration of all sequences, and its log-probabilities against a loop."""

import itertools

import pytest
import torch

from una_ref.theory import PrefixTree

F64 = torch.float64


def next_logps(tree, prompts, seed=0):
    torch.manual_seed(seed)
    return torch.randn(prompts, len(tree.prefixes), tree.vocabulary, dtype=F64).log_softmax(-1)


def words(rows):
    return [tuple(token for token in row if token >= 0) for row in rows.tolist()]


def test_a_small_tree_by_hand():
    # Two letters besides EOS and at most 2 tokens: the prefixes are (), 1, 2; after each of 1 and 2 come EOS, 1 or 2.
    tree = PrefixTree(3, 2)
    assert tree.prefixes.tolist() == [[-1, -1], [1, -1], [2, -1]]
    assert tree.parents.tolist() == [-1, 0, 0]
    assert tree.depths.tolist() == [0, 1, 1]
    assert tree.sequences.tolist() == [[0, -1], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
    assert tree.lengths.tolist() == [1, 2, 2, 2, 2, 2, 2]
    assert tree.steps.tolist() == [[0, -1], *[[0, 1]] * 3, *[[0, 2]] * 3]
    assert len(tree) == 7


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 1), (2, 4), (4, 1), (4, 3), (6, 5)])
def test_every_prefix_and_sequence_once_and_in_order(vocabulary, length):
    tree = PrefixTree(vocabulary, length)
    letters = range(1, vocabulary)
    prefixes = {word for size in range(length) for word in itertools.product(letters, repeat=size)}
    sequences = {(*word, 0) for word in prefixes} | set(itertools.product(letters, repeat=length))
    assert len(tree.prefixes) == len(prefixes) == sum((vocabulary - 1) ** t for t in range(length))
    assert len(tree) == len(sequences) == len(prefixes) + (vocabulary - 1) ** length
    assert words(tree.prefixes) == sorted(prefixes)  # preorder with children by token is dictionary order
    assert words(tree.sequences) == sorted(sequences)


def test_the_tree_of_toysteer_has_3906_sequences_and_is_built_once():
    tree = PrefixTree.of(6, 5)
    assert (len(tree.prefixes), len(tree)) == (781, 3906)
    assert PrefixTree.of(6, 5) is tree


def test_parents_and_steps_are_the_rows_of_shorter_prefixes():
    tree = PrefixTree(4, 4)
    prefixes = words(tree.prefixes)
    for row, prefix in enumerate(prefixes[1:], start=1):
        assert prefixes[tree.parents[row]] == prefix[:-1]
    for sequence, steps in zip(words(tree.sequences), words(tree.steps), strict=True):
        assert [prefixes[step] for step in steps] == [sequence[:t] for t in range(len(sequence))]


def test_index_is_the_row_of_a_sequence():
    tree = PrefixTree(4, 3)
    assert [tree.index(word) for word in words(tree.sequences)] == list(range(len(tree)))
    assert tree.index(torch.tensor([2, 0])) == tree.index([2, 0])
    for wrong in ((), (1,), (1, 0, 0), (0, 1), (4, 0), (1, 1, 1, 0)):
        with pytest.raises(ValueError, match=r"sequence: expected tokens 1..3 and then EOS \(0\), at most 3"):
            tree.index(wrong)


def test_sequence_logps_are_sums_over_a_sequences_steps():
    tree = PrefixTree(4, 3)
    policy = next_logps(tree, prompts=2)
    prefixes = words(tree.prefixes)
    slow = [
        [sum(table[prefixes.index(word[:t]), word[t]] for t in range(len(word))) for word in words(tree.sequences)]
        for table in policy
    ]
    torch.testing.assert_close(tree.sequence_logps(policy), torch.tensor(slow, dtype=F64), rtol=0, atol=1e-14)


def test_sequence_logps_are_a_distribution_and_differentiable():
    tree = PrefixTree(3, 3)
    policy = next_logps(tree, prompts=2)
    torch.testing.assert_close(tree.sequence_logps(policy).exp().sum(-1), torch.ones(2, dtype=F64))
    assert torch.autograd.gradcheck(tree.sequence_logps, (policy.requires_grad_(),))
    forbidden = policy.detach().clone()
    forbidden[:, :, 2] = -torch.inf
    forbidden = forbidden.log_softmax(-1)
    torch.testing.assert_close(tree.sequence_logps(forbidden).exp().sum(-1), torch.ones(2, dtype=F64))


def test_rows_finds_prefixes_in_any_order():
    tree = PrefixTree(4, 3)
    order = torch.randperm(len(tree.prefixes), generator=torch.Generator().manual_seed(0))
    assert torch.equal(tree.rows(tree.prefixes[order]), order)
    for wrong in ([1, 2, 3], [0, -1, -1], [4, -1, -1], [-1, 1, -1], [1, -2, -1], [1, 0, -1], [0, 4, -1]):
        with pytest.raises(ValueError, match="prefixes: expected fewer than 3 tokens of 1..3, then -1, got"):
            tree.rows(torch.tensor([[1, -1, -1], wrong]))
    with pytest.raises(ValueError, match=r"prefixes: expected the shape \(any number, 3\), got \(1, 2\)"):
        tree.rows(torch.tensor([[1, 2]]))


def test_fullness_and_doubled_of_each_sequence():
    tree = PrefixTree(3, 3)
    fullness = dict(zip(words(tree.sequences), tree.fullness.tolist(), strict=True))
    assert fullness[(0,)] == 0.0 and fullness[(1, 0)] == pytest.approx(1 / 3) and fullness[(1, 1, 1)] == 1.0
    assert words(tree.sequences[tree.doubled]) == [(1, 2, 2), (2, 2, 0), (2, 2, 1), (2, 2, 2)]
    assert not PrefixTree(3, 1).doubled.any()


def test_sizes_and_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="PrefixTree: expected vocabulary >= 2 and length >= 1, got 1 and 2"):
        PrefixTree(1, 2)
    with pytest.raises(ValueError, match=r"next_logps: expected the shape \(prompts, 3, 3\), got \(1, 4, 3\)"):
        PrefixTree(3, 2).sequence_logps(torch.zeros(1, 4, 3))
