"""Weighted sums of losses: value, gradient, signature, and what is refused."""

import inspect

import pytest
import torch

from una_ref.errors import InputError
from una_ref.methods import METHODS, weighted
from una_ref.methods.arguments import Need, needs, requires
from una_ref.methods.probe import example_arguments
from una_ref.training.config import Config
from una_ref.training.settings import resolve

DPO = METHODS["dpo"]


def gradient(loss, given, **kwargs):
    logps = {name: value.clone().requires_grad_() for name, value in given.items() if name.endswith("_logps")}
    asked = {name: value for name, value in (given | logps).items() if name in inspect.signature(loss).parameters}
    loss(**asked, **kwargs).sum().backward()
    return {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in logps.items()}


def test_gradient_of_a_sum_is_the_weighted_sum_of_the_gradients():
    total = weighted.combined(DPO, "dpo:0.8,ipo:0.5,sft:0.2").losses["pairs"]
    given = example_arguments(total, "pairs", 4)
    parts = [(0.8, DPO.loss), (0.5, METHODS["ipo"].loss), (0.2, weighted.sft_of_chosen)]
    found = gradient(total, given, beta=0.3)
    terms = [(w, gradient(f, given, **({"beta": 0.3} if f is not weighted.sft_of_chosen else {}))) for w, f in parts]
    for name in ("chosen_logps", "rejected_logps"):
        torch.testing.assert_close(found[name], sum(w * term[name] for w, term in terms))
        assert found[name].abs().min() > 1e-3


def test_sft_on_pairs_is_the_negative_log_likelihood_of_the_chosen_response():
    total = weighted.combined(DPO, "sft:2").losses["pairs"]
    logps = torch.tensor([-3.0, -0.5])
    assert total(chosen_logps=logps).tolist() == [6.0, 1.0]


def test_signature_is_the_union_and_states_what_a_run_computes():
    total = weighted.combined(DPO, "dpo:0.8,cdpo:0.5,simpo:1").losses["pairs"]
    assert set(inspect.signature(total).parameters) == {
        *("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"),
        *("beta", "label_smoothing", "chosen_lengths", "rejected_lengths", "gamma"),
    }
    assert needs([total]) == {Need.REFERENCE}
    assert needs([weighted.combined(DPO, "simpo:1,sft:0.1").losses["pairs"]]) == frozenset()
    # V(x) has a default in una-score; dro requires it, and so does their sum.
    total = weighted.combined(METHODS["una-score"], "una-score:1,dro:1").losses["scores"]
    assert requires(total, "baseline") and not requires(METHODS["una-score"].loss, "baseline")


def test_a_sum_has_a_loss_for_each_kind_of_feedback():
    both = weighted.combined(METHODS["kto"], "dpo:1,kto:0.5,sft:0.1")
    assert both.kinds == ("labels", "demos", "pairs")  # its own kind first
    given = example_arguments(METHODS["kto"].loss, "labels")
    torch.testing.assert_close(both.losses["labels"](**given), 0.5 * METHODS["kto"].loss(**given))
    torch.testing.assert_close(both.losses["demos"](logps=given["logps"]), -0.1 * given["logps"])


def test_a_weight_that_is_left_out_is_one_and_names_may_be_aliases():
    found = [(name, method.name, weight) for name, method, weight in weighted.terms("dpo, sft:0.2")]
    assert found == [("dpo", "una-pair", 1.0), ("sft", "sft", 0.2)]  # as it was written, for messages
    assert weighted.combined(DPO, "") is DPO


def test_reference_is_needed_if_a_summed_loss_names_it():
    assert Config(method="simpo", losses="simpo:1,dpo:1", loss_kwargs={"beta": 1.0}).record.needs_reference
    assert not METHODS["simpo"].needs_reference


@pytest.mark.parametrize(
    ("method", "losses", "message"),
    [
        ("dpo", "dop:1", r"losses: expected methods with weights, .* got 'dop'; did you mean .*dpo"),
        ("dpo", "dpo:x", "losses: dpo: expected a positive weight, got 'x'"),
        ("dpo", "dpo:0", "losses: dpo: expected a positive weight, got '0'"),
        ("dpo", "dpo:-1", "losses: dpo: expected a positive weight, got '-1'"),
        ("dpo", "dpo:inf", "losses: dpo: expected a positive weight, got 'inf'"),
        ("dpo", "dpo:1,una-pair:1", "losses: una-pair: expected each method once, got it twice"),
        ("dpo", "dpo:1,ppo:1", "losses: expected methods that train a policy on responses, got ppo"),
        ("dpo", "dpo:1,reward-model:1", "losses: expected methods that train a policy on responses, got reward-model"),
        ("ppo", "dpo:1", "losses: expected a method that trains a policy on responses, got ppo"),
        ("una-score", "una-score:1,rloo:1", "expected methods on given responses, got rloo, which samples"),
        ("dpo", "dpo:1,simpo:1", r"beta: expected a value, since the defaults differ: dpo \(0.1\), simpo \(2.0\)"),
    ],
)
def test_bad_sums_are_refused(method, losses, message):
    with pytest.raises(InputError, match=message):
        Config(method=method, losses=losses)


def test_a_shared_hyperparameter_that_is_set_reaches_every_loss():
    config = resolve("dpo", ["gamma=0", "losses=dpo:1,simpo:1", "beta=0.7"])  # gamma is known before losses is read
    assert config.loss_kwargs == {"gamma": 0.0, "beta": 0.7}
    assert resolve("dpo", config.settings()) == config
    with pytest.raises(InputError, match=r"alpha: unknown key of dpo"):
        resolve("dpo", ["losses=dpo:1,sft:1", "alpha=0.5"])


def test_form_of_a_sum_is_refused():
    with pytest.raises(InputError, match="form: a sum of losses has no printed form"):
        Config(method="dpo", losses="dpo:1,sft:1", form="printed")


@pytest.mark.parametrize(
    ("name", "text", "invariance"),
    [("dpo", "dpo,sft", "yes"), ("dpo", "dpo,apo-zero", "no"), ("una-online", "una-online,sft", "in expectation")],
)
def test_a_sum_ignores_a_reward_offset_only_if_all_its_terms_do(name, text, invariance):
    assert weighted.combined(METHODS[name], text).invariance == invariance


def test_a_sum_has_the_notes_of_its_terms_alone():
    assert weighted.combined(METHODS["lipo"], "lipo,una-score").note == METHODS["lipo"].note != ""
    assert weighted.combined(METHODS["lipo"], "una-score").note == ""


def test_a_sum_has_no_optimum_or_name_of_its_first_method():
    found = weighted.combined(METHODS["ipo"], "ipo,sft")
    assert METHODS["ipo"].trl and METHODS["tdpo"].optimum
    assert METHODS["ipo"].composes and METHODS["ipo"].printed
    assert not found.composes and found.printed is found.released is None
    assert not found.trl and not found.reductions and not weighted.combined(METHODS["tdpo"], "tdpo,sft").optimum
