"""What each loss learns from unlimited data: π* where theory predicts it, else the policy that theory predicts.

The population loss of a policy is the exact expectation of the method's `loss` over responses and labels. Its minimiser
is compared with the optimum, or with a fixed point that is computed here in another way.
"""

import functools
import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.special import lambertw

from una_ref.methods import METHODS
from una_ref.theory import TableWorld, bradley_terry, fixed_point, kl, optimal_logps, preference_rewards
from una_ref.theory.populations import pairs, singles

F64 = torch.float64
PROMPTS, RESPONSES, BETA = 3, 4, 0.5
ATOL = 1e-8  # of probabilities; the minimiser stops at a gradient of 1e-12


def world(offset=0.0):
    """A table world and a sampler of responses, which is neither π_ref nor uniform."""
    torch.manual_seed(3)
    ref, sampler = torch.randn(2, PROMPTS, RESPONSES, dtype=F64).log_softmax(-1)
    rewards = torch.randn(PROMPTS, RESPONSES, dtype=F64)
    return TableWorld(ref, rewards + offset, BETA), sampler.exp()


def same(logps, other):
    torch.testing.assert_close(logps.exp(), other.exp(), rtol=0, atol=ATOL)


def test_sft_learns_its_data_distribution():
    a_world, sampler = world()

    def population(logps):
        return (sampler.flatten() * METHODS["sft"].loss(logps=logps.flatten())).sum()

    same(fixed_point(population, a_world.ref_logps), sampler.log())


@pytest.mark.parametrize("offset", [-5.0, 0.0, 5.0])
def test_una_pair_learns_the_optimum(offset):
    a_world, sampler = world(offset)
    population = pairs(METHODS["dpo"].loss, a_world, sampler, bradley_terry(a_world.rewards))
    same(fixed_point(population, a_world.ref_logps), a_world.optimum)


@pytest.mark.parametrize("offset", [-5.0, 0.0, 5.0])
def test_una_score_with_baseline_beta_log_z_learns_the_optimum(offset):
    a_world, sampler = world(offset)
    baseline = BETA * a_world.log_partition[:, None]
    population = singles(METHODS["una-score"].loss, a_world, sampler, scores=a_world.rewards, baseline=baseline)
    fitted = fixed_point(population, a_world.ref_logps)
    same(fitted, a_world.optimum)
    assert population(fitted) < 1e-20


@pytest.mark.parametrize("offset", [-5.0, 0.0, 5.0])
def test_una_centred_learns_the_optimum(offset):
    # Every response is once in its prompt's group, so the sampler is uniform.
    a_world, _ = world(offset)
    groups = torch.arange(PROMPTS)[:, None]
    uniform = torch.full((PROMPTS, RESPONSES), 1 / RESPONSES, dtype=F64)
    population = singles(METHODS["una-centred"].loss, a_world, uniform, scores=a_world.rewards, groups=groups)
    fitted = fixed_point(population, a_world.ref_logps)
    same(fitted, a_world.optimum)
    assert population(fitted) < 1e-20


def test_una_centred_is_zero_at_the_optimum_for_any_samples():
    # At π*, s − r_θ is β·log Z for every response, so any two or more responses of a prompt have zero residuals.
    a_world, sampler = world(5.0)
    samples = torch.multinomial(sampler, 7, replacement=True)
    logps, ref, scores = (
        table.gather(1, samples).flatten() for table in (a_world.optimum, a_world.ref_logps, a_world.rewards)
    )
    groups = torch.arange(PROMPTS).repeat_interleave(7)
    losses = METHODS["una-centred"].loss(logps=logps, ref_logps=ref, scores=scores, groups=groups, beta=BETA)
    assert losses.max() < 1e-25


def test_una_centred_learns_the_optimum_from_mixed_scores_labels_and_pairs():
    # One V(x) serves scores and labels. Labels have P(y = 1) = σ(r), preferences σ of the reward difference.
    # Each of the three losses is minimal at π*, and so is any mixture.
    a_world, sampler = world(2.0)
    losses = METHODS["una-centred"].losses
    baseline, up = BETA * a_world.log_partition[:, None], a_world.rewards.sigmoid()
    terms = [
        singles(losses["scores"], a_world, sampler, scores=a_world.rewards, baseline=baseline),
        singles(losses["labels"], a_world, sampler, labels=up, baseline=baseline),
        pairs(losses["pairs"], a_world, sampler, bradley_terry(a_world.rewards)),
    ]
    same(fixed_point(lambda logps: sum(term(logps) for term in terms), a_world.ref_logps), a_world.optimum)


