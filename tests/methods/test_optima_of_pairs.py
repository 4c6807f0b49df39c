"""What the losses on pairs learn from unlimited data: the policy that each record's `optimum` states.

As in test_population, the minimiser of the exact population loss is compared with a policy in closed form. A method
that does not learn π* has a regret above 0; which other policy it learns is stated where it is known.
"""

import functools
import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.scored_pairs import DISTANCES
from una_ref.theory import TableWorld, bradley_terry, fixed_point, kl
from una_ref.theory.populations import over_pairs, pairs

F64 = torch.float64
PROMPTS, RESPONSES, BETA = 3, 4, 0.5
FIRST, SECOND = (~torch.eye(RESPONSES, dtype=torch.bool)).nonzero(as_tuple=True)  # all ordered pairs of responses
LENGTHS = torch.tensor([3, 1, 4, 2])


def world(beta=BETA, offset=0.0):
    """A table world and a sampler of responses, which is neither π_ref nor uniform."""
    torch.manual_seed(3)
    ref, sampler = torch.randn(2, PROMPTS, RESPONSES, dtype=F64).log_softmax(-1)
    return TableWorld(ref, torch.randn(PROMPTS, RESPONSES, dtype=F64) + offset, beta), sampler.exp()


def same(logps, other):
    torch.testing.assert_close(logps.exp(), other.exp(), rtol=0, atol=1e-7)


def learned(loss, of_world, sampler, **settings):
    """The minimiser from Bradley–Terry preferences, at the β of the world."""
    population = pairs(functools.partial(loss, **settings), of_world, sampler, bradley_terry(of_world.rewards))
    return fixed_point(population, of_world.ref_logps)


def of_every_prompt(values):
    return {
        name: value.repeat(PROMPTS)
        for name, value in zip(("chosen", "rejected"), (values[FIRST], values[SECOND]), strict=True)
    }


def without_reference(loss, of_world, sampler, **settings):
    """The population loss of a method that has no reference, from Bradley–Terry preferences."""
    wins = bradley_terry(of_world.rewards)[:, FIRST, SECOND]
    weights = (2 * sampler[:, FIRST] * sampler[:, SECOND] * wins).flatten()

    def population(logps):
        sides = {"chosen_logps": logps[:, FIRST].flatten(), "rejected_logps": logps[:, SECOND].flatten()}
        return (weights * loss(**sides, **settings)).sum()

    return population


def chosen_distribution(of_world, sampler):
    """log of how often each response is the chosen one."""
    against = bradley_terry(of_world.rewards) * sampler[:, None, :] * (1 - torch.eye(RESPONSES, dtype=F64))
    weights = sampler * against.sum(-1)
    return (weights / weights.sum(-1, keepdim=True)).log()


# ---- GPO and RSO


def test_gpo_learns_the_optimum_with_the_logistic_and_savage_functions():
    # A stationary margin m has f'(m)/f'(−m) = (1 − p)/p. For Savage's f' = −2σ(−m)²·σ(m) the left side is e^−m.
    a_world, sampler = world()
    for shape in ("logistic", "savage"):
        same(learned(METHODS["gpo"].loss, a_world, sampler, function=shape), a_world.optimum)


def test_gpo_learns_the_optimum_of_twice_the_beta_with_the_exponential():
    # f'(m)/f'(−m) = e^−2m = (1 − p)/p = e^−Δr: the margin is Δr/2, as at π* of 2β.
    a_world, sampler = world()
    fitted = learned(METHODS["gpo"].loss, a_world, sampler, function="exponential")
    same(fitted, world(2 * BETA)[0].optimum)
    assert a_world.metrics(fitted)["regret"] > 0.1


