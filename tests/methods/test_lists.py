"""Losses on ranked lists: by hand, what they reduce to, masks, ties, and what they learn from unlimited data."""

import itertools
import math

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.lists import RANKINGS, lipo, lipo_printed, pro, pro_printed, rrhf
from una_ref.methods.pairs import simpo, una_pair
from una_ref.methods.shapes import logistic
from una_ref.methods.singles import una_binary_bce, una_score
from una_ref.theory import TableWorld, fixed_point

F64 = torch.float64
LISTS = [lipo, lipo_printed, rrhf, pro, pro_printed, METHODS["d2o"].loss]
BETA = 0.5


def table(*rows):
    return torch.tensor(rows, dtype=F64)


def rewarded(rewards, scores, beta=0.5):
    """One list with these implicit rewards and scores."""
    s, ref = table(rewards), table([-3.0] * len(rewards))
    mask = torch.ones_like(s, dtype=torch.bool)
    return {"logps": ref + s / beta, "ref_logps": ref, "scores": table(scores), "mask": mask, "beta": beta}


def free(p, scores, lengths=None):
    """One list with these mean log-probabilities and scores, without a reference."""
    lengths = torch.tensor([lengths or [1] * len(p)])
    mask = torch.ones_like(lengths, dtype=torch.bool)
    return {"logps": table(p) * lengths, "lengths": lengths, "scores": table(scores), "mask": mask}


def softplus(x):
    return math.log1p(math.exp(x))


def test_lambda_loss_by_hand():
    # ψ = (1, 0), s = (3, 0): gains 1 and 0, discounts 1/ln 2 and 1/ln 3. Δ = 1/ln 2 − 1/ln 3 = 0.5325 (ES26).
    # The loss is Δ·log(1 + e^−3) = 0.5325·0.04859 = 0.02587. Inverted, s = (0, 3): 0.5325·3.04859 = 1.62324 (ES25).
    right, inverted = rewarded([3, 0], [1, 0]), rewarded([0, 3], [1, 0])
    assert lipo(**right).item() == pytest.approx(0.02587, abs=5e-6)
    assert lipo(**inverted).item() == pytest.approx(1.62324, abs=5e-6)
    assert lipo_printed(**inverted) < lipo_printed(**right)  # with the printed sign the inverted ranking wins


def test_lambda_loss_of_three_responses_by_hand():
    # ψ = (2, 0, 1), s = (0.5, 1, 0). Gains 3, 0, 1; ranks by s 2, 1, 3.
    # Pairs (1,2): 3·(1/ln 2 − 1/ln 3); (1,3): 2·(1/ln 3 − 1/ln 4); (3,2): 1·(1/ln 2 − 1/ln 4).
    d1, d2, d3 = (1 / math.log(1 + rank) for rank in (1, 2, 3))
    expected = 3 * (d1 - d2) * softplus(0.5) + 2 * (d2 - d3) * softplus(-0.5) + (d1 - d3) * softplus(1)
    assert lipo(**rewarded([0.5, 1, 0], [2, 0, 1])).item() == pytest.approx(expected)


def test_other_ranking_losses_by_hand():
    # ψ = (1, 0, 0.5), s = (2, 1, 0.5): the order is 1, 3, 2.
    arguments = rewarded([2, 1, 0.5], [1, 0, 0.5])
    z = math.exp(2) + math.exp(1) + math.exp(0.5)
    tail = math.exp(1) + math.exp(0.5)
    weights = [math.exp(psi) / (math.e + 1 + math.exp(0.5)) for psi in (1, 0, 0.5)]
    expected = {
        "pair_logistic": softplus(-1) + softplus(-1.5) + softplus(0.5),
        "pair_hinge": 0 + 0 + 1.5,
        "list_mle": (math.log(z) - 2) + (math.log(tail) - 0.5),
        "point_mse": 1 + 1 + 0,
        "point_sigmoid": softplus(-2) + softplus(1) + 0.5 * (softplus(-0.5) + softplus(0.5)),
        "softmax": math.log(z) - sum(w * s for w, s in zip(weights, (2, 1, 0.5), strict=True)),
    }
    assert set(expected) == set(RANKINGS) - {"lambda"}
    for ranking, value in expected.items():
        assert lipo(**arguments, ranking=ranking).item() == pytest.approx(value), ranking


