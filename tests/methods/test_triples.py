"""Triple preference optimisation: values by hand, and what pairs and gold responses teach together."""

import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.triples import tpo, tpo_gold
from una_ref.theory import TableWorld, bradley_terry, fixed_point, kl
from una_ref.theory.populations import pairs

F64 = torch.float64


def world():
    torch.manual_seed(3)
    ref = torch.randn(3, 4, dtype=F64).log_softmax(-1)
    return TableWorld(ref, torch.randn(3, 4, dtype=F64), 0.5)


def population(a_world):
    uniform = torch.full((3, 4), 0.25, dtype=F64)

    def loss(*, ref_chosen_logps, ref_rejected_logps, **given):
        return tpo(**given)

    return pairs(loss, a_world, uniform, bradley_terry(a_world.rewards))


def test_tpo_by_hand():
    # β·(log π(y_w) − log π(y_l)) = 0.5·(−1 + 3) = 1: −log σ(1) = 0.3133. The gold response adds 0.2·4.
    one = torch.ones(1, dtype=F64)
    assert tpo(chosen_logps=-one, rejected_logps=-3 * one, beta=0.5).item() == pytest.approx(
        math.log(1 + math.exp(-1)), abs=1e-15
    )
    assert tpo_gold(logps=-4 * one, gold_weight=0.2).item() == pytest.approx(0.8, abs=1e-15)


def test_tpo_is_dpo_with_a_uniform_reference():
    torch.manual_seed(0)
    chosen, rejected = -torch.rand(2, 5, dtype=F64)
    flat = torch.full((5,), -2.0, dtype=F64)
    dpo = METHODS["dpo"].loss(
        chosen_logps=chosen, rejected_logps=rejected, ref_chosen_logps=flat, ref_rejected_logps=flat, beta=0.7
    )
    torch.testing.assert_close(tpo(chosen_logps=chosen, rejected_logps=rejected, beta=0.7), dpo, rtol=0, atol=1e-15)


def test_pairs_alone_teach_the_optimum_of_a_uniform_reference():
    a_world = world()
    fitted = fixed_point(population(a_world), a_world.ref_logps)
    expected = (a_world.rewards / a_world.beta).softmax(-1)
    torch.testing.assert_close(fitted.exp(), expected, rtol=0, atol=1e-8)
    assert a_world.metrics(fitted)["regret"] > 0.05


def test_gold_responses_pull_the_policy_towards_their_distribution():
    a_world = world()
    gold = torch.randn(3, 4, dtype=F64).log_softmax(-1)
    distances = []
    for weight in (0.0, 0.1, 1.0, 100.0):

        def both(logps, weight=weight):
            imitation = tpo_gold(logps=logps.flatten(), gold_weight=weight)
            return population(a_world)(logps) + (gold.exp().flatten() * imitation).sum()

        distances.append(kl(gold, fixed_point(both, a_world.ref_logps)).sum().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.3 and distances[-1] < 1e-3


def test_negative_weight_of_gold_responses_is_refused():
    with pytest.raises(ValueError, match="^gold_weight must be at least 0, got -1.0$"):
        tpo_gold(logps=torch.zeros(2), gold_weight=-1.0)