def test_gpo_learns_the_policy_of_ipo_with_the_squared_functions():
    # The truncated one is the same while no margin is above 1.
    a_world, sampler = world()
    preferences = bradley_terry(a_world.rewards)
    ipo = over_pairs(METHODS["ipo"].loss, preferences, sampler.log(), a_world.ref_logps, beta=BETA / 2)
    expected = fixed_point(ipo, a_world.ref_logps)
    for shape in ("squared", "truncated_quadratic"):
        fitted = learned(METHODS["gpo"].loss, a_world, sampler, function=shape)
        same(fitted, expected)
    margins = BETA * (fitted - a_world.ref_logps)
    assert (margins[:, FIRST] - margins[:, SECOND]).abs().max() < 1 and a_world.metrics(fitted)["regret"] > 0.1


MARGINS = torch.linspace(-6, 6, 12001, dtype=F64)


def best_margin(loss, p, **arguments):
    """The margin log π(y₁)/π(y₂) with the least expected loss, where y₁ wins with probability p, on a grid of 0.001."""
    first, second = MARGINS.sigmoid().log(), (-MARGINS).sigmoid().log()
    right = loss(chosen_logps=first, rejected_logps=second, **arguments)
    wrong = loss(chosen_logps=second, rejected_logps=first, **arguments)
    return MARGINS[(p * right + (1 - p) * wrong).argmin()].item()


@pytest.mark.parametrize("p", [0.9, 0.6, 0.4])
def test_rso_hinge_learns_a_margin_of_one_however_sure_the_preference(p):
    # E = 1 + (1 − 2p)·m for |m| ≤ 1. π_ref is uniform, and β = 0.5 makes the margin of log π 1/β = 2.
    uniform = dict.fromkeys(("ref_chosen_logps", "ref_rejected_logps"), torch.full_like(MARGINS, math.log(0.5)))
    assert best_margin(METHODS["rso"].loss, p, **uniform, beta=0.5) == pytest.approx(math.copysign(2, p - 0.5))
    soft = best_margin(METHODS["rso"].loss, p, **uniform, beta=0.5, function="sigmoid_norm")
    assert soft == pytest.approx(2 * math.log(p / (1 - p)), abs=1e-3)


# ---- DPOP, R-DPO, β-DPO


def test_dpop_learns_a_policy_between_the_reference_and_the_optimum():
    a_world, sampler = world()
    same(learned(METHODS["dpop"].loss, a_world, sampler, lam=0.0), a_world.optimum)
    fitted = learned(METHODS["dpop"].loss, a_world, sampler, lam=0.1)
    assert a_world.metrics(fitted)["regret"] > 0.003
    assert (kl(fitted, a_world.ref_logps) < kl(a_world.optimum, a_world.ref_logps)).all()


def test_dpop_stays_nearer_to_the_reference_the_larger_its_weight():
    # Two responses, uniform π_ref, β = 0.5: π* has the margin logit(p)/β = 2.77.
    uniform = dict.fromkeys(("ref_chosen_logps", "ref_rejected_logps"), torch.full_like(MARGINS, math.log(0.5)))
    margins = [
        best_margin(METHODS["dpop"].loss, 0.8, **uniform, beta=0.5, lam=lam) for lam in (0.0, 0.1, 1.0, 5.0, 50.0)
    ]
    assert margins[0] == pytest.approx(2 * math.log(4), abs=1e-3)
    assert margins == sorted(margins, reverse=True) and len(set(margins)) >= 4
    assert margins[-1] == pytest.approx(0, abs=1e-3)


def test_r_dpo_learns_the_optimum_with_a_length_penalty_and_its_printed_form_lengthens():
    # Eq. 44 is the RLHF objective with r − α·|y| as the reward. The printed sign (ES23) has r + α·|y|.
    a_world, sampler = world()
    lengths = {f"{side}_lengths": values for side, values in of_every_prompt(LENGTHS).items()}
    fitted, printed = (
        learned(form, a_world, sampler, alpha=0.3, **lengths)
        for form in (METHODS["r-dpo"].loss, METHODS["r-dpo"].printed)
    )
    same(fitted, TableWorld(a_world.ref_logps, a_world.rewards - 0.3 * LENGTHS, BETA).optimum)
    same(printed, TableWorld(a_world.ref_logps, a_world.rewards + 0.3 * LENGTHS, BETA).optimum)
    mean_length = [(logps.exp() * LENGTHS).sum(-1) for logps in (fitted, a_world.optimum, printed)]
    assert (mean_length[0] < mean_length[1]).all() and (mean_length[1] < mean_length[2]).all()


