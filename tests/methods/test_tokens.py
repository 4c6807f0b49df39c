"""Pair losses on tokens: values by hand, gradients, reductions to DPO, masked tokens and population optima."""

import inspect
import math

import pytest
import torch
from scipy.optimize import root

from una_ref.methods import METHODS
from una_ref.methods.arguments import PAIRED, argument
from una_ref.methods.credit import sequential_kl, tdpo2_reward, token_credits
from una_ref.methods.pairs import una_pair
from una_ref.methods.tokens import ld_dpo, likelihood_weights, tdpo, tdpo2, tdpo2_printed, token_dpo, wpo
from una_ref.theory import PrefixTree, SequenceWorld, bradley_terry, fixed_point
from una_ref.theory.token_mdp import (
    credits,
    following,
    last_token_rewards,
    one_step_improvement,
    policy_values,
    soft_values,
    token_policy,
)
from una_ref.theory.token_populations import over_sequence_pairs, sequence_arguments

F64 = torch.float64
METHODS_ON_TOKENS = ("token-dpo", "tdpo", "tdpo2", "cringe", "ld-dpo", "wpo")
TOKEN_LOSSES = [
    pytest.param(loss, id=f"{name}:{kind}") for name in METHODS_ON_TOKENS for kind, loss in METHODS[name].losses.items()
]


def trained(arguments):
    """The floating-point arguments of the policy, which then require a gradient."""
    return {
        name: x.requires_grad_()
        for name, x in arguments.items()
        if torch.is_tensor(x) and x.is_floating_point() and not name.startswith("ref_") and name != "labels"
    }


def gradients(loss, arguments):
    """The value of a loss and its gradient in each argument of the policy, zero where it does not depend on it."""
    inputs = trained(arguments)
    values = loss(**arguments)
    found = torch.autograd.grad(values.sum(), list(inputs.values()), allow_unused=True)
    return values.detach(), {
        name: torch.zeros_like(x) if gradient is None else gradient
        for (name, x), gradient in zip(inputs.items(), found, strict=True)
    }


def small_world():
    """One prompt, sequences of at most 2 tokens out of 3: seven of them, with random rewards."""
    torch.manual_seed(3)
    tree = PrefixTree.of(3, 2)
    ref = torch.randn(1, len(tree.prefixes), 3, dtype=F64).log_softmax(-1)
    return SequenceWorld(ref, torch.randn(1, len(tree), dtype=F64), 0.5, length=2)


def pairs_of_sequences(loss, world, sampler=None, **settings):
    """Its population loss under Bradley–Terry preferences, with uniformly sampled sequences unless given."""
    sampler = torch.full_like(world.rewards, 1 / len(world.tree)) if sampler is None else sampler
    return over_sequence_pairs(loss, world, bradley_terry(world.rewards), sampler, **settings)


def logit_gradient(population, logps):
    """The gradient of a population loss in the logits of the sequences' policy."""
    logits = logps.clone().requires_grad_()
    return torch.autograd.grad(population(logits.log_softmax(-1)), logits)[0]


def zero_of(slope, start):
    """The policy (1, S) where a gradient in logits is 0, also where it is the gradient of no loss."""

    def of_free(free):  # the last logit is held at 0
        logits = torch.cat([torch.from_numpy(free), torch.zeros(1, dtype=F64)])[None]
        return slope(logits.log_softmax(-1))[0, :-1].numpy()

    found = root(of_free, (start - start[:, -1:])[0, :-1].numpy(), tol=1e-12)
    assert found.success, found.message
    return torch.cat([torch.from_numpy(found.x), torch.zeros(1, dtype=F64)])[None].log_softmax(-1)


# ---- what every loss on tokens does


@pytest.mark.parametrize("loss", TOKEN_LOSSES)
@pytest.mark.parametrize("filling", [math.nan, math.inf, 7.0])
def test_what_is_outside_the_mask_changes_neither_value_nor_gradient(loss, filling, random_arguments):
    plain = random_arguments(loss)
    side_of = {name: PAIRED[name][1] for name in plain if name in PAIRED}
    filled = {}
    for name, x in plain.items():
        kind = argument(name).kind if argument(name) else ""
        mask = plain.get(f"{side_of[name]}_mask" if name in side_of else "mask")
        outside = kind in ("token", "distribution") and not name.endswith("mask")
        if outside:
            place = ~mask[..., None] if kind == "distribution" else ~mask
            x = x.masked_fill(place, -100 if name.endswith("token_ids") else filling)
        filled[name] = x
    value, slopes = gradients(loss, plain)
    other, other_slopes = gradients(loss, filled)
    assert torch.equal(value, other)
    for name, slope in slopes.items():
        assert torch.equal(slope, other_slopes[name]), name
    assert any((slope != 0).any() for slope in slopes.values())


