import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from una_ref.examine.enumeration import Enumeration, Feedback, at_examined_beta, standard_setting
from una_ref.examine.settling import expected_gradient
from una_ref.examine.signature import examinee
from una_ref.methods import METHODS
from una_ref.methods.grpo import group_advantages
from una_ref.studies.leaderboard.board_entries import ENTRIES
from una_ref.studies.leaderboard.own_objectives import (
    ALONE,
    IMITATION,
    ONE_NUMBER,
    OWN,
    SORTED,
    WITHOUT_GAP,
    own_gap,
    win_rates,
)
from una_ref.theory import optimum
from una_ref.theory.preferences import bradley_terry, nash_logps, preference_rewards
from una_ref.theory.worlds import SequenceWorld

BETA = 0.4


@pytest.fixture(scope="module")
def world():
    return SequenceWorld.random(0, prompts=3, vocabulary=3, length=4, beta=BETA)


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_win_rates_are_those_of_the_whole_table(world, scale):
    expected = preference_rewards(bradley_terry(scale * world.rewards), world.ref_logps)
    torch.testing.assert_close(win_rates(scale * world.rewards, world.ref_logps), expected, rtol=0, atol=1e-12)


def test_equal_rewards_win_half_of_the_time(world):
    torch.testing.assert_close(
        win_rates(torch.ones_like(world.rewards), world.ref_logps), torch.full_like(world.rewards, 0.5)
    )