def test_r_dpo_on_two_responses_by_hand():
    # r = (0, 0), lengths (1, 3), β = 0.5, α = 0.3: π₁/π₂ = e^(0.3·2/0.5) = e^1.2, so π = (0.769, 0.231) (ES23).
    a_world = TableWorld(torch.full((1, 2), 0.5).log(), torch.zeros(1, 2), 0.5)
    lengths = {"chosen_lengths": torch.tensor([1, 3]), "rejected_lengths": torch.tensor([3, 1])}
    uniform = torch.full((1, 2), 0.5, dtype=F64)
    fitted = learned(METHODS["r-dpo"].loss, a_world, uniform, alpha=0.3, **lengths)
    assert fitted.exp()[0].tolist() == pytest.approx([0.769, 0.231], abs=5e-4)


def test_beta_dpo_learns_the_optimum_of_the_beta_of_its_batch():
    # β = 0.5·(1 + 0.6·(1.5 − 0.5)) = 0.8.
    a_world, sampler = world()
    statistics = {"batch_gap": 1.5, "running_gap": 0.5, "running_gap_sd": 1.0}
    fitted = learned(METHODS["beta-dpo"].loss, a_world, sampler, filtering=0.0, **statistics)
    same(fitted, world(0.8)[0].optimum)
    assert a_world.metrics(fitted)["regret"] > 0.01


@pytest.mark.parametrize(("threshold", "stays"), [(0.0, True), (0.5, False)])
def test_beta_dpo_filtering_moves_the_optimum_unless_its_threshold_is_zero(threshold, stays):
    # At π* the two orders of a pair have opposite gaps, and cancel if their weights are equal: if M₀ is 0.
    a_world, sampler = world(0.8)
    statistics = {"batch_gap": 0.0, "running_gap": threshold, "running_gap_sd": 1.0}
    loss = functools.partial(METHODS["beta-dpo"].loss, alpha=0.0, **statistics)
    population = pairs(loss, a_world, sampler, bradley_terry(a_world.rewards))
    logits = a_world.optimum.clone().requires_grad_()
    (slope,) = torch.autograd.grad(population(logits.log_softmax(-1)), logits)
    assert slope.abs().max() < 1e-12 if stays else slope.abs().max() > 0.01


# ---- without a reference


def test_cpo_without_imitation_learns_the_optimum_of_a_uniform_reference():
    a_world, sampler = world()
    fitted = fixed_point(
        without_reference(METHODS["cpo"].loss, a_world, sampler, beta=BETA, lam=0.0), a_world.ref_logps
    )
    uniform = torch.full_like(a_world.ref_logps, 1 / RESPONSES).log()
    same(fitted, TableWorld(uniform, a_world.rewards, BETA).optimum)
    assert a_world.metrics(fitted)["regret"] > 0.01


def test_cpo_and_orpo_learn_the_distribution_of_chosen_responses_where_imitation_is_all():
    a_world, sampler = world()
    imitated = chosen_distribution(a_world, sampler)
    ones = dict.fromkeys(("chosen_lengths", "rejected_lengths"), torch.ones(PROMPTS * len(FIRST), dtype=torch.int64))
    orpo = without_reference(METHODS["orpo"].loss, a_world, sampler, lam=0.0, **ones)
    same(fixed_point(orpo, a_world.ref_logps), imitated)
    cpo = without_reference(METHODS["cpo"].loss, a_world, sampler, beta=BETA, lam=1e6)
    torch.testing.assert_close(
        fixed_point(cpo, a_world.ref_logps, tolerance=1e-6).exp(), imitated.exp(), rtol=0, atol=1e-4
    )


