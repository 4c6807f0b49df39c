"""What each method learns is the policy that its record states: computed by hand, and compared to 1e-7.

Worlds: `WORLD` has two prompts with five responses of one to four tokens. `two_responses` has one prompt where a margin
is the whole policy. `one_token` has responses of one token. β is 0.5 unless a claim sets it.
"""

import math
import re

import pytest
import torch
from scipy.optimize import brentq

from una_ref.examine.enumeration import BETA, Enumeration, Feedback, at_examined_beta, standard_setting
from una_ref.examine.optima import FROM_OTHER, learned_from, optima
from una_ref.examine.settling import settled
from una_ref.examine.signature import examinee
from una_ref.methods import METHODS
from una_ref.methods.scored_pairs import DISTANCES
from una_ref.theory import SequenceWorld, nash_logps, optimal_logps, preference_rewards, una_end
from una_ref.theory.token_mdp import last_token_rewards, one_step_improvement, policy_values, token_policy

F64 = torch.float64
ATOL = 1e-7
WORLD, OTHER, FEEDBACK = standard_setting()
REF, REWARDS, BEST = WORLD.ref_logps, WORLD.rewards, WORLD.optimum
LENGTHS, POSITIVE = WORLD.lengths.to(F64), FEEDBACK.positive
DIFFERENT = 1 - torch.eye(REF.shape[-1], dtype=F64)
POLICY = None
"""Samples of the policy that is trained itself."""


def parts(name):
    """The loss at β = 0.5: NAME, or NAME:KIND for another feedback than its own."""
    name, _, kind = name.partition(":")
    return at_examined_beta(examinee(name, kind or None))


def end(name, sampler=OTHER, world=WORLD, feedback=FEEDBACK, **settings):
    return settled(Enumeration(parts(name).at(**settings), world, feedback, sampler))


def ends_at(expected, name, *samplers, world=WORLD, feedback=FEEDBACK, **settings):
    """Whether descent settles at log π = `expected` + a number per prompt, from each sampler."""
    found = [end(name, sampler, world, feedback, **settings) for sampler in samplers or (REF, OTHER)]
    wanted = expected.log_softmax(-1).exp()
    return all(one.settles and float((one.logps.exp() - wanted).abs().max()) < ATOL for one in found)


def constant(table):
    """Whether each prompt has one number."""
    return bool((table - table.mean(-1, keepdim=True)).abs().max() < 1e-6)


def runs_off(name, sampler=OTHER, feedback=FEEDBACK, on=None, **settings):
    """Whether log-ratios grow; and, if `on` (X, S) is given, whether exactly those responses keep probability."""
    found = end(name, sampler, feedback=feedback, **settings)
    left = left_at(name, sampler, feedback=feedback, **settings)
    return found.outcome == "runs off" and (on is None or torch.equal(left, on))


def left_at(name, sampler, **settings):
    """(X, S) which responses keep probability where training ends."""
    logps = end(name, sampler, **settings).logps
    return logps - logps.amax(-1, keepdim=True) > -12


def beaten_by(sampler):
    """(X, S) P(y beats a sample that is another response)."""
    others = DIFFERENT * sampler.exp()[:, None, :]
    return (FEEDBACK.preferences * others).sum(-1) / others.sum(-1)


def chosen_of(sampler):
    """(X, S) log-probability that a response is the chosen one of a pair of different samples, up to a number."""
    return sampler + ((FEEDBACK.preferences * DIFFERENT * sampler.exp()[:, None, :]).sum(-1)).log()


def wins(sampler):
    return preference_rewards(FEEDBACK.preferences, sampler)


# ---- two responses: the policy is one margin


def two_responses(p, ref=0.3):
    """One prompt with two responses of one token; the first wins with probability p."""
    ref_next = torch.tensor([[[ref, 1 - ref]]], dtype=F64).log()
    rewards = torch.tensor([[math.log(p / (1 - p)), 0.0]], dtype=F64)
    return SequenceWorld(ref_next, rewards, BETA, length=1)


def margin(name, p, outcome="settles", **settings):
    """u(y₁) − u(y₂), u = log π/π_ref, where training ends; None where it ends otherwise than expected."""
    world = two_responses(p)
    found = end(name, world.ref_logps, world, Feedback.of(world.rewards), **settings)
    gap = (found.logps - world.ref_logps)[0]
    return float(gap[0] - gap[1]) if found.outcome == outcome else None


