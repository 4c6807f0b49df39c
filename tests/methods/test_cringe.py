"""CRINGE: values by hand, the expectation against samples, its gradient, and what it learns."""

import math

import pytest
import torch
from scipy.optimize import root

from una_ref.methods.cringe import cringe, cringe_pairs, cringe_sampled
from una_ref.methods.singles import sft
from una_ref.theory import fixed_point

F64 = torch.float64


def one_token(label=0.0, count=1):
    """Responses of the token with the highest of the scores 4, 3, 2, 1, 0 (ES15)."""
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0], dtype=F64)
    return {
        "logps": torch.full((count,), -2.0, dtype=F64),
        "logits": scores.expand(count, 1, 5),
        "token_ids": torch.zeros(count, 1, dtype=torch.int64),
        "labels": torch.full((count,), label, dtype=F64),
        "mask": torch.ones(count, 1, dtype=torch.bool),
    }


def test_cringe_by_hand_and_the_number_of_rivals():
    # Rivals 3, 2, 1, 0 against 4: Σ softmax·log(1 + e^gap) = 1.7439 with k = 4. The survey's example has k − 1 of them:
    # 3, 2, 1 give 1.6686 (ES15). One rival: log(1 + e) = 1.3133.
    for k, expected in ((4, 1.7439), (3, 1.6686), (1, 1.3133), (99, 1.7439)):
        assert cringe(**one_token(), top_k=k).item() == pytest.approx(expected, abs=5e-5)
    gaps = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    expected = ((-gaps).softmax(0) * (1 + gaps.exp()).log()).sum().item()
    assert cringe(**one_token(), top_k=3).item() == pytest.approx(expected, abs=1e-15)


def test_token_that_is_not_among_the_best_has_the_k_best_as_rivals():
    # The token with score 0: rivals 4 and 3 of k = 2, gaps −4 and −3.
    arguments = one_token() | {"token_ids": torch.tensor([[4]])}
    weight = 1 / (1 + math.exp(-1))
    expected = weight * math.log(1 + math.exp(-4)) + (1 - weight) * math.log(1 + math.exp(-3))
    assert cringe(**arguments, top_k=2).item() == pytest.approx(expected, abs=1e-15)


def test_good_response_is_imitated_and_a_soft_label_mixes():
    good, bad = (cringe(**one_token(label), alpha=0.5).item() for label in (1.0, 0.0))
    assert good == sft(logps=one_token()["logps"]).item() == 2.0
    assert bad == pytest.approx(0.5 * cringe(**one_token()).item())
    assert cringe(**one_token(0.25), alpha=0.5).item() == pytest.approx(0.25 * good + 0.75 * bad)
    booleans = one_token() | {"labels": torch.tensor([True])}
    assert cringe(**booleans).item() == 2.0


def test_only_differences_of_scores_count():
    arguments = one_token()
    moved = arguments | {"logits": arguments["logits"] + 100}
    torch.testing.assert_close(cringe(**moved), cringe(**arguments))


@pytest.mark.parametrize("label", [0.0, 0.25, 1.0])
def test_cringe_sampled_has_the_expected_value_and_gradient(label):
    count = 20_000
    arguments = one_token(label, count) | {"top_k": 3}
    generator = torch.Generator().manual_seed(0)
    expected, mean = [], []
    for loss, found, more in ((cringe, expected, {}), (cringe_sampled, mean, {"generator": generator})):
        scores = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0], dtype=F64, requires_grad=True)
        values = loss(**arguments | {"logits": scores.expand(count, 1, 5)}, **more)
        found += [values.mean().item(), *torch.autograd.grad(values.mean(), scores)[0].tolist()]
    assert mean == pytest.approx(expected, abs=4 * 0.7 / math.sqrt(count))  # the standard deviation is below 0.7
    assert (mean != expected) == (label < 1) and mean[-1] == expected[-1] == 0  # token 4 is no rival


def test_gradient_holds_the_weights_of_the_rivals_constant(random_arguments):
    arguments = random_arguments(cringe) | {"alpha": 0.7, "top_k": 2}
    logits = arguments["logits"].requires_grad_()
    (found,) = torch.autograd.grad(cringe(**arguments).sum(), logits)
    expected = torch.zeros_like(found)
    for b, t in arguments["mask"].nonzero().tolist():
        own, scores = int(arguments["token_ids"][b, t]), logits[b, t].tolist()
        rivals = sorted((v for v in range(5) if v != own), key=lambda v: -scores[v])[:2]
        total = sum(math.exp(scores[v]) for v in rivals)
        for v in rivals:
            pull = math.exp(scores[v]) / total / (1 + math.exp(scores[v] - scores[own]))
            pull *= 0.7 * (1 - arguments["labels"][b].item())
            expected[b, t, own] += pull
            expected[b, t, v] -= pull
    torch.testing.assert_close(found, expected)


