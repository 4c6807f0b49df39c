"""UNA with other measures, and APO on labels."""

import math

import pytest
import torch
from scipy.optimize import brentq

from una_ref.methods.measures import MEASURES, measured
from una_ref.methods.singles import apo_zero_unpaired, kto, una_binary_mse, una_measure, una_score
from una_ref.theory import TableWorld, fixed_point
from una_ref.theory.populations import binary_labels, singles

F64 = torch.float64


def numbers(*values):
    return torch.tensor(values, dtype=F64)


def test_measures_by_hand():
    # x − s = (0.5, −3) at width 1. Huber: 0.25 and 1·(2·3 − 1). KL of s = 0 against x = log 3: ½·log(½/¾) + ½·log(½/¼).
    x, scores = numbers(1.5, -1), numbers(1, 2)
    assert measured(x, scores, "mse", 1).tolist() == [0.25, 9]
    assert measured(x, scores, "huber", 1).tolist() == [0.25, 5]
    assert measured(x, scores, "l1", 1).tolist() == [0.5, 3]
    assert measured(x, scores, "hinge", 1).tolist() == [0, 2]
    value = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert measured(numbers(math.log(3)), numbers(0), "kl").item() == pytest.approx(value)


def test_huber_is_twice_torchs():
    x, scores = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=F64)
    twice = 2 * torch.nn.functional.huber_loss(x, scores, reduction="none", delta=0.3)
    torch.testing.assert_close(measured(x, scores, "huber", 0.3), twice)


@pytest.mark.parametrize("form", [{"measure": "mse"}, {"measure": "huber", "width": 1e6}])
def test_una_measure_with_squares_is_una_score(form, random_arguments):
    arguments = random_arguments(una_score)
    torch.testing.assert_close(una_measure(**arguments, **form), una_score(**arguments), rtol=0, atol=1e-14)
    baseline = {"baseline": numbers(1, 2, 3, 4, 5, 6)}
    torch.testing.assert_close(una_measure(**arguments, **form, **baseline), una_score(**arguments, **baseline))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_measure_is_zero_at_the_score_and_finite_far_from_it(measure, dtype):
    scores = torch.tensor([0.0, 0.7, -2.0], dtype=dtype)
    assert measured(scores.clone(), scores, measure).abs().max() < 1e-7
    x = torch.tensor([1e4, -1e4, 0.3], dtype=dtype, requires_grad=True)
    values = measured(x, scores, measure)
    values.sum().backward()
    assert values.isfinite().all() and x.grad.isfinite().all() and (values[:2] > 1).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_una_measure_gradients_are_right(measure, random_arguments):
    arguments = random_arguments(una_measure) | {"measure": measure}
    logps = arguments["logps"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: una_measure(**arguments | {"logps": x}), logps)


def test_measure_and_width_are_checked(random_arguments):
    with pytest.raises(ValueError, match="measure must be one of mse, huber, l1, hinge, kl, got 'mae'"):
        una_measure(**random_arguments(una_measure), measure="mae")
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        una_measure(**random_arguments(una_measure), width=0)


NOISE = {-0.3: 0.3, 0.0: 0.4, 3.0: 0.3}  # added to a response's quality -> probability; median 0, mean 0.81


def noisy_world():
    generator = torch.Generator().manual_seed(5)
    ref, quality = torch.randn(2, 2, 4, generator=generator, dtype=F64)
    # The noise is the responses' own, so that the mean and the median of their scores are different rewards.
    size = torch.rand(2, 4, generator=generator, dtype=F64)
    return TableWorld(ref.log_softmax(-1), quality, 0.5), [(quality + d * size, p) for d, p in NOISE.items()]


def best_number(scores, measure, width):
    """The number nearest to one response's scores, [(score, probability)], by the measure."""
    if measure == "l1":
        return next(score for score, p in sorted(scores) if sum(q for s, q in scores if s <= score) >= 0.5)

    def slope(x):
        at = torch.tensor(float(x), dtype=F64, requires_grad=True)
        total = sum(p * measured(at, torch.tensor(s, dtype=F64), measure, width) for s, p in scores)
        return torch.autograd.grad(total, at)[0].item()

    return brentq(slope, -50, 50, xtol=1e-14)


