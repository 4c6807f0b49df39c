"""Alignment by optimal transport: only the sorted numbers of a batch count."""

import math

import pytest
import torch
from scipy.optimize import brentq

from una_ref.methods import METHODS
from una_ref.methods.sorted_batches import aot, aot_unpaired, quantile_gaps
from una_ref.theory import fixed_point

F64 = torch.float64
BOTH = pytest.mark.parametrize("loss", [aot, aot_unpaired])


def batch(policy_chosen, policy_rejected, ref_chosen, ref_rejected):
    columns = policy_chosen, policy_rejected, ref_chosen, ref_rejected
    names = "chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"
    return {name: torch.tensor(column, dtype=F64) for name, column in zip(names, columns, strict=True)}


def two_responses(preferred, logps, ref):
    """Ten pairs of responses 0 and 1, of which response 0 wins `preferred`."""
    chosen = torch.tensor([0] * preferred + [1] * (10 - preferred))
    return {
        "chosen_logps": logps[chosen],
        "rejected_logps": logps[1 - chosen],
        "ref_chosen_logps": ref[chosen],
        "ref_rejected_logps": ref[1 - chosen],
    }


def learned_gap(loss, preferred, ref_gap, **kwargs):
    """log π(0)/π(1) of the minimiser, for a reference with log π_ref(0)/π_ref(1) = ref_gap."""
    ref = torch.tensor([ref_gap, 0.0], dtype=F64).log_softmax(-1)
    start = torch.tensor([[1.5, 0.0]], dtype=F64).log_softmax(-1)
    fitted = fixed_point(lambda logps: loss(**two_responses(preferred, logps[0], ref), **kwargs).sum(), start)[0]
    return (fitted[0] - fitted[1]).item()


def test_quantile_gap_compares_numbers_of_one_rank():
    # Ranks of 3, 1, 2 are 3, 1, 2; the sorted second list is 0, 5, 9: gaps 3 − 9, 1 − 0, 2 − 5.
    gaps = quantile_gaps(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([5.0, 9.0, 0.0]))
    assert gaps.tolist() == [-6.0, 1.0, -3.0]


def test_aot_by_hand():
    # Margins of π are 3 and 1, of π_ref 0 and 2. Sorted they are (1, 3) and (0, 2): both gaps are 1, 0.313262 each.
    # DPO compares each pair with itself: gaps 3 and −1, 0.048587 and 1.313262.
    arguments = batch([-1.0, -1.0], [-4.0, -2.0], [-3.0, -1.0], [-3.0, -3.0])
    assert aot(**arguments, beta=1.0).tolist() == pytest.approx([0.313262] * 2, abs=1e-6)
    assert METHODS["dpo"].loss(**arguments, beta=1.0).tolist() == pytest.approx([0.048587, 1.313262], abs=1e-6)


def test_aot_unpaired_by_hand():
    # u of the chosen is 3 and 1, of the rejected 0 and 2: both gaps are 1.
    arguments = batch([-1.0, -1.0], [-3.0, -1.0], [-4.0, -2.0], [-3.0, -3.0])
    assert aot_unpaired(**arguments, beta=1.0).tolist() == pytest.approx([0.313262] * 2, abs=1e-6)


@BOTH
def test_one_pair_alone_is_cdpo(loss):
    arguments = batch([-1.0], [-2.5], [-2.0], [-2.2])
    expected = METHODS["cdpo"].loss(**arguments, beta=0.7, label_smoothing=0.2)
    torch.testing.assert_close(loss(**arguments, beta=0.7, label_smoothing=0.2), expected, rtol=0, atol=1e-14)


def test_exchanging_the_margins_of_two_pairs_leaves_the_sum_of_aot():
    # The policy gives pair 1 the margin of pair 2 and the other way round: DPO's sum changes, AOT's does not.
    one = batch([-1.0, -2.0], [-4.0, -2.5], [-3.0, -1.0], [-3.0, -3.0])
    two = one | {name: one[name].flip(0) for name in ("chosen_logps", "rejected_logps")}
    torch.testing.assert_close(aot(**one).sum(), aot(**two).sum(), rtol=0, atol=1e-14)
    dpo = METHODS["dpo"].loss
    assert (dpo(**one).sum() - dpo(**two).sum()).abs() > 0.01


def test_pairing_does_not_matter_for_aot_unpaired():
    one = batch([-1.0, -2.0], [-4.0, -2.5], [-3.0, -1.0], [-3.0, -3.0])
    two = one | {name: one[name].flip(0) for name in ("rejected_logps", "ref_rejected_logps")}
    torch.testing.assert_close(aot_unpaired(**one), aot_unpaired(**two), rtol=0, atol=1e-14)


def test_aot_learns_the_optimum_of_two_responses_that_the_reference_ranks_right():
    # Seven of ten pairs prefer response 0, and so does π_ref: sorted margins pair up as the pairs do, and the
    # margin is DPO's, β·(g − h) = log(7/3).
    assert 0.5 * (learned_gap(aot, 7, 0.8, beta=0.5) - 0.8) == pytest.approx(math.log(7 / 3), abs=1e-8)


def test_aot_learns_another_policy_where_the_reference_ranks_wrong():
    # π_ref prefers response 1 by H = 0.8. The margins of π, sorted, are three −g and seven g; those of π_ref are seven
    # −H and three H. The gaps are three H − g, four g + H and three g − H.
    def slope(g):
        falls = [1 / (1 + math.exp(0.5 * x)) for x in (0.8 - g, g + 0.8, g - 0.8)]
        return 3 * falls[0] - 4 * falls[1] - 3 * falls[2]

    expected = brentq(slope, 0, 30, xtol=1e-12)
    assert learned_gap(aot, 7, -0.8, beta=0.5) == pytest.approx(expected, abs=1e-7)
    assert abs(0.5 * (expected + 0.8) - math.log(7 / 3)) > 0.3  # DPO's margin
    ref = torch.tensor([-0.8, 0.0], dtype=F64).log_softmax(-1)
    grid = torch.linspace(-10, 10, 401, dtype=F64)
    sums = [aot(**two_responses(7, torch.stack([g, 0 * g]), ref), beta=0.5).sum().item() for g in grid]
    assert grid[torch.tensor(sums).argmin()].item() == pytest.approx(expected, abs=0.05)  # the global minimum


@pytest.mark.parametrize("preferred", [6, 9])
def test_aot_unpaired_drives_two_responses_apart_without_bound(preferred):
    # Response 0 is chosen more often than it is rejected. Equal numbers cancel, and only the surplus is left: the loss
    # falls with the gap whatever the preference is. Label smoothing ε bounds the gap at log((1 − ε)/ε)/β.
    ref = torch.zeros(2, dtype=F64)
    sums = [
        aot_unpaired(**two_responses(preferred, torch.tensor([gap, 0.0], dtype=F64), ref)).sum().item()
        for gap in (0.0, 1.0, 10.0, 100.0)
    ]
    assert sums == sorted(sums, reverse=True)
    bound = learned_gap(aot_unpaired, preferred, 0.0, beta=0.5, label_smoothing=0.2)
    assert 0.5 * bound == pytest.approx(math.log(4), abs=1e-7)


@BOTH
def test_label_smoothing_out_of_range_is_refused(loss):
    arguments = batch([-1.0], [-2.5], [-2.0], [-2.2])
    with pytest.raises(ValueError, match="^label_smoothing must be at least 0 and below 0.5, got 0.5$"):
        loss(**arguments, label_smoothing=0.5)