# ---- pairs


def test_pairwise_cringe_by_hand():
    # log π is −2 and −1, b = 0, τ = 2: the gate is σ(½) = 0.6225, and L_bin is 2 + 0.5·1.7439 = 2.8720.
    single = one_token()
    value = cringe_pairs(
        chosen_logps=single["logps"],
        rejected_logps=single["logps"] + 1,
        **{f"rejected_{name}": single[name] for name in ("logits", "token_ids", "mask")},
        alpha=0.5,
        tau=2.0,
    )
    contrast = cringe(**single).item()
    assert value.item() == pytest.approx((2 + 0.5 * contrast) / (1 + math.exp(-0.5)), abs=1e-14)


def test_gate_is_open_for_wrong_pairs_and_closed_for_right_ones(random_arguments):
    arguments = random_arguments(cringe_pairs)
    wrong = arguments | {"chosen_logps": arguments["rejected_logps"] - 1000}
    right = arguments | {"chosen_logps": arguments["rejected_logps"] + 1000}
    names = ("logits", "token_ids", "mask")
    single = {name: arguments[f"rejected_{name}"] for name in names} | {"labels": torch.zeros(6, dtype=F64)}
    contrast = cringe(logps=arguments["rejected_logps"], **single)
    torch.testing.assert_close(cringe_pairs(**wrong), contrast - wrong["chosen_logps"])
    assert cringe_pairs(**right).abs().max() < 1e-30


def test_gradient_flows_through_the_gate(random_arguments):
    arguments = random_arguments(cringe_pairs)
    inputs = [arguments[name].requires_grad_() for name in ("chosen_logps", "rejected_logps")]

    def of_logps(chosen, rejected):
        return cringe_pairs(**arguments | {"chosen_logps": chosen, "rejected_logps": rejected})

    assert torch.autograd.gradcheck(of_logps, inputs)
    (found,) = torch.autograd.grad(of_logps(*inputs).sum(), inputs[1])
    assert (found != 0).all()


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        (cringe, {"alpha": -0.5}, "alpha must be at least 0, got -0.5"),
        (cringe, {"top_k": 0}, "top_k must be a whole number of at least 1, got 0"),
        (cringe, {"top_k": 1.5}, "top_k must be a whole number of at least 1, got 1.5"),
        (cringe_pairs, {"tau": 0}, "tau must be positive, got 0"),
    ],
)
def test_bad_hyperparameter_is_refused(loss, settings, message, random_arguments):
    with pytest.raises(ValueError, match=message):
        loss(**random_arguments(loss), **settings)


# ---- what it learns


def population(alpha, good, sampler):
    """log π (1, V) -> the mean loss over responses of one token with P(label = 1) = `good`."""
    count = len(good)

    def value(logps):
        total = 0.0
        for label, shares in ((1.0, good), (0.0, 1 - good)):
            losses = cringe(
                logps=logps[0],
                logits=logps.expand(count, 1, count),
                token_ids=torch.arange(count)[:, None],
                labels=torch.full((count,), label, dtype=F64),
                mask=torch.ones(count, 1, dtype=torch.bool),
                alpha=alpha,
                top_k=3,  # all others: with fewer, the rivals change abruptly and the gradient need not have a zero
            )
            total = total + (sampler * shares * losses).sum()
        return total

    return value


def test_cringe_without_contrast_learns_samples_weighted_by_how_good_they_are():
    good = torch.tensor([0.9, 0.6, 0.3, 0.1], dtype=F64)
    sampler = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    uniform = torch.full((1, 4), math.log(0.25), dtype=F64)
    filtered = (sampler * good) / (sampler * good).sum()
    fitted = fixed_point(population(0.0, good, sampler), uniform)[0].exp()
    torch.testing.assert_close(fitted, filtered, rtol=0, atol=1e-8)

    def slope(free):  # with constant weights it is the gradient of no loss: a zero, not a minimum, is looked for
        logits = torch.cat([torch.from_numpy(free), torch.zeros(1, dtype=F64)])[None].requires_grad_()
        value = population(1.0, good, sampler)(logits.log_softmax(-1))
        return torch.autograd.grad(value, logits)[0][0, :-1].numpy()

    found = root(slope, [0.0, 0.0, 0.0], tol=1e-10)
    assert found.success
    contrasted = torch.tensor([*found.x, 0.0], dtype=F64).softmax(-1)
    assert (contrasted * good).sum() > (filtered * good).sum() + 0.05