def loss_at(name, p, gap, **settings):
    """The mean loss where log π(y₁) − log π(y₂) is `gap`."""
    world = two_responses(p)
    logps = torch.tensor([[gap, 0.0]], dtype=F64).log_softmax(-1)
    return float(
        Enumeration(parts(name).at(**settings), world, Feedback.of(world.rewards), world.ref_logps).loss(logps)
    )


def logit(p):
    return math.log(p / (1 - p))


def near(value, expected):
    return value is not None and math.isclose(value, expected, abs_tol=1e-6)


def dpop_margin(p, lam, ref=0.3):
    """The root of the derivative of dpop's mean loss in the margin: y₁ is favoured, so only y₂ has a shortfall s."""

    def slope(m):
        mass = ref * math.exp(m) + 1 - ref  # u(y₂) = −log(mass)
        s, ds = math.log(mass), ref * math.exp(m) / mass
        up = BETA * (m + lam * s)
        return -p / (1 + math.exp(BETA * m)) + (1 - p) * (1 + lam * ds) / (1 + math.exp(-up))

    return brentq(slope, 1e-9, 50, xtol=1e-13)


# ---- claims with a derivation of their own


def una_score():
    moved = all(ends_at(una_end(REF, REWARDS, BETA, sampler_logps=mu), "una-score", mu) for mu in (REF, OTHER))
    return moved and ends_at(BEST, "una-score", POLICY) and learned_values("una-score")


def learned_values(name, **settings):
    """Whether a learned V(x) leads to π*, and a c for all prompts to policies that depend on the sampler."""
    found = optima(examinee(name).at(**settings), independent=True)
    return (
        found.with_values.is_optimum
        and found.depends_on_sampler
        and not any(one.is_optimum for one in found.learned[:2])
    )


def stages(name):
    """The second stage, around the first one's end, ends at π_ref·exp(2r/β)."""
    first = end(name).logps
    second = SequenceWorld(token_policy(WORLD.tree, first), REWARDS, BETA, length=WORLD.tree.length)
    return ends_at(BEST, name) and ends_at(REF + 2 * REWARDS / BETA, name, world=second)


def dpop():
    smaller = [margin("dpop", 0.9, lam=lam) for lam in (0.0, 0.5, 2.0)]
    exact = [logit(0.9) / BETA, dpop_margin(0.9, 0.5), dpop_margin(0.9, 2.0)]
    ordered = exact[0] > exact[1] > exact[2] > 0
    return ends_at(BEST, "dpop", lam=0.0) and ordered and all(map(near, smaller, exact))


def beta_dpo():
    found = end("beta-dpo")
    batch = Enumeration(parts("beta-dpo"), WORLD, FEEDBACK, OTHER).arguments(found.logps)
    other = BETA - 2 * float(batch["running_gap"]) / float(batch["running_gap_sd"]) ** 2
    exact = ends_at(REF + REWARDS / other, "beta-dpo", OTHER)
    return exact and abs(other - BETA) > 0.1 and ends_at(BEST, "beta-dpo", filtering=0.0)


def per_token(name, base, **settings):
    """β·(log π − base)/|y| is the reward up to a number per prompt."""
    return all(
        (found := end(name, mu, **settings)).settles and constant(BETA * (found.logps - base) / LENGTHS - REWARDS)
        for mu in (REF, OTHER)
    )


def slic():
    delta, losses = 1.0, {gap / 10: loss_at("slic", 0.8, gap / 10, lam=0.1, delta=1.0) for gap in range(-50, 51)}
    imitates = end("slic", lam=1e4, delta=1.0).logps.exp() - chosen_of(OTHER).softmax(-1)
    return near(min(losses, key=losses.get), delta) and float(imitates.abs().max()) < 1e-4


def cpo():
    def distance(lam):
        return float((end("cpo", lam=lam).logps.exp() - chosen_of(OTHER).softmax(-1)).abs().max())

    nearer = distance(0.0) > distance(0.1) > distance(1.0) > distance(100.0)
    return ends_at(REWARDS / BETA, "cpo", lam=0.0) and nearer


def gpo():
    return (
        ends_at(BEST, "gpo")
        and ends_at(BEST, "gpo", function="savage")
        and ends_at(REF + REWARDS / (2 * BETA), "gpo", function="exponential")
        and all(ends_at(optimal_logps(REF, wins(mu), BETA / 2), "gpo", mu, function="squared") for mu in (REF, OTHER))
    )


def robust_dpo():
    noisy = FEEDBACK.noisy(0.1)
    clean = near(margin("robust-dpo", 0.8), logit((0.8 - 0.1) / 0.8) / BETA)
    return ends_at(BEST, "robust-dpo", feedback=noisy) and clean and margin("robust-dpo", 0.95, "runs off") is not None


