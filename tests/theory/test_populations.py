"""Population losses against a plain loop over every response, label and pair."""

import pytest
import torch

from una_ref.theory import TableWorld
from una_ref.theory.populations import binary_labels, over_pairs, pairs, singles

F64 = torch.float64
WORLD = TableWorld.random(3, prompts=2, responses=3, beta=0.7)
LOGPS, SAMPLER = (table.log_softmax(-1) for table in torch.randn(2, 2, 3, dtype=F64, generator=torch.manual_seed(0)))
MU = SAMPLER.exp()


def loss(*, logps, ref_logps, beta, scores=None, labels=None):
    """A loss in which every argument has another effect."""
    return beta * logps**2 - 3 * ref_logps + (scores if labels is None else labels * logps.exp())


def pair_loss(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return beta * chosen_logps - 2 * rejected_logps**2 + 3 * ref_chosen_logps.exp() - 5 * ref_rejected_logps


def cells():
    return [(x, y) for x in range(2) for y in range(3)]


def test_singles_is_the_weighted_sum_over_responses():
    by_hand = sum(
        MU[at] * loss(logps=LOGPS[at], ref_logps=WORLD.ref_logps[at], beta=0.7, scores=WORLD.rewards[at])
        for at in cells()
    )
    found = singles(loss, WORLD, MU, scores=WORLD.rewards)(LOGPS)
    assert float(found) == pytest.approx(float(by_hand), abs=1e-12)


def test_binary_labels_averages_over_both_labels():
    positive = torch.tensor([[0.1, 0.5, 0.9], [0.3, 1.0, 0.0]], dtype=F64)
    by_hand = sum(
        MU[at] * p * loss(logps=LOGPS[at], ref_logps=WORLD.ref_logps[at], beta=0.7, labels=label)
        for at in cells()
        for label, p in ((1.0, positive[at]), (0.0, 1 - positive[at]))
    )
    assert float(binary_labels(loss, WORLD, MU, positive)(LOGPS)) == pytest.approx(float(by_hand), abs=1e-12)


def test_pairs_is_the_mean_over_independent_pairs_and_winners():
    wins = torch.rand(2, 3, 3, dtype=F64, generator=torch.manual_seed(1))
    wins = wins / (wins + wins.mT)
    by_hand = 0.0
    for x in range(2):
        for first in range(3):
            for second in range(3):
                for w, lost, p in ((first, second, wins[x, first, second]), (second, first, wins[x, second, first])):
                    if first != second:
                        by_hand += float(MU[x, first] * MU[x, second] * p) * float(
                            pair_loss(
                                chosen_logps=LOGPS[x, w],
                                rejected_logps=LOGPS[x, lost],
                                ref_chosen_logps=WORLD.ref_logps[x, w],
                                ref_rejected_logps=WORLD.ref_logps[x, lost],
                                beta=0.7,
                            )
                        )
    assert float(pairs(pair_loss, WORLD, MU, wins)(LOGPS)) == pytest.approx(by_hand, abs=1e-12)
    same = over_pairs(pair_loss, wins, SAMPLER, WORLD.ref_logps, beta=0.7)(LOGPS)
    assert float(same) == pytest.approx(by_hand, abs=1e-12)
