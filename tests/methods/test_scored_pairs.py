"""RPO and REBEL by hand, their relation to each other and to centred UNA, and what they refuse."""

import math

import pytest
import torch

from una_ref.methods.pairs import una_centred_pairwise, una_pair
from una_ref.methods.scored_pairs import DISTANCES, odpo, rebel, rpo

F64 = torch.float64


def pair(gap, margin):
    """A pair whose log-ratios differ by `gap` nats and whose scores differ by `margin`."""
    values = {"chosen_logps": gap - 3, "rejected_logps": -4, "ref_chosen_logps": -2, "ref_rejected_logps": -3}
    return {name: torch.tensor([float(value)], dtype=F64) for name, value in (values | {"margins": margin}).items()}


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        # Learned margin 0, P = ½; target 2·½·log 3, P = ¾. KL(¾ ‖ ½) = ¾·log 1.5 − ¼·log 2; KL(½ ‖ ¾) = ½·log(4/3).
        ("backward_kl", 0.75 * math.log(1.5) - 0.25 * math.log(2)),
        ("forward_kl", 0.5 * math.log(4 / 3)),
        ("squared", math.log(3) ** 2),
    ],
)
def test_rpo_distances_by_hand(distance, expected):
    value = rpo(**pair(0, math.log(3) / 2), eta=2.0, distance=distance)
    assert value.item() == pytest.approx(expected, abs=1e-14)


def test_squared_rpo_and_rebel_are_centred_una_on_pairs(random_arguments):
    # rpo at η = 1 is [β·h − Δs]²; rebel is the same at β = 1/η.
    arguments = random_arguments(rpo)
    scores = {"chosen_scores": arguments["margins"], "rejected_scores": torch.zeros(6, dtype=F64)}
    plain = {name: value for name, value in arguments.items() if name != "margins"}
    expected = una_centred_pairwise(**plain, **scores)
    torch.testing.assert_close(rpo(**arguments, distance="squared"), expected, rtol=0, atol=1e-15)
    of_rebel = {name: value for name, value in arguments.items() if name != "beta"}
    torch.testing.assert_close(rebel(**of_rebel, eta=1 / 0.7), expected, rtol=0, atol=1e-14)
    assert (rpo(**arguments, distance="squared", eta=2.0) - expected).abs().max() > 0.01


def test_rebel_regresses_the_scaled_log_ratio_on_the_score_difference():
    # h = 3, η = 2, Δs = 1: (3/2 − 1)².
    assert rebel(**pair(3, 1), eta=2.0).item() == pytest.approx(0.25)


def test_odpo_asks_for_a_margin_of_eta_times_the_offset():
    # Learned margin 0, offset 2·½·log 3: −log σ(−log 3) = log 4. At the offset it is log 2, as DPO's at 0.
    assert odpo(**pair(0, math.log(3) / 2), eta=2.0).item() == pytest.approx(math.log(4), abs=1e-14)
    assert odpo(**pair(3, 0.6), beta=0.4, eta=2.0).item() == pytest.approx(math.log(2), abs=1e-14)


def test_odpo_without_an_offset_is_dpo(random_arguments):
    arguments = random_arguments(odpo)
    plain = {name: value for name, value in arguments.items() if name != "margins"}
    none = torch.zeros_like(arguments["margins"])
    torch.testing.assert_close(odpo(**plain, margins=none), una_pair(**plain), rtol=0, atol=0)
    assert (odpo(**arguments) - una_pair(**plain)).abs().max() > 0.01


def test_backward_rpo_is_dpo_with_soft_labels_up_to_their_entropy(random_arguments):
    # KL(q ‖ p) = −q·log p − (1 − q)·log(1 − p) − H(q), with q = σ(η·Δs) and p = σ(margin).
    arguments = random_arguments(rpo)
    q = arguments.pop("margins").sigmoid()
    swapped = {
        name.replace("chosen", "*").replace("rejected", "chosen").replace("*", "rejected"): value
        for name, value in arguments.items()
    }
    soft = q * una_pair(**arguments) + (1 - q) * una_pair(**swapped)
    entropy = -q * q.log() - (1 - q) * (1 - q).log()
    torch.testing.assert_close(rpo(**arguments, margins=q.logit()), soft - entropy, rtol=0, atol=1e-14)


@pytest.mark.parametrize("distance", DISTANCES)
def test_rpo_does_not_depend_on_the_order_of_the_two_responses(distance, random_arguments):
    arguments = random_arguments(rpo)
    swapped = {
        name.replace("chosen", "*").replace("rejected", "chosen").replace("*", "rejected"): value
        for name, value in arguments.items()
    } | {"margins": -arguments["margins"]}
    torch.testing.assert_close(
        rpo(**swapped, distance=distance), rpo(**arguments, distance=distance), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_rpo_distances_have_the_gradient_of_their_values_and_are_finite_at_extremes(distance):
    near = torch.tensor([-2.0, 0.3, 1.5], dtype=F64, requires_grad=True)
    target = torch.tensor([1.0, -0.4, 1.5], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(DISTANCES[distance], (near, target))
    far = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    values = DISTANCES[distance](far, torch.tensor([1e4, 1e4, -1e4, 0.0]))
    (slopes,) = torch.autograd.grad(values.sum(), far)
    assert values.isfinite().all() and slopes.isfinite().all() and values[0] == 0


def test_scale_and_distance_out_of_range_are_refused():
    with pytest.raises(ValueError, match="eta must be positive, got 0"):
        rpo(**pair(0, 1), eta=0)
    with pytest.raises(ValueError, match="eta must be positive, got -1"):
        rebel(**pair(0, 1), eta=-1)
    with pytest.raises(ValueError, match="distance must be one of backward_kl, forward_kl, squared, got 'mse'"):
        rpo(**pair(0, 1), distance="mse")