@pytest.mark.parametrize("name", ["una-binary-mse", "una-binary-bce"])
def test_una_binary_with_baseline_beta_log_z_learns_the_optimum(name):
    # Binary labels with P(y = 1) = σ(r): each response has both labels, weighted by their probabilities.
    a_world, sampler = world(2.0)
    baseline = BETA * a_world.log_partition[:, None]
    up = a_world.rewards.sigmoid()

    def learned(baseline):
        yes, no = (
            singles(METHODS[name].loss, a_world, sampler * p, labels=torch.full_like(p, y), baseline=baseline)
            for y, p in ((1.0, up), (0.0, 1 - up))
        )
        return fixed_point(lambda logps: yes(logps) + no(logps), a_world.ref_logps)

    same(learned(baseline), a_world.optimum)
    assert a_world.metrics(learned(torch.zeros(PROMPTS, 1, dtype=F64)))["regret"] > 0.01  # biased without it


def test_una_score_fixed_point_on_two_responses_by_hand():
    # π_ref = (½, ½), r = (1, 0), β = 1, uniform sampler (EU14). Without a baseline: (0.6575, 0.3425) with loss 0.3352.
    # With the baseline β·log Z it is π* = (0.7311, 0.2689), with loss 0.
    ref, rewards = torch.full((1, 2), 0.5, dtype=F64).log(), torch.tensor([[1.0, 0.0]], dtype=F64)

    def population(logps, baseline=0.0):
        values = METHODS["una-score"].loss(
            logps=logps[0], ref_logps=ref[0], scores=rewards[0], beta=1.0, baseline=baseline
        )
        return values.mean()

    fitted = fixed_point(population, ref)
    assert fitted.exp()[0].tolist() == pytest.approx([0.6575, 0.3425], abs=5e-5)
    assert population(fitted).item() == pytest.approx(0.3352, abs=5e-5)
    corrected = fixed_point(lambda logps: population(logps, math.log((math.e + 1) / 2)), ref)
    assert corrected.exp()[0].tolist() == pytest.approx([0.731059, 0.268941], abs=5e-7)


def raw_una_score(a_world, sampler):
    """The minimiser of Σ_y μ·(βu − r)² under Σ_y π_ref·e^u = 1, from its Lagrange multiplier λ.

    Stationarity in u: 2βμ(βu − r) + λ·π_ref·e^u = 0. With k = λ·π_ref/(2β²μ) it is u + k·e^u = r/β, so v = k·e^u
    solves v·e^v = k·e^{r/β}. Hence u = r/β − W(k·e^{r/β}) with Lambert's W. λ makes the probabilities sum to 1.
    """
    rows = []
    for ref, rewards, mu in zip(a_world.ref_logps, a_world.rewards, sampler, strict=True):
        ref, scaled, ratio = ref.numpy(), rewards.numpy() / BETA, (ref.exp() / mu).numpy()

        def logps(multiplier, ref=ref, scaled=scaled, ratio=ratio):
            return ref + scaled - lambertw(multiplier * ratio * torch.from_numpy(scaled).exp().numpy()).real

        def excess(multiplier, logps=logps):
            return float(torch.from_numpy(logps(multiplier)).exp().sum()) - 1

        rows.append(torch.from_numpy(logps(brentq(excess, 0, 1e9, xtol=1e-300, rtol=1e-15))))
    return torch.stack(rows)


@pytest.mark.parametrize("offset", [2.0, 5.0])
@pytest.mark.parametrize("from_reference", [True, False])
def test_una_score_without_a_baseline_does_not_learn_the_optimum(offset, from_reference):
    a_world, sampler = world(offset)
    assert a_world.log_partition.min() > 0  # hence λ > 0, where the equation above has one root
    if from_reference:
        sampler = a_world.ref_logps.exp()
    population = singles(METHODS["una-score"].loss, a_world, sampler, scores=a_world.rewards)
    fitted = fixed_point(population, a_world.ref_logps)
    same(fitted, raw_una_score(a_world, sampler))
    assert a_world.metrics(fitted)["regret"] > 0.1
    assert population(fitted) > 0.1