def test_rrhf_by_hand():
    # p = (−1, −2, −0.5), ψ = (3, 2, 1). Inverted: (1,3) by 0.5 and (2,3) by 1.5. SFT on the first: 4 tokens, 4 nats.
    assert rrhf(**free([-1, -2, -0.5], [3, 2, 1], [4, 2, 2])).item() == pytest.approx(2 + 4)
    assert rrhf(**free([-1, -2, -0.5], [3, 2, 1], [4, 2, 2]), alpha=100).item() == pytest.approx(200 + 4)


def test_rrhf_has_no_ranking_gradient_in_the_right_order():
    arguments = free([-1, -1.001, -3], [3, 2, 1], [2, 2, 2])
    logps = arguments["logps"].requires_grad_()
    (gradient,) = torch.autograd.grad(rrhf(**arguments).sum(), logps)
    assert gradient.tolist() == [[-1, 0, 0]]


def test_pro_corrected_and_printed_by_hand():
    # p = (0.5, −0.5, 0), ψ = (2, 1, −1) (ES28). Task 1: distances 1 and 3, logits 0.5·3, −0.5·1, 0·3.
    # Task 2: distance 2, logits −0.5·2 and 0. log(1 + e^−2 + e^−1.5) + log(1 + e) = 0.30636 + 1.31326 = 1.61962.
    # As printed: task 1 has T = (min(1, 2), 1, 2), so that the logits are 0.5, −0.5, 0; task 2 has T = −2 twice, so
    # that they are 0.25 and 0. log(1 + e^−1 + e^−0.5) + log(1 + e^−0.25) = 0.68027 + 0.57594 = 1.25621.
    arguments = free([0.5, -0.5, 0], [2, 1, -1])
    sft = -0.5
    assert pro(**arguments).item() - sft == pytest.approx(1.61962, abs=1e-5)
    assert pro_printed(**arguments).item() - sft == pytest.approx(1.25621, abs=1e-5)
    assert pro(**arguments, alpha=0).item() == pytest.approx(sft)


def test_pro_without_distances_is_the_plackett_luce_likelihood():
    # Eq. 51 in the order 1, 3, 2: log(e^0.5 + e^−0.5 + 1) − 0.5 + log(e^−0.5 + 1) − 0.
    value = pro(**free([0.5, -0.5, 0], [2, -1, 1]), distances="none").item() + 0.5
    first = math.log(math.exp(0.5) + math.exp(-0.5) + 1) - 0.5
    assert value == pytest.approx(first + math.log(math.exp(-0.5) + 1))


def random_list(loss, random_arguments, size=6, responses=2):
    """Random arguments with every list full, cut to some responses."""
    arguments = random_arguments(loss, size)
    arguments["mask"] = torch.ones(size, responses, dtype=torch.bool)
    return {name: x[:, :responses] if torch.is_tensor(x) and x.dim() else x for name, x in arguments.items()}


def sides(arguments, scores, *names):
    """chosen_… and rejected_… of lists of two, by their scores."""
    chosen = scores.argmax(-1, keepdim=True)
    found = {}
    for name in names:
        ref, base = ("ref_", name[4:]) if name.startswith("ref_") else ("", name)
        for side, place in (("chosen", chosen), ("rejected", 1 - chosen)):
            found[f"{ref}{side}_{base}"] = arguments[name].gather(1, place)[:, 0]
    return found


@pytest.mark.parametrize("ranking", ["pair_logistic", "list_mle", "lambda"])
def test_lipo_on_two_responses_is_dpo(ranking, random_arguments):
    arguments = random_list(lipo, random_arguments)
    pairs = sides(arguments, arguments["scores"], "logps", "ref_logps")
    dpo = una_pair(**pairs, beta=arguments["beta"])
    if ranking == "lambda":
        gains = 2 ** arguments["scores"]
        dpo = dpo * (gains[:, 0] - gains[:, 1]).abs() * (1 / math.log(2) - 1 / math.log(3))
    torch.testing.assert_close(lipo(**arguments, ranking=ranking), dpo, rtol=1e-13, atol=1e-13)


def test_pro_without_distances_on_two_responses_is_simpo_without_margin_and_sft(random_arguments):
    arguments = random_list(pro, random_arguments)
    pairs = sides(arguments, arguments["scores"], "logps", "lengths")
    expected = 0.7 * simpo(**pairs, beta=1.0, gamma=0.0) - pairs["chosen_logps"]
    torch.testing.assert_close(pro(**arguments, alpha=0.7, distances="none"), expected, rtol=1e-13, atol=1e-13)