@pytest.mark.parametrize("measure", ["mse", "huber", "kl"])
def test_measure_decides_which_number_of_a_responses_scores_is_learned(measure):
    world, table = noisy_world()
    width = 0.5
    rewards = torch.tensor(
        [[best_number([(float(s[x, y]), p) for s, p in table], measure, width) for y in range(4)] for x in range(2)],
        dtype=F64,
    )
    wanted = TableWorld(world.ref_logps, rewards, world.beta)
    baseline = world.beta * wanted.log_partition[:, None]
    settings = {"measure": measure, "width": width}
    uniform = torch.full((2, 4), 0.25, dtype=F64)
    terms = [
        singles(lambda **given: una_measure(**given, **settings), world, p * uniform, scores=s, baseline=baseline)
        for s, p in table
    ]
    learned = fixed_point(lambda logps: sum(term(logps) for term in terms), world.ref_logps)
    torch.testing.assert_close(learned.exp(), wanted.optimum.exp(), rtol=0, atol=1e-8)
    mean, median = (sum(p * s for s, p in table), table[1][0])
    if measure == "mse":
        torch.testing.assert_close(rewards, mean)
    if measure == "huber":
        assert (median < rewards).all() and (rewards < mean).all()


def test_absolute_error_learns_the_optimum_of_the_median_score():
    # |r_θ + V − s| is minimal for every response at once where r_θ + V is the median score: at π* of the medians, with
    # its β·log Z as V(x). It has a kink there, so that other policies are compared with it.
    world, table = noisy_world()
    median = TableWorld(world.ref_logps, table[1][0], world.beta)
    baseline = world.beta * median.log_partition[:, None]
    uniform = torch.full((2, 4), 0.25, dtype=F64)
    terms = [
        singles(lambda **given: una_measure(**given, measure="l1"), world, p * uniform, scores=s, baseline=baseline)
        for s, p in table
    ]

    def population(logps):
        return float(sum(term(logps) for term in terms))

    mean = TableWorld(world.ref_logps, sum(p * s for s, p in table), world.beta)
    least = population(median.optimum)
    assert population(mean.optimum) > least + 0.01
    generator = torch.Generator().manual_seed(0)
    for scale in (0.01, 0.1, 1.0):
        for _ in range(50):
            noise = scale * torch.randn(2, 4, generator=generator, dtype=F64)
            assert population((median.optimum + noise).log_softmax(-1)) > least


def test_insensitive_measure_leaves_an_interval_of_minimisers():
    scores = numbers(1, 1, 1)
    assert measured(numbers(0.95, 1, 1.05), scores, "hinge", 0.1).tolist() == [0, 0, 0]
    assert una_measure.__doc__ and "except hinge" in una_measure.__doc__


def test_apo_zero_unpaired_is_kto_at_reference_point_zero(random_arguments):
    arguments = random_arguments(apo_zero_unpaired) | {"desirable_weight": 0.7, "undesirable_weight": 1.3}
    torch.testing.assert_close(apo_zero_unpaired(**arguments), kto(**arguments, kl=0.0), rtol=0, atol=0)
    # Equal weights and labels of 0 or 1: the squares of its terms are una-binary-mse.
    plain = random_arguments(apo_zero_unpaired)
    plain["labels"] = (plain["labels"] > 0.5).to(F64)
    torch.testing.assert_close(apo_zero_unpaired(**plain) ** 2, una_binary_mse(**plain))


def test_apo_zero_unpaired_by_hand():
    # r_θ = log 3: σ = ¾. λ_D·¼ for a positive label, λ_U·¾ for a negative one.
    arguments = {"logps": numbers(0, 0) + 2 * math.log(3), "ref_logps": numbers(0, 0), "labels": numbers(1, 0)}
    weights = {"desirable_weight": 2.0, "undesirable_weight": 4.0}
    assert apo_zero_unpaired(**arguments, beta=0.5, **weights).tolist() == pytest.approx([0.5, 3.0])


@pytest.mark.parametrize("p", [0.3, 0.5, 0.7])
def test_apo_zero_unpaired_falls_towards_the_end_that_the_majority_says(p):
    # p·(1 − σ(r)) + (1 − p)·σ(r) = p + (1 − 2p)·σ(r): monotonous in r, where UNA-binary has its minimum at logit p.
    world = TableWorld(torch.zeros(1, 2, dtype=F64).log_softmax(-1), torch.zeros(1, 2, dtype=F64), 0.5)
    population = binary_labels(apo_zero_unpaired, world, torch.ones(1, 2, dtype=F64), torch.full((1, 2), p, dtype=F64))
    logps = (world.ref_logps + torch.linspace(-20, 20, 41, dtype=F64)[:, None, None]).requires_grad_()
    slopes = torch.stack([torch.autograd.grad(population(line), logps)[0][i] for i, line in enumerate(logps)])
    slopes = slopes.where(slopes.abs() > 1e-16, 0.0)  # rounding, at p = ½
    assert torch.equal(slopes.sign(), torch.full_like(slopes, (p < 0.5) - (p > 0.5)))