def own_optimum(name, world, factors):
    """What an entry aims at, by theory."""
    entry = ENTRIES[name]
    known = {**METHODS[entry.method].hyperparameters, **entry.tuned_to(factors, BETA), **entry.loss_kwargs}
    ref, r = world.ref_logps, world.rewards
    wins = preference_rewards(bradley_terry(r), ref)
    tables = {
        "una-pair": lambda: optimum.optimal_logps(ref, r, known["beta"]),
        "dro.labels": lambda: optimum.optimal_logps(ref, 2 * r.sigmoid(), known["beta"]),
        "rebel": lambda: optimum.optimal_logps(ref, r, 1 / known["eta"]),
        "r-dpo": lambda: optimum.optimal_logps(ref, r - known["alpha"] * world.lengths, known["beta"]),
        "rpo": lambda: optimum.optimal_logps(ref, known["eta"] * r, known["beta"]),
        "f-dpo.js": lambda: optimum.optimal_logps(ref, r, known["beta"], "js"),
        "ipo": lambda: optimum.optimal_logps(ref, wins, known["beta"]),
        "iupo": lambda: optimum.optimal_logps(ref, wins, known["beta"], "js"),
        "nash-md": lambda: nash_logps(bradley_terry(r), ref, known["beta"]),
        "sft": lambda: (ref + (2 * wins).log()).log_softmax(-1),
    }
    return tables[name]()


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize(
    "name", ["una-pair", "dro.labels", "rebel", "r-dpo", "rpo", "f-dpo.js", "ipo", "iupo", "nash-md", "sft"]
)
def test_the_gap_is_zero_at_the_own_optimum_and_positive_elsewhere(world, name, factor):
    entry = ENTRIES[name]
    factors = (factor, *[1.5] * len(entry.tuned))[: len(entry.tuned)]
    aimed = own_optimum(name, world, factors)
    assert own_gap(entry, factors, world, aimed, BETA) == pytest.approx(0.0, abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        other = (aimed + torch.randn(aimed.shape, generator=generator, dtype=torch.float64)).log_softmax(-1)
        assert own_gap(entry, factors, world, other, BETA) > 1e-4


@pytest.mark.parametrize("name", ["sppo", "dno"])
def test_the_best_response_alone_cannot_be_exploited_without_a_reference(world, name):
    best = torch.where(world.rewards == world.rewards.amax(-1, keepdim=True), 0.0, -40.0).double().log_softmax(-1)
    assert own_gap(ENTRIES[name], (1.0,), world, best, BETA) == pytest.approx(0.0, abs=1e-9)
    table = bradley_terry(world.rewards) @ world.ref_logps.exp()[..., None]
    assert own_gap(ENTRIES[name], (1.0,), world, world.ref_logps, BETA) == pytest.approx(
        float((table[..., 0].amax(-1) - 0.5).mean()), abs=1e-9
    )


def test_an_entry_without_an_own_objective_has_no_gap(world):
    assert own_gap(ENTRIES["kto"], (1.0,), world, world.ref_logps, BETA) is None


# ---- the reasons of entries without a gap, on a small world


def test_every_entry_has_an_own_objective_or_a_reason():
    assert not OWN.keys() & WITHOUT_GAP.keys()
    assert OWN.keys() | WITHOUT_GAP.keys() == ENTRIES.keys()


def test_a_reason_has_short_sentences():
    for reason in WITHOUT_GAP.values():
        assert reason.endswith(".") and all(len(sentence.split()) <= 25 for sentence in reason.split(". "))


SMALL, OTHER, FEEDBACK = standard_setting()
SETTINGS = {"robust-dpo": {"label_smoothing": 0.01}, "dpop": {"lam": 2.0}}
"""Hyper-parameters at which a small world has a finite optimum inside; others have their defaults."""


def because(*reasons):
    """The entries with one of these reasons."""
    return [name for name, reason in WITHOUT_GAP.items() if reason in reasons]


def population(name, sampler=OTHER, **settings):
    """The mean loss of log π (X, S) on unlimited data of a sampler, at β = 0.5."""
    name, _, kind = name.partition(":")
    loss = at_examined_beta(examinee(name, kind or None)).at(**SETTINGS.get(name, {}), **settings)
    return Enumeration(loss, SMALL, FEEDBACK, sampler)


def mean_loss(name, sampler):
    """(log π (X, S), c) -> the mean loss; with the demonstrations where an entry has them beside pairs."""
    parts = [population(kind, sampler) for kind in ((name, f"{name}:demos") if "tpo" in name else (name,))]
    if METHODS[name].baseline != "constant":
        return lambda logps, c: sum(part.loss(logps) for part in parts)

    def with_number(logps, c):
        given = parts[0].arguments(logps)
        losses = METHODS[name].loss(**given, baseline=c.expand(len(given["logps"])), beta=parts[0].world.beta)
        return (parts[0].weights(logps) * losses).sum()

    return with_number


def minimised(loss, *, logps=None):
    """Log-probabilities (given or found), one number c, and the mean loss there."""
    logits, c = SMALL.ref_logps.clone().requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    free = [c] if logps is not None else [logits, c]
    search = torch.optim.LBFGS(free, max_iter=100, tolerance_grad=1e-11, line_search_fn="strong_wolfe")

    def value():
        return loss(logits.log_softmax(-1) if logps is None else logps, c)

    def closure():
        search.zero_grad()
        found = value()
        found.backward()
        return found

    search.step(closure)
    return (logits.detach().log_softmax(-1) if logps is None else logps), c.detach(), value().item()


def lost_by_another_sampler(name):
    """How much more the optimum of π_ref's responses loses on another sampler's responses than their own optimum."""
    logps, c, _ = minimised(mean_loss(name, SMALL.ref_logps))
    loss = mean_loss(name, OTHER)
    if METHODS[name].baseline == "constant":
        c = minimised(loss, logps=logps)[1]
    return float(loss(logps, c)) - minimised(loss)[2]


@pytest.mark.parametrize("name", ["una-pair", "sigmoid-norm", "gpo"])
def test_an_optimum_that_is_known_is_the_same_whoever_wrote_the_responses(name):
    assert lost_by_another_sampler(name) < 1e-8


@pytest.mark.parametrize("name", because(ONE_NUMBER, ALONE, IMITATION))
def test_who_wrote_the_responses_decides_the_optimum(name):
    assert lost_by_another_sampler(name) > 1e-4


@pytest.mark.parametrize("name", ["cdpo", "exo-pair", "robust-dpo", "simpo", "alpha-po", "ld-dpo", "discopop"])
def test_who_wrote_the_pairs_decides_where_margins_balance(name):
    assert lost_by_another_sampler(name) > 1e-6


def asked_margin(loss, p):
    """The margin that a loss of a margin asks for where the first response wins with probability p."""
    return minimize_scalar(lambda m: p * loss(m) + (1 - p) * loss(-m), bounds=(-9, 9), options={"xatol": 1e-9}).x


def of_margin(name, **settings):
    """The loss of a pair by its margin in rewards; all responses have one token."""
    method = METHODS[name]

    def loss(m):
        tables = {"chosen_logps": m, "rejected_logps": 0.0} | dict.fromkeys(
            ("ref_chosen_logps", "ref_rejected_logps"), 0.0
        )
        tables |= dict.fromkeys(("chosen_lengths", "rejected_lengths"), 1.0)
        given = {k: torch.tensor([v], dtype=torch.float64) for k, v in tables.items() if k in examinee(name).given}
        return float(method.loss(**given, beta=1.0, **settings)[0])

    return loss


def not_additive(asked):
    """m(a, b) + m(b, c) − m(a, c) of responses with rewards 2, 1 and 0, where m(Δr) is what is asked."""
    return abs(asked(1.0) + asked(1.0) - asked(2.0))


@pytest.mark.parametrize("name", ["cdpo", "exo-pair", "robust-dpo", "simpo", "rso"])
def test_margins_that_are_asked_for_are_no_differences_of_rewards(name):
    loss = of_margin(name, **SETTINGS.get(name, {}))
    assert not_additive(lambda gap: asked_margin(loss, 1 / (1 + math.exp(-gap)))) > 0.02


def test_the_margins_that_dpo_asks_for_are_differences_of_rewards():
    loss = of_margin("una-pair")
    assert not_additive(lambda gap: asked_margin(loss, 1 / (1 + math.exp(-gap)))) < 1e-4


def test_discopop_drives_apart_two_responses_that_win_equally_often():
    assert abs(asked_margin(of_margin("discopop"), 0.5)) > 0.1


SCORES = torch.linspace(-9, 9, 1801, dtype=torch.float64)
NORMAL = torch.distributions.Normal(0.0, 1.0)


def test_margins_of_odpo_are_no_differences_of_rewards_where_the_greater_noisy_score_wins():
    def asked(gap):
        odds = torch.distributions.Normal(gap, math.sqrt(2)).log_prob(SCORES).exp()
        odds = odds / odds.sum()

        def loss(m):
            return float((odds * torch.nn.functional.softplus(SCORES.abs() - SCORES.sign() * m)).sum())

        return minimize_scalar(loss, bounds=(-30, 30), options={"xatol": 1e-9}).x

    assert not_additive(asked) > 0.02


def test_margins_of_rpo_are_smaller_and_no_differences_of_rewards_where_scores_are_noisy():
    def asked(gap, noise):
        odds = torch.distributions.Normal(gap, noise * math.sqrt(2)).log_prob(SCORES).exp()
        odds = odds / odds.sum()

        def loss(m):
            learned = torch.full_like(SCORES, m)
            zero = dict.fromkeys(("rejected_logps", "ref_chosen_logps", "ref_rejected_logps"), torch.zeros_like(SCORES))
            return float((odds * METHODS["rpo"].loss(chosen_logps=learned, margins=SCORES, beta=1.0, **zero)).sum())

        return minimize_scalar(loss, bounds=(-30, 30), options={"xatol": 1e-9}).x

    assert not_additive(lambda gap: asked(gap, 1.0)) > 0.02 and asked(2.0, 1.0) < 1.6
    assert not_additive(lambda gap: asked(gap, 0.02)) < 1e-3  # with exact scores the aim is E η·r − β·KL


def test_the_best_of_eight_noisy_scores_beats_the_worst_by_no_bradley_terry_preference():
    def log_odds(gap):
        first, second = (NORMAL.log_prob(SCORES - r).exp() for r in (gap, 0.0))
        others = torch.distributions.Normal(0.0, math.sqrt(2)).cdf(SCORES)
        between = (others[:, None] - others[None, :]).clamp(min=0) ** 6  # six scores between best and worst
        return float(((first @ between @ second) / (second @ between @ first)).log())

    assert not_additive(log_odds) > 0.02


def policies(count=5):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(SMALL.ref_logps.shape, generator=generator, dtype=torch.float64).log_softmax(-1)
        for _ in range(count)
    ]