@pytest.mark.parametrize("loss", TOKEN_LOSSES)
def test_token_that_both_models_rule_out_is_ignored(loss, random_arguments):
    # Suppressed tokens have log-probability −∞ under the policy and the reference. None of them is in a response.
    arguments = random_arguments(loss)
    for name in [name for name in arguments if name.endswith("logits")]:
        arguments[name] = torch.cat([arguments[name], torch.full((6, 3, 1), -torch.inf, dtype=F64)], -1)
    value, slopes = gradients(loss, arguments)
    assert value.isfinite().all() and all(slope.isfinite().all() for slope in slopes.values())
    shorter = {name: x[..., :-1] if name.endswith("logits") else x for name, x in arguments.items()}
    torch.testing.assert_close(value, loss(**shorter).detach())


@pytest.mark.parametrize("loss", [tdpo2, ld_dpo])
def test_negative_alpha_is_refused(loss, random_arguments):
    with pytest.raises(ValueError, match=r"alpha must be at least 0.* got -1"):
        loss(**random_arguments(loss), alpha=-1)


def test_alpha_of_ld_dpo_above_one_is_refused(random_arguments):
    with pytest.raises(ValueError, match="alpha must be at least 0 and at most 1, got 1.5"):
        ld_dpo(**random_arguments(ld_dpo), alpha=1.5)


# ---- token-dpo


def test_token_dpo_by_hand():
    # Credits 0.1·(2, −1) and 0.1·(0.5): the margin is 0.1 − 0.05, and −log σ(0.05) = 0.6685. The last token of the
    # rejected response is not its own.
    chosen, rejected = torch.tensor([[-1.0, -4.0]], dtype=F64), torch.tensor([[-1.0, 9.0]], dtype=F64)
    value = token_dpo(
        chosen_token_logps=chosen,
        rejected_token_logps=rejected,
        ref_chosen_token_logps=torch.tensor([[-3.0, -3.0]], dtype=F64),
        ref_rejected_token_logps=torch.tensor([[-1.5, 0.0]], dtype=F64),
        chosen_mask=torch.tensor([[True, True]]),
        rejected_mask=torch.tensor([[True, False]]),
        beta=0.1,
    )
    assert value.item() == pytest.approx(math.log(1 + math.exp(-0.05)), abs=1e-15)
    assert value.item() == pytest.approx(0.6685, abs=5e-5)


def test_token_dpo_is_dpo_in_value_and_gradient(random_arguments):
    arguments = random_arguments(token_dpo)
    value, slopes = gradients(token_dpo, arguments)
    masks = {side: arguments[f"{side}_mask"] for side in ("chosen", "rejected")}
    sums = {
        name.replace("token_", ""): (x.detach() * masks[PAIRED[name][1]]).sum(1)
        for name, x in arguments.items()
        if name.endswith("logps")
    }
    expected, of_sums = gradients(una_pair, sums | {"beta": arguments["beta"]})
    torch.testing.assert_close(value, expected, rtol=1e-15, atol=1e-15)
    for side, mask in masks.items():  # every token of a response has the gradient of its sum
        torch.testing.assert_close(slopes[f"{side}_token_logps"], of_sums[f"{side}_logps"][:, None] * mask)


def test_token_credits_add_up_to_the_implicit_reward_and_follow_the_soft_values():
    world = small_world()
    values = soft_values(world.tree, world.ref_next_logps, last_token_rewards(world.tree, world.rewards), world.beta)
    known = sequence_arguments(world.tree, values.next_logps[0], world.ref_next_logps[0])
    found = token_credits(known["token_logps"], known["ref_token_logps"], known["mask"], world.beta)
    table = credits(values.next_logps, world.ref_next_logps, world.beta)[0]
    expected = table[world.tree.steps.clamp(min=0), world.tree.sequences.clamp(min=0)] * known["mask"]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), world.rewards[0] - values.v[0, 0])
    first = following(world.tree, values.v)[0, 0, 1] - values.v[0, 0]  # letter 1 leads to that value
    assert found[world.tree.index((1, 2)), 0].item() == pytest.approx(first.item())


