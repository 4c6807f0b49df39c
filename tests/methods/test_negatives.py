"""Losses on rejected responses alone: by hand, their limits, how fast they collapse, and what they learn."""

import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.negatives import d2o, gradient_ascent, npo
from una_ref.methods.pairs import una_pair
from una_ref.theory import TableWorld, fixed_point
from una_ref.theory.fixed_points import NotConverged
from una_ref.theory.populations import singles

F64 = torch.float64


def numbers(*values):
    return torch.tensor(values, dtype=F64)


def test_npo_by_hand():
    # β = 0.1, u = 1: 20·log(1 + e^0.1) = 20·0.744397 = 14.888 (ES30). At u = 0: 20·log 2. A positive label gives 0.
    arguments = {"logps": numbers(-2, -3, -2), "ref_logps": numbers(-3, -3, -3), "labels": numbers(0, 0, 1)}
    assert npo(**arguments, beta=0.1).tolist() == pytest.approx([14.88793, 20 * math.log(2), 0])


def test_npo_gradient_is_that_of_gradient_ascent_times_twice_a_sigmoid(random_arguments):
    arguments = random_arguments(npo)
    logps = arguments["logps"].requires_grad_()
    (slope,) = torch.autograd.grad(npo(**arguments).sum(), logps)
    (ascent,) = torch.autograd.grad(gradient_ascent(logps=logps, labels=arguments["labels"]).sum(), logps)
    weight = 2 * (arguments["beta"] * (logps - arguments["ref_logps"])).sigmoid()
    torch.testing.assert_close(slope, weight * ascent)


@pytest.mark.parametrize("beta", [1e-2, 1e-4])
def test_npo_tends_to_gradient_ascent_for_small_beta(beta, random_arguments):
    # (2/β)·log(1 + e^{βu}) = 2·log 2/β + u + βu²/4 + …, and u is log π up to a constant.
    arguments = random_arguments(npo) | {"beta": beta}
    labels, u = arguments["labels"], arguments["logps"] - arguments["ref_logps"]
    limit = gradient_ascent(logps=arguments["logps"], labels=labels) - (1 - labels) * arguments["ref_logps"]
    difference = npo(**arguments) - (1 - labels) * 2 * math.log(2) / beta - limit
    assert (difference.abs() <= beta * u**2 / 4).all()


def test_gradient_ascent_is_minus_sft_on_negative_labels():
    values = gradient_ascent(logps=numbers(-2, -1e6, -3), labels=torch.tensor([False, False, True]))
    assert values.tolist() == [-2, -1e6, 0]  # unbounded below
    sft = METHODS["sft"].loss(logps=numbers(-2, -1e6))
    assert values[:2].tolist() == (-sft).tolist()


def log_ratio_after(loss, times, rate=0.05):
    """u(y_l) at some times of a gradient flow on the logits of two responses, the second of them rejected."""
    ref = torch.zeros(2, dtype=F64).log_softmax(-1)
    logits, found = torch.zeros(2, dtype=F64, requires_grad=True), []
    for step in range(round(max(times) / rate) + 1):
        logps = logits.log_softmax(-1)
        if any(round(time / rate) == step for time in times):
            found.append(float((logps[1] - ref[1]).detach()))
        given = {"logps": logps[1:], "labels": numbers(0)}
        value = loss(**given) if loss is gradient_ascent else loss(**given, ref_logps=ref[1:], beta=0.5)
        (slope,) = torch.autograd.grad(value.sum(), logits)
        logits = (logits - rate * slope).detach().requires_grad_()
    return found


def test_npo_collapses_logarithmically_and_gradient_ascent_linearly():
    # Once π(y_l) ≈ 0, both logits move by one times the weight: u' = −2 for gradient ascent, and u' = −4e^{βu} for NPO.
    # So doubling the time doubles u for gradient ascent, and adds −log(2)/β = −1.386 for NPO.
    ascent, slow = log_ratio_after(gradient_ascent, (50, 100)), log_ratio_after(npo, (50, 100))
    assert ascent[1] / ascent[0] == pytest.approx(2, rel=0.05)
    assert slow[1] - slow[0] == pytest.approx(-math.log(2) / 0.5, rel=0.05)
    assert ascent[1] < -190 and slow[1] > -12