def slopes(loss, logps):
    """The derivative of a mean loss in each log π; in proportion to π, of one sign, where a policy is stationary."""
    logps = logps.clone().requires_grad_()
    return torch.autograd.grad(loss(logps), logps)[0]


def more_often(name):
    """(X, S) which responses are positive, or win against another response, more often than not."""
    if METHODS[name].kinds[0] == "labels":
        return FEEDBACK.positive > 0.5
    others = (1 - torch.eye(OTHER.shape[-1], dtype=torch.float64)) * OTHER.exp()[:, None, :]
    return (FEEDBACK.preferences * others).sum(-1) > others.sum(-1) / 2


@pytest.mark.parametrize("name", ["kto", "apo-zero-unpaired", "apo-zero"])
@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_no_policy_with_full_support_is_stationary_where_the_loss_is_linear_in_sigma(name, beta):
    raised = more_often(name)
    assert raised.any(-1).all() and (~raised).any(-1).all()
    for logps in policies():
        assert torch.equal(slopes(population(name, beta=beta).loss, logps) < 0, raised)


def test_the_authors_una_lowers_scores_below_0_and_raises_scores_above_1_at_every_policy():
    scores = 3 * SMALL.rewards
    assert (scores < 0).any(-1).all() and (scores > 1).any(-1).all()
    for logps in policies():

        def loss(logps):
            given = {"logps": logps, "ref_logps": SMALL.ref_logps, "scores": scores}
            return (
                METHODS["una-score"]
                .released(**{k: v.flatten() for k, v in given.items()}, baseline=0.3, beta=0.5)
                .sum()
            )

        found = slopes(loss, logps)
        assert (found[scores < 0] > 0).all() and (found[scores > 1] < 0).all()


