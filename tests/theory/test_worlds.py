"""The tree is the documented one, sequence log-probabilities are right and fast, metrics are exact."""

import itertools
import time

import pytest
import torch

from una_ref.theory import PrefixTree, SequenceWorld, TableWorld, entropy, kl, optimal_logps

F64 = torch.float64


def next_logps(tree, prompts, seed=0):
    torch.manual_seed(seed)
    return torch.randn(prompts, len(tree.prefixes), tree.vocabulary, dtype=F64).log_softmax(-1)


def words(rows):
    return [tuple(token for token in row if token >= 0) for row in rows.tolist()]


def test_a_small_tree_by_hand():
    # Two letters besides EOS and at most 2 tokens: prefixes (), 1, 2; from each of 1 and 2: EOS, 1 or 2.
    tree = PrefixTree(3, 2)
    assert tree.prefixes.tolist() == [[-1, -1], [1, -1], [2, -1]]
    assert tree.parents.tolist() == [-1, 0, 0]
    assert tree.depths.tolist() == [0, 1, 1]
    assert tree.sequences.tolist() == [[0, -1], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
    assert tree.lengths.tolist() == [1, 2, 2, 2, 2, 2, 2]
    assert tree.steps.tolist() == [[0, -1], *[[0, 1]] * 3, *[[0, 2]] * 3]
    assert len(tree) == 7


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 1), (2, 4), (4, 1), (4, 3), (6, 5)])
def test_every_sequence_once_in_order(vocabulary, length):
    tree = PrefixTree(vocabulary, length)
    letters = range(1, vocabulary)
    prefixes = {word for size in range(length) for word in itertools.product(letters, repeat=size)}
    sequences = {(*word, 0) for word in prefixes} | set(itertools.product(letters, repeat=length))
    assert len(tree.prefixes) == len(prefixes) == sum((vocabulary - 1) ** t for t in range(length))
    assert len(tree) == len(sequences) == len(prefixes) + (vocabulary - 1) ** length
    assert words(tree.prefixes) == sorted(prefixes)  # preorder with children by token is dictionary order
    assert words(tree.sequences) == sorted(sequences)


def test_the_size_of_the_embedded_world():
    tree = PrefixTree.of(6, 5)
    assert (len(tree.prefixes), len(tree)) == (781, 3906)
    assert PrefixTree.of(6, 5) is tree


def test_parents_and_steps_are_prefixes():
    tree = PrefixTree(4, 4)
    prefixes = words(tree.prefixes)
    for row, prefix in enumerate(prefixes[1:], start=1):
        assert prefixes[tree.parents[row]] == prefix[:-1]
    for sequence, steps in zip(words(tree.sequences), words(tree.steps), strict=True):
        assert [prefixes[step] for step in steps] == [sequence[:t] for t in range(len(sequence))]


def test_index():
    tree = PrefixTree(4, 3)
    assert [tree.index(word) for word in words(tree.sequences)] == list(range(len(tree)))
    assert tree.index(torch.tensor([2, 0])) == tree.index([2, 0])
    for wrong in ((), (1,), (1, 0, 0), (0, 1), (4, 0), (1, 1, 1, 0)):
        with pytest.raises(ValueError, match="is no sequence of this tree"):
            tree.index(wrong)


def test_sequence_logps_by_a_loop():
    tree = PrefixTree(4, 3)
    policy = next_logps(tree, prompts=2)
    prefixes = words(tree.prefixes)
    slow = [
        [
            sum(table[prefixes.index(word[:t]), word[t]] for t in range(len(word)))
            for word in words(tree.sequences)
        ]
        for table in policy
    ]
    torch.testing.assert_close(tree.sequence_logps(policy), torch.tensor(slow, dtype=F64), rtol=0, atol=1e-14)


def test_sequence_logps_sum_to_one_and_differentiate():
    tree = PrefixTree(3, 3)
    policy = next_logps(tree, prompts=2)
    torch.testing.assert_close(tree.sequence_logps(policy).exp().sum(-1), torch.ones(2, dtype=F64))
    assert torch.autograd.gradcheck(tree.sequence_logps, (policy.requires_grad_(),))
    forbidden = policy.detach().clone()
    forbidden[:, :, 2] = -torch.inf
    forbidden = forbidden.log_softmax(-1)
    torch.testing.assert_close(tree.sequence_logps(forbidden).exp().sum(-1), torch.ones(2, dtype=F64))


def test_sequence_logps_are_fast():
    tree = PrefixTree.of(6, 5)
    policy = next_logps(tree, prompts=8).requires_grad_()

    def once():
        start = time.perf_counter()
        tree.sequence_logps(policy).sum().backward()
        return time.perf_counter() - start

    assert min(once() for _ in range(10)) < 0.03  # about 0.003 s; the bound leaves room for a busy machine


def test_a_sequence_world_is_a_table_world():
    tree = PrefixTree.of(3, 3)
    ref, policy = next_logps(tree, prompts=2), next_logps(tree, prompts=2, seed=1)
    rewards = torch.randn(2, len(tree), dtype=F64)
    world = SequenceWorld(ref, rewards, 0.5, length=3)
    table = TableWorld(tree.sequence_logps(ref), rewards, 0.5)
    logps = world.sequence_logps(policy.float())
    assert logps.dtype == F64
    assert world.metrics(logps) == table.metrics(logps)
    assert torch.equal(world.sequences, tree.sequences) and torch.equal(world.prefixes, tree.prefixes)
    assert torch.equal(world.lengths, tree.lengths)
    assert world.index((1, 2, 0)) == tree.index((1, 2, 0))


def test_metrics():
    torch.manual_seed(0)
    ref, policy = torch.randn(2, 3, 4, dtype=F64).log_softmax(-1)
    rewards, beta = torch.randn(3, 4, dtype=F64), 0.7
    world = TableWorld(ref, rewards, beta)
    best = optimal_logps(ref, rewards, beta)
    metrics = world.metrics(policy.requires_grad_())
    assert metrics == pytest.approx(
        {
            "regret": beta * kl(policy, best).mean().item(),
            "reward": (policy.exp() * rewards).sum(-1).mean().item(),
            "kl": kl(policy, ref).mean().item(),
            "kl_to_optimum": kl(policy, best).mean().item(),
            "entropy": entropy(policy).mean().item(),
        },
        abs=1e-12,
    )
    at_best = world.metrics(world.optimum)
    assert at_best["regret"] == pytest.approx(0, abs=1e-12)
    assert at_best["kl_to_optimum"] == 0
    # J(π*) = E r − β·KL = β·log Z
    assert at_best["reward"] - beta * at_best["kl"] == pytest.approx(beta * world.log_partition.mean().item())


def test_what_is_refused():
    tree = PrefixTree(3, 2)
    with pytest.raises(ValueError, match="vocabulary >= 2 and length >= 1, got 1 and 2"):
        PrefixTree(1, 2)
    with pytest.raises(ValueError, match=r"next_logps must be \(prompts, 3, 3\), got \(1, 4, 3\)"):
        tree.sequence_logps(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="ref_logps: each row must sum to one"):
        SequenceWorld(torch.zeros(1, 3, 3), torch.zeros(1, 7), 1.0, length=2)
    with pytest.raises(ValueError, match=r"'rewards': \(1, 6\)"):
        SequenceWorld(torch.zeros(1, 3, 3).log_softmax(-1), torch.zeros(1, 6), 1.0, length=2)