def test_pro_with_distances_on_two_responses_scales_the_margin_by_the_distance(random_arguments):
    arguments = random_list(pro, random_arguments)
    pairs = sides(arguments, arguments["scores"], "logps", "lengths", "scores")
    p = {side: pairs[f"{side}_logps"] / pairs[f"{side}_lengths"] for side in ("chosen", "rejected")}
    margin = (pairs["chosen_scores"] - pairs["rejected_scores"]) * (p["chosen"] - p["rejected"])
    torch.testing.assert_close(pro(**arguments) + pairs["chosen_logps"], logistic(margin), rtol=1e-13, atol=1e-13)


def test_list_mle_is_pros_first_equation_with_implicit_rewards(random_arguments):
    arguments = random_arguments(lipo)
    reward = arguments["beta"] * (arguments["logps"] - arguments["ref_logps"])
    lengths = torch.ones_like(arguments["mask"], dtype=torch.long)
    shared = {"logps": reward, "lengths": lengths, "scores": arguments["scores"], "mask": arguments["mask"]}
    align = pro(**shared, alpha=1.0, distances="none") - pro(**shared, alpha=0.0)
    torch.testing.assert_close(lipo(**arguments, ranking="list_mle"), align, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("ranking", "single"), [("point_mse", una_score), ("point_sigmoid", una_binary_bce)])
def test_point_losses_are_unas_summed_over_the_list(ranking, single, random_arguments):
    arguments = random_arguments(lipo)
    beta, mask = arguments.pop("beta"), arguments.pop("mask")
    flat = {name: x[mask] for name, x in arguments.items()}
    if single is una_binary_bce:
        flat["labels"] = flat.pop("scores")
    values = torch.zeros(mask.shape, dtype=F64).masked_scatter(mask, single(**flat, beta=beta)).sum(-1)
    torch.testing.assert_close(lipo(**arguments, mask=mask, beta=beta, ranking=ranking), values)


def forms(loss):
    """The loss with each of its string hyper-parameters."""
    if loss in (lipo, lipo_printed):
        return [{"ranking": ranking} for ranking in RANKINGS]
    return [{"distances": "scores"}, {"distances": "none"}] if loss in (pro, pro_printed) else [{}]


EVERY_FORM = [(loss, form) for loss in LISTS for form in forms(loss)]
every_form = pytest.mark.parametrize(
    ("loss", "form"), EVERY_FORM, ids=[" ".join([loss.__name__, *form.values()]) for loss, form in EVERY_FORM]
)


@every_form
def test_masked_places_change_nothing_even_if_nan(loss, form, random_arguments):
    arguments = random_arguments(loss) | form
    mask = arguments["mask"]
    assert not mask.all()
    plain = {name: x.clone().requires_grad_() for name, x in arguments.items() if "logps" in name}
    dirty = {name: torch.where(mask, x.detach(), torch.nan).requires_grad_() for name, x in plain.items()}
    spoilt = {"scores": torch.where(mask, arguments["scores"], torch.nan)}
    if "lengths" in arguments:
        spoilt["lengths"] = torch.where(mask, arguments["lengths"], 0)
    values, others = loss(**arguments | plain), loss(**arguments | dirty | spoilt)
    torch.testing.assert_close(others, values, rtol=0, atol=0)
    for name, x in plain.items():
        (gradient,) = torch.autograd.grad(values.sum(), x, retain_graph=True)
        (other,) = torch.autograd.grad(others.sum(), dirty[name], retain_graph=True)
        torch.testing.assert_close(other, gradient, rtol=0, atol=0)
        assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any()


@every_form
def test_padding_a_list_changes_nothing(loss, form, random_arguments):
    arguments = random_list(loss, random_arguments, responses=3) | form
    padded = {
        name: torch.cat([x, torch.zeros_like(x[:, :1])], dim=1) if torch.is_tensor(x) and x.dim() else x
        for name, x in arguments.items()
    }
    torch.testing.assert_close(loss(**padded), loss(**arguments), rtol=1e-14, atol=1e-14)


@every_form
def test_order_of_the_responses_in_a_list_changes_nothing(loss, form, random_arguments):
    arguments = random_list(loss, random_arguments, responses=3) | form
    order = torch.tensor([2, 0, 1])
    moved = {name: x[:, order] if torch.is_tensor(x) and x.dim() else x for name, x in arguments.items()}
    torch.testing.assert_close(loss(**moved), loss(**arguments), rtol=1e-13, atol=1e-13)