def test_token_dpo_learns_the_optimum():
    world = small_world()
    fitted = fixed_point(pairs_of_sequences(token_dpo, world, beta=world.beta), world.ref_logps)
    torch.testing.assert_close(fitted, world.optimum, rtol=0, atol=1e-8)


# ---- TDPO


def one_token_pairs(chosen_kl=0.2, rejected_kl=0.7, gap=0.7, count=1):
    """Pairs of one token out of two, with given KL(π_ref ‖ π) and u(y_w) − u(y_l) = `gap`.

    π_ref is (½, ½). The formula is read with free log-probabilities: log π = log ½ − KL at both tokens.
    """
    half, one = torch.full((count, 1, 2), math.log(0.5), dtype=F64), torch.ones(count, dtype=F64)
    mask = torch.ones(count, 1, dtype=torch.bool)
    return {
        "chosen_logps": gap * one,
        "rejected_logps": 0 * one,
        "ref_chosen_logps": 0 * one,
        "ref_rejected_logps": 0 * one,
        "chosen_logits": half - chosen_kl,
        "rejected_logits": half - rejected_kl,
        "ref_chosen_logits": half,
        "ref_rejected_logits": half.clone(),
        "chosen_mask": mask,
        "rejected_mask": mask,
        "beta": 0.1,
    }


def partials(loss, **settings):
    """∂L by log π(y_w), log π(y_l), SeqKL(y_w), SeqKL(y_l). As KL = −½Σ log π + …, ∂L/∂log π(v) is −½·∂L/∂KL."""
    _, slopes = gradients(loss, one_token_pairs() | settings)
    logps = [slopes[f"{side}_logps"].item() for side in ("chosen", "rejected")]
    return logps + [-2 * slopes[f"{side}_logits"][0, 0, 0].item() for side in ("chosen", "rejected")]


def test_tdpo_values_by_hand():
    # β = 0.1: u = 0.07, δ = 0.1·(0.7 − 0.2) = 0.05. −log σ(0.02) = 0.6832, and with α = 0.5 −log σ(0.045) = 0.6709.
    assert tdpo(**one_token_pairs()).item() == pytest.approx(math.log(1 + math.exp(-0.02)), abs=1e-15)
    assert tdpo2(**one_token_pairs()).item() == pytest.approx(math.log(1 + math.exp(-0.045)), abs=1e-15)
    assert tdpo2(**one_token_pairs(), alpha=1).item() == pytest.approx(tdpo(**one_token_pairs()).item())


def test_tdpo_partial_derivatives_by_hand():
    # TDPO1: β·σ(−0.02) = 0.0495 for all four. TDPO2: β·σ(−0.045) = 0.0489; α times it for SeqKL(y_l); 0 for SeqKL(y_w),
    # where log π(y_w) keeps its gradient (ES13). As the survey prints it, log π(y_w) has none either.
    assert partials(tdpo) == pytest.approx([-0.0495, 0.0495, -0.0495, 0.0495], abs=5e-5)
    assert partials(tdpo2) == pytest.approx([-0.0489, 0.0489, 0, 0.0244], abs=5e-5)
    assert partials(tdpo2_printed) == pytest.approx([0, 0.0495, 0, 0.0495], abs=5e-5)


def test_tdpo_reduces_to_dpo(random_arguments):
    arguments = random_arguments(tdpo2)
    logps = {name: x for name, x in arguments.items() if name.endswith("logps") or name == "beta"}
    torch.testing.assert_close(tdpo2(**arguments, alpha=0), una_pair(**logps), rtol=0, atol=0)
    equal = arguments | {"rejected_logits": arguments["chosen_logits"], "rejected_mask": arguments["chosen_mask"]}
    equal |= {"ref_rejected_logits": arguments["ref_chosen_logits"]}
    torch.testing.assert_close(tdpo(**equal), una_pair(**logps))  # δ is 0
    assert (tdpo(**arguments) - una_pair(**logps)).abs().min() > 1e-3


def test_sequential_kl_is_the_forward_divergence(random_arguments):
    arguments = random_arguments(tdpo)
    policy, ref, mask = (arguments[f"{name}"] for name in ("chosen_logits", "ref_chosen_logits", "chosen_mask"))
    found = sequential_kl(policy, ref, mask)
    expected = [
        sum(
            math.exp(q) * (q - p)
            for t in range(3)
            if mask[b, t]
            for p, q in zip(policy[b, t].tolist(), ref[b, t].tolist(), strict=True)
        )
        for b in range(6)
    ]
    assert found.tolist() == pytest.approx(expected)
    assert (sequential_kl(ref, policy, mask) - found).abs().min() > 1e-3