def world():
    generator = torch.Generator().manual_seed(5)
    ref, rewards = torch.randn(2, 2, 4, generator=generator, dtype=F64)
    return TableWorld(ref.log_softmax(-1), rewards, 0.5)


def test_reference_is_a_maximum_of_npo_on_its_own_samples():
    # Rejected responses y ~ π_ref, β < 2. In u the loss has the slope ν·2σ(βu) = π_ref at u = 0, which the constraint
    # Σ π_ref·e^u = 1 balances. It curves by β·π_ref/2 against the constraint's π_ref: downwards in every direction.
    a_world = world()
    population = singles(npo, a_world, a_world.ref_logps.exp(), labels=torch.zeros(2, 4, dtype=F64))
    logits = a_world.ref_logps.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(population(logits.log_softmax(-1)), logits)
    assert gradient.abs().max() < 1e-12
    curvature = torch.autograd.functional.hessian(lambda x: population(x.log_softmax(-1)), a_world.ref_logps)
    assert (torch.linalg.eigvalsh(curvature.view(8, 8)) < -1e-3).sum() == 6  # all but one for each prompt
    start = population(a_world.ref_logps)
    for y in range(4):
        corner = torch.full((2, 4), -60.0, dtype=F64).index_fill(1, torch.tensor(y), 0.0).log_softmax(-1)
        assert population(corner) < start
    with pytest.raises(NotConverged):
        fixed_point(population, (a_world.ref_logps + 0.1 * a_world.rewards).log_softmax(-1))


@pytest.mark.parametrize(("beta", "shared"), [(0.5, False), (1.0, False), (1.5, True), (1.9, True)])
def test_npo_leaves_one_response_up_to_beta_one_and_several_above(beta, shared):
    # Of w = π/π_ref the loss is (2/β)·log(1 + w^β). At w = 0 its slope is 0 for β > 1: a little mass there costs
    # nothing, and lowers the loss of the response that it comes from. For β of at most 1 the loss is concave in w.
    ref = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    steps = torch.cartesian_prod(*[torch.linspace(0, 1, 201, dtype=F64)] * 2)
    policies = torch.cat([steps, 1 - steps.sum(1, keepdim=True)], 1)
    policies = policies[(policies >= -1e-12).all(1)].clamp(min=0)
    labels = torch.zeros(policies.numel(), dtype=F64)
    ref_logps = ref.log().expand(policies.shape).flatten()
    losses = npo(logps=policies.clamp(min=1e-300).log().flatten(), ref_logps=ref_logps, labels=labels, beta=beta)
    best = policies[(losses.view(-1, 3) @ ref).argmin()]
    assert (int((best > 1e-9).sum()) > 1) == shared and best[2] > 0.8


def test_d2o_by_hand():
    # β = 0.5, u = (1, 3, −2) with the last one rejected, K = 2: margin 0.5·2 − 0.5·(−2) = 2; with α = 3 it is 1 + 3.
    u, mask = numbers(1, 3, -2)[None], torch.ones(1, 3, dtype=torch.bool)
    arguments = {"logps": u - 4, "scores": numbers(5, 4, 1)[None], "mask": mask}
    arguments |= {f"{which}ref_logps": torch.full_like(u, -4) for which in ("", "second_")}
    assert d2o(**arguments, beta=0.5).item() == pytest.approx(math.log1p(math.exp(-2)))
    assert d2o(**arguments, beta=0.5, alpha=3.0).item() == pytest.approx(math.log1p(math.exp(-4)))
    tied = arguments | {"scores": numbers(1, 5, 1)[None]}
    torch.testing.assert_close(d2o(**tied, beta=0.5), d2o(**arguments, beta=0.5))  # of equal scores the last
    undecided = arguments | {"scores": numbers(1, 1, 1)[None], "logps": arguments["logps"].requires_grad_()}
    assert d2o(**undecided).item() == pytest.approx(math.log(2))
    assert torch.autograd.grad(d2o(**undecided).sum(), undecided["logps"])[0].tolist() == [[0, 0, 0]]