def test_una_score_returns_to_the_reference_as_the_reward_offset_grows():
    # With responses sampled from π_ref, the policy returns to π_ref as the offset grows (EU14).
    distances = []
    for offset in (2.0, 5.0, 10.0, 40.0):
        a_world, _ = world(offset)
        fitted = raw_una_score(a_world, a_world.ref_logps.exp())
        distances.append(kl(fitted, a_world.ref_logps).max().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3 < 0.1 < kl(a_world.optimum, a_world.ref_logps).max()


def test_released_una_score_ignores_beta_and_reference():
    # For small |βu|, σ(βu) = ½ + βu/4, and the squared error is β·(½ − s)·u/2 plus a constant.
    # The minimiser of −Σ_y μ·(s − ½)·log π is π ∝ μ·(s − ½) for scores above ½, without π_ref and β.
    a_world, sampler = world()
    scores = 0.6 + 0.35 * a_world.rewards.sigmoid()
    limit = (sampler * (scores - 0.5)).log().log_softmax(-1)
    ref = a_world.ref_logps.flatten()

    def learned(beta):
        def population(logps):
            values = METHODS["una-score"].released(
                logps=logps.flatten(), ref_logps=ref, scores=scores.flatten(), beta=beta
            )
            return (sampler.flatten() * values).sum()

        return fixed_point(population, a_world.ref_logps)

    distances = [kl(learned(beta), limit).max().item() for beta in (0.1, 0.01, 0.001)]
    assert distances[1] < distances[0] / 10 and distances[2] < 1e-4
    optimum = TableWorld(a_world.ref_logps, scores, 0.01).optimum
    assert kl(learned(0.01), optimum).max() > 1


@pytest.mark.parametrize(("positive_rates", "winner"), [((0.6, 0.45), 0), ((0.9, 0.8), None), ((0.2, 0.51), 1)])
def test_kto_puts_all_mass_on_the_response_with_mostly_positive_labels(positive_rates, winner):
    # If only one of two responses has P(y = 1) above ½, all mass goes to it, however near to ½ it is.
    # If both are above ½, they share the mass.
    ref = torch.full((1, 2), 0.5, dtype=F64).log()
    up = torch.tensor(positive_rates, dtype=F64)

    def population(logps):
        arguments = {"logps": logps[0], "ref_logps": ref[0], "kl": 0.0, "beta": BETA}
        negative, positive = (METHODS["kto"].loss(**arguments, labels=torch.full((2,), y)) for y in (0.0, 1.0))
        return ((1 - up) * negative + up * positive).sum()

    if winner is None:
        fitted = fixed_point(population, ref).exp()[0]
        assert 0.1 < fitted[0] < 0.9
        return
    gaps = torch.tensor([-20.0, -10.0, -5.0, -2.0, 0.0, 2.0, 5.0, 10.0, 20.0], dtype=F64)
    losses = torch.stack([population(torch.stack([gap, -gap])[None].log_softmax(-1)) for gap in gaps])
    falls = losses.diff() < 0  # towards the first response
    assert falls.all() if winner == 0 else (~falls).all()


def test_kto_does_not_learn_the_optimum():
    # At π*, with KL(π* ‖ π_ref) as the reference point and P(y = 1) = σ(r), the expected gradient is not zero.
    a_world, sampler = world()
    up = a_world.rewards.sigmoid()
    z0 = kl(a_world.optimum, a_world.ref_logps)[:, None]
    yes, no = (
        singles(METHODS["kto"].loss, a_world, sampler * p, labels=torch.full_like(p, y), kl=z0)
        for y, p in ((1.0, up), (0.0, 1 - up))
    )
    logits = a_world.optimum.clone().requires_grad_()
    logps = logits.log_softmax(-1)
    (slope,) = torch.autograd.grad(yes(logps) + no(logps), logits)
    assert slope.abs().max() > 0.01


def test_ipo_learns_the_exponential_of_win_rate_over_beta():
    # Per pair the loss is minimal at h(y, y') = (2·P(y ≻ y') − 1)/(2β), and h is a difference u(y) − u(y').
    # Least squares over independent y, y' ~ μ give u(y) = E_{y'} P(y ≻ y')/β + const: π ∝ π_ref·exp(P(y ≻ μ)/β).
    a_world, sampler = world()
    preference = bradley_terry(a_world.rewards)
    for mu in (a_world.ref_logps.exp(), sampler):
        beats_mu = (preference * mu[:, None, :]).sum(-1)
        expected = (a_world.ref_logps + beats_mu / BETA).log_softmax(-1)
        fitted = fixed_point(pairs(METHODS["ipo"].loss, a_world, mu, preference), a_world.ref_logps)
        same(fitted, expected)
        assert kl(fitted, a_world.optimum).max() > 0.1


def test_certain_preferences_bound_the_ipo_margin_but_not_the_dpo_margin():
    # With certain preferences DPO's margin grows without bound, while IPO's stays of the order of 1/β.
    a_world, sampler = world()
    certain = torch.where(bradley_terry(a_world.rewards) > 0.5, 1.0, 0.0).to(F64)
    ipo = fixed_point(pairs(METHODS["ipo"].loss, a_world, sampler, certain), a_world.ref_logps)
    dpo = fixed_point(pairs(METHODS["dpo"].loss, a_world, sampler, certain), a_world.ref_logps, tolerance=1e-6)
    assert (ipo - a_world.ref_logps).abs().max() < 2 / BETA
    assert (dpo - a_world.ref_logps).abs().max() > 10 / BETA


@pytest.mark.parametrize("p", [1.0, 0.9, 0.6])
def test_cdpo_margin_is_the_logit_of_the_smoothed_preference(p):
    # The first of two responses wins with probability p. The margin is logit((1 − ε)·p + ε·(1 − p)), finite for p = 1.
    ref = torch.tensor([[0.3, 0.7]], dtype=F64).log()
    preference = torch.tensor([[[0.5, p], [1 - p, 0.5]]], dtype=F64)
    weights = preference * (1 - torch.eye(2, dtype=F64))

    def population(logps):
        chosen, rejected = torch.tensor([0, 1]), torch.tensor([1, 0])
        values = METHODS["cdpo"].loss(
            chosen_logps=logps[0, chosen],
            rejected_logps=logps[0, rejected],
            ref_chosen_logps=ref[0, chosen],
            ref_rejected_logps=ref[0, rejected],
            beta=BETA,
            label_smoothing=0.1,
        )
        return (weights[0, chosen, rejected] * values).sum()

    u = (fixed_point(population, ref) - ref)[0]
    smoothed = 0.9 * p + 0.1 * (1 - p)
    assert (BETA * (u[0] - u[1])).item() == pytest.approx(math.log(smoothed / (1 - smoothed)), abs=1e-9)
    assert smoothed < p


def test_cdpo_does_not_learn_the_optimum():
    a_world, sampler = world()
    population = pairs(METHODS["cdpo"].loss, a_world, sampler, bradley_terry(a_world.rewards))
    fitted = fixed_point(population, a_world.ref_logps)
    assert a_world.metrics(fitted)["regret"] > 0.003


POSITIVE = ("reverse_kl", "forward_kl", "js", "jsd", "alpha", "hellinger")  # f′(0+) = −∞: the optimum has no zeros


def with_divergence(method, divergence, form="loss"):
    return functools.partial(getattr(METHODS[method], form), divergence=divergence)


@pytest.mark.parametrize("divergence", POSITIVE)
def test_f_dpo_learns_the_optimum_of_its_divergence(divergence):
    a_world, sampler = world(3.0)
    population = pairs(with_divergence("f-dpo", divergence), a_world, sampler, bradley_terry(a_world.rewards))
    fitted = fixed_point(population, a_world.ref_logps)
    same(fitted, optimal_logps(a_world.ref_logps, a_world.rewards, BETA, divergence))
    assert divergence == "reverse_kl" or kl(fitted, a_world.optimum).max() > 0.01


def test_f_dpo_with_chi2_learns_an_optimum_without_zeros():
    # f′(0+) = −2, so w = 1 + (r − λ)/(2β) may be 0. It stays positive here for rewards divided by 4.
    a_world, sampler = world()
    rewards = a_world.rewards / 4
    best = optimal_logps(a_world.ref_logps, rewards, BETA, "chi2")
    population = pairs(with_divergence("f-dpo", "chi2"), a_world, sampler, bradley_terry(rewards))
    same(fixed_point(population, a_world.ref_logps), best)
    assert best.isfinite().all()


@pytest.mark.parametrize("divergence", POSITIVE)
def test_iupo_learns_the_optimum_of_its_divergence(divergence):
    # As for IPO, least squares of f′(y) − f′(y') over independent y, y' ~ μ give f′(y) = E_{y'} P(y ≻ y')/β + const.
    a_world, sampler = world()
    preference = bradley_terry(a_world.rewards)
    population = pairs(with_divergence("iupo", divergence), a_world, sampler, preference)
    fitted = fixed_point(population, a_world.ref_logps)
    same(fitted, optimal_logps(a_world.ref_logps, preference_rewards(preference, sampler.log()), BETA, divergence))


@pytest.mark.parametrize(
    ("beta", "corrected", "printed"),
    [
        (0.5, [0.7430, 0.1765, 0.0804], [0.5863, 0.2567, 0.1571]),
        (0.1, [0.9773, 0.0193, 0.0034], [0.6368, 0.2296, 0.1336]),
    ],
)
def test_printed_iupo_does_not_learn_the_optimum_of_its_divergence(beta, corrected, printed):
    # Example G of EP7: P(1 ≻ 2) = σ(1), P(1 ≻ 3) = σ(2), P(2 ≻ 3) = σ(½), μ = (0.2, 0.5, 0.3), π_ref = (0.5, 0.3, 0.2).
    # By hand P(y ≻ μ) = (0.2·½ + 0.5·0.7311 + 0.3·0.8808, …) = (0.7298, 0.4905, 0.3626).
    logits = torch.tensor([[0, 1, 2], [-1, 0, 0.5], [-2, -0.5, 0]], dtype=F64)
    mu, ref = torch.tensor([[0.2, 0.5, 0.3], [0.5, 0.3, 0.2]], dtype=F64)
    preference, ref = logits.sigmoid(), ref[None].log()
    assert (preference @ mu).tolist() == pytest.approx([0.7298, 0.4905, 0.3626], abs=5e-5)
    i, j = (index.flatten() for index in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))

    def learned(loss):
        def population(logps):
            sides = {"chosen_logps": logps[0, i], "rejected_logps": logps[0, j]}
            sides |= {"ref_chosen_logps": ref[0, i], "ref_rejected_logps": ref[0, j]}
            return (mu[i] * mu[j] * preference[i, j] * loss(**sides, beta=beta)).sum()

        return fixed_point(population, ref).exp()[0].tolist()

    assert learned(METHODS["iupo"].loss) == pytest.approx(corrected, abs=5e-5)
    best = optimal_logps(ref, preference_rewards(preference[None], mu[None].log()), beta, "js").exp()[0]
    assert best.tolist() == pytest.approx(corrected, abs=5e-5)
    assert learned(METHODS["iupo"].printed) == pytest.approx(printed, abs=5e-5)


@pytest.mark.parametrize("offset", [-5.0, 0.0, 5.0])
def test_dro_learns_the_optimum_and_beta_log_z(offset):
    # For a fixed policy the best V(x) is the mean of s − r_θ over the sampler. The policy learns the rest.
    a_world, sampler = world(offset)

    def best_value(logps):
        gap = a_world.rewards - BETA * (logps - a_world.ref_logps)
        return (sampler * gap).sum(-1, keepdim=True)

    def population(logps):
        loss = singles(METHODS["dro"].loss, a_world, sampler, scores=a_world.rewards, baseline=best_value(logps))
        return loss(logps)

    fitted = fixed_point(population, a_world.ref_logps)
    same(fitted, a_world.optimum)
    torch.testing.assert_close(best_value(fitted)[:, 0], BETA * a_world.log_partition, rtol=0, atol=1e-8)
