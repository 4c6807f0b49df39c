"""What each method learns on a small world is what its record says; and the ends that are known by hand."""

import pytest
import torch

from una_ref.examine.enumeration import Enumeration, at_examined_beta, standard_setting
from una_ref.examine.optima import FROM_OTHER, FROM_POLICY, FROM_REFERENCE, optima
from una_ref.examine.robustness import robustness
from una_ref.examine.settling import settled
from una_ref.examine.signature import examinee
from una_ref.methods import METHODS


def learned(loss, **settings):
    """Setting -> what a loss learns from each sampler."""
    found = optima(examinee(loss).at(**settings), independent=True)
    return dict(zip((FROM_REFERENCE, FROM_OTHER, FROM_POLICY), found.learned, strict=True)), found


# ---- ends known by hand


def test_dpo_learns_the_optimum_from_any_sampler_and_runs_off_under_certain_preferences(own):
    found, section = learned(own.rewritten_dpo)
    assert all(one.is_optimum and one.regret < 1e-9 for one in found.values())
    assert section.depends_on_sampler is False and section.beta == 0.5
    certain = robustness(examinee(own.rewritten_dpo), independent=True).certain
    assert certain.outcome == "runs off" and certain.kept == "the best response of each prompt"


def test_ipo_learns_its_own_optimum_which_depends_on_the_sampler_and_nash_on_policy():
    found, section = learned("ipo")
    for name in (FROM_REFERENCE, FROM_OTHER):
        assert found[name].policy.same and found[name].policy.name.startswith("the optimum of IPO")
    assert found[FROM_POLICY].policy.same and found[FROM_POLICY].policy.name == "the Nash policy of β"
    assert section.depends_on_sampler
    assert robustness(examinee("ipo"), independent=True).certain.outcome == "settles"


def test_una_score_learns_its_fixed_point_and_the_optimum_with_a_learned_value(own):
    found, section = learned("una-score")
    assert found[FROM_OTHER].policy.name == "the optimum of UNA's Eq. 10 without a baseline"
    assert found[FROM_OTHER].policy.same and found[FROM_POLICY].is_optimum
    assert section.with_values.is_optimum and section.offset_moves
    without, section = learned(own.squared_without_values)
    assert without[FROM_OTHER].policy.same and not without[FROM_OTHER].is_optimum and section.with_values is None
    with_, section = learned(own.squared_with_values)
    assert with_[FROM_OTHER].is_optimum and section.offset_moves is False


def test_a_hinge_has_a_kink_and_no_point_without_gradient(own):
    found, section = learned(own.hinge)
    assert found[FROM_OTHER].outcome == "unsettled" and found[FROM_OTHER].policy is None
    assert section.beta is None and "the loss names no β" in section.sentences()[0]