def discopop():
    """At tau = 0.05 the equal pair falls on both sides of m = 0; at tau = 0.5 it rises."""
    tilt = logit(0.3)  # log π(y₁) − log π(y₂) at π_ref
    falls, rises = (
        [loss_at("discopop", 0.5, tilt + m, tau=tau) - loss_at("discopop", 0.5, tilt, tau=tau) for m in (-0.2, 0.2)]
        for tau in (0.05, 0.5)
    )
    return max(falls) < 0 < min(rises) and not ends_at(BEST, "discopop", OTHER)


def nca_pair():
    """At any β the derivatives in the log-ratios are in proportion to π, as Σ π = 1 asks."""
    found = end("nca-pair")
    u = found.logps - REF
    pairs = OTHER.exp()[:, :, None] * OTHER.exp()[:, None, :] * DIFFERENT
    won, lost = ((pairs * table).sum(-1) for table in (FEEDBACK.preferences, 1 - FEEDBACK.preferences))
    slope = -won * (-BETA * u).sigmoid() + (won + lost) / 2 * (BETA * u).sigmoid()
    return found.settles and constant(slope / found.logps.exp())


def sppo_hard():
    """A response that is in a pair with weight μ(1 − μ) is fitted to the mean of ±1/(2β)."""
    expected = []
    for mu in (REF, OTHER):
        weight = (mu + (-mu.exp()).log1p()).log_softmax(-1)
        expected.append((una_end(REF, beaten_by(mu) - 0.5, BETA, sampler_logps=weight), mu))
    return all(ends_at(policy, "sppo-hard", mu) for policy, mu in expected)


def bco():
    tree = WORLD.tree
    rewards = REWARDS[:1] - (OTHER[:1].exp() * REWARDS[:1]).sum()
    one = SequenceWorld(WORLD.ref_next_logps[:1], rewards, BETA, length=tree.length)
    shifted = SequenceWorld(WORLD.ref_next_logps[:1], rewards + 1, BETA, length=tree.length)
    centred = ends_at(one.optimum, "bco", OTHER[:1], world=one, feedback=Feedback.of(rewards))
    return centred and not ends_at(one.optimum, "bco", OTHER[:1], world=shifted, feedback=Feedback.of(rewards + 1))


def alpha_po():
    found, alpha = end("alpha-po", alpha=0.25, gamma=0.0), 0.25
    reward = BETA * (1 - (-alpha * found.logps / LENGTHS).exp()) / alpha
    return found.settles and constant(reward - REWARDS)


def una_measure():
    values = BETA * WORLD.log_partition[:, None]
    tables = {"logps": BEST, "ref_logps": REF, "scores": REWARDS, "baseline": values.expand_as(REF)}
    exact = (
        parts("una-measure")
        .at(measure="l1")
        .loss(**{name: table.flatten() for name, table in tables.items()}, beta=BETA, measure="l1")
    )
    return learned_values("una-measure", measure="mse") and float(exact.abs().max()) < 1e-12


def tdpo():
    values = policy_values(WORLD.tree, WORLD.ref_next_logps, last_token_rewards(WORLD.tree, REWARDS))
    return ends_at(WORLD.tree.sequence_logps(one_step_improvement(values, BETA)), "tdpo")


def rso():
    certain = FEEDBACK.certain()
    hinge = Enumeration(parts("rso").at(function="hinge_norm"), WORLD, certain, OTHER)
    ranks = REWARDS.argsort(-1).argsort(-1)
    wide, narrow = (float(hinge.loss((REF + gap * ranks / BETA).log_softmax(-1))) for gap in (1.0, 0.9))
    stays = runs_off("rso", feedback=certain, function="sigmoid_norm")
    return ends_at(BEST, "rso", function="sigmoid_norm") and stays and wide < 1e-12 < 1e-4 < narrow


def one_token():
    generator = torch.Generator().manual_seed(2)
    table, rewards = torch.randn(2, 2, 4, generator=generator, dtype=F64)
    return SequenceWorld(table.log_softmax(-1)[:, None], rewards, BETA, length=1)


def grpo():
    """K = 2: β·K/(K − 1) = 2β."""
    world = one_token()
    given = {"world": world, "feedback": Feedback.of(world.rewards), "scale_rewards": "none"}
    plain = optimal_logps(world.ref_logps, world.rewards, 2 * BETA, "forward_kl")
    weighted = world.ref_logps + world.rewards / (2 * BETA)
    return ends_at(weighted, "grpo", POLICY, **given) and ends_at(plain, "grpo", POLICY, **given, kl_estimate="plain")