def test_cpo_and_orpo_do_not_learn_the_optimum():
    a_world, sampler = world()
    lengths = {f"{side}_lengths": values for side, values in of_every_prompt(LENGTHS).items()}
    cpo = without_reference(METHODS["cpo"].loss, a_world, sampler, beta=BETA)
    orpo = without_reference(METHODS["orpo"].loss, a_world, sampler, **lengths)
    for population in (cpo, orpo):
        assert a_world.metrics(fixed_point(population, a_world.ref_logps))["regret"] > 0.03


@pytest.mark.parametrize(("p", "delta"), [(0.9, 1.0), (0.6, 1.0), (0.9, 2.0)])
def test_slic_learns_a_margin_of_delta_while_imitation_is_weak(p, delta):
    assert best_margin(METHODS["slic"].loss, p, delta=delta, lam=0.1) == pytest.approx(delta)
    assert best_margin(METHODS["slic"].loss, 1 - p, delta=delta, lam=0.1) == pytest.approx(-delta)


def test_slic_learns_imitation_where_its_weight_is_large():
    # Above δ the slope is (1 − p) + λ·(σ(m) − p): σ(m) = p − (1 − p)/λ, which tends to P(y₁ is chosen) = p.
    for lam in (10.0, 100.0):
        fitted = best_margin(METHODS["slic"].loss, 0.9, delta=1.0, lam=lam)
        assert fitted == pytest.approx(torch.tensor(0.9 - 0.1 / lam).logit().item(), abs=1e-3)


# ---- with scores, and reward models


@pytest.mark.parametrize("offset", [0.0, 5.0])
@pytest.mark.parametrize("distance", DISTANCES)
def test_rpo_learns_the_optimum_of_the_scaled_scores_with_every_distance(distance, offset):
    a_world, sampler = world(offset=offset)
    margins = (a_world.rewards[:, FIRST] - a_world.rewards[:, SECOND]).flatten()
    even = torch.full((PROMPTS, RESPONSES, RESPONSES), 0.5, dtype=F64)
    for eta in (1.0, 2.0):
        loss = functools.partial(METHODS["rpo"].loss, margins=margins, eta=eta, distance=distance)
        fitted = fixed_point(pairs(loss, a_world, sampler, even), a_world.ref_logps)
        same(fitted, world(BETA / eta, offset)[0].optimum)


def test_rebel_learns_one_step_of_mirror_descent_and_refreshed_more():
    # π₁ ∝ π_ref·e^(η·s) is π* of β = 1/η. With π₁ in the place of π_ref, π₂ is π* of β = 1/(2η).
    a_world, sampler = world()
    margins = (a_world.rewards[:, FIRST] - a_world.rewards[:, SECOND]).flatten()
    even, current = torch.full((PROMPTS, RESPONSES, RESPONSES), 0.5, dtype=F64), a_world.ref_logps
    for step in (1, 2):
        population = over_pairs(METHODS["rebel"].loss, even, sampler.log(), current, margins=margins, eta=0.4)
        current = fixed_point(population, current)
        same(current, world(1 / (step * 0.4))[0].optimum)


def test_odpo_adds_the_scaled_offset_to_the_differences_of_rewards():
    # p = σ(Δr) and m(y, y') = −m(y', y): the minimum is at d − η·m = logit p = Δr, so π ∝ π_ref·exp((r + η·s)/β).
    a_world, sampler = world()
    scores = torch.randn(PROMPTS, RESPONSES, dtype=F64)
    margins = (scores[:, FIRST] - scores[:, SECOND]).flatten()
    fitted = learned(METHODS["odpo"].loss, a_world, sampler, margins=margins, eta=0.4)
    same(fitted, TableWorld(a_world.ref_logps, a_world.rewards + 0.4 * scores, BETA).optimum)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.9])