def test_tdpo2_gradient_holds_the_chosen_kl_constant(random_arguments):
    arguments = random_arguments(tdpo2) | {"alpha": 0.3}
    _, slopes = gradients(tdpo2, arguments)
    plain = {name: x.detach() if torch.is_tensor(x) else x for name, x in arguments.items()}
    kept = sequential_kl(plain["chosen_logits"], plain["ref_chosen_logits"], plain["chosen_mask"])

    def formula(**given):
        beta, rejected_kl = (
            given["beta"],
            sequential_kl(given["rejected_logits"], given["ref_rejected_logits"], given["rejected_mask"]),
        )
        gap = given["chosen_logps"] - given["ref_chosen_logps"] - given["rejected_logps"] + given["ref_rejected_logps"]
        return -torch.nn.functional.logsigmoid(beta * (gap - given["alpha"] * (rejected_kl - kept)))

    value, expected = gradients(formula, plain)
    torch.testing.assert_close(value, tdpo2(**plain).detach())
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, expected[name])
    assert (slopes["chosen_logits"] == 0).all() and (slopes["rejected_logits"] != 0).any()


def test_tdpo_learns_the_one_step_improvement_of_the_reference():
    world = small_world()
    plain = policy_values(world.tree, world.ref_next_logps, last_token_rewards(world.tree, world.rewards))
    improved = world.sequence_logps(one_step_improvement(plain, world.beta))
    fitted = fixed_point(pairs_of_sequences(tdpo, world, beta=world.beta), world.ref_logps)
    torch.testing.assert_close(fitted, improved, rtol=0, atol=1e-8)
    assert world.metrics(fitted)["regret"] > 0.01  # it is not π*


def test_tdpo2_still_lowers_the_divergences_where_its_rewards_fit():
    # Where the rewards fit, an ordinary likelihood has gradient 0. Of the pairs (y_w, y_l) and (y_l, y_w) with weights
    # p·σ(−m) = p(1 − p) each, the held term leaves Σ p(1 − p)·αβ·∇SeqKL(y_w): a pull towards π_ref.
    world, alpha = small_world(), 0.5

    def likelihood(**given):
        rewards = [
            tdpo2_reward(
                *(given[name.format(side)] for name in ("{}_logps", "ref_{}_logps", "{}_logits", "ref_{}_logits")),
                given[f"{side}_mask"],
                world.beta,
                alpha,
            )
            for side in ("chosen", "rejected")
        ]
        return -torch.nn.functional.logsigmoid(rewards[0] - rewards[1])

    likelihood.__signature__ = inspect.signature(tdpo)
    fit = fixed_point(pairs_of_sequences(likelihood, world), world.ref_logps)
    preferences = bradley_terry(world.rewards)[0]
    shares = 2 * (preferences * preferences.T).fill_diagonal_(0).sum(1) / len(world.tree) ** 2

    def divergences(logps):
        known = sequence_arguments(world.tree, token_policy(world.tree, logps)[0], world.ref_next_logps[0])
        kls = sequential_kl(known["logits"], known["ref_logits"], known["mask"])
        return (shares * alpha * world.beta * kls).sum()

    slope = logit_gradient(pairs_of_sequences(tdpo2, world, beta=world.beta, alpha=alpha), fit)
    torch.testing.assert_close(slope, logit_gradient(divergences, fit), rtol=0, atol=1e-10)
    assert slope.abs().max() > 1e-3
    assert logit_gradient(pairs_of_sequences(likelihood, world), fit).abs().max() < 1e-10


# ---- LD-DPO


def unequal_pair():
    """Three chosen tokens with log-ratios 1, 2 and 4; one rejected token with log-ratio 0.5."""
    rows = {"chosen_token_logps": [1.0, 2.0, 4.0], "rejected_token_logps": [0.5, 0.0, 0.0]}
    arguments = {name: torch.tensor([row], dtype=F64) for name, row in rows.items()}
    arguments |= {f"ref_{name}": torch.zeros_like(x) for name, x in arguments.items()}
    masks = {"chosen_mask": [True] * 3, "rejected_mask": [True, False, False]}
    return arguments | {name: torch.tensor([row]) for name, row in masks.items()} | {"beta": 0.1}