def win_rates(mixture):
    """Feedback whose scores are P(y ≻ mixture)."""
    return Feedback(FEEDBACK.preferences, FEEDBACK.positive, wins(mixture), FEEDBACK.strengths)


CERTAIN = FEEDBACK.certain()
BEST_ALONE = REWARDS.amax(-1, keepdim=True) == REWARDS

CLAIMS = {
    "sft": lambda: ends_at(OTHER, "sft", OTHER),
    "una-pair": lambda: ends_at(BEST, "una-pair", REF, OTHER, POLICY),
    "una-binary-mse": lambda: learned_values("una-binary-mse"),
    "una-binary-bce": lambda: learned_values("una-binary-bce"),
    "una-score": una_score,
    "una-centred": lambda: ends_at(BEST, "una-centred"),
    "una-centred:labels": lambda: ends_at(BEST, "una-centred:labels"),
    "una-centred:pairs": lambda: ends_at(BEST, "una-centred:pairs"),
    "una-online": lambda: ends_at(BEST, "una-online", POLICY),
    "reinforce": lambda: ends_at(BEST, "reinforce", POLICY),
    "rloo": lambda: ends_at(BEST, "rloo", POLICY),
    "ipo": lambda: (
        all(ends_at(REF + wins(mu) / BETA, "ipo", mu) for mu in (REF, OTHER))
        and ends_at(nash_logps(FEEDBACK.preferences, REF, BETA), "ipo", POLICY)
    ),
    "cdpo": lambda: near(margin("cdpo", 0.8, label_smoothing=0.1), logit(0.9 * 0.8 + 0.1 * 0.2) / BETA),
    "f-dpo": lambda: (
        ends_at(BEST, "f-dpo")
        and all(ends_at(optimal_logps(REF, REWARDS, BETA, d), "f-dpo", divergence=d) for d in ("forward_kl", "js"))
    ),
    "iupo": lambda: all(
        ends_at(optimal_logps(REF, wins(mu), BETA, d), "iupo", mu, divergence=d)
        for d in ("forward_kl", "js")
        for mu in (REF, OTHER)
    ),
    "tr-dpo": lambda: stages("tr-dpo"),
    "dpop": dpop,
    "beta-dpo": beta_dpo,
    "gpo": gpo,
    "r-dpo": lambda: ends_at(REF + (REWARDS - 0.3 * LENGTHS) / BETA, "r-dpo", alpha=0.3),
    "sdpo": lambda: stages("sdpo"),
    "simpo": lambda: per_token("simpo", 0.0, gamma=0.0),
    "slic": slic,
    "orpo": lambda: ends_at(chosen_of(OTHER) - LENGTHS.log(), "orpo", OTHER, lam=0.0),
    "cpo": cpo,
    "rpo": lambda: (
        ends_at(BEST, "rpo")
        and all(ends_at(REF + 2 * REWARDS / BETA, "rpo", eta=2.0, distance=one) for one in DISTANCES)
    ),
    "rebel": lambda: ends_at(REF + 2 * REWARDS, "rebel", eta=2.0) and ends_at(REF + 5 * REWARDS, "rebel", eta=5.0),
    "odpo": lambda: ends_at(REF + 2 * REWARDS / BETA, "odpo"),  # scores are rewards here: r + s = 2r
    "reward-model": lambda: ends_at(REWARDS, "reward-model"),
    "reward-model:lists": lambda: ends_at(REWARDS, "reward-model:lists", OTHER),
    "reward-model-margin": lambda: ends_at(2 * REWARDS, "reward-model-margin"),
    "soft-reward-model": lambda: ends_at(REWARDS, "soft-reward-model"),
    "exo-pair": lambda: near(
        margin("exo-pair", 0.8, label_smoothing=0.05), (2 * 0.8 - 1) * math.log(0.95 / 0.05) / BETA
    ),
    "robust-dpo": robust_dpo,
    "discopop": discopop,
    "sigmoid-norm": lambda: per_token("sigmoid-norm", REF),
    "nca-pair": nca_pair,
    "sppo-hard": sppo_hard,
    "apo-zero": lambda: all(runs_off("apo-zero", mu, on=beaten_by(mu) > 0.5) for mu in (REF, OTHER)),
    "apo-down": lambda: runs_off("apo-down"),
    "bco": bco,
    "bco:pairs": lambda: near(margin("bco:pairs", 0.8), 2 * logit(0.8) / BETA),  # s is ± the log-odds of 0.8
    "alpha-po": alpha_po,
    "tpo": lambda: ends_at(REWARDS / BETA, "tpo"),
    "tpo:demos": lambda: ends_at(OTHER, "tpo:demos", OTHER),
    "tpo-l": lambda: per_token("tpo-l", 0.0, gamma=0.0),
    "tpo-l:demos": lambda: ends_at(OTHER, "tpo-l:demos", OTHER),
    "kto": lambda: (
        runs_off("kto", on=POSITIVE > 0.5) and not bool((left_at("kto", OTHER, beta=1.0) & (POSITIVE < 0.5)).any())
    ),
    "dro": lambda: ends_at(BEST, "dro"),
    "dro:labels": lambda: ends_at(REF + 2 * POSITIVE / BETA, "dro:labels"),
    "apo-zero-unpaired": lambda: runs_off("apo-zero-unpaired", on=POSITIVE > 0.5),
    "una-measure": una_measure,
    "npo": lambda: runs_off("npo", REF) and bool((left_at("npo", REF).sum(-1) == 1).all()),
    "gradient-ascent": lambda: runs_off("gradient-ascent"),
    "lipo": lambda: ends_at(BEST, "lipo", ranking="pair_logistic") and ends_at(BEST, "lipo", ranking="list_mle"),
    "token-dpo": lambda: ends_at(BEST, "token-dpo"),
    "tdpo": tdpo,
    "cringe": lambda: ends_at(OTHER + POSITIVE.log(), "cringe", OTHER, alpha=0.0),
    "ld-dpo": lambda: (
        ends_at(BEST, "ld-dpo", alpha=1.0)
        and near(margin("ld-dpo", 0.8), logit(0.8) / BETA)
        and not ends_at(BEST, "ld-dpo", OTHER)
    ),
    "wpo": lambda: ends_at(BEST, "wpo"),
    "iterative-dpo": lambda: (
        ends_at(BEST, "iterative-dpo") and runs_off("iterative-dpo", feedback=CERTAIN, on=BEST_ALONE)
    ),
    "self-rewarding": lambda: ends_at(BEST, "self-rewarding") and runs_off("self-rewarding", feedback=CERTAIN),
    "best-of-k": lambda: ends_at(OTHER, "best-of-k", OTHER),
    "rso": rso,
    "grpo": grpo,
    "nash-md": lambda: ends_at(REF + wins(OTHER) / BETA, "nash-md", POLICY, feedback=win_rates(OTHER)),
    "sppo": lambda: ends_at(
        una_end(OTHER, wins(OTHER) - 0.5, BETA, sampler_logps=OTHER), "sppo", OTHER, feedback=win_rates(OTHER)
    ),
    "dno": lambda: (
        all(ends_at(mu + REWARDS / BETA, "dno", mu) for mu in (REF, OTHER)) and runs_off("dno", feedback=CERTAIN)
    ),
}
"""NAME, or NAME:KIND for another feedback than its own -> whether the record's optimum is what is learned."""
NOT_OF_ONE_TABLE = {
    "aot": "compares a whole batch",
    "aot-unpaired": "compares a whole batch",
    "tdpo2": "no loss has its gradient",
    "rrhf": "its optimum is stated where no ranking is inverted",
    "d2o": "its optimum is stated for K = 1 and samples of a reference",
}
"""Methods whose `optimum` is about something else than a table of samples; tests of their own modules check it."""


def stated():
    """NAME or NAME:KIND of every optimum of a record."""
    for method in METHODS.values():
        for kind in method.optimum:
            yield method.name if kind == method.kinds[0] else f"{method.name}:{kind}"


def test_every_stated_optimum_is_checked_or_has_a_reason():
    assert {*stated()} == {*CLAIMS, *NOT_OF_ONE_TABLE}
    assert not {*CLAIMS} & {*NOT_OF_ONE_TABLE}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_a_method_learns_the_policy_that_its_record_states(name):
    assert CLAIMS[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CLAIMS if not METHODS[name.partition(":")[0]].on_policy_only])
def test_certificate_says_the_optimum_exactly_where_the_record_states_no_other_condition(name):
    method, _, kind = name.partition(":")
    text = METHODS[method].optimum[kind or METHODS[method].kinds[0]]
    found = learned_from(parts(name), WORLD, FEEDBACK, OTHER, FROM_OTHER)
    if re.match(r"π\*($|[,;:])", text):  # no condition stands before it
        assert found.is_optimum
    if found.is_optimum:
        assert "π*" in text.replace("not π*", "").replace("nearer to π*", "")
