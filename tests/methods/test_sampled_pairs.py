"""What methods on pairs of their own samples learn from unlimited rollouts, with the pairs that a run keeps of them."""

import math
import random
from itertools import product

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.methods import METHODS
from una_ref.methods.arguments import names
from una_ref.methods.gpo import rso
from una_ref.theory import TableWorld, bradley_terry, fixed_point
from una_ref.theory.populations import over_pairs
from una_ref.training.samplers import kept

F64 = torch.float64
BETA, SAMPLES = 0.5, 3
WORLD = TableWorld.random(2, prompts=1, responses=4, beta=BETA)
SAMPLER = torch.randn(1, 4, generator=torch.Generator().manual_seed(8), dtype=F64).log_softmax(-1)
CYCLE = torch.tensor([[[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]]], dtype=F64)
"""P(y ≻ y') where each of three responses beats the next one."""


def scores_of(name, drawn, preferences):
    """The scores of some samples, as a run of the method has them."""
    if name == "dno":  # a response's win rate against the other samples; P(y ≻ y) = 0.5
        table = preferences[0][drawn][:, drawn]
        return ((table.sum(1) - 0.5) / (len(drawn) - 1)).tolist()
    if name == "self-rewarding":  # the policy that samples is the judge
        return SAMPLER[0, drawn].tolist()
    return WORLD.rewards[0, drawn].tolist()


def sampled_pairs(name, *, samples=SAMPLES, preferences=None, sampler=SAMPLER):
    """[(probability, chosen, rejected)] over all rollouts of one prompt."""
    preferences = bradley_terry(WORLD.rewards) if preferences is None else preferences
    method, found = METHODS[name], []
    for place, drawn in enumerate(product(range(sampler.shape[-1]), repeat=samples)):
        scores = tuple(scores_of(name, list(drawn), preferences))
        example = Example((1,), tuple((y,) for y in drawn), scores)
        row = kept(example, method.keep, "pairs", rng=random.Random(place))
        weight = float(sampler[0, list(drawn)].sum().exp())
        found += [(weight, row.responses[c][0], row.responses[r][0]) for c, r in row.pairs] if row else []
    return found


def population(name, triples, sampler=SAMPLER, ref=WORLD.ref_logps, **settings):
    """log π -> the mean loss over these pairs."""
    weights, chosen, rejected = (torch.tensor(part) for part in zip(*triples, strict=True))

    def loss(logps):
        known = {"logps": logps, "ref_logps": ref, "old_logps": sampler}
        given = {}
        for base, table in known.items():
            prefix, word = ("ref_", "logps") if base == "ref_logps" else ("", base)
            given[f"{prefix}chosen_{word}"], given[f"{prefix}rejected_{word}"] = table[0, chosen], table[0, rejected]
        method_loss = METHODS[name].loss
        given = {key: value for key, value in given.items() if key in names(method_loss)}
        return (weights.double() * method_loss(**given, beta=BETA, **settings)).sum()

    return loss


FOR_EVER = [
    pytest.param("iterative-dpo", WORLD.rewards, {}, id="iterative-dpo"),
    pytest.param("self-rewarding", SAMPLER, {}, id="self-rewarding"),
    pytest.param("dno", WORLD.rewards, {}, id="dno"),  # Bradley–Terry preferences have the order of the rewards
    pytest.param("rso", WORLD.rewards, {"function": "sigmoid_norm"}, id="rso"),
]


@pytest.mark.parametrize(("name", "order", "settings"), FOR_EVER)
def test_loss_falls_for_ever_where_the_greater_score_wins_every_pair(name, order, settings):
    # On the ray π ∝ start·exp(t·rank/β) the margin of a pair is t times a difference of ranks, which is 1 at least. The
    # loss is below Σ weights·log(1 + e^{−t}) and above 0: it tends to its infimum 0, which no finite policy has.
    triples = sampled_pairs(name, samples=4 if name == "rso" else SAMPLES)
    ranks = order[0].argsort().argsort().double()
    assert all(ranks[chosen] > ranks[rejected] for _, chosen, rejected in triples)
    mean, start = population(name, triples, **settings), SAMPLER if name == "dno" else WORLD.ref_logps
    along = [float(mean((start + t * ranks / BETA).log_softmax(-1))) for t in (0, 1, 2, 4, 8, 16, 32)]
    assert along == sorted(along, reverse=True) and len({*along}) == len(along)
    total = sum(weight for weight, _, _ in triples)
    assert along[0] == pytest.approx(total * math.log(2)) and 0 < along[-1] < total * math.exp(-32) * 1.01


def test_dno_has_a_finite_optimum_where_the_winners_of_pairs_go_round():
    # Two samples, each response beating the next. In two uniform samples the three pairs are as likely, and a convex
    # loss with three margins that sum to 0 is least where all of them are 0: at the sampler itself.
    uniform = torch.full((1, 3), -math.log(3), dtype=F64)
    triples = sampled_pairs("dno", samples=2, preferences=CYCLE, sampler=uniform)
    assert {(chosen, rejected) for _, chosen, rejected in triples} == {(0, 1), (1, 2), (2, 0)}
    found = fixed_point(population("dno", triples, sampler=uniform), SAMPLER[:, :3].log_softmax(-1))
    torch.testing.assert_close(found, uniform, rtol=0, atol=1e-8)


def test_rso_with_the_hinge_is_content_with_margins_of_one():
    # Loss 0 at π ∝ π_ref·exp(t·rank/β) for t = 1 and for t = 2, so the minimiser is not one policy. π* has the rewards'
    # gaps for margins, and some are below 1.
    mean = population("rso", sampled_pairs("rso", samples=4))
    ranks = WORLD.rewards[0].argsort().argsort().double()
    for t, expected in ((0.5, False), (1, True), (2, True)):
        value = float(mean((WORLD.ref_logps + t * ranks / BETA).log_softmax(-1)))
        assert (abs(value) < 1e-12) == expected
    assert WORLD.rewards[0].sort().values.diff().min() < 0.9
    assert mean(WORLD.optimum) > 1e-3


def test_rso_with_sigmoid_norm_has_the_optimum_where_winners_are_drawn_from_bradley_terry():
    def loss(**arguments):
        return rso(**arguments, function="sigmoid_norm")

    preferences = bradley_terry(WORLD.rewards)
    mean = over_pairs(loss, preferences, WORLD.optimum, WORLD.ref_logps, beta=BETA)
    torch.testing.assert_close(fixed_point(mean, WORLD.ref_logps).exp(), WORLD.optimum.exp(), rtol=0, atol=1e-8)
