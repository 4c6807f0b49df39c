"""The tree is the documented one, sequence log-probabilities are right and fast, metrics are exact."""

import itertools
import math
import time

import pytest
import torch

from una_ref.theory import (
    Knobs,
    PrefixMLP,
    PrefixTree,
    SequenceWorld,
    TablePolicy,
    TableWorld,
    entropy,
    kl,
    objective,
    optimal_logps,
)

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
        [sum(table[prefixes.index(word[:t]), word[t]] for t in range(len(word))) for word in words(tree.sequences)]
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
    with pytest.raises(ValueError, match=r"one shape .*'rewards': \(7,\)"):  # would broadcast over the prompts' offsets
        SequenceWorld(torch.zeros(1, 3, 3).log_softmax(-1), torch.zeros(7), 1.0, length=2)
    with pytest.raises(ValueError, match=r"one shape .*'rewards': \(3, 1\)"):
        TableWorld(torch.zeros(3, 3).log_softmax(-1), torch.zeros(3, 1), 1.0)
    with pytest.raises(ValueError, match="rewards must be finite, got nan"):
        TableWorld(torch.zeros(1, 2).log_softmax(-1), torch.tensor([[0.0, torch.nan]]), 1.0)
    with pytest.raises(ValueError, match="beta must be positive and finite, one number, got -1"):
        TableWorld(torch.zeros(1, 2).log_softmax(-1), torch.zeros(1, 2), -1)
    with pytest.raises(ValueError, match="two or more responses of each prompt, got 1"):
        TableWorld.random(0, responses=1)
    for knobs, message in (
        ({"label_noise": 1.5}, "knob label_noise: expected a probability, got 1.5"),
        ({"label_noise": torch.nan}, "knob label_noise: .* got nan"),
        ({"thumbs_up": 1.0}, "knob thumbs_up: expected a share between 0 and 1, or None, got 1.0"),
        ({"writer": "nobody"}, "knob writer: expected reference or program, got 'nobody'"),
        ({"trap": torch.inf}, "knob trap: expected a finite number, got inf"),
        ({"offset": torch.nan}, "knob offset: expected a finite number, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            Knobs(**knobs)


# ------------------------------------------------------------------------------------------------------- random worlds


def both(seed=0, **knobs):
    """A small world of each kind, with knobs."""
    table = TableWorld.random(seed, prompts=3, responses=5, knobs=Knobs(**knobs))
    return table, SequenceWorld.random(seed, prompts=3, vocabulary=3, length=3, knobs=Knobs(**knobs))


def same_pair(world, n, x=1):
    """(n, 3) one prompt and its best and worst response, over and over."""
    r = world.labeller[x]
    return torch.tensor([[x, int(r.argmax()), int(r.argmin())]]).expand(n, 3)


def share(hits, p):
    """The share of hits lies within 4 standard deviations of p."""
    hits = hits.double()
    assert abs(float(hits.mean()) - p) < 4 * math.sqrt(p * (1 - p) / len(hits)), (float(hits.mean()), p)


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_random_rewards_have_the_mean_and_sd_that_were_asked_for(offset):
    for world in (TableWorld.random(1, offset=offset), SequenceWorld.random(1, offset=offset)):
        assert world.rewards.mean(-1).tolist() == pytest.approx([offset] * 8, abs=1e-12)
        assert world.rewards.std(-1, correction=0).tolist() == pytest.approx([1.0] * 8)
        assert torch.equal(world.labeller, world.rewards) and world.beta == 0.5
    assert world.rewards.shape == (8, 3906)
    other = SequenceWorld.random(2, offset=offset)
    assert torch.equal(SequenceWorld.random(1, offset=offset).rewards, world.rewards)
    assert not torch.equal(other.rewards, world.rewards) and not torch.equal(other.ref_logps, world.ref_logps)


def test_a_random_sequence_world_speaks_of_neighbours():
    world = SequenceWorld.random(0, prompts=2, vocabulary=4, length=4)
    torch.testing.assert_close(world.ref_logps.exp().sum(-1), torch.ones(2, dtype=F64))
    # π_ref's next token depends on the last one, and on nothing else.
    last = world.tree.last
    assert last.tolist() == [word[-1] if word else 0 for word in words(world.prefixes)]
    for token in range(4):
        rows = world.ref_next_logps[:, last == token]
        assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert (world.ref_next_logps[:, last == 1][:, 0] - world.ref_next_logps[:, last == 2][:, 0]).abs().max() > 0.1

    # So do the rewards: one more (1, 1) is worth the same wherever it stands.
    def reward(*tokens):
        return world.rewards[:, world.index(tokens)]

    more = reward(1, 1, 1, 0) - reward(1, 1, 0)
    torch.testing.assert_close(more, reward(2, 1, 1, 0) - reward(2, 1, 0))
    assert more.abs().min() > 1e-3


@pytest.mark.parametrize("kind", [0, 1], ids=["table", "sequences"])
def test_each_knob_does_what_it_says(kind):
    plain = both()[kind]
    offset = both(offset=2.0)[kind]
    moved = offset.rewards - plain.rewards
    torch.testing.assert_close(moved, offset.offsets.expand_as(moved))
    torch.testing.assert_close(offset.labeller, offset.rewards)
    assert torch.equal(offset.scores, plain.scores) and moved[:, 0].std() > 0.3
    torch.testing.assert_close(offset.optimum, plain.optimum)  # what is the same for a prompt changes nothing

    long = both(length_bias=0.7)[kind]
    assert torch.equal(long.rewards, plain.rewards)
    torch.testing.assert_close(long.labeller - long.rewards, (0.7 * long.fullness).expand_as(long.rewards))

    trap = both(trap=3.0)[kind]
    assert 0 < int(trap.trapped.sum()) <= 4
    torch.testing.assert_close(plain.rewards - trap.rewards, 3.0 * trap.trapped.double().expand_as(trap.rewards))
    torch.testing.assert_close(trap.labeller - plain.rewards, 3.0 * trap.trapped.double().expand_as(trap.rewards))
    # Whoever maximises the proxy is hacked: worse than π_ref for the truth, for which the world's optimum is the best.
    hacked = optimal_logps(trap.ref_logps, trap.labeller, trap.beta)
    assert trap.metrics(hacked)["reward"] < trap.metrics(trap.ref_logps)["reward"]
    assert trap.metrics(trap.optimum)["regret"] == pytest.approx(0, abs=1e-12)


def test_lengths_and_traps():
    table, sequences = both()
    assert table.fullness.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert table.trapped.tolist() == [True] + 4 * [False]
    columns = zip(words(sequences.sequences), sequences.fullness.tolist(), sequences.trapped.tolist(), strict=True)
    of = {word: (full, trapped) for word, full, trapped in columns}
    assert of[(0,)] == (0.0, False) and of[(1, 0)] == (pytest.approx(1 / 3), False) and of[(1, 1, 1)] == (1.0, False)
    assert [word for word, (_, trapped) in of.items() if trapped] == [(1, 2, 2), (2, 2, 0), (2, 2, 1), (2, 2, 2)]
    assert not PrefixTree(3, 1).doubled.any()


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("kind", [0, 1], ids=["table", "sequences"])
def test_verdicts_follow_their_probabilities(kind, noise):
    world = both(label_noise=noise, length_bias=0.4)[kind]
    drawn = same_pair(world, 5000)
    x, first, second = drawn[0].tolist()
    wins = world.preferences()
    torch.testing.assert_close(wins + wins.mT, torch.ones_like(wins))
    clean = (world.labeller[x, first] - world.labeller[x, second]).sigmoid()
    assert float(wins[x, first, second]) == pytest.approx(float(clean) * (1 - noise) + (1 - float(clean)) * noise)
    share(world.verdicts(drawn, "pairs", seed=1), float(wins[x, first, second]))
    thumbs, up = world.thumbs(world.ref_logps), world.verdicts(drawn, "labels", seed=2)
    assert up.dtype == torch.bool and up.shape == (5000, 2)
    for i, y in ((0, first), (1, second)):
        share(up[:, i], float(thumbs[x, y]))
    assert torch.equal(world.verdicts(drawn, "scores", seed=1), world.labeller[drawn[:, :1], drawn[:, 1:]])
    assert not torch.equal(up, world.verdicts(drawn, "labels", seed=3))
    with pytest.raises(ValueError, match="expected scores, labels, or pairs of two responses, got 'stars' with 2"):
        world.verdicts(drawn, "stars", seed=0)
    with pytest.raises(ValueError, match="got 'pairs' with 1 a prompt"):
        world.verdicts(drawn[:, :2], "pairs", seed=0)


@pytest.mark.parametrize("wanted", [0.05, 0.6])
def test_the_share_of_thumbs_up(wanted):
    world = TableWorld.random(3, offset=80.0, knobs=Knobs(thumbs_up=wanted, label_noise=0.1))
    expected = wanted * 0.9 + (1 - wanted) * 0.1
    exact = (world.ref_logps.exp() * world.thumbs(world.ref_logps)).sum(-1).mean()
    assert float(exact) == pytest.approx(expected, abs=1e-10)
    drawn = world.draw(8000, world.ref_logps, seed=0, k=1)
    share(world.verdicts(drawn, "labels", seed=0).flatten(), expected)


@pytest.mark.parametrize("writer", ["reference", "program"])
def test_draws_follow_their_writer(writer):
    world = TableWorld.random(0, prompts=3, responses=5, knobs=Knobs(writer=writer))
    drawn = world.draw(9000, world.ref_logps, seed=0, k=2)
    assert drawn.shape == (9000, 3) and drawn[:7, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    torch.testing.assert_close(world.writer_logps.exp().sum(-1), torch.ones(3, dtype=F64))
    assert torch.equal(world.writer_logps, world.ref_logps) == (writer == "reference")
    for x in range(3):
        ys = drawn[drawn[:, 0] == x, 1:].flatten()
        for y in range(5):
            share(ys == y, float(world.writer_logps[x, y].exp()))
    untied = world.draw(300, world.ref_logps, seed=0, untied=True)
    assert (untied[:, 1] != untied[:, 2]).all()
    with pytest.raises(ValueError, match="untied draw: expected a writer whose responses differ in score"):
        TableWorld(world.ref_logps, world.rewards * 0, 1.0).draw(8, world.ref_logps, seed=0, untied=True)


def test_draws_and_worlds_of_one_seed_share_no_number():
    # What made the world must not also draw from it, nor make its offsets.
    for kind in (TableWorld, SequenceWorld):
        world = kind.random(5, prompts=2, knobs=Knobs(offset=1.0))
        made = torch.randn(2, generator=torch.Generator().manual_seed(5), dtype=F64).tolist()
        assert not set(world.offsets.flatten().tolist()) & set(made)
    world = TableWorld.random(5, prompts=4, responses=4)
    plain = torch.multinomial(
        world.ref_logps.exp()[torch.arange(64) % 4], 2, True, generator=torch.Generator().manual_seed(5)
    )
    assert not torch.equal(world.draw(64, world.ref_logps, seed=5)[:, 1:], plain)


# ----------------------------------------------------------------------------------------------------------- policies


def test_rows_of_prefixes():
    tree = PrefixTree(4, 3)
    order = torch.randperm(len(tree.prefixes), generator=torch.Generator().manual_seed(0))
    assert torch.equal(tree.rows(tree.prefixes[order]), order)
    for wrong in ([1, 2, 3], [0, -1, -1], [4, -1, -1], [-1, 1, -1], [1, -2, -1], [1, 0, -1], [0, 4, -1]):
        with pytest.raises(ValueError, match="is no prefix of this tree: expected fewer than 3 tokens of 1..3"):
            tree.rows(torch.tensor([[1, -1, -1], wrong]))
    with pytest.raises(ValueError, match=r"prefixes must be \(any number, 3\), got \(1, 2\)"):
        tree.rows(torch.tensor([[1, 2]]))


def policies(world):
    """One of each: a table, a network, and a plain function."""
    return {
        "table": TablePolicy(world.tree, next_logps(world.tree, len(world.rewards))),
        "network": PrefixMLP(world.tree, len(world.rewards)),
        "function": lambda prefixes: torch.zeros(len(world.rewards), len(prefixes), 3, dtype=F64).log_softmax(-1),
    }


@pytest.mark.parametrize("kind", ["table", "network", "function"])
def test_a_policy_is_anything_that_maps_prefixes_to_next_tokens(kind):
    world = both()[1]
    policy = policies(world)[kind]
    logps = world.sequence_logps(policy)
    torch.testing.assert_close(logps.exp().sum(-1), torch.ones(3, dtype=F64))
    assert torch.equal(logps, world.sequence_logps(policy(world.prefixes)))
    # What it says of a prefix does not depend on the others that it is asked about.
    some = torch.tensor([4, 1, 1])
    torch.testing.assert_close(policy(world.prefixes[some]), policy(world.prefixes)[:, some])
    assert world.regret(logps).min() > 0


@pytest.mark.parametrize("kind", ["table", "network"])
def test_gradients_reach_every_parameter(kind):
    world = both()[1]
    policy = policies(world)[kind]

    def loss():
        return world.regret(world.sequence_logps(policy)).mean()

    parameters = list(policy.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert gradient.abs().max() > 0
        at = int(gradient.abs().argmax())  # one finite difference each
        flat = parameter.data.view(-1)
        values = []
        for step in (1e-6, -1e-6):
            flat[at] += step
            values.append(loss().item())
            flat[at] -= step
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(gradient.flatten()[at]), rel=1e-5)


def test_a_table_starts_where_it_is_put_and_a_network_near_uniform():
    world = both()[1]
    table = TablePolicy(world.tree, world.ref_next_logps)
    torch.testing.assert_close(world.sequence_logps(table), world.ref_logps)
    with torch.no_grad():
        table.logits += 1  # logits, not log-probs; and not the world's own
    torch.testing.assert_close(world.sequence_logps(table), world.ref_logps)
    torch.testing.assert_close(world.sequence_logps(world.ref_next_logps), world.ref_logps)
    assert (PrefixMLP(world.tree, 3)(world.prefixes).exp() - 1 / 3).abs().max() < 0.2
    one, same, other = (PrefixMLP(world.tree, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.out.weight, same.out.weight) and not torch.equal(one.out.weight, other.out.weight)
    state = torch.get_rng_state()
    PrefixMLP(world.tree, 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_network_of_the_embedded_worlds_size():
    network = PrefixMLP(PrefixTree.of(6, 5), 8)
    assert sum(parameter.numel() for parameter in network.parameters()) == 6662
    world = SequenceWorld.random(0)
    start = time.perf_counter()
    logps = world.sequence_logps(network)
    assert time.perf_counter() - start < 0.5  # about 0.007 s; the bound leaves room for a busy machine
    torch.testing.assert_close(logps.exp().sum(-1), torch.ones(8, dtype=F64))


@pytest.mark.parametrize("kind", ["table", "network"])
def test_learning_lowers_regret(kind):
    world = SequenceWorld.random(0, prompts=4, vocabulary=4, length=4)
    policy = TablePolicy(world.tree, world.ref_next_logps) if kind == "table" else PrefixMLP(world.tree, 4)
    before = world.metrics(world.sequence_logps(policy))["regret"]
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.03 if kind == "table" else 0.01)
    for _ in range(300):
        loss = -objective(world.sequence_logps(policy), world.ref_logps, world.rewards, world.beta).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = world.metrics(world.sequence_logps(policy))
    assert before > 0.2 and after["regret"] < 0.02 * before, (before, after["regret"])
    assert after["reward"] > world.metrics(world.ref_logps)["reward"]