def test_npo_is_concave_in_the_policy_up_to_a_beta_of_one():
    def bend(beta, first, second):
        loss = population("npo", beta=beta).loss
        middle = ((first.exp() + second.exp()) / 2).log()
        return float(loss(middle) - (loss(first) + loss(second)) / 2)

    several = policies(8)
    for beta in (0.025, 0.5, 1.0):
        assert min(bend(beta, a, b) for a in several for b in several) >= -1e-12
    assert min(bend(3.0, a, b) for a in several for b in several) < -1e-3


@pytest.mark.parametrize("name", ["gradient-ascent", "una-score.printed"])
def test_the_loss_falls_without_bound(name):
    def loss(logits):
        logps = logits.log_softmax(-1)
        if name == "gradient-ascent":
            return float(population(name).loss(logps))
        given = {"logps": logps, "ref_logps": SMALL.ref_logps, "scores": SMALL.rewards}
        return float(METHODS["una-score"].printed(**{k: v.flatten() for k, v in given.items()}, beta=0.5).sum())

    away = torch.zeros_like(SMALL.ref_logps)
    away[:, 0] = 1.0
    assert loss(-1e4 * away) < loss(-1e3 * away) - 20 < loss(0 * away) - 40


def test_apo_down_is_smallest_where_all_probability_is_on_responses_in_no_pair():
    whole = population("apo-down")
    pairs = whole.subset((whole.y < 4).all(-1))  # the fifth response is in no pair
    ranks = SMALL.rewards.argsort(-1).argsort(-1).to(torch.float64)
    away = 200 * (ranks - 5)
    away[:, 4] = 0.0
    least = float(pairs.loss(away.log_softmax(-1)))
    tied = torch.minimum(FEEDBACK.preferences, FEEDBACK.preferences.mT)[pairs.x, pairs.y[:, 0], pairs.y[:, 1]]
    odds = pairs.weights(SMALL.ref_logps) / pairs.odds
    assert least == pytest.approx(float((odds * tied).sum()), rel=1e-6)
    for logps in [SMALL.ref_logps, SMALL.optimum, *policies()]:
        assert float(pairs.loss(logps)) > least + 1e-3


def test_the_penalty_of_dpop_pulls_its_optimum_from_the_best_policy_towards_the_reference():
    found = minimised(mean_loss("dpop", OTHER))[0]
    assert float(optimum.kl(found, SMALL.ref_logps).mean()) < 0.9 * float(
        optimum.kl(SMALL.optimum, SMALL.ref_logps).mean()
    )


@pytest.mark.parametrize("name", because(SORTED))
def test_a_loss_of_sorted_numbers_is_no_mean_over_pairs(name):
    generator = torch.Generator().manual_seed(2)
    given = {k: torch.randn(6, generator=generator, dtype=torch.float64) for k in examinee(name).given if "logps" in k}
    whole = METHODS[name].loss(**given).sum()
    halves = sum(METHODS[name].loss(**{k: v[half] for k, v in given.items()}).sum() for half in (slice(3), slice(3, 6)))
    assert abs(float(whole - halves)) > 1e-3