@pytest.mark.parametrize(("alpha", "margin"), [(0.0, 0.05), (0.5, 0.35), (1.0, 0.65)])
def test_ld_dpo_by_hand(alpha, margin):
    # One token is shared: the chosen reward is 0.1·(1 + α·(2 + 4)), the rejected one 0.05.
    assert ld_dpo(**unequal_pair(), alpha=alpha).item() == pytest.approx(math.log(1 + math.exp(-margin)), abs=1e-15)


def test_ld_dpo_reduces_to_dpo(random_arguments):
    arguments = random_arguments(ld_dpo)
    arguments["rejected_mask"] = arguments["rejected_mask"].flip(0)  # pairs of unequal length
    torch.testing.assert_close(ld_dpo(**arguments, alpha=1.0), token_dpo(**arguments))
    assert (ld_dpo(**arguments, alpha=0.5) - token_dpo(**arguments)).abs().max() > 1e-3
    equal = arguments | {"rejected_mask": arguments["chosen_mask"]}
    torch.testing.assert_close(ld_dpo(**equal, alpha=0.3), token_dpo(**equal))


def test_ld_dpo_learns_the_optimum_from_responses_of_one_length_only():
    world = small_world()
    longest = (world.lengths == world.tree.length).double()
    slopes = {
        (alpha, equal): logit_gradient(
            pairs_of_sequences(
                ld_dpo, world, longest[None] / longest.sum() if equal else None, beta=world.beta, alpha=alpha
            ),
            world.optimum,
        )
        .abs()
        .max()
        for alpha in (0.5, 1.0)
        for equal in (True, False)
    }
    assert max(slopes[0.5, True], slopes[1.0, True], slopes[1.0, False]) < 1e-14 < 1e-3 < slopes[0.5, False]
    fitted = fixed_point(pairs_of_sequences(ld_dpo, world, beta=world.beta, alpha=0.5), world.ref_logps)
    assert world.metrics(fitted)["regret"] > 1e-3


# ---- WPO


def test_weight_of_a_response_by_hand():
    # π = (0.6, 0.4): Σ π² = 0.52. Tokens 0 and 1: ½·(log 0.6 + log 0.4) − log 0.52, so √0.24/0.52 = 0.9421.
    logits = torch.tensor([[[0.6, 0.4]] * 3], dtype=F64).log()
    mask = torch.tensor([[True, True, False]])
    found = likelihood_weights(logits, torch.tensor([[0, 1, 0]]), mask)
    assert found.item() == pytest.approx(math.sqrt(0.24) / 0.52, abs=1e-15)
    assert found.item() == pytest.approx(0.9421, abs=5e-5)


def test_response_that_is_typical_of_a_uniform_policy_has_weight_one():
    logits = torch.zeros(2, 3, 7, dtype=F64).log_softmax(-1)
    ids = torch.tensor([[1, 2, 3], [6, 0, 0]])
    found = likelihood_weights(logits, ids, torch.ones(2, 3, dtype=torch.bool))
    assert found.tolist() == pytest.approx([1.0, 1.0])


def test_wpo_is_weighted_dpo_with_constant_weights(random_arguments):
    arguments = random_arguments(wpo)
    value, slopes = gradients(wpo, arguments)
    logps = {name: x.detach() for name, x in arguments.items() if name.endswith("logps")}
    plain, of_dpo = gradients(una_pair, logps | {"beta": arguments["beta"]})
    weights = [
        likelihood_weights(*(arguments[f"{side}_{name}"] for name in ("logits", "token_ids", "mask")))
        for side in ("chosen", "rejected")
    ]
    torch.testing.assert_close(value, weights[0] * weights[1] * plain)
    for side in ("chosen", "rejected"):
        torch.testing.assert_close(slopes[f"{side}_logps"], weights[0] * weights[1] * of_dpo[f"{side}_logps"])
        assert (slopes[f"{side}_logits"] == 0).all()


def test_wpo_rests_at_the_optimum_only():
    world = small_world()
    population = pairs_of_sequences(wpo, world, beta=world.beta)
    assert logit_gradient(population, world.optimum).abs().max() < 1e-14
    assert logit_gradient(population, world.ref_logps).abs().max() > 1e-2
    logps = zero_of(lambda logps: logit_gradient(population, logps), world.ref_logps)
    torch.testing.assert_close(logps, world.optimum, rtol=0, atol=1e-8)