@every_form
def test_gradients_of_every_form_are_right(loss, form, random_arguments):
    arguments = random_arguments(loss) | form
    logps = arguments["logps"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(**arguments | {"logps": x}), logps)


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_values_and_gradients_are_finite_at_log_ratios_of_ten_thousand(loss, form, dtype, random_arguments):
    arguments = random_arguments(loss, dtype=dtype) | form
    spread = torch.tensor([1e4, -1e4, 0.0], dtype=dtype)
    for place in itertools.permutations(range(3)):
        logps = spread[list(place)].expand(6, 3).clone().requires_grad_()
        values = loss(**arguments | {"logps": logps})
        values.sum().backward()
        assert values.isfinite().all() and logps.grad.isfinite().all()


@pytest.mark.parametrize("loss", LISTS)
def test_list_of_one_response_is_refused_by_name(loss, random_arguments):
    arguments = random_arguments(loss)
    arguments["mask"][3] = torch.tensor([True, False, False])
    name = loss.__name__.removesuffix("_printed")
    with pytest.raises(ValueError, match=f"^{name}: a list must have two or more responses to compare, got one of 1$"):
        loss(**arguments)


@pytest.mark.parametrize("loss", [*LISTS, METHODS["reward-model"].losses["lists"]])
def test_flat_tensors_are_refused_with_the_shape_of_lists(loss, random_arguments):
    flat = {name: x[0] for name, x in random_arguments(loss).items() if torch.is_tensor(x)}
    with pytest.raises(ValueError, match=r"lists \(G, K\), G prompts .* got .*\(3,\).*Fix: x\[None\] makes one list"):
        loss(**flat)


def test_hyperparameters_of_list_losses_are_checked(random_arguments):
    with pytest.raises(ValueError, match="ranking must be one of lambda, list_mle, .* got 'best'"):
        lipo(**random_arguments(lipo), ranking="best")
    with pytest.raises(ValueError, match=r"lipo: scores must be in \[0, 1\] for ranking=point_sigmoid, got 0 to 2"):
        lipo(**rewarded([1, 0], [2, 0]), ranking="point_sigmoid")
    for loss in (rrhf, pro, pro_printed):
        with pytest.raises(ValueError, match="alpha must be at least 0, got -1"):
            loss(**random_arguments(loss), alpha=-1)
    for loss in (pro, pro_printed):
        with pytest.raises(ValueError, match="distances must be one of scores, none, got 'far'"):
            loss(**random_arguments(loss), distances="far")


def test_equal_scores_are_not_compared_in_pairs():
    for ranking in ("lambda", "pair_logistic", "pair_hinge"):
        assert lipo(**rewarded([1, 2, 3], [1, 1, 1]), ranking=ranking).item() == 0
        tied = lipo(**rewarded([0.5, 2, 0], [1, 1, 0]), ranking=ranking)
        swapped = lipo(**rewarded([2, 0.5, 0], [1, 1, 0]), ranking=ranking)
        torch.testing.assert_close(tied, swapped)


def test_equal_scores_keep_their_order_in_a_ranking():
    # The first of two equals is ahead: in list_mle, in PRO's first equation, and as the response that is imitated.
    tied, strict = rewarded([1, 2, 0], [1, 1, 0]), rewarded([1, 2, 0], [2, 1, 0])
    torch.testing.assert_close(lipo(**tied, ranking="list_mle"), lipo(**strict, ranking="list_mle"))
    for form in ("none", "scores"):
        assert pro(**free([-1, -2], [1, 1]), alpha=0, distances=form).item() == 1
    torch.testing.assert_close(
        pro(**free([-1, -2], [1, 1]), distances="none"), pro(**free([-1, -2], [2, 1]), distances="none")
    )
    # With distances a tie is a logit of 0 on both sides: log 2 and no gradient.
    arguments = free([-1, -2], [1, 1])
    align = pro(**arguments) - pro(**arguments, alpha=0)
    assert align.item() == pytest.approx(math.log(2))
    assert rrhf(**free([-1, -0.5], [1, 1])).item() == 1


def test_lambda_loss_has_a_gradient_at_the_reference():
    # All implicit rewards are 0 there. Ranks that were equal as well would make every weight 0, and no run would start.
    arguments = rewarded([0, 0, 0], [0, 2, 1])
    logps = arguments["logps"].requires_grad_()
    (gradient,) = torch.autograd.grad(lipo(**arguments).sum(), logps)
    assert gradient[0, 1] < 0 < gradient[0, 2] < gradient[0, 0]  # scores (0, 2, 1): descent raises the best alone