def test_the_default_gpo_is_dpo():
    for logps in policies():
        torch.testing.assert_close(population("gpo").loss(logps), population("una-pair").loss(logps))


def test_sigmoid_norm_maximises_reward_minus_a_kl_in_which_responses_count_by_their_inverse_length():
    def objective(logps):
        p, ref = logps.exp(), SMALL.ref_logps.exp()
        distance = p * (logps - SMALL.ref_logps) - p + ref
        return float((p * SMALL.rewards - SMALL.beta * distance / SMALL.lengths).sum())

    best = minimised(mean_loss("sigmoid-norm", OTHER))[0]
    for move in policies(20):
        for size in (0.02, 1.0):
            assert objective((best + size * move).log_softmax(-1)) < objective(best)
    assert objective(SMALL.optimum) < objective(best) - 1e-3


def asymmetry(name, width=1e-5):
    """How far the derivative of the expected gradient is from symmetric: 0 where it is the gradient of a loss."""
    world = SequenceWorld.random(0, prompts=1, vocabulary=3, length=2, beta=BETA)  # three tokens: two rivals
    generator = torch.Generator().manual_seed(3)
    sampler, start = torch.randn(2, *world.rewards.shape, generator=generator, dtype=torch.float64).log_softmax(-1)
    field = expected_gradient(Enumeration(at_examined_beta(examinee(name)), world, Feedback.of(world.rewards), sampler))
    columns = []
    for i in range(start.numel()):
        moved = torch.zeros(start.numel(), dtype=torch.float64)
        moved[i] = width
        moved = moved.view_as(start)
        ahead, behind = (field((start + sign * moved).log_softmax(-1)) for sign in (1, -1))
        columns.append((ahead - behind).flatten() / (2 * width))
    jacobian = torch.stack(columns)
    return float((jacobian - jacobian.mT).abs().max() / jacobian.abs().max())


@pytest.mark.parametrize(("name", "is_gradient"), [("una-pair", True), ("tdpo2", False), ("cringe", False)])
def test_which_losses_have_the_expected_gradient(name, is_gradient):
    assert (asymmetry(name) < 1e-6) is is_gradient and (asymmetry(name) < 1e-3) is is_gradient


def test_the_best_policy_is_no_fixed_point_of_lipos_default_weights():
    def largest(ranking):
        return float(expected_gradient(population("lipo", ranking=ranking))(SMALL.optimum).abs().max())

    assert largest("list_mle") < 1e-12 and largest("lambda") > 1e-5


def test_imitating_the_best_of_eight_moves_every_policy_until_one_reward_is_left():
    logps, last = SMALL.ref_logps, -math.inf
    order = SMALL.rewards.argsort(-1)
    for _ in range(12):
        below = logps.exp().gather(-1, order).cumsum(-1).clamp(max=1) ** 8  # P(best of 8 is at most this one)
        best = torch.diff(below, prepend=torch.zeros_like(below[:, :1]))
        logps = torch.zeros_like(logps).scatter(-1, order, best).log()
        reward = float((logps.exp() * SMALL.rewards).sum())
        assert reward >= last
        last = reward
    assert last == pytest.approx(float(SMALL.rewards.amax(-1).sum()))


def test_scores_twice_as_large_give_the_same_advantages():
    scores, groups = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.zeros(8)
    once, twice = group_advantages(scores, groups), group_advantages(2 * scores, groups)
    torch.testing.assert_close(once, twice, rtol=1e-3, atol=0)
    assert not torch.allclose(group_advantages(scores, groups, "none"), group_advantages(2 * scores, groups, "none"))


def test_the_authors_online_una_first_follows_the_policy_gradient_of_sigma_of_the_score():
    for logps in policies():
        logits = logps.clone().requires_grad_()
        own = logits.log_softmax(-1)
        given = {"logps": own.flatten(), "old_logps": own.detach().flatten(), "scores": SMALL.rewards.flatten()}
        losses = METHODS["una-online"].released(**given, beta=0.5).view_as(own)
        (found,) = torch.autograd.grad((own.detach().exp() * losses).sum(), logits)
        (wanted,) = torch.autograd.grad((logits.softmax(-1) * SMALL.rewards.sigmoid()).sum(), logits)
        torch.testing.assert_close(found, -0.25 * wanted)
