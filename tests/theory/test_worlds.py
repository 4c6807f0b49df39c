"""Worlds: exact metrics, random worlds with the documented structure, and learning that lowers regret."""

import pytest
import torch

from una_ref.theory import PrefixTree, SequenceWorld, TableWorld, entropy, kl, objective, optimal_logps

F64 = torch.float64


def next_logps(tree, prompts, seed=0):
    torch.manual_seed(seed)
    return torch.randn(prompts, len(tree.prefixes), tree.vocabulary, dtype=F64).log_softmax(-1)


def words(rows):
    return [tuple(token for token in row if token >= 0) for row in rows.tolist()]


def test_a_sequence_world_is_a_table_world_over_its_sequences():
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


def test_metrics_are_exact_means_over_prompts():
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


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_random_rewards_have_the_given_mean_and_sd_one(offset):
    for world in (TableWorld.random(1, offset=offset), SequenceWorld.random(1, offset=offset)):
        assert world.rewards.mean(-1).tolist() == pytest.approx([offset] * 8, abs=1e-12)
        assert world.rewards.std(-1, correction=0).tolist() == pytest.approx([1.0] * 8)
        assert torch.equal(world.labeller, world.rewards) and world.beta == 0.5
    assert world.rewards.shape == (8, 3906)


@pytest.mark.parametrize("kind", [TableWorld, SequenceWorld])
def test_a_random_world_is_a_function_of_its_seed(kind):
    world, other = kind.random(1), kind.random(2)
    assert torch.equal(kind.random(1).rewards, world.rewards) and torch.equal(kind.random(1).ref_logps, world.ref_logps)
    assert not torch.equal(other.rewards, world.rewards) and not torch.equal(other.ref_logps, world.ref_logps)


@pytest.mark.parametrize("kind", [TableWorld, SequenceWorld])
def test_a_random_world_has_no_offset_by_default(kind):
    assert torch.equal(kind.random(1).rewards, kind.random(1, offset=0.0).rewards)


def test_a_random_sequence_world_depends_on_neighbouring_tokens_only():
    world = SequenceWorld.random(0, prompts=2, vocabulary=4, length=4)
    torch.testing.assert_close(world.ref_logps.exp().sum(-1), torch.ones(2, dtype=F64))
    # π_ref's next token depends on the last token alone.
    last = world.tree.last
    assert last.tolist() == [word[-1] if word else 0 for word in words(world.prefixes)]
    for token in range(4):
        rows = world.ref_next_logps[:, last == token]
        assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert (world.ref_next_logps[:, last == 1][:, 0] - world.ref_next_logps[:, last == 2][:, 0]).abs().max() > 0.1

    # So do the rewards: one more (1, 1) adds the same wherever it stands.
    def reward(*tokens):
        return world.rewards[:, world.index(tokens)]

    more = reward(1, 1, 1, 0) - reward(1, 1, 0)
    torch.testing.assert_close(more, reward(2, 1, 1, 0) - reward(2, 1, 0))
    assert more.abs().min() > 1e-3


def test_a_policy_may_be_a_function_of_prefixes():
    world = SequenceWorld.random(0, prompts=3, vocabulary=3, length=3)
    table = next_logps(world.tree, 3)
    logps = world.sequence_logps(lambda prefixes: table[:, world.tree.rows(prefixes)])
    assert torch.equal(logps, world.sequence_logps(table))
    torch.testing.assert_close(logps.exp().sum(-1), torch.ones(3, dtype=F64))
    torch.testing.assert_close(world.sequence_logps(world.ref_next_logps), world.ref_logps)


def test_descent_on_the_next_token_logits_lowers_regret_to_zero():
    world = SequenceWorld.random(0, prompts=4, vocabulary=4, length=4)
    logits = world.ref_next_logps.clone().requires_grad_()

    def logps():
        return world.sequence_logps(logits.log_softmax(-1))

    before = world.metrics(logps())["regret"]
    optimiser = torch.optim.Adam([logits], lr=0.03)
    for _ in range(300):
        optimiser.zero_grad()
        (-objective(logps(), world.ref_logps, world.rewards, world.beta).mean()).backward()
        optimiser.step()
    after = world.metrics(logps())
    assert before > 0.2 and after["regret"] < 0.02 * before, (before, after["regret"])
    assert after["reward"] > world.metrics(world.ref_logps)["reward"]


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="ref_logps: expected log-probabilities, got row 0"):
        SequenceWorld(torch.zeros(1, 3, 3), torch.zeros(1, 7), 1.0, length=2)
    with pytest.raises(ValueError, match=r"'rewards': \(1, 6\)"):
        SequenceWorld(torch.zeros(1, 3, 3).log_softmax(-1), torch.zeros(1, 6), 1.0, length=2)
    with pytest.raises(ValueError, match=r"the same shape .*'rewards': \(7,\)"):  # would broadcast over the offsets
        SequenceWorld(torch.zeros(1, 3, 3).log_softmax(-1), torch.zeros(7), 1.0, length=2)
    with pytest.raises(ValueError, match=r"the same shape .*'rewards': \(3, 1\)"):
        TableWorld(torch.zeros(3, 3).log_softmax(-1), torch.zeros(3, 1), 1.0)
    with pytest.raises(ValueError, match="rewards: expected finite numbers, got nan"):
        TableWorld(torch.zeros(1, 2).log_softmax(-1), torch.tensor([[0.0, torch.nan]]), 1.0)
    with pytest.raises(ValueError, match="beta: expected one positive, finite number, got -1"):
        TableWorld(torch.zeros(1, 2).log_softmax(-1), torch.zeros(1, 2), -1)
    with pytest.raises(ValueError, match="responses: expected two or more for each prompt, got 1"):
        TableWorld.random(0, responses=1)