def rankings(world, size):
    """Every ordered list of `size` distinct responses of every prompt, best first, and its probability.

    Lists are drawn uniformly and ranked by Plackett–Luce with the world's rewards. (L, 1 + size): prompt, responses.
    """
    lines, weights = [], []
    for x in range(len(world.rewards)):
        for line in itertools.permutations(range(world.rewards.shape[1]), size):
            r = world.rewards[x, list(line)]
            lines.append((x, *line))
            weights.append(math.exp(float(sum(r[k] - r[k:].logsumexp(0) for k in range(size)))))
    return torch.tensor(lines), torch.tensor(weights, dtype=F64)


def population_of(world, loss, lines, weights, scores=None, reference=True, **settings):
    """log π (X, Y) -> the loss's mean over ranked lists; scores are K − 1, …, 0 or a table (X, Y)."""
    x, y = lines[:, :1], lines[:, 1:]
    size = y.shape[1]
    by_rank = torch.arange(size - 1, -1, -1, dtype=F64).expand(len(lines), size)
    given = {"scores": by_rank if scores is None else scores[x, y], "mask": torch.ones_like(y, dtype=torch.bool)}
    given |= {"ref_logps": world.ref_logps[x, y], "beta": world.beta} if reference else {"lengths": torch.ones_like(y)}
    return lambda logps: (weights * loss(logps=logps[x, y], **given, **settings)).sum()


def small_world():
    generator = torch.Generator().manual_seed(5)
    ref, rewards = torch.randn(2, 2, 4, generator=generator, dtype=F64)
    return TableWorld(ref.log_softmax(-1), rewards, BETA)


def same(logps, other):
    torch.testing.assert_close(logps.exp(), other.exp(), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("ranking", "size"), [("pair_logistic", 2), ("pair_logistic", 3), ("list_mle", 2), ("list_mle", 4), ("lambda", 2)]
)
def test_lipo_learns_the_optimum_from_plackett_luce_rankings(ranking, size):
    world = small_world()
    population = population_of(world, lipo, *rankings(world, size), ranking=ranking)
    same(fixed_point(population, world.ref_logps), world.optimum)


@pytest.mark.parametrize("offset", [-3.0, 0.0])
def test_lipo_softmax_learns_the_optimum_from_scores(offset):
    # softmax(ψ) = softmax(s) on every list if s and ψ differ by one number for each prompt: β·log Z(x).
    world = small_world()
    population = population_of(world, lipo, *rankings(world, 3), scores=world.rewards + offset, ranking="softmax")
    same(fixed_point(population, world.ref_logps), world.optimum)


def test_lambda_weights_of_longer_lists_move_the_optimum():
    # A pair's weight depends on the ranking that it comes from, so that π* is not stationary. For two responses it is.
    world = small_world()
    slopes = {}
    for size in (2, 3):
        logits = world.optimum.clone().requires_grad_()
        population = population_of(world, lipo, *rankings(world, size))
        (gradient,) = torch.autograd.grad(population(logits.log_softmax(-1)), logits)
        slopes[size] = float(gradient.abs().max())
    assert slopes[2] < 1e-12 and slopes[3] > 0.01


@pytest.mark.parametrize("alpha", [0.0, 1.0, 10.0])
def test_pro_without_distances_learns_the_ranking_probabilities(alpha):
    # One token a response, lists of all responses, Plackett–Luce with rewards r. The best response then has softmax(r),
    # which both terms ask for. There is no reference and no β.
    world = small_world()
    lines, weights = rankings(world, 4)
    population = population_of(world, pro, lines, weights, reference=False, alpha=alpha, distances="none")
    same(fixed_point(population, world.ref_logps), world.rewards.log_softmax(-1))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_rrhf_learns_the_distribution_of_the_best_where_no_ranking_is_inverted(alpha):
    # Two independent uniform draws y, y' ranked by reward. The k-th worst of 4 is the better with (2k − 1)/16, so that
    # the better of two responses is more probable, and the hinge at 0 is silent near the minimum.
    world = small_world()
    lines = torch.tensor([(x, y, z) for x in range(2) for y in range(4) for z in range(4)])
    weights = torch.full((len(lines),), 1 / 16, dtype=F64)
    place = world.rewards.argsort(-1).argsort(-1)
    expected = ((2 * place + 1) / 16).to(F64).log()
    population = population_of(world, rrhf, lines, weights, world.rewards, reference=False, alpha=alpha)
    same(fixed_point(population, world.ref_logps), expected)