def test_a_positive_offset_whoever_wins_exaggerates_the_differences_of_rewards(p):
    # p·σ(m − d) = (1 − p)·σ(m + d), so e^d is the root of (1 − p)·x² + (1 − 2p)·e^m·x − p: more than p/(1 − p).
    zero = dict.fromkeys(("ref_chosen_logps", "ref_rejected_logps"), torch.zeros_like(MARGINS))
    linear = (2 * p - 1) * math.exp(0.7)
    root = (linear + math.sqrt(linear**2 + 4 * p * (1 - p))) / (2 * (1 - p))
    found = best_margin(METHODS["odpo"].loss, p, **zero, margins=torch.full_like(MARGINS, 0.7), beta=1.0)
    assert found == pytest.approx(math.log(root), abs=2e-3)
    assert found > math.log(p / (1 - p)) + 0.1 if p > 0.5 else found == pytest.approx(0, abs=2e-3)


# ---- weights of pairs


def weighted(a_world, sampler, weights):
    """What DPO learns if the loss of a pair is multiplied by weights (X, Y, Y), the winner first."""
    flat = weights[:, FIRST, SECOND].flatten()

    def loss(**arguments):
        return flat * METHODS["dpo"].loss(**arguments)

    return learned(loss, a_world, sampler)


def test_weights_that_do_not_depend_on_who_won_leave_the_optimum_as_it_is():
    a_world, sampler = world()
    by_prompt = torch.rand(PROMPTS, 1, 1, dtype=F64).expand(-1, RESPONSES, RESPONSES)
    by_pair = torch.rand(PROMPTS, RESPONSES, RESPONSES, dtype=F64) + 0.1
    for weights in (by_prompt, by_pair + by_pair.mT):
        same(weighted(a_world, sampler, weights), a_world.optimum)


def test_weights_of_the_chosen_response_are_rewards_of_their_logarithm():
    # P(y is chosen)·w(y) against P(y' is chosen)·w(y'): the log-odds are Δr + log w(y) − log w(y').
    a_world, sampler = world()
    gains = torch.randn(PROMPTS, RESPONSES, dtype=F64)
    fitted = weighted(a_world, sampler, gains.exp()[:, :, None].expand(-1, -1, RESPONSES))
    same(fitted, TableWorld(a_world.ref_logps, a_world.rewards + gains, BETA).optimum)
    assert (fitted.exp() - a_world.optimum.exp()).abs().max() > 0.01


def test_reward_model_learns_the_reward_of_each_prompt_up_to_a_constant():
    # A table of rewards stands where log π does; its constant for each prompt is taken out by log_softmax.
    a_world, sampler = world()
    wins = bradley_terry(a_world.rewards)[:, FIRST, SECOND]
    weights = (sampler[:, FIRST] * sampler[:, SECOND] * wins).flatten()

    def population(table):
        sides = {"chosen_rewards": table[:, FIRST].flatten(), "rejected_rewards": table[:, SECOND].flatten()}
        return (weights * METHODS["reward-model"].loss(**sides)).sum()

    same(fixed_point(population, a_world.ref_logps), a_world.rewards.log_softmax(-1))


@pytest.mark.parametrize("p", [0.5, 0.7, 0.9])
def test_margins_exaggerate_the_differences_of_a_reward_model(p):
    # p·σ(m − d) = (1 − p)·σ(m + d), with E = e^d and M = e^m: (1 − p)·E² − (2p − 1)·M·E − p = 0.
    zero, margin = torch.zeros_like(MARGINS), torch.full_like(MARGINS, 1.0)
    loss = METHODS["reward-model-margin"].loss
    values = p * loss(chosen_rewards=MARGINS, rejected_rewards=zero, margins=margin) + (1 - p) * loss(
        chosen_rewards=zero, rejected_rewards=MARGINS, margins=margin
    )
    fitted, tilt = MARGINS[values.argmin()].item(), (2 * p - 1) * math.e
    expected = math.log((tilt + math.sqrt(tilt**2 + 4 * p * (1 - p))) / (2 * (1 - p)))
    assert fitted == pytest.approx(expected, abs=1e-3)
    assert fitted >= math.log(p / (1 - p)) - 1e-3 and (p == 0.5 or fitted > math.log(p / (1 - p)) + 0.1)