def test_a_fixed_beta_is_found_in_the_optimum():
    def fixed(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        gap = chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps
        return -torch.nn.functional.logsigmoid(0.8 * gap)

    policy = learned(fixed)[0][FROM_OTHER].policy
    assert policy.same and policy.name == "π* of β = 0.8"


def test_a_forgotten_reference_learns_the_optimum_of_a_uniform_one(own):
    policy = learned(own.forgotten_reference)[0][FROM_OTHER].policy
    assert policy.same and policy.name == "the policy ∝ exp(r/β), which is π* of a uniform reference"


def test_a_flipped_sign_learns_the_optimum_of_minus_the_reward(own):
    end = learned(own.flipped_dpo)[0][FROM_OTHER]
    world, _, _ = standard_setting()
    assert end.outcome == "settles" and not end.policy.same and end.regret > 1
    _, sampler, feedback = standard_setting()
    logps = settled(Enumeration(at_examined_beta(examinee(own.flipped_dpo)), world, feedback, sampler)).logps
    expected = (world.ref_logps - world.rewards / world.beta).log_softmax(-1)
    torch.testing.assert_close(logps.exp(), expected.exp(), rtol=0, atol=1e-8)


def test_sft_learns_what_it_is_given_and_stays_where_its_own_samples_are():
    found, _ = learned("sft")
    assert found[FROM_OTHER].policy.name == "the distribution of the sampled responses"
    assert found[FROM_POLICY].outcome == "stays"


def test_what_a_run_makes_by_rule_or_a_whole_batch_has_no_population():
    assert "a run makes advantages" in optima(examinee("ppo"), independent=True).sentences()[0]
    assert "compares all examples" in optima(examinee("aot"), independent=False).sentences()[0]
    assert robustness(examinee("ppo"), independent=True).sentences() == []


# ---- the records


def where(name, kind=None, **settings):
    subject = examinee(name, kind).at(**settings)
    found = optima(subject, independent=True)
    return dict(zip((FROM_REFERENCE, FROM_OTHER, FROM_POLICY), found.learned, strict=True)), subject


def is_optimum(name, *samplers, **settings):
    found, _ = where(name, **settings)
    return all(found[sampler].is_optimum for sampler in samplers or (FROM_REFERENCE, FROM_OTHER))


def is_called(name, text, sampler=FROM_OTHER, **settings):
    found, _ = where(name, **settings)
    policy = found[sampler].policy
    return policy is not None and policy.same and policy.name.startswith(text)


def runs_off(name, sampler=FROM_OTHER, **settings):
    found, _ = where(name, **settings)
    return found[sampler].outcome == "runs off"


def is_other(name, sampler=FROM_OTHER, **settings):
    found, _ = where(name, **settings)
    return not found[sampler].is_optimum and found[sampler].regret > 1e-6


CLAIMS = {
    "una-pair": lambda: is_optimum("una-pair"),
    "una-centred": lambda: is_optimum("una-centred") and is_optimum("una-centred", kind="labels"),
    "una-online": lambda: is_optimum("una-online", FROM_POLICY),
    "reinforce": lambda: is_optimum("reinforce", FROM_POLICY),
    "rloo": lambda: is_optimum("rloo", FROM_POLICY),
    "dpop": lambda: is_other("dpop") and is_optimum("dpop", lam=0.0),
    "beta-dpo": lambda: is_called("beta-dpo", "π* of β = ", filtering=0.0) or is_optimum("beta-dpo", filtering=0.0),
    "gpo": lambda: (
        is_optimum("gpo")
        and is_optimum("gpo", function="savage")
        and is_called("gpo", "π* of β = 1", function="exponential")
        and is_called("gpo", "the optimum of IPO at β = 0.25", function="squared")
    ),
    "r-dpo": lambda: is_called("r-dpo", "π* for the reward r -0.3·|y|, at β = 0.5", alpha=0.3),
    "cpo": lambda: is_other("cpo") and is_called("cpo", "the policy ∝ exp(r/β)", lam=0.0),
    "tpo": lambda: is_called("tpo", "the policy ∝ exp(r/β)"),
    "rpo": lambda: is_optimum("rpo") and is_called("rpo", "π* of β = 0.25", eta=2.0),
    "rebel": lambda: is_called("rebel", "π* of β = 0.5", eta=2.0) or is_optimum("rebel", eta=2.0),
    "odpo": lambda: is_called("odpo", "π* of β = 0.25"),  # scores are rewards here: r + s = 2r
    "exo-pair": lambda: is_other("exo-pair"),
    "robust-dpo": lambda: robustness(examinee("robust-dpo"), independent=True).noisy.is_optimum,
    "discopop": lambda: is_other("discopop"),
    "orpo": lambda: is_other("orpo"),
    "slic": lambda: is_other("slic"),
    "apo-zero": lambda: runs_off("apo-zero") and runs_off("apo-zero", FROM_REFERENCE),
    "apo-zero-unpaired": lambda: runs_off("apo-zero-unpaired"),
    "apo-down": lambda: runs_off("apo-down"),
    "kto": lambda: where("kto")[0][FROM_OTHER].kept == "the responses with P(positive) above ½",
    "dro": lambda: is_optimum("dro"),
    "una-measure": lambda: optima(examinee("una-measure").at(measure="mse"), independent=True).with_values.is_optimum,
    "gradient-ascent": lambda: runs_off("gradient-ascent"),
    "npo": lambda: runs_off("npo", FROM_REFERENCE),
    "lipo": lambda: is_optimum("lipo", ranking="pair_logistic") and is_optimum("lipo", ranking="list_mle"),
    "token-dpo": lambda: is_optimum("token-dpo"),
    "tdpo": lambda: is_other("tdpo"),
    "ld-dpo": lambda: is_other("ld-dpo") and is_optimum("ld-dpo", alpha=1.0),
    "wpo": lambda: is_optimum("wpo"),
    "nash-md": lambda: is_other("nash-md", FROM_REFERENCE),
    "sppo": lambda: is_other("sppo", FROM_REFERENCE),
    "dno": lambda: is_optimum("dno", FROM_REFERENCE) and is_other("dno"),
    "reward-model": lambda: is_called("reward-model", "the policy ∝ exp(r), the reward up to a number"),
    "soft-reward-model": lambda: is_called("soft-reward-model", "the policy ∝ exp(r), the reward up to a number"),
    "reward-model-margin": lambda: is_other("reward-model-margin"),
    "iterative-dpo": lambda: robustness(examinee("iterative-dpo"), independent=True).certain.outcome == "runs off",
    "self-rewarding": lambda: robustness(examinee("self-rewarding"), independent=True).certain.outcome == "runs off",
    "bco": lambda: is_other("bco"),
    "rso": lambda: is_optimum("rso", function="sigmoid_norm"),
    "sigmoid-norm": lambda: is_other("sigmoid-norm"),
    "nca-pair": lambda: is_other("nca-pair"),
    "sppo-hard": lambda: is_other("sppo-hard"),
}
"""Method -> whether what it learns is as its record says, as far as a name or an outcome shows it."""
NOT_OF_ONE_TABLE = {
    "aot": "compares a whole batch",
    "aot-unpaired": "compares a whole batch",
    "tr-dpo": "its stages move the reference",
    "sdpo": "its stages move the reference",
    "best-of-k": "its sampler keeps the best of K",
    "grpo": "its optimum is stated for one-token responses",
    "tdpo2": "no loss has its gradient",
    "cringe": "its optimum at alpha = 0 is that of weighted samples",
    "rrhf": "its optimum is stated where no ranking is inverted",
    "d2o": "its optimum is stated for K = 1 and samples of a reference",
    "alpha-po": "its optimum is stated at gamma = 0, in an implicit form",
    "tpo-l": "its optimum is that of simpo",
}
"""Methods whose `optimum` is about something else than one table of samples; tests of their own modules check it."""


def test_every_record_with_an_optimum_is_checked_or_has_a_reason():
    stated = {method.name for method in METHODS.values() if method.optimum}
    assert stated <= {*CLAIMS, *NOT_OF_ONE_TABLE}
    assert not {*CLAIMS} & {*NOT_OF_ONE_TABLE}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_method_learns_is_what_its_record_says(name):
    assert CLAIMS[name]()