def test_d2o_measures_samples_and_the_rejected_response_by_two_references():
    # log π = (−2, −3, −1), the last one rejected; log π_ref⁻ = (−3, −5, ·), log π_ref = (·, ·, −4), β = 0.5. Ratios
    # (1, 2) and 3: margin 0.5·1.5 − 0.5·3 = −0.75. The other entries, here NaN-free but huge, are not read.
    given = {"logps": numbers(-2, -3, -1)[None], "scores": numbers(1, 1, 0)[None], "mask": torch.ones(1, 3).bool()}
    second, first = numbers(-3, -5, -1e5)[None].requires_grad_(), numbers(-1e5, 1e5, -4)[None].requires_grad_()
    value = d2o(**given, ref_logps=first, second_ref_logps=second, beta=0.5)
    assert value.item() == pytest.approx(math.log1p(math.exp(0.75)))
    # −σ(−margin) = −σ(0.75) is the slope in the margin, which has β/K in each sample and −α·β in the rejected one.
    slope = 1 / (1 + math.exp(-0.75))
    of_first, of_second = torch.autograd.grad(value.sum(), (first, second))
    assert of_first.tolist() == [[0, 0, pytest.approx(-0.5 * slope)]]
    assert of_second.tolist() == [[pytest.approx(0.25 * slope)] * 2 + [0]]


def test_d2o_with_one_sample_is_dpo(random_arguments):
    arguments = {name: x[:, :2] if torch.is_tensor(x) else x for name, x in random_arguments(d2o).items()}
    arguments["second_ref_logps"] = arguments["ref_logps"]
    arguments["mask"] = torch.ones(6, 2, dtype=torch.bool)
    arguments["scores"] = torch.tensor([[1.0, 0.0]], dtype=F64).expand(6, 2)
    pair = {
        f"{ref}{side}_logps": arguments[f"{ref}logps"][:, place]
        for ref in ("", "ref_")
        for place, side in enumerate(("chosen", "rejected"))
    }
    torch.testing.assert_close(d2o(**arguments), una_pair(**pair, beta=0.7))


@pytest.mark.parametrize("alpha", [0, -1])
def test_d2o_alpha_must_be_positive(alpha, random_arguments):
    with pytest.raises(ValueError, match=f"alpha must be positive, got {alpha}"):
        d2o(**random_arguments(d2o), alpha=alpha)


def test_d2o_with_one_sample_learns_the_density_ratio():
    # The sample y ~ π_ref is always chosen over y' ~ ν. So P(y ≻ y') of a pair is π_ref(y)·ν(y')/[π_ref(y)·ν(y') +
    # π_ref(y')·ν(y)] = σ of the difference of log π_ref/ν: Bradley–Terry with that reward. Its optimum is
    # π ∝ π_ref·(π_ref/ν)^{1/β}.
    a_world = world()
    rejected = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=F64).log_softmax(-1)
    x, y, z = (index.flatten() for index in torch.meshgrid(*map(torch.arange, (2, 4, 4)), indexing="ij"))
    weights = (a_world.ref_logps[x, y] + rejected[x, z]).exp()

    def population(logps):
        lists = [torch.stack([t[x, y], t[x, z]], 1) for t in (logps, a_world.ref_logps)]
        scores = numbers(1, 0).expand(len(x), 2)
        mask = torch.ones_like(scores, dtype=torch.bool)
        given = {"logps": lists[0], "ref_logps": lists[1], "second_ref_logps": lists[1], "scores": scores, "mask": mask}
        return (weights * d2o(**given, beta=a_world.beta)).sum()

    expected = (a_world.ref_logps + (a_world.ref_logps - rejected) / a_world.beta).log_softmax(-1)
    learned = fixed_point(population, a_world.ref_logps)
    torch.testing.assert_close(learned.exp(), expected.exp(), rtol=0, atol=1e-8)
